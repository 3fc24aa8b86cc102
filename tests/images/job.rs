//! A small whole job as a workload. Numbers go through a journal, are counted per key in keyed state on two
//! shards, and end in rolling files, exactly once. What is traced is journal, state and results together.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::task::Waker;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use thalweg::flow::{Context, Process, ValueState, Watermarks};
use thalweg::runtime::{
    DriverKind, Job, JournalConfig, RestartStrategy, RuntimeConfig, StateConfig, StateDirectory,
    StoreOptions,
};
use thalweg_file::RollingFiles;
use thalweg_journal::FileJournals;
use thalweg_kernel::{
    Collector, ConnectorError, Emit, Epoch, Generated, JournalError, JournalReader, JournalWriter,
    OpenContext, PartitionId, Source, SourceSpec, SourceStatus, Timestamp,
};
use thalweg_store::FoldPolicy;

use super::{Promises, say};

const NAME: &str = "numbers-0";
const KEYS: u64 = 5;
/// Numbers that a poll takes in.
const POLL_NUMBERS: u64 = 10;

/// Takes in the numbers below `end`, each into the journal first; `talks` says what it relies on.
#[derive(Clone)]
struct Numbers {
    end: u64,
    talks: bool,
}

struct Taking {
    spec: Numbers,
    writer: Box<dyn JournalWriter>,
    replay: Option<Box<dyn JournalReader>>,
    next: u64,
    /// The positions of epochs that may still be asked for.
    positions: VecDeque<(Epoch, u64)>,
    said: u64,
}

fn failed(error: JournalError) -> ConnectorError {
    ConnectorError::new("numbers", "the journal has failed").caused_by(error)
}

impl SourceSpec for Numbers {
    type Item = u64;
    type Partition = Taking;

    fn describe(&self) -> String {
        "numbers".into()
    }

    fn open(&self, _: &PartitionId, cx: &OpenContext) -> Result<Taking, ConnectorError> {
        let missing = || ConnectorError::new("numbers", "there are no journals");
        let journals = cx.durability.journals.as_ref().ok_or_else(missing)?;
        let position = cx.durability.position.as_deref().map(<[u8; 8]>::try_from);
        let next = match position.transpose() {
            Ok(bytes) => bytes.map_or(0, u64::from_le_bytes),
            Err(_) => return Err(ConnectorError::new("numbers", "a position of another length")),
        };
        let writer = journals.open(NAME, cx.waker.clone()).map_err(failed)?;
        if next > writer.end() {
            let what = format!("the journal ends at {} before position {next}", writer.end());
            return Err(ConnectorError::new("numbers", what));
        }
        let replay = Some(journals.read(NAME, next).map_err(failed)?);
        let (spec, positions) = (self.clone(), VecDeque::new());
        Ok(Taking { spec, writer, replay, next, positions, said: 0 })
    }
}

impl Taking {
    fn tell(&mut self) -> Result<(), ConnectorError> {
        let durable = self.writer.durable().map_err(failed)?;
        if self.spec.talks && durable > self.said {
            self.said = durable;
            say("durable", durable).map_err(|e| ConnectorError::new("numbers", e.to_string()))?;
        }
        Ok(())
    }

