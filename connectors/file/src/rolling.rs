//! A directory of part files that become visible when they are whole, exactly once.
//!
//! | module | what it does |
//! |---|---|
//! | `parts` | the names of part files, the shard's account of them, and its notes: pure |
//! | `writer` | [`RollingWriter`]: the sink's instance on a shard |
//! | `coordinator` | what all instances share, and what starts their thread |
//! | `committer` | what the thread behind the shards does, in steps: see [`thalweg_commits`] |
//! | `port` | what a shard and that thread tell each other |
//! | `disk` | what the thread asks of the file system: a seam |
//! | `recover` | what is done with the files of an earlier run |
//!
//! # The files
//! ```text
//! part-<instance>-<run>-<number><suffix>                               finished: whole, never changed
//! .part-<instance>-<run>-<number><suffix>.<tag>.inprogress             not yet
//! .part-<instance>-<run>-<number><suffix>.<tag>.open                   not yet, at least once
//! .part-<tag>.lock                                                     held by the run that writes here
//! ```
//! The run is the epoch that the job resumed from (at least once: the time of opening, in milliseconds). So no
//! name is ever used twice, even where readers take finished files away. The tag is a hash of the job and the
//! sink: what another one has left is not touched. But two would choose equal names for finished parts, which ends
//! the later one: give each a directory of its own.
//!
//! # The protocol
//! 1. A shard appends lines to its part in progress. The part is *rolled* when it is large enough, old
//!    enough, or has been silent for long enough; the next line begins another one.
//! 2. At a barrier what was written is synced, and the epoch's note holds name and length of every
//!    part that cannot be seen yet.
//! 3. When the epoch exists, the parts that were rolled before it are renamed, and the directory is synced. That
//!    is the moment when their results are seen.
//! 4. After a restart every part in the notes is cut to its noted length and finished, whichever instance has the
//!    note and however often it is done. Hidden parts of this job and sink that are in no note belong to epochs
//!    that do not exist, and are removed.
//!
//! An earlier run's thread may still be at work when the next one opens; the lock lets it end first.
//!
//! # Changelogs
//! The parts of a changelog hold its changes, each with its kind in the field `op`. The changes of one key that
//! come through one shard in each run are in order if parts are read by run, instance and number.
//!
//! # Limits
//! A shard is ready while fewer than [`QUEUED_BYTES_MAX`] bytes wait to be written. A full disk is waited
//! out; a failed sync is final. A crash makes small files: what was in progress is finished, not continued.
//! The file system must rename atomically: no network drives that do not.

mod committer;
mod coordinator;
mod disk;
mod parts;
mod port;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use thalweg_kernel::{ConfigError, ConnectorError, Encode, Epoch, OpenContext, SinkSpec};

use coordinator::FileCoordinator;
use disk::Directory;
use parts::Name;
pub use writer::RollingWriter;

/// A shard with this much waiting to be written is not ready.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// A part is rolled at this size, unless told otherwise.
pub const ROLL_BYTES: u64 = 128 * 1024 * 1024;
/// A part is rolled at this age, and after this long without a line, unless told otherwise.
pub const ROLL_AFTER: Duration = Duration::from_secs(60);

/// When a part is full, and what it is called.
#[derive(Clone, Debug)]
struct Rolling {
    bytes: u64,
    after: Duration,
    idle: Duration,
    at_checkpoints: bool,
    suffix: String,
}

/// Writes records into part files in a directory, a line each; see the [module](self).
///
/// Parts are seen once they are finished and their epoch exists. Each has its own header, where the format has
/// one. Without checkpoints, or with [`at_least_once`](Self::at_least_once), a part is seen as soon as it is
/// rolled. What was in progress at a crash is kept up to its last whole line.
///
/// ```no_run
/// # use std::time::Duration;
/// # use thalweg_file::RollingFiles;
/// # use thalweg_format::JsonLines;
/// let sink = RollingFiles::new("/var/lib/plant/averages", JsonLines)
///     .suffix(".jsonl")
///     .roll_bytes(16 * 1024 * 1024)
///     .roll_after(Duration::from_secs(3600))
///     .roll_idle(Duration::from_secs(60));
/// sink.check()?;
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RollingFiles<E> {
    directory: PathBuf,
    encoder: E,
    rolling: Rolling,
    at_least_once: bool,
}

