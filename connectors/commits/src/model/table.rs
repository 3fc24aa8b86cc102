//! What every sink into a database must stand, whatever the database.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thalweg_kernel::{
    Changed, ConnectorError, Epoch, OpenContext, Pending, Sink, SinkSpec, Timestamp,
};

use super::{Engine, KEYS, Random, STUCK, World};
use crate::{RowSink, RowWriter, Server};

/// A table of a database under test, with a reader of its own.
pub trait Table {
    /// The kind of database.
    type Server: Server;

    /// A sink into it, without columns.
    fn unbound<T>(&self) -> RowSink<T, Self::Server>;

    /// A sink into it of the numbers themselves, in column `n`; or, if it is keyed, of the newest of each
    /// column `key`.
    fn sink(&self, keyed: bool) -> RowSink<u64, Self::Server> {
        bound(self.unbound(), keyed)
    }

    /// Column `n`, sorted; empty while there is no table.
    fn rows(&self) -> Vec<i64>;
}

/// Binds the columns that a [`Table`] has.
#[must_use]
pub fn bound<S: Server>(sink: RowSink<u64, S>, keyed: bool) -> RowSink<u64, S> {
    if keyed {
        sink.key("key", |&n| n % KEYS).column("n", |&n: &u64| n)
    } else {
        sink.column("n", |&n: &u64| n)
    }
}

/// A row of the table whose changelog the numbers are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number's remainder by [`KEYS`].
    pub key: u64,
    /// The rest of the table's key: it changes with some updates.
    pub grade: u64,
    /// The number.
    pub n: u64,
}

impl Entry {
    /// What the table has for the key of number `n` once that has come; none after every fourth.
    pub const fn after(n: u64) -> Option<Self> {
        let (key, version) = (n % KEYS, n / KEYS);
        if version % 4 == 3 { None } else { Some(Self { key, grade: version / 2 % 3, n }) }
    }

    /// What the number changes.
    pub fn changes(n: u64) -> impl Iterator<Item = Changed<Self>> {
        let before = n.checked_sub(KEYS).and_then(Self::after);
        let changes = match (before, Self::after(n)) {
            (Some(before), Some(after)) => Changed::update(before, after).map(Some),
            (before, after) => [before.map(Changed::delete), after.map(Changed::insert)],
        };
        changes.into_iter().flatten()
    }
}

/// Binds the columns of an [`Entry`].
#[must_use]
pub fn changelog<S: Server>(sink: RowSink<Entry, S>) -> RowSink<Changed<Entry>, S> {
    sink.column("n", |e: &Entry| e.n).key("key", |e| e.key).key("grade", |e| e.grade).changelog()
}

/// Writes what each number changes into a sink.
#[derive(Debug)]
pub struct Changes<W>(pub W);

impl<W: Sink<Changed<Entry>>> Sink<u64> for Changes<W> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.0.ready()
    }

    fn write(&mut self, time: Timestamp, n: u64) -> Result<(), ConnectorError> {
        Entry::changes(n).try_for_each(|change| self.0.write(time, change))
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.0.flush()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.0.close()
    }

    fn seal(&mut self, epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.0.seal(epoch, pending)
    }

    fn sealed(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        self.0.sealed(epoch)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        self.0.commit(epoch)
    }
}

/// What a table holds is what the changes before one of `positions` come to, the last of which it must be if
/// `all`.
pub fn check_changelog(rows: &[i64], positions: &[u64], all: bool) {
    let naive = |position: &u64| -> Vec<i64> {
        let newest = position.saturating_sub(KEYS)..*position;
        newest.filter_map(Entry::after).map(|entry| entry.n as i64).collect()
    };
    let right = match positions.last() {
        Some(last) if all => naive(last) == rows,
        _ => positions.iter().any(|position| naive(position) == rows),
    };
    assert!(right, "the table of no epoch: {rows:?} at {positions:?}");
}

/// What a table holds is what came before one of `positions`, the last of which it must be if `all`.
pub fn check(rows: &[i64], keyed: bool, positions: &[u64], all: bool) {
    let count = rows.last().map_or(0, |&n| n as u64 + 1);
    if keyed {
        let newest = count.saturating_sub(KEYS) as i64..count as i64;
        assert!(rows.iter().copied().eq(newest), "{rows:?}");
    } else {
        assert!(rows.iter().copied().eq(0..count as i64), "lost or repeated: {rows:?}");
    }
    assert!(positions.contains(&count), "part of an epoch: {count} of {positions:?}");
    assert!(!all || positions.last() == Some(&count), "not all: {count} of {positions:?}");
}

