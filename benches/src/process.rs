//! A measured run in a process of its own, so that its CPU time and peak memory are nobody else's. The binary
//! starts itself again, and reads the JSON that this process prints last.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

/// Starts this binary again with `arguments`, waits for it, and reads the last line of its standard
/// output as JSON. Its standard error is ours.
///
/// # Errors
/// If it cannot be started, fails, or prints something else.
pub fn measure<T: DeserializeOwned>(
    arguments: impl IntoIterator<Item = impl Into<String>>,
) -> anyhow::Result<T> {
    Measured::start(arguments)?.finish()
}

/// This binary, started again. Killed when dropped before its end.
pub struct Measured {
    child: Child,
    stdin: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    /// How it was called, for errors.
    call: String,
}

impl Measured {
    /// Starts it. Its standard input stays open until [`close_stdin`](Self::close_stdin) or
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(arguments: impl IntoIterator<Item = impl Into<String>>) -> anyhow::Result<Self> {
        let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
        let binary = std::env::current_exe().context("cannot tell where this binary is")?;
        let call = format!("{} {}", binary.display(), arguments.join(" "));
        let mut child = Command::new(&binary)
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {call}"))?;
        let said = child.stdout.take().context("no pipe from the measured process")?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, said: BufReader::new(said), call })
    }

    /// Waits until it has printed `line`.
    ///
    /// # Errors
    /// If it ends before, or prints something else.
    pub fn wait_for(&mut self, line: &str) -> anyhow::Result<()> {
        match self.line()? {
            Some(said) if said == line => Ok(()),
            Some(said) => {
                bail!("the measured process said {said:?} and not {line:?}: {}", self.call)
            }
            None => bail!("the measured process ended before its time: {}", self.call),
        }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// If it has ended, or its input is closed.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let mut stdin = self.stdin.as_ref().context("the measured process hears no more")?;
        writeln!(stdin, "{line}").with_context(|| format!("cannot tell {line:?}: {}", self.call))
    }

    /// Tells it that nothing more will come.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end, and reads its last line as JSON.
    ///
    /// # Errors
    /// If it fails, or its last line is something else.
    pub fn finish<T: DeserializeOwned>(mut self) -> anyhow::Result<T> {
        self.close_stdin();
        let mut last = String::new();
        while let Some(line) = self.line()? {
            last = line;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the measured process failed ({status}): {}", self.call);
        }
        serde_json::from_str(&last).with_context(|| {
            format!("the measured process said {last:?}, which is no result: {}", self.call)
        })
    }

    fn line(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).context("cannot hear the measured process")?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
