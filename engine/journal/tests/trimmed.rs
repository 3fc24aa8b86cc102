//! Segments that are trimmed while somebody looks: they are left out, and never taken for damage.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io;

use thalweg_journal::sim::SimDisk;
use thalweg_journal::{Disk, JournalConfig, Log, Reader, inspect};
use thalweg_kernel::{JournalError, JournalReader, Timestamp};

const NAME: &str = "trimmed";

/// A directory whose oldest segment goes when files have been opened this often, and another one each time later.
struct Trimming {
    disk: SimDisk,
    opens: u32,
    trims_at: u32,
    trims: u32,
}

impl Trimming {
    fn new(disk: &SimDisk, trims_at: u32, trims: u32) -> Self {
        Self { disk: disk.clone(), opens: 0, trims_at, trims }
    }
}

impl Disk for Trimming {
    type File = <SimDisk as Disk>::File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> io::Result<Self::File> {
        self.disk.create(name)
    }

    fn open(&mut self, name: &str, write: bool) -> io::Result<Self::File> {
        if self.opens >= self.trims_at && self.trims > 0 {
            let oldest = self.disk.list()?.into_iter().min().unwrap();
            self.disk.remove(&oldest)?;
            self.trims -= 1;
        }
        self.opens += 1;
        self.disk.open(name, write)
    }

    fn size(&mut self, file: &Self::File) -> io::Result<u64> {
        self.disk.size(file)
    }

    fn allocate(&mut self, file: &Self::File, from: u64, to: u64, fill: bool) -> io::Result<()> {
        self.disk.allocate(file, from, to, fill)
    }

    fn read_at(&mut self, file: &Self::File, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.read_at(file, into, offset)
    }

    fn write_at(&mut self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.write_at(file, bytes, offset)
    }

    fn sync_data(&mut self, file: &Self::File) -> io::Result<()> {
        self.disk.sync_data(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// Five segments of three records each.
fn journal() -> SimDisk {
    let disk = SimDisk::new(1);
    let config = JournalConfig {
        segment_bytes: 4096,
        group_bytes_max: 1000,
        record_bytes_max: 1000,
        ..JournalConfig::default()
    };
    let mut log = Log::open(disk.clone(), NAME, &config, 7).unwrap();
    for position in 0..15_u8 {
        log.append(Timestamp::from_millis(0), &[&[position; 900]]).unwrap();
        log.begin_group().unwrap();
        log.complete_group().unwrap();
    }
    assert_eq!(disk.clone().list().unwrap().len(), 5);
    disk
}

#[test]
fn who_looks_into_a_journal_sees_what_is_left_of_it() {
    for trims in 1..5 {
        for trims_at in 0..12 {
            let mut disk = Trimming::new(&journal(), trims_at, trims);
            let seen = inspect::verify_disk(&mut disk, NAME).unwrap();
            assert_eq!((seen.damage, seen.end), (None, 15), "{trims} from open {trims_at} on");
            assert!(
                seen.first.is_multiple_of(3) && seen.first <= u64::from(trims) * 3,
                "{}",
                seen.first
            );
            assert_eq!(seen.records, 15 - seen.first);
        }
    }
}

#[test]
fn a_reader_is_told_that_its_records_were_trimmed() {
    for trims in 1..5_u32 {
        for trims_at in 0..8 {
            let disk = Trimming::new(&journal(), trims_at, trims);
            let mut next = 0;
            let read = Reader::new(disk, NAME, 0, 15).and_then(|mut reader| {
                while let Some(record) = reader.next()? {
                    assert_eq!((record.position, record.bytes), (next, &[next as u8; 900][..]));
                    next += 1;
                }
                Ok(())
            });
            match read {
                // It had opened each file before it went.
                Ok(()) => assert_eq!(next, 15),
                Err(JournalError::Position(why)) => {
                    assert!(why.contains("has been trimmed: the oldest record kept is"), "{why}");
                }
                Err(error) => panic!("{trims} from open {trims_at} on: {error}"),
            }
        }
    }
}

/// Goal: what is not there for another reason is damage, whatever is trimmed.
#[test]
fn a_gap_is_no_trimming() {
    let mut disk = journal();
    disk.remove("00000000000000000006.segment").unwrap();
    assert!(inspect::verify_disk(&mut disk, NAME).unwrap().damage.is_some());
    let mut reader = Reader::new(disk, NAME, 0, 15).unwrap();
    for _ in 0..6 {
        reader.next().unwrap();
    }
    assert!(matches!(reader.next(), Err(JournalError::Damaged(_) | JournalError::Failed(_))));
}
