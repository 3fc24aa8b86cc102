//! The configuration file of `thalweg run`: TOML, overridden by `THALWEG_` variables
//! (`THALWEG_ENGINE__SHARDS=1` sets `engine.shards`). Every mistake is a [`ConfigError`] that names its line or its
//! variable.
//!
//! | module | what it does |
//! |---|---|
//! | `written` | a file and the variables as one table, in which each value knows its place |
//! | `shorthand` | `source.mqtt = "URL"` and `source.files`, put where they belong |
//! | `deduplicate`, `fields`, `window` | the sections of these names |
//!
//! What a section holds is declared here by [`options!`]; `[source.NAME]` and `[sink.NAME]` are declared by their
//! connectors, which the [registry](crate::registry) knows.

mod deduplicate;
mod fields;
mod shorthand;
mod window;
mod written;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg_flow::{AtEnd, Tuning};
use thalweg_kernel::connector::{Access, UsedPath};
use thalweg_kernel::options::{Options, Raw, Table, Value};
use thalweg_kernel::{ConfigError, Epoch, options};
use thalweg_runtime::{
    CheckpointRules, JournalConfig, RestartStrategy, RuntimeConfig, StateConfig, StateDirectory,
    StoreOptions,
};

use crate::registry::{self, Input, Output, SideName};
use crate::statistics::reading::Readings;

pub(crate) use deduplicate::Deduplicate;
pub(crate) use fields::Fields;
pub(crate) use window::Window;

/// What `thalweg run` is told.
pub(crate) struct Settings {
    /// The job's name.
    pub(crate) name: String,
    pub(crate) engine: Engine,
    pub(crate) input: Input,
    pub(crate) deduplicate: Option<Deduplicate>,
    pub(crate) window: Window,
    /// What becomes of open windows when the input has ended.
    pub(crate) at_end: AtEnd,
    /// A start in the middle of a window gives its row anew, without what came before.
    pub(crate) forgets_windows: bool,
    /// All of them get all results.
    pub(crate) outputs: Vec<Output>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: Metrics,
    pub(crate) state: Option<State>,
    restart: RestartStrategy,
    /// As it was written, for the places of mistakes that show later.
    written: Table,
}

/// The keys of a file.
const SECTIONS: [&str; 11] = [
    "name",
    "engine",
    "source",
    "fields",
    "deduplicate",
    "window",
    "sink",
    "dead_letters",
    "metrics",
    "state",
    "restart",
];

options! {
    #[derive(Clone, Debug)]
    struct Job {
        /// The job's name, in logs and as the label `job` of metrics. With `[state]` it must be its own: what the job
        /// commits to databases is known by it.
        name: String = DEFAULT_NAME.into(),
    }
}

/// A shard that spins for longer than this has no use for sleep, and somebody meant another unit.
const SPIN_US_MAX: u64 = 100_000;

options! {
    #[derive(Clone, Debug)]
    pub(crate) struct Engine {
        /// How many shards there are.
        #[range(1, 128)]
        #[absent = "one for each core that this process may use"]
        shards: Option<usize>,
        /// The cores that the job uses; each has a shard unless `shards` says otherwise.
        #[absent = "all that this process may use"]
        #[example = "0,2"]
        cores: Option<String>,
        /// What runs them: `auto`, `glommio` or `threads`.
        driver: String = "auto".into(),
        /// How long an idle shard spins before it sleeps.
        #[unit = "microseconds"]
        #[range(0, SPIN_US_MAX)]
        spin_us: u64 = 0,
        /// How long input may gather before a shard that sleeps wakes for it, as "5ms". Results come later by as much at
        /// most. It saves power where three messages or more come in that time.
        #[range(0, 1_000)]
        latency_budget: Duration = Duration::ZERO,
    }
}

options! {
    /// What the keys of `[source]` are that belong to all connectors.
    #[derive(Clone, Debug)]
    struct AnySource {
        /// Larger payloads and lines become dead letters.
        #[unit = "bytes"]
        #[range(1, u64::MAX)]
        payload_bytes_max: usize = 256 * 1024,
    }
}

