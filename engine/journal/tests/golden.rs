//! The format of released versions: their files are read for ever, and this version writes what it wrote.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use thalweg_journal::sim::SimDisk;
use thalweg_journal::{JournalConfig, Log, Reader};
use thalweg_kernel::{JournalReader, Timestamp};

const NAME: &str = "golden/1";
const FILE: &str = "00000000000000000000.segment";
const GOLDEN: &[u8] = include_bytes!("golden/segment-v1.bin");

fn config() -> JournalConfig {
    let (group_bytes_max, record_bytes_max) = (2048, 2000);
    JournalConfig { segment_bytes: 4096, group_bytes_max, record_bytes_max, ..Default::default() }
}

/// Position, time, content; a group ends where it says so.
const RECORDS: [(i64, &[u8], bool); 4] = [
    (1_700_000_000_000, b"{\"temp\":21.5}", true),
    (1_700_000_000_001, b"", false),
    (-1, b"12345678", false),
    (i64::MAX, &[0xff; 600], true),
];

#[test]
fn a_segment_of_version_1_is_read() {
    let disk = SimDisk::new(1);
    disk.put(FILE, GOLDEN);
    let log = Log::open(disk.clone(), NAME, &config(), 0).unwrap();
    assert_eq!((log.first(), log.end(), log.recovery().cut_bytes), (0, 4, 0));
    let mut reader = Reader::new(disk, NAME, 0, 4).unwrap();
    for (received, content, _) in RECORDS {
        let record = reader.next().unwrap().unwrap();
        assert_eq!((record.received, record.bytes), (Timestamp::from_millis(received), content));
    }
    assert_eq!(reader.next(), Ok(None));
}

/// To write the file anew, for a new version and under a new name: `GOLDEN=write cargo test -p
/// thalweg-journal --test golden`. A released one is never changed.
#[test]
fn this_version_writes_version_1() {
    let disk = SimDisk::new(1);
    let mut log = Log::open(disk.clone(), NAME, &config(), 0x0123_4567_89ab_cdef).unwrap();
    for (received, content, last) in RECORDS {
        log.append(Timestamp::from_millis(received), &[content]).unwrap();
        if last {
            log.begin_group().unwrap();
            log.complete_group().unwrap();
        }
    }
    let written = disk.content(FILE).unwrap();
    if std::env::var_os("GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/segment-v1.bin");
        std::fs::write(path, &written).unwrap();
    } else {
        assert!(written == GOLDEN, "the format has changed: it needs a new version");
    }
}
