//! A job in a process of its own, for programs that kill it, suspend it, or give it little.

use std::io::Read;
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use thalweg::runtime::{Job, RuntimeConfig};

/// Runs the job until its input ends, or suspends it on SIGTERM. Warnings go to standard error. The parent holds the
/// other end of standard input: a job does not outlive it.
///
/// # Errors
/// If the job cannot start, or fails.
pub fn run(job: &Job, config: &RuntimeConfig) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let parent = || {
        let _ended = std::io::stdin().read(&mut [0]);
        std::process::exit(3);
    };
    thread::Builder::new().name("parent".into()).spawn(parent).context("cannot start a thread")?;
    let mut signals = Signals::new([SIGTERM]).context("cannot watch for SIGTERM")?;
    let running = job.start(config)?;
    let stopper = running.stopper();
    let suspend = move || {
        for _ in signals.forever() {
            let _told = stopper.suspend();
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(suspend)
        .context("cannot start a thread")?;
    running.wait()?;
    Ok(())
}
