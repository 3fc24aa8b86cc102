//! Journals in real files: open, lock, read, read on, find by time, trim, look into.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::task::Waker;
use std::time::{Duration, Instant};

use thalweg_journal::{Backend, FileJournals, JournalConfig, inspect};
use thalweg_kernel::{
    Descriptors, JournalError, JournalReader, JournalWriter, Journals, Tasks, Timestamp,
};

thread_local! {
    /// Those of the shard that the test stands for, if it stands for one.
    static TASKS: RefCell<Option<Tasks>> = const { RefCell::new(None) };
}

/// Does it with the journal's thread alone, and on a shard that is driven by hand.
fn both(test: impl Fn()) {
    test();
    TASKS.set(Some(Tasks::new(Descriptors::new().unwrap())));
    test();
    TASKS.set(None);
}

/// A writer whose end is waited for, also on a shard.
struct Owned(Box<dyn JournalWriter>);

impl Deref for Owned {
    type Target = dyn JournalWriter;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        until("it is closed", || self.0.close());
    }
}

fn open(journals: &FileJournals, name: &str) -> Result<Owned, JournalError> {
    open_at(journals, name, 0)
}

fn open_at(journals: &FileJournals, name: &str, begin: u64) -> Result<Owned, JournalError> {
    let tasks = TASKS.with_borrow(Clone::clone);
    journals.open_at(name, Waker::noop().clone(), begin, tasks.as_ref()).map(Owned)
}

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        cap_bytes: 256 << 10,
        group_bytes_max: 4096,
        record_bytes_max: 20_000,
        ..JournalConfig::default()
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        match TASKS.with_borrow(Clone::clone) {
            None => std::thread::sleep(Duration::from_micros(100)),
            Some(tasks) => {
                tasks.descriptors().wait(Duration::from_micros(100));
                tasks.step(Instant::now());
            }
        }
    }
}

fn append(writer: &mut dyn JournalWriter, received: Timestamp, content: &[u8]) {
    until("there is room", || match writer.append(received, &[content]) {
        Ok(_) => true,
        Err(JournalError::Full(_) | JournalError::Busy(_)) => false,
        Err(error) => panic!("{error}"),
    });
}

fn settle(writer: &mut dyn JournalWriter) {
    writer.flush();
    until("all is durable", || writer.durable() == Ok(writer.end()));
}

#[test]
fn records_outlive_their_writer_with_either_back_end() {
    both(|| {
        for backend in [Backend::Auto, Backend::Plain, Backend::Uring] {
            if backend == Backend::Uring && !thalweg_journal::files::uring_allowed() {
                continue;
            }
            for zero_fill in [true, false] {
                let place = tempfile::tempdir().unwrap();
                let config = JournalConfig { backend, zero_fill, ..config() };
                let journals = FileJournals::new(place.path().join("a/b"), config).unwrap();
                for round in 0..3_u64 {
                    let mut writer = open(&journals, "in/0").unwrap();
                    assert_eq!(writer.end(), round * 500);
                    for position in writer.end()..writer.end() + 499 {
                        append(&mut *writer, at(position as i64), &position.to_le_bytes());
                    }
                    append(&mut *writer, at(0), &[round as u8; 20_000]);
                }
                let mut reader = journals.reader("in/0", 3).unwrap();
                for position in 3..1500_u64 {
                    let record = reader.next().unwrap().unwrap();
                    assert_eq!(record.position, position);
                    match position % 500 {
                        499 => assert_eq!(record.bytes, [(position / 500) as u8; 20_000]),
                        _ => assert_eq!(record.bytes, position.to_le_bytes()),
                    }
                }
                assert_eq!(reader.next(), Ok(None));
            }
        }
    });
}

