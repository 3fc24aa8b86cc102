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

/// The key by which a table of any name says which connector it is of: `[sink.upstream]` with `connector = "mqtt"`.
const CONNECTOR_KEY: &str = "connector";

/// A connector that a section names, with its options.
pub(crate) struct Chosen {
    /// The name of its table.
    name: String,
    pub(crate) entry: &'static Entry,
    /// Its options.
    table: Table,
    /// Where it was written.
    place: Option<String>,
}

/// The one connector that a section names: `[source.file]` has the section `source`, of which `keys` belong to all its
/// connectors.
///
/// # Errors
/// If the section names none, more than one, one that is not there, or one of the other side.
pub(crate) fn chosen(
    side: SideName,
    section: &Table,
    keys: &[&str],
) -> Result<Chosen, ConfigError> {
    let mut given = section.entries().filter(|(key, _)| !keys.contains(key));
    if let (Some((name, _)), Some((other, value))) = (given.next(), given.next()) {
        let allowed = format!("one {}", side.section());
        let both = ConfigError::new(section.path(), format!("{name} and {other}"), allowed);
        return Err(both.at(value.origin.place()));
    }
    let chosen = all_chosen(side, section, keys)?.into_iter().next();
    chosen.ok_or_else(|| ConfigError::missing(section.path(), side.section()))
}

/// All connectors that a section names, in the order of their names. The environment has no order, and what a sink has stored
/// must not depend on any.
///
/// # Errors
/// If the section names none, one that is not there, or one of the other side.
pub(crate) fn all_chosen(
    side: SideName,
    section: &Table,
    keys: &[&str],
) -> Result<Vec<Chosen>, ConfigError> {
    let given = section.entries().filter(|(key, _)| !keys.contains(key));
    let all = given.map(|(name, value)| of_table(side, section, keys, (name, value)));
    let mut all = all.collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|one, other| one.name.cmp(&other.name));
    if all.is_empty() {
        let names = side.names();
        let sections: Vec<_> =
            names.iter().map(|name| format!("[{}.{name}]", side.section())).collect();
        let needed = format!("one of {}", sections.join(", "));
        return Err(ConfigError::missing(section.path(), needed).at(section.origin().place()));
    }
    Ok(all)
}

/// The connector of one table.
fn of_table(
    side: SideName,
    section: &Table,
    keys: &[&str],
    (name, value): (&str, &Value),
) -> Result<Chosen, ConfigError> {
    let names = side.names();
    let mut place = value.origin.place();
    let (mut key, mut kind) = (section.key(name), name.to_owned());
    if let Raw::Table(table) = &value.raw
        && let Some(Value { raw, origin }) = table.get(CONNECTOR_KEY)
    {
        (key, place) = (table.key(CONNECTOR_KEY), origin.place());
        let Some(said) = raw.as_text() else {
            return Err(
                ConfigError::new(key, raw, format!("one of {}", names.join(", "))).at(place)
            );
        };
        said.clone_into(&mut kind);
    }
    let is_said = key != section.key(name);
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == kind) else {
        if is_said {
            let error = ConfigError::new(key, &kind, format!("one of {}", names.join(", ")));
            return Err(error.near(names.iter().copied()).at(place));
        }
        let known = names.iter().copied().chain(keys.iter().copied());
        let mut error = ConfigError::unknown(key, known);
        error.allowed = format!(
            "{}; a table of another name says `{CONNECTOR_KEY} = \"{}\"`, or another of them",
            error.allowed,
            names.first().copied().unwrap_or_default()
        );
        return Err(error.at(place));
    };
    let blamed = if is_said { key } else { section.path().to_owned() };
    if entry.connector.is_none() {
        let feature = entry.feature.unwrap_or_default();
        let allowed = format!(
            "{}; this build lacks {kind}: take one with the cargo feature `{feature}`",
            names.join(", ")
        );
        return Err(ConfigError::new(blamed, kind, allowed).at(place));
    }
    if !names.contains(&kind.as_str()) {
        let allowed = format!("{}; {kind} is no {}", names.join(", "), side.section());
        return Err(ConfigError::new(blamed, kind, allowed).at(place));
    }
    let place = value.origin.place();
    let Raw::Table(table) = &value.raw else {
        // A URL may hold a password.
        let shown = value.raw.to_string();
        let shown = if shown.contains("://") { "***" } else { &shown };
        let path = section.key(name);
        let allowed = match &value.raw {
            Raw::List(_) => format!(
                "a table: [{path}]; a second one of the kind has a name of its own: [{}.NAME] with \
                 {CONNECTOR_KEY} = \"{name}\"",
                side.section()
            ),
            _ => format!("a table: [{path}]"),
        };
        return Err(ConfigError::new(path, shown, allowed).at(place));
    };
    let mut table = table.clone();
    table.remove(CONNECTOR_KEY);
    Ok(Chosen { name: name.to_owned(), entry, table, place })
}

