//! Goal: what the program says about connectors is what they are. A job runs from `datagen` to `blackhole`, and from
//! `datagen` to a database exactly once.
//!
//! Method: the real program. The page of docs is compared with what it prints. A job that makes a known number of
//! rows is killed and started again, and its counts are added up.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Program, file, run, thalweg};
use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md");

#[test]
fn the_page_of_docs_is_what_the_descriptions_say() {
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    let said = run(&["connectors", "--markdown"]).ok();
    assert!(
        page == said,
        "docs/connectors.md is stale; do: thalweg connectors --markdown > docs/connectors.md"
    );
}

#[test]
fn connectors_are_listed_and_told_apart() {
    let list = run(&["connectors"]).ok();
    for line in ["mqtt       source, sink", "sqlite     sink", "datagen    source"] {
        assert!(list.contains(line), "{list}");
    }
    let mqtt = run(&["connectors", "mqtt"]).ok();
    for part in [
        "[source.mqtt]",
        "[sink.mqtt]",
        "keep_alive_s: 5 to 65535 seconds",
        "default: 30",
        "also: receive_max",
    ] {
        assert!(mqtt.contains(part), "{part}: {mqtt}");
    }
    let all: Value = serde_json::from_str(&run(&["connectors", "--json"]).ok()).unwrap();
    let names: Vec<_> =
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"postgres") && names.contains(&"stdout"), "{names:?}");
    let one: Value = serde_json::from_str(&run(&["connectors", "sqlite", "--json"]).ok()).unwrap();
    let table = &one["sink"]["options"][1];
    assert_eq!((&table["key"], &table["required"]), (&"table".into(), &true.into()));
    let err = run(&["connectors", "mqt"]).failed(2);
    assert!(err.contains("did you mean mqtt?"), "{err}");
}

fn job(dir: &Path, source: &str, sink: &str) -> String {
    let toml = format!(
        "name = 'made'\n[source.datagen]\n{source}\n[window]\nsize = '1s'\nout_of_orderness = '1s'\n{sink}\n"
    );
    file(dir, "job.toml", toml)
}

#[test]
fn made_rows_are_counted_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let fields = "number_of_rows = 20000\npartitions = 3\nseed = 7\n[source.datagen.fields.ts]\nkind = 'time'\n\
                  start = 1700000000000\nevery = '1ms'\ndisorder = '500ms'\n\
                  [source.datagen.fields.device]\nkind = 'device'\ncount = 5\n\
                  [source.datagen.fields.value]\nkind = 'integer'\nmin = 1\nmax = 9";
    let forgotten = job(dir.path(), fields, "[sink.blackhole]\n[engine]\nshards = 2");
    let err = run(&["run", &forgotten]).err;
    assert!(err.contains("records=20000 late=0 dead_letters=0"), "{err}");

    // The same rows on any number of shards.
    let counts = |shards: usize| {
        let seen = job(dir.path(), fields, &format!("[sink.stdout]\n[engine]\nshards = {shards}"));
        let out = run(&["run", &seen]).ok();
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let one = counts(1);
    let count =
        |line: &String| serde_json::from_str::<Value>(line).unwrap()["count"].as_u64().unwrap();
    assert_eq!(one.iter().map(count).sum::<u64>(), 20_000);
    assert_eq!(one, counts(3));
}

/// Goal: a job that is killed in the middle makes each row once.
#[test]
fn made_rows_are_made_once_whatever_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let sink = format!(
        "[sink.sqlite]\npath = '{at}/out.db'\ntable = 'stats'\n[state]\ndir = '{at}/state'\ninterval = '10ms'\n"
    );
    let toml =
        job(dir.path(), "rows_per_second = 20000\nnumber_of_rows = 40000\npartitions = 2", &sink);
    for life in 0..4 {
        let program = Program::start(&mut thalweg(&["--log", "error", "run", &toml]));
        std::thread::sleep(Duration::from_millis(300 + 100 * life));
        program.signal("KILL");
        assert_eq!(program.finish().code, None);
    }
    run(&["run", &toml]).ok();
    let database = rusqlite::Connection::open(dir.path().join("out.db")).unwrap();
    let rows: i64 =
        database.query_row("SELECT SUM(count) FROM stats", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 40_000);
}
