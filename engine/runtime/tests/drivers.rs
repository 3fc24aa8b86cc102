//! The same jobs on every driver, and the ways in which a job ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_flow::*;
use thalweg_kernel::{
    ConnectorError, Emit, Generated, OpenContext, PartitionId, Partitions, Sink, SinkSpec, Source,
    SourceSpec, SourceStatus, Task, TaskHandle, TaskStatus, Tasks, Timestamp,
};
use thalweg_runtime::*;

fn drivers() -> Vec<DriverKind> {
    let mut drivers = vec![DriverKind::Glommio, DriverKind::Threads];
    drivers.extend((0..8).map(|seed| DriverKind::Simulated { seed }));
    drivers
}

fn config(driver: DriverKind, shards: usize) -> RuntimeConfig {
    RuntimeConfig { driver, shards, ..RuntimeConfig::default() }
}

#[test]
fn a_windowed_count_is_the_same_on_every_driver_and_number_of_shards() {
    let input: Vec<(u64, i64)> = (0..40_000).map(|n| (n * 7 % 101, n as i64 / 10)).collect();
    let mut expected = BTreeMap::<_, u64>::new();
    for &(key, ts) in &input {
        *expected.entry((ts - ts % 100, key)).or_default() += 1;
    }
    for driver in drivers() {
        for shards in [1, 2, 8] {
            let (out, input) = (Collected::new(), input.clone());
            let sink = out.sink();
            let job = Job::new("count", move |flow| {
                flow.source(
                    Collection::new(input.clone()),
                    Watermarks::monotonous().timestamps(|&(_, ts): &(u64, i64)| ts),
                )
                .key_by(|&(key, _)| key)
                .window(Tumbling::of(Duration::from_millis(100)))
                .aggregate(Count)
                .name("counts")
                .sink(sink.clone());
            });
            let metrics = job.run_with(&config(driver, shards)).unwrap();
            let rows: BTreeMap<_, _> =
                out.take().into_iter().map(|w| ((w.start.as_millis(), w.key), w.value)).collect();
            assert_eq!(rows, expected, "{driver}, {shards} shards");
            assert_eq!(metrics.of("counts", "numRecordsIn"), 40_000, "{driver}, {shards} shards");
            assert_eq!(metrics.total("numLateRecordsDropped"), 0);
        }
    }
}

/// Counts up for ever, at most one record a poll, with rests as a real source has.
#[derive(Clone)]
struct Ticker {
    emitted: Arc<AtomicU64>,
    partitions: usize,
}

struct TickerPartition {
    emitted: Arc<AtomicU64>,
    stopped: bool,
}

impl SourceSpec for Ticker {
    type Item = u64;
    type Partition = TickerPartition;

    fn describe(&self) -> String {
        "ticker".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.partitions)
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<TickerPartition, ConnectorError> {
        Ok(TickerPartition { emitted: Arc::clone(&self.emitted), stopped: false })
    }
}

impl Source for TickerPartition {
    type Item = u64;

    fn poll(
        &mut self,
        now: Timestamp,
        _records_max: usize,
        out: &mut impl Emit<u64>,
    ) -> Result<SourceStatus, ConnectorError> {
        if self.stopped {
            return Ok(SourceStatus::Ended);
        }
        out.record(self.emitted.fetch_add(1, Ordering::Relaxed), now, &Generated);
        Ok(SourceStatus::Waiting(Some(Duration::from_millis(1))))
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}

#[test]
fn stopping_drains_everything_in_flight_and_fires_open_windows() {
    for driver in [DriverKind::Glommio, DriverKind::Threads] {
        let ticker = Ticker { emitted: Arc::default(), partitions: 2 };
        let (emitted, out) = (Arc::clone(&ticker.emitted), Collected::new());
        let sink = out.sink();
        let job = Job::new("ticks", move |flow| {
            flow.source(ticker.clone(), Watermarks::monotonous())
                .key_by(|n| n % 13)
                .window(Tumbling::of(Duration::from_secs(3_600)))
                .aggregate(Count)
                .sink(sink.clone());
        });
        let running = job.start(&config(driver, 2)).unwrap();
        assert_eq!(running.driver(), driver);
        while emitted.load(Ordering::Relaxed) < 50 {
            thread::sleep(Duration::from_millis(1));
        }
        running.stop();
        running.wait().unwrap();
        let counted: u64 = out.take().into_iter().map(|row| row.value).sum();
        assert_eq!(counted, emitted.load(Ordering::Relaxed), "{driver}");
    }
}

#[test]
fn a_panic_in_user_code_ends_the_job_with_its_message_on_every_driver() {
    for driver in drivers().into_iter().take(2) {
        let job = Job::new("panic", |flow| {
            flow.source(Collection::new(0..100), Watermarks::monotonous())
                .map(|n| if n == 42 { panic!("no good: {n}") } else { n })
                .discard();
        });
        let error = job.run_with(&config(driver, 2)).unwrap_err();
        let text = error.to_string();
        let named = text.starts_with("shard 0 panicked: Map: its function panicked at event time ");
        assert!(named && text.ends_with(": no good: 42"), "{driver}: {text}");
    }
}

/// A sink that fails to open, or at the first record.
#[derive(Clone)]
struct Broken {
    opens: bool,
}

impl<T: 'static> SinkSpec<T> for Broken {
    type Writer = Self;

