//! The configuration file of `thalweg run`: TOML, overridden by `THALWEG_` variables
//! (`THALWEG_ENGINE__SHARDS=1` sets `engine.shards`). Every mistake is a [`ConfigError`].

mod deduplicate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::{Env, Format, Toml};
use serde::Deserialize;
use thalweg_flow::Tuning;
use thalweg_kernel::{ConfigError, Epoch};
use thalweg_mqtt::MqttConfig;
use thalweg_runtime::{
    CheckpointRules, JournalConfig, RestartStrategy, RuntimeConfig, StateConfig, StateDirectory,
    StoreOptions,
};

pub(crate) use deduplicate::Deduplicate;

/// What `thalweg run` is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The job's name.
    #[serde(default = "default_name")]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) engine: Engine,
    pub(crate) source: Source,
    #[serde(default)]
    pub(crate) fields: Fields,
    pub(crate) deduplicate: Option<Deduplicate>,
    pub(crate) window: Window,
    pub(crate) sink: Sink,
    #[serde(default)]
    pub(crate) dead_letters: DeadLetters,
    #[serde(default)]
    pub(crate) metrics: Metrics,
    pub(crate) state: Option<State>,
    #[serde(default)]
    restart: Restart,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Engine {
    shards: Option<usize>,
    cores: Option<String>,
    driver: Option<String>,
    spin_us: Option<u64>,
}

/// Where readings come from: a broker or files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) mqtt: Option<String>,
    #[serde(default)]
    pub(crate) topics: Vec<String>,
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    #[serde(default = "default_payload_bytes_max")]
    pub(crate) payload_bytes_max: usize,
}

/// What the fields of a reading are called.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fields {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) time: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self { key: "device".into(), value: "value".into(), time: "ts".into() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    #[serde(with = "humantime_serde")]
    pub(crate) size: Duration,
    #[serde(default, with = "humantime_serde")]
    pub(crate) out_of_orderness: Duration,
    #[serde(default = "default_idle_after", with = "humantime_serde")]
    pub(crate) idle_after: Duration,
    #[serde(default = "default_clock_guard", with = "humantime_serde")]
    pub(crate) clock_guard: Duration,
}

/// Where results go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum Sink {
    /// A table on a terminal, JSON lines in a pipe.
    Stdout {},
    /// JSON lines, or CSV if the name ends in `.csv`.
    File { path: PathBuf },
    /// JSON lines in a directory of files that are never changed once they can be seen.
    Files { dir: PathBuf },
    /// A table of a SQLite database, with a row for each key and window.
    Sqlite { path: PathBuf, table: String },
    /// The same of a PostgreSQL database.
    #[cfg(feature = "postgres")]
    Postgres { url: String, table: String },
    /// JSON to a topic, in which `{key}` stands for the key.
    Mqtt { url: String, topic: String },
}

/// Where dead letters go, beside being counted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLetters {
    pub(crate) path: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) address: Option<SocketAddr>,
}

/// Longer windows are mistakes, and would never close.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// With less, sources would stand still most of the time.
const PENDING_BYTES_MIN: usize = 1 << 20;

/// Where the job's state outlives the process, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) dir: PathBuf,
    #[serde(default = "default_interval", with = "humantime_serde")]
    interval: Duration,
    #[serde(default = "default_retained")]
    retained: usize,
    #[serde(default = "default_journal_bytes_max")]
    journal_bytes_max: u64,
    #[serde(default = "default_memory_bytes_max")]
    memory_bytes_max: usize,
    #[serde(default = "default_pending_bytes_max")]
    pending_bytes_max: usize,
    savepoint: Option<PathBuf>,
    epoch: Option<u64>,
    #[serde(default)]
    drop_unknown: bool,
    take_over: Option<String>,
}

/// What happens when the job fails.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Restart {
    #[default]
    Auto,
    Never {},
    Fixed {
        #[serde(with = "humantime_serde")]
        delay: Duration,
        restarts_max: u32,
    },
    Exponential {
        #[serde(with = "humantime_serde")]
        first: Duration,
        #[serde(with = "humantime_serde")]
        longest: Duration,
    },
    Rate {
        failures_max: u32,
        #[serde(with = "humantime_serde")]
        within: Duration,
        #[serde(with = "humantime_serde")]
        delay: Duration,
    },
}

impl From<&Restart> for RestartStrategy {
    fn from(restart: &Restart) -> Self {
        match *restart {
            Restart::Auto => Self::Auto,
            Restart::Never {} => Self::Never,
            Restart::Fixed { delay, restarts_max } => Self::FixedDelay { delay, restarts_max },
            Restart::Exponential { first, longest } => {
                let reset_after = Duration::from_secs(60 * 60);
                Self::ExponentialDelay { first, longest, factor: 1.5, jitter: 0.1, reset_after }
            }
            Restart::Rate { failures_max, within, delay } => {
                Self::FailureRate { failures_max, within, delay }
            }
        }
    }
}

