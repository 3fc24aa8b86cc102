//! How a running job is told from outside to write a savepoint. It listens at a Unix socket in its state
//! directory, which only its owner can open.
//!
//! ```text
//! request = "savepoint" | "stop", a blank, the path, a line feed
//! answer  = "ok", a blank, the epoch, a line feed  |  "error", a blank, why, a line feed
//! ```
//! One request for each connection. `stop` suspends the job with the savepoint: nothing comes after it.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use thalweg_runtime::Running;

/// The name of the socket in the state directory.
const SOCKET: &str = "control.sock";
/// A request has at most this many bytes.
const REQUEST_BYTES_MAX: u64 = 4_096;
/// Whoever connects must say what they want within this.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// The socket of a running job, and the thread that answers there. They go with this.
pub(crate) struct Control {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens in the state directory `dir`, on a thread of its own.
    pub(crate) fn listen(dir: &Path, running: &Arc<Running>) -> anyhow::Result<Self> {
        let path = dir.join(SOCKET);
        // The directory has one owner, so this is a left-over of one that was killed.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        // A handle that does not keep the job alive: its owner waits for it by value.
        let running = Arc::downgrade(running);
        let over = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&over);
        let serve = move || {
            for stream in listener.incoming() {
                let Some(running) = running.upgrade().filter(|_| !is_over.load(Ordering::SeqCst))
                else {
                    return;
                };
                if let Err(error) = stream.and_then(|stream| answer(stream, &running)) {
                    tracing::warn!(%error, "a request at the control socket failed");
                }
            }
        };
        let thread = Some(thread::Builder::new().name("control".into()).spawn(serve)?);
        Ok(Self { path, over, thread })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Nobody else may come; the thread looks up by this one.
        let called = UnixStream::connect(&self.path);
        let _gone = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take().filter(|_| called.is_ok()) {
            let _panicked = thread.join();
        }
    }
}

fn answer(stream: UnixStream, running: &Running) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WAIT))?;
    let mut request = String::new();
    BufReader::new((&stream).take(REQUEST_BYTES_MAX)).read_line(&mut request)?;
    let said = match request.strip_suffix('\n').and_then(|request| request.split_once(' ')) {
        Some((what @ ("savepoint" | "stop"), path)) => {
            let path = Path::new(path);
            let saved = match what {
                "stop" => running.suspend_with_savepoint(path),
                _ => running.savepoint(path),
            };
            saved.map_err(|error| error.to_string())
        }
        _ => Err("not a request: savepoint PATH, or stop PATH".into()),
    };
    match said {
        Ok(epoch) => writeln!(&stream, "ok {epoch}"),
        Err(why) => writeln!(&stream, "error {}", why.replace('\n', " ")),
    }
}

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
    let mut stream = match UnixStream::connect(dir.join(SOCKET)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("the job's socket in {} is its owner's: ask as that user", dir.display());
        }
        // Nobody listens.
        Err(_) => return Ok(None),
    };
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