    fn describe(&self) -> String {
        "broken".into()
    }

    fn open(&self, _: &OpenContext) -> Result<Self, ConnectorError> {
        let refused = ConnectorError::new("broken", "does not open");
        if self.opens { Ok(self.clone()) } else { Err(refused) }
    }
}

impl<T> Sink<T> for Broken {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
    fn write(&mut self, _: Timestamp, _: T) -> Result<(), ConnectorError> {
        Err(ConnectorError::new("broken", "disk full"))
    }
    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}

#[test]
fn a_connector_that_fails_ends_the_job_with_its_error() {
    for driver in drivers() {
        for (opens, expected) in [(false, "broken: does not open"), (true, "broken: disk full")] {
            let job = Job::new("broken", move |flow| {
                flow.source(Collection::new(0..100_000), Watermarks::monotonous())
                    .key_by(|&n| n)
                    .window(Tumbling::of(Duration::from_millis(1)))
                    .aggregate(Count)
                    .sink(Broken { opens });
            });
            let error = job.run_with(&config(driver, 4)).unwrap_err();
            assert_eq!(error.to_string(), expected, "{driver}");
        }
    }
}

/// The work of a connection.
struct WorkThatPanics;

impl Task for WorkThatPanics {
    fn step(&mut self) -> TaskStatus {
        panic!("the work of a connection panics");
    }
}

/// As a connector does: it sees its work off at its end.
struct SeesOff(Option<TaskHandle>);

impl Drop for SeesOff {
    fn drop(&mut self) {
        if let Some(work) = &self.0 {
            assert!(work.finish(Duration::from_secs(20)));
        }
    }
}

/// A source that reports nothing and is never woken. It may have a connection, whose work panics.
#[derive(Clone)]
struct Forgetful {
    panics_beside: bool,
}

const FORGETFUL: Forgetful = Forgetful { panics_beside: false };

impl SourceSpec for Forgetful {
    type Item = ();
    type Partition = SeesOff;

    fn describe(&self) -> String {
        "forgetful".into()
    }

    fn open(&self, _: &PartitionId, cx: &OpenContext) -> Result<SeesOff, ConnectorError> {
        let add = |tasks: &Tasks| tasks.add(Box::new(WorkThatPanics), Arc::default());
        Ok(SeesOff(cx.tasks.as_ref().filter(|_| self.panics_beside).map(add)))
    }
}

impl Source for SeesOff {
    type Item = ();

    fn poll(
        &mut self,
        _: Timestamp,
        _: usize,
        _: &mut impl Emit<()>,
    ) -> Result<SourceStatus, ConnectorError> {
        Ok(SourceStatus::Waiting(None))
    }

    fn stop(&mut self) {}
}

#[test]
fn work_that_panics_beside_a_shard_ends_the_job_with_its_message() {
    let job = Job::new("beside", |flow| {
        flow.source(Forgetful { panics_beside: true }, Watermarks::monotonous()).discard();
    });
    let error = job.run_with(&config(DriverKind::Threads, 2)).unwrap_err().to_string();
    assert!(error.contains("the work of a connection panics"), "{error}");
}

