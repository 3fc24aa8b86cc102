//! Asking a job that runs, from outside: see [`control`](crate::control).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::bail;

use crate::control::{SOCKET, STATUS};

/// Asks the job that runs in the state directory `dir` for a savepoint; its epoch. `None` if no job
/// runs there.
pub(crate) fn ask_for_savepoint(
    dir: &Path,
    to: &Path,
    stop: bool,
) -> anyhow::Result<Option<String>> {
    let to = std::path::absolute(to)?;
    let path = to.to_str().filter(|path| !path.contains('\n'));
    let Some(path) = path else { bail!("{} is no path that can be sent", to.display()) };
    let Some(mut stream) = connect(dir)? else { return Ok(None) };
    let what = if stop { "stop" } else { "savepoint" };
    writeln!(stream, "{what} {path}")?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    match said.trim_end().split_once(' ') {
        Some(("ok", epoch)) => Ok(Some(epoch.to_owned())),
        Some(("error", why)) => bail!("{why}"),
        _ => bail!("the job ended before it answered; is its log telling more?"),
    }
}

/// Asks the job that runs in the state directory `dir` how it is doing. `None` if no job runs there.
pub(crate) fn ask_for_status(dir: &Path) -> anyhow::Result<Option<String>> {
    let Some(mut stream) = connect(dir)? else { return Ok(None) };
    stream.write_all(STATUS.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.strip_prefix("error ") {
        Some(why) => bail!("{}", why.trim_end()),
        None if text.is_empty() => bail!("the job ended before it answered"),
        None => Ok(Some(text)),
    }
}

fn connect(dir: &Path) -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect(dir.join(SOCKET)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("the job's socket in {} is its owner's: ask as that user", dir.display());
        }
        // Nobody listens.
        Err(_) => Ok(None),
    }
}
