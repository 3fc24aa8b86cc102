//! What a message costs through a broker: a Thalweg job beside a loop on a raw socket.
//! What is measured and how: `thalweg_benches::devices`; with `--rates` and `--idle`: `thalweg_benches::rates`.

use std::path::PathBuf;
use std::str::FromStr;
use std::thread;

use anyhow::{Context, ensure};
use clap::Parser;
use serde::Serialize;
use thalweg::mqtt::Qos;
use thalweg::prelude::MqttConfig;
use thalweg::runtime::{DriverKind, RuntimeConfig};
use thalweg_benches::broker::{Broker, Choice};
use thalweg_benches::devices::account::Figures;
use thalweg_benches::devices::engine::{Engine, serve};
use thalweg_benches::devices::hand::Hand;
use thalweg_benches::devices::job;
use thalweg_benches::devices::load::{self, Load};
use thalweg_benches::devices::work::{Averages, Work};
use thalweg_benches::process;
use thalweg_benches::rates::options::Options;
use thalweg_benches::rates::order::Order;
use thalweg_benches::rates::series::Setting;
use thalweg_benches::rates::{contender, idle, load as paced, series, table};
use thalweg_benches::report::{Table, json_line, median, rounded};

const EXAMPLES: &str = "\
Every run prints a line of JSON when it ends.

Examples:
  mqtt --peer handloop                          50,000 messages a second, one shard, beside a loop on a raw socket
  mqtt --rates 100,1000,5000,20000,50000        a row for each rate: CPU, context switches, latency, and the bars
  mqtt --rates 1000 --drivers glommio,threads --by-thread
                                                two drivers in turns, and what each thread costs
  mqtt --rates 1000,5000 --state journal --jobs averages --rounds 5 --state-dir /var/tmp
                                                with state on that disk alone
  mqtt --rates 1000 --state none --syscalls     with the system calls of a message, counted by strace (=perf by perf)
  mqtt --idle 600 --drivers glommio,threads     wake-ups, CPU and bytes written while nobody publishes";

/// CPU time and latency of messages through a broker, beside a loop on a raw socket
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// Messages per second
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,

    /// How long to send
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,

    /// Devices
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    devices: u64,

    /// auto (a private mosquitto, or else the embedded broker), embedded, or mqtt://HOST[:PORT]
    #[arg(long, default_value = "auto", value_name = "BROKER")]
    broker: Choice,

    /// What to compare with: handloop, or none
    #[arg(long, default_value = "handloop", value_name = "PEER", value_parser = ["handloop", "none"])]
    peer: String,

    /// Runs of each engine, one after the other in turn
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: DriverKind,

    /// Shards of the job: 1 by default, with --rates and --idle 2
    #[arg(long, value_name = "N")]
    cores: Option<usize>,

    /// Append the JSON lines to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What a process of its own is to be
    #[arg(long, hide = true, value_name = "ROLE")]
    role: Option<Role>,

    #[command(flatten)]
    rates: Options,
}

impl Args {
    fn shards(&self) -> usize {
        let at_rates = !self.rates.rates.is_empty() || self.rates.idle.is_some();
        self.cores.unwrap_or(if at_rates { 2 } else { 1 })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Thalweg,
    HandLoop,
    Load,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Thalweg => "thalweg",
            Self::HandLoop => "handloop",
            Self::Load => "load",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Thalweg, Self::HandLoop, Self::Load];
        let found = known.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text:?} is not allowed; allowed: thalweg, handloop, load"))
    }
}