/// A real table as the world of [`play`](super::play). The thread of the run before may still be at work when the
/// next one opens, and another connection reads all the while.
#[derive(Debug)]
pub struct Real<T> {
    /// The table.
    pub table: T,
    /// Rows replace each other.
    pub keyed: bool,
}

impl<T: Table> World for Real<T> {
    type Sink = RowWriter<u64>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<RowWriter<u64>> {
        let sink = self.table.sink(self.keyed).held_rows_max(60);
        contexts.iter().map(|cx| sink.open(cx).unwrap()).collect()
    }

    fn step(&mut self, random: &mut Random) {
        thread::sleep(Duration::from_micros(random.below(200)));
    }

    fn crash(&mut self, sinks: Vec<RowWriter<u64>>, _random: &mut Random) {
        drop(sinks);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        check(&self.table.rows(), self.keyed, positions, all);
    }
}

/// As [`Real`], with the table of a changelog.
#[derive(Debug)]
pub struct RealChangelog<T>(pub T);

impl<T: Table> World for RealChangelog<T> {
    type Sink = Changes<RowWriter<Changed<Entry>>>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink> {
        let sink = changelog(self.0.unbound()).held_rows_max(60);
        contexts.iter().map(|cx| Changes(sink.open(cx).unwrap())).collect()
    }

    fn step(&mut self, random: &mut Random) {
        thread::sleep(Duration::from_micros(random.below(200)));
    }

    fn crash(&mut self, sinks: Vec<Self::Sink>, _random: &mut Random) {
        drop(sinks);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        check_changelog(&self.0.rows(), positions, all);
    }
}

/// The contexts of a job's shards.
pub fn contexts(engine: &mut Engine, shards: usize) -> Vec<OpenContext> {
    engine.contexts(shards, std::task::Waker::noop(), &mut Random::new(1))
}

/// That of a job without checkpoints, on one shard.
pub fn direct() -> OpenContext {
    let mut cx = contexts(&mut Engine::default(), 1).remove(0);
    cx.durability.checkpoints = false;
    cx.shared = Arc::default();
    cx
}

