//! The Yahoo Streaming Benchmark: Thalweg beside other engines. What is measured and how:
//! `thalweg_benches::yahoo`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use thalweg::runtime::DriverKind;
use thalweg_benches::broker::{Broker, Choice};
use thalweg_benches::report::json_line;
use thalweg_benches::yahoo::measure::Runs;
use thalweg_benches::yahoo::spec::{Engine, Mode, Spec};
use thalweg_benches::yahoo::sweep::{Bounds, events, sweep};
use thalweg_benches::yahoo::workload::WINDOW;
use thalweg_benches::yahoo::{mqtt, plot, rate};

const EXAMPLES: &str = "\
Examples:
  yahoo --cores 1 --events 100000000 --peer handloop,timely,renoir
  yahoo --mode json --peer handloop
  yahoo --rate 100000 --cores 2
  yahoo --sweep --plot latency.svg --json runs.jsonl
  yahoo --mode mqtt --rate 20000 --qos 1 --broker auto

Each engine runs in a process of its own. The last lines of the output are JSON, one for each
run. The exit code is 1 if an engine counts wrong or fails, and 2 if an option is wrong.";

/// The Yahoo Streaming Benchmark: ad views per campaign in windows, on Thalweg and on others
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// Where the events come from
    #[arg(long, value_enum, default_value = "memory")]
    mode: Mode,

    /// Shards, or threads of a peer; all cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    cores: Option<u16>,

    /// How many events; by default 20,000,000, in mode json 2,000,000 (which takes 350 MiB)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,

    /// How long to send events, instead of how many: 10 s by default, in a sweep 2 s
    #[arg(long, value_name = "S", conflicts_with = "events", value_parser = seconds)]
    seconds: Option<f64>,

    /// Events a second, each when it is due; in mode mqtt 20,000 by default, elsewhere as fast as it
    /// goes
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,

    /// The window; by default 10s, at a rate 1ms, in mode mqtt 1s
    #[arg(long, value_name = "TIME", value_parser = window)]
    window: Option<Duration>,

    /// How often thalweg takes a checkpoint; it then runs without them in turn, to compare
    #[arg(long, value_enum, default_value = "off", value_name = "INTERVAL")]
    checkpoint: Checkpoint,

    /// Another engine to run in turns with thalweg: several times, or separated by commas
    #[arg(long = "peer", value_enum, value_delimiter = ',', value_name = "ENGINE")]
    peers: Vec<Engine>,

    /// How often each engine runs; 3 times with peers, 5 times at a rate from memory, else once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Raise the rate (from --rate or 100,000) until thalweg does not keep up
    #[arg(long)]
    sweep: bool,

    /// The highest rate that a sweep tries
    #[arg(long, value_name = "R", default_value_t = 1_000_000_000, requires = "sweep")]
    rate_max: u64,

    /// A rate is not sustained if the source is further behind in the end than in the middle by this
    #[arg(long, value_name = "MS", default_value_t = 10.0, requires = "sweep")]
    behind_ms_max: f64,

    /// Append the JSON lines to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw latency over rate into this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// embedded, auto (a private mosquitto, or else the embedded broker), or mqtt://HOST[:PORT]
    #[arg(long, default_value = "embedded", value_name = "URL")]
    broker: Choice,

    /// Quality of service of publisher and source, in mode mqtt: 0 or 1
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: DriverKind,

    /// How long an idle shard spins before it sleeps, in microseconds
    #[arg(long, default_value_t = 50, value_name = "N")]
    spin_us: u64,

    /// How long to watch a bare spin loop before and after a run at a rate, for the machine's own noise. Half
    /// of the run by default
    #[arg(long, value_name = "S", value_parser = seconds)]
    noise_seconds: Option<f64>,

    /// This process is a measured one, and this is what it shall do
    #[arg(long, hide = true, value_name = "JSON")]
    measure: Option<String>,
}

/// Rounds at a rate. The noise of a machine changes from one second to the next, so a tail is judged by the median
/// of several differences. A round is long enough to meet what comes a few times a second.
const RATE_ROUNDS: u32 = 5;
/// Of a run at a rate.
const RATE_SECONDS: f64 = 10.0;
/// Of each rate of a sweep.
const SWEEP_SECONDS: f64 = 2.0;

#[derive(Clone, Copy, ValueEnum)]
enum Checkpoint {
    Off,
    #[value(name = "10ms")]
    TenMillis,
    #[value(name = "1s")]
    Second,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("allowed: a number over 0, up to 1000000".into()),
    }
}

fn window(text: &str) -> Result<Duration, String> {
    let window: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let whole = window.subsec_nanos().is_multiple_of(1_000_000);
    let allowed =
        whole && (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&window);
    allowed.then_some(window).ok_or_else(|| "allowed: whole milliseconds, 1ms to 1day".into())
}

