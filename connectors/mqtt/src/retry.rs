//! When to connect again, and what to say about it. It is told the time, and reads no clock.
//!
//! Waits double from [`RETRY_MS_MIN`] up to the configuration's `reconnect_max`, half of each by chance. They begin anew
//! after a connection that held for five seconds. So they do after one that has brought something, a message or an
//! acknowledgement: what cuts such connections is mostly the network. Two clients of one name bring each other down in
//! that way, too, so that is granted twice a second in the long run. A connection that ends since we or the broker refuse something has
//! brought nothing.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::link::Trouble;
use crate::random;

/// The first wait after a failure.
pub const RETRY_MS_MIN: u64 = 100;
/// The longest wait, unless `reconnect_max` says otherwise.
pub const RETRY_MS_MAX: u64 = 5_000;
/// A connection that held this long starts the waits anew.
const STABLE_MS_MIN: u64 = 5_000;
/// Connections that brought something start the waits anew this often at once.
const CREDIT_MAX: u32 = 20;
/// After this time once more.
const CREDIT_MS: u64 = 500;
/// What goes on is told again after this time.
const TELL_AGAIN_MS: u64 = 60_000;

/// Exponential waits with jitter, and one log line a minute for failures that are alike.
pub(crate) struct Retry {
    wait_max: Duration,
    failures: u32,
    connected: Option<Instant>,
    /// The connection has brought something.
    has_progressed: bool,
    credit: u32,
    credit_at: Option<Instant>,
    /// Since when there is no connection, or none that holds.
    away_since: Option<Instant>,
    /// The kinds of failures that were told, and when. There are a dozen kinds.
    told: Vec<(&'static str, Instant)>,
    /// Failures of that kind that were not told since.
    untold: u64,
}

impl Retry {
    pub(crate) const fn new(wait_max: Duration) -> Self {
        Self {
            wait_max,
            failures: 0,
            connected: None,
            has_progressed: false,
            credit: CREDIT_MAX,
            credit_at: None,
            away_since: None,
            told: Vec::new(),
            untold: 0,
        }
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
        self.has_progressed = false;
    }

    /// The connection has brought something.
    pub(crate) fn progressed(&mut self) {
        self.has_progressed = true;
    }

    /// A connection failed or ended: logs it and says how long to wait, or why not to.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        who: &str,
        trouble: Trouble,
    ) -> Result<Duration, String> {
        let (class, text) = match trouble {
            Trouble::Fatal(text) => return Err(text),
            Trouble::Weather { class, text } => (class, text),
            Trouble::Version { text, .. }
            | Trouble::Will { text, .. }
            | Trouble::Moved { text, .. } => ("protocol", text),
        };
        let held = self.connected.take().map(|since| now.saturating_duration_since(since));
        let is_stable = held.is_some_and(|held| held >= Duration::from_millis(STABLE_MS_MIN));
        if is_stable {
            self.away_since = None;
            self.told.clear();
        }
        let is_network = !matches!(class, "taken over" | "refused");
        let has_progressed = std::mem::take(&mut self.has_progressed) && is_network;
        if is_stable || (has_progressed && self.spend(now)) {
            self.failures = 0;
        }
        let wait = wait(self.failures, self.wait_max, random());
        self.failures = self.failures.saturating_add(1);
        let away = now.saturating_duration_since(*self.away_since.get_or_insert(now));
        let again = Duration::from_millis(TELL_AGAIN_MS);
        let is_old =
            |(of, at): &(&str, Instant)| *of == class && now.saturating_duration_since(*at) < again;
        let is_news = !self.told.iter().any(is_old);
        let wait_ms = wait.as_millis();
        if !is_news {
            self.untold += 1;
            debug!("{who}: not connected: {text}; next attempt in {wait_ms} ms");
            return Ok(wait);
        }
        self.told.retain(|(of, _)| *of != class);
        self.told.push((class, now));
        let more = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            more => format!(" ({more} more attempts failed since the last line)"),
        };
        let minutes = away.as_secs() / 60;
        if held.is_some() {
            warn!("{who}: disconnected: {text}; next attempt in {wait_ms} ms{more}");
        } else if minutes > 0 {
            warn!("{who}: the broker is still away, for {minutes} min now: {text}{more}");
        } else {
            warn!(
                "{who}: not connected: {text}; next attempt in {wait_ms} ms, and so on until it works{more}"
            );
        }
        Ok(wait)
    }

    /// Whether the waits may begin anew once more.
    fn spend(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(*self.credit_at.get_or_insert(now));
        let earned = u32::try_from(since.as_millis() as u64 / CREDIT_MS).unwrap_or(u32::MAX);
        if earned > 0 {
            self.credit = self.credit.saturating_add(earned).min(CREDIT_MAX);
            self.credit_at = Some(now);
        }
        let has_some = self.credit > 0;
        self.credit -= u32::from(has_some);
        has_some
    }
}