#[test]
fn aborting_or_dropping_the_handle_ends_a_job_that_would_never_end() {
    for driver in [DriverKind::Glommio, DriverKind::Threads] {
        let job = Job::new("endless", |flow| {
            flow.source(FORGETFUL, Watermarks::monotonous()).discard();
        });
        drop(job.start(&config(driver, 2)).unwrap());
        let running = job.start(&config(driver, 2)).unwrap();
        let stopper = running.stopper();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || done.send(matches!(running.wait(), Err(JobError::Aborted))));
        stopper.abort();
        assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true), "{driver}");
    }
}

#[test]
fn an_idle_job_sleeps() {
    for driver in [DriverKind::Glommio, DriverKind::Threads] {
        let job = Job::new("idle", |flow| {
            flow.source(FORGETFUL, Watermarks::monotonous())
                .key_by(|()| 0_u8)
                .window(Tumbling::of(Duration::from_secs(1)))
                .aggregate(Count)
                .discard();
        });
        let running = job.start(&config(driver, 2)).unwrap();
        thread::sleep(Duration::from_millis(200));
        let before = shard_cpu();
        thread::sleep(Duration::from_millis(2_000));
        let used = shard_cpu() - before;
        drop(running);
        assert!(used <= Duration::from_millis(40), "{driver}: {used:?} of CPU in two idle seconds");
    }
}

/// CPU time of this process's threads that are named as shards of the job `idle`, to 10 ms.
fn shard_cpu() -> Duration {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, rest) = stat.split_once(") ").unwrap();
        if name.contains("(idle/s") {
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_silent_source_falls_idle_and_does_not_hold_back_the_other() {
    // The second partition never speaks; virtual time passes it by.
    let out = Collected::new();
    let sink = out.sink();
    let job = Job::new("idle partition", move |flow| {
        let silent = flow
            .source(FORGETFUL, Watermarks::monotonous().idle_after(Duration::from_secs(5)))
            .map(|()| 0);
        let ticks = flow
            .source(Ticker { emitted: Arc::default(), partitions: 1 }, Watermarks::monotonous());
        let sink = sink.clone();
        ticks
            .union(silent)
            .map(|n| if n > 60_000 { panic!("enough") } else { n })
            .key_by(|_| 0_u8)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate(Count)
            .sink(sink);
    });
    for seed in 0..4 {
        let error = job.run_with(&config(DriverKind::Simulated { seed }, 2));
        assert!(error.is_err(), "the ticker is endless");
        let windows = out.take().len();
        assert!(windows >= 10, "seed {seed}: {windows} windows fired behind a silent partition");
    }
}

#[test]
fn wrong_settings_are_named() {
    let job = Job::new("none", |_| {});
    for shards in [0, 129] {
        let error = job.start(&config(DriverKind::Auto, shards)).err().unwrap().to_string();
        let expected = format!(
            "shards = \"{shards}\" is not allowed; allowed: 1 to 128 (the number of key groups)"
        );
        assert_eq!(error, expected);
    }
    let error = "fibers".parse::<DriverKind>().unwrap_err().to_string();
    assert_eq!(error, "driver = \"fibers\" is not allowed; allowed: auto, glommio, threads");
}

#[test]
fn metrics_are_served_as_prometheus_text() {
    let address = serve_prometheus("127.0.0.1:0".parse().unwrap()).unwrap();
    let job = Job::new("scraped", |flow| {
        flow.source(Collection::new(0..1_000), Watermarks::monotonous()).name("numbers").discard();
    });
    job.run_with(&config(DriverKind::Threads, 1)).unwrap();
    let begun = Instant::now();
    let text = loop {
        let text = http_get(address, "/metrics");
        if text.contains("numbers") || begun.elapsed() > Duration::from_secs(5) {
            break text;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let line = text.lines().find(|line| line.starts_with("thalweg_numRecordsOut{")).unwrap();
    assert!(line.contains("job=\"scraped\"") && line.contains("operator=\"numbers\""), "{line}");
    assert!(line.ends_with(" 1000"), "{line}");
}

fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return String::new() };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}
