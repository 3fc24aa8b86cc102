//! The writer on a disk that fails when told to: by its thread alone, and on a shard that is driven by hand.

mod golden;
mod model;

use std::cell::RefCell;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::thread::sleep;
use std::time::Duration;

use super::*;
use crate::reader::Reader;
use crate::sim::SimDisk;
use thalweg_kernel::{Descriptors, JournalReader};

const NAME: &str = "threads";
const NOW: Timestamp = Timestamp::from_millis(1);

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 4096,
        cap_bytes: 16 << 10,
        group_bytes_max: 1024,
        record_bytes_max: 1000,
        full_retry: Duration::from_millis(2),
        ..JournalConfig::default()
    }
}

thread_local! {
    /// Those of the shard that the test stands for, if it stands for one.
    static TASKS: RefCell<Option<Tasks>> = const { RefCell::new(None) };
}

fn tasks() -> Option<Tasks> {
    TASKS.with_borrow(Clone::clone)
}

/// Does it with the thread alone, and on a shard.
fn both(test: impl Fn()) {
    TASKS.set(None);
    test();
    on_shard(test);
}

fn on_shard(test: impl FnOnce()) {
    TASKS.set(Some(Tasks::new(Descriptors::new().unwrap())));
    test();
    TASKS.set(None);
}

/// Takes a turn of the shard, if there is one.
fn turn() {
    if let Some(tasks) = tasks() {
        tasks.descriptors().wait(Duration::ZERO);
        tasks.step(Instant::now());
    }
}

fn open(disk: &SimDisk, config: &JournalConfig) -> (Writer<SimDisk>, Arc<Count>) {
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let tasks = tasks();
    let opened = Writer::open(disk.clone(), NAME, config, (5, 0), waker, tasks.as_ref());
    (opened.unwrap().0, count)
}

/// Waits, with a bound that only a bug reaches.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for turns in 0..20_000 {
        turn();
        if done() {
            return;
        }
        // The shard has its turns at once, the thread needs some time.
        if turns % 4 == 3 {
            sleep(Duration::from_millis(1));
        }
    }
    panic!("waited in vain until {what}");
}

/// Drops a writer, and waits until its thread has let go of the directory. On a shard the writer itself does not wait for that.
fn see_off(writer: Writer<SimDisk>) {
    let shared = Arc::clone(writer.shared());
    drop(writer);
    until("its thread has ended", || shared.ended.load(Ordering::Acquire));
}

/// Appends, waiting where it is full; the position.
fn append(writer: &mut Writer<SimDisk>, content: &[u8]) -> u64 {
    let mut position = None;
    until("there is room", || match writer.append(NOW, &[content]) {
        Ok(at) => {
            position = Some(at);
            true
        }
        Err(JournalError::Full(_) | JournalError::Busy(_)) => false,
        Err(error) => panic!("{error}"),
    });
    position.unwrap()
}

#[test]
fn what_is_appended_becomes_durable_and_the_waker_is_called() {
    both(|| {
        let disk = SimDisk::new(1);
        let (mut writer, count) = open(&disk, &config());
        for position in 0..100 {
            assert_eq!(append(&mut writer, &[position as u8; 30]), position);
            if position % 10 == 0 {
                writer.flush();
                until("it is durable", || writer.durable() == Ok(position + 1));
            }
        }
        assert!(count.0.load(Ordering::SeqCst) >= 10);
        writer.flush();
        until("all is durable", || writer.durable() == Ok(100));
        assert_eq!(writer.end(), 100);
        let mut reader = Reader::new(disk, NAME, 0, 100).unwrap();
        for position in 0..100 {
            assert_eq!(reader.next().unwrap().unwrap().bytes, [position as u8; 30]);
        }
    });
}

#[test]
fn dropping_it_makes_durable_what_was_appended() {
    both(|| {
        let disk = SimDisk::new(2);
        for round in 1..20 {
            let (mut writer, _) = open(&disk, &config());
            append(&mut writer, b"one");
            append(&mut writer, b"two");
            see_off(writer);
            disk.power_on();
            let (writer, _) = open(&disk, &config());
            assert_eq!((writer.end(), writer.durable()), (2 * round, Ok(2 * round)));
        }
        assert_eq!(disk.content("spare"), None, "nothing is left behind");
    });
}