/// The keys of `[source]` that name no connector.
const SOURCE_KEYS: [&str; 1] = ["payload_bytes_max"];

/// Less would hold some letters at most.
const DEAD_LETTERS_BYTES_MIN: u64 = 64 * 1024;

options! {
    /// Where dead letters go, beside being counted.
    #[derive(Clone, Debug)]
    pub(crate) struct DeadLetters {
        /// A file of JSON lines; `thalweg dead-letters` lists its letters and sends them again.
        pub(crate) path: Option<PathBuf>,
        /// The file and the one before it, which has the ending `.1`, take at most this much together. What is older is
        /// gone.
        #[unit = "bytes"]
        #[range(DEAD_LETTERS_BYTES_MIN, u64::MAX)]
        pub(crate) bytes_max: u64 = 64 * 1024 * 1024,
    }
}

options! {
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics {
        /// Where Prometheus text is served, under /metrics.
        pub(crate) address: Option<SocketAddr>,
        /// How often the log tells how the job is doing, while anything moves; `0s` for never.
        pub(crate) log_every: Duration = Duration::from_secs(60),
    }
}

/// With less, sources would stand still most of the time.
const PENDING_BYTES_MIN: u64 = 1 << 20;

options! {
    /// Where the job's state outlives the process, and how.
    #[derive(Clone, Debug)]
    pub(crate) struct State {
        /// The directory.
        #[example = "state"]
        pub(crate) dir: PathBuf,
        /// From checkpoint to checkpoint.
        interval: Duration = CheckpointRules::default().interval,
        /// This many checkpoints can be gone back to, with `epoch`.
        #[unit = "checkpoints"]
        #[range(1, u64::MAX)]
        retained: usize = 1,
        /// At this size of the journal receiving stops until a checkpoint frees some.
        #[unit = "bytes"]
        journal_bytes_max: u64 = JournalConfig::default().cap_bytes,
        /// A shard keeps about this much of its keyed state in memory; the rest is read from the directory.
        #[unit = "bytes"]
        memory_bytes_max: usize = Tuning::default().state_memory_bytes_max,
        /// A shard keeps about this much on top that has changed and is not stored yet; then sources wait.
        #[unit = "bytes"]
        #[range(PENDING_BYTES_MIN, u64::MAX)]
        pending_bytes_max: usize = Tuning::default().state_pending_bytes_max,
        /// Begin with this savepoint if there is no state yet.
        savepoint: Option<PathBuf>,
        /// Go back to this checkpoint, one of those retained; later ones are dropped.
        epoch: Option<u64>,
        /// Drop stored state that the job has no operator for.
        drop_unknown: bool = false,
        /// The states that begin anew where what is stored of them does not fit the job, as `OPERATOR/STATE`. The rest
        /// is kept; the error that asks for it names the state.
        #[absent = "none"]
        #[example = "[\"deduplicate/seen\"]"]
        begin_anew: Option<Vec<String>>,
        /// Go on in a database for this state directory, which is lost or whose savepoint this is.
        take_over: Option<String>,
    }
}

options! {
    #[derive(Clone, Debug)]
    struct RestartFixed { delay: Duration, restarts_max: u32 }
}

options! {
    #[derive(Clone, Debug)]
    struct RestartExponential { first: Duration, longest: Duration }
}

options! {
    #[derive(Clone, Debug)]
    struct RestartRate { failures_max: u32, within: Duration, delay: Duration }
}

/// The ways in which a job is started again; each is a table of `[restart]`.
const RESTARTS: [&str; 4] = ["never", "fixed", "exponential", "rate"];