    /// Takes in the next number; whether the journal had room.
    fn take(&mut self) -> Result<bool, ConnectorError> {
        let end = self.writer.end();
        match self.writer.append(Timestamp::from(end), &[&end.to_le_bytes(), &[7; 50]]) {
            Ok(_) => Ok(true),
            Err(JournalError::Full(_) | JournalError::Busy(_)) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Source for Taking {
    type Item = u64;

    fn poll(
        &mut self,
        _now: Timestamp,
        _: usize,
        out: &mut impl Emit<u64>,
    ) -> Result<SourceStatus, ConnectorError> {
        self.tell()?;
        while let Some(replay) = &mut self.replay {
            let Some(record) = replay.next().map_err(failed)? else {
                self.replay = None;
                break;
            };
            let number = record.bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            if record.position != self.next || number != Some(self.next) {
                return Err(ConnectorError::new("numbers", "the journal holds another record"));
            }
            out.record(self.next, Timestamp::from(self.next), &Generated);
            self.next += 1;
        }
        let until = (self.next + POLL_NUMBERS).min(self.spec.end);
        if self.spec.talks && until > self.next {
            say("begun", until).map_err(|e| ConnectorError::new("numbers", e.to_string()))?;
        }
        while self.next < until && self.take()? {
            out.record(self.next, Timestamp::from(self.next), &Generated);
            self.next += 1;
        }
        self.writer.flush();
        if self.next >= self.spec.end {
            return Ok(SourceStatus::Ended);
        }
        let pause = if self.spec.talks { 300 } else { 20 };
        Ok(SourceStatus::Waiting(Some(Duration::from_micros(pause))))
    }

    fn stop(&mut self) {
        self.spec.end = self.next;
    }

    fn snapshot(&mut self, epoch: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.next.to_le_bytes());
        self.positions.push_back((epoch, self.next));
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        self.tell()?;
        let durable = self.writer.durable().map_err(failed)?;
        Ok(self.positions.iter().all(|&(of, position)| of > epoch || position <= durable))
    }

    fn committed(&mut self, _epoch: Epoch, oldest: Epoch) {
        while self.positions.front().is_some_and(|&(epoch, _)| epoch < oldest) {
            self.positions.pop_front();
        }
        if let Some(&(epoch, position)) = self.positions.front()
            && epoch == oldest
        {
            // Nobody hears why it could not be said: the trace then lacks it, and the check fails.
            if self.spec.talks && say("trimmed", position).is_err() {
                return;
            }
            self.writer.trim(position);
        }
    }
}

/// Puts its place among the numbers of its key on each number.
struct Places {
    count: ValueState<u64, u64>,
}

impl Process<u64, u64> for Places {
    type Out = (u64, u64);

    fn record(
        &mut self,
        number: u64,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<(u64, u64)>,
    ) {
        let place = self.count.update(cx, |count| {
            *count += 1;
            *count
        });
        out.record(cx.time(), (number, place));
    }
}

fn journal() -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        cap_bytes: 1 << 20,
        group_bytes_max: 8 << 10,
        record_bytes_max: 1 << 10,
        ..JournalConfig::default()
    }
}

/// Runs the job until all numbers below `end` are in its sink.
pub(super) fn run(dir: &Path, end: u64, talks: bool) -> Result<()> {
    let store = StoreOptions {
        map_bytes: 64 << 20,
        retained: 1,
        fold: FoldPolicy { bytes_min: 4 << 10, bytes_max: 1 << 20, base_ratio: 1.0 },
        fold_changes_max: 64,
    };
    let backend = StateDirectory::new(dir.join("job")).journal(journal()).store(store).backend();
    let mut state = StateConfig::new(backend);
    state.checkpoints.interval = Duration::from_millis(if talks { 5 } else { 10 });
    let config = RuntimeConfig {
        shards: 2,
        driver: DriverKind::Threads,
        state: Some(state),
        restart: RestartStrategy::Never,
        ..RuntimeConfig::default()
    };
    let out = dir.join("out");
    let job = Job::new("images", move |flow| {
        let sink = RollingFiles::new(&out, thalweg_format::JsonLines)
            .roll_bytes(1 << 10)
            .roll_after(Duration::from_millis(20));
        flow.source(Numbers { end, talks }, Watermarks::monotonous())
            .key_by(|number| number % KEYS)
            .process(|states| Places { count: states.value("count") })
            // Not named after its directory: an image is recovered in another one.
            .sink_as("results", sink);
    });
    job.run_with(&config)?;
    Ok(())
}

/// The journal keeps its promises, and the job ends with all results, each once.
pub(super) fn check(dir: &Path, end: u64, promises: &Promises) -> Result<()> {
    let journals = FileJournals::new(StateDirectory::journals_in(&dir.join("job")), journal())?;
    let (writer, recovery) = journals.open_with_recovery(NAME, Waker::noop().clone(), 0)?;
    promises.hold(recovery.first, recovery.end)?;
    drop(writer);
    run(dir, end, false)?;
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in fs::read_dir(dir.join("out"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            ensure!(name.ends_with(".lock"), "left behind: {name}");
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let (number, place): (u64, u64) =
                serde_json::from_str(line).with_context(|| format!("{name}: {line:?}"))?;
            ensure!(place == number / KEYS + 1, "number {number} has place {place}");
            ensure!(found.insert(number, place).is_none(), "number {number} is there twice");
        }
    }
    ensure!(found.keys().copied().eq(0..end), "numbers are missing: {} of {end}", found.len());
    Ok(())
}
