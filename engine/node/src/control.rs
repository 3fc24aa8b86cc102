//! How a running job is told from outside to write a savepoint, or asked how it is doing. It listens at a Unix socket in its state
//! directory, which only its owner can open.
//!
//! ```text
//! request = "savepoint" | "stop", a blank, the path, a line feed  |  "status", a line feed
//! answer  = "ok", a blank, the epoch, a line feed  |  "error", a blank, why, a line feed  |  the status, in lines
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

use thalweg_runtime::Running;

use crate::status::two_looks;

/// The name of the socket in the state directory.
pub(crate) const SOCKET: &str = "control.sock";
/// Asks how the job is doing.
pub(crate) const STATUS: &str = "status\n";
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
    pub(crate) fn listen(dir: &Path, running: &Arc<Running>) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        // The directory has one owner, so this is a left-over of one that was killed.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(at("cannot remove", &path, &error));
        }
        let listener =
            UnixListener::bind(&path).map_err(|error| at("cannot listen at", &path, &error))?;
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
                let heard = stream.is_ok();
                if let Err(error) = stream.and_then(|stream| answer(stream, &running)) {
                    tracing::warn!(%error, "a request at the control socket failed");
                }
                if !heard {
                    // No descriptor is free, say. That lasts.
                    thread::sleep(REQUEST_WAIT);
                }
            }
        };
        let thread = Some(thread::Builder::new().name("control".into()).spawn(serve)?);
        Ok(Self { path, over, thread })
    }
}

fn at(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// Listens in the state directory `dir`, if there is one. Without a socket the job runs nevertheless.
pub(crate) fn beside(dir: Option<&Path>, running: &Arc<Running>) -> Option<Control> {
    let control = Control::listen(dir?, running);
    control.inspect_err(|error| tracing::warn!("no savepoints from outside: {error}")).ok()
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
    if request == STATUS {
        let (before, status) = two_looks(running);
        return (&stream).write_all(status.text(&before).as_bytes());
    }
    let said = match request.strip_suffix('\n').and_then(|request| request.split_once(' ')) {
        Some((what @ ("savepoint" | "stop"), path)) => {
            let path = Path::new(path);
            let saved = match what {
                "stop" => running.suspend_with_savepoint(path),
                _ => running.savepoint(path),
            };
            saved.map_err(|error| error.to_string())
        }
        _ => Err("not a request: savepoint PATH, stop PATH, or status".into()),
    };
    match said {
        Ok(epoch) => writeln!(&stream, "ok {epoch}"),
        Err(why) => writeln!(&stream, "error {}", why.replace('\n', " ")),
    }
}
