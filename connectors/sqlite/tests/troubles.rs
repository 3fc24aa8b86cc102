//! Locks, full disks, damaged files, tables that do not fit, rows that do not fit.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{rows, sink};
use rusqlite::Connection;
use thalweg_commits::model::table::{self, Entry, close, contexts, direct, epoch, until, write};
use thalweg_commits::model::{Engine, KEYS};
use thalweg_kernel::{Changed, Epoch, PendingId, RowKind, Sink, SinkSpec, Timestamp};
use thalweg_sqlite::{RowWriter, SqliteSink};

fn alone(engine: &mut Engine, path: &Path) -> RowWriter<u64> {
    sink(path, false).held_rows_max(100).open(&contexts(engine, 1)[0]).unwrap()
}

#[test]
fn a_lock_is_waited_out_and_pushes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let other = Connection::open(&path).unwrap();
    other.pragma_update(None, "journal_mode", "WAL").unwrap();
    // Also before the tables are there.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut engine = Engine::default();
    let mut sink = alone(&mut engine, &path);
    write(&mut sink, 0..100).unwrap();
    assert!(!sink.ready().unwrap());
    epoch(&mut engine, &mut sink).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(!sink.ready().unwrap(), "a commit that waits still holds its rows");
    other.execute_batch("ROLLBACK").unwrap();
    until(|| sink.ready()).unwrap();
    // What stands in front of a barrier is taken nevertheless.
    write(&mut sink, 100..400).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(rows(&path).len(), 400);
}

#[test]
fn a_full_disk_is_waited_out() {
    let Some(small) = common::Small::mount("3m") else { return };
    let path = small.0.path().join("out.db");
    let mut engine = Engine::default();
    let mut sink = alone(&mut engine, &path);
    let ballast = small.0.path().join("ballast");
    // Writes what there is room for.
    let _full = fs::write(&ballast, vec![1; 8 << 20]).unwrap_err();
    write(&mut sink, 0..50_000).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(10));
        assert!(!sink.ready().unwrap());
    }
    fs::remove_file(ballast).unwrap();
    until(|| sink.ready()).unwrap();
    close(&mut sink).unwrap();
    drop(sink);
    assert_eq!(rows(&path).len(), 50_000);
}

#[test]
fn without_checkpoints_rows_are_seen_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let mut sink = sink(&path, false).open(&direct()).unwrap();
    write(&mut sink, 0..10).unwrap();
    until(|| Ok(rows(&path).len() == 10)).unwrap();
    write(&mut sink, 10..20).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(rows(&path).len(), 20);
}

/// Goal: what is written at least once must not be forgotten by the sources before it is in the table.
#[test]
fn at_least_once_a_seal_waits_for_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let mut engine = Engine::default();
    let contexts = contexts(&mut engine, 1);
    let mut sink = sink(&path, false).at_least_once().open(&contexts[0]).unwrap();
    until(|| Ok(path.exists())).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    write(&mut sink, 0..10).unwrap();
    let first = engine.begin();
    engine.seal(first, 0, &mut sink).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(!sink.sealed(first).unwrap());
    other.execute_batch("ROLLBACK").unwrap();
    until(|| sink.sealed(first)).unwrap();
    assert_eq!(rows(&path).len(), 10);
    engine.exists(first, 10);
    assert!(engine.notes.is_empty());
    sink.commit(first).unwrap();
    close(&mut sink).unwrap();
}

/// Goal: a file from before commits said by whose count goes on. What it says is applied is not applied again, and
/// from then on it is this directory's. The file in `golden` is of the last version without.
#[test]
fn a_file_from_before_commits_named_directories_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/commits-v1.db");
    fs::copy(golden, &path).unwrap();
    assert_eq!(rows(&path), [0, 1, 2, 3]);
    // Epoch 2 is applied and its notes are still there.
    let mut engine = Engine::default();
    let table = common::File::new();
    for numbers in [0..2, 2..4] {
        table::run(&table, &mut engine, numbers).unwrap();
    }
    assert!(!engine.notes.is_empty());
    let mut writer = alone(&mut engine, &path);
    write(&mut writer, 4..6).unwrap();
    epoch(&mut engine, &mut writer).unwrap();
    close(&mut writer).unwrap();
    assert_eq!(rows(&path), [0, 1, 2, 3, 4, 5]);
    let mut other = Engine::within("there");
    let refused = sink(&path, false).open(&contexts(&mut other, 1)[0]);
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("take_over = \"here\""), "{why}");
}