#[test]
fn a_failed_sync_is_final() {
    both(|| {
        let disk = SimDisk::new(3);
        let (mut writer, count) = open(&disk, &config());
        append(&mut writer, b"one");
        writer.flush();
        until("it is durable", || writer.durable() == Ok(1));
        let woken = count.0.load(Ordering::SeqCst);
        disk.sync_fails_in(0);
        append(&mut writer, b"two");
        writer.flush();
        until("it has failed", || writer.durable().is_err());
        until("it was told", || count.0.load(Ordering::SeqCst) > woken);
        let error = writer.append(NOW, &[b"three"]).unwrap_err();
        assert!(matches!(&error, JournalError::Failed(why) if why.contains("syncing")), "{error}");
        assert_eq!(writer.durable(), Err(error));
        see_off(writer);
        disk.power_on();
        assert!(open(&disk, &config()).0.end() >= 1);
    });
}

#[test]
fn a_full_disk_takes_nothing_and_goes_on_when_there_is_room() {
    both(|| {
        let disk = SimDisk::new(4);
        let (mut writer, _) = open(&disk, &config());
        append(&mut writer, b"first");
        writer.flush();
        until("it is durable", || writer.durable() == Ok(1));
        disk.set_budget(Some(disk.used_bytes()));
        let mut refused = None;
        until("the disk is full", || {
            let result = writer.append(NOW, &[&[7; 900]]);
            refused =
                result.err().filter(|error| error.to_string().contains("the disk has no room"));
            refused.is_some()
        });
        let end = writer.end();
        sleep(Duration::from_millis(10));
        disk.set_budget(None);
        until("all is durable", || writer.durable() == Ok(end));
        assert_eq!(append(&mut writer, b"next"), end);
    });
}

/// Goal: what was taken becomes durable although the disk is full. So a checkpoint that needs it can end, and trim, and that makes room.
#[test]
fn what_is_taken_has_its_place_on_the_disk() {
    both(|| {
        let disk = SimDisk::new(10);
        let config = JournalConfig { segment_bytes: 64 << 10, cap_bytes: 1 << 20, ..config() };
        let (mut writer, count) = open(&disk, &config);
        let mut put = || {
            let taken = writer.append(NOW, &[&[7; 300]]);
            writer.flush();
            until("it is durable", || writer.durable() == Ok(writer.end()));
            taken
        };
        let first_of_second = 300;
        (0..first_of_second).for_each(|_| {
            put().unwrap();
        });
        disk.set_budget(Some(disk.used_bytes()));
        let mut refused = None;
        until("the next segment finds no room", || {
            refused = put().err();
            refused.is_some()
        });
        assert!(refused.unwrap().to_string().contains("the disk has no room"));
        let end = writer.end();
        assert_eq!(writer.durable(), Ok(end), "while the disk is full");
        let before = count.0.load(Ordering::SeqCst);
        writer.trim(end);
        until("it is told", || count.0.load(Ordering::SeqCst) > before);
        assert_eq!(append(&mut writer, &[7; 900]), end);
        writer.flush();
        until("it is durable", || writer.durable() == Ok(end + 1));
    });
}

/// Goal: what is trimmed while a group waits for room is room for it.
#[test]
fn trimming_makes_room_on_a_full_disk() {
    both(|| {
        let disk = SimDisk::new(9);
        let (mut writer, _) = open(&disk, &config());
        // Three of them fill a segment.
        for position in 0..4 {
            append(&mut writer, &[7; 900]);
            writer.flush();
            until("it is durable", || writer.durable() == Ok(position + 1));
        }
        disk.set_budget(Some(disk.used_bytes()));
        until("the disk is full", || {
            let error = writer.append(NOW, &[&[7; 900]]).err();
            error.is_some_and(|error| error.to_string().contains("the disk has no room"))
        });
        let end = writer.end();
        writer.trim(3);
        until("all is durable", || writer.durable() == Ok(end));
        until("it is trimmed", || Reader::new(disk.clone(), NAME, 2, end).is_err());
    });
}

