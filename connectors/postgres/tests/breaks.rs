//! Connections that break, backends that are ended, servers that are killed: nothing is lost or repeated.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::proxy::{Fate, Proxy};
use common::{Database, sink};
use thalweg_commits::model::Engine;
use thalweg_commits::model::table::{Table, close, contexts, direct, epoch, until, write};
use thalweg_kernel::SinkSpec;
use thalweg_postgres::RowWriter;
use thalweg_postgres::testing::{Client, Server};

fn open(engine: &mut Engine, url: &str) -> RowWriter<u64> {
    sink(url, false).open(&contexts(engine, 1)[0]).unwrap()
}

fn rows(database: &Database, count: u64) {
    let rows = database.rows();
    assert!(rows.iter().copied().eq(0..count as i64), "lost or repeated: {rows:?}");
}

/// Goal: wherever in `COMMIT` the connection breaks, the epoch is there once.
#[test]
fn a_connection_that_breaks_in_commit() {
    let Some(database) = Database::new("commit") else { return };
    let proxy = Proxy::start(database.server.port());
    let mut engine = Engine::default();
    let mut sink = open(&mut engine, &proxy.url("commit"));
    let mut count = 0;
    for fate in [Fate::Lost, Fate::Unanswered, Fate::Lost, Fate::Unanswered, Fate::Passes] {
        proxy.next_commit(fate);
        write(&mut sink, count..count + 10).unwrap();
        epoch(&mut engine, &mut sink).unwrap();
        count += 10;
        until(|| Ok(database.rows().len() as u64 == count)).unwrap();
    }
    close(&mut sink).unwrap();
    rows(&database, count);
}

/// Goal: a backend that outlives its connection, and commits when the next one is already at work, is waited for.
/// Else both would apply the epoch.
#[test]
fn a_commit_that_comes_late() {
    let Some(database) = Database::new("late") else { return };
    let proxy = Proxy::start(database.server.port());
    let mut engine = Engine::default();
    let mut sink = open(&mut engine, &proxy.url("late"));
    write(&mut sink, 0..10).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    until(|| Ok(database.rows().len() == 10)).unwrap();
    proxy.next_commit(Fate::Late);
    write(&mut sink, 10..20).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    proxy.wait_for(1);
    // The next attempt stands before the lock.
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until(|| Ok(database.client.integers(waits) == [1])).unwrap();
    rows(&database, 10);
    proxy.release();
    close(&mut sink).unwrap();
    rows(&database, 20);
}

/// Goal: a backend that is ended while it is idle, or in the middle of anything, costs nothing.
#[test]
fn backends_that_are_terminated() {
    let Some(database) = Database::new("terminated") else { return };
    let mut engine = Engine::default();
    let mut sink = open(&mut engine, &database.url);
    let done = Arc::new(AtomicBool::new(false));
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = 'terminated' AND application_name = 'thalweg'";
    let ender = {
        let (done, other) = (Arc::clone(&done), Client::connect(&database.server.url("postgres")));
        thread::spawn(move || {
            let mut ended = 0;
            while !done.load(SeqCst) {
                ended += other.integers(end)[0];
                thread::sleep(Duration::from_millis(7));
            }
            ended
        })
    };
    let mut count = 0;
    for _ in 0..40 {
        write(&mut sink, count..count + 500).unwrap();
        epoch(&mut engine, &mut sink).unwrap();
        count += 500;
        thread::sleep(Duration::from_millis(5));
    }
    done.store(true, SeqCst);
    let ended = ender.join().unwrap();
    close(&mut sink).unwrap();
    rows(&database, count);
    assert!(ended > 0, "nothing was ended");
    // While it is idle: noticed with the next transaction, which loses no time over it.
    let Some(idle) = Database::new("idle") else { return };
    let mut sink = sink_direct(&idle.url);
    write(&mut sink, 0..5).unwrap();
    until(|| Ok(idle.rows().len() == 5)).unwrap();
    assert_eq!(idle.client.integers(&end.replace("terminated", "idle")), [1]);
    write(&mut sink, 5..10).unwrap();
    close(&mut sink).unwrap();
    rows(&idle, 10);
}