impl Chosen {
    /// The source, for records that `decoder` makes.
    ///
    /// # Errors
    /// Names the first option that will not do.
    pub(crate) fn input(&self, decoder: &Readings) -> Result<Input, ConfigError> {
        let make = self.entry.source.ok_or_else(|| self.lacks("source"))?;
        make(&self.table, decoder)
    }

    /// The sink. `is_alone` says whether it is the only one of its job.
    ///
    /// # Errors
    /// Names the first option that will not do.
    pub(crate) fn output(&self, is_alone: bool) -> Result<Output, ConfigError> {
        let make = self.entry.sink.ok_or_else(|| self.lacks("sink"))?;
        let mut output = make(&self.table)?;
        // Results that one of several sinks has still to pass on are that sink's, wherever it stands. What the only sink of a
        // job has stored is nobody else's: a job with several does not know it, and does not start.
        if !is_alone {
            output.uid = format!("sink.{}", self.name);
        }
        Ok(output)
    }

    fn lacks(&self, side: &str) -> ConfigError {
        let error = ConfigError::new(side, &self.name, format!("a connector that is a {side}"));
        error.at(self.place.as_ref())
    }
}

fn source<C: SourceConnector>(table: &Table, decoder: &Readings) -> Result<Input, ConfigError> {
    let options = C::options(table)?;
    let (paths, has_user_properties) = (C::paths(&options), C::has_user_properties(&options));
    let source = C::source(options, decoder.clone()).map_err(|error| table.blame(error))?;
    Ok(Input {
        source: Box::new(source),
        section: table.path().to_owned(),
        paths,
        has_user_properties,
    })
}

fn sink<C: SinkConnector>(table: &Table) -> Result<Output, ConfigError> {
    let options = C::options(table)?;
    let paths = C::paths(&options);
    let sink = C::sink::<Row, RowEncoder>(options, &row::columns());
    let sink = sink.map_err(|error| table.blame(error))?;
    Ok(Output {
        sink: Box::new(sink),
        uid: "sink".to_owned(),
        section: table.path().to_owned(),
        paths,
    })
}

/// A source whose settings have been read and checked.
pub(crate) struct Input {
    source: Box<dyn Begins>,
    /// Its table: `source.file`.
    pub(crate) section: String,
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
    /// Its stable name.
    pub(crate) uid: String,
    /// Its table: `sink.file`.
    pub(crate) section: String,
    /// The paths that it uses.
    pub(crate) paths: Vec<UsedPath>,
}

impl Output {
    /// Ends the results in it. Its stable name is the job's own, so that a broker may move without taking state along.
    fn end(&self, rows: BoxedStream<Row>) {
        self.sink.end(&self.uid, rows);
    }

    /// Ends the results in each of these sinks. One that cannot write now makes all of them wait.
    pub(crate) fn end_all(outputs: &[Self], rows: BoxedStream<Row>) {
        match outputs {
            [one] => one.end(rows),
            all => {
                let streams = rows.split_into(all.len());
                all.iter().zip(streams).for_each(|(output, rows)| output.end(rows.boxed()));
            }
        }
    }
}

/// A sink of any kind.
trait Ends: Send + Sync {
    fn end(&self, uid: &str, rows: BoxedStream<Row>);
}

impl<S: SinkSpec<Row> + Clone + Send + Sync> Ends for S {
    fn end(&self, uid: &str, rows: BoxedStream<Row>) {
        rows.sink_as(uid, self.clone());
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
