//! Whole jobs on a simulated machine, with everything that can go wrong: see `thalweg_tests::simulate`.

use std::ops::Range;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use thalweg_tests::simulate::{Chosen, Defect, Fault, Options, Report, shrink, simulate};

/// Runs whole jobs on a simulated machine: crashes at every step, power cuts, torn and lost writes, full disks,
/// and failing syncs. Brokers restart, clocks jump, and sinks are slow. Everything is decided by the seed.
#[derive(Parser, Debug)]
#[command(name = "simulate", after_help = after_help())]
struct Arguments {
    /// Seeds to run: from (included) to (excluded).
    #[arg(long, value_name = "A..B", default_value = "0..2000", conflicts_with = "seed")]
    seeds: Seeds,
    /// One seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The number of messages; by default the seed says it (50 to 399).
    #[arg(long, value_name = "M")]
    messages: Option<usize>,
    /// The faults that happen: all, none, kinds, or places in a seed's list (as a failure prints them).
    #[arg(long, value_name = "A,B,..", default_value = "all")]
    faults: Chosen,
    /// Kinds of faults that do not happen.
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Threads; all cores by default.
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    /// Tells what happens, move by move.
    #[arg(long)]
    trace: bool,
    /// Stops after this many failing seeds.
    #[arg(long, value_name = "F", default_value_t = 3)]
    failures_max: usize,
    /// A deliberate defect, to see that it is seen.
    #[arg(long, hide = true)]
    defect: Option<Defect>,
}

fn after_help() -> String {
    let mut text = String::from(
        "Examples:\n  simulate --seeds 0..2000\n  simulate --seeds 0..100000          (the long run)\n  \
         simulate --seed 17 --faults crash,power --messages 40 --trace\n  simulate --seeds 0..500 --without \
         sync\n\nKinds of faults:\n",
    );
    for fault in Fault::ALL {
        text += &format!("  {:<13} {}\n", fault.name(), fault.what());
    }
    text + "\nExit code 1 if anything was violated."
}

fn fault(text: &str) -> Result<Fault, String> {
    let found = Fault::ALL.iter().find(|fault| fault.name() == text).copied();
    found.ok_or_else(|| format!("{text} is no kind of fault; see --help"))
}

#[derive(Clone, Debug)]
struct Seeds(Range<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once("..").and_then(|(from, to)| {
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (from < to).then_some(Self(from..to))
        });
        range.ok_or_else(|| format!("{text} is no range of seeds; write 0..2000"))
    }
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    fewest: Option<u64>,
    sum: Report,
    failed: Vec<Report>,
}

impl Totals {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.fewest = Some(self.fewest.map_or(report.faults, |fewest| fewest.min(report.faults)));
        self.sum.faults += report.faults;
        self.sum.lives += report.lives;
        self.sum.epochs += report.epochs;
        self.sum.messages += report.messages;
        self.sum.rows += report.rows;
        self.sum.moves += report.moves;
        if !report.violations.is_empty() {
            self.failed.push(report);
        }
    }

    fn line(&self) -> String {
        let Report { faults, lives, epochs, messages, rows, moves, .. } = &self.sum;
        format!(
            "seeds {} faults {faults} crashes {lives} epochs {epochs} messages {messages} rows {rows} moves \
             {moves} violations {}",
            self.seeds,
            self.failed.len()
        )
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        messages: arguments.messages,
        faults: arguments.faults.clone(),
        without: arguments.without.clone(),
        defect: arguments.defect,
        trace: arguments.trace,
    };
    let seeds = arguments.seed.map_or(arguments.seeds.0.clone(), |seed| seed..seed + 1);
    // A panic is a violation of its seed, and is told with it.
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    let totals = run(seeds, &options, &arguments);
    for report in &totals.failed {
        tell(report, &options);
    }
    println!("{} ({:.1} s)", totals.line(), begun.elapsed().as_secs_f64());
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the seeds on all threads, each seed on one.
fn run(seeds: Range<u64>, options: &Options, arguments: &Arguments) -> Totals {
    const TELL_EVERY: u64 = 1_000;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let (next, enough) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = simulate(seed, options);
                    let mut totals = totals.lock().unwrap_or_else(|error| error.into_inner());
                    totals.add(report);
                    if totals.failed.len() >= arguments.failures_max {
                        enough.store(true, Ordering::Relaxed);
                    }
                    if totals.seeds % TELL_EVERY == 0 {
                        eprintln!("{}", totals.line());
                    }
                }
            });
        }
    });
    totals.into_inner().unwrap_or_else(|error| error.into_inner())
}

/// Tells a failure, and the smallest one like it.
fn tell(report: &Report, options: &Options) {
    println!("seed {} after fault {}:", report.seed, report.last_fault);
    report.violations.iter().for_each(|violation| println!("  {violation}"));
    let shrunk = shrink(report, options);
    println!("  the smallest like it, after fault {}:", shrunk.report.last_fault);
    shrunk.report.violations.iter().for_each(|violation| println!("    {violation}"));
    println!("    {}", shrunk.command());
}
