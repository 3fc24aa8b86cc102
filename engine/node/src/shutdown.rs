//! Signals: the first SIGINT or SIGTERM ends the job in order, a later one at once. SIGUSR1 prints how the job is doing.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::{Handle, Signals};
use thalweg_runtime::Running;

use crate::status::Reporter;

/// Signals this soon after one that counted repeat its wish. `timeout` sends two at once, to the
/// process and to its group. So does a shell on Ctrl-C whose child passes it on. A person who wants
/// it to end at once presses again after that.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Signals, held from here on for whoever will act on them. Watch before the job starts. Then a
/// signal that comes while it starts drains it, and does not kill the process.
#[derive(Debug)]
pub struct Shutdown(Option<(Signals, Claim)>);

impl Shutdown {
    /// From now on SIGINT and SIGTERM end this process only through what is done with this.
    pub fn watch() -> Self {
        let signals =
            Claim::new().and_then(|claim| Ok((Signals::new([SIGINT, SIGTERM, SIGUSR1])?, claim)));
        Self(signals.inspect_err(|error| tracing::warn!(%error, "cannot watch for signals")).ok())
    }

    /// Ends `running` at the first SIGINT or SIGTERM, and aborts it at the second. A job with stored
    /// state is suspended, another one drained. SIGUSR1 prints its [`Status`](crate::Status) to standard error. Watches on a
    /// thread of its own while what is returned is kept.
    pub fn ends(self, running: &Arc<Running>) -> Watch {
        self.ends_and_prints(running, Reporter::start(running, Duration::ZERO))
    }

    /// The same with somebody who prints already.
    pub(crate) fn ends_and_prints(self, running: &Running, reporter: Option<Reporter>) -> Watch {
        let stopper = running.stopper();
        let print = reporter.as_ref().map(Reporter::printer);
        let print = move || print.iter().for_each(|print| print());
        let mut watch = self.each(
            move |nth| {
                if nth == 1 {
                    if stopper.suspend() {
                        tracing::info!(
                            "suspending: one more checkpoint, from which the next start goes on"
                        );
                    } else {
                        tracing::info!(
                            "draining: sources stop, what is in flight reaches the sinks"
                        );
                    }
                } else {
                    tracing::warn!("ending at once, without draining");
                    stopper.abort();
                }
            },
            print,
        );
        watch.reporter = reporter;
        watch
    }

    /// Calls `act` at each SIGINT or SIGTERM with its number, from 1; see [`SAME_WISH`].
    /// Calls `print` at each SIGUSR1.
    pub(crate) fn each(
        self,
        mut act: impl FnMut(usize) + Send + 'static,
        print: impl Fn() + Send + 'static,
    ) -> Watch {
        let Some((mut signals, claim)) = self.0 else { return Watch::default() };
        let handle = signals.handle();
        let watch = move || {
            let (mut nth, mut last) = (0, None::<Instant>);
            for signal in signals.forever() {
                if signal == SIGUSR1 {
                    print();
                } else if last.is_none_or(|at| at.elapsed() >= SAME_WISH) {
                    last = Some(Instant::now());
                    nth += 1;
                    act(nth);
                }
            }
        };
        match thread::Builder::new().name("signals".into()).spawn(watch) {
            Ok(thread) => Watch { watching: Some((handle, thread, claim)), reporter: None },
            Err(error) => {
                tracing::warn!(%error, "cannot watch for signals");
                Watch::default()
            }
        }
    }
}

/// Signals are watched while this is kept. After that they end the process again, unless others watch for them.
#[must_use = "signals are watched while this is kept"]
#[derive(Default)]
pub struct Watch {
    watching: Option<(Handle, JoinHandle<()>, Claim)>,
    /// Who prints the status of the job.
    reporter: Option<Reporter>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((handle, thread, _claim)) = self.watching.take() {
            handle.close();
            let _panicked = thread.join();
        }
        // After whoever asks it.
        drop(self.reporter.take());
    }
}

/// How many watch for signals in this process.
static WATCHERS: Mutex<usize> = Mutex::new(0);

/// Set while nobody watches: then a signal does what it does by default.
static UNWATCHED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// One who watches for signals.
#[derive(Debug)]
struct Claim;

impl Claim {
    fn new() -> io::Result<Self> {
        let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        match UNWATCHED.get() {
            Some(unwatched) => unwatched.store(false, Ordering::SeqCst),
            // A handler stays installed for good; this one does nothing while somebody watches.
            None => {
                let unwatched = Arc::new(AtomicBool::new(false));
                for signal in [SIGINT, SIGTERM] {
                    register_conditional_default(signal, Arc::clone(&unwatched))?;
                }
                let _first = UNWATCHED.set(unwatched);
            }
        }
        *watchers += 1;
        Ok(Self)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        *watchers -= 1;
        if let Some(unwatched) = UNWATCHED.get() {
            unwatched.store(*watchers == 0, Ordering::SeqCst);
        }
    }
}