#[test]
fn a_row_that_the_table_refuses_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE results (n INTEGER CHECK (n % 3 > 0))").unwrap();
    let mut sink = sink(&path, false).open(&direct()).unwrap();
    write(&mut sink, 0..10).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(rows(&path), [1, 2, 4, 5, 7, 8]);
    let letters: Vec<_> = std::iter::from_fn(|| sink.refused()).collect();
    let payloads: Vec<_> = letters.iter().map(|letter| &letter.payload[..]).collect();
    assert_eq!(payloads, [b"n = 0", b"n = 3", b"n = 6", b"n = 9"]);
    let first = letters[0].to_string();
    assert!(first.starts_with("sqlite /") && first.contains(": result_refused: "), "{first}");
    assert!(first.contains("CHECK constraint failed"), "{first}");
}

#[test]
fn every_kind_of_value_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let sink = SqliteSink::new(&path, "odd \" name")
        .key_text("text", |_: &u64| "ø")
        .key("flag", |&n| n == 1)
        .column("time", |_| Timestamp::from_millis(-5))
        .column("real", |&n| n as f32 / 2.0)
        .column("some", |&n| (n > 0).then_some(n))
        .column("blob", |_| vec![0_u8, 255])
        .column("many", |_| i64::MAX as u64)
        .column("op", |_| RowKind::UpdateAfter)
        .text("note", |_| "");
    sink.check().unwrap();
    let mut sink = sink.open(&direct()).unwrap();
    write(&mut sink, 0..2).unwrap();
    close(&mut sink).unwrap();
    let table = Connection::open(&path).unwrap();
    let found: Vec<String> = table
        .prepare(
            "SELECT concat_ws('|', text, flag, time, real, typeof(some), hex(blob), many, op, note) \
             FROM \"odd \"\" name\" ORDER BY flag",
        )
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let expected = [
        "ø|0|-5|0.0|null|00FF|9223372036854775807|+U|",
        "ø|1|-5|0.5|integer|00FF|9223372036854775807|+U|",
    ];
    assert_eq!(found, expected);
}

/// Goal: a number that SQLite has no place for is not another number.
#[test]
fn integers_beyond_64_bits_are_refused_unless_the_column_is_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    // Without a word, half of all hashes would be one row.
    let hashes = |n: u64| (i64::MAX as u64 - 2) + n;
    let sink = SqliteSink::new(&path, "results").key("n", move |&n| hashes(n));
    let mut sink = sink.open(&direct()).unwrap();
    write(&mut sink, 0..6).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(rows(&path), [i64::MAX - 2, i64::MAX - 1, i64::MAX]);

    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE texts (n VARCHAR(30) PRIMARY KEY, i INTEGER)").unwrap();
    let sink = SqliteSink::new(&path, "texts")
        .key("N", move |&n| hashes(n))
        .column("i", |&n: &u64| -i128::from(n));
    let mut sink = sink.changelog().open(&direct()).unwrap();
    for n in 0..6 {
        sink.write(Timestamp::default(), Changed::insert(n)).unwrap();
    }
    sink.write(Timestamp::default(), Changed::delete(1)).unwrap();
    sink.write(Timestamp::default(), Changed::delete(5)).unwrap();
    close(&mut sink).unwrap();
    let found: Vec<String> = other
        .prepare("SELECT concat_ws('|', n, typeof(n), i) FROM texts ORDER BY i DESC")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let row = |n: u64| format!("{}|text|-{n}", hashes(n)).replace("-0", "0");
    assert_eq!(found, [row(0), row(2), row(3), row(4)]);
}

/// Goal: an update is one update, also for what hangs on the row; a row leaves with its old key.
#[test]
fn an_update_is_no_deletion() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "CREATE TABLE results (key INTEGER, grade INTEGER, n INTEGER, PRIMARY KEY (key, grade)); \
             CREATE TABLE log (what TEXT); \
             CREATE TRIGGER gone AFTER DELETE ON results BEGIN INSERT INTO log VALUES (old.n); END",
        )
        .unwrap();
    let sink = table::changelog(SqliteSink::new(&path, "results"));
    let mut sink = table::Changes(sink.open(&direct()).unwrap());
    // All numbers of key 0: inserted, updated, of another grade, deleted.
    for version in 0..4 {
        sink.write(Timestamp::default(), version * KEYS).unwrap();
    }
    close(&mut sink).unwrap();
    let gone: Vec<i64> = other
        .prepare("SELECT what FROM log")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0).map(|n| n.parse().unwrap()))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(gone, [KEYS as i64, 2 * KEYS as i64]);
    assert!(rows(&path).is_empty());
}

