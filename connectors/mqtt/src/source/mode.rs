//! [`Mode`]: when a source acknowledges; [`Start`]: where it begins.

use std::fmt;

use thalweg_kernel::options::Setting;
use thalweg_kernel::{Timestamp, choices};

/// When a message of QoS 1 or 2 is acknowledged, and hence what a crash can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once the shard has emitted it: a crash loses what had no checkpoint yet. The default of a job
    /// without a state directory.
    None,
    /// Once an epoch that covers it exists. Loses nothing; repeats what was not acknowledged, to the state
    /// of that epoch after a crash, and to the running state after a lost connection. The broker's
    /// window bounds the messages per checkpoint interval: 20 of mosquitto's default.
    AckOnCheckpoint,
    /// Once it is durable in the journal, from which it is read again after a crash: from its
    /// acknowledgement on its effect happens once. The default of a job with a state directory.
    Journal,
}

choices! {
    Mode: "none" => Mode::None, "ack_on_checkpoint" => Mode::AckOnCheckpoint, "journal" => Mode::Journal
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// Where a source with a journal begins in a job that resumes from no checkpoint. One that does
/// goes on behind that checkpoint, whatever is said here. Live messages follow without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record still kept: messages that were acknowledged before a first checkpoint
    /// are not lost. The default.
    #[default]
    Resume,
    /// At the record of this number. It must still be kept.
    Position(u64),
    /// At the first record that was received at this time or later.
    Time(Timestamp),
}
