//! Goal: a process that has nothing to do sleeps, with checkpoints every 10 ms: hardly a thread of it wakes up, and nothing
//! is written. What comes then wakes it, and is stored.
//!
//! Method: `thalweg run` on a private mosquitto. The kernel counts how often each thread has given up its core
//! (`voluntary_ctxt_switches`), and a file's time of change says whether it was written. A process that was busy
//! just now takes a moment to fall asleep, so the first quiet span counts. One that wakes up at intervals has none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{PATIENCE, Program, file, thalweg};
use thalweg_mqtt::testing::Mosquitto;

/// How long it must be quiet.
const SPAN: Duration = Duration::from_secs(4);

/// How often all its threads together may wake up in each second.
const WAKE_UPS_MAX: u64 = 2;

/// How often each thread of a process has given up its core, by name and number.
fn switches(pid: u32) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let dir = task.unwrap().path();
        // A thread may end at any time.
        let (Ok(name), Ok(status)) =
            (fs::read_to_string(dir.join("comm")), fs::read_to_string(dir.join("status")))
        else {
            continue;
        };
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let thread = dir.file_name().unwrap().to_string_lossy().into_owned();
        all.insert(format!("{} {thread}", name.trim()), count.unwrap().trim().parse().unwrap());
    }
    all
}

/// When each file below `dir` was written, and how long it is.
fn written(dir: &Path, files: &mut BTreeMap<PathBuf, (SystemTime, u64)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::metadata(&path).unwrap();
        if found.is_dir() {
            written(&path, files);
        } else {
            files.insert(path, (found.modified().unwrap(), found.len()));
        }
    }
}

fn state_of(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut files = BTreeMap::new();
    written(&dir.join("state"), &mut files);
    files
}

/// Waits for a span in which the process sleeps; what was in its state directory then.
fn falls_asleep(program: &Program, dir: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (before, files) = (switches(program.id()), state_of(dir));
        thread::sleep(SPAN);
        let (after, files_after) = (switches(program.id()), state_of(dir));
        let woken: Vec<_> = after
            .iter()
            .map(|(thread, count)| (thread, count - before.get(thread).unwrap_or(&0)))
            .filter(|&(_, count)| count > 0)
            .collect();
        let wake_ups = woken.iter().map(|(_, count)| count).sum::<u64>();
        if wake_ups <= WAKE_UPS_MAX * SPAN.as_secs() && files == files_after {
            return files;
        }
        let wrote = files != files_after;
        assert!(Instant::now() < deadline, "never quiet for {SPAN:?}: {woken:?}, wrote: {wrote}");
    }
}

fn publish(broker: &Mosquitto, payload: &str) {
    let port = broker.port().to_string();
    let args = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "sensors/a/temp", "-m", payload];
    assert!(Command::new("mosquitto_pub").args(args).status().unwrap().success());
}

fn sleeps_and_wakes_up(driver: &str) {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let toml = format!(
        "name = 'idle'\n[source]\nmqtt = 'mqtt://127.0.0.1:{}?client_id=idle'\ntopics = ['sensors/{{device}}/temp']\n\
         [fields]\nvalue = 'temp'\n[window]\nsize = '10s'\n[sink.sqlite]\npath = '{at}/out.db'\ntable = 'stats'\n\
         [engine]\nshards = 2\ndriver = '{driver}'\n[state]\ndir = '{at}/state'\ninterval = '10ms'\n",
        broker.port()
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("subscribed to");
    let mut stored = falls_asleep(&program, dir.path());
    let epochs = dir.path().join("state/state/data.mdb");
    // Two windows, the first of which closes.
    for ts in [1_700_000_001_000_u64, 1_700_000_015_000] {
        publish(&broker, &format!("{{\"ts\":{ts},\"temp\":1}}"));
        let deadline = Instant::now() + PATIENCE;
        while state_of(dir.path())[&epochs] == stored[&epochs] {
            assert!(Instant::now() < deadline, "what came while it slept is in no epoch");
            thread::sleep(Duration::from_millis(5));
        }
        stored = falls_asleep(&program, dir.path());
    }
    program.signal("TERM");
    program.finish().ok();
}

#[test]
fn a_process_on_plain_threads_sleeps_and_wakes_up() {
    sleeps_and_wakes_up("threads");
}

/// Where io_uring can be used, the driver that a job has unless it says otherwise.
#[test]
fn a_process_with_the_default_driver_sleeps_and_wakes_up() {
    sleeps_and_wakes_up("auto");
}

#[test]
fn a_job_that_follows_a_file_sleeps_and_wakes_up_for_each_line() {
    let dir = tempfile::tempdir().unwrap();
    let (at, input) = (dir.path().display(), dir.path().join("in.jsonl"));
    let toml = format!(
        "name = 'idle'\n[source.file]\npaths = ['{at}/in.jsonl']\nfollow = true\n[fields]\nvalue = 'temp'\n\
         [window]\nsize = '10s'\n[sink.stdout]\n[engine]\nshards = 2\n[state]\ndir = '{at}/state'\ninterval = '10ms'\n"
    );
    let toml = file(dir.path(), "job.toml", toml);
    let mut program = Program::start(&mut thalweg(&["run", &toml]));
    program.says("it is waited for");
    falls_asleep(&program, dir.path());
    for number in 1..4_u64 {
        // Each closes the window of the one before; the last file is another than the first.
        if number == 3 {
            fs::rename(&input, dir.path().join("in.jsonl.1")).unwrap();
        }
        let start = 1_700_000_000_000 + number * 10_000;
        let mut grown = fs::OpenOptions::new().create(true).append(true).open(&input).unwrap();
        writeln!(grown, r#"{{"device":"a","ts":{start},"temp":1}}"#).unwrap();
        if number > 1 {
            program.says(&format!("\"start\":{}", start - 10_000));
        }
    }
    falls_asleep(&program, dir.path());
    program.signal("TERM");
    program.finish().ok();
}
