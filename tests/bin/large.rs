//! State larger than memory: a job in a memory cgroup keeps values of a multiple of what the group may have. Every
//! value is held against the truth.
//!
//! ```text
//!  keys ──> the job, in the cgroup ──> what it has seen, rolling files ──> compared, key by key
//!           values: N times the limit
//! ```
//!
//! There are four phases. Every key is written. Keys are read and changed at random, most of them from the store.
//! A few keys are changed again and again. Every key is read and changed once more. In the middle of the second
//! phase the job is suspended, and goes on in a new process: restoring must fit, too.
//!
//! The job's own bounds are set from the limit, as an operator would. An eighth is for hot state, a sixteenth for
//! what has changed and is not in the store yet. The rest is for copies on their way to the store and for the page
//! cache. The keys come as fast as they are taken: at the second bound the source waits.
//!
//! Measured with 512 MiB of values in 128 MiB, on two cores. The busy disk did some 8,000 reads of a page a
//! second. It did 3,600 keys a second when every key was new, and 2,900 when every key was read and changed. 77
//! MiB were in no file. The disk decides that. In the store numbers lie in the order of their lowest byte, so
//! each of these keys is on a page of its own.
//!
//! With `--windows` the values are the contents of open windows: one for each key, which every phase adds to. All windows
//! fire at the end, and are held against the truth then. With 512 MiB of windows in 128 MiB a run took 450 s, on two cores
//! that others kept busy. 89 MiB were in no file.
//!
//! | module | what it does |
//! |---|---|
//! | `cgroup` | limits and measures memory |
//! | `plan`, `keys` | the keys, the phases and the values; the source of the job |
//! | `job` | the job, and its process |

#[path = "../large/cgroup.rs"]
mod cgroup;
#[path = "../large/job.rs"]
mod job;
#[path = "../large/keys.rs"]
mod keys;
#[path = "../large/plan.rs"]
mod plan;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Group;
use crate::job::{Life, Seen};
use crate::keys::Keys;
use crate::plan::{PHASES, Phase, Plan, VALUE_BYTES};

/// The exit code where there is no memory cgroup for us.
const SKIPPED: u8 = 77;
/// How often the job's memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The bytes, about, of what the job says of a step.
const LINE_BYTES: u64 = 62;
const MIB: u64 = 1 << 20;

/// Runs a job whose state is larger than its memory, and checks every value.
///
/// Needs root, and a memory cgroup (version 1 or 2). The page cache of the state counts as the group's memory, and
/// is given back when there is need. The rest must fit beside it, or the kernel kills the job.
///
/// Prints `wrong 0 missing 0` and exits with 0; otherwise says what is wrong and exits with 1. Exits with 77 where
/// there is no memory cgroup for us.
#[derive(Parser)]
#[command(
    name = "large",
    after_help = "Examples:
  large                                128 MiB of memory, 512 MiB of values
  large --limit-mib 256 --times 8      2 GiB of values in 256 MiB
  large --windows                      512 MiB of open windows in 128 MiB"
)]
struct Options {
    /// What the job's group may have of memory, in MiB.
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..))]
    limit_mib: u64,
    /// The values take this multiple of that.
    #[arg(long, default_value_t = 4.0, value_name = "N")]
    times: f64,
    /// What hot state may have of it, in MiB: an eighth of the limit by default.
    #[arg(long, value_name = "MIB")]
    hot_mib: Option<u64>,
    /// What has changed may have of it on its way to the store, in MiB: a sixteenth of the limit by default.
    #[arg(long, value_name = "MIB")]
    pending_mib: Option<u64>,
    /// Keys that are read and changed at random.
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    cold: u64,
    /// Changes of a thousand hot keys.
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    hot: u64,
    /// Keys a second at most, but for the hot ones.
    #[arg(long, default_value_t = 1_000_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// The job's shards.
    #[arg(long, default_value_t = 2, value_name = "N")]
    shards: usize,
    /// Milliseconds between two checkpoints.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    checkpoint_ms: u64,
    /// Keep the values in windows that are open to the end.
    #[arg(long)]
    windows: bool,
    /// Decides which keys are read and changed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For the program itself: be the job, in this directory.
    #[arg(long, hide = true)]
    life: Option<PathBuf>,
    #[arg(long, hide = true)]
    cgroup: Option<PathBuf>,
}

