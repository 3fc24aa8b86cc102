//! Goal: `thalweg run` from files to files gives what a naive computation gives. What cannot be
//! read is kept as a dead letter that says where and why.
//!
//! Method: generated readings, some of them broken; results as JSON lines and as CSV are read
//! back by other parsers. Then what users do to a program: odd names, empty files, closed pipes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Program, file, run, thalweg};
use serde_json::Value;

const BEGIN_MS: i64 = 1_700_000_000_000;
const WINDOW_MS: i64 = 10_000;

/// (key, start) to (count, sum, min, max).
type Stats = BTreeMap<(String, i64), (u64, f64, f64, f64)>;

/// Readings in order of time, with values whose sums are exact; and the naive answer.
fn readings(lines: u64) -> (String, Stats) {
    let (mut text, mut stats) = (String::new(), Stats::new());
    for n in 0..lines {
        let (device, ts) = (format!("d{}", n * n % 37), BEGIN_MS + n as i64 * 11);
        let value = (n * 31 % 401) as f64 / 4.0 - 30.0;
        writeln!(text, r#"{{"id":"{device}","at":{ts},"extra":[{n}],"temp":{value}}}"#).unwrap();
        let start = ts - ts % WINDOW_MS;
        let row = stats.entry((device, start)).or_insert((0, 0.0, value, value));
        *row = (row.0 + 1, row.1 + value, row.2.min(value), row.3.max(value));
    }
    (text, stats)
}

fn job(input: &str, sink: &str) -> String {
    format!(
        "[source]\nfiles = [{input}]\n[fields]\nkey = 'id'\nvalue = 'temp'\ntime = 'at'\n\
         [window]\nsize = '10s'\n{sink}\n"
    )
}

fn quoted(path: &Path) -> String {
    Value::from(path.to_str().unwrap()).to_string()
}

/// The results in a text of JSON lines, in the shape of the naive answer.
fn parsed(text: &str) -> Stats {
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
        let (start, count) = (row["start"].as_i64().unwrap(), row["count"].as_u64().unwrap());
        assert_eq!(row["end"].as_i64().unwrap(), start + WINDOW_MS);
        let sum = number("avg") * count as f64;
        // The sums are multiples of 1/4; the division by the count is undone up to rounding.
        let sum = (sum * 4.0).round() / 4.0;
        let key = row["key"].as_str().unwrap().to_owned();
        ((key, start), (count, sum, number("min"), number("max")))
    };
    let rows: Vec<_> = text.lines().map(row).collect();
    let number = rows.len();
    let stats: Stats = rows.into_iter().collect();
    assert_eq!(number, stats.len(), "one row for a key and window");
    stats
}

#[test]
fn json_lines_and_csv_equal_a_naive_computation() {
    let dir = tempfile::tempdir().unwrap();
    let (text, expected) = readings(30_000);
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, text).unwrap();
    for (driver, shards) in [("glommio", 2), ("threads", 1), ("threads", 8)] {
        let engine = format!("[engine]\ndriver = '{driver}'\nshards = {shards}");
        let out = dir.path().join(format!("out-{driver}-{shards}.jsonl"));
        let sink = format!("[sink.file]\npath = {}\n{engine}", quoted(&out));
        let toml = file(dir.path(), "job.toml", job(&quoted(&input), &sink));
        run(&["run", &toml]).ok();
        assert_eq!(parsed(&std::fs::read_to_string(&out).unwrap()), expected, "{engine}");
    }

    let out = dir.path().join("out.csv");
    let sink = format!("[sink.file]\npath = {}", quoted(&out));
    run(&["run", &file(dir.path(), "job.toml", job(&quoted(&input), &sink))]).ok();
    let csv = std::fs::read_to_string(&out).unwrap();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("key,start,end,count,avg,min,max"));
    let as_json: String = lines
        .map(|line| {
            let f: Vec<_> = line.split(',').collect();
            assert_eq!(f.len(), 7, "{line}");
            let names = ["start", "end", "count", "avg", "min", "max"];
            let rest = names.iter().zip(&f[1..]).map(|(name, f)| format!(",\"{name}\":{f}"));
            format!("{{\"key\":\"{}\"{}}}\n", f[0], rest.collect::<String>())
        })
        .collect();
    assert_eq!(parsed(&as_json), expected);
}

