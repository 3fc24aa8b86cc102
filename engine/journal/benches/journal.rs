//! What a journal costs, with each of its back-ends. The benchmarks time an append, count records made durable per
//! second, and time an append until it is durable. The bare write and sync stand beside them.
//!
//! `cargo bench -p thalweg-journal [-- [--paced] DIRECTORY]`. Without `--bench` (as a test) it runs small. With `--paced` only
//! what a record at a time costs, twenty times: on a machine that does other things too, compare the best.

use std::path::Path;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{Thread, current, park_timeout};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use thalweg_journal::{Backend, Disk, FileDisk, FileJournals, JournalConfig};
use thalweg_kernel::{Descriptors, JournalError, JournalWriter, Journals, Tasks, Timestamp};

const CONTENT: [u8; 100] = [7; 100];

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn main() -> Result<(), JournalError> {
    let (mut large, mut only_paced) = (false, false);
    let mut place = std::env::temp_dir();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => large = true,
            "--paced" => only_paced = true,
            other if !other.starts_with('-') => place = other.into(),
            _ => {}
        }
    }
    let (bare, records, seconds) = if large { (2_000, 1_000_000, 3) } else { (20, 10_000, 0) };
    let place = tempfile::tempdir_in(place).map_err(failed)?;
    let uring = thalweg_journal::files::uring_allowed();
    let backends = if uring { &[Backend::Plain, Backend::Uring][..] } else { &[Backend::Plain] };

    let paced_records = if large { 1_000 } else { 50 };
    let paced_rounds = if large { 20 } else { 1 };
    for round in 0..paced_rounds {
        paced(place.path(), Backend::Plain, false, paced_records, round)?;
        if uring {
            paced(place.path(), Backend::Uring, false, paced_records, round)?;
            paced(place.path(), Backend::Uring, true, paced_records, round)?;
        }
    }
    if only_paced {
        return Ok(());
    }
    for (bytes, zero_fill) in [(128, true), (4096, true), (65_536, true), (4096, false)] {
        for backend in backends {
            bare_writes(place.path(), *backend, bytes, bare, zero_fill)?;
        }
    }
    for round in 0..if large { 3 } else { 1 } {
        for backend in backends {
            throughput(place.path(), *backend, records, round)?;
        }
    }
    for round in 0..if large { 3 } else { 1 } {
        for backend in backends {
            latency(place.path(), *backend, seconds * 1000 + 50, round)?;
        }
    }
    Ok(())
}

fn failed(error: std::io::Error) -> JournalError {
    JournalError::Failed(error.to_string())
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Values at these parts of a sorted list.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    format!("p50 {} us, p99 {} us, max {} us", at(0.5), at(0.99), at(1.0))
}

/// Write and sync of a group, one after the other.
fn bare_writes(
    place: &Path,
    backend: Backend,
    bytes: usize,
    count: usize,
    fill: bool,
) -> Result<(), JournalError> {
    let mut disk = FileDisk::new(place, backend).map_err(failed)?;
    let file = disk.create("bare").map_err(failed)?;
    disk.allocate(&file, 0, 16 << 20, fill).map_err(failed)?;
    let group = vec![3; bytes];
    let mut times = Vec::with_capacity(count);
    let before = cpu();
    for at in 0..count.min((16 << 20) / bytes) {
        let started = Instant::now();
        let written = disk.write_durably(&file, &group, (at * bytes) as u64);
        written.map_err(|error| JournalError::Failed(format!("{error:?}")))?;
        times.push(started.elapsed());
    }
    let each = (cpu() - before) / times.len() as u32;
    let zeros = if fill { "zeroed" } else { "unwritten" };
    println!("write+sync {bytes:>6} B {zeros:9} {backend:8} {}, CPU {each:?}", percentiles(times));
    Ok(())
}

fn open(
    place: &Path,
    backend: Backend,
    name: &str,
) -> Result<Box<dyn JournalWriter>, JournalError> {
    let config = JournalConfig { backend, ..JournalConfig::default() };
    let journals =
        FileJournals::new(place, config).map_err(|e| JournalError::Failed(e.to_string()))?;
    journals.open(name, Waker::from(Arc::new(Unpark(current()))))
}