impl<E> RollingFiles<E> {
    /// A sink into `directory`, which is made if it is not there.
    pub fn new(directory: impl Into<PathBuf>, encoder: E) -> Self {
        let rolling = Rolling {
            bytes: ROLL_BYTES,
            after: ROLL_AFTER,
            idle: ROLL_AFTER,
            at_checkpoints: false,
            suffix: String::new(),
        };
        Self { directory: directory.into(), encoder, rolling, at_least_once: false }
    }

    /// What the names of parts end with, such as `.csv`.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.rolling.suffix = suffix.into();
        self
    }

    /// Rolls a part that has this many bytes; by default [`ROLL_BYTES`].
    #[must_use]
    pub fn roll_bytes(mut self, bytes: u64) -> Self {
        self.rolling.bytes = bytes;
        self
    }

    /// Rolls a part that was begun this long ago; by default [`ROLL_AFTER`].
    #[must_use]
    pub fn roll_after(mut self, age: Duration) -> Self {
        self.rolling.after = age;
        self
    }

    /// Rolls a part that has got no line for this long; by default [`ROLL_AFTER`].
    #[must_use]
    pub fn roll_idle(mut self, silence: Duration) -> Self {
        self.rolling.idle = silence;
        self
    }

    /// Also rolls at every checkpoint: results are seen as soon as their epoch exists, in many files.
    #[must_use]
    pub fn roll_at_checkpoints(mut self) -> Self {
        self.rolling.at_checkpoints = true;
        self
    }

    /// Does not wait for epochs: after a crash some results may be there twice.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// Checks the settings. Opens nothing.
    ///
    /// # Errors
    /// Names the first one that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Rolling { bytes, after, idle, suffix, .. } = &self.rolling;
        if *bytes == 0 {
            return Err(ConfigError::new("roll_bytes", bytes, "1 or more"));
        }
        for (key, value) in [("roll_after", after), ("roll_idle", idle)] {
            if value.is_zero() {
                return Err(ConfigError::new(key, "0", "more than 0"));
            }
        }
        if suffix.len() > 64 || suffix.contains(['/', '\0']) {
            let allowed = "up to 64 bytes, none of them a slash";
            return Err(ConfigError::new("suffix", suffix, allowed));
        }
        Ok(())
    }

    /// Whether parts wait for their epochs.
    const fn holds(&self, cx: &OpenContext) -> bool {
        cx.durability.checkpoints && !self.at_least_once
    }

    fn name(&self) -> String {
        format!("files {}", self.directory.display())
    }

    fn start(&self, cx: &OpenContext) -> Result<FileCoordinator, ConnectorError> {
        let name = self.name();
        self.check()
            .map_err(|cause| ConnectorError::new(&name, "wrong setting").caused_by(cause))?;
        let tag = parts::tag(cx);
        let disk = Directory::open(&self.directory, tag).map_err(|cause| {
            let what = "cannot use it: is it a directory, and may you write?";
            ConnectorError::new(&name, what).caused_by(cause)
        })?;
        FileCoordinator::start(name, cx, &self.rolling, tag, self.holds(cx), disk)
    }

    /// The number of the next part of this instance and run: behind those that are there.
    fn first_number(&self, instance: u16, run: u64) -> u32 {
        let numbers = disk::names(&self.directory).unwrap_or_default().into_iter();
        let parts = numbers.filter_map(|name| Name::parse(&name));
        let mine = parts.filter(|part| (part.instance, part.run) == (instance, run));
        mine.map(|part| part.number.saturating_add(1)).max().unwrap_or_default()
    }
}

impl<T: 'static, E: Encode<T> + Clone + 'static> SinkSpec<T> for RollingFiles<E> {
    type Writer = RollingWriter<E>;

    fn describe(&self) -> String {
        self.name()
    }

    fn open(&self, cx: &OpenContext) -> Result<RollingWriter<E>, ConnectorError> {
        let coordinator = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx))?;
        let holds = self.holds(cx);
        let run = match cx.durability.restored {
            _ if !holds => now_ms(),
            restored => restored.unwrap_or(Epoch::NONE).number(),
        };
        let instance = cx.shard as u16;
        let next = Name { instance, run, number: self.first_number(instance, run) };
        coordinator.open(cx, self.encoder.clone(), self.rolling.clone(), holds, next)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
