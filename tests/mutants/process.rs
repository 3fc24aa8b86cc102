//! Runs a proof as a process group of its own, and looks at its lines as they come. It is ended, with all it has
//! started, as soon as they have said enough or its time is over.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this code; none if a signal ended it.
    Exit(Option<i32>),
    /// It had said enough.
    Enough,
    /// Its time was over.
    Late,
}

/// Runs `command` for `limit` at most; `look` sees each line of its output, and says whether it is enough.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut look: impl FnMut(&str) -> bool,
) -> Result<End> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut group = Group(command.spawn().with_context(|| format!("cannot run {command:?}"))?);
    let output = BufReader::new(group.0.stdout.take().context("no output")?);
    let (say, hear) = channel();
    // Ends when the last process that can write there has gone.
    thread::spawn(move || output.lines().map_while(Result::ok).all(|line| say.send(line).is_ok()));
    let until = Instant::now() + limit;
    loop {
        match hear.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) if look(&line) => return Ok(End::Enough),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(End::Late),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // It has closed its output; to end is all that is left to do.
    while Instant::now() < until {
        if let Some(status) = group.0.try_wait()? {
            return Ok(End::Exit(status.code()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(End::Late)
}

/// Nothing of it is left when it is dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            // Gone already, mostly.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration, look: impl FnMut(&str) -> bool) -> End {
        run(Command::new("sh").args(["-c", script]), limit, look).unwrap()
    }

    #[test]
    fn a_process_ends_by_itself_or_is_ended() {
        let long = Duration::from_secs(60);
        let mut lines = Vec::new();
        let end = sh("echo a; echo b; exit 3", long, |line| {
            lines.push(line.to_owned());
            false
        });
        assert_eq!((end, lines.join(" ").as_str()), (End::Exit(Some(3)), "a b"));
        assert_eq!(sh("echo a; sleep 1000", long, |line| line == "a"), End::Enough);
        // Also what it has started, which holds its output open.
        assert_eq!(sh("sleep 1000 & sleep 1000", Duration::from_millis(50), |_| false), End::Late);
    }
}