impl Options {
    fn plan(&self) -> Plan {
        let bytes = (self.limit_mib * MIB) as f64 * self.times;
        let keys = (bytes / VALUE_BYTES as f64).max(1.0) as u64;
        Plan { keys, cold: self.cold, hot: self.hot, seed: self.seed }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match (&options.life, &options.cgroup) {
        (Some(dir), Some(cgroup)) => be_the_job(&options, dir, cgroup).map(|()| ExitCode::SUCCESS),
        _ => match Group::new(options.limit_mib * MIB) {
            Ok(group) => prove(&options, &group),
            Err(why) => {
                eprintln!("skipped: needs root and a memory cgroup: {why}");
                return ExitCode::from(SKIPPED);
            }
        },
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("large: {error:#}");
        ExitCode::FAILURE
    })
}

fn be_the_job(options: &Options, dir: &Path, cgroup: &Path) -> Result<()> {
    cgroup::join(cgroup).context("cannot join the cgroup")?;
    // The rest is for what is on its way to the store, and the page cache.
    let hot = options.hot_mib.unwrap_or(options.limit_mib / 8);
    let pending = options.pending_mib.unwrap_or(options.limit_mib / 16);
    let share = hot * MIB / options.shards.max(1) as u64;
    job::live(&Life {
        dir: dir.to_owned(),
        keys: Keys { plan: options.plan(), rate: options.rate },
        shards: options.shards,
        state_memory_bytes_max: share as usize,
        state_pending_bytes_max: (pending * MIB) as usize / options.shards.max(1),
        checkpoint: Duration::from_millis(options.checkpoint_ms),
        windows: options.windows,
    })
}

fn prove(options: &Options, group: &Group) -> Result<ExitCode> {
    let begun = Instant::now();
    let dir = tempfile::Builder::new().prefix("thalweg-large-").tempdir()?;
    let plan = options.plan();
    println!(
        "{} values of {VALUE_BYTES} bytes: {} MiB; memory {} MiB; {} shards; a checkpoint every {} ms",
        plan.keys,
        plan.keys * VALUE_BYTES as u64 / MIB,
        options.limit_mib,
        options.shards,
        options.checkpoint_ms
    );
    let mut process = Process::start(group, dir.path())?;
    let half = plan.steps(Phase::Fill) + plan.steps(Phase::Cold) / 2;
    let told = if options.windows { job::given_dir } else { job::out_dir }(dir.path());
    let mut anonymous = process.run_until(|| Ok(about_told(&told)? >= half))?;
    process.suspend()?;
    let again = Instant::now();
    let mut process = Process::start(group, dir.path())?;
    let before = about_told(&told)?;
    anonymous = anonymous.max(process.run_until(|| Ok(about_told(&told)? > before))?);
    println!(
        "suspended after some {before} steps; said more {:.1} s after its start",
        again.elapsed().as_secs_f64()
    );
    anonymous = anonymous.max(process.run_to_its_end()?);

    let verdict = judge(&plan, dir.path())?;
    // Windows say all at the end.
    for (phase, took) in PHASES.into_iter().zip(verdict.took_ms).filter(|_| !options.windows) {
        let steps = plan.steps(phase);
        let rate = steps as f64 / (took.max(1) as f64 / 1e3);
        println!("{}: {steps} in {:.1} s, {rate:.0} a second", phase.name(), took as f64 / 1e3);
    }
    let state = bytes_below(&job::state_dir(dir.path()))?;
    let peak = group.peak_bytes().map_or("unknown".to_owned(), |bytes| (bytes / MIB).to_string());
    println!(
        "peak of the cgroup {peak} MiB, of that in no file {} MiB; the state takes {} MiB on disk; {:.1} s",
        anonymous / MIB,
        state / MIB,
        begun.elapsed().as_secs_f64()
    );
    for text in &verdict.violations {
        println!("  {text}");
    }
    println!("wrong {} missing {}", verdict.wrong, verdict.missing);
    let good = verdict.wrong + verdict.missing == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The job's process; killed when dropped.
struct Process<'a> {
    child: Child,
    group: &'a Group,
    log: PathBuf,
}

