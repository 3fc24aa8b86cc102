//! The journals of a simulated machine, as the engine's simulator uses them: through the kernel's seam.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use thalweg_journal::JournalConfig;
use thalweg_journal::sim::SimJournals;
use thalweg_kernel::{JournalError, JournalWriter, Journals, Timestamp};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn machine(seed: u64) -> SimJournals {
    let config = JournalConfig {
        segment_bytes: 4096,
        cap_bytes: 16 << 10,
        group_bytes_max: 1024,
        record_bytes_max: 1000,
        ..JournalConfig::default()
    };
    SimJournals::new(seed, config).unwrap()
}

fn waker() -> Waker {
    Waker::noop().clone()
}

fn append(writer: &mut dyn JournalWriter, content: &[u8]) -> Result<u64, JournalError> {
    writer.append(Timestamp::from_millis(3), &[content])
}

fn contents(journals: &SimJournals, name: &str) -> Vec<Vec<u8>> {
    let mut reader = journals.read(name, 0).unwrap();
    let mut contents = vec![];
    while let Some(record) = reader.next().unwrap() {
        contents.push(record.bytes.to_vec());
    }
    contents
}

#[test]
fn a_record_is_durable_after_two_steps_and_the_waker_tells() {
    let journals = machine(1);
    let count = Arc::new(Count::default());
    let mut writer = journals.open("a", Waker::from(Arc::clone(&count))).unwrap();
    assert!(journals.open("a", waker()).is_err(), "open already");
    assert_eq!(append(&mut *writer, b"one"), Ok(0));
    assert!(journals.step(), "written");
    assert_eq!((writer.durable(), count.0.load(Ordering::SeqCst)), (Ok(0), 0));
    assert_eq!(append(&mut *writer, b"two"), Ok(1));
    assert!(journals.step(), "synced, and more is there");
    assert_eq!((writer.durable(), count.0.load(Ordering::SeqCst)), (Ok(1), 1));
    assert_eq!(contents(&journals, "a"), [b"one"], "up to what is durable");
    while journals.step() {}
    assert_eq!((writer.durable(), writer.end()), (Ok(2), 2));
}

#[test]
fn a_crash_keeps_what_was_durable_and_a_kill_what_was_written() {
    for seed in 0..200 {
        let journals = machine(seed);
        let mut writer = journals.open("a", waker()).unwrap();
        append(&mut *writer, b"durable").unwrap();
        while journals.step() {}
        append(&mut *writer, b"written").unwrap();
        journals.step();
        append(&mut *writer, b"taken").unwrap();
        if seed % 2 == 0 {
            journals.kill();
            assert_eq!(contents(&journals, "a"), [&b"durable"[..], b"written"]);
        } else {
            journals.crash();
            let found = contents(&journals, "a");
            assert!(matches!(found.len(), 1 | 2) && found[0] == b"durable", "{found:?}");
        }
        // The old writer has nothing to say any more, nor does dropping it.
        assert!(append(&mut *writer, b"late").is_err() && writer.durable().is_err());
        let kept = contents(&journals, "a").len() as u64;
        let next = journals.open("a", waker()).unwrap();
        drop(writer);
        assert_eq!((next.end(), next.durable()), (kept, Ok(kept)));
    }
}

#[test]
fn dropping_a_writer_makes_durable_what_was_appended() {
    let journals = machine(2);
    let mut writer = journals.open("a", waker()).unwrap();
    (0..20).for_each(|_| assert!(append(&mut *writer, b"taken").is_ok()));
    drop(writer);
    journals.crash();
    assert_eq!(contents(&journals, "a").len(), 20);
}

#[test]
fn full_disks_caps_and_failed_syncs_are_told() {
    let journals = machine(3);
    let count = Arc::new(Count::default());
    let mut writer = journals.open("a", Waker::from(Arc::clone(&count))).unwrap();
    let disk = journals.disk("a");
    disk.set_budget(Some(0));
    assert!(append(&mut *writer, &[1; 900]).is_ok());
    assert!(journals.step() && journals.step(), "it is tried again");
    assert!(matches!(append(&mut *writer, &[1; 900]), Ok(1)), "gathers up to its bound");
    assert!(matches!(
        append(&mut *writer, &[1; 900]),
        Err(JournalError::Full(_) | JournalError::Busy(_))
    ));
    disk.set_budget(None);
    while journals.step() {}
    assert_eq!(writer.durable(), Ok(2));
    let refused = loop {
        match append(&mut *writer, &[1; 900]) {
            Ok(_) => while journals.step() {},
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("journal_bytes_max"), "{refused}");
    let (end, woken) = (writer.end(), count.0.load(Ordering::SeqCst));
    writer.trim(end);
    journals.step();
    assert!(count.0.load(Ordering::SeqCst) > woken);
    assert_eq!(append(&mut *writer, &[1; 900]), Ok(end));
    disk.sync_fails_in(0);
    while journals.step() {}
    assert!(matches!(writer.durable(), Err(JournalError::Failed(_))));
    assert!(matches!(append(&mut *writer, b"x"), Err(JournalError::Failed(_))));
}