#[test]
fn closing_on_a_full_disk_does_not_hang() {
    both(|| {
        let disk = SimDisk::new(5);
        let (mut writer, _) = open(&disk, &config());
        disk.set_budget(Some(0));
        // The first may have its segment prepared already.
        for _ in 0..20 {
            let _ = writer.append(NOW, &[&[7; 900]]);
            sleep(Duration::from_micros(300));
        }
        let durable = writer.durable().unwrap();
        see_off(writer);
        disk.set_budget(None);
        assert!(open(&disk, &config()).0.end() >= durable);
    });
}

#[test]
fn at_the_cap_it_refuses_until_it_is_trimmed() {
    both(|| {
        let disk = SimDisk::new(6);
        let (mut writer, count) = open(&disk, &config());
        let mut refused = None;
        until("it is at its cap", || {
            let error = writer.append(NOW, &[&[7; 900]]).err();
            refused = error.filter(|error| error.to_string().contains("journal_bytes_max"));
            refused.is_some()
        });
        let end = writer.end();
        until("all is durable", || writer.durable() == Ok(end));
        assert!(disk.used_bytes() <= 16 << 10, "{}", disk.used_bytes());
        assert!(writer.append(NOW, &[&[7; 900]]).is_err(), "and goes on to");
        let woken = count.0.load(Ordering::SeqCst);
        writer.trim(end);
        until("it was told", || count.0.load(Ordering::SeqCst) > woken);
        assert_eq!(append(&mut writer, &[7; 900]), end);
        until("it is durable", || writer.durable() == Ok(end + 1));
        assert!(Reader::new(disk, NAME, 0, end).is_err(), "trimmed");
    });
}

#[test]
fn a_group_goes_when_it_is_flushed_or_large_or_in_the_way() {
    both(|| {
        let disk = SimDisk::new(7);
        let (mut writer, _) = open(&disk, &config());
        append(&mut writer, b"one");
        sleep(Duration::from_millis(5));
        append(&mut writer, b"two");
        sleep(Duration::from_millis(5));
        assert_eq!(writer.durable(), Ok(0));
        writer.flush();
        until("it is durable", || writer.durable() == Ok(2));
        append(&mut writer, &[1; 600]);
        until("half a group is durable", || writer.durable() == Ok(3));
        append(&mut writer, b"small");
        append(&mut writer, &[1; 1000]);
        until("what was in the way, and what came then, is durable", || writer.durable() == Ok(5));
        append(&mut writer, b"last");
        see_off(writer);
        assert_eq!(open(&disk, &config()).0.end(), 6);
    });
}

/// Goal: no wake-up is lost between handle and thread, whatever the timing.
/// Method: a hundred thousand records, waiting for some of them, trimming on the way.
#[test]
fn handle_and_thread_never_wait_for_each_other() {
    both(|| {
        let disk = SimDisk::new(8);
        let (mut writer, _) = open(&disk, &config());
        let mut state = 1_u64;
        for position in 0..100_000_u64 {
            append(&mut writer, &position.to_le_bytes());
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if state >> 60 == 0 {
                writer.flush();
            }
            if state >> 54 == 0 {
                writer.flush();
                until("it is durable", || writer.durable() == Ok(position + 1));
                writer.trim(position);
            }
            writer.trim(position.saturating_sub(100).min(writer.durable().unwrap()));
        }
        writer.flush();
        until("all is durable", || writer.durable() == Ok(100_000));
        let end = 100_000;
        let mut reader = Reader::new(disk, NAME, end - 50, end).unwrap();
        for position in end - 50..end {
            assert_eq!(reader.next().unwrap().unwrap().bytes, position.to_le_bytes());
        }
    });
}

/// Waits until the thread sleeps, and the segments lie in the front.
fn asleep(writer: &Writer<SimDisk>) {
    until("the thread sleeps", || writer.shared.lock().idle);
}

fn calls(writer: &Writer<SimDisk>) -> u64 {
    writer.shared.lock().calls
}

