//! The sinks against real files, full disks, slow readers and many shards.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use thalweg_format::{Csv, JsonLines};
use thalweg_kernel::Shared;

use super::*;
use crate::egress::{CHUNK_BYTES, QUEUED_BYTES_MAX};
use crate::testing::{Shard, fifo};

#[derive(Clone, Debug, Serialize)]
struct Row {
    shard: usize,
    n: usize,
    text: String,
}

fn row(shard: usize, n: usize) -> Row {
    Row { shard, n, text: "x".repeat(n % 50) }
}

fn write_rows<E: Encode<Row> + Clone + 'static>(
    spec: &FileSink<E>,
    shard: &mut Shard,
    rows: usize,
) -> Result<(), ConnectorError> {
    let mut sink = spec.open(&shard.cx)?;
    for n in 0..rows {
        if n % 100 == 0 {
            Sink::<Row>::flush(&mut sink)?;
            shard.until_ready::<Row>(&mut sink)?;
        }
        sink.write(Timestamp::default(), row(shard.cx.shard, n))?;
    }
    shard.until_closed::<Row>(&mut sink)
}

/// Goal: one header, every line once, each shard's lines in order, whatever the interleaving.
#[test]
fn eight_shards_write_one_file() {
    const SHARDS: usize = 8;
    const ROWS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.csv");
    let spec = FileSink::new(&path, Csv::new());
    let shared = Arc::<Shared>::default();
    let barrier = Barrier::new(SHARDS);
    thread::scope(|scope| {
        for shard in 0..SHARDS {
            let (spec, shared, barrier) = (&spec, &shared, &barrier);
            scope.spawn(move || {
                let mut shard = Shard::new(shard, SHARDS, shared);
                barrier.wait();
                write_rows(spec, &mut shard, ROWS).unwrap();
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("shard,n,text"));
    let mut next = BTreeMap::<usize, usize>::new();
    for line in lines {
        let shard = line.split(',').next().unwrap().parse().unwrap();
        let n = next.entry(shard).or_default();
        let expected = row(shard, *n);
        assert_eq!(line, format!("{shard},{n},{}", expected.text));
        *n += 1;
    }
    assert_eq!(next, (0..SHARDS).map(|shard| (shard, ROWS)).collect());
    assert!(text.ends_with('\n'));
}

#[test]
fn replaces_by_default_and_appends_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.csv");
    fs::write(&path, "old\n").unwrap();
    let run = |spec: FileSink<Csv>| write_rows(&spec, &mut Shard::alone(), 1);
    run(FileSink::new(&path, Csv::new())).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "shard,n,text\n0,0,\n");
    run(FileSink::new(&path, Csv::new()).append()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "shard,n,text\n0,0,\n0,0,\n");

    // After a crash within a line.
    fs::write(&path, "shard,n,text\n0,").unwrap();
    run(FileSink::new(&path, Csv::new()).append()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "shard,n,text\n0,\n0,0,\n");

    fs::write(&path, "a,b\n1,2\n").unwrap();
    let refused = run(FileSink::new(&path, Csv::new()).append()).unwrap_err().to_string();
    assert!(
        refused.contains("its columns are `a,b`, but this record has `shard,n,text`"),
        "{refused}"
    );

    // Without a header there is nothing to compare; a file that is not there is made.
    let path = directory.path().join("out.jsonl");
    for expected in [1, 2] {
        write_rows(&FileSink::new(&path, JsonLines).append(), &mut Shard::alone(), 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), expected);
    }
}

/// Goal: who moves a file away has all of it, and what is written later is in a file that he finds.
#[test]
fn a_file_that_is_moved_or_emptied_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dead.jsonl");
    let moved = directory.path().join("sent.jsonl");
    let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let mut output = Regular::new(file, path.clone(), Some(5), None).unwrap();
    let now = |path: &Path| fs::read_to_string(path).unwrap();
    output.write(b"a\n").unwrap();
    fs::rename(&path, &moved).unwrap();
    output.write(b"b\n").unwrap();
    assert_eq!((&*now(&moved), &*now(&path)), ("a\n", "b\n"));
    output.write(b"c\n").unwrap();
    // Where it would be rotated.
    fs::rename(&path, &moved).unwrap();
    output.write(b"d\n").unwrap();
    assert_eq!((&*now(&moved), &*now(&path)), ("b\nc\n", "d\n"));
    // Taken away, and just before the renaming.
    fs::remove_file(&path).unwrap();
    output.rotate().unwrap();
    output.write(b"e\n").unwrap();
    assert_eq!(now(&path), "e\n");
    // Another has begun it, and has a torn line there.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "x").unwrap();
    output.write(b"f\n").unwrap();
    assert_eq!(now(&path), "x\nf\n");
    output.sync().unwrap();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let spec = FileSink::new(path, JsonLines);
        let refused = SinkSpec::<Row>::open(&spec, &Shard::alone().cx).err().unwrap();
        refused.to_string()
    };
    let text = refused(directory.path());
    assert!(text.ends_with("is a directory: name a file in it"), "{text}");
    let text = refused(&directory.path().join("missing/out.csv"));
    assert!(text.contains("missing/out.csv: cannot open it for writing"), "{text}");
    assert!(text.contains("No such file or directory"), "{text}");
}