/// Goal: with a kind column every change is a row; with a key, too, the newest change of each.
#[test]
fn a_kind_column_keeps_all_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let changes = || (0..4).flat_map(|version| Entry::changes(version * KEYS));
    let of = |table: &str, keyed: bool| {
        let sink = SqliteSink::new(&path, table).column("n", |e: &Entry| e.n);
        let sink = if keyed { sink.key("key", |e| e.key) } else { sink };
        let mut sink = sink.kind_column("op").open(&direct()).unwrap();
        for change in changes() {
            sink.write(Timestamp::default(), change).unwrap();
        }
        close(&mut sink).unwrap();
        let other = Connection::open(&path).unwrap();
        let mut statement = other.prepare(&format!("SELECT op || n FROM {table}")).unwrap();
        let found = statement.query_map([], |row| row.get(0)).unwrap();
        found.collect::<Result<Vec<String>, _>>().unwrap()
    };
    assert_eq!(of("history", false), ["+I0", "-U0", "+U7", "-U7", "+U14", "-D14"]);
    assert_eq!(of("newest", true), ["-D14"]);
}

/// Goal: what a version before kinds has left in an epoch is committed.
#[test]
fn notes_from_before_kinds_are_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../commits/tests/golden/rows-v1.note");
    let id = PendingId { epoch: Epoch::new(1), instance: 0, number: 0 };
    let mut engine = Engine::default();
    engine.restored = Some(Epoch::new(1));
    engine.notes.insert(id, fs::read(golden).unwrap());
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "CREATE TABLE results (device TEXT PRIMARY KEY, n INTEGER, ø REAL, raw BLOB)",
        )
        .unwrap();
    // The job follows a changelog by now.
    let next = sink(&path, false).changelog();
    let mut sink = next.open(&contexts(&mut engine, 1)[0]).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(rows(&path), [i64::MIN, -1, i64::MAX]);
}

#[test]
fn what_cannot_be_used_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |name: &str, keyed: bool| {
        let sink = sink(&directory.path().join(name), keyed);
        sink.open(&contexts(&mut Engine::default(), 1)[0]).err().unwrap().to_string()
    };
    let text = refused("missing/out.db", false);
    assert!(text.contains("is its directory there, and may you write?"), "{text}");
    fs::write(directory.path().join("text.db"), "x".repeat(5_000)).unwrap();
    let text = refused("text.db", false);
    assert!(text.contains("the file is there, and is something else"), "{text}");

    let make = |name: &str, sql: &str| {
        Connection::open(directory.path().join(name)).unwrap().execute_batch(sql).unwrap();
    };
    make("a.db", "CREATE TABLE results (key, other)");
    let text = refused("a.db", true);
    assert!(text.contains("table results has no column n; it has: key, other."), "{text}");
    make("b.db", "CREATE TABLE results (key, n)");
    let text = refused("b.db", true);
    assert!(text.contains("no primary key or unique index on exactly (key)"), "{text}");
    make("c.db", "CREATE TABLE results (n, who TEXT NOT NULL)");
    let text = refused("c.db", false);
    assert!(text.contains("column who of table results must not be NULL"), "{text}");
    make("d.db", "CREATE VIEW results AS SELECT 1 AS n");
    let text = refused("d.db", false);
    assert!(text.contains("view"), "{text}");

    let text = SqliteSink::<u64>::new("x", "thalweg_commits").check().unwrap_err().to_string();
    assert!(text.starts_with("table = \"thalweg_commits\" is not allowed"), "{text}");
    let text = sink(Path::new(":memory:"), false).check().unwrap_err().to_string();
    assert!(text.contains("the path of a file"), "{text}");
    let text = sink(Path::new("x"), false).held_rows_max(0).check().unwrap_err().to_string();
    assert!(text.starts_with("held_rows_max"), "{text}");
}

/// Goal: damage that is found while the job runs ends it, on every shard.
#[test]
fn a_damaged_file_ends_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    let spec = sink(&path, true);
    let mut first = spec.open(&direct()).unwrap();
    for n in 0..200 {
        first.write(Timestamp::default(), n).unwrap();
    }
    close(&mut first).unwrap();
    drop(first);
    let other = Connection::open(&path).unwrap();
    other.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    drop(other);
    let mut bytes = fs::read(&path).unwrap();
    // All pages but the first, which holds the schema.
    bytes[4096..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let cx = direct();
    // Found when it opens, or with the first row.
    let text = spec.open(&cx).and_then(|mut sink| {
        sink.write(Timestamp::default(), 1)?;
        until(|| sink.close())
    });
    let text = text.unwrap_err().to_string();
    assert!(text.contains("the file is damaged"), "{text}");
}
