//! When to connect again, and what to say about it.

use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use crate::link::Trouble;
use crate::random;

/// The first wait after a failure.
pub const RETRY_MS_MIN: u64 = 100;
/// The longest wait.
pub const RETRY_MS_MAX: u64 = 30_000;
/// A connection that held this long starts the waits anew. One that did not is no success: two
/// clients with one name would otherwise push each other out ten times a second.
const STABLE_MS_MIN: u64 = 5_000;
/// The oversized packets after which the setting is named loudly.
const TOO_LARGE_LOUD: u32 = 3;

/// Exponential waits with jitter, and one log line for failures that are alike.
pub(crate) struct Retry {
    failures: u32,
    connected: Option<Instant>,
    last_class: &'static str,
    too_large: u32,
}

impl Retry {
    pub(crate) const fn new() -> Self {
        Self { failures: 0, connected: None, last_class: "", too_large: 0 }
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self) {
        self.connected = Some(Instant::now());
    }

    /// A connection failed or ended: logs it and says how long to wait, or why not to.
    pub(crate) fn failed(
        &mut self,
        who: &str,
        packet_bytes_max: u32,
        trouble: Trouble,
    ) -> Result<Duration, String> {
        let held = self.connected.take().map(|since| since.elapsed());
        if held.is_some_and(|held| held >= Duration::from_millis(STABLE_MS_MIN)) {
            self.failures = 0;
        }
        let wait = wait(self.failures, random());
        self.failures = self.failures.saturating_add(1);
        let (class, text) = match trouble {
            Trouble::Fatal(text) => return Err(text),
            Trouble::TooLarge(text) => {
                self.too_large += 1;
                if self.too_large.is_multiple_of(TOO_LARGE_LOUD) {
                    error!(
                        "{who}: a message over packet_bytes_max={packet_bytes_max} keeps coming \
                         ({text}), and nothing behind it can arrive: raise packet_bytes_max, or \
                         remove that message at the broker"
                    );
                }
                ("too large", text)
            }
            Trouble::Weather { class, text } => {
                self.too_large = 0;
                (class, text)
            }
        };
        // A broken connection is always news; attempts that fail alike are not.
        let wait_ms = wait.as_millis();
        if held.is_some() {
            warn!("{who}: disconnected: {text}; next attempt in {wait_ms} ms");
        } else if class != self.last_class {
            warn!(
                "{who}: not connected: {text}; next attempt in {wait_ms} ms, and so on until it works"
            );
        } else {
            debug!("{who}: not connected: {text}; next attempt in {wait_ms} ms");
        }
        self.last_class = if held.is_some() { "" } else { class };
        Ok(wait)
    }
}

/// Half of the wait is fixed, half is chance, so that a fleet does not come back all at once.
fn wait(failures: u32, chance: u64) -> Duration {
    let full = RETRY_MS_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MS_MAX);
    Duration::from_millis(full / 2 + chance % (full / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound() {
        let full: Vec<_> =
            (0..12).map(|failures| wait(failures, u64::MAX - 1).as_millis() as u64).collect();
        assert!(full.iter().all(|ms| (RETRY_MS_MIN / 2..=RETRY_MS_MAX).contains(ms)), "{full:?}");
        for failures in 0..64 {
            let full = (RETRY_MS_MIN << failures.min(16)).min(RETRY_MS_MAX);
            for chance in [0, 1, full / 2, u64::MAX] {
                let ms = wait(failures, chance).as_millis() as u64;
                assert!((full / 2..=full).contains(&ms), "{failures} {chance}: {ms}");
            }
        }
    }

    #[test]
    fn a_short_connection_does_not_start_the_waits_anew() {
        let mut retry = Retry::new();
        for _ in 0..9 {
            retry.connected();
            retry.failed("t", 1, Trouble::weather("closed", "")).expect("weather");
        }
        let wait = retry.failed("t", 1, Trouble::weather("closed", "")).expect("weather");
        assert!(wait >= Duration::from_millis(RETRY_MS_MAX / 2), "{wait:?}");
        retry.connected = Instant::now().checked_sub(Duration::from_secs(6));
        let wait = retry.failed("t", 1, Trouble::weather("closed", "")).expect("weather");
        assert!(wait <= Duration::from_millis(RETRY_MS_MIN), "{wait:?}");
    }

    #[test]
    fn what_waiting_cannot_mend_ends_it() {
        let error = Retry::new().failed("t", 1, Trouble::Fatal("no".into())).expect_err("fatal");
        assert_eq!(error, "no");
    }
}
