//! A sink as a job opens it: what it is told, its thread, and what it refuses before it opens anything.

use std::fmt;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Wake, Waker};
use std::time::Duration;

use thalweg_kernel::{Changed, ConfigError, Epoch, OpenContext, Sink, SinkSpec, Timestamp};

use crate::model::{Engine, Random};
use crate::model_tests::{REFUSED_FROM, Server as Memory};
use crate::sink::{COMMITS, Target};
use crate::*;

const HANGS: Duration = Duration::from_secs(60);

/// Maps in memory, and what they were opened for.
#[derive(Clone, Default)]
struct At(Memory, Arc<Mutex<Vec<Target<()>>>>);

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("At")
    }
}

struct Fake;

impl Server for Fake {
    type Address = At;
    type Database = Memory;

    fn name(_: &At) -> String {
        "fake memory".into()
    }

    fn check(_: &At, table: &str, columns: &[Column]) -> Result<(), ConfigError> {
        match (table, columns.len()) {
            ("odd", 1) => Err(ConfigError::new("table", table, "another name")),
            _ => Ok(()),
        }
    }

    fn open(target: Target<At>) -> Result<Memory, Trouble> {
        let Target { address: At(memory, told), table, columns, deletes, job, sink } = target;
        if table == "locked" {
            return Err(Trouble::Lasting("it is locked".into()));
        }
        told.lock().unwrap().push(Target { address: (), table, columns, deletes, job, sink });
        Ok(memory)
    }
}

fn sink(at: &At) -> RowSink<u64, Fake> {
    RowSink::new(at.clone(), "t").key("key", |n: &u64| n % 7).column("n", |&n: &u64| n)
}

struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

/// A context with checkpoints, and what tells when it is woken.
fn context() -> (OpenContext, mpsc::Receiver<()>) {
    let (bell, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    (Engine::default().contexts(1, &waker, &mut Random::new(1)).remove(0), woken)
}

/// Asks again whenever the shard is woken.
fn until(woken: &mpsc::Receiver<()>, mut done: impl FnMut() -> bool) {
    while !done() {
        woken.recv_timeout(HANGS).unwrap();
    }
}

fn write(sink: &mut RowWriter<u64>, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| sink.write(Timestamp::default(), n).unwrap());
}

#[test]
fn rows_go_through_the_thread_to_the_table_and_the_sink_closes_behind_them() {
    let at = At::default();
    let (mut cx, woken) = context();
    cx.durability.checkpoints = false;
    let mut sink = sink(&at).open(&cx).unwrap();
    write(&mut sink, 0..3);
    sink.flush().unwrap();
    until(&woken, || sink.close().unwrap());
    assert_eq!(at.0.0.lock().unwrap().0.rows, [0, 1, 2]);
    // Its shard asks again while others close.
    assert!(sink.close().unwrap());
}

#[test]
fn at_least_once_waits_for_no_epoch_and_a_sink_that_holds_rows_does() {
    for at_least_once in [true, false] {
        let at = At::default();
        let (cx, woken) = context();
        let spec = if at_least_once { sink(&at).at_least_once() } else { sink(&at) };
        let mut sink = spec.open(&cx).unwrap();
        write(&mut sink, 0..3);
        sink.flush().unwrap();
        if at_least_once {
            until(&woken, || sink.close().unwrap());
        } else {
            let error = sink.close().unwrap_err().to_string();
            assert_eq!(error, "fake memory t: ended with 3 rows that belong to no epoch");
        }
        let rows = at.0.0.lock().unwrap().0.rows.len();
        assert_eq!(rows, if at_least_once { 3 } else { 0 });
    }
}

#[test]
fn a_shard_is_not_ready_at_its_limits_until_rows_are_applied() {
    for spec in [sink(&At::default()).held_rows_max(3), sink(&At::default()).held_bytes_max(26)] {
        let (cx, woken) = context();
        let (mut sink, mut engine) = (spec.open(&cx).unwrap(), Engine::default());
        until(&woken, || sink.ready().unwrap());
        // 14 bytes describe the columns, and each row takes 4.
        write(&mut sink, 0..1);
        assert!(sink.ready().unwrap());
        write(&mut sink, 1..3);
        assert!(!sink.ready().unwrap());
        let epoch = engine.begin();
        engine.seal(epoch, 0, &mut sink).unwrap();
        assert!(!sink.ready().unwrap(), "what is sealed is held");
        sink.commit(epoch).unwrap();
        until(&woken, || sink.ready().unwrap());
        until(&woken, || sink.close().unwrap());
    }
}

