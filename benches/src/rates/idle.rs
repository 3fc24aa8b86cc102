//! What a process costs that nobody publishes to. It has one subscription, a journal, and a checkpoint every 10 ms.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{major, minor};
use serde::Serialize;

use super::contender::Report;
use super::cost::{BEGIN, END, READY};
use super::options::Options;
use super::order::{Cell, Contender, State, Task};
use super::series::{Setting, order, start};
use super::table::print_idle;
use crate::broker::Broker;
use crate::report::{json_line, rounded};

/// The checkpoint interval.
const CHECKPOINT_MS: u64 = 10;
/// From the subscription until the measurement begins.
const SETTLE: Duration = Duration::from_secs(2);
/// A sector of Linux's block statistics.
const SECTOR_BYTES: u64 = 512;
/// The bar for what is written is over so long.
const WRITTEN_OVER_SECS: f64 = 600.0;

/// The figures of one driver.
#[derive(Clone, Debug, Serialize)]
struct Idle {
    mode: &'static str,
    contender: String,
    /// Context switches of all threads.
    switches_per_s: f64,
    cpu_percent: f64,
    /// As the process itself is charged.
    written_kib_in_10_min: f64,
    /// As its disk counts, with what others write.
    disk_written_bytes: Option<u64>,
    report: Report,
}

/// Measures every driver for `seconds`, and prints the figures.
///
/// # Errors
/// If a process fails.
pub fn run(options: &Options, setting: &Setting<'_>, seconds: u64) -> anyhow::Result<()> {
    let broker = Broker::start(setting.broker)?;
    let state = State::Journal { checkpoint_ms: Some(CHECKPOINT_MS) };
    let cell = Cell { task: Task::Averages, state, rate: 0 };
    let dir = options.state_dir();
    let mut rows = Vec::new();
    println!("{broker}; state in {}, a checkpoint every {CHECKPOINT_MS} ms", dir.display());
    for driver in &options.drivers {
        let contender = Contender::thalweg(*driver);
        let mut engine = start(&order(options, &broker, setting, cell, &contender))?;
        engine.wait_for(READY)?;
        thread::sleep(SETTLE);
        let before = disk_written_bytes(&dir);
        engine.tell(BEGIN)?;
        thread::sleep(Duration::from_secs(seconds));
        engine.tell(END)?;
        let after = disk_written_bytes(&dir);
        let report: Report = engine.finish()?;
        let cost = &report.cost;
        let idle = Idle {
            mode: "idle",
            contender: contender.to_string(),
            switches_per_s: rounded(cost.switches as f64 / cost.secs, 3),
            cpu_percent: rounded(cost.cpu_us / 1e4 / cost.secs, 4),
            written_kib_in_10_min: rounded(
                cost.written_bytes as f64 / 1024.0 / cost.secs * WRITTEN_OVER_SECS,
                1,
            ),
            disk_written_bytes: before.zip(after).map(|(before, after)| after - before),
            report: report.clone(),
        };
        json_line(&idle, setting.json)?;
        if let Some(bytes) = idle.disk_written_bytes {
            let kib = bytes / 1024;
            println!("{contender}: its disk wrote {kib} KiB in {seconds} s, for all programs");
        }
        if options.by_thread {
            for thread in &report.cost.threads {
                let each = |figure: f64| figure / report.cost.secs;
                let (cpu, switches) = (each(thread.cpu_us), each(thread.switches as f64));
                println!("{contender}, {}: {cpu:.1} us/s, {switches:.2} switches/s", thread.name);
            }
        }
        let Idle { switches_per_s, cpu_percent, written_kib_in_10_min, .. } = idle;
        rows.push((idle.contender, [switches_per_s, cpu_percent, written_kib_in_10_min]));
    }
    print_idle(&rows);
    Ok(())
}

/// What the disk below `dir` has written so far; unknown if `dir` is on no block device.
fn disk_written_bytes(dir: &Path) -> Option<u64> {
    let device = dir.metadata().ok()?.dev();
    let file = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    sectors_written(&fs::read_to_string(file).ok()?).map(|sectors| sectors * SECTOR_BYTES)
}

/// The seventh number.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_stand_in_the_seventh_place() {
        let stat =
            " 8199076    91148 236683074 32314664  4756574   924864 563481392  7637619   0\n";
        assert_eq!(sectors_written(stat), Some(563_481_392));
        assert_eq!(sectors_written(""), None);
    }
}
