//! Proves the proofs: puts one defect after the other into the engine, and says which proof catches it.
//!
//! | module | what it does |
//! |---|---|
//! | `binaries` | builds the proofs with the switch for defects |
//! | `proof` | the proofs: simulated seeds, crash images, tests of the crates, kills of the real process |
//! | `process` | runs one of them as long as it takes to know |
//!
//! The defects sit in the engine's own code (see `engine/kernel/src/defects.rs`); each proof that runs the code in
//! question is tried, the cheapest kind first. A defect that survives is a hole in the proofs.

#[path = "../mutants/binaries.rs"]
mod binaries;
#[path = "../mutants/process.rs"]
mod process;
#[path = "../mutants/proof.rs"]
mod proof;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use tempfile::TempDir;
use thalweg_kernel::defects::Defect;

use crate::proof::{Outcome, Proof};

/// Puts defects into the engine, one after the other, and says which proof catches each.
///
/// First builds the proofs with the switch for defects, in a directory of its own. Then makes sure that each
/// passes while no defect is on. Exits with 1 if a defect survives.
#[derive(Parser)]
#[command(
    name = "mutants",
    after_help = "Examples:
  mutants                                  all defects
  mutants --only JournalNoSync
  mutants --only MqttAcksEarly --all       every proof that catches it
  mutants --list"
)]
struct Options {
    /// Only these defects.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = defect)]
    only: Vec<Defect>,
    /// Says what there is, and ends.
    #[arg(long)]
    list: bool,
    /// Goes on when a defect is caught: says all proofs that catch it.
    #[arg(long)]
    all: bool,
    /// The number of proofs at one time; one per core by default.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Where proofs have their files; by default in memory, if there is /dev/shm.
    #[arg(long)]
    scratch: Option<PathBuf>,
}

fn defect(text: &str) -> Result<Defect, String> {
    let found = Defect::ALL.iter().copied().find(|defect| defect.name() == text);
    found.ok_or_else(|| format!("{text} is no defect; see --list"))
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for defect in Defect::ALL {
            println!("{:<24} {}", defect.name(), defect.what());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |defect: &Defect| options.only.is_empty() || options.only.contains(defect);
    let defects: Vec<_> = Defect::ALL.iter().copied().filter(wanted).collect();
    let begun = Instant::now();
    let mut proofs = proof::all(&binaries::build()?);
    println!("built in {:.0} s", begun.elapsed().as_secs_f64());
    proofs.retain(|proof| defects.iter().any(|&defect| proof.reaches(defect)));
    let scratch = match &options.scratch {
        Some(scratch) => TempDir::with_prefix_in("thalweg-mutants-", scratch)?,
        None if Path::new("/dev/shm").is_dir() => {
            TempDir::with_prefix_in("thalweg-mutants-", "/dev/shm")?
        }
        None => TempDir::with_prefix("thalweg-mutants-")?,
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(cores).max(1);
    let proofs = passing(proofs, jobs, scratch.path())?;
    println!(
        "{} proofs pass without a defect, after {:.0} s\n",
        proofs.len(),
        begun.elapsed().as_secs_f64()
    );
    let caught = on_threads(jobs, &defects, |&defect| {
        let caught = catch(defect, &proofs, scratch.path(), options.all);
        if let Ok(caught) = &caught {
            tell(defect, caught);
        }
        caught
    });
    let caught: Vec<_> = caught.into_iter().collect::<Result<_>>()?;
    let survived = caught.iter().filter(|caught| caught.by.is_empty()).count();
    println!(
        "\ndefects {} caught {} survived {survived} ({:.0} s)",
        defects.len(),
        defects.len() - survived,
        begun.elapsed().as_secs_f64()
    );
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The proofs, if all pass while no defect is on. Those that never vary come first, then those that take the least
/// time.
fn passing(proofs: Vec<Proof>, jobs: usize, scratch: &Path) -> Result<Vec<Proof>> {
    let calibrated = on_threads(jobs, &proofs, |proof| {
        let mut proof = proof.clone();
        proof.calibrate(scratch).map(|outcome| (proof, outcome))
    });
    let mut passing = Vec::new();
    for calibrated in calibrated {
        match calibrated? {
            (proof, Outcome::Passed) => passing.push(proof),
            (proof, Outcome::Skipped) => println!("skipped: {}", proof.name),
            (proof, Outcome::Failed(what)) => {
                bail!("{} fails while no defect is on, so it proves nothing: {what}", proof.name);
            }
        }
    }
    passing.sort_by_key(|proof| (proof.kind, proof.takes));
    Ok(passing)
}

/// What has become of a defect.
struct Caught {
    /// The proofs that have failed, and what failed in them.
    by: Vec<(String, String)>,
    after: Duration,
}

fn catch(defect: Defect, proofs: &[Proof], scratch: &Path, all: bool) -> Result<Caught> {
    let begun = Instant::now();
    let mut by = Vec::new();
    for proof in proofs.iter().filter(|proof| proof.reaches(defect)) {
        if let Outcome::Failed(what) = proof.run(Some(defect), scratch)? {
            by.push((proof.name.clone(), what));
            if !all {
                break;
            }
        }
    }
    Ok(Caught { by, after: begun.elapsed() })
}

fn tell(defect: Defect, caught: &Caught) {
    const SHOWN_MAX: usize = 110;
    let mut text =
        format!("{:<24} {:5.1} s  {}\n", defect.name(), caught.after.as_secs_f64(), defect.what());
    for (proof, what) in &caught.by {
        let line = format!("{proof}: {what}");
        let line: String = line.chars().take(SHOWN_MAX).collect();
        text += &format!("{:<24}          caught by {line}\n", "");
    }
    if caught.by.is_empty() {
        text += &format!("{:<24}          SURVIVED\n", "");
    }
    print!("{text}");
}

/// What `each` makes of these, on `threads` threads; in their order.
fn on_threads<T: Sync, U: Send>(threads: usize, of: &[T], each: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = of.get(at) else { return };
                    let one = each(one);
                    made.lock().unwrap_or_else(PoisonError::into_inner).push((at, one));
                }
            });
        }
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, one)| one).collect()
}
