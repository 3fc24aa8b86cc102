//! A real process on real files, killed at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{Thread, current, park_timeout};
use std::time::{Duration, Instant};

use thalweg_journal::{Backend, FileJournals, JournalConfig, inspect};
use thalweg_kernel::{Descriptors, JournalError, Journals, Tasks, Timestamp};

const PLACE: &str = "THALWEG_JOURNAL_KILL_PLACE";
const BACKEND: &str = "THALWEG_JOURNAL_KILL_BACKEND";
const ON_SHARD: &str = "THALWEG_JOURNAL_KILL_ON_SHARD";
const NAME: &str = "killed";

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn journals(place: &str, backend: &str) -> FileJournals {
    let config = JournalConfig {
        segment_bytes: 64 << 10,
        cap_bytes: 1 << 20,
        group_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        backend: backend.parse().unwrap(),
        ..JournalConfig::default()
    };
    FileJournals::new(place, config).unwrap()
}

fn content(position: u64) -> Vec<u8> {
    let mut content = position.to_le_bytes().to_vec();
    content.resize(8 + (position * 37 % 500) as usize, position as u8);
    content
}

/// The child: appends for ever, and says what is durable.
#[test]
fn child() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let journals = journals(&place, &std::env::var(BACKEND).unwrap());
    let waker = Waker::from(Arc::new(Unpark(current())));
    let on_shard = std::env::var_os(ON_SHARD).is_some();
    let tasks = on_shard.then(|| Tasks::new(Descriptors::new().unwrap()));
    let mut writer = journals.open_at(NAME, waker, 0, tasks.as_ref()).unwrap();
    let mut out = std::io::stdout();
    let mut said = 0;
    loop {
        for _ in 0..20 {
            let position = writer.end();
            let received = Timestamp::from_millis(position as i64);
            match writer.append(received, &[&content(position)]) {
                Ok(at) => assert_eq!(at, position),
                Err(JournalError::Full(_) | JournalError::Busy(_)) => {
                    park_timeout(Duration::from_millis(1))
                }
                Err(error) => panic!("{error}"),
            }
        }
        writer.flush();
        if let Some(tasks) = &tasks {
            tasks.descriptors().wait(Duration::from_micros(200));
            tasks.step(Instant::now());
        }
        let durable = writer.durable().unwrap();
        if durable > said {
            said = durable;
            writeln!(out, "durable {durable}").unwrap();
            writer.trim(durable.saturating_sub(1000));
        }
    }
}

fn kill_and_look(backend: Backend, on_shard: bool) {
    let place = tempfile::tempdir().unwrap();
    let place_text = place.path().to_str().unwrap();
    let mut end = 0;
    for round in 0..25_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["child", "--exact", "--nocapture"])
            .env(PLACE, place_text)
            .env(BACKEND, backend.to_string())
            .stdout(Stdio::piped());
        if on_shard {
            child.env(ON_SHARD, "");
        }
        let mut child = child.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut reported = 0;
        let mut started = None;
        while let Some(Ok(line)) = lines.next() {
            let Some((_, durable)) = line.split_once("durable ") else { continue };
            reported = durable.parse().unwrap();
            // From the first report on: the sooner of some moments, another one each round.
            let since: &mut Instant = started.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_micros(round * 1700) {
                break;
            }
        }
        child.kill().unwrap();
        // What it had reported before it was dead counts too; the last line may be half a one.
        for line in lines.map_while(Result::ok) {
            if let Some((_, durable)) = line.split_once("durable ") {
                reported = durable.parse().unwrap_or(reported);
            }
        }
        child.wait().unwrap();

        let verified = inspect::verify(place.path(), NAME).unwrap();
        assert_eq!(verified.damage, None);
        let journals = journals(place_text, "auto");
        let (writer, recovery) =
            journals.open_with_recovery(NAME, Waker::noop().clone(), 0).unwrap();
        assert!(recovery.end >= reported && reported > end, "{end} {reported} {recovery:?}");
        assert!(recovery.first <= reported.saturating_sub(1000), "trimmed too far: {recovery:?}");
        assert_eq!(writer.durable(), Ok(recovery.end));
        let mut reader = journals.read(NAME, recovery.first).unwrap();
        for position in recovery.first..recovery.end {
            let record = reader.next().unwrap().unwrap();
            assert_eq!((record.position, record.received.as_millis()), (position, position as i64));
            assert!(record.bytes == content(position));
        }
        assert_eq!(reader.next(), Ok(None));
        end = recovery.end;
    }
}

#[test]
fn kill_9_loses_nothing_that_was_reported() {
    kill_and_look(Backend::Plain, false);
}

#[test]
fn kill_9_with_io_uring_loses_nothing_that_was_reported() {
    if thalweg_journal::files::uring_allowed() {
        kill_and_look(Backend::Uring, false);
    }
}

#[test]
fn kill_9_on_a_shard_loses_nothing_that_was_reported() {
    if thalweg_journal::files::uring_allowed() {
        kill_and_look(Backend::Uring, true);
    }
}