/// Goal: a shard that is settled may go; nothing that was committed is left to do.
#[test]
fn a_sink_has_settled_when_the_thread_has_applied_what_all_shards_committed() {
    let at = At::default();
    let (bell, woken) = mpsc::channel();
    let (waker, mut engine) = (Waker::from(Arc::new(Bell(bell))), Engine::default());
    let contexts = engine.contexts(2, &waker, &mut Random::new(1));
    let spec = sink(&at);
    let mut sinks: Vec<_> = contexts.iter().map(|cx| spec.open(cx).unwrap()).collect();
    write(&mut sinks[0], 0..3);
    let epoch = engine.begin();
    for (shard, sink) in sinks.iter_mut().enumerate() {
        engine.seal(epoch, shard, sink).unwrap();
    }
    sinks[0].commit(epoch).unwrap();
    assert!(!sinks[0].settled().unwrap(), "the other shard has not heard of the epoch");
    sinks[1].commit(epoch).unwrap();
    until(&woken, || sinks[1].settled().unwrap());
    assert_eq!(at.0.0.lock().unwrap().0.rows, [0, 1, 2]);
    until(&woken, || sinks[0].settled().unwrap());
}

#[test]
fn the_database_is_told_what_for() {
    let at = At::default();
    let told = || at.1.lock().unwrap().pop().unwrap();
    let (cx, _woken) = context();
    drop(sink(&at).open(&cx).unwrap());
    let target = told();
    let columns: Vec<_> = target.columns.iter().map(|column| (&*column.name, column.key)).collect();
    assert_eq!(columns, [("key", true), ("n", false)]);
    assert_eq!((&*target.table, &*target.job, &*target.sink), ("t", "job", "sink"));
    assert!(!target.deletes, "rows are put alone");
    drop(sink(&at).changelog().open(&context().0).unwrap());
    assert!(told().deletes, "a table with a key follows");
    let keyless = RowSink::<u64, Fake>::new(at.clone(), "t").column("n", |&n: &u64| n);
    drop(keyless.clone().changelog().open(&context().0).unwrap());
    assert!(!told().deletes, "without a key no row leaves");
    drop(sink(&at).kind_column("op").open(&context().0).unwrap());
    let target = told();
    assert_eq!((target.deletes, target.columns.len(), &*target.columns[2].name), (false, 3, "op"));
    let (mut unnamed, _woken) = context();
    unnamed.durability.operator = "".into();
    unnamed.operator = "by number".into();
    drop(keyless.open(&unnamed).unwrap());
    assert_eq!(&*told().sink, "by number");
}

#[test]
fn every_change_is_a_row_with_its_kind() {
    let at = At::default();
    let (mut cx, woken) = context();
    cx.durability.checkpoints = false;
    let spec = RowSink::<u64, Fake>::new(at.clone(), "t").column("n", |&n: &u64| n);
    let mut sink = spec.key_text("text", |_| "x").text("more", |_| "y").kind_column("op");
    assert_eq!(sink.describe(), "fake memory t");
    sink = sink.clone();
    let names: Vec<_> = {
        drop(sink.open(&context().0).unwrap());
        at.1.lock().unwrap().pop().unwrap().columns
    };
    let names: Vec<_> =
        names.iter().map(|column| (&*column.name, column.kind, column.key)).collect();
    let text = |name, key| (name, Kind::Text, key);
    assert_eq!(
        names,
        [("n", Kind::Integer, false), text("text", true), text("more", false), text("op", false)]
    );
    let spec = RowSink::<u64, Fake>::new(at.clone(), "t").column("n", |&n: &u64| n % 2);
    let mut sink = spec.key("key", |&n: &u64| n).changelog().open(&cx).unwrap();
    sink.write(Timestamp::default(), Changed::insert(7)).unwrap();
    sink.flush().unwrap();
    until(&woken, || sink.close().unwrap());
    assert_eq!(at.0.0.lock().unwrap().0.kinds, ["+I"]);
}

#[test]
fn a_sink_that_cannot_be_is_refused_before_anything_is_opened() {
    let at = At::default();
    let refused = |spec: RowSink<u64, Fake>| spec.check().unwrap_err().to_string();
    let table = |name: &str| RowSink::<u64, Fake>::new(at.clone(), name).column("n", |&n: &u64| n);
    for name in ["", "a\0b", COMMITS, "THALWEG_commits"] {
        assert!(
            refused(table(name)).contains("a table's name, other than thalweg_commits"),
            "{name}"
        );
    }
    assert!(refused(table("odd")).contains("another name"), "what the server refuses");
    assert!(refused(RowSink::new(at.clone(), "t")).contains("1 to 1000 columns"));
    assert!(refused(sink(&at).held_rows_max(0)).starts_with("held_rows_max = \"0\""));
    assert!(refused(sink(&at).held_bytes_max(0)).starts_with("held_bytes_max = \"0\""));
    sink(&at).held_rows_max(1).held_bytes_max(1).check().unwrap();
    let error = table("").open(&context().0).map(drop).unwrap_err();
    assert!(error.lasting && error.to_string().contains("wrong setting"), "{error}");
    assert!(at.1.lock().unwrap().is_empty());
    let error = table("locked").open(&context().0).map(drop).unwrap_err();
    assert_eq!(
        (error.to_string(), error.lasting),
        ("fake memory locked: it is locked".into(), true)
    );
}