fn sink_direct(url: &str) -> RowWriter<u64> {
    sink(url, false).open(&direct()).unwrap()
}

/// Goal: a server is killed (`kill -9`, all its processes) at any moment, between statements and in `COMMIT`, and
/// started again. It loses nothing that it has committed, and gets nothing twice.
#[test]
fn a_server_that_is_killed() {
    let Some(server) = Server::durable() else { return };
    let server = Arc::new(server);
    let url = server.database("killed");
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let done = Arc::clone(&done);
        let url = url.clone();
        thread::spawn(move || {
            let mut engine = Engine::default();
            let mut sink = open(&mut engine, &url);
            let mut count = 0;
            while !done.load(SeqCst) {
                // Enough that it takes a while.
                until(|| thalweg_kernel::Sink::ready(&mut sink)).unwrap();
                write(&mut sink, count..count + 2_000).unwrap();
                epoch(&mut engine, &mut sink).unwrap();
                count += 2_000;
                thread::sleep(Duration::from_millis(1));
            }
            close(&mut sink).unwrap();
            count
        })
    };
    for kill in 0..4_u64 {
        thread::sleep(Duration::from_millis(60 + kill * 37));
        server.restart();
    }
    done.store(true, SeqCst);
    let count = writer.join().unwrap();
    let rows = Client::connect(&url).integers("SELECT n FROM results ORDER BY n");
    assert!(
        rows.iter().copied().eq(0..count as i64),
        "lost or repeated: {} of {count}",
        rows.len()
    );
}

/// Goal: a server that is not there when the job starts is waited for; the shard fills up meanwhile.
#[test]
fn a_server_that_comes_later() {
    let Some(server) = Server::start() else { return };
    let url = server.database("later");
    server.kill();
    let mut engine = Engine::default();
    let cx = contexts(&mut engine, 1).remove(0);
    let mut sink = sink(&url, false).held_rows_max(100).open(&cx).unwrap();
    write(&mut sink, 0..100).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    assert!(!thalweg_kernel::Sink::ready(&mut sink).unwrap(), "what is not applied is still held");
    server.restart();
    until(|| thalweg_kernel::Sink::ready(&mut sink)).unwrap();
    close(&mut sink).unwrap();
    let rows = Client::connect(&url).integers("SELECT n FROM results ORDER BY n");
    assert_eq!(rows.len(), 100);
}

/// Goal: whoever accepts connections and then says nothing holds up neither the start nor, once the server is
/// there, the rows.
#[test]
fn a_port_that_accepts_and_says_nothing() {
    let Some(database) = Database::new("mute") else { return };
    let proxy = Proxy::mute(database.server.port(), 1);
    let mut engine = Engine::default();
    let url = format!("{}?connect_timeout=1", proxy.url("mute"));
    let mut sink = open(&mut engine, &url);
    write(&mut sink, 0..10).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    close(&mut sink).unwrap();
    rows(&database, 10);
}

/// Goal: a table that another program has locked is waited out, and pushes back.
#[test]
fn a_lock_is_waited_out() {
    let Some(database) = Database::new("locked") else { return };
    let mut engine = Engine::default();
    let cx = contexts(&mut engine, 1).remove(0);
    let mut sink = sink(&database.url, false).held_rows_max(100).open(&cx).unwrap();
    let other = Client::connect(&database.url);
    other.query("BEGIN; LOCK TABLE results IN ACCESS EXCLUSIVE MODE");
    write(&mut sink, 0..100).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    let waits =
        "SELECT count(*) FROM pg_locks WHERE relation = 'results'::regclass AND NOT granted";
    until(|| Ok(database.client.integers(waits) == [1])).unwrap();
    assert!(!thalweg_kernel::Sink::ready(&mut sink).unwrap());
    other.query("ROLLBACK");
    close(&mut sink).unwrap();
    rows(&database, 100);
}