/// Goal: a record that is larger than what is read at a time comes back, and one that is not whole is damage.
#[test]
fn a_record_larger_than_a_read_comes_back_whole_or_not_at_all() {
    both(|| {
        const LARGE: usize = 1 << 20;
        let place = tempfile::tempdir().unwrap();
        let config = JournalConfig { record_bytes_max: LARGE, cap_bytes: 8 << 20, ..config() };
        let journals = FileJournals::new(place.path(), config).unwrap();
        let mut writer = open(&journals, "in").unwrap();
        append(&mut *writer, at(0), b"before");
        append(&mut *writer, at(0), &[7; LARGE]);
        append(&mut *writer, at(0), b"behind");
        settle(&mut *writer);
        let mut reader = journals.reader("in", 0).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().bytes, b"before");
        assert!(reader.next().unwrap().unwrap().bytes == [7; LARGE]);
        assert_eq!(reader.next().unwrap().unwrap().bytes, b"behind");
        assert_eq!(reader.next(), Ok(None));

        let mut reader = journals.reader("in", 1).unwrap();
        let large =
            std::fs::read_dir(place.path().join("in")).unwrap().map(|file| file.unwrap().path());
        let large = large.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
        std::fs::File::options().write(true).open(large).unwrap().set_len(600 << 10).unwrap();
        let error = reader.next().unwrap_err().to_string();
        assert!(error.contains("it would reach behind the segment's end"), "{error}");
    });
}

/// Goal: nobody can know what a record of a journal that is not there yet will begin like.
#[test]
fn every_journal_has_a_tag_of_its_own() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        let tags: std::collections::BTreeSet<_> = (0..3)
            .map(|n| {
                let name = format!("in{n}");
                let mut writer = open(&journals, &name).unwrap();
                append(&mut *writer, at(0), b"x");
                settle(&mut *writer);
                let segment = place.path().join(name).join("00000000000000000000.segment");
                std::fs::read(segment).unwrap()[32..40].to_vec()
            })
            .collect();
        assert_eq!(tags.len(), 3);
    });
}

#[test]
fn a_place_that_cannot_be_made_is_named() {
    both(|| {
        let place = tempfile::NamedTempFile::new().unwrap();
        let journals = FileJournals::new(place.path().join("below/a file"), config()).unwrap();
        let error = open(&journals, "in").map(drop).unwrap_err().to_string();
        assert!(error.contains("creating its directory"), "{error}");
    });
}

#[test]
fn a_journal_has_one_owner() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        let others = FileJournals::new(place.path(), config()).unwrap();
        let writer = open(&journals, "a").unwrap();
        for second in [&journals, &others] {
            let error = open(second, "a").err().unwrap().to_string();
            assert!(error.contains("open already") && error.contains("locked"), "{error}");
        }
        let _b = open(&others, "b").unwrap();
        drop(writer);
        assert!(open(&others, "a").is_ok());
    });
}

/// Goal: a source reads what was kept, then goes live, and misses nothing.
/// Method: the writer's end at opening is where reading ends and what is appended begins.
#[test]
fn reading_to_the_end_and_going_live_leaves_no_gap() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        assert_eq!(journals.read("a", 0).unwrap().next(), Ok(None), "never written");
        let mut writer = open(&journals, "a").unwrap();
        (0..100).for_each(|n| append(&mut *writer, at(n), b"before"));
        drop(writer);

        let mut writer = open(&journals, "a").unwrap();
        let mut reader = journals.reader("a", 40).unwrap();
        append(&mut *writer, at(100), b"live");
        let mut read = 40;
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.position, read);
            read += 1;
        }
        assert_eq!((read, writer.end()), (100, 101));
        // And that reader can go on, as far as is durable, across segments.
        for n in 101..3000 {
            append(&mut *writer, at(n), b"more");
            if n % 100 == 0 {
                reader.extend(writer.durable().unwrap());
                while let Some(record) = reader.next().unwrap() {
                    assert_eq!(record.position, read);
                    assert_eq!(record.bytes, if read == 100 { &b"live"[..] } else { b"more" });
                    read += 1;
                }
            }
        }
        settle(&mut *writer);
        reader.extend(3000);
        while reader.next().unwrap().is_some() {
            read += 1;
        }
        assert_eq!((read, reader.position(), reader.end()), (3000, 3000, 3000));
    });
}

