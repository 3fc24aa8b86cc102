//! What the `thalweg` binary costs before it has done anything. That is its size, the time from its start
//! until it is ready, and what an idle process holds and burns.
//!
//! *Ready* is when the process says that the broker has confirmed its subscription; for a job on a
//! file, when the process has ended. Idle cost is read from `/proc`, so this runs on Linux only, as
//! does the engine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use crate::broker::Broker;

/// The ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that is not ready by then never will be.
const READY_MAX: Duration = Duration::from_secs(10);

/// The lines of the file job.
const LINES: u64 = 1_000;

/// A binary and a folder for the configurations it is run with.
pub struct Subject {
    binary: PathBuf,
    folder: tempfile::TempDir,
}

/// The figures of an idle process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// Resident memory, in MiB.
    pub rss_mib: f64,
    /// Resident memory that is not shared with files (the binary's own pages are), in MiB.
    pub rss_anon_mib: f64,
    /// CPU time as a share of one core, in percent.
    pub cpu_percent: f64,
    /// Threads.
    pub threads: u64,
}

/// How long starts took, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Starts {
    /// The fastest.
    pub min_ms: f64,
    /// Half of them took no longer.
    pub median_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Subject {
    /// Measures `binary`.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(binary: &Path) -> anyhow::Result<Self> {
        if !binary.is_file() {
            bail!(
                "there is no binary at {}; build it (cargo build --release -p thalweg --features full) or name it \
                 with --binary",
                binary.display()
            );
        }
        Ok(Self { binary: binary.to_owned(), folder: tempfile::tempdir()? })
    }

    /// The size of the binary in bytes, with and without its symbols.
    ///
    /// # Errors
    /// If it cannot be read. Without `strip` the second is `None`.
    pub fn sizes(&self) -> anyhow::Result<(u64, Option<u64>)> {
        let stripped = self.folder.path().join("stripped");
        let outcome = Command::new("strip").arg("-o").arg(&stripped).arg(&self.binary).status();
        let after = match outcome {
            Ok(status) if status.success() => Some(stripped.metadata()?.len()),
            _ => None,
        };
        Ok((self.binary.metadata()?.len(), after))
    }

    /// Starts the process until it has subscribed, again and again.
    ///
    /// # Errors
    /// If it ends, or does not subscribe.
    pub fn mqtt_starts(
        &self,
        broker: &Broker,
        driver: &str,
        times: usize,
    ) -> anyhow::Result<Starts> {
        let config = self.mqtt_config(broker, driver)?;
        let start = || {
            let begun = Instant::now();
            let _process = Process::ready(&self.binary, &config)?;
            Ok(begun.elapsed())
        };
        starts(times, start)
    }

    /// Runs a job over a small file to its end, again and again.
    ///
    /// # Errors
    /// If it fails.
    pub fn file_runs(&self, driver: &str, times: usize) -> anyhow::Result<Starts> {
        let [input, output] =
            ["input.jsonl", "output.jsonl"].map(|name| self.folder.path().join(name));
        let lines: String = (0..LINES)
            .map(|n| format!("{{\"device\":\"d{}\",\"ts\":{},\"value\":{n}.5}}\n", n % 10, n * 100))
            .collect();
        fs::write(&input, lines)?;
        let source = format!("files = [{input:?}]");
        let config =
            self.config("file.toml", &source, driver, &format!("[sink.file]\npath = {output:?}"))?;
        let start = || {
            let begun = Instant::now();
            let status = command(&self.binary, &config).stderr(Stdio::null()).status()?;
            let time = begun.elapsed();
            if !status.success() || fs::metadata(&output)?.len() == 0 {
                bail!("the job on a file failed ({status})");
            }
            Ok(time)
        };
        starts(times, start)
    }

    /// Lets the process idle on a quiet broker; the CPU counts after `settle`.
    ///
    /// # Errors
    /// If it does not get ready, or ends.
    pub fn idle(
        &self,
        broker: &Broker,
        driver: &str,
        settle: Duration,
        measure: Duration,
    ) -> anyhow::Result<Idle> {
        let config = self.mqtt_config(broker, driver)?;
        let process = Process::ready(&self.binary, &config)?;
        thread::sleep(settle);
        let (begun, before) = (Instant::now(), process.cpu_ticks()?);
        thread::sleep(measure);
        let ticks = process.cpu_ticks()? - before;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Idle {
            rss_mib: process.status("VmRSS")? as f64 / 1024.0,
            rss_anon_mib: process.status("RssAnon")? as f64 / 1024.0,
            cpu_percent: ticks as f64 / TICKS_PER_SECOND / seconds * 100.0,
            threads: process.status("Threads")?,
        })
    }

    fn mqtt_config(&self, broker: &Broker, driver: &str) -> anyhow::Result<PathBuf> {
        let source = format!(
            "mqtt = \"mqtt://{}:{}\"\ntopics = [\"thalweg-bench/idle/{{device}}\"]",
            broker.host, broker.port
        );
        self.config("mqtt.toml", &source, driver, "[sink.stdout]")
    }

    fn config(
        &self,
        name: &str,
        source: &str,
        driver: &str,
        sink: &str,
    ) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join(name);
        let toml = format!(
            "[engine]\ndriver = \"{driver}\"\n[source]\n{source}\n[window]\nsize = \"10s\"\n{sink}\n"
        );
        fs::write(&path, toml).context("cannot write the configuration")?;
        Ok(path)
    }
}