fn restart(section: Option<&Table>) -> Result<RestartStrategy, ConfigError> {
    let Some(section) = section else { return Ok(RestartStrategy::Auto) };
    let mut given = section.entries();
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        let keys = section.keys().collect::<Vec<_>>().join(" and ");
        let needed = format!("one of {}", RESTARTS.join(", "));
        let error = if keys.is_empty() {
            ConfigError::missing(section.path(), needed)
        } else {
            ConfigError::new(section.path(), keys, needed)
        };
        return Err(error.at(section.origin().place()));
    };
    let Raw::Table(table) = &value.raw else {
        let error = ConfigError::new(section.key(name), &value.raw, "a table with its keys");
        return Err(error.at(value.origin.place()));
    };
    Ok(match name {
        "never" => {
            <()>::read(table)?;
            RestartStrategy::Never
        }
        "fixed" => {
            let RestartFixed { delay, restarts_max } = RestartFixed::read(table)?;
            RestartStrategy::FixedDelay { delay, restarts_max }
        }
        "exponential" => {
            let RestartExponential { first, longest } = RestartExponential::read(table)?;
            let reset_after = Duration::from_secs(60 * 60);
            RestartStrategy::ExponentialDelay {
                first,
                longest,
                factor: 1.5,
                jitter: 0.1,
                reset_after,
            }
        }
        "rate" => {
            let RestartRate { failures_max, within, delay } = RestartRate::read(table)?;
            RestartStrategy::FailureRate { failures_max, within, delay }
        }
        _ => {
            let error = ConfigError::unknown(section.key(name), RESTARTS);
            return Err(error.at(value.origin.place()));
        }
    })
}

const DEFAULT_NAME: &str = "thalweg";