#[test]
fn another_jobs_table_is_refused_at_the_start() {
    let at = At::default();
    let commit = Commit { instance: 0, epoch: Epoch::new(5), directory: "other".into() };
    at.0.0.lock().unwrap().0.commits.insert(0, commit);
    let error = sink(&at).open(&context().0).map(drop).unwrap_err();
    assert!(error.lasting && error.to_string().contains("another name"), "{error}");
    let (mut cx, _woken) = context();
    cx.durability.checkpoints = false;
    drop(sink(&at).open(&cx).unwrap());
}

#[test]
fn a_note_is_closed_when_it_is_long_enough() {
    let at = At::default();
    let (mut cx, woken) = context();
    cx.durability.checkpoints = false;
    let mut sink = RowSink::<u64, Fake>::new(at.clone(), "t")
        .key("key", |_: &u64| 1)
        .column("n", |&n: &u64| n)
        .open(&cx)
        .unwrap();
    // A row takes 2 bytes and 2 to 4 more.
    write(&mut sink, 0..NOTE_BYTES as u64 / 4);
    until(&woken, || !at.0.0.lock().unwrap().0.rows.is_empty());
    until(&woken, || sink.close().unwrap());
    assert_eq!(at.0.0.lock().unwrap().0.rows.len(), NOTE_BYTES / 4);
}

/// Goal: a row that the table does not take is a dead letter of the shard that wrote it, and stops nobody.
#[test]
fn what_the_table_refuses_comes_back_to_its_shard() {
    let at = At::default();
    let (bell, woken) = mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut contexts = Engine::default().contexts(2, &waker, &mut Random::new(1));
    contexts.iter_mut().for_each(|cx| cx.durability.checkpoints = false);
    let spec = sink(&at);
    let mut sinks: Vec<_> = contexts.iter().map(|cx| spec.open(cx).unwrap()).collect();
    let refused = REFUSED_FROM as u64;
    write(&mut sinks[0], refused..refused + 2);
    write(&mut sinks[1], 1..2);
    write(&mut sinks[1], refused + 2..refused + 3);
    for sink in &mut sinks {
        sink.flush().unwrap();
    }
    until(&woken, || sinks.iter_mut().all(|sink| sink.close().unwrap()));
    assert_eq!(at.0.0.lock().unwrap().0.rows, [1]);
    let letters = sinks.iter_mut().map(|sink| std::iter::from_fn(|| sink.refused()).collect());
    let [first, second]: [Vec<_>; 2] = letters.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((first.len(), second.len()), (2, 1));
    let letter = &first[0];
    assert_eq!(letter.to_string(), "fake memory t: result_refused: it is too large");
    assert_eq!(&*letter.payload, b"key = 1, n = 1000000");
    assert!(
        letter.received > Timestamp::from_millis(1_700_000_000_000),
        "by the clock of this machine"
    );
    assert_eq!(&*second[0].payload, b"key = 3, n = 1000002");
}

/// Goal: at least once, an epoch does not exist before its rows are in the table. Else its sources would forget
/// them, and a crash would lose them.
#[test]
fn an_epoch_waits_for_rows_that_are_not_held_back() {
    let (cx, _woken) = context();
    let memory = Memory::default();
    let (coordinator, mut thread) = RowCoordinator::new("fake".into(), &cx, memory.clone());
    let mut columns = Columns::new();
    columns.bind("key", true, |&n: &u64| n);
    columns.bind("n", false, |&n: &u64| n);
    let (mut sink, mut engine) =
        (coordinator.open(&cx, columns, Limits::default(), true), Engine::default());
    let mut apply = || while thread.step() == Step::Worked {};
    apply();
    let (first, second) = (engine.begin(), engine.begin());
    write(&mut sink, 0..2);
    engine.seal(first, 0, &mut sink).unwrap();
    assert!(!sink.sealed(first).unwrap());
    assert!(sink.sealed(Epoch::NONE).unwrap(), "an earlier one waits for nothing");
    apply();
    assert!(sink.sealed(first).unwrap());
    write(&mut sink, 2..4);
    engine.seal(second, 0, &mut sink).unwrap();
    assert!(sink.sealed(first).unwrap() && !sink.sealed(second).unwrap());
    apply();
    assert!(sink.sealed(second).unwrap());
    assert_eq!(memory.0.lock().unwrap().0.rows, [0, 1, 2, 3]);
}
