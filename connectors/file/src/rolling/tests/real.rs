//! Real directories.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Instant;

use thalweg_kernel::{OpenContext, Sink, Timestamp};

use super::*;
use thalweg_commits::model::{self, Engine, Random, World};

struct Real {
    path: PathBuf,
    reader: Reader,
}

fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let names = disk::names(path).unwrap_or_default().into_iter();
    // A hidden one may be renamed before it is read.
    names.filter_map(|name| Some((name.clone(), fs::read(path.join(name)).ok()?))).collect()
}

impl World for Real {
    type Sink = RollingWriter<Numbers>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink> {
        let spec = RollingFiles::new(&self.path, Numbers)
            .suffix(".txt")
            .roll_bytes(100)
            .roll_idle(Duration::from_millis(5));
        contexts.iter().map(|cx| spec.open(cx).unwrap()).collect()
    }

    fn step(&mut self, random: &mut Random) {
        thread::sleep(Duration::from_micros(random.below(300)));
    }

    fn crash(&mut self, sinks: Vec<Self::Sink>, _random: &mut Random) {
        drop(sinks);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        self.reader.look(contents(&self.path), *positions.last().unwrap(), all);
    }
}

fn play(seeds: std::ops::Range<u64>, within: &Path) {
    for seed in seeds {
        let directory = tempfile::tempdir_in(within).unwrap();
        let path = directory.path().join("deep/er");
        model::play(&mut Real { path, reader: Reader::default() }, seed, 120, 25);
    }
}

#[test]
fn real_files_are_neither_lost_nor_repeated_in_15_schedules() {
    play(0..15, &std::env::temp_dir());
}

/// Where syncing costs nothing there is time for more.
#[test]
fn nor_in_150_where_syncing_costs_nothing() {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        play(100..250, memory);
    }
}

fn contexts(engine: &mut Engine) -> Vec<OpenContext> {
    engine.contexts(1, Waker::noop(), &mut Random::new(1))
}

/// Without checkpoints.
fn direct() -> OpenContext {
    let mut cx = contexts(&mut Engine::default()).remove(0);
    cx.durability.checkpoints = false;
    cx.shared = Arc::default();
    cx
}

fn write(sink: &mut RollingWriter<Numbers>, numbers: std::ops::Range<u64>) {
    for n in numbers {
        sink.write(Timestamp::default(), n).unwrap();
    }
    Sink::<u64>::flush(sink).unwrap();
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "stuck");
        thread::sleep(Duration::from_micros(100));
    }
}

fn close(sink: &mut RollingWriter<Numbers>) {
    until(|| Sink::<u64>::close(sink).unwrap());
}

fn epoch(engine: &mut Engine, sink: &mut RollingWriter<Numbers>, position: u64) {
    let epoch = engine.begin();
    engine.seal::<u64>(epoch, 0, sink).unwrap();
    until(|| Sink::<u64>::sealed(sink, epoch).unwrap());
    engine.exists(epoch, position);
    Sink::<u64>::commit(sink, epoch).unwrap();
}

fn visible(path: &Path) -> Vec<String> {
    let parts = contents(path).into_iter().filter(|(name, _)| Name::parse(name).is_some());
    let mut texts: Vec<_> = parts.map(|(_, content)| String::from_utf8(content).unwrap()).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn a_silent_part_is_rolled_without_a_further_line() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers).roll_idle(Duration::from_millis(20));
    let mut sink = SinkSpec::<u64>::open(&spec, &direct()).unwrap();
    write(&mut sink, 0..2);
    assert!(visible(directory.path()).is_empty());
    // The thread wakes the shard, which asks whether the sink is ready.
    until(|| Sink::<u64>::ready(&mut sink).unwrap() && !visible(directory.path()).is_empty());
    assert_eq!(visible(directory.path()), ["number\n0\n1\n"]);
    write(&mut sink, 2..3);
    close(&mut sink);
    assert_eq!(visible(directory.path()), ["number\n0\n1\n", "number\n2\n"]);
}

/// Goal: written at least once, whole lines outlive a crash, and a torn one does not.
#[test]
fn without_checkpoints_what_was_in_progress_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers);
    let mut sink = SinkSpec::<u64>::open(&spec, &direct()).unwrap();
    write(&mut sink, 0..3);
    until(|| contents(directory.path()).iter().any(|(_, content)| content.ends_with(b"2\n")));
    drop(sink);
    let hidden = disk::names(directory.path()).unwrap();
    let hidden = hidden.iter().find(|name| name.ends_with(".open")).unwrap();
    let mut torn = fs::read(directory.path().join(hidden)).unwrap();
    torn.extend_from_slice(b"99");
    fs::write(directory.path().join(hidden), torn).unwrap();
    let mut sink = SinkSpec::<u64>::open(&spec, &direct()).unwrap();
    close(&mut sink);
    assert_eq!(visible(directory.path()), ["number\n0\n1\n2\n"]);
}

