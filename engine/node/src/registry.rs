//! The connectors of this build: one line for each.
//!
//! A line names a connector, the cargo feature that brings it, and the type that stands for it in its crate. All else
//! comes from its description there. A connector that this build lacks keeps its line, so that who asks for it learns
//! which feature it takes.
//!
//! Each connector is compiled once, for [`Reading`]s as a source and for [`Row`]s as a sink, up to a [`BoxedStream`].
//! The job between a source and a sink knows neither.

use thalweg_flow::{BoxedStream, Flow, Watermarks};
use thalweg_kernel::connector::{Connector, SinkConnector, SourceConnector, UsedPath};
use thalweg_kernel::options::{Raw, Table, Value};
use thalweg_kernel::{ConfigError, SinkSpec, SourceSpec};

use crate::settings::Window;
use crate::statistics::reading::{Reading, Readings};
use crate::statistics::row::{self, Row, RowEncoder};

/// Declares the registry, from lines `name if feature => type: what it is;`.
macro_rules! registry {
    ($($name:literal $(if $feature:literal)? => $connector:path: $($side:ident)+;)*) => {
        /// All connectors, in the order of their lines.
        pub(crate) static ENTRIES: &[Entry] = &[$(
            $(#[cfg(feature = $feature)])?
            Entry::absent($name, registry!(@feature $($feature)?))$(.$side::<$connector>())+,
            $(
                #[cfg(not(feature = $feature))]
                Entry::absent($name, Some($feature)),
            )?
        )*];
    };
    (@feature) => {
        None
    };
    (@feature $feature:literal) => {
        Some($feature)
    };
}

registry! {
    "file" => thalweg_file::FileConnector: source sink;
    "files" => thalweg_file::FilesConnector: sink;
    "stdout" => thalweg_file::StdoutConnector: sink;
    "mqtt" if "mqtt" => thalweg_mqtt::MqttConnector: source sink;
    "sqlite" if "sqlite" => thalweg_sqlite::SqliteConnector: sink;
    "postgres" if "postgres" => thalweg_postgres::PostgresConnector: sink;
    "datagen" if "datagen" => thalweg_datagen::DatagenConnector: source;
    "blackhole" if "blackhole" => thalweg_blackhole::BlackholeConnector: sink;
}

/// Whether a row in the sink of this name takes the place of an earlier one with its key.
pub(crate) fn replaces_rows(sink: &str) -> bool {
    matches!(sink, "sqlite" | "postgres")
}

/// A connector as this build has it.
pub(crate) struct Entry {
    /// Its name in a configuration.
    pub(crate) name: &'static str,
    /// The cargo feature that brings it.
    pub(crate) feature: Option<&'static str>,
    /// Its description; none if this build lacks it.
    pub(crate) connector: Option<&'static Connector>,
    source: Option<MakeSource>,
    sink: Option<MakeSink>,
}

type MakeSource = fn(&Table, &Readings) -> Result<Input, ConfigError>;
type MakeSink = fn(&Table) -> Result<Output, ConfigError>;

impl Entry {
    /// The line of a connector that this build lacks, or of which it has still to be said what it is.
    const fn absent(name: &'static str, feature: Option<&'static str>) -> Self {
        Self { name, feature, connector: None, source: None, sink: None }
    }

    const fn source<C: SourceConnector>(mut self) -> Self {
        self.connector = Some(C::CONNECTOR);
        self.source = Some(source::<C>);
        self
    }

    const fn sink<C: SinkConnector>(mut self) -> Self {
        self.connector = Some(C::CONNECTOR);
        self.sink = Some(sink::<C>);
        self
    }
}

/// Which of its two sides a connector is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SideName {
    /// `[source.NAME]`
    Source,
    /// `[sink.NAME]`
    Sink,
}

impl SideName {
    /// The section of the configuration.
    pub(crate) const fn section(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }

    /// The names of this build's connectors with this side.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let has = |entry: &&Entry| match self {
            Self::Source => entry.source.is_some(),
            Self::Sink => entry.sink.is_some(),
        };
        ENTRIES.iter().filter(has).map(|entry| entry.name).collect()
    }
}

/// The connector that a section names: `[sink.file]` has the section `sink`, of which `keys` belong to all its
/// connectors.
///
/// # Errors
/// If the section names none, more than one, one that is not there, or one of the other side.
pub(crate) fn chosen<'a>(
    side: SideName,
    section: &'a Table,
    keys: &[&str],
) -> Result<(&'static Entry, &'a Table), ConfigError> {
    let names = side.names();
    let mut given = section.entries().filter(|(key, _)| !keys.contains(key));
    let Some((name, value)) = given.next() else {
        let sections: Vec<_> =
            names.iter().map(|name| format!("[{}.{name}]", side.section())).collect();
        let needed = format!("one of {}", sections.join(", "));
        return Err(ConfigError::missing(section.path(), needed).at(section.origin().place()));
    };
    let place = value.origin.place();
    if let Some((other, value)) = given.next() {
        let allowed = format!("one {}", side.section());
        let both = ConfigError::new(section.path(), format!("{name} and {other}"), allowed);
        return Err(both.at(value.origin.place()));
    }
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) else {
        let known = names.iter().copied().chain(keys.iter().copied());
        return Err(ConfigError::unknown(section.key(name), known).at(place));
    };
    if entry.connector.is_none() {
        let feature = entry.feature.unwrap_or_default();
        let allowed = format!(
            "{}; this build lacks {name}: take one with the cargo feature `{feature}`",
            names.join(", ")
        );
        return Err(ConfigError::new(section.path(), name, allowed).at(place));
    }
    if !names.contains(&name) {
        let allowed = format!("{}; {name} is no {}", names.join(", "), side.section());
        return Err(ConfigError::new(section.path(), name, allowed).at(place));
    }
    match value {
        Value { raw: Raw::Table(table), .. } => Ok((entry, table)),
        Value { raw, .. } => {
            // A URL may hold a password.
            let shown = raw.to_string();
            let shown = if shown.contains("://") { "***" } else { &shown };
            let allowed = format!("a table: [{}]", section.key(name));
            Err(ConfigError::new(section.key(name), shown, allowed).at(place))
        }
    }
}