#[test]
fn a_full_disk_ends_the_job() {
    let spec = FileSink::new("/dev/full", JsonLines);
    let mut shard = Shard::alone();
    let mut sink = SinkSpec::<Row>::open(&spec, &shard.cx).unwrap();
    assert!(Sink::<Row>::ready(&mut sink).unwrap());
    sink.write(Timestamp::default(), row(0, 1)).unwrap();
    let refused = shard.until_closed::<Row>(&mut sink).unwrap_err().to_string();
    assert!(refused.starts_with("file /dev/full: cannot write: make room"), "{refused}");
    assert!(refused.contains("No space left on device"), "{refused}");
    // For good, whatever is called, and on every shard.
    assert!(Sink::<Row>::ready(&mut sink).is_err());
    assert!(Sink::<Row>::flush(&mut sink).is_err());
    let mut other = SinkSpec::<Row>::open(&spec, &shard.cx).unwrap();
    assert!(Sink::<Row>::ready(&mut other).is_err());
}

/// Goal: a shard that waits for room hears of a failure.
#[test]
fn a_reader_that_goes_away_ends_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let reader = {
        let path = path.clone();
        thread::spawn(move || {
            let mut start = [0; 1000];
            File::open(path).unwrap().read_exact(&mut start).unwrap();
        })
    };
    let spec = FileSink::new(&path, JsonLines);
    let refused = write_rows(&spec, &mut Shard::alone(), 1_000_000).unwrap_err().to_string();
    assert!(refused.contains("nobody reads the output any more"), "{refused}");
    reader.join().unwrap();
}

/// Goal: a slow reader pushes back within the bound, and nothing is lost.
/// Method: it begins to read when the sink has said no for the first time.
#[test]
fn a_slow_reader_pushes_back() {
    const ROWS: usize = 60_000;
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let (go, started) = flume::bounded(1);
    let reader = {
        let path = path.clone();
        thread::spawn(move || {
            let mut file = File::open(path).unwrap();
            started.recv().unwrap();
            let (mut all, mut block) = (Vec::new(), vec![0; 64 * 1024]);
            loop {
                thread::sleep(Duration::from_millis(3));
                match file.read(&mut block).unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&block[..count]),
                }
            }
        })
    };
    let mut shard = Shard::alone();
    let mut sink = SinkSpec::<Row>::open(&FileSink::new(&path, JsonLines), &shard.cx).unwrap();
    for n in 0..ROWS {
        if n % 100 == 0 {
            Sink::<Row>::flush(&mut sink).unwrap();
            if !Sink::<Row>::ready(&mut sink).unwrap() {
                let _ = go.try_send(());
                shard.until_ready::<Row>(&mut sink).unwrap();
            }
        }
        sink.write(Timestamp::default(), row(0, n)).unwrap();
    }
    drop(go);
    shard.until_closed::<Row>(&mut sink).unwrap();
    drop((sink, shard));
    let all = reader.join().unwrap();
    assert!(all.len() > 2 * QUEUED_BYTES_MAX, "{} bytes", all.len());
    let lines: Vec<_> = std::str::from_utf8(&all).unwrap().lines().collect();
    assert_eq!(lines.len(), ROWS);
    assert!(lines[ROWS - 1].starts_with(&format!("{{\"shard\":0,\"n\":{}", ROWS - 1)));
}

