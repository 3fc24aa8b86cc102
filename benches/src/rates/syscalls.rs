//! How many system calls a process makes, counted from outside while it works. With strace each call has its name, and
//! is slower by some tens of microseconds. So a process under strace gathers more messages in a read, and its count
//! is too low at high rates. The counter of perf is hardly noticed, but knows no names, and not every kernel has it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a counter has to attach to all threads.
const ATTACH: Duration = Duration::from_millis(500);

/// With what system calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Counter {
    /// strace -c -f
    Strace,
    /// perf stat -e raw_syscalls:sys_enter
    Perf,
}

/// System calls of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    /// All of them.
    pub total: u64,
    /// Each one's name and number, the most frequent first; none from perf.
    pub by_name: Vec<(String, u64)>,
}

/// A counter that is attached to a process. It is killed when dropped before it was [read](Self::read).
pub struct Attached {
    counter: Counter,
    child: Child,
    report: PathBuf,
    _dir: TempDir,
}

impl Counter {
    /// Counts the calls of a process and of all its threads from now on.
    ///
    /// # Errors
    /// If it is not installed, or may not look at this process.
    pub fn attach(self, process: u32) -> anyhow::Result<Attached> {
        let dir = tempfile::tempdir()?;
        let report = dir.path().join("calls");
        let (name, arguments): (_, &[&str]) = match self {
            Self::Strace => ("strace", &["-c", "-f"]),
            Self::Perf => ("perf", &["stat", "-x,", "-e", "raw_syscalls:sys_enter"]),
        };
        let mut command = Command::new(name);
        command.args(arguments).arg("-o").arg(&report).arg("-p").arg(process.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut attached = Attached { counter: self, child, report, _dir: dir };
        thread::sleep(ATTACH);
        if let Some(status) = attached.child.try_wait()? {
            bail!("{name} cannot attach to process {process} ({status}); it may want root");
        }
        Ok(attached)
    }
}

impl Attached {
    /// Detaches, and reads what was counted.
    ///
    /// # Errors
    /// If the counter failed.
    pub fn read(mut self) -> anyhow::Result<Calls> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("a process has no number")?, Signal::INT)?;
        self.child.wait()?;
        let text = fs::read_to_string(&self.report).context("the counter wrote no report")?;
        let calls = match self.counter {
            Counter::Strace => of_strace(&text),
            Counter::Perf => of_perf(&text),
        };
        ensure!(calls.total > 0, "the counter's report holds no calls: {text:?}");
        Ok(calls)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It has ended by itself unless something failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A line is the share of time, seconds, microseconds a call, calls, errors if there were any, and the name.
fn of_strace(text: &str) -> Calls {
    let row = |line: &str| -> Option<(String, u64)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first()?.parse::<f64>().ok()?;
        Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
    };
    let mut by_name: Vec<_> = text.lines().filter_map(row).collect();
    by_name.retain(|(name, _)| name != "total");
    by_name.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    Calls { total: by_name.iter().map(|(_, calls)| calls).sum(), by_name }
}

fn of_perf(text: &str) -> Calls {
    let line = text.lines().find(|line| line.contains("sys_enter"));
    let total = line.and_then(|line| line.split(',').next()?.parse().ok());
    Calls { total: total.unwrap_or_default(), by_name: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let strace = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 75.00    0.003000           3      1000       500 read
 25.00    0.001000           1      2000           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.004000           1      3000       500 total
";
        let calls = of_strace(strace);
        let by_name = [("write".to_owned(), 2_000), ("read".to_owned(), 1_000)];
        assert_eq!((calls.total, &calls.by_name[..]), (3_000, &by_name[..]));
        assert_eq!(of_perf("# started\n\n145,,raw_syscalls:sys_enter,100,1,,\n").total, 145);
        assert_eq!(of_perf("<not supported>,,raw_syscalls:sys_enter\n"), Calls::default());
    }
}
