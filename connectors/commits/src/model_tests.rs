//! The protocol for rows on a database of a few maps: thousands of seeded schedules, with transactions
//! that are refused, and some that were committed although the process died before it knew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use thalweg_kernel::{Epoch, OpenContext};

use crate::database::apply;
use crate::ledger::Work;
use crate::model::{self, Engine, KEYS, Random, World};
use crate::*;

/// What the database holds.
#[derive(Clone, Debug, Default)]
struct Tables {
    rows: Vec<i64>,
    by_key: BTreeMap<i64, i64>,
    commits: BTreeMap<u16, Commit>,
}

/// What happens to the next commit.
#[derive(Clone, Copy, Default)]
enum Weather {
    #[default]
    Fine,
    Busy,
    /// It is committed, and nobody is told.
    Mute,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<(Tables, Weather)>>);

struct Begun<'a> {
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

impl Transaction for Begun<'_> {
    fn commits(&mut self) -> Result<Vec<Commit>, Trouble> {
        Ok(self.tables.commits.values().cloned().collect())
    }

    fn set_commit(&mut self, commit: &Commit) -> Result<(), Trouble> {
        self.tables.commits.insert(commit.instance, commit.clone());
        Ok(())
    }

    fn write(&mut self, mut note: Note<'_>) -> Result<Written, Trouble> {
        let (mut row, mut written) = (Vec::new(), Written::default());
        while note.next_row(&mut row).unwrap() {
            let [Value::Integer(key), Value::Integer(n)] = row[..] else { panic!("{row:?}") };
            self.tables.rows.push(n);
            self.tables.by_key.insert(key, n);
            written.rows += 1;
        }
        Ok(written)
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
    desk: Option<Desk<RowClerk<Server>>>,
    /// Threads of earlier runs in the same process.
    old: Vec<Desk<RowClerk<Server>>>,
}

impl World for Fake {
    type Sink = RowWriter<u64>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<RowWriter<u64>> {
        let (office, desk) = RowOffice::new("fake".into(), &contexts[0], self.server.clone());
        self.desk = Some(desk);
        let mut columns = Columns::new();
        columns.bind("key", true, |&n| n % KEYS);
        columns.bind("n", false, |&n: &u64| n);
        let limits = Limits { rows_max: 25, bytes_max: 1_000 };
        contexts.iter().map(|cx| office.open(cx, columns.clone(), limits, false)).collect()
    }

    fn step(&mut self, random: &mut Random) {
        let weather = match random.below(10) {
            0 | 1 => Weather::Busy,
            2 => Weather::Mute,
            _ => Weather::Fine,
        };
        self.server.0.lock().unwrap().1 = weather;
        if !self.old.is_empty() && random.percent(50) {
            let at = random.below(self.old.len() as u64) as usize;
            match self.old[at].step() {
                Step::Failed => panic!("an earlier run has failed"),
                Step::Done => drop(self.old.remove(at)),
                _ => {}
            }
        }
        assert_ne!(self.desk.as_mut().unwrap().step(), Step::Failed);
    }

    fn crash(&mut self, sinks: Vec<RowWriter<u64>>, random: &mut Random) {
        // What was committed may still be applied, or not.
        for _ in 0..random.below(3) {
            self.step(random);
        }
        drop(sinks);
        let desk = self.desk.take();
        if random.percent(50) {
            // Only the job ends: the thread is still there.
            self.old.extend(desk);
        } else {
            self.old.clear();
        }
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        let tables = self.server.0.lock().unwrap().0.clone();
        check_rows(tables.rows, tables.by_key, positions, all);
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

/// The context of a job on one shard.
fn context(engine: &mut Engine) -> OpenContext {
    engine.contexts(1, std::task::Waker::noop(), &mut Random(1)).remove(0)
}

/// Goal: a thread that was slow to begin does not forget what the job's next run has applied.
#[test]
fn a_run_that_has_ended_changes_nothing_once_it_has_the_lock() {
    let mut server = Server::default();
    let claim = Claim::of(&context(&mut Engine::default()));
    let directory = claim.as_ref().unwrap().directory().clone();
    let commit =
        |epoch| Commit { instance: 0, epoch: Epoch::new(epoch), directory: directory.clone() };
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
