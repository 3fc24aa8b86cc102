//! The engine's part in an exactly-once sink, played by hand: for the tests of sinks. Feature `testing`.
//!
//! A job of one source (the numbers from 0 on) and one sink on several shards. [`play`] takes steps in an
//! order drawn from a seed. It writes, seals, gives epochs up, lets them exist, commits on one instance
//! after the other, and crashes anywhere in between. After a crash the source goes back to where the last
//! epoch was. The sink opens with the notes of it, on another number of shards. Some notes are given to
//! another instance than their own, and some to several.

mod killed;
pub mod table;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use thalweg_kernel::{
    Change, Changes, ConnectorError, Durability, Epoch, Lineage, OpenContext, Pending, PendingId,
    Shared, Sink, StateId, Timestamp,
};

pub use killed::{KILL_DIRECTORY, killed};
pub use thalweg_testing::Random;

/// What takes longer hangs.
const STUCK: Duration = Duration::from_secs(60);

/// What the engine keeps durably, and what it is about to.
#[derive(Debug)]
pub struct Engine {
    /// The notes of the last epoch.
    pub notes: BTreeMap<PendingId, Vec<u8>>,
    /// The last epoch that exists.
    pub restored: Option<Epoch>,
    /// How many records the source had emitted at it.
    pub position: u64,
    /// The id of its state directory.
    pub lineage: Lineage,
    changes: Changes,
    last: Epoch,
}

impl Default for Engine {
    /// At its beginning, in a directory that is called `here`.
    fn default() -> Self {
        Self {
            notes: BTreeMap::new(),
            restored: None,
            position: 0,
            lineage: Lineage { directory: "here".into(), ..Lineage::default() },
            changes: Changes::default(),
            last: Epoch::NONE,
        }
    }
}

impl Engine {
    /// At its beginning, in a directory of this id.
    pub fn within(directory: &str) -> Self {
        let mut engine = Self::default();
        engine.lineage.directory = directory.into();
        engine
    }

    /// What the sink's instances are told when they open.
    pub fn contexts(
        &mut self,
        shards: usize,
        waker: &Waker,
        random: &mut Random,
    ) -> Vec<OpenContext> {
        self.changes.clear();
        self.last = self.restored.unwrap_or_default();
        let mut pending = vec![Vec::new(); shards];
        for (id, note) in &self.notes {
            let mut to = usize::from(id.instance) % shards;
            if random.percent(20) {
                to = random.below(shards);
            }
            pending[to].push((*id, note.clone().into()));
            let other = random.below(shards);
            if random.percent(10) && other != to {
                pending[other].push((*id, note.clone().into()));
            }
        }
        let shared = Arc::<Shared>::default();
        let context = |(shard, pending)| OpenContext {
            job: "job".into(),
            operator: "sink".into(),
            operator_id: 3,
            shard,
            shards,
            instances: shards,
            waker: waker.clone(),
            tasks: None,
            latency_budget: std::time::Duration::ZERO,
            shared: Arc::clone(&shared),
            durability: Durability {
                operator: "sink".into(),
                checkpoints: true,
                restored: self.restored,
                pending,
                lineage: self.lineage.clone(),
                ..Durability::default()
            },
        };
        pending.into_iter().enumerate().map(context).collect()
    }

    /// The number of the next epoch.
    pub fn begin(&mut self) -> Epoch {
        self.last = self.last.next();
        self.last
    }

    /// Seals one instance.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn seal<T>(
        &mut self,
        epoch: Epoch,
        instance: usize,
        sink: &mut impl Sink<T>,
    ) -> Result<(), ConnectorError> {
        let state = StateId::of("sink", "pending");
        let mut pending = Pending::new(&mut self.changes, state, epoch, instance as u16);
        sink.seal(epoch, &mut pending)
    }

    /// What was sealed exists from now on.
    pub fn exists(&mut self, epoch: Epoch, position: u64) {
        for change in Changes::read(self.changes.as_bytes()) {
            let id = |key: &[u8]| {
                let (instance, rest) = StateId::split_key(key).unwrap();
                PendingId::read(instance, rest).unwrap()
            };
            match change.unwrap() {
                Change::Put { key, value } => {
                    let before = self.notes.insert(id(key), value.to_vec());
                    assert_eq!(before, None, "a note's number was used twice");
                }
                Change::Delete { key } => _ = self.notes.remove(&id(key)),
                Change::DeleteRange { .. } => panic!("no sink deletes ranges"),
            }
        }
        self.changes.clear();
        (self.restored, self.position) = (Some(epoch), position);
    }

    /// Writes it to `path`, durably.
    ///
    /// # Errors
    /// Those of the file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = Vec::new();
        out.extend(self.restored.unwrap_or_default().number().to_le_bytes());
        out.extend(self.position.to_le_bytes());
        for (id, note) in &self.notes {
            out.extend(id.epoch.number().to_le_bytes());
            out.extend(u64::from(id.instance).to_le_bytes());
            out.extend(u64::from(id.number).to_le_bytes());
            out.extend((note.len() as u64).to_le_bytes());
            out.extend(note);
        }
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&out)?;
        file.sync_data()?;
        fs::rename(new, path)
    }

    /// Reads what [`save`](Self::save) wrote; nothing if there is no file.
    pub fn load(path: &Path) -> Self {
        let mut engine = Self::default();
        let Ok(bytes) = fs::read(path) else { return engine };
        let mut rest = &bytes[..];
        let number = |rest: &mut &[u8]| {
            let (head, tail) = rest.split_first_chunk().unwrap();
            *rest = tail;
            u64::from_le_bytes(*head)
        };
        let restored = Epoch::new(number(&mut rest));
        engine.restored = (restored > Epoch::NONE).then_some(restored);
        engine.position = number(&mut rest);
        while !rest.is_empty() {
            let id = PendingId {
                epoch: Epoch::new(number(&mut rest)),
                instance: number(&mut rest) as u16,
                number: number(&mut rest) as u32,
            };
            let length = number(&mut rest) as usize;
            let (note, tail) = rest.split_at(length);
            engine.notes.insert(id, note.to_vec());
            rest = tail;
        }
        engine
    }
}