impl<'a> Process<'a> {
    /// Runs this program again as the job, with its own options.
    fn start(group: &'a Group, dir: &Path) -> Result<Self> {
        let log = dir.join("job.log");
        let err = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--life")
            .arg(dir)
            .arg("--cgroup")
            .arg(group.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(err)
            .spawn()
            .context("cannot start the job")?;
        Ok(Self { child, group, log })
    }

    /// Runs until `enough`; the most memory that it had, but for files.
    fn run_until(&mut self, mut enough: impl FnMut() -> Result<bool>) -> Result<u64> {
        let mut most = 0;
        while !enough()? {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(status));
            }
            most = most.max(self.group.anonymous_bytes().unwrap_or_default());
            thread::sleep(LOOK);
        }
        Ok(most)
    }

    fn run_to_its_end(&mut self) -> Result<u64> {
        let mut most = 0;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(most),
                Some(status) => return Err(self.ended(status)),
                None => most = most.max(self.group.anonymous_bytes().unwrap_or_default()),
            }
            thread::sleep(LOOK);
        }
    }

    fn suspend(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .context("cannot suspend the job")?;
        // Not `wait`, which closes its standard input: it would take us for gone.
        self.run_to_its_end().map(drop)
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        anyhow::anyhow!(
            "the job has ended ({status}; signal 9 is the kernel's, for want of memory): {log}"
        )
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // It has ended by itself unless something failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The finished parts of what the job has said in this directory.
fn parts(out: &Path) -> Result<Vec<PathBuf>> {
    if !out.exists() {
        return Ok(Vec::new());
    }
    let mut parts = Vec::new();
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"part-")) {
            parts.push(path);
        }
    }
    Ok(parts)
}

/// About how many steps the job has told of in this directory.
fn about_told(out: &Path) -> Result<u64> {
    let mut bytes = 0;
    for part in parts(out)? {
        bytes += fs::metadata(part)?.len();
    }
    Ok(bytes / LINE_BYTES)
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { bytes_below(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}

struct Verdict {
    wrong: u64,
    missing: u64,
    violations: Vec<String>,
    /// Of each phase.
    took_ms: [i64; PHASES.len()],
}

/// Violations that are put into words; the others are counted.
const SHOWN_MAX: usize = 20;

/// Holds what the job has seen against what it was given: of each key every version once, with the right value.
fn judge(plan: &Plan, dir: &Path) -> Result<Verdict> {
    let mut given = vec![0_u64; plan.keys as usize];
    let mut phase_of: Vec<Vec<Phase>> = vec![Vec::new(); plan.keys as usize];
    for (phase, key) in (0..plan.len()).filter_map(|step| plan.key(step)) {
        given[key as usize] += 1;
        phase_of[key as usize].push(phase);
    }
    let mut verdict = Verdict { wrong: 0, missing: 0, violations: Vec::new(), took_ms: [0; 4] };
    let mut spans = [(i64::MAX, i64::MIN); PHASES.len()];
    let mut seen: Vec<Vec<bool>> = given.iter().map(|&times| vec![false; times as usize]).collect();
    for part in parts(&job::out_dir(dir))? {
        for line in BufReader::new(File::open(&part)?).lines() {
            let said: Seen =
                serde_json::from_str(&line?).with_context(|| part.display().to_string())?;
            let place =
                seen.get_mut(said.key as usize).and_then(|of| of.get_mut(said.version as usize));
            match place {
                Some(place) if said.right && !*place => *place = true,
                _ => {
                    verdict.wrong += 1;
                    if verdict.violations.len() < SHOWN_MAX {
                        verdict.violations.push(format!("{said:?}: a wrong value, or seen before"));
                    }
                    continue;
                }
            }
            let phase = phase_of[said.key as usize][said.version as usize];
            if let Some(at) = PHASES.iter().position(|of| *of == phase) {
                spans[at] = (spans[at].0.min(said.at_ms), spans[at].1.max(said.at_ms));
            }
        }
    }
    for (key, seen) in seen.iter().enumerate() {
        let missing = seen.iter().filter(|seen| !**seen).count() as u64;
        verdict.missing += missing;
        if missing > 0 && verdict.violations.len() < SHOWN_MAX {
            verdict
                .violations
                .push(format!("key {key}: {missing} of {} versions are missing", seen.len()));
        }
    }
    verdict.took_ms = spans.map(|(first, last)| last.saturating_sub(first).max(0));
    ensure!(
        spans.iter().all(|&(first, last)| first <= last) || verdict.missing > 0,
        "a phase without steps"
    );
    Ok(verdict)
}
