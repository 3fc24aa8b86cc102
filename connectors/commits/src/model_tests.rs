//! The protocol for rows on a database of a few maps, in thousands of seeded schedules. Some
//! transactions are refused, and some were committed although the process died before it knew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use thalweg_kernel::{Changed, Epoch, OpenContext, Sink, Timestamp};

use crate::database::apply;
use crate::ledger::Work;
use crate::model::table::{Changes, Entry, check_changelog};
use crate::model::{self, Engine, KEYS, Random, World};
use crate::*;

/// What the database holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) rows: Vec<i64>,
    by_key: BTreeMap<i64, i64>,
    /// Of a changelog.
    by_grade: BTreeMap<(i64, i64), i64>,
    /// Of all rows, in their order.
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) commits: BTreeMap<u16, Commit>,
}

/// What happens to the next commit.
#[derive(Clone, Copy, Default)]
pub(crate) enum Weather {
    #[default]
    Fine,
    Busy,
    /// It is committed, and nobody is told.
    Mute,
}

#[derive(Clone, Default)]
pub(crate) struct Server(pub(crate) Arc<Mutex<(Tables, Weather)>>);

pub(crate) struct Begun<'a> {
    server: &'a Server,
    tables: Tables,
}

impl Database for Server {
    type Transaction<'a> = Begun<'a>;

    fn begin(&mut self) -> Result<Begun<'_>, Trouble> {
        let tables = self.0.lock().unwrap().0.clone();
        Ok(Begun { server: self, tables })
    }
}

/// The table takes no number of this size.
pub(crate) const REFUSED_FROM: i64 = 1_000_000;

