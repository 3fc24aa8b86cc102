//! `deduplicate`: drops what a publisher has sent twice, by the number it gives each message.
//!
//! MQTT repeats what was not acknowledged in time, and a publisher that was cut off sends again. If the publisher
//! numbers its messages, the number tells a repetition from news. For each key the operator keeps the highest number,
//! and which of the [`DEDUPLICATE_WINDOW`] numbers up to it have come. Both are part of the key's state, so
//! the operator recognises repetitions across a restart, too.
//!
//! The operator drops nothing that may be news. A number below the window says that the publisher counts anew: its
//! record passes (`numSequenceRestarts`), and the window begins again there. A repetition that
//! comes later than the window is long passes likewise.

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::{Collector, Key};

use crate::counters::Counter;
use crate::exchange::key_by::{KeyedStream, Placement};
use crate::pipeline::Chain;
use crate::process::{Context, Process, ProcessedKeyed};
use crate::state::ValueState;

/// The default length of the window: how many numbers, counted down from a key's highest, are known to have come or
/// not. It is more than a broker has in flight for a client, and takes 128 bytes for each key.
pub const DEDUPLICATE_WINDOW: usize = 1_024;

/// Which numbers of a key have come.
#[derive(Archive, Serialize, Deserialize, Debug, Default)]
pub struct Seen {
    highest: u64,
    /// Bit `n % bits` of number `n`; empty before the first one.
    bits: Vec<u64>,
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    News,
    Repeated,
    Restart,
}

impl Seen {
    fn judge(&mut self, number: u64, window: usize) -> Verdict {
        let words = window.div_ceil(64).max(1);
        let bits = words as u64 * 64;
        if self.bits.len() != words {
            // This is the key's first number, or the job has another window now, which begins with what is certain.
            let first = self.bits.is_empty();
            self.bits = vec![0; words];
            if !first {
                self.set(self.highest, bits);
            } else {
                self.highest = number;
                self.set(number, bits);
                return Verdict::News;
            }
        }
        if number > self.highest {
            let skipped = number - self.highest;
            if skipped >= bits {
                self.bits.fill(0);
            } else {
                (self.highest + 1..=number).for_each(|passed| self.clear(passed, bits));
            }
            self.highest = number;
            self.set(number, bits);
            return Verdict::News;
        }
        if self.highest - number >= bits {
            self.bits.fill(0);
            self.highest = number;
            self.set(number, bits);
            return Verdict::Restart;
        }
        if self.bits[(number % bits / 64) as usize] & 1 << (number % 64) != 0 {
            return Verdict::Repeated;
        }
        self.set(number, bits);
        Verdict::News
    }

    fn set(&mut self, number: u64, bits: u64) {
        self.bits[(number % bits / 64) as usize] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: u64, bits: u64) {
        self.bits[(number % bits / 64) as usize] &= !(1 << (number % 64));
    }
}

/// See the module.
pub struct Deduplicate<K, S> {
    sequence: S,
    window: usize,
    seen: ValueState<K, Seen>,
    repeated: Counter,
    restarts: Counter,
}

impl<K: Key, T: 'static, S: Fn(&T) -> u64 + 'static> Process<K, T> for Deduplicate<K, S> {
    type Out = T;

    fn record(&mut self, record: T, cx: &mut Context<'_, K>, out: &mut impl Collector<T>) {
        let number = (self.sequence)(&record);
        match self.seen.update(cx, |seen| seen.judge(number, self.window)) {
            Verdict::News => {}
            Verdict::Repeated => return self.repeated.add(1),
            Verdict::Restart => self.restarts.add(1),
        }
        out.record(cx.time(), record);
    }
}

/// The stream without repetitions.
type Deduplicated<C, P, S> = ProcessedKeyed<C, P, Deduplicate<<P as Placement<C>>::Key, S>>;

impl<C: Chain, P: Placement<C>> KeyedStream<C, P> {
    /// Drops records whose number, as `sequence` reads it, has come before for the key. Repetitions are
    /// counted (`numRepetitionsDropped`). The operator remembers the latest [`DEDUPLICATE_WINDOW`] numbers of a
    /// key. The stream stays partitioned, so that what follows by this key needs no exchange.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([("a", 1), ("a", 2), ("b", 1), ("a", 2)]), Watermarks::monotonous())
    ///     .key_by(|&(device, _)| device)
    ///     .deduplicate(|&(_, number)| number)
    ///     .values()
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("deduplicate")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [("a", 1), ("a", 2), ("b", 1)]);
    /// ```
    pub fn deduplicate<S: Fn(&P::Value) -> u64 + 'static>(
        self,
        sequence: S,
    ) -> Deduplicated<C, P, S> {
        self.deduplicate_within(DEDUPLICATE_WINDOW, sequence)
    }

    /// [`deduplicate`](Self::deduplicate) with another window: `window` numbers up to a key's highest, rounded up to a
    /// multiple of 64.
    pub fn deduplicate_within<S: Fn(&P::Value) -> u64 + 'static>(
        mut self,
        window: usize,
        sequence: S,
    ) -> Deduplicated<C, P, S> {
        // The function looks at no time, so a clock per key is for what follows.
        let clock = self.follower.clock.take();
        let mut keyed = self.process_keyed(|states| Deduplicate {
            sequence,
            window,
            seen: states.value("seen"),
            repeated: states.counter("numRepetitionsDropped"),
            restarts: states.counter("numSequenceRestarts"),
        });
        keyed.follower.clock = clock;
        // Stored state knows this operator by the stable name of a process function.
        keyed.name("Deduplicate")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use thalweg_testing::Random;

    use super::*;

    /// Method: a publisher that skips numbers, repeats recent ones, and now and then counts anew, against
    /// a set of what has come since.
    #[test]
    fn it_equals_a_set_of_all_numbers_within_the_window() {
        let mut random = Random::new(7);
        let mut below = |bound: u64| random.below(bound);
        for window in [1, 64, 65, 1_024] {
            let bits = (window as u64).div_ceil(64) * 64;
            let (mut seen, mut all, mut highest) = (Seen::default(), HashSet::new(), 0_u64);
            for n in 0..20_000 {
                let number = match below(100) {
                    0 => highest + below(3 * bits),
                    1 if highest > bits => below(highest - bits + 1),
                    2..60 => highest.saturating_sub(below(bits)),
                    _ => highest + 1,
                };
                let expected = if n == 0 || number > highest {
                    Verdict::News
                } else if highest - number >= bits {
                    all.clear();
                    Verdict::Restart
                } else if all.contains(&number) {
                    Verdict::Repeated
                } else {
                    Verdict::News
                };
                assert_eq!(seen.judge(number, window), expected, "{number} after {highest}");
                all.insert(number);
                highest = if expected == Verdict::Restart { number } else { highest.max(number) };
            }
        }
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let mut seen = Seen::default();
        assert_eq!(seen.judge(u64::MAX, 64), Verdict::News);
        assert_eq!(seen.judge(u64::MAX, 64), Verdict::Repeated);
        assert_eq!(seen.judge(0, 64), Verdict::Restart);
        assert_eq!(seen.judge(u64::MAX - 1, 64), Verdict::News);
    }
}