/// Asks until it is so.
///
/// # Errors
/// Those of the question.
pub fn until(mut done: impl FnMut() -> Result<bool, ConnectorError>) -> Result<(), ConnectorError> {
    let start = Instant::now();
    while !done()? {
        assert!(start.elapsed() < STUCK, "stuck");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Closes a sink, and waits for it.
///
/// # Errors
/// Those of the sink.
pub fn close<T>(sink: &mut impl Sink<T>) -> Result<(), ConnectorError> {
    until(|| sink.close())
}

/// Writes numbers.
///
/// # Errors
/// Those of the sink, whose thread may have met them at any time before.
pub fn write(
    sink: &mut RowWriter<u64>,
    numbers: std::ops::Range<u64>,
) -> Result<(), ConnectorError> {
    for n in numbers {
        sink.write(Timestamp::default(), n)?;
    }
    sink.flush()
}

/// One epoch, to its commit.
///
/// # Errors
/// As of [`write`].
pub fn epoch(engine: &mut Engine, sink: &mut RowWriter<u64>) -> Result<(), ConnectorError> {
    let epoch = engine.begin();
    engine.seal(epoch, 0, sink)?;
    assert!(sink.sealed(epoch)?);
    engine.exists(epoch, 0);
    sink.commit(epoch)
}

/// A run of a job on one shard, to its end: one epoch with these numbers.
///
/// # Errors
/// If it does not start, or is told later that it may not.
pub fn run(
    table: &impl Table,
    engine: &mut Engine,
    numbers: std::ops::Range<u64>,
) -> Result<(), ConnectorError> {
    let cx = contexts(engine, 1).remove(0);
    let mut sink = table.sink(false).open(&cx)?;
    write(&mut sink, numbers)?;
    epoch(engine, &mut sink)?;
    close(&mut sink)
}

/// Goal: a job that begins anew, or goes back, is not taken for one that repeats itself.
pub fn going_back(table: &impl Table) {
    let mut engine = Engine::default();
    run(table, &mut engine, 0..2).unwrap();
    run(table, &mut engine, 2..4).unwrap();
    assert_eq!(table.rows(), [0, 1, 2, 3]);
    // To the first epoch.
    let mut engine = Engine { restored: Some(Epoch::new(1)), ..Engine::default() };
    run(table, &mut engine, 2..4).unwrap();
    assert_eq!(table.rows(), [0, 1, 2, 2, 3, 3]);
    run(table, &mut Engine::default(), 0..1).unwrap();
    assert_eq!(table.rows(), [0, 0, 1, 2, 2, 3, 3]);
}

/// Goal: an epoch that is committed again, by whichever instance, has the effect of once.
pub fn repeated_epochs(table: &impl Table) {
    let mut engine = Engine::default();
    run(table, &mut engine, 0..2).unwrap();
    // Its notes are deleted with a later epoch only: so they are all committed again, twice over.
    assert!(!engine.notes.is_empty());
    for _ in 0..2 {
        let cxs = contexts(&mut engine, 3);
        let mut sinks: Vec<_> = cxs.iter().map(|cx| table.sink(false).open(cx).unwrap()).collect();
        let epoch = Epoch::new(1);
        sinks.iter_mut().for_each(|sink| sink.commit(epoch).unwrap());
        let mut closing: Vec<_> = sinks.iter_mut().collect();
        until(|| {
            closing.retain_mut(|sink| !sink.close().unwrap());
            Ok(closing.is_empty())
        })
        .unwrap();
        assert_eq!(table.rows(), [0, 1]);
    }
}

/// Goal: two jobs of one name do not skip each other's rows: the second one does not start. One that takes the
/// place of another does, deliberately, and skips nothing of its own.
pub fn two_directories(table: &impl Table) {
    let mut first = Engine::default();
    run(table, &mut first, 0..2).unwrap();
    run(table, &mut first, 2..4).unwrap();

    let error = run(table, &mut Engine::within("there"), 4..5).unwrap_err();
    assert!(error.lasting, "no restart mends it");
    let why = error.to_string();
    assert!(why.contains("take_over = \"here\"") && why.contains("another name"), "{why}");
    assert_eq!(table.rows(), [0, 1, 2, 3]);
    // Without checkpoints there is nothing to skip.
    let mut sink = table.sink(false).open(&direct()).unwrap();
    write(&mut sink, 4..5).unwrap();
    close(&mut sink).unwrap();
    // The first has noticed nothing.
    run(table, &mut first, 5..6).unwrap();
    assert_eq!(table.rows(), [0, 1, 2, 3, 4, 5]);

    // Its directory is lost. The next one's epochs have lower numbers, and are new nevertheless.
    let mut second = Engine::within("there");
    second.lineage.takes_over = Some("here".into());
    run(table, &mut second, 6..7).unwrap();
    let savepoint = second.notes.clone();
    assert!(!savepoint.is_empty());
    run(table, &mut second, 7..8).unwrap();
    assert_eq!(table.rows(), [0, 1, 2, 3, 4, 5, 6, 7]);
    // Should it not have been lost: it ends.
    let why = run(table, &mut first, 8..9).unwrap_err().to_string();
    assert!(why.contains("take_over = \"there\""), "{why}");

    // From a savepoint of epoch 1 of the second: what had been committed by then is not written again.
    let mut third = Engine::within("elsewhere");
    third.lineage.parent = Some(("there".into(), Epoch::new(1)));
    third.lineage.takes_over = Some("there".into());
    (third.notes, third.restored) = (savepoint, Some(Epoch::new(1)));
    run(table, &mut third, 8..9).unwrap();
    assert_eq!(table.rows(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Goal: of two jobs of one name that have started before either has committed, one ends, and no row of the
/// other's is skipped.
pub fn two_directories_at_once(table: &impl Table) {
    let mut first = Engine::default();
    let mut second = Engine::within("there");
    let mut one = table.sink(false).open(&contexts(&mut first, 1)[0]).unwrap();
    let mut other = table.sink(false).open(&contexts(&mut second, 1)[0]).unwrap();
    write(&mut one, 0..5).unwrap();
    epoch(&mut first, &mut one).unwrap();
    close(&mut one).unwrap();
    // It is told when its thread looks: that may be before the first has committed, or after.
    let written = write(&mut other, 5..6).and_then(|()| epoch(&mut second, &mut other));
    let error = written.and_then(|()| close(&mut other)).unwrap_err();
    assert!(error.lasting && error.to_string().contains("another name"), "{error}");
    assert_eq!(table.rows(), [0, 1, 2, 3, 4]);
}

/// Goal: what is written at least once is seen at once, and a seal waits for it.
pub fn at_least_once(table: &impl Table) {
    let mut engine = Engine::default();
    let cx = contexts(&mut engine, 1).remove(0);
    let mut sink = table.sink(false).at_least_once().open(&cx).unwrap();
    write(&mut sink, 0..10).unwrap();
    until(|| Ok(table.rows().len() == 10)).unwrap();
    write(&mut sink, 10..20).unwrap();
    let first = engine.begin();
    engine.seal(first, 0, &mut sink).unwrap();
    until(|| sink.sealed(first)).unwrap();
    assert_eq!(table.rows().len(), 20);
    engine.exists(first, 20);
    assert!(engine.notes.is_empty());
    sink.commit(first).unwrap();
    close(&mut sink).unwrap();
}