/// Goal: a record at a time costs no wake-up of the thread. It is called to prepare the next segment, to take that, and to roll.
#[test]
fn on_a_shard_the_thread_sleeps_while_groups_go() {
    on_shard(|| {
        let disk = SimDisk::new(20);
        let config = JournalConfig { segment_bytes: 256 << 10, cap_bytes: 1 << 20, ..config() };
        let (mut writer, count) = open(&disk, &config);
        append(&mut writer, b"the first one rolls");
        writer.flush();
        until("it is durable", || writer.durable() == Ok(1));
        asleep(&writer);
        let (before, woken) = (calls(&writer), count.0.load(Ordering::SeqCst));
        for position in 1..1_001 {
            assert_eq!(writer.append(NOW, &[&[7; 60]]), Ok(position));
            writer.flush();
            assert_eq!(writer.durable(), Ok(position), "it is on its way");
            turn();
            assert_eq!(writer.durable(), Ok(position + 1));
        }
        assert_eq!(calls(&writer), before);
        assert_eq!(count.0.load(Ordering::SeqCst), woken + 1_000, "one call for each");
        let names = || disk.content("spare").is_some();
        assert!(!names(), "84 KiB of 256");
        until("it is half full", || {
            append(&mut writer, &[7; 500]);
            writer.flush();
            names()
        });
        let end = writer.end();
        until("all is durable", || writer.durable() == Ok(end));
        until("it has prepared the next segment, and taken it", || calls(&writer) == before + 2);
        asleep(&writer);
        let rolls = |disk: &SimDisk| disk.content("spare").is_none();
        until("it is full", || {
            append(&mut writer, &[7; 500]);
            writer.flush();
            let end = writer.end();
            until("it is durable", || writer.durable() == Ok(end));
            rolls(&disk)
        });
        asleep(&writer);
        assert_eq!(calls(&writer), before + 3, "to roll");
    });
}

/// Goal: a segment that found no room ahead is tried again while the active one fills, not only when it is full.
#[test]
fn on_a_shard_the_next_segment_is_tried_again() {
    on_shard(|| {
        let disk = SimDisk::new(25);
        let config = JournalConfig { segment_bytes: 64 << 10, cap_bytes: 1 << 20, ..config() };
        let (mut writer, _) = open(&disk, &config);
        let mut fill = |done: &dyn Fn(u64) -> bool| {
            until("that is seen", || {
                append(&mut writer, &[7; 300]);
                writer.flush();
                let end = writer.end();
                until("it is durable", || writer.durable() == Ok(end));
                done(end)
            });
        };
        fill(&|_| true);
        // As much as there is: the segment that is prepared finds no room.
        disk.set_budget(Some(64 << 10));
        fill(&|end| end * 300 > 48 << 10);
        assert_eq!(disk.content("spare"), None);
        disk.set_budget(None);
        fill(&|_| disk.content("spare").is_some());
        assert!(writer.end() * 300 < 64 << 10, "long before it is full");
    });
}

#[test]
fn on_a_shard_what_comes_while_a_group_is_on_its_way_goes_behind_it() {
    on_shard(|| {
        let disk = SimDisk::new(21);
        let (mut writer, _) = open(&disk, &config());
        append(&mut writer, b"the first one rolls");
        writer.flush();
        until("it is durable", || writer.durable() == Ok(1));
        asleep(&writer);
        let before = calls(&writer);
        disk.hold_submitted(true);
        append(&mut writer, b"on its way");
        writer.flush();
        let operations = disk.operations();
        append(&mut writer, b"behind it");
        writer.flush();
        // Nothing is done meanwhile by anybody, also if the thread is called.
        writer.shared.call_thread(&mut writer.shared.lock());
        asleep(&writer);
        (0..3).for_each(|_| turn());
        assert_eq!((writer.durable(), disk.operations()), (Ok(1), operations));
        disk.hold_submitted(false);
        turn();
        assert_eq!(writer.durable(), Ok(2));
        turn();
        assert_eq!(writer.durable(), Ok(3));
        assert_eq!(calls(&writer), before + 1, "that one call");
    });
}