impl Entry {
    /// The source with the options of a table, for records that `decoder` makes.
    ///
    /// # Errors
    /// Names the first option that will not do.
    pub(crate) fn input(&self, table: &Table, decoder: &Readings) -> Result<Input, ConfigError> {
        self.source.map_or_else(|| Err(self.lacks("source")), |make| make(table, decoder))
    }

    /// The sink with the options of a table.
    ///
    /// # Errors
    /// Names the first option that will not do.
    pub(crate) fn output(&self, table: &Table) -> Result<Output, ConfigError> {
        self.sink.map_or_else(|| Err(self.lacks("sink")), |make| make(table))
    }

    fn lacks(&self, side: &str) -> ConfigError {
        ConfigError::new(side, self.name, format!("a connector that is a {side}"))
    }
}

fn source<C: SourceConnector>(table: &Table, decoder: &Readings) -> Result<Input, ConfigError> {
    let options = C::options(table)?;
    let (paths, has_user_properties) = (C::paths(&options), C::has_user_properties(&options));
    let source = C::source(options, decoder.clone()).map_err(|error| table.blame(error))?;
    Ok(Input { source: Box::new(source), paths, has_user_properties })
}

fn sink<C: SinkConnector>(table: &Table) -> Result<Output, ConfigError> {
    let options = C::options(table)?;
    let paths = C::paths(&options);
    let sink = C::sink::<Row, RowEncoder>(options, &row::columns());
    let sink = sink.map_err(|error| table.blame(error))?;
    Ok(Output { sink: Box::new(sink), paths })
}

/// A source whose settings have been read and checked.
pub(crate) struct Input {
    source: Box<dyn Begins>,
    /// The paths that it uses.
    pub(crate) paths: Vec<UsedPath>,
    /// Its messages have user properties.
    pub(crate) has_user_properties: bool,
}

impl Input {
    /// Readings with their event time.
    pub(crate) fn begin(&self, flow: &Flow, window: &Window) -> BoxedStream<Reading> {
        self.source.begin(flow, window)
    }
}

/// A source of any kind.
trait Begins: Send + Sync {
    fn begin(&self, flow: &Flow, window: &Window) -> BoxedStream<Reading>;
}

impl<S: SourceSpec<Item = Reading> + Clone + Send + Sync + 'static> Begins for S {
    fn begin(&self, flow: &Flow, window: &Window) -> BoxedStream<Reading> {
        let watermarks = Watermarks::bounded_out_of_orderness(window.out_of_orderness)
            .timestamps(|reading: &Reading| reading.time)
            .idle_after(window.idle_after)
            .close_after(window.close_after)
            .clock_guard(window.clock_guard)
            .held_to_clock()
            .wait_for_clock(window.clock_wait)
            .named_by(|reading: &Reading| reading.key.clone());
        flow.source_as("source", self.clone(), watermarks).boxed()
    }
}

/// A sink whose settings have been read and checked.
pub(crate) struct Output {
    sink: Box<dyn Ends>,
    /// The paths that it uses.
    pub(crate) paths: Vec<UsedPath>,
}

impl Output {
    /// Ends the results in it. Its stable name is the job's own, so that a broker may move without taking state along.
    pub(crate) fn end(&self, rows: BoxedStream<Row>) {
        self.sink.end(rows);
    }
}

/// A sink of any kind.
trait Ends: Send + Sync {
    fn end(&self, rows: BoxedStream<Row>);
}

impl<S: SinkSpec<Row> + Clone + Send + Sync> Ends for S {
    fn end(&self, rows: BoxedStream<Row>) {
        rows.sink_as("sink", self.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_agrees_with_the_description_that_it_names() {
        for (place, entry) in ENTRIES.iter().enumerate() {
            assert!(
                ENTRIES[..place].iter().all(|other| other.name != entry.name),
                "{}",
                entry.name
            );
            let Some(connector) = entry.connector else { continue };
            assert_eq!(connector.name, entry.name);
            assert_eq!(connector.source.is_some(), entry.source.is_some(), "{}", entry.name);
            assert_eq!(connector.sink.is_some(), entry.sink.is_some(), "{}", entry.name);
        }
    }
}