#[test]
fn positions_that_are_gone_or_not_there_yet_are_named() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        let mut writer = open(&journals, "a").unwrap();
        (0..2000).for_each(|n| append(&mut *writer, at(n), &[1; 20]));
        settle(&mut *writer);
        let before = inspect::segments(place.path(), "a").unwrap();
        writer.trim(1000);
        // Exactly the segments that lie below it go.
        let kept: Vec<_> = before.segments.into_iter().filter(|s| s.end > 1000).collect();
        let first = kept[0].first;
        until("it is trimmed", || inspect::segments(place.path(), "a").unwrap().first() == first);
        let info = inspect::segments(place.path(), "a").unwrap();
        assert_eq!(info.segments, kept);
        let error = journals.read("a", 0).err().unwrap();
        let oldest = format!("the oldest record kept is {}", info.first());
        assert!(matches!(&error, JournalError::Position(why) if why.contains(&oldest)), "{error}");
        let error = journals.read("a", 2001).err().unwrap();
        assert!(matches!(&error, JournalError::Position(why) if why.contains("ends at 2000")));
        assert!(matches!(journals.read("b", 7), Err(JournalError::Position(_))));
        assert!(journals.read("a", 2000).unwrap().next().unwrap().is_none());
    });
}

#[test]
fn a_time_is_found_even_if_the_clock_has_jumped() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        let mut writer = open(&journals, "a").unwrap();
        for n in 0..1000_i64 {
            // From 500 on the clock is 300 ms behind.
            append(&mut *writer, at(if n < 500 { n } else { n - 300 }), &[0; 50]);
        }
        settle(&mut *writer);
        for (time, position) in
            [(-5, 0), (0, 0), (1, 1), (499, 499), (500, 800), (699, 999), (700, 1000)]
        {
            let mut reader = journals.read_from_time("a", at(time)).unwrap();
            assert_eq!(reader.position(), position, "{time}");
            let first = reader.next().unwrap().map(|record| record.position);
            assert_eq!(first, (position < 1000).then_some(position));
            let seen = inspect::read_from_time(place.path(), "a", at(time)).unwrap();
            assert_eq!(seen.position(), position);
        }
        // Also where the record is the first of a segment.
        for segment in &inspect::segments(place.path(), "a").unwrap().segments[..3] {
            let time = at(segment.first as i64);
            let mut reader = journals.read_from_time("a", time).unwrap();
            let record = reader.next().unwrap().unwrap();
            assert_eq!((record.position, record.received), (segment.first, time));
        }
    });
}

#[test]
fn a_journal_can_be_looked_into_while_it_is_written() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        let mut writer = open(&journals, "a/b").unwrap();
        let _empty = open(&journals, "empty").unwrap();
        std::fs::create_dir(place.path().join("lost+found")).unwrap();
        for n in 0..1000 {
            append(&mut *writer, at(5000 - n), &[3; 40]);
        }
        settle(&mut *writer);
        let journals = inspect::list(place.path()).unwrap();
        let names: Vec<&str> = journals.iter().map(|journal| journal.name.as_str()).collect();
        assert_eq!(names, ["a/b", "empty"]);
        let [first, .., last] = &journals[0].segments[..] else { panic!("{journals:?}") };
        assert_eq!((journals[0].first(), journals[0].end()), (0, 1000));
        assert_eq!((first.first, last.end), (0, 1000));
        assert_eq!(first.times.unwrap().1, at(5000));
        assert_eq!(last.times.unwrap().0, at(4001));
        assert!(first.used_bytes <= first.bytes && first.bytes == 16 << 10, "{first:?}");
        assert_eq!(journals[1].bytes(), 0);

        let verified = inspect::verify(place.path(), "a/b").unwrap();
        assert_eq!((verified.records, verified.damage), (1000, None));
        let mut reader = inspect::read(place.path(), "a/b", None).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().received, at(5000));

        // A damaged one: what is before can be read, and the damage is named.
        let file = place.path().join("a%2Fb").join(&first.file);
        let mut content = std::fs::read(&file).unwrap();
        content[600] ^= 4;
        std::fs::write(&file, content).unwrap();
        let damage = inspect::verify(place.path(), "a/b").unwrap().damage.unwrap();
        assert!(damage.contains("at byte 576, where record 1 begins"), "{damage}");
        let mut reader = inspect::read(place.path(), "a/b", None).unwrap();
        assert!(reader.next().is_ok() && reader.next().is_err());
    });
}