/// Goal: a shard does not wait for the disk at the end of a journal. What is on its way is durable nevertheless, and what is behind it,
/// whether or not the shard is still there.
#[test]
fn on_a_shard_its_end_goes_on_without_it() {
    for tasks_end_first in [false, true] {
        on_shard(|| {
            let disk = SimDisk::new(22);
            let (mut writer, _) = open(&disk, &config());
            append(&mut writer, b"the first one rolls");
            writer.flush();
            until("it is durable", || writer.durable() == Ok(1));
            asleep(&writer);
            disk.hold_submitted(true);
            append(&mut writer, b"on its way");
            writer.flush();
            append(&mut writer, b"behind it");
            let tasks = tasks().unwrap();
            if tasks_end_first {
                tasks.end();
            }
            assert!(writer.thread.is_none(), "nothing to wait for");
            see_off(writer);
            assert!(tasks.descriptors().is_empty(), "nothing is watched any more");
            assert_eq!(tasks.step(Instant::now()), None);
            disk.power_on();
            assert_eq!(open(&disk, &config()).0.end(), 3);
        });
    }
}

/// Goal: closing tells when the directory is free, and the waker is called then. It never waits on a shard.
#[test]
fn it_tells_when_it_is_closed() {
    both(|| {
        let disk = SimDisk::new(24);
        for round in 1..10 {
            let (mut writer, count) = open(&disk, &config());
            append(&mut writer, b"one");
            writer.flush();
            append(&mut writer, b"two");
            disk.hold_submitted(round % 3 == 0);
            let before = count.0.load(Ordering::SeqCst);
            if !writer.close() {
                assert!(writer.thread.is_none());
                disk.hold_submitted(false);
                until("it is told", || count.0.load(Ordering::SeqCst) > before && writer.close());
            }
            disk.power_on();
            assert_eq!(
                (writer.durable(), open(&disk, &config()).0.end()),
                (Ok(2 * round), 2 * round)
            );
        }
    });
}

/// Goal: a shard that sleeps until its journal is closed is woken by that, and what closes it does not wait for the shard.
#[test]
fn a_shard_that_waits_for_the_end_is_woken() {
    const LONG: Duration = Duration::from_secs(20);
    for round in 0..50 {
        let tasks = Tasks::new(Descriptors::new().unwrap());
        let waker = tasks.descriptors().waker().clone();
        let disk = SimDisk::new(26 + round);
        let opened = Writer::open(disk, NAME, &config(), (5, 0), waker, Some(&tasks));
        let mut writer = opened.unwrap().0;
        let begun = Instant::now();
        for position in 0..round % 4 {
            assert_eq!(writer.append(NOW, &[b"x"]), Ok(position));
            writer.flush();
        }
        while !writer.close() {
            tasks.step(Instant::now());
            tasks.descriptors().wait(LONG);
        }
        assert!(begun.elapsed() < LONG);
        tasks.step(Instant::now());
        assert!(tasks.descriptors().is_empty(), "nothing is watched any more");
        assert_eq!(writer.durable(), Ok(round % 4));
    }
}

/// Goal: a group of which a part was written, or none, becomes durable by the thread, in its place.
#[test]
fn on_a_shard_a_group_that_is_cut_short_goes_by_the_thread() {
    on_shard(|| {
        let disk = SimDisk::new(23);
        let (mut writer, _) = open(&disk, &config());
        append(&mut writer, b"the first one rolls");
        writer.flush();
        until("it is durable", || writer.durable() == Ok(1));
        for position in 1..8 {
            asleep(&writer);
            let before = calls(&writer);
            if position % 2 == 0 {
                disk.write_short(1);
            } else {
                // Also when it is tried by the thread.
                disk.refuse_writes(2);
            }
            append(&mut writer, &[position as u8; 300]);
            writer.flush();
            append(&mut writer, b"behind it");
            until("the first is durable", || writer.durable().unwrap() >= 2 * position);
            assert!(calls(&writer) > before);
            writer.flush();
            until("both are durable", || writer.durable() == Ok(2 * position + 1));
        }
        let end = writer.end();
        see_off(writer);
        disk.power_on();
        let mut reader = Reader::new(disk, NAME, 0, end).unwrap();
        let mut read = 0;
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.position, read);
            read += 1;
        }
        assert_eq!(read, end);
    });
}