/// What is wrong with options that are right by themselves.
fn conflict(args: &Args) -> Option<String> {
    let at_rate = args.rate.is_some() || args.sweep || args.mode == Mode::Mqtt;
    let unknown = args.peers.iter().find(|peer| match args.mode {
        _ if at_rate => true,
        Mode::Json => **peer != Engine::Handloop,
        _ => false,
    });
    if args.peers.contains(&Engine::Thalweg) {
        Some("--peer thalweg: it always runs; name others".into())
    } else if let Some(peer) = unknown {
        let name = peer.name();
        Some(format!(
            "--peer {name}: not there; at a rate and in mode mqtt thalweg runs alone, and mode json knows handloop"
        ))
    } else if args.sweep && args.mode != Mode::Memory {
        Some("--sweep: only in mode memory".into())
    } else if args.sweep && args.events.is_some() {
        Some("--sweep: give --seconds for each rate, not --events".into())
    } else if args.mode == Mode::Json && args.rate.is_some() {
        Some("--rate: only in modes memory and mqtt".into())
    } else if args.seconds.is_some() && !at_rate {
        Some("--seconds: only with --rate or --sweep, or in mode mqtt; give --events".into())
    } else if args.plot.is_some() && !at_rate {
        Some("--plot: only with --rate or --sweep, or in mode mqtt".into())
    } else {
        None
    }
}

fn spec(args: &Args, broker: Option<&Broker>) -> Spec {
    let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let rate = match args.mode {
        Mode::Mqtt => Some(args.rate.unwrap_or(20_000)),
        _ => args.rate,
    };
    let window = args.window.unwrap_or(match (args.mode, rate) {
        (Mode::Mqtt, _) => Duration::from_millis(mqtt::WINDOW_MS.unsigned_abs()),
        (_, None) if !args.sweep => WINDOW,
        _ => Duration::from_millis(rate::WINDOW_MS.unsigned_abs()),
    });
    let by_default = match (args.mode, rate) {
        (_, Some(rate)) => events(rate, args.seconds.unwrap_or(RATE_SECONDS)),
        (Mode::Json, None) => 2_000_000,
        _ => 20_000_000,
    };
    let events = args.events.unwrap_or(by_default);
    let seconds = match (args.sweep, rate) {
        (false, Some(rate)) => events as f64 / rate as f64,
        _ => args.seconds.unwrap_or(SWEEP_SECONDS),
    };
    Spec {
        engine: Engine::Thalweg,
        mode: args.mode,
        cores: args.cores.map_or_else(all_cores, usize::from),
        events,
        window_ms: window.as_millis() as i64,
        rate,
        driver: args.driver.to_string(),
        spin_us: args.spin_us,
        noise_ms: (args.noise_seconds.unwrap_or(seconds / 2.0) * 1e3) as u64,
        broker: broker.map(|broker| (broker.host.clone(), broker.port)),
        qos: args.qos,
        checkpoint_ms: match args.checkpoint {
            Checkpoint::Off => None,
            Checkpoint::TenMillis => Some(10),
            Checkpoint::Second => Some(1_000),
        },
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(spec) = &args.measure {
        let spec: Spec = serde_json::from_str(spec)?;
        return json_line(&spec.run()?, None);
    }
    let broker = match args.mode {
        Mode::Mqtt => Some(Broker::start(&args.broker)?),
        _ => None,
    };
    let spec = spec(args, broker.as_ref());
    let mut runs = Runs::new(broker);
    let measured =
        if args.sweep { sweep_up(args, &spec, &mut runs) } else { turns(args, &spec, &mut runs) };

    // What was measured is told also if something failed in the end.
    if !runs.lines.is_empty() {
        print!("{}", runs.table());
    }
    if let Some(latencies) = runs.latencies() {
        print!("\n{latencies}");
    }
    let plotted = match &args.plot {
        Some(file) if !runs.lines.is_empty() => plot::latency_over_rate(&runs.lines, file),
        _ => Ok(()),
    };
    let told = measured.as_deref().unwrap_or_default();
    told.iter().for_each(|said| println!("{said}"));
    for line in &runs.lines {
        json_line(line, args.json.as_deref())?;
    }
    measured.map(drop).and(plotted)
}

fn turns(args: &Args, spec: &Spec, runs: &mut Runs) -> anyhow::Result<Vec<String>> {
    let mut engines = vec![Engine::Thalweg];
    for &peer in &args.peers {
        if !engines.contains(&peer) {
            engines.push(peer);
        }
    }
    let alone = engines.len() == 1 && spec.checkpoint_ms.is_none();
    let by_default = match spec.mode {
        Mode::Memory if spec.rate.is_some() => RATE_ROUNDS,
        _ if alone => 1,
        _ => 3,
    };
    runs.rounds(spec, &engines, args.rounds.unwrap_or(by_default))?;
    let tail = runs.tail().filter(|_| spec.mode == Mode::Memory && alone);
    Ok(runs.ratios(&engines[1..]).into_iter().chain(tail).collect())
}

fn sweep_up(args: &Args, spec: &Spec, runs: &mut Runs) -> anyhow::Result<Vec<String>> {
    let bounds = Bounds {
        from: args.rate.unwrap_or(100_000),
        to: args.rate_max,
        seconds: args.seconds.unwrap_or(SWEEP_SECONDS),
        behind_ms_max: args.behind_ms_max,
    };
    Ok(vec![match sweep(runs, spec, &bounds)? {
        Some(rate) => format!("the highest sustained rate: {rate} events a second"),
        None => format!("not even {} events a second were sustained", bounds.from),
    }])
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(conflict) = conflict(&args) {
        Args::command().error(ErrorKind::ArgumentConflict, conflict).exit();
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yahoo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
