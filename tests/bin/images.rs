//! Crash images: strace records every write, sync, reservation and rename of a journal and of a store. The program
//! rebuilds what a disk may hold after a crash at any moment, and recovers each image with the real code.
//!
//! | module | what it does |
//! |---|---|
//! | `trace` | reads what strace wrote |
//! | `disk` | what may be left of it: prefixes, unsynced changes dropped, sectors torn, names missing |
//! | `workload` | what is traced, and how an image is recovered and checked |
//!
//! Four things are checked of each image. Recovery succeeds. Everything that was reported as durable before the
//! crash is there. Nothing is there in part, or that was not begun. After recovery it goes on.

#[path = "../images/disk.rs"]
mod disk;
#[path = "../images/trace.rs"]
mod trace;
#[path = "../images/workload.rs"]
mod workload;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tempfile::TempDir;
use thalweg_testing::Random;

use crate::disk::{Disk, FATES, Fate};
use crate::trace::{CALLS, Event, Op};
use crate::workload::{Promises, Workload};

/// Failures that are printed and kept; the others are counted.
const SHOWN_MAX: usize = 10;
/// The exit code where strace cannot be used.
const SKIPPED: u8 = 77;

/// Rebuilds the images that a crash may leave of a journal and of a store, and recovers each.
///
/// Runs both once below strace, then rebuilds images at and between all syncs. Unsynced writes are missing, torn
/// at sectors of 512 bytes, or there. Renames and new files are there or not. Each is recovered with the real code
/// and compared with what had been reported as durable. Prints `images N failures 0` and exits with 0; otherwise
/// keeps the images that failed and exits with 1. Exits with 77 where strace cannot be used.
#[derive(Parser)]
#[command(
    name = "images",
    after_help = "Examples:
  images                                   about 2,000 images of each workload
  images --images 20000 --seed 7
  images --workload journal --steps 300"
)]
struct Options {
    /// Only this one.
    #[arg(long, value_enum)]
    workload: Option<Workload>,
    /// Images of each workload; a tenth of that of the job, whose recovery takes longer.
    #[arg(long, default_value_t = 2_000)]
    images: u64,
    /// Groups or epochs that a workload writes.
    #[arg(long, default_value_t = 60)]
    steps: u64,
    /// Decides which moments are looked at, and what is missing then.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where images are rebuilt; by default in memory, if there is /dev/shm.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// As on a disk that syncs nothing: images must then fail.
    #[arg(long)]
    without_syncs: bool,
    /// For the program itself: do the work, in this directory.
    #[arg(long, hide = true)]
    work: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("images: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(dir) = &options.work {
        let workload = options.workload.context("--work needs --workload")?;
        workload.run(dir, options.steps)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(why) = strace_works() {
        eprintln!(
            "skipped: needs strace, and the right to trace (apt-get install strace): {why:#}"
        );
        return Ok(ExitCode::from(SKIPPED));
    }
    let mut totals = Totals::default();
    let workloads = options.workload.map_or(Workload::ALL.to_vec(), |only| vec![only]);
    for workload in workloads {
        let begun = Instant::now();
        let before = totals;
        recover_all(options, workload, &mut totals)?;
        println!(
            "{}: images {} failures {} in {:.1} s",
            workload.name(),
            totals.images - before.images,
            totals.failures - before.failures,
            begun.elapsed().as_secs_f64()
        );
    }
    println!("images {} failures {}", totals.images, totals.failures);
    Ok(if totals.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Clone, Copy, Default)]
struct Totals {
    images: u64,
    failures: usize,
}

fn strace_works() -> Result<()> {
    let run = Command::new("strace").args(["-e", "trace=none", "true"]).output();
    match run {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("it is not installed"),
        Err(error) => Err(error.into()),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("{}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// Runs a workload below strace in `dir`; its trace.
fn record(options: &Options, workload: Workload, dir: &Path, log: &Path) -> Result<Vec<Event>> {
    let output = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "16777216", "-e", CALLS, "-o"])
        .arg(log)
        .arg(std::env::current_exe()?)
        .args(["--workload", workload.name(), "--steps", &options.steps.to_string(), "--work"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .context("cannot run strace")?;
    if !output.status.success() {
        bail!("the workload failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(log).context("cannot read the trace")?;
    trace::parse(&text, dir)
}

fn recover_all(options: &Options, workload: Workload, totals: &mut Totals) -> Result<()> {
    let recorded = TempDir::with_prefix("thalweg-images-")?;
    // As the kernel spells it.
    let recorded_path = recorded.path().canonicalize()?;
    let dir = recorded_path.join("work");
    fs::create_dir(&dir)?;
    let events = record(options, workload, &dir, &recorded_path.join("trace"))?;
    let disk = Disk::new(&events, !options.without_syncs);
    let count = |is: fn(&Op) -> bool| events.iter().filter(|event| is(&event.op)).count();
    println!(
        "{}: writes {}, syncs {}, names changed {}, promises {}",
        workload.name(),
        count(|op| matches!(op, Op::Write { .. } | Op::Truncate(..) | Op::Allocate { .. })),
        count(|op| matches!(op, Op::Sync(_) | Op::SyncDir(_))),
        count(|op| matches!(op, Op::Create(..) | Op::Mkdir(_) | Op::Rename(..) | Op::Unlink(_))),
        count(|op| matches!(op, Op::Said(_))),
    );
    let mut chance = Random::of(options.seed, 0);
    let images = match workload {
        Workload::Job => options.images / 10,
        Workload::Journal | Workload::Store => options.images,
    };
    let moments = moments(&events, images, &mut chance);
    let scratch = match &options.scratch {
        Some(scratch) => TempDir::with_prefix_in("thalweg-images-", scratch)?,
        None if Path::new("/dev/shm").is_dir() => {
            TempDir::with_prefix_in("thalweg-images-", "/dev/shm")?
        }
        None => TempDir::with_prefix("thalweg-images-")?,
    };
    let mut keeps = false;
    for (cut, fate) in moments {
        let mut promises = Promises::default();
        for event in events.iter().filter(|event| event.begun < cut) {
            if let Op::Said(said) = &event.op {
                promises.hear(said)?;
            }
        }
        let image = disk.image(cut, fate, &mut chance);
        let place = scratch.path().join(totals.images.to_string());
        fs::create_dir(&place)?;
        image.write(&dir, &place)?;
        totals.images += 1;
        let checked = workload.check(&place, options.steps, &promises);
        if let Err(error) = checked {
            totals.failures += 1;
            if totals.failures <= SHOWN_MAX {
                // Once more, as it was before recovery touched it.
                keeps = true;
                let kept = scratch.path().join(format!("failed-{}", totals.failures));
                fs::create_dir(&kept)?;
                image.write(&dir, &kept)?;
                let pending = image.pending;
                println!(
                    "  FAILED: line {cut} of the trace, {pending} changes not durable, {fate:?}; {promises:?}: \
                     {error:#}\n  the image: {}",
                    kept.display()
                );
            }
        }
        fs::remove_dir_all(&place)?;
    }
    if keeps {
        println!("  kept: {} and {}", scratch.keep().display(), recorded.keep().display());
    }
    Ok(())
}

/// The moments that are looked at: in front of and behind every sync and every promise, and others by chance. Each
/// is tried with some of the fates.
fn moments(events: &[Event], images: u64, chance: &mut Random) -> Vec<(usize, Fate)> {
    let mut cuts: Vec<usize> = Vec::new();
    let mut last = 0;
    for event in events {
        let ended = if event.ended == usize::MAX { event.begun } else { event.ended };
        last = last.max(ended);
        if matches!(event.op, Op::Sync(_) | Op::SyncDir(_) | Op::Said(_)) {
            // Before it began, while it was under way, after it had ended.
            cuts.extend([event.begun, event.begun + 1, ended + 1]);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut moments: Vec<_> = cuts.iter().map(|&cut| (cut, chance.one_of(FATES))).collect();
    // Too many: a sample.
    while moments.len() as u64 > images {
        let at = chance.below(moments.len());
        moments.swap_remove(at);
    }
    while (moments.len() as u64) < images {
        // Half of them by chance alone.
        let fate = if chance.one_in(2) { Fate::Mixed } else { chance.one_of(FATES) };
        moments.push((chance.below(last as u64 + 2) as usize, fate));
    }
    moments
}
