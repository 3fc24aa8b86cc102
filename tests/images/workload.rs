//! What is traced, in a process of its own, and how an image of it is recovered and checked.
//!
//! A workload says what it relies on: each such line is a promise that every image after it must keep. All contents
//! follow from their numbers, so whatever is recovered can be checked.

#[path = "job.rs"]
mod job;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use thalweg_journal::{FileJournals, JournalConfig, inspect};
use thalweg_kernel::{
    Changes, Epoch, JournalError, JournalWriter, Journals, StateId, StateInfo, StateKind, Timestamp,
};
use thalweg_store::{EpochRecord, FoldPolicy, Resume, Store, StoreError, StoreOptions};

/// What is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A journal: groups, new segments, trimming.
    Journal,
    /// A store: epochs and folds.
    Store,
    /// A whole job: a source with a journal, keyed state on two shards, rolling files.
    Job,
}

/// Numbers that the job takes in for each step.
const STEP_NUMBERS: u64 = 20;

/// What a workload had said before the crash.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promises {
    /// Records below this position are durable; epochs up to this one are committed.
    durable: u64,
    /// Nothing was begun from here on.
    begun: u64,
    /// Trimming below this position was asked for.
    trimmed: u64,
}

impl Promises {
    /// Takes note of what was said.
    pub(crate) fn hear(&mut self, said: &str) -> Result<()> {
        for line in said.lines() {
            let (what, number) = line.split_once(' ').context("not a promise")?;
            let number = number.parse()?;
            match what {
                "durable" => self.durable = number,
                "begun" => self.begun = number,
                "trimmed" => self.trimmed = number,
                _ => bail!("not a promise: {line}"),
            }
        }
        Ok(())
    }
}

impl Promises {
    /// Whether a journal that was recovered from `first` up to `end` keeps them.
    fn hold(&self, first: u64, end: u64) -> Result<()> {
        let Self { durable, begun, trimmed } = *self;
        ensure!(end >= durable, "durable up to {durable}, and recovered up to {end} only");
        ensure!(end <= begun, "recovered up to {end}, and begun up to {begun} only");
        ensure!(first <= trimmed, "recovered from {first}, and trimmed up to {trimmed} only");
        Ok(())
    }
}

/// In one call, so that it is in the trace at once.
fn say(what: &str, number: u64) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(format!("{what} {number}\n").as_bytes())?;
    out.flush()?;
    Ok(())
}

impl Workload {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Journal, Self::Store, Self::Job];

    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Store => "store",
            Self::Job => "job",
        }
    }

    /// Does it, in `dir`, which is empty.
    pub(crate) fn run(self, dir: &Path, steps: u64) -> Result<()> {
        match self {
            Self::Journal => run_journal(dir, steps),
            Self::Store => run_store(dir, steps),
            Self::Job => job::run(dir, steps * STEP_NUMBERS, true),
        }
    }

    /// Recovers an image with the real code, checks it against what was said, and goes on a little.
    pub(crate) fn check(self, dir: &Path, steps: u64, promises: &Promises) -> Result<()> {
        match self {
            Self::Journal => check_journal(dir, promises),
            Self::Store => check_store(dir, promises),
            Self::Job => job::check(dir, steps * STEP_NUMBERS, promises),
        }
    }
}

const NAME: &str = "source-0";

fn journals(dir: &Path) -> Result<FileJournals> {
    let config = JournalConfig {
        segment_bytes: 16 << 10,
        cap_bytes: 512 << 10,
        group_bytes_max: 8 << 10,
        record_bytes_max: 4 << 10,
        ..JournalConfig::default()
    };
    Ok(FileJournals::new(dir.join("journal"), config)?)
}

/// The content of a record: lengths from 8 bytes to over 2 KiB.
fn record(position: u64) -> Vec<u8> {
    let mut content = position.to_le_bytes().to_vec();
    let length = if position.is_multiple_of(11) { 2_100 } else { position * 37 % 300 };
    content.resize(8 + length as usize, position as u8 | 1);
    content
}