/// As many records as it takes, as fast as they are taken.
fn throughput(
    place: &Path,
    backend: Backend,
    records: u64,
    round: usize,
) -> Result<(), JournalError> {
    let mut writer = open(place, backend, &format!("throughput-{backend}-{round}"))?;
    let (started, before) = (Instant::now(), cpu());
    let mut refused = 0_u64;
    for n in 0..records {
        while let Err(error) = writer.append(Timestamp::from_millis(1), &[&CONTENT]) {
            if !matches!(error, JournalError::Full(_) | JournalError::Busy(_)) {
                return Err(error);
            }
            refused += 1;
            park_timeout(Duration::from_millis(10));
        }
        if n % 100_000 == 0 {
            writer.trim(writer.durable()?);
        }
    }
    writer.flush();
    while writer.durable()? < records {
        park_timeout(Duration::from_millis(1));
    }
    let (wall, cpu) = (started.elapsed(), cpu() - before);
    println!(
        "throughput {backend:8} {:.2} M records/s, CPU {} ns/record, waited {refused} times",
        records as f64 / wall.as_secs_f64() / 1e6,
        cpu.as_nanos() / u128::from(records)
    );
    Ok(())
}

/// A record each millisecond: from its append until a thread that sleeps has been woken and sees it durable.
fn latency(place: &Path, backend: Backend, records: u32, round: usize) -> Result<(), JournalError> {
    let mut writer = open(place, backend, &format!("latency-{backend}-{round}"))?;
    // The first record of a new journal waits for its first segment to be prepared.
    writer.append(Timestamp::from_millis(1), &[&CONTENT])?;
    writer.flush();
    while writer.durable()? == 0 {
        park_timeout(Duration::from_millis(50));
    }
    let mut times = Vec::with_capacity(records as usize);
    let (started, before) = (Instant::now(), cpu());
    for n in 0..records {
        let due = started + Duration::from_millis(1) * n;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            park_timeout(left);
        }
        let appended = Instant::now();
        let position = writer.append(Timestamp::from_millis(1), &[&CONTENT])?;
        writer.flush();
        while writer.durable()? <= position {
            park_timeout(Duration::from_millis(50));
        }
        times.push(appended.elapsed());
    }
    let each = (cpu() - before) / records;
    println!("latency at 1,000/s {backend:8} {}, CPU {each:?}", percentiles(times));
    Ok(())
}

/// A record each millisecond on a thread that waits as a shard does, and groups written by the journal's thread or by
/// that one. Both are timed together, in turn, since a machine's disk has good and bad minutes.
fn paced(
    place: &Path,
    backend: Backend,
    on_shard: bool,
    records: u32,
    round: usize,
) -> Result<(), JournalError> {
    let tasks = Tasks::new(Descriptors::new().map_err(failed)?);
    let descriptors = tasks.descriptors();
    let wait = |until: Duration| {
        descriptors.wait(until);
        tasks.step(Instant::now());
    };
    let config = JournalConfig { backend, ..JournalConfig::default() };
    let journals =
        FileJournals::new(place, config).map_err(|e| JournalError::Failed(e.to_string()))?;
    let by = if on_shard { "the shard" } else { "its thread" };
    let name = format!("paced-{backend}-{on_shard}-{round}");
    let mut writer =
        journals.open_at(&name, descriptors.waker().clone(), 0, on_shard.then_some(&tasks))?;
    writer.append(Timestamp::from_millis(1), &[&CONTENT])?;
    writer.flush();
    while writer.durable()? == 0 {
        wait(Duration::from_millis(50));
    }
    // The segment behind is prepared in the background: not a part of this.
    std::thread::sleep(Duration::from_millis(300));
    let mut times = Vec::with_capacity(records as usize);
    let (started, before) = (Instant::now(), usage());
    for n in 0..records {
        let due = started + Duration::from_millis(1) * n;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            wait(left);
        }
        let appended = Instant::now();
        let position = writer.append(Timestamp::from_millis(1), &[&CONTENT])?;
        writer.flush();
        while writer.durable()? <= position {
            wait(Duration::from_millis(50));
        }
        times.push(appended.elapsed());
    }
    let after = usage();
    let each = (after.0 - before.0) / records;
    let switches = (after.1 - before.1) as f64 / f64::from(records);
    println!(
        "a record at a time at 1,000/s {backend:8} by {by:10} {}, CPU {each:?}, context switches {switches:.2}",
        percentiles(times)
    );
    Ok(())
}

/// What all threads of this process have used: their time, and how often they have slept.
fn usage() -> (Duration, u64) {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let slept = tasks.filter_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    });
    (cpu(), slept.sum())
}
