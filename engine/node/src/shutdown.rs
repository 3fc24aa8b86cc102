//! Signals: the first SIGINT or SIGTERM ends the job in order, a later one at once.

use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thalweg_runtime::Running;

/// Signals this soon after one that counted are the same wish: `timeout` sends two at once, to the
/// process and to its group, and so does a shell on Ctrl-C whose child passes it on. A person who
/// wants it to end at once presses again after that.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Signals, held from here on for whoever will act on them: watch before the job starts, so that one
/// that comes while it does drains it instead of killing the process.
#[derive(Debug)]
pub struct Shutdown(Option<Signals>);

impl Shutdown {
    /// From now on SIGINT and SIGTERM end this process only through what is done with this.
    pub fn watch() -> Self {
        let signals = Signals::new([SIGINT, SIGTERM]);
        Self(signals.inspect_err(|error| tracing::warn!(%error, "cannot watch for signals")).ok())
    }

    /// Ends `running` at the first SIGINT or SIGTERM, and aborts it at the second. A job with stored
    /// state is suspended, another one drained. Watches on a thread of its own, until the process ends.
    pub fn ends(self, running: &Running) {
        let stopper = running.stopper();
        self.each(move |nth| {
            if nth == 1 {
                if stopper.suspend() {
                    tracing::info!(
                        "suspending: one more checkpoint, from which the next start goes on"
                    );
                } else {
                    tracing::info!("draining: sources stop, what is in flight reaches the sinks");
                }
            } else {
                tracing::warn!("ending at once, without draining");
                stopper.abort();
            }
        });
    }

    /// Calls `act` at each SIGINT or SIGTERM with its number, from 1; see [`SAME_WISH`].
    pub(crate) fn each(self, mut act: impl FnMut(usize) + Send + 'static) {
        let Some(mut signals) = self.0 else { return };
        let watch = move || {
            let (mut nth, mut last) = (0, None::<Instant>);
            for _ in signals.forever() {
                if last.is_none_or(|at| at.elapsed() >= SAME_WISH) {
                    last = Some(Instant::now());
                    nth += 1;
                    act(nth);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("signals".into()).spawn(watch) {
            tracing::warn!(%error, "cannot watch for signals");
        }
    }
}
