//! What every throughput measurement reports: CPU time and peak memory of this process, a table for
//! people, and a JSON line for programs.
//!
//! CPU time and the peak belong to a process as a whole. Measure one engine per process: see
//! [`process::measure`](crate::process::measure).

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// CPU time of this process so far, user and system, over all its threads, ended ones too.
pub fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The most memory that this process has had resident, in MiB: `VmHWM`.
///
/// # Errors
/// If `/proc/self/status` cannot be read.
pub fn peak_rss_mib() -> anyhow::Result<f64> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read this process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("this kernel reports no VmHWM")?.parse()?;
    Ok(rounded(kib / 1_024.0, 2))
}

/// What a piece of work has cost, from [`Meter::start`] to [`Meter::stop`].
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    begun: Instant,
    cpu_before: Duration,
}

/// The cost of a piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Wall time.
    pub wall: Duration,
    /// CPU time of the whole process, user and system.
    pub cpu: Duration,
}

impl Meter {
    /// From now on.
    pub fn start() -> Self {
        Self { cpu_before: process_cpu(), begun: Instant::now() }
    }

    /// Until now.
    pub fn stop(self) -> Spent {
        let wall = self.begun.elapsed();
        Spent { wall, cpu: process_cpu().saturating_sub(self.cpu_before) }
    }
}

impl Spent {
    /// Wall time in seconds, to the microsecond.
    pub fn secs(&self) -> f64 {
        rounded(self.wall.as_secs_f64(), 6)
    }

    /// How many of `events` there were in each second.
    pub fn events_per_s(&self, events: u64) -> f64 {
        (events as f64 / self.wall.as_secs_f64().max(1e-9)).round()
    }

    /// CPU time for each of `events`, in nanoseconds.
    pub fn cpu_ns_per_event(&self, events: u64) -> f64 {
        rounded(self.cpu.as_nanos() as f64 / events.max(1) as f64, 3)
    }
}

/// `value` with the given number of decimals.
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let steps = 10f64.powi(decimals);
    (value * steps).round() / steps
}

/// The middle of `values`, or the mean of the two in the middle; 0 if there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => 0.0,
        (middle, 0) => (values[middle - 1] + values[middle]) / 2.0,
        (middle, _) => values[middle],
    }
}

/// Prints `line` as JSON on a line of its own, and appends it to `file`.
///
/// # Errors
/// If the file cannot be written.
pub fn json_line(line: &impl Serialize, file: Option<&Path>) -> anyhow::Result<()> {
    let text = serde_json::to_string(line)?;
    println!("{text}");
    if let Some(path) = file {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened
            .and_then(|mut file| writeln!(file, "{text}"))
            .with_context(|| format!("cannot append to {}", path.display()))?;
    }
    Ok(())
}

/// A table of text: the first column is aligned left, the others right.
#[derive(Clone, Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self(vec![headings.map(str::to_owned).into()])
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.0.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> = (0..columns)
            .map(|at| cells(at).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.0 {
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match at {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_the_cpu_time_it_takes_on_any_thread() {
        let meter = Meter::start();
        std::thread::spawn(|| {
            let begun = process_cpu();
            while process_cpu() - begun < Duration::from_millis(20) {}
        })
        .join()
        .unwrap();
        let spent = meter.stop();
        assert!(spent.cpu >= Duration::from_millis(20) && spent.wall > Duration::ZERO, "{spent:?}");
        assert!(spent.cpu_ns_per_event(1_000) >= 20_000.0);
    }

    #[test]
    fn the_peak_counts_what_has_been_freed_again() {
        drop(std::hint::black_box(vec![1_u8; 32 << 20]));
        assert!(peak_rss_mib().unwrap() >= 32.0);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn lines_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.jsonl");
        for n in 0..2 {
            json_line(&serde_json::json!({ "n": n }), Some(&file)).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"n\":0}\n{\"n\":1}\n");
        assert!(json_line(&1, Some(dir.path())).unwrap_err().to_string().contains("cannot append"));
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(["engine", "ns"]);
        table.row(["a".into(), "1,000".into()]);
        assert_eq!(table.to_string(), "engine     ns\na       1,000\n");
    }
}
