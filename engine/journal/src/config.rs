//! [`JournalConfig`]: sizes and waits of a journal, with their defaults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thalweg_kernel::ConfigError;

use crate::format::{HEADER_BYTES, record_size};

const MIB: u64 = 1 << 20;

/// How groups are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// What measured best. A journal that is used on a shard gives io_uring writes that are durable when they complete and go past
    /// the page cache. On ext4 a group of 400 bytes takes 38 us of CPU so. Elsewhere a thread uses plain calls, 85 us. (An `fdatasync`
    /// on io_uring takes a worker thread of the kernel, and 130 us.)
    #[default]
    Auto,
    /// io_uring, write and sync linked in one submission. Opening fails where the kernel forbids it.
    Uring,
    /// `pwrite`, then `fdatasync`.
    Plain,
}

impl FromStr for Backend {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::Uring),
            "plain" => Ok(Self::Plain),
            _ => Err(ConfigError::new("journal.backend", text, "auto, io_uring, plain")),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "io_uring",
            Self::Plain => "plain",
        })
    }
}

/// Sizes and waits of a journal. It uses at most `cap_bytes` on disk and, while it is written, twice
/// `group_bytes_max` (or twice its largest record) in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// A segment's size in bytes: 16 MiB. Trimming is by whole segments.
    pub segment_bytes: u64,
    /// What a journal may take on disk, in bytes: 256 MiB, with the segment prepared ahead. At the cap it
    /// takes no more, until it is trimmed.
    pub cap_bytes: u64,
    /// A group's size in bytes: 1 MiB. Also what may wait in memory while the group before is being
    /// written; more is refused for the moment.
    pub group_bytes_max: usize,
    /// The largest record, in bytes: 8 MiB.
    pub record_bytes_max: usize,
    /// How groups are written.
    pub backend: Backend,
    /// Whether zeros are written over a new segment, ahead and in the background. Syncing into it is faster
    /// then, since no extents are converted (ext4, 4 KiB at p50: 93 us against 181 us). Costs each byte a
    /// second write: turn it off where flash wear matters more than the time of a sync.
    pub zero_fill: bool,
    /// How often a full disk is tried again: every second.
    pub full_retry: Duration,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * MIB,
            cap_bytes: 256 * MIB,
            group_bytes_max: MIB as usize,
            record_bytes_max: 8 * MIB as usize,
            backend: Backend::Auto,
            zero_fill: true,
            full_retry: Duration::from_secs(1),
        }
    }
}

/// The smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4096;
/// The largest segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The largest record that can be allowed, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

impl JournalConfig {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first that does not, and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            let allowed = format!("{least} to {most} (bytes)");
            let ok = (least..=most).contains(&value);
            if ok { Ok(()) } else { Err(ConfigError::new(key, value.to_string(), allowed)) }
        };
        within("journal.segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?;
        within(
            "journal.record_bytes_max",
            self.record_bytes_max as u64,
            1,
            RECORD_BYTES_MAX as u64,
        )?;
        within("journal.group_bytes_max", self.group_bytes_max as u64, 512, SEGMENT_BYTES_MAX)?;
        // One segment that is being filled, and one for the largest group, or nothing would ever move.
        let largest = self.group_bytes_max.max(record_size(self.record_bytes_max)) as u64;
        let second = self.segment_bytes.max((HEADER_BYTES + largest).next_multiple_of(4096));
        within(
            "journal.cap_bytes",
            self.cap_bytes,
            self.segment_bytes.max(second) + second,
            1 << 50,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_go_together_are_named() {
        assert_eq!(JournalConfig::default().check(), Ok(()));
        let check = |change: fn(&mut JournalConfig), key: &str| {
            let mut config = JournalConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        };
        check(|c| c.segment_bytes = 100, "journal.segment_bytes");
        check(|c| c.cap_bytes = 31 << 20, "journal.cap_bytes");
        check(|c| c.record_bytes_max = 0, "journal.record_bytes_max");
        check(|c| c.group_bytes_max = 1, "journal.group_bytes_max");
    }

    #[test]
    fn back_ends_have_names() {
        for backend in [Backend::Auto, Backend::Uring, Backend::Plain] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        let error = "aio".parse::<Backend>().unwrap_err().to_string();
        assert!(error.contains("auto, io_uring, plain"), "{error}");
    }
}
