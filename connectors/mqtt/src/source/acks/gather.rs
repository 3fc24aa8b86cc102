//! When messages that were taken go to the disk.
//!
//! A sync costs more than a message, however many are in it, and its completion is a wake-up of its own. So messages wait for
//! more of them: [`WAIT`] at most, and no longer than until [`ENOUGH`] are there. At 1,000 messages a second a message then
//! costs 103 us of CPU instead of 138. Only the broker waits, for its acknowledgements. Results do not, and a checkpoint that needs these messages has them
//! go at once.
//!
//! A broker that sends no more until it has acknowledgements would be slowed down by that. It is known by this: nothing came
//! in the second half of a wait. Then the next [`AT_ONCE`] groups go at once. So such a broker loses one wait in this number.

use std::time::{Duration, Instant};

/// The longest wait. It is short beside the time in which a broker repeats, and beside a checkpoint.
pub(crate) const WAIT: Duration = Duration::from_millis(4);
/// This number of messages does not wait. The window of mosquitto is 20.
pub(crate) const ENOUGH: u32 = 8;
/// The number of groups that go at once after a wait that was in vain.
pub(crate) const AT_ONCE: u32 = 64;

/// The messages that were taken and have not gone.
#[derive(Default)]
pub(crate) struct Gather {
    count: u32,
    /// Since when the first ones wait.
    since: Option<Instant>,
    /// When the last ones were seen, and their number by then.
    last: Option<(Instant, u32)>,
    /// Groups that go without a wait.
    at_once: u32,
}

impl Gather {
    /// One more was taken.
    #[inline]
    pub(crate) fn take(&mut self) {
        self.count += 1;
    }

    /// Nothing more comes at once: whether there is something to go now, with `hurry` in any case; or when.
    pub(crate) fn ask(&mut self, now: Instant, hurry: bool) -> Go {
        if self.count == 0 {
            return Go::Nothing;
        }
        let since = *self.since.get_or_insert(now);
        let (last, seen) = self.last.get_or_insert((now, self.count));
        if *seen < self.count {
            (*last, *seen) = (now, self.count);
        }
        let until = since + WAIT;
        let in_vain = now >= until && *last < since + WAIT / 2;
        let waits = self.at_once == 0 && self.count < ENOUGH && now < until;
        if waits && !hurry {
            return Go::At(until);
        }
        if self.at_once > 0 {
            self.at_once -= 1;
        } else if in_vain {
            self.at_once = AT_ONCE;
        }
        (self.count, self.since, self.last) = (0, None, None);
        Go::Now
    }
}

/// What is to be done with what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    Nothing,
    Now,
    /// It waits until then.
    At(Instant),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, us: u64) -> Instant {
        begun + Duration::from_micros(us)
    }

    #[test]
    fn messages_wait_for_others_but_not_long_and_not_many() {
        let (mut gather, begun) = (Gather::default(), Instant::now());
        assert_eq!(gather.ask(begun, true), Go::Nothing);
        for round in 0..3 {
            let from = 10_000 * round;
            gather.take();
            assert_eq!(gather.ask(at(begun, from), false), Go::At(at(begun, from + 4_000)));
            gather.take();
            assert_eq!(gather.ask(at(begun, from + 3_999), false), Go::At(at(begun, from + 4_000)));
            assert_eq!(gather.ask(at(begun, from + 4_000), false), Go::Now);
            assert_eq!(gather.ask(at(begun, from + 4_000), false), Go::Nothing);
        }
        (1..ENOUGH).for_each(|_| gather.take());
        assert!(matches!(gather.ask(begun, false), Go::At(_)));
        gather.take();
        assert_eq!(gather.ask(begun, false), Go::Now);
        gather.take();
        assert_eq!(gather.ask(begun, true), Go::Now, "a checkpoint waits");
        assert_eq!(gather.ask(begun, true), Go::Nothing);
    }

    #[test]
    fn whoever_sends_nothing_until_it_is_acknowledged_waits_seldom() {
        let (mut gather, begun) = (Gather::default(), Instant::now());
        let mut waits = 0;
        for round in 0..650 {
            let now = at(begun, 10_000 * round);
            // All that such a broker sends, one after the other.
            let mut asked = Go::Nothing;
            for us in 0..3 {
                gather.take();
                asked = gather.ask(at(now, us * 50), false);
                if asked == Go::Now {
                    break;
                }
            }
            if let Go::At(until) = asked {
                waits += 1;
                assert_eq!(gather.ask(until, false), Go::Now);
            }
        }
        assert_eq!(waits, 10);
    }
}
