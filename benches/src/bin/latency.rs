//! From publish to sink through a broker: a Thalweg job beside a bare MQTT client, in one run.
//! What is measured and how: `thalweg_benches::latency`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Parser;
use serde::Serialize;
use thalweg::runtime::{DriverKind, RuntimeConfig};
use thalweg_benches::broker::{Broker, Choice};
use thalweg_benches::latency::bare::Bare;
use thalweg_benches::latency::job::job;
use thalweg_benches::latency::outbox;
use thalweg_benches::latency::publisher::publish;
use thalweg_benches::latency::schedule::{Schedule, Stream, Tally};
use thalweg_benches::latency::{Line, SUBSCRIBED_MAX};
use thalweg_benches::quantiles::Quantiles;
use thalweg_benches::spin::{Gaps, gaps};

/// How long the last messages may be on their way.
const ARRIVAL: Duration = Duration::from_millis(500);

/// Publish-to-sink latency of a Thalweg job beside a bare MQTT client, in one run
#[derive(Parser)]
#[command(after_help = "The last line of the output is JSON.")]
struct Args {
    /// Messages per second on each of the three streams
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,

    /// How long to measure, after a second of warm-up
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    seconds: f64,

    /// Quality of service of publishers and subscribers: 0 or 1
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: DriverKind,

    /// Shards; one per core by default
    #[arg(long, value_name = "N")]
    shards: Option<usize>,

    /// How long an idle shard spins before it sleeps, in microseconds
    #[arg(long, default_value_t = 0, value_name = "N")]
    spin_us: u64,

    /// auto (a private mosquitto, or else the embedded broker), embedded, or mqtt://HOST[:PORT]
    #[arg(long, default_value = "auto", value_name = "BROKER")]
    broker: Choice,

    /// How long to watch a bare spin loop before and after, for the machine's own noise
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    noise_seconds: f64,

    /// Measure instead until the result arrives, of a job with a journal, state and an outbox, at QoS 1
    #[arg(long, conflicts_with = "qos")]
    outbox: bool,

    /// With --outbox: the time between two checkpoints
    #[arg(long, default_value = "10ms", value_name = "TIME", requires = "outbox", value_parser = humantime::parse_duration)]
    checkpoint: Duration,

    /// With --outbox: a directory for the state, which says which disk is measured; a temporary one by default
    #[arg(long, value_name = "DIR", requires = "outbox")]
    state: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    broker: String,
    rate: u32,
    seconds: f64,
    qos: u8,
    driver: String,
    shards: usize,
    spin_us: u64,
    bare: Line,
    job: Line,
    keyed: Line,
    /// What Thalweg adds to a bare client, at the median.
    job_over_bare_p50_us: f64,
    keyed_over_bare_p50_us: f64,
    /// How late the sender was.
    sender: Quantiles,
    noise_before: Gaps,
    noise_after: Gaps,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let default = RuntimeConfig::default();
    let config = RuntimeConfig {
        driver: args.driver,
        shards: args.shards.unwrap_or(default.shards),
        spin: Duration::from_micros(args.spin_us),
        ..default
    };
    let noise = Duration::try_from_secs_f64(args.noise_seconds)?;
    if args.outbox {
        let dir = match &args.state {
            Some(place) => tempfile::tempdir_in(place)?,
            None => tempfile::tempdir()?,
        };
        let Args { rate, seconds, checkpoint, .. } = args;
        let plan = outbox::Plan { rate, seconds, checkpoint, noise };
        let report = outbox::run(&Broker::start(&args.broker)?, &plan, config, dir.path())?;
        print!("{report}");
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    let noise_before = gaps(noise);

    let broker = Broker::start(&args.broker)?;
    let schedule = Arc::new(Schedule::new(Stream::TO_SINK, args.rate, args.seconds));
    let [bare, plain, keyed] = [Tally::new()?, Tally::new()?, Tally::new()?];
    let client = Bare::start(&broker, &schedule, Stream::Bare, args.qos, &bare)?;
    let (job, subscribed) = job(&broker, &schedule, args.qos, &plain, &keyed);
    let running = job.start(&config)?;
    let driver = running.driver();
    let deadline = Instant::now() + SUBSCRIBED_MAX;
    while subscribed.load(Ordering::Acquire) < 2 {
        if running.is_finished() || Instant::now() > deadline {
            running.stop();
            running.wait()?;
            bail!("the job did not subscribe at {broker} within {SUBSCRIBED_MAX:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }

    let sender = publish(&broker, &schedule, args.qos)?.quantiles();
    thread::sleep(ARRIVAL);
    client.stop()?;
    running.stop();
    running.wait()?;
    let noise_after = gaps(noise);

    let line = |tally: &Tally| Line::new(&tally.take(), schedule.recorded());
    let (bare, plain, keyed) = (line(&bare), line(&plain), line(&keyed));
    let over =
        |line: &Line| ((line.quantiles.p50_us - bare.quantiles.p50_us) * 10.0).round() / 10.0;
    let report = Report {
        bench: "latency",
        broker: broker.to_string(),
        rate: args.rate,
        seconds: args.seconds,
        qos: args.qos,
        driver: driver.to_string(),
        shards: config.shards,
        spin_us: args.spin_us,
        job_over_bare_p50_us: over(&plain),
        keyed_over_bare_p50_us: over(&keyed),
        bare,
        job: plain,
        keyed,
        sender,
        noise_before,
        noise_after,
    };
    print(&report);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Above these the machine had other things to do.
const LOST_PERCENT_QUIET: f64 = 1.0;
const SENDER_P99_US_QUIET: f64 = 200.0;

fn print(report: &Report) {
    let Report { rate, seconds, qos, driver, shards, spin_us, .. } = report;
    println!("broker: {}", report.broker);
    println!(
        "{rate} msg/s on each stream for {seconds} s, QoS {qos}; driver {driver}, {shards} shards, \
         spin {spin_us} us"
    );
    println!(
        "{:<22} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "microseconds", "messages", "missing", "p50", "p99", "p99.9", "max"
    );
    for (name, line) in
        [("bare client", &report.bare), ("job", &report.job), ("job, keyed window", &report.keyed)]
    {
        let Quantiles { p50_us, p99_us, p999_us, max_us } = line.quantiles;
        println!(
            "{name:<22} {:>9} {:>8} {p50_us:>9.1} {p99_us:>9.1} {p999_us:>9.1} {max_us:>9.1}",
            line.messages, line.missing
        );
    }
    println!(
        "over the bare client at the median: job {:+.1} us, keyed {:+.1} us",
        report.job_over_bare_p50_us, report.keyed_over_bare_p50_us
    );
    println!(
        "the sender was late by {:.1} us at p50, {:.1} us at p99, {:.1} us at most",
        report.sender.p50_us, report.sender.p99_us, report.sender.max_us
    );
    println!("a bare spin loop before: {}", report.noise_before);
    println!("a bare spin loop after: {}", report.noise_after);
    let lost = report.noise_before.lost_percent.max(report.noise_after.lost_percent);
    if lost > LOST_PERCENT_QUIET || report.sender.p99_us > SENDER_P99_US_QUIET {
        println!(
            "the machine was busy: only differences between the lines above mean anything, and \
             tails do not"
        );
    }
}
