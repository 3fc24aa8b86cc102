//! [`Setting`]: a type that an option can have. A type of a connector's own implements it, too, by
//! [`choices!`](crate::choices) if it is one of several words.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::describe::{Fallback, Kind, OptionInfo};
use super::units;
use super::value::{Raw, Value};
use super::{Options, check};
use crate::{ConfigError, Str};

/// A type that an option can have.
pub trait Setting: Sized {
    /// What it holds.
    const KIND: Kind;
    /// No text may show it.
    const SECRET: bool = false;
    /// It may be left out.
    const OPTIONAL: bool = false;

    /// Makes it of what was written.
    ///
    /// # Errors
    /// Why that will not do.
    fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal>;

    /// As it would be written.
    fn show(&self) -> String;

    /// What stands for it where it is left out, if it may be.
    fn absent() -> Option<Self> {
        None
    }

    /// What a range is about: the number, or a duration's milliseconds.
    fn magnitude(&self) -> Option<i128> {
        None
    }
}

impl Fallback {
    /// That of an option of this type whose declaration names none.
    #[doc(hidden)]
    pub const fn of<T: Setting>() -> Self {
        if T::OPTIONAL { Self::Absent("none") } else { Self::Required }
    }
}

/// Why what was written will not do.
#[derive(Debug)]
pub enum Refusal {
    /// It is not what the option holds.
    Kind,
    /// Only this would.
    Allowed(String),
    /// A value within it is wrong.
    Inside(ConfigError),
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::Inside(error)
    }
}

/// Text that no log, error or graph may show: its `Debug` is `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const KIND: Kind = Kind::Text;
    const SECRET: bool = true;

    fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal> {
        String::read(value, info).map(Self)
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

macro_rules! texts {
    ($($type:ty: $kind:ident, $this:ident => $show:expr;)*) => {$(
        impl Setting for $type {
            const KIND: Kind = Kind::$kind;

            fn read(value: &Value, _: &OptionInfo) -> Result<Self, Refusal> {
                value.raw.as_text().map(Into::into).ok_or(Refusal::Kind)
            }

            fn show(&self) -> String {
                let $this = self;
                $show
            }
        }
    )*};
}

texts! {
    String: Text, this => this.clone();
    Str: Text, this => this.to_string();
    PathBuf: Path, this => this.display().to_string();
}

macro_rules! integers {
    ($($type:ty: $signed:literal),*) => {$(
        impl Setting for $type {
            const KIND: Kind = Kind::Integer { signed: $signed };

            fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal> {
                let is_size = info.unit == Some("bytes");
                let read = match &value.raw {
                    Raw::Integer(number) => Self::try_from(*number).ok(),
                    Raw::Written(text) | Raw::Text(text) if is_size => {
                        units::bytes(text).and_then(|bytes| Self::try_from(bytes).ok())
                    }
                    Raw::Written(text) => text.trim().parse().ok(),
                    _ => None,
                };
                read.ok_or(Refusal::Kind)
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn magnitude(&self) -> Option<i128> {
                i128::try_from(*self).ok()
            }
        }
    )*};
}

integers!(u16: false, u32: false, u64: false, usize: false, i64: true);

impl Setting for f64 {
    const KIND: Kind = Kind::Float;

    fn read(value: &Value, _: &OptionInfo) -> Result<Self, Refusal> {
        let read = match &value.raw {
            Raw::Float(number) => Some(*number),
            Raw::Integer(number) => Some(*number as Self),
            Raw::Written(text) => text.trim().parse().ok(),
            _ => None,
        };
        read.filter(|number: &Self| number.is_finite()).ok_or(Refusal::Kind)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    const KIND: Kind = Kind::Bool;

    fn read(value: &Value, _: &OptionInfo) -> Result<Self, Refusal> {
        match &value.raw {
            Raw::Bool(value) => Ok(*value),
            Raw::Written(text) => text.trim().parse().map_err(|_| Refusal::Kind),
            _ => Err(Refusal::Kind),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const KIND: Kind = Kind::Duration;

    fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal> {
        if let Some(read) = value.raw.as_text().and_then(units::duration) {
            return Ok(read);
        }
        Err(match units::meant_duration(&value.raw.to_string()) {
            Some(meant) => Refusal::Allowed(format!("{}; write {meant}", info.allowed())),
            None if info.range.is_some() => {
                Refusal::Allowed(format!("{}, written as 250ms, 10s or 1h 30m", info.allowed()))
            }
            None => Refusal::Kind,
        })
    }

    fn show(&self) -> String {
        units::show_duration(*self)
    }

    fn magnitude(&self) -> Option<i128> {
        i128::try_from(self.as_millis()).ok()
    }
}

impl Setting for SocketAddr {
    const KIND: Kind = Kind::Address;

    fn read(value: &Value, _: &OptionInfo) -> Result<Self, Refusal> {
        value.raw.as_text().and_then(|text| text.parse().ok()).ok_or(Refusal::Kind)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// An option that may be left out.
impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
    const SECRET: bool = T::SECRET;
    const OPTIONAL: bool = true;

    fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal> {
        T::read(value, info).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn magnitude(&self) -> Option<i128> {
        self.as_ref().and_then(T::magnitude)
    }
}

/// A list. Where only text can be written, its items are divided by semicolons, as in Flink.
impl<T: Setting> Setting for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
    const SECRET: bool = T::SECRET;

    fn read(value: &Value, info: &OptionInfo) -> Result<Self, Refusal> {
        match &value.raw {
            Raw::List(values) => values.iter().map(|value| T::read(value, info)).collect(),
            Raw::Written(text) => {
                let items = text.split(';').map(str::trim).filter(|item| !item.is_empty());
                let written = |item: &str| Value {
                    raw: Raw::Written(item.to_owned()),
                    origin: value.origin.clone(),
                };
                items.map(|item| T::read(&written(item), info)).collect()
            }
            _ => Err(Refusal::Kind),
        }
    }

    fn show(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| format!("{:?}", item.show())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Options under names that the user chooses, in the order in which they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<O>(pub Vec<(Str, O)>);

impl<O: Options> Setting for Named<O> {
    const KIND: Kind = Kind::Named(O::TABLES);

    fn read(value: &Value, _: &OptionInfo) -> Result<Self, Refusal> {
        let Raw::Table(table) = &value.raw else { return Err(Refusal::Kind) };
        let read = |(name, value): (&str, &Value)| match &value.raw {
            Raw::Table(inner) => {
                check::<O>(inner)?;
                Ok((name.into(), O::fill(inner)?))
            }
            other => Err(table.blame(ConfigError::new(name, other, "a table of its options"))),
        };
        Ok(Self(table.entries().map(read).collect::<Result<_, ConfigError>>()?))
    }

    fn show(&self) -> String {
        self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