/// Goal: a job whose checkpoints are switched off finds no notes, but keeps what was promised with them.
#[test]
fn what_was_in_progress_is_kept_when_checkpoints_are_switched_off() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers);
    let mut engine = Engine::default();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    write(&mut sink, 0..2);
    epoch(&mut engine, &mut sink, 2);
    drop(sink);
    let mut sink = SinkSpec::<u64>::open(&spec, &direct()).unwrap();
    close(&mut sink);
    assert_eq!(visible(directory.path()), ["number\n0\n1\n"]);
}

#[test]
fn every_checkpoint_rolls_where_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers).roll_at_checkpoints();
    let mut engine = Engine::default();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    for n in 0..3 {
        write(&mut sink, n..n + 1);
        assert_eq!(visible(directory.path()).len() as u64, n);
        epoch(&mut engine, &mut sink, n + 1);
        until(|| visible(directory.path()).len() as u64 == n + 1);
    }
    // Nothing to roll, nothing to note.
    epoch(&mut engine, &mut sink, 3);
    epoch(&mut engine, &mut sink, 3);
    assert!(engine.notes.is_empty());
    close(&mut sink);
    assert_eq!(visible(directory.path()).len(), 3);
}

#[test]
fn committed_bytes_that_are_missing_end_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers);
    let mut engine = Engine::default();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    write(&mut sink, 0..100);
    epoch(&mut engine, &mut sink, 100);
    drop(sink);
    let hidden = disk::names(directory.path()).unwrap();
    let hidden = hidden.iter().find(|name| name.ends_with(".inprogress")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(directory.path().join(hidden)).unwrap();
    file.set_len(20).unwrap();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    let mut refused = String::new();
    until(|| match Sink::<u64>::close(&mut sink) {
        Ok(_) => false,
        Err(error) => {
            refused = error.to_string();
            true
        }
    });
    assert!(refused.contains("has 20 bytes, but 297 were committed"), "{refused}");
}

#[test]
fn a_full_disk_is_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(directory.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: only root can mount a small file system to fill");
        return;
    }
    let path = directory.path().join("out");
    let spec = RollingFiles::new(&path, Numbers).roll_bytes(500_000);
    let mut engine = Engine::default();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    let ballast = directory.path().join("ballast");
    let _full = fs::write(&ballast, vec![1; 8 << 20]).unwrap_err();
    let mut position = 0;
    while Sink::<u64>::ready(&mut sink).unwrap() {
        write(&mut sink, position..position + 1_000);
        position += 1_000;
    }
    thread::sleep(Duration::from_millis(100));
    assert!(!Sink::<u64>::ready(&mut sink).unwrap());
    fs::remove_file(ballast).unwrap();
    epoch(&mut engine, &mut sink, position);
    close(&mut sink);
    drop(sink);
    Reader::default().look(contents(&path), position, true);
    let unmounted = Command::new("umount").arg("-l").arg(directory.path()).status();
    assert!(unmounted.unwrap().success());
}

#[test]
fn another_jobs_hidden_parts_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers);
    let (mut one, mut other) = (Engine::default(), Engine::default());
    let mut first = SinkSpec::<u64>::open(&spec, &contexts(&mut one)[0]).unwrap();
    write(&mut first, 0..1);
    epoch(&mut one, &mut first, 1);
    let mut cx = contexts(&mut other).remove(0);
    cx.job = "another".into();
    let mut second = SinkSpec::<u64>::open(&spec, &cx).unwrap();
    until(|| Sink::<u64>::close(&mut second).unwrap());
    close(&mut first);
    assert_eq!(visible(directory.path()), ["number\n0\n"]);
}

/// Goal: two jobs in one directory never replace each other's parts, and nothing is lost. The later one ends, and
/// finds its part in its notes when it has a directory to itself.
#[test]
fn a_name_that_is_taken_ends_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let spec = RollingFiles::new(directory.path(), Numbers);
    let mut engine = Engine::default();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    write(&mut sink, 0..1);
    epoch(&mut engine, &mut sink, 1);
    let taken = directory.path().join("part-0-0-0");
    fs::write(&taken, "number\n7\n").unwrap();
    let mut refused = None;
    until(|| {
        refused = Sink::<u64>::close(&mut sink).err();
        refused.is_some()
    });
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("part-0-0-0 is there already, and is not ours"), "{refused}");
    drop(sink);
    fs::remove_file(taken).unwrap();
    let mut sink = SinkSpec::<u64>::open(&spec, &contexts(&mut engine)[0]).unwrap();
    close(&mut sink);
    assert_eq!(visible(directory.path()), ["number\n0\n"]);
}

#[test]
fn what_cannot_be_used_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let spec = RollingFiles::new(&file, Numbers);
    let refused = SinkSpec::<u64>::open(&spec, &direct()).err().unwrap().to_string();
    assert!(refused.contains("is it a directory, and may you write?"), "{refused}");
    let check = |spec: RollingFiles<Numbers>| spec.check().unwrap_err().to_string();
    let spec = || RollingFiles::new("x", Numbers);
    assert!(check(spec().roll_bytes(0)).starts_with("roll_bytes"));
    assert!(check(spec().roll_idle(Duration::ZERO)).starts_with("roll_idle"));
    assert!(check(spec().suffix("/../x")).contains("none of them a slash"));
    spec().check().unwrap();
}
