//! How often the I/O thread of a source asks for more: at once while messages are few, after a pause while
//! they are many.
//!
//! A broker writes each message to the socket by itself, and each write wakes whoever sleeps there. A
//! thread that reads at once is then woken for almost every message, and its shard with it: at 50,000
//! msg/s three quarters of this process's CPU time were the kernel's, for 12,000 `epoll_wait` and
//! 5,000 sleeps of the shard in three seconds. So above [`RATE_MIN`] the thread, once the socket is
//! empty, lets the next ones gather for [`PAUSE`], as network cards moderate their interrupts. The latency
//! of a message grows by at most that (and by what the kernel adds to a sleep, some 60 us), where
//! a queue in the broker is worth more; a single message, or a burst shorter than [`SPAN`], is never held back.
//!
//! Measured there (`--bin mqtt` of the benches, medians of a few short runs on two shared cores): from 11.3 to
//! 3.9 us of CPU a message with glommio and 2.7 with threads, where a loop on a raw socket took 4.4 to
//! 4.8; 99 % of the rows within 3.9 to 4.6 ms, with the loop within 3.0 to 4.4.
//!
//! Only at QoS 0: otherwise the broker sends its window (20 messages, unless mosquitto is told otherwise)
//! and waits for acknowledgements, and a pause would be a limit on the rate. (Where both kinds are mixed, an
//! acknowledgement may wait for one pause.)

use std::time::{Duration, Instant};

use crate::config::Qos;

/// Messages per second from which on they are left to gather.
const RATE_MIN: u32 = 8_000;
/// For how long. With [`RATE_MIN`] that is three messages, with 50,000 per second some twenty.
const PAUSE: Duration = Duration::from_micros(400);
/// The rate is that of a span of at least this length: long beside a pause, and beside a burst.
const SPAN: Duration = Duration::from_millis(10);

/// The rate of late.
pub(crate) struct Pace {
    begun: Instant,
    /// Since then.
    messages: u32,
    /// Messages came since the connection had nothing to give.
    fresh: bool,
    /// The broker waits for our word on one of them.
    owing: bool,
    many: bool,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, messages: 0, fresh: false, owing: false, many: false }
    }

    /// A message came.
    #[inline]
    pub(crate) fn count(&mut self, qos: Qos) {
        self.messages = self.messages.saturating_add(1);
        self.fresh = true;
        self.owing |= qos != Qos::AtMostOnce;
    }

    /// The connection has nothing to give at `now`: how long it is to be left alone.
    pub(crate) fn pause(&mut self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let (fresh, owing) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.owing));
        // Woken for something else: what comes next is not held back for that.
        if !fresh || owing {
            return None;
        }
        let now = now();
        let span = now.saturating_duration_since(self.begun);
        if span >= SPAN {
            self.many = f64::from(self.messages) >= f64::from(RATE_MIN) * span.as_secs_f64();
            (self.begun, self.messages) = (now, 0);
        }
        self.many.then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `messages` every `every`, for `rounds`; returns how many pauses that made.
    fn pauses(
        pace: &mut Pace,
        now: &mut Instant,
        messages: u32,
        every: Duration,
        rounds: u32,
    ) -> u32 {
        let mut count = 0;
        for _ in 0..rounds {
            *now += every;
            (0..messages).for_each(|_| pace.count(Qos::AtMostOnce));
            count += u32::from(pace.pause(|| *now).is_some());
        }
        count
    }

    #[test]
    fn pauses_begin_and_end_with_a_high_rate() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        assert_eq!(pauses(&mut pace, &mut now, 1, ms(1), 1_000), 0, "1,000 msg/s");
        let fast = pauses(&mut pace, &mut now, 1, us(50), 1_000);
        assert!((700..1_000).contains(&fast), "{fast}: all but the first span of 20,000 msg/s");
        let paused = pauses(&mut pace, &mut now, 8, us(400), 1_000);
        assert_eq!(paused, 1_000, "pauses do not end because messages gather");
        assert!(pauses(&mut pace, &mut now, 1, ms(1), 1_000) <= 10, "1,000 msg/s again");
    }

    #[test]
    fn a_single_burst_and_a_first_message_after_silence_are_not_held_back() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        now += Duration::from_secs(1);
        assert_eq!(pauses(&mut pace, &mut now, 100, Duration::from_micros(100), 1), 0);
        assert_eq!(pauses(&mut pace, &mut now, 1_000, Duration::from_secs(1), 5), 0);
    }

    #[test]
    fn a_broker_that_waits_for_acknowledgements_is_not_kept_waiting() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pauses(&mut pace, &mut now, 10, Duration::from_micros(100), 1_000);
        pace.count(Qos::AtLeastOnce);
        pace.count(Qos::AtMostOnce);
        assert_eq!(pace.pause(|| now), None);
        assert_eq!(pauses(&mut pace, &mut now, 10, Duration::from_micros(100), 10), 10);
    }

    #[test]
    fn without_messages_there_is_no_pause_and_no_look_at_the_clock() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        pauses(&mut pace, &mut now, 10, Duration::from_micros(100), 1_000);
        assert!(pace.many);
        assert_eq!(pace.pause(|| unreachable!("no message")), None);
    }
}