/// Goal: each sink that is named gets every row, and the account counts rows once.
#[test]
fn all_sinks_that_are_named_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (text, expected) = readings(3_000);
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, text).unwrap();
    let [one, other, base] =
        ["one.jsonl", "other.jsonl", "out.db"].map(|name| dir.path().join(name));
    let sinks = format!(
        "[sink.sqlite]\npath = {}\ntable = 'averages'\n[sink.file]\npath = {}\n\
         [sink.more]\nconnector = 'file'\npath = {}\n[sink.stdout]\n[engine]\nshards = 2",
        quoted(&base),
        quoted(&one),
        quoted(&other)
    );
    let outcome = run(&["run", &file(dir.path(), "job.toml", job(&quoted(&input), &sinks))]);
    let account = format!("rows={} ", expected.len());
    assert!(outcome.err.contains(&account), "lacks {account}: {}", outcome.err);
    assert_eq!(parsed(&outcome.ok()), expected);
    for path in [one, other] {
        assert_eq!(parsed(&std::fs::read_to_string(path).unwrap()), expected);
    }
    let base = rusqlite::Connection::open(base).unwrap();
    let (rows, readings): (i64, i64) = base
        .query_row("select count(*), sum(count) from averages", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((rows as usize, readings), (expected.len(), 3_000));
}

