//! The command line of both modes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use thalweg::runtime::DriverKind;

use super::order::{State, Task};
use super::syscalls::Counter;

/// Options of `--rates` and `--idle`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "At several rates, or idle")]
pub struct Options {
    /// Messages per second, one after the other: a row for each rate and contender
    #[arg(long, value_name = "N,...", value_delimiter = ',', conflicts_with_all = ["rate", "driver", "peer"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rates: Vec<u64>,

    /// Measure a process that nobody publishes to, with a subscription, a journal and 10 ms checkpoints
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60", conflicts_with_all = ["rates", "rate", "driver", "peer"], value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub idle: Option<u64>,

    /// Drivers of Thalweg, each a contender, by the names that --driver has
    #[arg(long, value_name = "DRIVER,...", value_delimiter = ',', default_value = "auto")]
    pub drivers: Vec<DriverKind>,

    /// Latency budgets of Thalweg, each a contender
    #[arg(long, value_name = "TIME,...", value_delimiter = ',', default_value = "0s", value_parser = humantime::parse_duration)]
    pub budgets: Vec<Duration>,

    /// none (QoS 0), journal (QoS 1, a journal, and a checkpoint every 1s, for the job through every 10ms), or
    /// journal:TIME
    #[arg(long, value_name = "STATE,...", value_delimiter = ',', default_value = "none,journal")]
    pub state: Vec<State>,

    /// What the contenders do
    #[arg(
        long,
        value_enum,
        value_name = "JOB,...",
        value_delimiter = ',',
        default_value = "averages,through"
    )]
    pub jobs: Vec<Task>,

    /// Count system calls, too, in a short run of its own for each row
    #[arg(long, value_enum, value_name = "WITH", num_args = 0..=1, require_equals = true, default_missing_value = "strace", requires = "rates")]
    pub syscalls: Option<Counter>,

    /// Print CPU time and context switches of each thread
    #[arg(long)]
    pub by_thread: bool,

    /// Where state directories are made, which says which disk is measured; where temporary files are by default
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// What a process of its own is to do
    #[arg(long, hide = true, value_name = "JSON")]
    pub order: Option<String>,
}

impl Options {
    /// Where state directories are made.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.as_deref().map_or_else(std::env::temp_dir, Path::to_owned)
    }
}
