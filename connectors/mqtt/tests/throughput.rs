//! What the journal costs: QoS 1 from a publisher through mosquitto into a source, with the journal and without,
//! taking turns. A message is through when it has been acknowledged, so the end of a run is the source's stop. For figures, with the journal on the disk in question:
//!
//! ```text
//! MQTT_JOURNAL_PLACE=/var/lib/thalweg cargo test --release -p thalweg-mqtt --test throughput -- --ignored --nocapture
//! ```
//!
//! `MQTT_THROUGHPUT_ONLY="V5 backlog"` runs the cases whose names contain that; `_MESSAGES` and `_ROUNDS` are
//! numbers.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Line, PATIENCE, Shard, Text, Writer, wait_until};
use rustix::time::{ClockId, clock_gettime};
use thalweg_journal::{FileJournals, JournalConfig};
use thalweg_kernel::{Durability, Epoch, OpenContext, Source};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{Mode, MqttSink, MqttSource, Version};

/// A source that stops waits for its acknowledgements to be written, for five seconds.
const STOP_MAX: Duration = Duration::from_millis(4_500);
/// Between checkpoints, which trim the journal.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a run took: messages a second, and CPU time of this process a message, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Run {
    rate: f64,
    cpu_us: f64,
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn messages(count: usize) -> impl Iterator<Item = String> {
    // Some 100 bytes, as a reading in JSON has.
    (0..count).map(|n| {
        format!(
            "{{\"seq\":{n:0>20},\"temperature\":21.5,\"unit\":\"celsius\",\"pad\":\"{:0>30}\"}}",
            n
        )
    })
}

/// Takes a checkpoint of the source, the next after `epoch`.
fn checkpoint(shard: &mut Shard, epoch: &mut u64) {
    *epoch += 1;
    shard.source.snapshot(Epoch::new(*epoch), &mut Vec::new());
    while !shard.source.durable(Epoch::new(*epoch)).unwrap() {
        thread::park_timeout(Duration::from_millis(1));
    }
    shard.source.committed(Epoch::new(*epoch), Epoch::new(*epoch));
}

/// Lets `count` messages through; those were published before, or are meanwhile.
fn run(
    broker: &Mosquitto,
    version: Version,
    mode: Mode,
    place: &str,
    count: usize,
    backlog: bool,
) -> Run {
    let config = broker.config().version(version);
    let subscribed = Arc::new(AtomicBool::new(false));
    let spec = MqttSource::new(config.clone().client_id("gw"), Line).topic("a").durability(mode);
    let open = || {
        subscribed.store(false, Ordering::SeqCst);
        let durability = Durability {
            operator: "sensors".into(),
            checkpoints: true,
            journals: Some(Arc::new(FileJournals::new(place, JournalConfig::default()).unwrap())),
            ..Durability::default()
        };
        let flag = Arc::clone(&subscribed);
        let spec = spec.clone().on_subscribed(move || flag.store(true, Ordering::SeqCst));
        let mut shard = Shard::open_in(&spec, &OpenContext { durability, ..common::context() });
        shard.records_max = 4_096;
        shard
    };
    let publish = move || {
        let mut writer = Writer::open(&MqttSink::new(config.clone(), "a", Text));
        writer.write(messages(count));
        assert!(writer.close_within(PATIENCE));
    };
    let mut first = Some(open());
    wait_until("subscribed", || subscribed.load(Ordering::SeqCst));
    if let Some(mut first) = first.take_if(|_| backlog) {
        // The session is there, and keeps what comes while nobody is.
        first.stop();
        drop(first);
        publish();
    }
    let mut shard = first.unwrap_or_else(open);
    let mut epoch = 1;
    if backlog {
        // A journal makes its first segment with its first record: once in its life.
        shard.run_until(1);
        checkpoint(&mut shard, &mut epoch);
    }
    let early = shard.seen.lines.len();
    let (cpu_before, start) = (cpu(), Instant::now());
    let publisher = (!backlog).then(|| thread::spawn(publish.clone()));
    let mut read = 0;
    while read < count {
        let deadline = Instant::now() + INTERVAL;
        shard.run(|seen| read + seen.lines.len() >= count || Instant::now() >= deadline).unwrap();
        read += shard.seen.lines.len();
        shard.seen.lines.clear();
        shard.seen.received.clear();
        checkpoint(&mut shard, &mut epoch);
    }
    let stopping = Instant::now();
    shard.stop();
    let (time, used) = (start.elapsed(), cpu() - cpu_before);
    // A stop is not patient for ever: what it leaves would be the next run's.
    assert!(stopping.elapsed() < STOP_MAX, "not everything was acknowledged: fewer messages");
    if let Some(publisher) = publisher {
        publisher.join().unwrap();
    }
    let count = (count - early) as f64;
    Run { rate: count / time.as_secs_f64(), cpu_us: used.as_secs_f64() * 1e6 / count }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "a measurement"]
fn the_journal_against_none() {
    let (count, rounds) =
        (number("MQTT_THROUGHPUT_MESSAGES", 50_000), number("MQTT_THROUGHPUT_ROUNDS", 7));
    let place = std::env::var("MQTT_JOURNAL_PLACE").unwrap_or_else(|_| ".".to_owned());
    let place = tempfile::tempdir_in(place).unwrap();
    for (window, backlog) in [("20", false), ("20", true), ("1000", false), ("1000", true)] {
        for version in [Version::V311, Version::V5] {
            let load = if backlog { "backlog" } else { "live" };
            let case = format!("window {window:>4} {version:?} {load}");
            if std::env::var("MQTT_THROUGHPUT_ONLY").is_ok_and(|only| !case.contains(&only)) {
                continue;
            }
            let window_line = format!("max_inflight_messages {window}");
            let options = Mosquitto::options().quiet().line(&window_line);
            let Some(broker) = options.start() else { return };
            let (mut none, mut journal, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                let kept = place.path().join(format!("{window}-{backlog}-{version:?}-{round}"));
                let kept = kept.to_str().unwrap();
                let go = |mode| run(&broker, version, mode, kept, count, backlog);
                // Taking turns, and turns in taking the first turn.
                let (without, with) = if round % 2 == 0 {
                    let without = go(Mode::None);
                    (without, go(Mode::Journal))
                } else {
                    let with = go(Mode::Journal);
                    (go(Mode::None), with)
                };
                ratios.push(with.rate / without.rate);
                none.push(without);
                journal.push(with);
                std::fs::remove_dir_all(kept).ok();
            }
            let best = |runs: &[Run]| runs.iter().map(|run| run.rate).fold(0.0, f64::max);
            let cpu = |runs: &[Run]| runs.iter().map(|run| run.cpu_us).fold(f64::MAX, f64::min);
            ratios.sort_by(f64::total_cmp);
            println!(
                "{case}: none {:.0} msg/s {:.1} us CPU, journal {:.0} msg/s {:.1} us CPU; \
                 best/best {:.3}, median of pairs {:.3}",
                best(&none),
                cpu(&none),
                best(&journal),
                cpu(&journal),
                best(&journal) / best(&none),
                ratios[ratios.len() / 2]
            );
        }
    }
}
