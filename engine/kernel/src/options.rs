//! Options: what can be set, declared once.
//!
//! A declaration by [`options!`](crate::options) names each option with its type, unit, range, default, aliases and
//! an example. All else comes from that: the struct, its reading from a [`Table`], and what may not be shown. So do
//! errors with the nearest key and the place of a value, and the tables that `thalweg connectors` and the page of
//! docs print.
//!
//! ```
//! use std::time::Duration;
//! use thalweg_kernel::options::{Options, Origin, Table};
//!
//! thalweg_kernel::options! {
//!     /// How to reach the server.
//!     #[derive(Debug)]
//!     pub struct ServerOptions {
//!         /// Where it is.
//!         #[example = "db.example.org"]
//!         pub host: String,
//!         /// Connections at a time.
//!         #[alias = "connections"]
//!         #[unit = "connections"]
//!         #[range(1, 64)]
//!         pub connections_max: u16 = 4,
//!         /// How long it may take to answer.
//!         pub timeout: Duration = Duration::from_secs(5),
//!     }
//! }
//!
//! let read = |pairs: &[(&'static str, &str)]| {
//!     let pairs = pairs.iter().map(|(key, text)| (*key, (*text).to_owned()));
//!     ServerOptions::read(&Table::of_pairs("server", &Origin::Here, pairs)?)
//! };
//! let options = read(&[("host", "h"), ("timeout", "250ms")])?;
//! assert_eq!((options.connections_max, options.timeout), (4, Duration::from_millis(250)));
//! let wrong = read(&[("host", "h"), ("connections", "0")]).unwrap_err();
//! assert_eq!(wrong.to_string(), r#"server.connections = "0" is not allowed; allowed: 1 to 64 connections"#);
//! let wrong = read(&[("hots", "h")]).unwrap_err();
//! assert_eq!(wrong.to_string(), "server.hots is not known; known: host, connections_max, timeout; did you mean host?");
//! # Ok::<(), thalweg_kernel::ConfigError>(())
//! ```
//!
//! | module | what it defines |
//! |---|---|
//! | [`units`] | durations and sizes as people write them |
//! | [`value`] | [`Table`] and [`Value`]: settings as they were written, with their places |
//! | `credentials` | a password in a URL that needs percent-encoding |
//! | [`describe`] | [`OptionInfo`]: what is known of one option |
//! | [`setting`] | [`Setting`]: the types that options can have |
//! | `macros` | [`options!`](crate::options) and [`choices!`](crate::choices) |
//!
//! # Limits
//! What depends on two options (a key that needs its certificate) is checked by whoever owns them, after reading.
//! [`Table::blame`] gives such an error its place.

mod credentials;
pub mod describe;
mod macros;
pub mod setting;
pub mod units;
pub mod value;

pub use credentials::unencoded;
pub use describe::{Fallback, Kind, OptionInfo};
pub use setting::{Named, Refusal, Secret, Setting};
pub use value::{Origin, Raw, Table, Value};

use crate::ConfigError;

/// A set of options, read together.
pub trait Options: Sized {
    /// The options, in the order of their declarations.
    const TABLES: &'static [&'static [OptionInfo]];

    /// Reads them from a table, which may hold other options, too.
    ///
    /// # Errors
    /// The first value that will not do, or one that is missing.
    fn fill(table: &Table) -> Result<Self, ConfigError>;

    /// Reads them from a table that holds nothing else.
    ///
    /// # Errors
    /// As for [`fill`](Self::fill), and a key that is none of theirs.
    fn read(table: &Table) -> Result<Self, ConfigError> {
        check::<Self>(table)?;
        Self::fill(table)
    }
}

/// No options.
impl Options for () {
    const TABLES: &'static [&'static [OptionInfo]] = &[];

    fn fill(_: &Table) -> Result<Self, ConfigError> {
        Ok(())
    }
}

/// Two declarations in one table.
impl<A: Declared, B: Declared> Options for (A, B) {
    const TABLES: &'static [&'static [OptionInfo]] = &[A::OPTIONS, B::OPTIONS];

    fn fill(table: &Table) -> Result<Self, ConfigError> {
        Ok((A::fill(table)?, B::fill(table)?))
    }
}

/// Options of one declaration.
pub trait Declared: Options {
    /// They, in order.
    const OPTIONS: &'static [OptionInfo];

    /// Checks the ranges of options that were set by a program.
    ///
    /// # Errors
    /// Names the first that is out of its range.
    fn check_ranges(&self) -> Result<(), ConfigError>;
}

/// Whether each key of the table is one of these options'.
fn check<O: Options>(table: &Table) -> Result<(), ConfigError> {
    let infos = || O::TABLES.iter().copied().flatten();
    for (key, value) in table.entries() {
        if !infos().any(|info| info.names().any(|name| name == key)) {
            // Aliases are understood, not advertised.
            let error = ConfigError::unknown(table.key(key), infos().map(|info| info.key));
            return Err(error.at(value.origin.place()));
        }
    }
    Ok(())
}

/// Reads the option `key` of a declaration. For [`options!`](crate::options).
#[doc(hidden)]
pub fn take<T: Setting>(
    table: &Table,
    options: &[OptionInfo],
    key: &str,
    default: Option<T>,
) -> Result<T, ConfigError> {
    let Some(info) = options.iter().find(|info| info.key == key) else {
        return Err(ConfigError::unknown(key, options.iter().map(|info| info.key)));
    };
    let mut given = info.names().filter_map(|name| Some((name, table.get(name)?)));
    let Some((name, value)) = given.next() else {
        let missing = || ConfigError::missing(table.key(info.key), info.needed());
        let missing = || missing().at(table.origin().place());
        return default.or_else(T::absent).ok_or_else(missing);
    };
    if let Some((other, _)) = given.next() {
        let allowed = format!("one of them: both are {}", info.key);
        let twice = ConfigError::new(table.key(name), format!("beside {other}"), allowed);
        return Err(twice.at(value.origin.place()));
    }
    let (allowed, words) = match T::read(value, info) {
        Ok(read) => {
            if info.holds(read.magnitude()) {
                return Ok(read);
            }
            (info.allowed(), &[][..])
        }
        Err(Refusal::Inside(error)) => return Err(error),
        Err(Refusal::Allowed(allowed)) => (allowed, &[][..]),
        Err(Refusal::Kind) => match info.kind {
            Kind::Choice(words) => (info.allowed(), words),
            _ => (info.allowed(), &[][..]),
        },
    };
    let shown = if info.secret { "***".to_owned() } else { value.raw.to_string() };
    let error = ConfigError::new(table.key(name), shown, allowed).near(words.iter().copied());
    Err(error.at(value.origin.place()))
}

/// Checks the range of the option `key` of a declaration. For [`options!`](crate::options).
#[doc(hidden)]
pub fn check_range<T: Setting>(
    value: &T,
    options: &[OptionInfo],
    key: &str,
) -> Result<(), ConfigError> {
    match options.iter().find(|info| info.key == key) {
        Some(info) if !info.holds(value.magnitude()) => {
            Err(ConfigError::new(key, value.show(), info.allowed()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