/// One run.
#[derive(Serialize)]
struct Run {
    engine: &'static str,
    mode: &'static str,
    broker: String,
    rate: u64,
    devices: u64,
    driver: String,
    cores: usize,
    events: u64,
    secs: f64,
    events_per_s: f64,
    cpu_ns_per_event: f64,
    cpu_us_per_message: f64,
    peak_rss_mib: f64,
    #[serde(flatten)]
    figures: Figures,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(order) = &args.rates.order {
        let order: Order = serde_json::from_str(order)?;
        return match &order.contender {
            Some(contender) => contender::run(&order, contender),
            None => paced::run(&order),
        };
    }
    if !args.rates.rates.is_empty() || args.rates.idle.is_some() {
        return at_rates(&args);
    }
    let Some(role) = args.role else { return compare(&args) };
    // The parent's broker.
    let broker = Broker::start(&args.broker)?;
    match role {
        Role::Load => {
            let load = Load { rate: args.rate, seconds: args.seconds, devices: args.devices };
            let figures = load::run(&broker.host, broker.port, &load)?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
        Role::HandLoop => {
            let hand = Hand::connect(&broker.host, broker.port, 0)?;
            let stop = hand.stopper()?;
            let looping = thread::spawn(move || hand.run(Work::Averages(Averages::default())));
            let cost = serve()?;
            stop();
            looping.join().map_err(|_| anyhow::anyhow!("the loop panicked"))??;
            println!("{}", serde_json::to_string(&cost)?);
            Ok(())
        }
        Role::Thalweg => thalweg(&args, &broker.config()),
    }
}

fn thalweg(args: &Args, broker: &MqttConfig) -> anyhow::Result<()> {
    let config =
        RuntimeConfig { shards: args.shards(), driver: args.driver, ..RuntimeConfig::default() };
    let broker = broker.clone().qos(Qos::AtMostOnce);
    let (_driver, cost) = job::run(&config, |hook| job::job(&broker, move || hook.call()), serve)?;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

/// Runs all contenders at several rates, or what is idle.
fn at_rates(args: &Args) -> anyhow::Result<()> {
    let Args { seconds, devices, rounds, ref broker, .. } = *args;
    let json = args.json.as_deref();
    let setting = Setting { broker, seconds, devices, rounds, shards: args.shards(), json };
    match args.rates.idle {
        Some(seconds) => idle::run(&args.rates, &setting, seconds),
        None => {
            let series = series::run(&args.rates, &setting)?;
            table::print(&series, &args.rates, &setting);
            ensure!(series.failed == 0, "{} runs failed", series.failed);
            Ok(())
        }
    }
}

/// Runs the engines in turn.
fn compare(args: &Args) -> anyhow::Result<()> {
    let broker = Broker::start(&args.broker)?;
    let mut engines = vec![Role::Thalweg];
    if args.peer == "handloop" {
        engines.push(Role::HandLoop);
    }
    let mut runs: Vec<(Role, Run)> = Vec::new();
    for round in 0..args.rounds {
        // Whoever comes first in a round is second in the next.
        engines.rotate_left((round as usize).min(1));
        for &role in &engines {
            let run = one(args, &broker, role).with_context(|| role.name())?;
            json_line(&run, args.json.as_deref())?;
            runs.push((role, run));
        }
    }
    print(args, &engines, &runs);
    Ok(())
}

fn one(args: &Args, broker: &Broker, role: Role) -> anyhow::Result<Run> {
    let arguments = |role: Role| {
        vec![
            format!("--broker=mqtt://{}:{}", broker.host, broker.port),
            format!("--rate={}", args.rate),
            format!("--seconds={}", args.seconds),
            format!("--devices={}", args.devices),
            format!("--driver={}", args.driver),
            format!("--cores={}", args.shards()),
            format!("--role={}", role.name()),
        ]
    };
    let engine = Engine::start(&arguments(role))?;
    let figures: Figures = process::measure(arguments(Role::Load))?;
    let cost = engine.finish()?;
    let cpu_us_per_message = cost.cpu_us / figures.sent.max(1) as f64;
    Ok(Run {
        engine: role.name(),
        mode: "mqtt",
        broker: broker.to_string(),
        rate: args.rate,
        devices: args.devices,
        driver: args.driver.to_string(),
        cores: args.shards(),
        events: figures.sent,
        secs: cost.secs,
        events_per_s: (figures.sent as f64 / cost.secs).round(),
        cpu_ns_per_event: (cpu_us_per_message * 1_000.0).round(),
        cpu_us_per_message: rounded(cpu_us_per_message, 3),
        peak_rss_mib: cost.peak_rss_mib,
        figures,
    })
}

fn print(args: &Args, engines: &[Role], runs: &[(Role, Run)]) {
    let of = |role: Role, what: fn(&Run) -> f64| {
        median(runs.iter().filter(move |(of, _)| *of == role).map(|(_, run)| what(run)))
    };
    println!("{} msg/s of {} devices, medians of {} runs:", args.rate, args.devices, args.rounds);
    let headings = ["engine", "CPU us/msg", "p50 ms", "p99 ms", "peak RSS MiB", "lost"];
    let mut table = Table::new(headings);
    for &role in engines {
        table.row([
            role.name().to_owned(),
            format!("{:.2}", of(role, |run| run.cpu_us_per_message)),
            format!("{:.2}", of(role, |run| run.figures.p50_ms)),
            format!("{:.2}", of(role, |run| run.figures.p99_ms)),
            format!("{:.1}", of(role, |run| run.peak_rss_mib)),
            format!("{:.0}", of(role, |run| run.figures.lost as f64)),
        ]);
    }
    print!("{table}");
    if args.peer == "none" {
        return;
    }
    let ratio =
        |what: fn(&Run) -> f64| rounded(of(Role::Thalweg, what) / of(Role::HandLoop, what), 3);
    println!(
        "thalweg over handloop, of the medians: CPU {:.3}, p50 {:.3}, p99 {:.3}",
        ratio(|run| run.cpu_us_per_message),
        ratio(|run| run.figures.p50_ms),
        ratio(|run| run.figures.p99_ms)
    );
}
