//! Goal: a process that runs one job after the other keeps nothing of jobs that have ended. No thread is left, no
//! file or socket, and no memory that grows with their number. While a job runs, its threads bear its name and keep
//! to its cores.
//!
//! Method: 50 jobs one after the other, on both drivers. They have stored state, a journal, files, SQLite and, where
//! there is one, a real broker at both ends. Each watches for signals. The first few fill what is filled once
//! (allocator, interned names, the process's own threads); after that the counts are those of the first look.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use thalweg::Shutdown;
use thalweg::prelude::*;
use thalweg_mqtt::testing::Mosquitto;

/// Jobs that fill what is filled once, and jobs that must leave nothing.
const FIRST: usize = 6;
const JOBS: usize = 50;
const DRIVERS: [DriverKind; 2] = [DriverKind::Glommio, DriverKind::Threads];
const SHARDS: usize = 2;
/// What executors sleep on.
const EVENTFD: &str = "[eventfd]";
/// What [`JOBS`] jobs may add to the process's memory: allocators keep some pages by chance. A job takes megabytes.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

#[derive(Clone, Debug, Deserialize)]
struct Numbered {
    n: u64,
}

/// The names of this process's threads, without their numbers in it.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default().trim().to_owned()
    };
    let mut names: Vec<_> = tasks.map(name).filter(|name| !name.is_empty()).collect();
    names.sort();
    names
}

fn eventfds() -> usize {
    open_files().iter().filter(|name| name.contains(EVENTFD)).count()
}

/// What this process has open but for notifiers of executors.
fn files() -> Vec<String> {
    open_files().into_iter().filter(|name| !name.contains(EVENTFD)).collect()
}

fn open_files() -> Vec<String> {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let target = |file: std::io::Result<fs::DirEntry>| {
        fs::read_link(file.unwrap().path()).ok().map(|target| target.display().to_string())
    };
    // The look itself has the directory open.
    let mut files: Vec<_> = open.filter_map(target).filter(|name| !name.ends_with("/fd")).collect();
    files.sort();
    files
}

fn memory_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// A job of this number in a directory of its own, on the first core of this process.
fn run(number: usize, broker: Option<&Mosquitto>, core: usize) {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..200).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    fs::write(dir.path().join("in"), text).unwrap();
    let state = StateConfig::new(StateDirectory::new(dir.path().join("state")).backend());
    let driver = DRIVERS[number % DRIVERS.len()];
    let (cores, state) = (vec![core], Some(state));
    let config = RuntimeConfig { shards: SHARDS, driver, cores, state, ..RuntimeConfig::default() };
    let connected = Arc::new(AtomicBool::new(broker.is_none()));
    let job = job(number, dir.path(), broker, &connected);
    let shutdown = Shutdown::watch();
    let running = Arc::new(job.start(&config).unwrap());
    let _watch = shutdown.ends(&running);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !connected.load(Ordering::Acquire) {
        assert!(Instant::now() < deadline, "the broker does not answer");
        thread::sleep(Duration::from_millis(1));
    }
    look_at_threads(broker.is_some(), core);
    if broker.is_some() {
        running.stop();
    }
    running.join().unwrap();
}

fn job(number: usize, dir: &Path, broker: Option<&Mosquitto>, connected: &Arc<AtomicBool>) -> Job {
    let (source, dir) = (FileSource::new(dir.join("in"), Json::<Numbered>::new()), dir.to_owned());
    let remote = broker.map(|broker| {
        let connected = Arc::clone(connected);
        let config = |end: &str| broker.config().client_id(format!("left-{end}-{number}"));
        let source = MqttSource::new(config("in"), Json::<Numbered>::new())
            .topic("numbers")
            .on_subscribed(move || connected.store(true, Ordering::Release));
        (source, MqttSink::new(config("out"), "counts", JsonLines))
    });
    Job::new("leftovers", move |flow| {
        let by_number = || Watermarks::monotonous().timestamps(|number: &Numbered| number.n as i64);
        let [rows, more] = flow
            .source(source.clone(), by_number())
            .key_by(|number| number.n % 10)
            .window(Tumbling::of(Duration::from_millis(50)))
            .aggregate(Count)
            .map(|row: Windowed<u64, u64>| (row.key as i64, row.value as i64))
            .split();
        rows.sink(
            SqliteSink::new(dir.join("out.db"), "counts")
                .key("key", |row: &(i64, i64)| row.0)
                .column("value", |row: &(i64, i64)| row.1),
        );
        more.sink(FileSink::new(dir.join("out.jsonl"), JsonLines));
        if let Some((source, sink)) = &remote {
            flow.source(source.clone(), by_number()).map(|number| number.n).sink(sink.clone());
        }
    })
}

/// The job's threads, while it runs: who they are, and where they may run.
fn look_at_threads(has_broker: bool, core: usize) {
    let mut own = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        let Some((_, role)) = name.trim().split_once('/') else { continue };
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let (_, allowed) = status.split_once("Cpus_allowed_list:").unwrap();
        assert_eq!(allowed.lines().next().unwrap().trim(), core.to_string(), "{name}");
        own.insert(role.trim_end_matches(char::is_numeric).to_owned());
    }
    // The file may have been read by now. Without a broker the job may have ended, too.
    own.remove("in");
    if has_broker {
        let expected = ["out", "s", "super"].map(str::to_owned);
        assert_eq!(own, BTreeSet::from(expected));
    }
}

#[test]
fn jobs_that_have_ended_leave_nothing_behind() {
    let broker = Mosquitto::options().start();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let (_, allowed) = status.split_once("Cpus_allowed_list:").unwrap();
    let core = allowed.trim().split(['-', ',', '\n']).next().unwrap().parse().unwrap();
    (0..FIRST).for_each(|number| run(number, broker.as_ref(), core));
    let (before, notifiers) = ((threads(), files()), eventfds());
    let bytes = memory_bytes();
    (0..JOBS).for_each(|number| run(FIRST + number, broker.as_ref(), core));
    // What a job has detached may be about to end.
    let deadline = Instant::now() + Duration::from_secs(10);
    while (threads(), files()) != before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(threads(), before.0);
    assert_eq!(files(), before.1);
    // Of glommio's executors each leaves one: see `engine/runtime/src/driver/glommio.rs`.
    let executors = JOBS / DRIVERS.len() * SHARDS;
    assert!(eventfds() - notifiers <= executors, "{} notifiers are open", eventfds());
    let grown = memory_bytes().saturating_sub(bytes);
    assert!(grown < GROWTH_BYTES_MAX, "{JOBS} jobs have left {grown} bytes");
}