fn command(binary: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["--log", "info", "run"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn starts(
    times: usize,
    mut start: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Starts> {
    let mut all = (0..times.max(1)).map(|_| start()).collect::<anyhow::Result<Vec<_>>>()?;
    all.sort_unstable();
    let ms =
        |index: usize| all.get(index).map_or(0.0, |time| (time.as_secs_f64() * 1e4).round() / 10.0);
    Ok(Starts { min_ms: ms(0), median_ms: ms(all.len() / 2), max_ms: ms(all.len() - 1) })
}

/// A running `thalweg`; killed when dropped.
struct Process(Child);

impl Process {
    /// Starts it and returns once it has subscribed.
    fn ready(binary: &Path, config: &Path) -> anyhow::Result<Self> {
        let mut child = command(binary, config).stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().ok_or_else(|| anyhow!("there is no standard error"))?;
        let mut process = Self(child);
        let (ready, is_ready) = flume::bounded(1);
        // Goes on reading, so that the process can go on writing.
        thread::spawn(move || {
            let mut said = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if line.contains("subscribed to") {
                    let _nobody_waits = ready.try_send(Ok(()));
                }
                said.push_str(&line);
                said.push('\n');
            }
            let _nobody_waits = ready.try_send(Err(said));
        });
        match is_ready.recv_timeout(READY_MAX) {
            Ok(Ok(())) => Ok(process),
            Ok(Err(said)) => Err(anyhow!("it ended ({}): {said}", process.ended()?)),
            Err(_) => Err(anyhow!("it did not subscribe within {READY_MAX:?}")),
        }
    }

    fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.0.wait()?)
    }

    /// User and system time of all its threads.
    fn cpu_ticks(&self) -> anyhow::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        ticks_of(&stat).context("/proc/PID/stat does not look as it should")
    }

    /// A number of `/proc/PID/status`, in its own unit.
    fn status(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        number_of(&status, name).with_context(|| format!("/proc/PID/status has no {name}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// utime + stime. The name of the program, in parentheses, may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (utime, stime) = (fields.next()?, fields.next()?);
    Some(utime.parse::<u64>().ok()? + stime.parse::<u64>().ok()?)
}

fn number_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let stat = "71 (a ) b) S 1 71 71 0 -1 4194560 120 0 0 0 37 5 0 0 20 0 4 0 300 9 9";
        assert_eq!(ticks_of(stat), Some(42));
        let status = "Name:\tx\nVmRSS:\t    9216 kB\nThreads:\t4\n";
        assert_eq!(
            (number_of(status, "VmRSS"), number_of(status, "Threads")),
            (Some(9216), Some(4))
        );
        assert_eq!(number_of(status, "Vm"), None);
    }

    #[test]
    fn the_median_of_starts() {
        let mut times = [5, 1, 9].into_iter();
        let starts = starts(3, || Ok(Duration::from_millis(times.next().unwrap()))).unwrap();
        assert_eq!((starts.min_ms, starts.median_ms, starts.max_ms), (1.0, 5.0, 9.0));
    }
}