#[test]
fn what_cannot_be_read_becomes_a_dead_letter_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let bad: [(&[u8], &str); 7] = [
        (br#"{"id":"d1","at":1,"temp":}"#, "malformed"),
        (br#"{"id":"d1","at":1}"#, "missing_field"),
        (br#"{"id":"d1","at":1,"temp":"hot"}"#, "wrong_type"),
        (br#"{"id":"d1","at":1,"temp":NaN}"#, "not_a_number"),
        (b"{\"id\":\"\xff\",\"at\":1,\"temp\":1}", "invalid_utf8"),
        (br#"{"id":"d1","at":99999999999999,"temp":1}"#, "clock_ahead"),
        (b"not even JSON", "malformed"),
    ];
    let (good, expected) = readings(700);
    let (mut text, mut offsets, mut next) = (Vec::new(), Vec::new(), bad.iter());
    for (n, line) in good.lines().enumerate() {
        if n % 100 == 50 {
            offsets.push(text.len() as u64);
            text.extend_from_slice(next.next().unwrap().0);
            text.push(b'\n');
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    let (input, dead) = (dir.path().join("in.jsonl"), dir.path().join("dead.jsonl"));
    std::fs::write(&input, text).unwrap();
    let sink = format!("[sink.stdout]\n[dead_letters]\npath = {}", quoted(&dead));
    let outcome = run(&["run", &file(dir.path(), "job.toml", job(&quoted(&input), &sink))]);
    let account = format!("records=700 late=0 dead_letters=7 rows={}", expected.len());
    assert!(outcome.err.contains(&account), "lacks {account}: {}", outcome.err);
    assert_eq!(parsed(&outcome.ok()), expected);

    let dead = std::fs::read_to_string(dead).unwrap();
    let letters: Vec<Value> =
        dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), bad.len(), "{dead}");
    for ((letter, (payload, cause)), offset) in letters.iter().zip(bad).zip(offsets) {
        assert_eq!(letter["cause"], cause, "{letter}");
        assert_eq!(letter["topic"], input.to_str().unwrap());
        assert_eq!(letter["offset"], offset, "{letter}");
        assert_eq!(letter["payload"], *String::from_utf8_lossy(payload));
        assert_eq!(letter["payload_bytes"], payload.len() as u64);
        assert!(!letter["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(letters[0]["position"], 25, "{}", letters[0]);
}

#[test]
fn odd_names_empty_files_and_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let (text, expected) = readings(500);
    let odd = dir.path().join("a b\"c'ü\n{}.jsonl");
    let empty = dir.path().join("empty");
    let no_feed = dir.path().join("no-feed");
    std::fs::write(&odd, &text).unwrap();
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&no_feed, "\n\n\r\n").unwrap();
    let inputs = [&odd, &empty, &no_feed].map(|path| quoted(path)).join(",");
    let toml = file(dir.path(), "job.toml", job(&inputs, "[sink.stdout]"));
    assert_eq!(parsed(&run(&["run", &toml]).ok()), expected);

    let only_empty = file(dir.path(), "empty.toml", job(&quoted(&empty), "[sink.stdout]"));
    assert_eq!(run(&["run", &only_empty]).ok(), "");

    let piped = file(dir.path(), "piped.toml", job("'-'", "[sink.stdout]"));
    let stdin = std::fs::File::open(&odd).unwrap();
    assert_eq!(
        parsed(&Program::start(thalweg(&["run", &piped]).stdin(stdin)).finish().ok()),
        expected
    );

    let missing = file(dir.path(), "missing.toml", job("'/nowhere/in'", "[sink.stdout]"));
    let err = run(&["run", &missing]).failed(1);
    assert!(err.contains("/nowhere/in") && err.contains("check the path"), "{err}");
    assert_eq!(err.matches("No such file").count(), 1, "the cause is told once: {err}");
}

#[test]
fn a_pipe_that_closes_ends_the_program_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = readings(60_000);
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, text).unwrap();
    let toml = file(dir.path(), "job.toml", job(&quoted(&input), "[sink.stdout]"));
    let mut command = thalweg(&["run", &toml]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let head = Command::new("head").arg("-1").stdin(child.stdout.take().unwrap()).output().unwrap();
    let err = child.wait_with_output().unwrap();
    assert_eq!(parsed(&String::from_utf8(head.stdout).unwrap()).len(), 1);
    let (code, err) = (err.status.code(), String::from_utf8(err.stderr).unwrap());
    // All may have been written before `head` was done.
    assert!(
        code == Some(0) || (code == Some(1) && err.contains("nobody reads")),
        "{code:?}: {err}"
    );
    assert!(!err.contains("panicked"), "{err}");

    // A reader that is gone before the first byte.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let graph = thalweg(&["graph", &toml]).stdout(writer).output().unwrap();
    assert_eq!((graph.status.code(), graph.stderr.len()), (Some(0), 0), "{graph:?}");
}

/// Goal: no configuration empties a file that it reads, or writes one file twice.
#[test]
fn files_that_are_read_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = readings(10);
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, &text).unwrap();
    let link = dir.path().join("link.jsonl");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    let out = dir.path().join("new.jsonl");
    let file_sink = |path: &Path| format!("[sink.file]\npath = {}", quoted(path));
    let dead = |path: &Path| format!("[dead_letters]\npath = {}", quoted(path));
    for (sink, key) in [
        (file_sink(&input), "sink.file.path"),
        (file_sink(&link), "sink.file.path"),
        (format!("[sink.stdout]\n{}", dead(&input)), "dead_letters.path"),
        (format!("{}\n{}", file_sink(&out), dead(&out)), "dead_letters.path"),
    ] {
        let toml = file(dir.path(), "job.toml", job(&quoted(&input), &sink));
        let err = run(&["run", &toml]).failed(2);
        assert!(err.contains(key) && err.contains("a file other than"), "{err}");
        assert_eq!(std::fs::read_to_string(&input).unwrap(), text);
    }
}

#[test]
fn the_graph_is_printed_without_opening_anything() {
    let dir = tempfile::tempdir().unwrap();
    let sink = "[sink.file]\npath = '/nowhere/out'\n[engine]\nshards = 2";
    let toml = file(dir.path(), "job.toml", job("'/nowhere/in'", sink));
    let graph = run(&["graph", &toml]).ok();
    for part in ["readings", "Tumbling window of 10s", "2 shards", "by key from 0", "/nowhere/out"]
    {
        assert!(graph.contains(part), "{part}: {graph}");
    }
    let err = run(&["run", &toml]).failed(1);
    assert!(err.contains("/nowhere/"), "{err}");
}

/// Goal: a counter of one byte that goes round loses no reading, whether the job knows of it or not; and repetitions are found. Where
/// neither is possible somebody is told.
#[test]
fn a_counter_of_one_byte_goes_round() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for n in 0..1_000 {
        let line =
            format!(r#"{{"id":"d","at":{},"temp":1,"seq":{}}}"#, BEGIN_MS + n * 1_000, n % 256);
        // Every fourth comes twice.
        (0..1 + usize::from(n % 4 == 0)).for_each(|_| writeln!(text, "{line}").unwrap());
    }
    let input = file(dir.path(), "in.jsonl", text);
    for (more, count) in [
        ("", 1_000),
        ("modulus = 256\n", 1_000),
        ("modulus = 256\nwindow = 8\nrestarts_by_time = false\n", 1_000),
        ("restarts_by_time = false\n", 256),
    ] {
        let section = format!("[deduplicate]\nfield = 'seq'\n{more}[sink.stdout]");
        let toml = file(dir.path(), "job.toml", job(&format!("'{input}'"), &section));
        let outcome = run(&["run", &toml]);
        let err = outcome.err.clone();
        let sum: u64 = parsed(&outcome.ok()).values().map(|row| row.0).sum();
        assert_eq!(sum, count, "{more}: {err}");
        assert!(err.contains(&format!("repeated={}", 1_250 - count)), "{more}: {err}");
        assert!(err.contains("the newest is number 0 of \"d\""), "{more}: {err}");
        let warned = err.contains("of the last 64 readings of \"d\" were dropped as repetitions");
        assert_eq!(warned, count < 1_000, "{more}: {err}");
    }
}
