//! An engine in a process of its own. It says `ready` once it has subscribed, works until its standard input ends,
//! and then says what it has cost.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::report::{Meter, peak_rss_mib};

const READY: &str = "ready";

/// What an engine's process has cost, from ready to the end of its input.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time in seconds.
    pub secs: f64,
    /// CPU time in microseconds.
    pub cpu_us: f64,
    /// Peak resident memory in MiB.
    pub peak_rss_mib: f64,
}

/// In the engine's process, once it has subscribed: works until told to end.
///
/// # Errors
/// If the parent has gone.
pub fn serve() -> anyhow::Result<Cost> {
    println!("{READY}");
    std::io::stdout().flush()?;
    let meter = Meter::start();
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let spent = meter.stop();
    let cpu_us = spent.cpu.as_secs_f64() * 1e6;
    Ok(Cost { secs: spent.secs(), cpu_us, peak_rss_mib: peak_rss_mib()? })
}

/// A running engine; killed if it is dropped before it has [finished](Self::finish).
pub struct Engine {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Engine {
    /// Starts this binary again with `arguments`; returns once it is ready.
    ///
    /// # Errors
    /// If it does not start or does not become ready.
    pub fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the engine's process")?;
        let said = child.stdout.take().context("the engine's process has no output")?;
        let mut engine = Self { child, said: BufReader::new(said) };
        let mut line = String::new();
        engine.said.read_line(&mut line)?;
        ensure!(line.trim_end() == READY, "the engine did not become ready: {arguments:?}");
        Ok(engine)
    }

    /// Ends it and reads what it has cost.
    ///
    /// # Errors
    /// If it failed on the way.
    pub fn finish(mut self) -> anyhow::Result<Cost> {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the engine failed ({status}); it said {rest:?}");
        serde_json::from_str(rest.lines().last().unwrap_or_default())
            .with_context(|| format!("the engine said {rest:?}, which is no cost"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It has ended by itself unless something failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