#[test]
fn what_is_too_large_or_wrongly_named_is_refused() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        assert!(open(&journals, "").is_err());
        let mut writer = open(&journals, "..").unwrap();
        let error = writer.append(at(0), &[&[0; 20_001]]).unwrap_err().to_string();
        assert!(error.contains("20001") && error.contains("record_bytes_max = 20000"), "{error}");
        assert_eq!(writer.append(at(0), &[&[0; 20_000]]), Ok(0), "others are taken");
        settle(&mut *writer);
        assert!(place.path().join("%2E.").is_dir());
        let wrong = JournalConfig { cap_bytes: 1, ..config() };
        assert!(FileJournals::new(place.path(), wrong).is_err());
    });
}

/// Goal: nothing is reported as durable that is in a directory nobody will find.
#[test]
fn a_directory_that_is_removed_or_replaced_under_its_writer_ends_it() {
    both(|| {
        type Harm = fn(&std::path::Path);
        let harms: [(&str, Harm); 4] = [
            ("its files were removed", |dir| std::fs::remove_dir_all(dir).unwrap()),
            ("No such file", |dir| std::fs::rename(dir, dir.with_extension("moved")).unwrap()),
            ("another directory", |dir| {
                std::fs::rename(dir, dir.with_extension("moved")).unwrap();
                std::fs::create_dir(dir).unwrap();
            }),
            ("its files were removed", |dir| {
                for file in std::fs::read_dir(dir).unwrap() {
                    std::fs::remove_file(file.unwrap().path()).unwrap();
                }
            }),
        ];
        for (expected, harm) in harms {
            let place = tempfile::tempdir().unwrap();
            let journals = FileJournals::new(place.path().join("journals"), config()).unwrap();
            let mut writer = open(&journals, "source-0").unwrap();
            append(&mut *writer, at(1), b"kept");
            settle(&mut *writer);
            harm(&place.path().join("journals/source-0"));
            writer.append(at(2), &[b"lost"]).unwrap();
            writer.flush();
            until("it is noticed", || writer.durable() != Ok(1));
            let error = writer.durable().unwrap_err();
            assert!(matches!(error, JournalError::Failed(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains("must not be removed"), "{text}");
        }
    });
}

/// Goal: a job that goes on from a savepoint in a directory of its own begins its journal there at the savepoint's
/// position. It reads nothing, and finds what it appends, also if it ends before anything came.
#[test]
fn a_journal_may_begin_at_a_later_position() {
    both(|| {
        let place = tempfile::tempdir().unwrap();
        let journals = FileJournals::new(place.path(), config()).unwrap();
        for _ in 0..2 {
            let writer = open_at(&journals, "a", 328).unwrap();
            assert_eq!((writer.end(), writer.durable()), (328, Ok(328)));
            let mut reader = journals.read("a", 328).expect("it ends there");
            assert!(reader.next().unwrap().is_none());
            for wrong in [1, 327, 329] {
                let error = journals.read("a", wrong).err().expect("there is no such record");
                assert!(matches!(error, JournalError::Position(_)), "{wrong}: {error}");
            }
        }
        let mut writer = open_at(&journals, "a", 328).unwrap();
        let mut early = journals.reader("a", 328).unwrap();
        append(&mut *writer, at(1), b"first");
        settle(&mut *writer);
        early.extend(writer.end());
        for reader in [&mut early as &mut dyn JournalReader, &mut *journals.read("a", 328).unwrap()]
        {
            let record = reader.next().unwrap().expect("it is durable");
            assert_eq!((record.position, record.bytes), (328, &b"first"[..]));
            assert!(reader.next().unwrap().is_none());
        }
    });
}
