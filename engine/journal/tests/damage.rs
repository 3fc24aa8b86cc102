//! Flipped bits, cut and missing files: found and named, never read as something else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use thalweg_journal::sim::SimDisk;
use thalweg_journal::{JournalConfig, Log, Reader, inspect};
use thalweg_kernel::{JournalError, JournalReader, Timestamp};

const NAME: &str = "damage";
const FIRST: &str = "00000000000000000000.segment";

fn config() -> JournalConfig {
    let (group_bytes_max, record_bytes_max) = (2048, 2000);
    JournalConfig { segment_bytes: 4096, group_bytes_max, record_bytes_max, ..Default::default() }
}

fn content(position: u64) -> Vec<u8> {
    let length = if position % 5 == 4 { 1900 } else { position * 7 % 40 };
    (0..length).map(|at| (at * 31 + position) as u8 | 1).collect()
}

/// A journal of 12 records in groups of one to three; its files.
fn journal() -> BTreeMap<String, Vec<u8>> {
    let mut disk = SimDisk::new(1);
    let mut log = Log::open(disk.clone(), NAME, &config(), 0x5eed_1234_5678_9abc).unwrap();
    for position in 0..12 {
        log.append(Timestamp::from_millis(position as i64), &[&content(position)]).unwrap();
        if position % 5 != 1 {
            log.begin_group().unwrap();
            log.complete_group().unwrap();
        }
    }
    assert_eq!(log.durable(), Ok(11));
    while log.has_work() {
        log.begin_group().unwrap();
        log.complete_group().unwrap();
    }
    let names = thalweg_journal::Disk::list(&mut disk).unwrap();
    let files: BTreeMap<_, _> =
        names.into_iter().map(|name| (name.clone(), disk.content(&name).unwrap())).collect();
    assert_eq!(files.len(), 2);
    files
}

/// What there is to see of some files.
struct Sight {
    /// Opening: the end, and how much was cut.
    opened: Result<(u64, u64), String>,
    /// Reading the records that opening found.
    read: Result<(), String>,
    verified: Option<String>,
}

/// Opens, reads and verifies. What is read must be what was written.
fn look(files: &BTreeMap<String, Vec<u8>>) -> Sight {
    let disk = SimDisk::new(2);
    files.iter().for_each(|(name, content)| disk.put(name, content));
    let verified = inspect::verify_disk(&mut disk.clone(), NAME).unwrap();
    let opened = Log::open(disk.clone(), NAME, &config(), 3);
    let opened = opened.map(|log| (log.end(), log.recovery().cut_bytes)).map_err(message);
    let end = opened.as_ref().map_or(verified.end, |(end, _)| *end);
    let read = Reader::new(disk, NAME, 0, end).and_then(|mut reader| {
        for position in 0..end {
            let record = reader.next()?.unwrap();
            assert_eq!(record.position, position);
            assert_eq!(record.received.as_millis(), position as i64);
            assert!(record.bytes == content(position), "record {position} is another");
        }
        Ok(())
    });
    Sight { opened, read: read.map_err(message), verified: verified.damage }
}

fn message(error: JournalError) -> String {
    assert!(matches!(error, JournalError::Damaged(_) | JournalError::Position(_)), "{error}");
    error.to_string()
}

#[test]
fn an_intact_journal_is_seen_as_such() {
    let sight = look(&journal());
    assert_eq!(sight.opened, Ok((12, 0)));
    assert_eq!((sight.read, sight.verified), (Ok(()), None));
}

/// Goal: no flipped bit goes unseen, and none lets a durable record vanish quietly.
/// Method: each bit of all records and headers, and some of the zeros behind them.
#[test]
fn every_flipped_bit_is_found_and_named() {
    let files = journal();
    let last = files.keys().next_back().unwrap().clone();
    let mut cut = 0;
    for (name, content) in &files {
        let used = content.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let bits = (0..used * 8).chain((used * 8..content.len() * 8).step_by(61));
        for bit in bits {
            let mut files = files.clone();
            files.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            let sight = look(&files);
            let place = format!("{name} bit {} of byte {}", bit % 8, bit / 8);
            if bit / 8 < used {
                let error = sight.verified.unwrap_or_else(|| panic!("{place}: verified"));
                assert!(error.contains(name.as_str()) && error.contains("at byte"), "{error}");
                let found = sight.opened.and(sight.read).unwrap_err();
                assert!(found.contains("damaged") && found.contains(name.as_str()), "{found}");
            } else if name == &last {
                // Zeros behind the end: no record suffers. Where it looks like a torn write it is cut.
                match sight.opened {
                    Ok((end, bytes)) => {
                        assert!(end == 12 && bytes > 0, "{place}");
                        assert_eq!(sight.read, Ok(()));
                        cut += 1;
                    }
                    Err(error) => assert!(error.contains(name.as_str()), "{error}"),
                }
            } else {
                assert!(sight.verified.is_some(), "{place}");
                assert_eq!((sight.opened, sight.read), (Ok((12, 0)), Ok(())), "{place}");
            }
        }
    }
    assert!(cut > 0);
}

