//! What a process has cost between two looks at itself, thread by thread, as `/proc` says. A process is measured by
//! itself alone: it says `ready`, looks when it hears `begin` and `end`, and goes on when its input ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::report::{peak_rss_mib, process_cpu};

/// What a measured process says when messages may come.
pub const READY: &str = "ready";
/// What it is told when the measurement begins.
pub const BEGIN: &str = "begin";
/// What it is told when the measurement ends.
pub const END: &str = "end";

/// What a process has cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time in seconds.
    pub secs: f64,
    /// CPU time, user and system, in microseconds.
    pub cpu_us: f64,
    /// Context switches, voluntary and not.
    pub switches: u64,
    /// What it is charged with writing to block devices, now or later.
    pub written_bytes: u64,
    /// Peak resident memory in MiB.
    pub peak_rss_mib: f64,
    /// Its threads, those left out that did nothing. Threads of one name are one.
    pub threads: Vec<Thread>,
}

/// What a thread has cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name, which Linux cuts at 15 bytes.
    pub name: String,
    /// CPU time in microseconds.
    pub cpu_us: f64,
    /// Context switches, voluntary and not.
    pub switches: u64,
}

/// What a process had cost when it looked.
struct Look {
    at: Instant,
    cpu: Duration,
    written_bytes: u64,
    threads: BTreeMap<u32, Thread>,
}

impl Look {
    fn now() -> anyhow::Result<Self> {
        let io = fs::read_to_string("/proc/self/io").context("cannot read /proc/self/io")?;
        let written_bytes = number(&io, "write_bytes").context("/proc/self/io is not as usual")?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?;
            // A thread may have ended meanwhile.
            if let (Some(id), Some(thread)) = (
                task.file_name().to_str().and_then(|name| name.parse().ok()),
                Thread::read(&task.path()),
            ) {
                threads.insert(id, thread);
            }
        }
        Ok(Self { at: Instant::now(), cpu: process_cpu(), written_bytes, threads })
    }

    fn until(&self, later: &Self) -> anyhow::Result<Cost> {
        let mut threads: BTreeMap<&str, Thread> = BTreeMap::new();
        for (id, thread) in &later.threads {
            let before = self.threads.get(id).cloned().unwrap_or_default();
            let sum = threads.entry(&thread.name).or_default();
            sum.name.clone_from(&thread.name);
            sum.cpu_us += thread.cpu_us - before.cpu_us;
            sum.switches += thread.switches.saturating_sub(before.switches);
        }
        let worked = |thread: &Thread| thread.switches > 0 || thread.cpu_us > 0.0;
        let threads: Vec<_> = threads.into_values().filter(worked).collect();
        Ok(Cost {
            secs: (later.at - self.at).as_secs_f64(),
            cpu_us: later.cpu.saturating_sub(self.cpu).as_secs_f64() * 1e6,
            switches: threads.iter().map(|thread| thread.switches).sum(),
            written_bytes: later.written_bytes.saturating_sub(self.written_bytes),
            peak_rss_mib: peak_rss_mib()?,
            threads,
        })
    }
}

impl Thread {
    fn read(task: &std::path::Path) -> Option<Self> {
        let read = |file: &str| fs::read_to_string(task.join(file)).ok();
        let (name, status, scheduled) = (read("comm")?, read("status")?, read("schedstat")?);
        let cpu_ns: u64 = scheduled.split(' ').next()?.parse().ok()?;
        let switches = number(&status, "voluntary_ctxt_switches")?
            + number(&status, "nonvoluntary_ctxt_switches")?;
        Some(Self { name: name.trim_end().to_owned(), cpu_us: cpu_ns as f64 / 1e3, switches })
    }
}

/// The number behind `name:` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// In the measured process, once messages can come: works until its input ends. Returns what it has cost from `begin`
/// to `end`.
///
/// # Errors
/// If it is told something else, or `/proc` cannot be read.
pub fn obey() -> anyhow::Result<Cost> {
    println!("{READY}");
    stdout().flush()?;
    let (mut begun, mut ended) = (None, None);
    for line in stdin().lock().lines() {
        match line?.as_str() {
            BEGIN => begun = Some(Look::now()?),
            END => ended = Some(Look::now()?),
            other => anyhow::bail!("a measured process was told {other:?}"),
        }
    }
    let begun = begun.with_context(|| format!("a measured process was never told {BEGIN:?}"))?;
    let ended = ended.with_context(|| format!("a measured process was never told {END:?}"))?;
    begun.until(&ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_thread_that_waits_is_a_switch_for_each_wait() {
        const WAITS: u64 = 100;
        let ((ask, asked), (answer, answered)) = (mpsc::channel::<()>(), mpsc::channel());
        let waiting = thread::Builder::new().name("waiting".into()).spawn(move || {
            while asked.recv().is_ok() {
                let spun = Instant::now();
                while spun.elapsed() < Duration::from_micros(100) {}
                answer.send(()).unwrap();
            }
        });
        let round = || {
            ask.send(()).unwrap();
            answered.recv().unwrap();
        };
        round();
        let before = Look::now().unwrap();
        (0..WAITS).for_each(|_| round());
        let cost = before.until(&Look::now().unwrap()).unwrap();
        let thread = cost.threads.iter().find(|thread| thread.name == "waiting").unwrap();
        assert!(thread.switches >= WAITS / 2, "{thread:?}");
        assert!(thread.cpu_us >= 5_000.0 && thread.cpu_us <= cost.cpu_us, "{cost:?}");
        assert!(cost.switches >= thread.switches && cost.secs > 0.0, "{cost:?}");
        drop(ask);
        waiting.unwrap().join().unwrap();
    }

    #[test]
    fn numbers_stand_behind_their_name() {
        let status = "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(number(status, "voluntary_ctxt_switches"), Some(7));
        assert_eq!(number(status, "nonvoluntary_ctxt_switches"), Some(2));
        assert_eq!(number(status, "ctxt_switches"), None);
    }
}