impl Settings {
    /// Reads a file and the environment, and checks everything that can be checked without
    /// connecting to anything.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let variables = written::variables(written::environment())?;
        Self::of(written::file(path)?, variables)
    }

    /// Reads a file's table, over which that of the variables is laid.
    fn of(mut table: Table, mut variables: Table) -> Result<Self, ConfigError> {
        shorthand::unfold(&mut table)?;
        shorthand::unfold(&mut variables)?;
        table.merge(variables);
        for (key, value) in table.entries() {
            if !SECTIONS.contains(&key) {
                return Err(ConfigError::unknown(key, SECTIONS).at(value.origin.place()));
            }
        }
        let section = |key| section(&table, key);
        // A section that is not there has its defaults, and names what it must have.
        let or_empty = |found: Option<&Table>, key: &str| match found {
            Some(found) => found.clone(),
            None => Table::new(key, table.origin().clone()),
        };
        let fields_section = or_empty(section("fields")?, "fields");
        let fields = Fields::read(&fields_section)?;
        let mut deduplicate = section("deduplicate")?.map(Deduplicate::read).transpose()?;
        if let (Some(deduplicate), Some(written)) = (&mut deduplicate, section("deduplicate")?) {
            deduplicate.fit(fields.has_times()).map_err(|error| written.blame(error))?;
        }
        let sources = or_empty(section("source")?, "source");
        let AnySource { payload_bytes_max } = AnySource::fill(&sources)?;
        let connector = registry::chosen(SideName::Source, &sources, &SOURCE_KEYS)?;
        let decoder = Readings::new(&fields, deduplicate.as_ref(), payload_bytes_max);
        let decoder = decoder.map_err(|error| match error.key.strip_prefix("deduplicate.") {
            Some(key) => {
                let error = ConfigError { key: key.to_owned(), ..error.clone() };
                or_empty(section("deduplicate").ok().flatten(), "deduplicate").blame(error)
            }
            None => fields_section.blame(error),
        })?;
        let input = connector.input(&decoder)?;
        let sinks = or_empty(section("sink")?, "sink");
        let chosen = registry::all_chosen(SideName::Sink, &sinks, &[])?;
        let outputs = chosen.iter().map(|sink| sink.output(chosen.len() == 1));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        // Where one sink keeps each row, none is given that a later one would replace.
        let mut replacing = chosen.iter().map(|sink| registry::replaces_rows(sink.entry.name));
        let (all_replace, any_replaces) =
            (replacing.clone().all(|one| one), replacing.any(|one| one));
        let written = or_empty(section("window")?, "window");
        let window = Window::read(&written)?;
        Window::check(&written).map_err(|error| written.blame(error))?;
        let at_end = window.at_end(section("state")?.is_some(), all_replace);
        let at_end = at_end.map_err(|error| written.blame(error))?;
        let forgets_windows = any_replaces && section("state")?.is_none() && input.paths.is_empty();
        let settings = Self {
            name: Job::fill(&table)?.name,
            engine: Engine::read(&or_empty(section("engine")?, "engine"))?,
            input,
            deduplicate,
            window,
            at_end,
            forgets_windows,
            outputs,
            dead_letters: DeadLetters::read(&or_empty(section("dead_letters")?, "dead_letters"))?,
            metrics: Metrics::read(&or_empty(section("metrics")?, "metrics"))?,
            state: section("state")?.map(State::read).transpose()?,
            restart: restart(section("restart")?)?,
            written: table.clone(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// An error about a key of a section, with the whole key and its place.
    fn blame(&self, key: &str, error: ConfigError) -> ConfigError {
        match section(&self.written, key) {
            Ok(Some(table)) => table.blame(error),
            _ => error.within(key),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.runtime()?;
        if self.state.is_some() && self.name == DEFAULT_NAME {
            let needed = "a name of the job's own at the top of the file, as name = \"gateway\": with [state] what \
                          the job commits to databases is known by it";
            return Err(self.written.blame(match self.written.get("name") {
                None => ConfigError::missing("name", needed),
                Some(_) => ConfigError::new("name", &self.name, needed),
            }));
        }
        if self.name.is_empty() {
            return Err(self.written.blame(ConfigError::new("name", "", "a name for the job")));
        }
        if self.state.as_ref().is_some_and(|state| state.dir.as_os_str().is_empty()) {
            return Err(self.blame("state", ConfigError::new("dir", "", "a directory")));
        }
        self.check_paths()?;
        match &self.deduplicate {
            Some(deduplicate) => deduplicate
                .check(self.input.has_user_properties)
                .map_err(|error| self.blame("deduplicate", error)),
            None => Ok(()),
        }
    }

    /// How the job runs.
    pub(crate) fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let mut config = self.engine.runtime().map_err(|error| self.blame("engine", error))?;
        config.restart = self.restart;
        if let Some(state) = &self.state {
            config.state = Some(state.config().map_err(|error| self.blame("state", error))?);
            config.tuning.state_memory_bytes_max = state.memory_bytes_max;
            config.tuning.state_pending_bytes_max = state.pending_bytes_max;
            config.validate().map_err(|error| self.blame("state", error))?;
        }
        Ok(config)
    }

    /// No file is written that is read, or written twice: opening a sink empties its file. No directory is filled twice.
    fn check_paths(&self) -> Result<(), ConfigError> {
        let used = |section: &str, paths: &[UsedPath], access: Access| {
            let paths = paths.iter().filter(|used| used.access == access);
            paths
                .map(|used| (format!("{section}.{}", used.key), used.path.clone()))
                .collect::<Vec<_>>()
        };
        let of_sinks = |access: Access| {
            let outputs = self.outputs.iter();
            outputs
                .flat_map(|output| used(&output.section, &output.paths, access))
                .collect::<Vec<_>>()
        };
        let read = used(&self.input.section, &self.input.paths, Access::Reads);
        let mut written = of_sinks(Access::Writes);
        let dead = self.dead_letters.path.iter();
        written.extend(dead.map(|path| ("dead_letters.path".to_owned(), path.clone())));
        for (place, (key, path)) in written.iter().enumerate() {
            let others = read.iter().chain(&written[..place]);
            if let Some((other, _)) = others.into_iter().find(|(_, other)| same_file(other, path)) {
                let allowed = format!("a file other than that of {other}");
                return Err(self.blame_path(ConfigError::new(key, path.display(), allowed)));
            }
        }
        let filled = of_sinks(Access::Fills);
        for (place, (key, path)) in filled.iter().enumerate() {
            let mut before = filled[..place].iter();
            if let Some((other, _)) = before.find(|(_, other)| within_another(path, other)) {
                let allowed = format!("a directory apart from that of {other}");
                return Err(self.blame_path(ConfigError::new(key, path.display(), allowed)));
            }
            if let Some(state) = &self.state
                && within_another(path, &state.dir)
            {
                let allowed = "a directory apart from state.dir";
                return Err(self.blame_path(ConfigError::new(key, path.display(), allowed)));
            }
        }
        Ok(())
    }

    /// An error about a setting below a section's table, such as `sink.file.path`, with its place.
    fn blame_path(&self, error: ConfigError) -> ConfigError {
        let mut table = &self.written;
        for part in error.key.split('.') {
            match table.get(part) {
                Some(Value { raw: Raw::Table(inner), .. }) => table = inner,
                Some(value) => {
                    let place = value.origin.place();
                    return error.at(place);
                }
                None => break,
            }
        }
        let place = table.origin().place();
        error.at(place)
    }
}

/// The table under a key of a file.
fn section<'a>(table: &'a Table, key: &str) -> Result<Option<&'a Table>, ConfigError> {
    match table.get(key) {
        None => Ok(None),
        Some(value) => match &value.raw {
            Raw::Table(section) => Ok(Some(section)),
            other => {
                let error =
                    ConfigError::new(key, other, format!("a section with its keys: [{key}]"));
                Err(error.at(value.origin.place()))
            }
        },
    }
}