/// Half of the wait is fixed, half is chance, so that a fleet does not come back all at once.
fn wait(failures: u32, longest: Duration, chance: u64) -> Duration {
    let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let full = RETRY_MS_MIN.saturating_mul(1 << failures.min(16)).min(longest);
    Duration::from_millis(full / 2 + chance % (full / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(RETRY_MS_MAX);

    fn closed() -> Trouble {
        Trouble::weather("closed", "")
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        for failures in 0..64 {
            let full = (RETRY_MS_MIN << failures.min(16)).min(RETRY_MS_MAX);
            for chance in [0, 1, full / 2, u64::MAX] {
                let ms = wait(failures, LONGEST, chance).as_millis() as u64;
                assert!((full / 2..=full).contains(&ms), "{failures} {chance}: {ms}");
            }
        }
        assert_eq!(wait(64, Duration::from_secs(60), 30_000), Duration::from_secs(60));
    }

    #[test]
    fn a_short_connection_that_brings_nothing_does_not_start_the_waits_anew() {
        let mut retry = Retry::new(LONGEST);
        let now = Instant::now();
        for _ in 0..9 {
            retry.connected(now);
            retry.failed(now, "t", closed()).expect("weather");
        }
        let wait = retry.failed(now, "t", closed()).expect("weather");
        assert!(wait >= LONGEST / 2, "{wait:?}");
        retry.connected(now);
        let wait = retry.failed(now + Duration::from_secs(6), "t", closed()).expect("weather");
        assert!(wait <= Duration::from_millis(RETRY_MS_MIN), "{wait:?}");
    }

    /// Goal: a network that cuts what works costs little, and a war of two clients is no storm.
    #[test]
    fn connections_that_bring_something_start_the_waits_anew_as_often_as_is_decent() {
        let mut now = Instant::now();
        let mut play = |class: &'static str, seconds: u64| {
            let mut retry = Retry::new(LONGEST);
            let (begun, mut count) = (now, 0_u64);
            while now < begun + Duration::from_secs(seconds) {
                retry.connected(now);
                retry.progressed();
                now += retry.failed(now, "t", Trouble::weather(class, "")).expect("weather");
                count += 1;
            }
            count
        };
        let first = play("closed", 2);
        assert!(first >= 20, "{first} connections in the first 2 s");
        let lasting = play("closed", 600);
        assert!((1_200..=3_000).contains(&lasting), "{lasting} connections in 10 min");
        for class in ["taken over", "refused"] {
            let war = play(class, 600);
            assert!(war <= 300, "{class}: {war} connections in 10 min");
        }
    }

    #[test]
    fn what_goes_on_is_told_once_a_minute() {
        let mut retry = Retry::new(LONGEST);
        let begun = Instant::now();
        let mut told = Vec::new();
        for second in 0..200 {
            let now = begun + Duration::from_secs(second);
            retry.failed(now, "t", Trouble::weather("connect", "refused")).expect("weather");
            if retry.told.contains(&("connect", now)) {
                told.push(second);
            }
        }
        assert_eq!(told, [0, 60, 120, 180]);
        retry.failed(begun, "t", Trouble::weather("timeout", "")).expect("weather");
        assert!(retry.told.contains(&("timeout", begun)), "another kind is news");
    }

    #[test]
    fn kinds_that_alternate_are_told_once_a_minute_each() {
        let mut retry = Retry::new(LONGEST);
        let begun = Instant::now();
        let mut told = Vec::new();
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            let class = ["connect", "timeout"][second as usize % 2];
            retry.failed(now, "t", Trouble::weather(class, "")).expect("weather");
            if retry.told.contains(&(class, now)) {
                told.push(second);
            }
        }
        assert_eq!(told, [0, 1, 60, 61]);
    }

    #[test]
    fn what_waiting_cannot_mend_ends_it() {
        let error = Retry::new(LONGEST)
            .failed(Instant::now(), "t", Trouble::Fatal("no".into()))
            .expect_err("fatal");
        assert_eq!(error, "no");
    }
}
