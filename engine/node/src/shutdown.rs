//! Signals: the first SIGINT or SIGTERM drains the job, a second one ends it at once.

use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thalweg_runtime::Running;

/// Drains `running` at the first SIGINT or SIGTERM, and aborts it at the second. Watches on a thread
/// of its own, until the process ends.
pub fn drain_on_signals(running: &Running) {
    let stopper = running.stopper();
    on_signals(move |nth| {
        if nth == 1 {
            tracing::info!("draining: sources stop, what is in flight reaches the sinks");
            stopper.stop();
        } else {
            tracing::warn!("ending at once, without draining");
            stopper.abort();
        }
    });
}

/// Calls `act` at each SIGINT or SIGTERM with its number, from 1.
pub(crate) fn on_signals(mut act: impl FnMut(usize) + Send + 'static) {
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "cannot watch for signals"),
    };
    let watch = move || signals.forever().enumerate().for_each(|(n, _)| act(n + 1));
    if let Err(error) = thread::Builder::new().name("signals".into()).spawn(watch) {
        tracing::warn!(%error, "cannot watch for signals");
    }
}