#[test]
fn is_not_ready_while_the_queue_is_full_but_takes_the_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let spec = FileSink::new(&path, JsonLines);
    let mut shard = Shard::alone();
    let mut sink = SinkSpec::<Row>::open(&spec, &shard.cx).unwrap();
    let big = Row { shard: 0, n: 0, text: "y".repeat(CHUNK_BYTES) };
    let batch = QUEUED_BYTES_MAX / CHUNK_BYTES + 5;
    for _ in 0..batch {
        sink.write(Timestamp::default(), big.clone()).unwrap();
    }
    Sink::<Row>::flush(&mut sink).unwrap();
    assert!(!Sink::<Row>::ready(&mut sink).unwrap());
    assert!(!Sink::<Row>::ready(&mut sink).unwrap());
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        File::open(path).unwrap().read_to_end(&mut all).map(|_| all).unwrap()
    });
    shard.until_ready::<Row>(&mut sink).unwrap();
    shard.until_closed::<Row>(&mut sink).unwrap();
    drop((sink, shard));
    let all = reader.join().unwrap();
    assert_eq!(all.iter().filter(|&&byte| byte == b'\n').count(), batch);
}

#[test]
fn a_flushed_line_arrives_without_a_further_call() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut sink =
        SinkSpec::<Row>::open(&FileSink::new(&path, JsonLines), &Shard::alone().cx).unwrap();
    sink.write(Timestamp::default(), row(0, 2)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    Sink::<Row>::flush(&mut sink).unwrap();
    let start = std::time::Instant::now();
    while fs::read_to_string(&path).unwrap().is_empty() {
        assert!(start.elapsed() < crate::testing::LOST);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"shard\":0,\"n\":2,\"text\":\"xx\"}\n");
}

#[test]
fn a_record_that_does_not_fit_the_columns_names_the_sink() {
    let directory = tempfile::tempdir().unwrap();
    let spec = FileSink::new(directory.path().join("out.csv"), Csv::new());
    let mut sink = SinkSpec::<serde_json::Value>::open(&spec, &Shard::alone().cx).unwrap();
    sink.write(Timestamp::default(), serde_json::json!({"a": 1})).unwrap();
    let refused = sink.write(Timestamp::default(), serde_json::json!({"b": 1})).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("out.csv: a record does not fit: cannot write the value as CSV"),
        "{text}"
    );
    assert!(text.contains("column `b`"), "{text}");
}

/// Goal: a file that is rotated never takes more than it may, and holds the newest lines.
#[test]
fn a_file_that_is_rotated_holds_the_newest_lines_in_bounded_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.jsonl");
    fs::write(&path, "0\n".repeat(10)).unwrap();
    let spec = FileSink::new(&path, JsonLines).append().rotate_at(100);
    let mut shard = Shard::alone();
    let mut sink = SinkSpec::<u32>::open(&spec, &shard.cx).unwrap();
    for n in 100..200 {
        shard.until_ready::<u32>(&mut sink).unwrap();
        sink.write(Timestamp::default(), n).unwrap();
        Sink::<u32>::flush(&mut sink).unwrap();
    }
    shard.until_closed::<u32>(&mut sink).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let (now, before) = (read(&path), read(&directory.path().join("out.jsonl.1")));
    assert!(now.len() <= 100 && before.len() <= 100, "{} {}", now.len(), before.len());
    let lines: Vec<u32> = before.lines().chain(now.lines()).map(|n| n.parse().unwrap()).collect();
    assert_eq!(lines, (200 - lines.len() as u32..200).collect::<Vec<_>>());
    assert!(lines.len() > 25, "{lines:?}");
}
