//! What an event costs from a file of JSON lines: a Thalweg job beside a loop written by hand.
//! What is measured and how: `thalweg_benches::sensors`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{bail, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};
use thalweg::runtime::{DriverKind, RuntimeConfig};
use thalweg_benches::process;
use thalweg_benches::report::{Meter, Table, json_line, median, peak_rss_mib, rounded};
use thalweg_benches::sensors::rows::Rows;
use thalweg_benches::sensors::{data, hand, job};

/// CPU time of an event from a file of JSON lines, beside a loop written by hand
#[derive(Parser)]
#[command(after_help = "Every run prints a line of JSON when it ends.")]
struct Args {
    /// Lines of input
    #[arg(long, default_value_t = 5_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    lines: u64,

    /// Cores, and files that the lines are dealt out to: 1 or 2
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=2))]
    cores: u64,

    /// What to compare with: handloop, or none
    #[arg(long, default_value = "handloop", value_name = "PEER", value_parser = ["handloop", "none"])]
    peer: String,

    /// Runs of each engine, one after the other in turn
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Where the input is kept and used again; a temporary directory by default
    #[arg(long, value_name = "DIR")]
    file: Option<PathBuf>,

    /// auto, glommio or threads
    #[arg(long, default_value = "auto", value_name = "DRIVER")]
    driver: DriverKind,

    /// Append the JSON lines to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// The engine of a measured process
    #[arg(long, hide = true, value_name = "ENGINE")]
    engine: Option<Engine>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Thalweg,
    HandLoop,
}

impl Engine {
    const fn name(self) -> &'static str {
        match self {
            Self::Thalweg => "thalweg",
            Self::HandLoop => "handloop",
        }
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Thalweg, Self::HandLoop].into_iter().find(|e| e.name() == text);
        known.ok_or_else(|| format!("{text:?} is not allowed; allowed: thalweg, handloop"))
    }
}

/// What the measured process says.
#[derive(Serialize, Deserialize)]
struct Measured {
    secs: f64,
    events_per_s: f64,
    cpu_ns_per_event: f64,
    peak_rss_mib: f64,
}

/// One run.
#[derive(Serialize)]
struct Run {
    engine: &'static str,
    mode: &'static str,
    cores: u64,
    events: u64,
    #[serde(flatten)]
    measured: Measured,
    results: u64,
    total: u64,
    checksum: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let temporary = tempfile::tempdir()?;
    let dir = args.file.as_deref().unwrap_or(temporary.path());
    match args.engine {
        Some(engine) => run(&args, engine, dir),
        None => compare(&args, dir),
    }
}

fn output(dir: &Path, engine: Engine) -> PathBuf {
    dir.join(format!("rows-{}-{}.jsonl", engine.name(), std::process::id()))
}

/// The measured process: its parent made the input, and reads the output that is named last.
fn run(args: &Args, engine: Engine, dir: &Path) -> anyhow::Result<()> {
    let inputs = data::files(dir, args.lines, args.cores)?;
    let output = output(dir, engine);
    if args.cores == 1
        && let Some(core) = core_affinity::get_core_ids().unwrap_or_default().pop()
    {
        // Before any thread is started: each inherits it.
        ensure!(core_affinity::set_for_current(core), "cannot confine the process to one core");
    }
    let meter = Meter::start();
    let late = match engine {
        Engine::Thalweg => {
            let config = RuntimeConfig {
                shards: args.cores as usize,
                driver: args.driver,
                ..RuntimeConfig::default()
            };
            let end = job::job(&inputs, &output).run_with(&config)?;
            ensure!(end.dead_letters().is_empty(), "dead letters: {:?}", end.dead_letters());
            end.total("numLateRecordsDropped")
        }
        Engine::HandLoop => hand::run(&inputs, &output)?,
    };
    let spent = meter.stop();
    ensure!(late == 0, "{late} readings were late");
    let measured = Measured {
        secs: spent.secs(),
        events_per_s: spent.events_per_s(args.lines),
        cpu_ns_per_event: spent.cpu_ns_per_event(args.lines),
        peak_rss_mib: peak_rss_mib()?,
    };
    println!("{}", serde_json::to_string(&(measured, output))?);
    Ok(())
}

/// Runs the engines in turn, and compares what they cost and what they wrote.
fn compare(args: &Args, dir: &Path) -> anyhow::Result<()> {
    data::files(dir, args.lines, args.cores)?;
    let mut engines = vec![Engine::Thalweg];
    if args.peer == "handloop" {
        engines.push(Engine::HandLoop);
    }
    let mut runs: Vec<(Engine, Run)> = Vec::new();
    let mut expected: Option<Rows> = None;
    for round in 0..args.rounds {
        // Whoever comes first in a round is second in the next.
        engines.rotate_left((round as usize).min(1));
        for &engine in &engines {
            let (measured, output): (Measured, PathBuf) = process::measure([
                format!("--lines={}", args.lines),
                format!("--cores={}", args.cores),
                format!("--driver={}", args.driver),
                format!("--file={}", dir.display()),
                format!("--engine={}", engine.name()),
            ])?;
            let rows = Rows::read(&output)?;
            std::fs::remove_file(&output)?;
            let run = Run {
                engine: engine.name(),
                mode: "sensors",
                cores: args.cores,
                events: args.lines,
                measured,
                results: rows.results(),
                total: rows.total(),
                checksum: format!("{:016x}", rows.checksum()),
            };
            json_line(&run, args.json.as_deref())?;
            if run.total != args.lines {
                bail!("{}: {} of {} lines are in the rows", run.engine, run.total, args.lines);
            }
            let same = expected.get_or_insert_with(|| rows.clone()) == &rows;
            ensure!(same, "{} wrote other rows than the run before", run.engine);
            runs.push((engine, run));
        }
    }
    print(args, &engines, &runs);
    Ok(())
}

fn print(args: &Args, engines: &[Engine], runs: &[(Engine, Run)]) {
    let of = |engine: Engine, what: fn(&Measured) -> f64| {
        let of_engine = runs.iter().filter(move |(of, _)| *of == engine);
        median(of_engine.map(|(_, run)| what(&run.measured)))
    };
    println!("{} lines, {} core(s), medians of {} runs:", args.lines, args.cores, args.rounds);
    let mut table = Table::new(["engine", "CPU ns/event", "M events/s", "peak RSS MiB"]);
    for &engine in engines {
        table.row([
            engine.name().to_owned(),
            format!("{:.1}", of(engine, |m| m.cpu_ns_per_event)),
            format!("{:.2}", of(engine, |m| m.events_per_s) / 1e6),
            format!("{:.1}", of(engine, |m| m.peak_rss_mib)),
        ]);
    }
    print!("{table}");
    if args.peer == "none" {
        return;
    }
    // Of the runs of one round, which had equal noise.
    let ratio = |what: fn(&Measured) -> f64| {
        let per_round = runs.chunks(2).map(|pair| {
            let thalweg = pair.iter().find(|(engine, _)| *engine == Engine::Thalweg);
            let peer = pair.iter().find(|(engine, _)| *engine == Engine::HandLoop);
            match (thalweg, peer) {
                (Some((_, ours)), Some((_, theirs))) => {
                    what(&ours.measured) / what(&theirs.measured)
                }
                _ => f64::NAN,
            }
        });
        rounded(median(per_round), 3)
    };
    println!(
        "thalweg over handloop, medians of the rounds: CPU {:.3}, wall {:.3}",
        ratio(|m| m.cpu_ns_per_event),
        ratio(|m| m.secs)
    );
}