fn append(writer: &mut dyn JournalWriter) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let position = writer.end();
        match writer.append(Timestamp::from_millis(position as i64), &[&record(position)]) {
            Ok(_) => return Ok(()),
            Err(JournalError::Full(_) | JournalError::Busy(_)) if Instant::now() < deadline => {
                thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_durable(writer: &mut dyn JournalWriter, position: u64) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(20);
    writer.flush();
    loop {
        let durable = writer.durable()?;
        if durable >= position {
            return Ok(durable);
        }
        ensure!(Instant::now() < deadline, "the journal is not durable up to {position}");
        thread::sleep(Duration::from_micros(100));
    }
}

fn run_journal(dir: &Path, steps: u64) -> Result<()> {
    let journals = journals(dir)?;
    let mut writer = journals.open(NAME, Waker::noop().clone())?;
    for step in 0..steps {
        let count = 1 + step * 7 % 13;
        say("begun", writer.end() + count)?;
        for _ in 0..count {
            append(&mut *writer)?;
        }
        writer.flush();
        // Mostly while the next group gathers, as a source does.
        let due = if step % 3 == 0 { writer.end() } else { 0 };
        let durable = wait_durable(&mut *writer, due)?;
        say("durable", durable)?;
        if step % 10 == 9 {
            let from = durable.saturating_sub(60);
            say("trimmed", from)?;
            writer.trim(from);
        }
    }
    Ok(())
}

fn check_journal(dir: &Path, promises: &Promises) -> Result<()> {
    let journals = journals(dir)?;
    let (mut writer, recovery) = journals.open_with_recovery(NAME, Waker::noop().clone(), 0)?;
    promises.hold(recovery.first, recovery.end)?;
    let count = 40;
    for _ in 0..count {
        append(&mut *writer)?;
    }
    wait_durable(&mut *writer, recovery.end + count)?;
    drop(writer);
    let verified = inspect::verify(&dir.join("journal"), NAME)?;
    ensure!(verified.damage.is_none(), "damaged: {:?}", verified.damage);
    let mut reader = journals.read(NAME, recovery.first)?;
    for position in recovery.first..recovery.end + count {
        let read = reader.next()?.context("a record is missing")?;
        ensure!(
            read.position == position && read.bytes == record(position),
            "record {position} is another: {} of {} bytes",
            read.position,
            read.bytes.len()
        );
    }
    ensure!(reader.next()?.is_none(), "there are more records than were taken");
    Ok(())
}

const KEYS: u64 = 60;

/// Folds whenever it can, in small steps.
fn options() -> StoreOptions {
    StoreOptions {
        map_bytes: 64 << 20,
        retained: 2,
        fold: FoldPolicy { bytes_min: 0, bytes_max: 0, base_ratio: 0.0 },
        fold_changes_max: 17,
    }
}

fn state() -> StateId {
    StateId::of("count", "value")
}

fn key(number: u64) -> Vec<u8> {
    let mut key = Vec::new();
    state().begin_key(number as u16 % 8, &mut key);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The value of a key as of an epoch: some over a page, one in seven gone.
fn value(number: u64, epoch: u64) -> Option<Vec<u8>> {
    let mixed = number * 31 + epoch;
    let length = if mixed.is_multiple_of(29) { 6_000 } else { mixed % 90 };
    let mut value = epoch.to_le_bytes().to_vec();
    value.resize(8 + length as usize, number as u8);
    (!mixed.is_multiple_of(7)).then_some(value)
}

/// Changes every key, in two blocks.
fn commit(store: &mut Store, epoch: u64) -> Result<()> {
    let mut blocks = [Changes::new(), Changes::new()];
    for number in 0..KEYS {
        let changes = &mut blocks[(number % 2) as usize];
        match value(number, epoch) {
            Some(value) => changes.put(&key(number), &value),
            None => changes.delete(&key(number)),
        }
    }
    let info = StateInfo {
        id: state(),
        operator: "count".into(),
        name: "value".into(),
        kind: StateKind::Keyed,
        schema: 1,
        types: "u64 -> bytes".to_owned(),
        layout: None,
    };
    let record = EpochRecord {
        epoch: Epoch::new(epoch),
        job: "images".into(),
        key_groups: 8,
        shards: 2,
        at: Timestamp::from_millis(epoch as i64),
        states: vec![info],
        counts: BTreeMap::new(),
        oldest: Epoch::NONE,
        directory: Default::default(),
    };
    store.commit(record, &[blocks[0].as_bytes(), blocks[1].as_bytes()])?;
    Ok(())
}

fn run_store(dir: &Path, steps: u64) -> Result<()> {
    let mut store = Store::open(&dir.join("state"), options(), Resume::Newest)?;
    for step in 0..steps {
        let epoch = store.next().number();
        say("begun", epoch)?;
        commit(&mut store, epoch)?;
        say("durable", epoch)?;
        for _ in 0..step % 5 {
            store.fold(false)?;
        }
        if step % 20 == 19 {
            drop(store);
            store = Store::open(&dir.join("state"), options(), Resume::Newest)?;
        }
    }
    Ok(())
}

fn check_store(dir: &Path, promises: &Promises) -> Result<()> {
    let state = dir.join("state");
    if promises.begun.is_multiple_of(2) && promises.begun > 0 {
        check_older(&state, promises.begun)?;
    }
    let mut store = Store::open(&state, options(), Resume::Newest)?;
    let newest = store.newest().number();
    ensure!(
        newest >= promises.durable,
        "epoch {} was committed, and recovered is {newest}",
        promises.durable
    );
    // One more where an older one was asked for first.
    ensure!(newest <= promises.begun + 1, "epoch {newest} of {}", promises.begun);
    check_contents(&store, newest)?;
    let next = store.next().number();
    commit(&mut store, next)?;
    store.fold(true)?;
    drop(store);
    let store = Store::open(&state, options(), Resume::Newest)?;
    ensure!(store.newest().number() == next, "what was stored after recovery is not there");
    check_contents(&store, next)
}

/// Whoever asks for the epoch before the last one begun gets it whole, or is refused. No fold that was cut short
/// has left a part of a later one. That one is committed again then, as the job would.
fn check_older(state: &Path, begun: u64) -> Result<()> {
    let older = Resume::Epoch(Epoch::new(begun - 1));
    match Store::open(state, options(), older) {
        Ok(mut store) => {
            check_contents(&store, begun - 1)?;
            let next = store.next().number();
            commit(&mut store, next)
        }
        Err(StoreError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The base holds the newest epoch, whole, and nothing else.
fn check_contents(store: &Store, epoch: u64) -> Result<()> {
    let mut expected: BTreeMap<_, _> = BTreeMap::new();
    if epoch > 0 {
        let kept = (0..KEYS).filter_map(|number| Some((key(number), value(number, epoch)?)));
        expected.extend(kept);
    }
    let mut found = BTreeMap::new();
    let (from, to) = state().range(0..8);
    store.reader().scan(&from, &to, &mut |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    ensure!(found == expected, "the contents are not those of epoch {epoch}");
    Ok(())
}