#[test]
fn every_cut_file_is_found_and_named() {
    let files = journal();
    for (name, content) in &files {
        for length in 0..content.len() {
            let mut files = files.clone();
            files.get_mut(name).unwrap().truncate(length);
            let sight = look(&files);
            let error = sight.opened.unwrap_err();
            assert!(error.contains(name.as_str()), "{length}: {error}");
            assert!(sight.verified.unwrap().contains(name.as_str()));
        }
    }
}

/// Goal: a tail that a crash tore is cut, whatever part of it arrived; all groups before stay.
/// Method: every choice of sectors of the last group.
#[test]
fn every_way_to_tear_the_last_group_is_cut() {
    let disk = SimDisk::new(1);
    let mut log = Log::open(disk.clone(), NAME, &config(), 0x0123_4567_89ab_cdef).unwrap();
    let commit = |log: &mut Log<SimDisk>, contents: &[&[u8]]| {
        for content in contents {
            log.append(Timestamp::from_millis(7), &[content]).unwrap();
        }
        log.begin_group().unwrap();
        log.complete_group().unwrap();
    };
    commit(&mut log, &[b"first", b"second"]);
    let before = disk.content(FIRST).unwrap();
    commit(&mut log, &[&[3; 300], &[4; 700], b"five", &[6; 500]]);
    let after = disk.content(FIRST).unwrap();
    let sectors: Vec<usize> =
        (0..8).filter(|s| before[s * 512..][..512] != after[s * 512..][..512]).collect();
    assert_eq!(sectors.len(), 4);
    for arrived in 0..1_u32 << sectors.len() {
        let mut torn = before.clone();
        for (bit, sector) in sectors.iter().enumerate() {
            if arrived >> bit & 1 == 1 {
                torn[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
            }
        }
        let disk = SimDisk::new(9);
        disk.put(FIRST, &torn);
        let log = Log::open(disk.clone(), NAME, &config(), 3).unwrap();
        let whole = arrived + 1 == 1 << sectors.len();
        let none = arrived == 0;
        assert_eq!(log.end() == 6, whole, "{arrived:b}");
        assert!(log.end() >= 2);
        assert_eq!(log.recovery().cut_bytes == 0, whole || none, "{arrived:b}");
        // What was cut is zeros now, for good.
        disk.power_on();
        let again = Log::open(disk, NAME, &config(), 3).unwrap();
        assert_eq!((again.end(), again.recovery().cut_bytes), (log.end(), 0));
    }
}

#[test]
fn missing_renamed_and_foreign_files_are_named() {
    let files = journal();
    let second = files.keys().next_back().unwrap().clone();

    let mut lost = files.clone();
    lost.remove(FIRST);
    let error = look(&lost).read.unwrap_err();
    assert!(error.contains("has been trimmed"), "{error}");

    let mut renamed = files.clone();
    let content = renamed.remove(&second).unwrap();
    renamed.insert("00000000000000000099.segment".to_owned(), content);
    assert!(look(&renamed).opened.unwrap_err().contains("was it renamed"), "renamed");

    let disk = SimDisk::new(4);
    files.iter().for_each(|(name, content)| disk.put(name, content));
    let error = Log::open(disk, "other", &config(), 3).unwrap_err();
    assert!(error.to_string().contains("a journal of another name"), "{error}");

    // A hole: three segments without the one in the middle.
    let disk = SimDisk::new(5);
    let mut log = Log::open(disk.clone(), NAME, &config(), 3).unwrap();
    for _ in 0..6 {
        log.append(Timestamp::default(), &[&[1; 1500]]).unwrap();
        log.begin_group().unwrap();
        log.complete_group().unwrap();
    }
    let mut files = disk.clone();
    thalweg_journal::Disk::remove(&mut files, "00000000000000000002.segment").unwrap();
    let error = inspect::verify_disk(&mut files, NAME).unwrap().damage.unwrap();
    assert!(error.contains("the next segment begins with another number"), "{error}");
    let mut reader = Reader::new(disk, NAME, 0, 6).unwrap();
    assert!(reader.next().unwrap().is_some() && reader.next().unwrap().is_some());
    let error = reader.next().unwrap_err();
    assert!(error.to_string().contains("where record 2 begins"), "{error}");
}
