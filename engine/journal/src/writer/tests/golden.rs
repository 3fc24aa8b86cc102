//! Whoever writes, a segment has the bytes that released versions have written.

use super::*;

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/segment-v1.bin");
const GOLDEN_NAME: &str = "golden/1";
const FILE: &str = "00000000000000000000.segment";

/// Time and content; a group ends where it says so. `tests/golden.rs` reads them.
const RECORDS: [(i64, &[u8], bool); 4] = [
    (1_700_000_000_000, b"{\"temp\":21.5}", true),
    (1_700_000_000_001, b"", false),
    (-1, b"12345678", false),
    (i64::MAX, &[0xff; 600], true),
];

#[test]
fn a_segment_of_version_1_is_written() {
    both(|| {
        let disk = SimDisk::new(1);
        let config = JournalConfig { group_bytes_max: 2048, record_bytes_max: 2000, ..config() };
        let (waker, tasks) = (Waker::noop().clone(), tasks());
        let begin = (0x0123_4567_89ab_cdef, 0);
        let opened = Writer::open(disk.clone(), GOLDEN_NAME, &config, begin, waker, tasks.as_ref());
        let mut writer = opened.unwrap().0;
        for (received, content, last) in RECORDS {
            writer.append(Timestamp::from_millis(received), &[content]).unwrap();
            if last {
                writer.flush();
                let end = writer.end();
                until("it is durable", || writer.durable() == Ok(end));
            }
        }
        assert!(disk.content(FILE).unwrap() == GOLDEN);
    });
}