impl Transaction for Begun<'_> {
    fn commits(&mut self) -> Result<Vec<Commit>, Trouble> {
        Ok(self.tables.commits.values().cloned().collect())
    }

    fn set_commit(&mut self, commit: &Commit) -> Result<(), Trouble> {
        self.tables.commits.insert(commit.instance, commit.clone());
        Ok(())
    }

    fn write(&mut self, mut note: Note<'_>, written: &mut Written) -> Result<(), Trouble> {
        let mut row = Vec::new();
        while let Some(kind) = note.next_row(&mut row).unwrap() {
            if matches!(row[..], [_, Value::Integer(n)] if n >= REFUSED_FROM) {
                written.refused.add(note.columns(), &row, "it is too large");
                continue;
            }
            written.rows += 1;
            self.tables.kinds.push(kind.name());
            if !kind.puts() {
                let [Value::Integer(key), Value::Integer(grade), Value::Null] = row[..] else {
                    panic!("{row:?}")
                };
                self.tables.by_grade.remove(&(key, grade));
                continue;
            }
            match row[..] {
                [Value::Integer(key), Value::Integer(n)] => {
                    self.tables.rows.push(n);
                    self.tables.by_key.insert(key, n);
                }
                [Value::Integer(key), Value::Integer(grade), Value::Integer(n)] => {
                    self.tables.by_grade.insert((key, grade), n);
                }
                _ => panic!("{row:?}"),
            }
        }
        Ok(())
    }

    fn commit(self) -> Result<(), Trouble> {
        let mut server = self.server.0.lock().unwrap();
        match server.1 {
            Weather::Fine => server.0 = self.tables,
            Weather::Busy => return Err(Trouble::Wait("busy".into())),
            Weather::Mute => {
                server.0 = self.tables;
                return Err(Trouble::Wait("the connection has gone".into()));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Fake {
    server: Server,
    thread: Option<CommitThread<RowCommitter<Server>>>,
    /// Threads of earlier runs in the same process.
    old: Vec<CommitThread<RowCommitter<Server>>>,
}

impl Fake {
    fn begin<T>(&mut self, contexts: &[OpenContext], columns: &Columns<T>) -> Vec<RowWriter<T>> {
        let (coordinator, thread) =
            RowCoordinator::new("fake".into(), &contexts[0], self.server.clone());
        self.thread = Some(thread);
        let limits = Limits { rows_max: 25, bytes_max: 1_000 };
        contexts.iter().map(|cx| coordinator.open(cx, columns.clone(), limits, false)).collect()
    }

    fn step(&mut self, random: &mut Random) {
        let weather = match random.below(10) {
            0 | 1 => Weather::Busy,
            2 => Weather::Mute,
            _ => Weather::Fine,
        };
        self.server.0.lock().unwrap().1 = weather;
        if !self.old.is_empty() && random.percent(50) {
            let at = random.below(self.old.len());
            match self.old[at].step() {
                Step::Failed => panic!("an earlier run has failed"),
                Step::Done => drop(self.old.remove(at)),
                _ => {}
            }
        }
        assert_ne!(self.thread.as_mut().unwrap().step(), Step::Failed);
    }

    fn crash<T>(&mut self, sinks: Vec<RowWriter<T>>, random: &mut Random) {
        // What was committed may still be applied, or not.
        for _ in 0..random.below(3) {
            self.step(random);
        }
        drop(sinks);
        let thread = self.thread.take();
        if random.percent(50) {
            // Only the job ends: the thread is still there.
            self.old.extend(thread);
        } else {
            self.old.clear();
        }
    }
}

impl World for Fake {
    type Sink = RowWriter<u64>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<RowWriter<u64>> {
        let mut columns = Columns::new();
        columns.bind("key", true, |&n| n % KEYS);
        columns.bind("n", false, |&n: &u64| n);
        self.begin(contexts, &columns)
    }

    fn step(&mut self, random: &mut Random) {
        self.step(random);
    }

    fn crash(&mut self, sinks: Vec<RowWriter<u64>>, random: &mut Random) {
        self.crash(sinks, random);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        let tables = self.server.0.lock().unwrap().0.clone();
        check_rows(tables.rows, tables.by_key, positions, all);
    }
}

/// The same with a changelog.
#[derive(Default)]
struct FakeChangelog(Fake);

/// The columns of its table: the key first.
fn entries() -> Columns<Changed<Entry>> {
    let mut columns = Columns::new();
    columns.bind("key", true, |e: &Entry| e.key);
    columns.bind("grade", true, |e| e.grade);
    columns.bind("n", false, |e| e.n);
    columns.of_changes(true)
}

impl World for FakeChangelog {
    type Sink = Changes<RowWriter<Changed<Entry>>>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink> {
        self.0.begin(contexts, &entries()).into_iter().map(Changes).collect()
    }

    fn step(&mut self, random: &mut Random) {
        self.0.step(random);
    }

    fn crash(&mut self, sinks: Vec<Self::Sink>, random: &mut Random) {
        self.0.crash(sinks.into_iter().map(|sink| sink.0).collect(), random);
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        let by_grade = self.0.server.0.lock().unwrap().0.by_grade.clone();
        let mut rows: Vec<_> = by_grade.into_values().collect();
        rows.sort_unstable();
        check_changelog(&rows, positions, all);
    }
}

/// What is there is what was there at some epoch.
pub(crate) fn check_rows(
    mut rows: Vec<i64>,
    by_key: BTreeMap<i64, i64>,
    positions: &[u64],
    all: bool,
) {
    rows.sort_unstable();
    let count = rows.len() as u64;
    assert!(rows.iter().copied().eq(0..count as i64), "lost or repeated: {rows:?}");
    assert!(positions.contains(&count), "part of an epoch: {count} of {positions:?}");
    if all {
        assert_eq!(Some(&count), positions.last());
    }
    for (key, n) in by_key {
        let newest = (0..count as i64).rev().find(|n| n % KEYS as i64 == key);
        assert_eq!(Some(n), newest, "key {key}");
    }
}

#[test]
fn nothing_is_lost_and_nothing_repeated_in_3000_schedules() {
    for seed in 0..3_000 {
        model::play(&mut Fake::default(), seed, 150, 15);
    }
}

#[test]
fn the_table_of_a_changelog_is_that_of_an_epoch_in_3000_schedules() {
    for seed in 10_000..13_000 {
        model::play(&mut FakeChangelog::default(), seed, 150, 15);
    }
}

/// Writes changes into a sink without checkpoints; its notes as the kinds of their rows.
fn notes(columns: Columns<Changed<Entry>>, changes: &[Changed<Entry>]) -> Result<String, String> {
    let mut cx = context(&mut Engine::default());
    cx.durability.checkpoints = false;
    let server = Server::default();
    let (coordinator, mut thread) = RowCoordinator::new("fake".into(), &cx, server.clone());
    let mut sink = coordinator.open(&cx, columns, Limits::default(), false);
    for &change in changes {
        sink.write(Timestamp::default(), change).map_err(|error| error.to_string())?;
    }
    sink.flush().unwrap();
    while thread.step() == Step::Worked {}
    let kinds = server.0.lock().unwrap().0.kinds.clone();
    Ok(kinds.concat())
}

#[test]
fn the_halves_of_an_update_become_one_where_the_key_stays() {
    let entry = |grade, n| Entry { key: 1, grade, n };
    let [before, after] = Changed::update(entry(1, 1), entry(1, 2));
    let [_, elsewhere] = Changed::update(entry(1, 1), entry(2, 2));
    let kinds = |changes: &[_]| notes(entries(), changes).unwrap();
    assert_eq!(kinds(&[before, after]), "+U");
    assert_eq!(kinds(&[before, elsewhere]), "-U+U");
    assert_eq!(kinds(&[after, before]), "+U-U");
    assert_eq!(kinds(&[before, before, after, after]), "-U+U+U");
    assert_eq!(kinds(&[Changed::delete(entry(1, 1)), after]), "-D+U");
    assert_eq!(kinds(&[before, Changed::delete(entry(1, 1)), after]), "-U-D+U");
}

#[test]
fn a_table_without_a_key_takes_inserts_alone_and_says_so() {
    let mut columns = Columns::new();
    columns.bind("key", false, |e: &Entry| e.key);
    columns.bind("grade", false, |e| e.grade);
    columns.bind("n", false, |e| e.n);
    let columns = columns.of_changes(true);
    let entry = Entry { key: 1, grade: 1, n: 1 };
    let inserts = [Changed::insert(entry); 2];
    assert_eq!(notes(columns.clone(), &inserts).unwrap(), "+I+I");
    for change in Changed::update(entry, entry).into_iter().chain([Changed::delete(entry)]) {
        let why = notes(columns.clone(), &[change]).unwrap_err();
        assert!(why.contains(change.kind.name()) && why.contains("`kind_column`"), "{why}");
    }
}

/// The context of a job on one shard.
fn context(engine: &mut Engine) -> OpenContext {
    engine.contexts(1, std::task::Waker::noop(), &mut Random::new(1)).remove(0)
}

/// Goal: a thread that was slow to begin does not forget what the job's next run has applied.
#[test]
fn a_run_that_has_ended_changes_nothing_once_it_has_the_lock() {
    let mut server = Server::default();
    let claim = Claim::of(&context(&mut Engine::default()));
    let commit = |epoch| Commit { instance: 0, epoch: Epoch::new(epoch), directory: "here".into() };
    server.0.lock().unwrap().0.commits.insert(0, commit(5));
    let recovered = |restored| Work { restored: Some(Epoch::new(restored)), ..Work::default() };
    assert_eq!(apply(&mut server, claim.as_ref(), &recovered(4), || true), Ok(None));
    assert_eq!(server.0.lock().unwrap().0.commits[&0], commit(5));
    let applied = apply(&mut server, claim.as_ref(), &recovered(4), || false).unwrap().unwrap();
    assert_eq!(applied.forgotten, [commit(5)]);
    assert_eq!(server.0.lock().unwrap().0.commits[&0], commit(4));
}

/// Goal: a job without checkpoints has no epochs, and does not touch those of one that has.
#[test]
fn without_checkpoints_commits_are_left_alone() {
    let mut server = Server::default();
    let commit = Commit { instance: 0, epoch: Epoch::new(5), directory: "other".into() };
    server.0.lock().unwrap().0.commits.insert(0, commit.clone());
    let work = Work { restored: Some(Epoch::NONE), ..Work::default() };
    assert_eq!(apply(&mut server, None, &work, || false), Ok(Some(Default::default())));
    assert_eq!(server.0.lock().unwrap().0.commits[&0], commit);
}