fn default_interval() -> Duration {
    CheckpointRules::default().interval
}

fn default_retained() -> usize {
    1
}

fn default_journal_bytes_max() -> u64 {
    JournalConfig::default().cap_bytes
}

fn default_memory_bytes_max() -> usize {
    Tuning::default().state_memory_bytes_max
}

fn default_pending_bytes_max() -> usize {
    Tuning::default().state_pending_bytes_max
}

fn default_name() -> String {
    "thalweg".into()
}

fn default_payload_bytes_max() -> usize {
    256 * 1024
}

fn default_idle_after() -> Duration {
    Duration::from_secs(30)
}

fn default_clock_guard() -> Duration {
    Duration::from_secs(5 * 60)
}

impl Settings {
    /// Reads a file and the environment, and checks everything that can be checked without
    /// connecting to anything.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        if let Err(error) = std::fs::metadata(path) {
            let allowed = format!("a TOML file that can be read ({error})");
            return Err(ConfigError::new("FILE", path.display(), allowed));
        }
        // Only `THALWEG_SECTION__KEY`: others have meanings of their own, such as THALWEG_LOG.
        let environment = Env::prefixed("THALWEG_").filter(|key| key.as_str().contains("__"));
        Self::from(Figment::from(Toml::file_exact(path)).merge(environment.split("__")))
            .map_err(|error| if error.key.is_empty() { not_toml(path, error) } else { error })
    }

    fn from(figment: Figment) -> Result<Self, ConfigError> {
        let settings: Self = figment.extract().map_err(|error| explain(&figment, error))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.runtime()?;
        if self.state.is_some() && self.name == default_name() {
            let allowed = "with [state] a name of the job's own: what it commits is known by it";
            return Err(ConfigError::new("name", &self.name, allowed));
        }
        if !(Duration::from_millis(1)..=WINDOW_MAX).contains(&self.window.size) {
            let size = humantime::format_duration(self.window.size);
            return Err(ConfigError::new("window.size", size, "1ms to 366days: 10s"));
        }
        let dir = self.state.as_ref().map(|state| state.dir.as_os_str());
        let empty = [
            ("name", self.name.is_empty(), "a name for the job"),
            ("fields.key", self.fields.key.is_empty(), "the name of a field"),
            ("fields.value", self.fields.value.is_empty(), "the name of a field"),
            ("state.dir", dir.is_some_and(|dir| dir.is_empty()), "a directory"),
        ];
        if let Some((key, _, allowed)) = empty.into_iter().find(|(_, empty, _)| *empty) {
            return Err(ConfigError::new(key, "", allowed));
        }
        if self.source.payload_bytes_max == 0 {
            return Err(ConfigError::new("source.payload_bytes_max", 0, "1 or more bytes"));
        }
        self.check_paths()?;
        if let Some(deduplicate) = &self.deduplicate {
            let broker = self.source.mqtt.is_some().then(|| self.source.broker()).transpose()?;
            deduplicate.check(broker.as_ref())?;
        }
        match (&self.source.mqtt, self.source.files.is_empty()) {
            (Some(_), true) => self.source.broker().map(|_| ()),
            (None, false) if self.source.topics.is_empty() => Ok(()),
            (None, false) => {
                let topics = self.source.topics.join(" ");
                Err(ConfigError::new("source.topics", topics, "none beside `files`"))
            }
            // The URL is not shown: it may hold a password.
            (Some(_), false) => {
                let allowed = "either `mqtt` or `files`, not both";
                Err(ConfigError::new("source", "mqtt and files", allowed))
            }
            (None, true) => Err(ConfigError::new("source", "", "`mqtt` with `topics`, or `files`")),
        }
    }
}