/// The sink under test, and its surroundings.
pub trait World {
    /// Its instance on a shard.
    type Sink: Sink<u64>;
    /// Opens all instances.
    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink>;
    /// Lets what is behind the instances go on a little.
    fn step(&mut self, random: &mut Random);
    /// The process is gone: so are the instances.
    fn crash(&mut self, sinks: Vec<Self::Sink>, random: &mut Random);
    /// What can be seen must be the records before one of `positions`, the last of which is the newest
    /// epoch's; that one alone if `all`.
    fn check(&mut self, positions: &[u64], all: bool);
}

/// The most shards of a model's job.
pub const SHARDS_MAX: u64 = 4;
/// A record's key is its number modulo this; records of one key come from one shard, in order.
pub const KEYS: u64 = 7;

/// Plays a job of `records` records to its end, with about `crashes_percent` in 1000 steps being crashes.
pub fn play<W: World>(world: &mut W, seed: u64, records: u64, crashes_per_mille: u64) {
    let mut random = Random::new(seed);
    let mut engine = Engine::default();
    let mut positions = vec![0];
    // Later calm, so that it comes to its end.
    let mut crashes_left = 30;
    'runs: loop {
        let shards = 1 + random.below(SHARDS_MAX as usize);
        let contexts = engine.contexts(shards, Waker::noop(), &mut random);
        let mut sinks = world.open(&contexts);
        let mut position = engine.position;
        macro_rules! maybe_crash {
            () => {
                if crashes_left > 0 && random.below(1_000) < crashes_per_mille {
                    crashes_left -= 1;
                    world.crash(std::mem::take(&mut sinks), &mut random);
                    world.check(&positions, false);
                    continue 'runs;
                }
            };
        }
        macro_rules! until {
            ($done:expr) => {
                let start = Instant::now();
                while !$done {
                    world.step(&mut random);
                    maybe_crash!();
                    assert!(start.elapsed() < STUCK, "stuck in seed {seed}");
                }
            };
        }
        loop {
            let burst = random.below(20);
            for _ in 0..burst {
                let sink = &mut sinks[(position % KEYS) as usize % shards];
                if position == records || !sink.ready().unwrap() {
                    break;
                }
                sink.write(Timestamp::default(), position).unwrap();
                if random.percent(30) {
                    sink.flush().unwrap();
                }
                position += 1;
            }
            if random.percent(50) {
                world.step(&mut random);
                world.check(&positions, false);
            }
            maybe_crash!();
            let epoch = engine.begin();
            for (instance, sink) in sinks.iter_mut().enumerate() {
                sink.flush().unwrap();
                engine.seal(epoch, instance, sink).unwrap();
                if random.percent(10) {
                    world.step(&mut random);
                }
            }
            maybe_crash!();
            if random.percent(20) {
                continue; // Given up: the next one covers it.
            }
            until!(sinks.iter_mut().all(|sink| sink.sealed(epoch).unwrap()));
            engine.exists(epoch, position);
            positions.push(position);
            maybe_crash!();
            for sink in &mut sinks {
                sink.commit(epoch).unwrap();
                maybe_crash!();
                if random.percent(20) {
                    world.step(&mut random);
                    world.check(&positions, false);
                }
            }
            if position == records {
                // As in the engine, each instance is asked again and again, and then no more.
                let mut closing: Vec<_> = sinks.iter_mut().collect();
                let start = Instant::now();
                while !closing.is_empty() {
                    closing.retain_mut(|sink| !sink.close().unwrap());
                    world.step(&mut random);
                    assert!(start.elapsed() < STUCK, "does not close in seed {seed}");
                }
                drop(sinks);
                world.check(&positions, true);
                return;
            }
        }
    }
}