/// Whether one of two directories holds the other, or is it.
fn within_another(one: &Path, other: &Path) -> bool {
    // What does not exist yet has no better name.
    let resolved = |path: &Path| {
        path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_default()
    };
    let (one, other) = (resolved(one), resolved(other));
    one.starts_with(&other) || other.starts_with(&one)
}

/// Whether both name one regular file, by whatever way. Devices and pipes may serve twice.
fn same_file(one: &Path, other: &Path) -> bool {
    let regular = |path: &Path| path.metadata().map_or(true, |found| found.is_file());
    let resolved = |path: &Path| path.canonicalize().ok();
    let same = match (resolved(one), resolved(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one == other,
        _ => false,
    };
    same && regular(one)
}

impl State {
    /// Errors name keys of the section.
    fn config(&self) -> Result<StateConfig, ConfigError> {
        let journal =
            JournalConfig { cap_bytes: self.journal_bytes_max, ..JournalConfig::default() };
        journal
            .check()
            .map_err(|error| ConfigError { key: "journal_bytes_max".into(), ..error })?;
        let store = StoreOptions { retained: self.retained, ..StoreOptions::default() };
        let mut dir = StateDirectory::new(&self.dir).journal(journal).store(store);
        if let Some(savepoint) = &self.savepoint {
            dir = dir.from_savepoint(savepoint);
        }
        if let Some(id) = &self.take_over {
            dir = dir.take_over(id);
        }
        if let Some(epoch) = self.epoch {
            dir = dir.from_epoch(Epoch::new(epoch));
        }
        let mut config = StateConfig::new(dir.backend());
        config.checkpoints.interval = self.interval;
        config.allowed.drop_unknown = self.drop_unknown;
        config.allowed.begin_anew = self.begin_anew.clone().unwrap_or_default();
        Ok(config)
    }
}

impl Engine {
    /// Errors name keys of the section.
    fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let mut config = RuntimeConfig { driver: self.driver.parse()?, ..RuntimeConfig::default() };
        if let Some(cores) = &self.cores {
            config.cores = thalweg_runtime::cores(cores)?;
            config.shards = config.cores.len();
        }
        config.shards = self.shards.unwrap_or(config.shards);
        config.spin = Duration::from_micros(self.spin_us);
        config.tuning.latency_budget = self.latency_budget;
        config.validate()?;
        Ok(config)
    }
}

/// What `[fields]` says with these lines.
#[cfg(test)]
pub(crate) fn fields_of(lines: &str) -> Fields {
    Fields::read(&written::toml(lines, "fields").unwrap_or_default()).unwrap()
}

#[cfg(test)]
mod tests;