impl Settings {
    /// How the job runs.
    pub(crate) fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let mut config = self.engine.runtime()?;
        config.restart = (&self.restart).into();
        if let Some(state) = &self.state {
            config.state = Some(state.config()?);
            config.tuning.state_memory_bytes_max = state.memory_bytes_max;
            config.tuning.state_pending_bytes_max = state.pending_bytes_max;
            config.validate().map_err(|error| within("state", error))?;
        }
        Ok(config)
    }

    /// No file is written that is read, or written twice: opening a sink empties its file.
    fn check_paths(&self) -> Result<(), ConfigError> {
        let result = match &self.sink {
            Sink::File { path } => Some(("sink.file.path", path)),
            Sink::Sqlite { path, .. } => Some(("sink.sqlite.path", path)),
            #[cfg(feature = "postgres")]
            Sink::Postgres { .. } => None,
            Sink::Stdout {} | Sink::Files { .. } | Sink::Mqtt { .. } => None,
        };
        let dead = self.dead_letters.path.as_ref().map(|path| ("dead_letters.path", path));
        let wrong = |key: &str, path: &Path, other: &str| {
            let allowed = format!("a file other than that of {other}");
            Err(ConfigError::new(key, path.display(), allowed))
        };
        for (key, path) in result.into_iter().chain(dead) {
            if self.source.files.iter().any(|file| same_file(file, path)) {
                return wrong(key, path, "source.files");
            }
        }
        if let (Sink::Files { dir }, Some(state)) = (&self.sink, &self.state)
            && within_another(dir, &state.dir)
        {
            let allowed = "a directory apart from state.dir";
            return Err(ConfigError::new("sink.files.dir", dir.display(), allowed));
        }
        match (result, dead) {
            (Some((other, path)), Some((key, dead))) if same_file(path, dead) => {
                wrong(key, dead, other)
            }
            _ => Ok(()),
        }
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
    fn config(&self) -> Result<StateConfig, ConfigError> {
        let journal =
            JournalConfig { cap_bytes: self.journal_bytes_max, ..JournalConfig::default() };
        journal.check().map_err(|error| within("state.journal_bytes_max", error))?;
        if self.pending_bytes_max < PENDING_BYTES_MIN {
            let allowed = format!("{PENDING_BYTES_MIN} or more (bytes)");
            return Err(ConfigError::new(
                "state.pending_bytes_max",
                self.pending_bytes_max,
                allowed,
            ));
        }
        if self.retained == 0 {
            return Err(ConfigError::new("state.retained", 0, "1 or more checkpoints"));
        }
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
        config.drop_unknown = self.drop_unknown;
        Ok(config)
    }
}

impl Source {
    /// The broker's settings; the error names the key in the file.
    pub(crate) fn broker(&self) -> Result<MqttConfig, ConfigError> {
        let url = self.mqtt.as_deref().unwrap_or_default();
        url.parse().map_err(|error| within("source.mqtt", error))
    }
}

/// `error` of a setting within the setting `key`.
pub(crate) fn within(key: &str, error: ConfigError) -> ConfigError {
    ConfigError { key: format!("{key}: {}", error.key), ..error }
}

impl Engine {
    pub(crate) fn runtime(&self) -> Result<RuntimeConfig, ConfigError> {
        let mut config = RuntimeConfig::default();
        if let Some(driver) = &self.driver {
            config.driver = driver.parse().map_err(|error| within("engine", error))?;
        }
        if let Some(cores) = &self.cores {
            config.cores =
                thalweg_runtime::cores(cores).map_err(|error| within("engine", error))?;
            config.shards = config.cores.len();
        }
        config.shards = self.shards.unwrap_or(config.shards);
        config.spin = Duration::from_micros(self.spin_us.unwrap_or(0));
        config.validate().map_err(|error| within("engine", error))?;
        Ok(config)
    }
}

/// The first mistake that figment found, in our words.
fn explain(figment: &Figment, error: figment::Error) -> ConfigError {
    let key = error.path.join(".");
    let from = error.metadata.as_ref().map(|source| format!(" (in {})", source.name));
    let from = from.unwrap_or_default();
    match &error.kind {
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            ConfigError::new(
                key,
                plain(found),
                format!("{}{from}", in_words(&expected.to_string())),
            )
        }
        Kind::UnknownField(name, known) | Kind::UnknownVariant(name, known) => {
            ConfigError::new(joined(&key, name), "", format!("{}{from}", known.join(", ")))
        }
        Kind::MissingField(name) => {
            ConfigError::new(joined(&key, name), "", "a value; it has no default")
        }
        // A value of the right type that does not parse, such as an address.
        Kind::Message(what) if !key.is_empty() => {
            let found = figment.find_value(&key).ok();
            let found = found.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
            ConfigError::new(key, found, format!("a value of the right form ({what}){from}"))
        }
        _ => ConfigError::new(key, "", format!("valid TOML: {error}")),
    }
}

/// A file that cannot be read as TOML at all.
fn not_toml(path: &Path, error: ConfigError) -> ConfigError {
    ConfigError { key: "FILE".into(), value: path.display().to_string(), ..error }
}

fn joined(path: &str, name: &str) -> String {
    // Figment's path to an unknown key already ends with its name.
    match path.rsplit('.').next() {
        Some(last) if last == name => path.to_owned(),
        Some("") | None => name.to_owned(),
        Some(_) => format!("{path}.{name}"),
    }
}

/// What serde expects, without the names of Rust's types.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" => "a whole number, 0 or more",
        "a sequence" => "a list: [\"a\", \"b\"]",
        text if text.starts_with("struct ") => "a table with its keys",
        text => text,
    }
}

fn plain(value: &Actual) -> String {
    match value {
        Actual::Str(text) => text.clone(),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
