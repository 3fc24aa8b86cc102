//! `deduplicate`: drops what a publisher has sent twice, by the number it gives each message.
//!
//! A publisher that was cut off sends again what it has no answer to. If the publisher
//! numbers its messages, the number tells a repetition from news. For each key the operator keeps the highest number,
//! and which of the [`DEDUPLICATE_WINDOW`] numbers up to it have come. Both are part of the key's state, so
//! the operator recognises repetitions across a restart, too.
//!
//! The operator drops nothing that may be news. [`Numbers`] says what is known of the counter:
//!
//! | a number | is | because of |
//! |---|---|---|
//! | above the highest | news | order |
//! | in the window, and has not come | news that was overtaken | order |
//! | in the window, and has come | a repetition | order |
//! | in the window, and has come, on a record that is later than all of the key ([`restarts_by_time`](Numbers::restarts_by_time)) | a counter that began anew | event time |
//! | below the window | a counter that began anew | distance |
//! | with a [`modulus`](Numbers::modulus): not in the window | news: the counter has gone round | distance |
//!
//! Where a counter began anew the record passes (`numSequenceRestarts`), and the window begins again there. A repetition that comes
//! later than the window is long passes likewise. By time it takes events that carry their time: a repetition then has that of the
//! first. So what comes behind a restart and is no later than what came before it is judged by the numbers before.
//!
//! # Telling
//! An operator tells nobody. [`deduplicate_by`](KeyedStream::deduplicate_by) calls a function for what it drops. It calls it, too,
//! when more than half of the last [`JUDGED`] records of a key were dropped. Then the numbers are none, in all likelihood.

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, Key, Timestamp};

use crate::counters::Counter;
use crate::exchange::key_by::{KeyedStream, Placement};
use crate::pipeline::Chain;
use crate::process::{Context, Process, ProcessedKeyed};
use crate::state::ValueState;

/// The default length of the window: how many numbers, counted down from a key's highest, are known to have come or
/// not. It is more than a broker has in flight for a client, and takes 128 bytes for each key.
pub const DEDUPLICATE_WINDOW: usize = 1_024;
/// The records of a key of which half may be repetitions.
pub const JUDGED: u32 = 64;

/// What is known of the numbers of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    window: usize,
    modulus: Option<u64>,
    by_time: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { window: DEDUPLICATE_WINDOW, modulus: None, by_time: false }
    }
}

impl Numbers {
    /// Numbers that count up, with a window of [`DEDUPLICATE_WINDOW`].
    pub fn new() -> Self {
        Self::default()
    }

    /// This number of numbers up to a key's highest are known, rounded up to a multiple of 64. With a modulus no more than half of
    /// it: what is further behind is ahead.
    #[must_use]
    pub fn window(mut self, numbers: usize) -> Self {
        self.window = numbers;
        self
    }

    /// The counter goes round: behind `modulus` - 1 comes 0. A counter of one byte has 256, of two bytes 65,536.
    #[must_use]
    pub fn modulus(mut self, modulus: u64) -> Self {
        self.modulus = Some(modulus.max(2));
        self
    }

    /// A number that has come, on a record later than all of its key, is that of a counter that began anew. Only for records that
    /// carry their time: one that is given the time of its arrival is always later.
    #[must_use]
    pub fn restarts_by_time(mut self, by_time: bool) -> Self {
        self.by_time = by_time;
        self
    }
}

/// What [`deduplicate_by`](KeyedStream::deduplicate_by) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    /// A record with this number was dropped.
    Dropped(u64),
    /// Of the last [`JUDGED`] records of the key this number was dropped, which is more than half.
    Mostly(u32),
}

/// Which numbers of a key have come.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default)]
pub struct Seen {
    highest: u64,
    /// Bit `n % bits` of number `n`; empty before the first one.
    bits: Vec<u64>,
}

/// What is known of a key beside its numbers.
#[derive(Archive, Serialize, Deserialize, Debug)]
pub struct Lately {
    /// The latest time of a record that passed, in milliseconds.
    latest: i64,
    /// The numbers before the counter began anew, and their latest time.
    before: Seen,
    before_latest: i64,
    /// Of the last records.
    came: u32,
    dropped: u32,
}

impl Default for Lately {
    fn default() -> Self {
        let (latest, before_latest) = (i64::MIN, i64::MIN);
        Self { latest, before: Seen::default(), before_latest, came: 0, dropped: 0 }
    }
}

impl Lately {
    /// What a record with this number is.
    fn judge(
        &mut self,
        seen: &mut Seen,
        number: u64,
        time: Timestamp,
        numbers: &Numbers,
    ) -> Verdict {
        let time = time.as_millis();
        if time <= self.before_latest && !seeded(Defect::FlowForgetsNumbers) {
            let old = self.before.judge(number, numbers);
            return if old == Verdict::Repeated { old } else { Verdict::News };
        }
        let mut verdict = seen.judge(number, numbers);
        if verdict == Verdict::Repeated && time > self.latest {
            (self.before, self.before_latest) = (seen.clone(), self.latest);
            seen.restart(number, numbers);
            verdict = Verdict::Restart;
        }
        if verdict != Verdict::Repeated {
            self.latest = self.latest.max(time);
        }
        verdict
    }

    /// Counts a record; how many of the last were dropped, if those are most and it is time to tell.
    fn count(&mut self, dropped: bool) -> Option<u32> {
        self.came += 1;
        self.dropped += u32::from(dropped);
        if self.came < JUDGED {
            return None;
        }
        let dropped = std::mem::take(&mut self.dropped);
        self.came = 0;
        (dropped > JUDGED / 2).then_some(dropped)
    }
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    News,
    Repeated,
    Restart,
}

impl Seen {
    fn judge(&mut self, number: u64, numbers: &Numbers) -> Verdict {
        let words = numbers.window.div_ceil(64).max(1);
        let bits = words as u64 * 64;
        if self.bits.len() != words {
            // This is the key's first number, or the job has another window now, which begins with what is certain.
            if self.bits.is_empty() {
                self.restart(number, numbers);
                return Verdict::News;
            }
            self.bits = vec![0; words];
            self.set(self.highest, bits);
        }
        let (number, window) = match numbers.modulus {
            None => (number, bits),
            Some(modulus) => {
                let window = bits.min(modulus / 2).max(1);
                let ahead = (number % modulus + modulus - self.highest % modulus) % modulus;
                if ahead < modulus - (window - 1) {
                    (self.highest.saturating_add(ahead), window)
                } else {
                    // One that there was before the first is news.
                    let Some(number) = self.highest.checked_sub(modulus - ahead) else {
                        return Verdict::News;
                    };
                    (number, window)
                }
            }
        };
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
        if self.highest - number >= window {
            self.restart(number, numbers);
            return Verdict::Restart;
        }
        if self.bits[(number % bits / 64) as usize] & 1 << (number % 64) != 0 {
            return Verdict::Repeated;
        }
        self.set(number, bits);
        Verdict::News
    }

    /// Begins with this number.
    fn restart(&mut self, number: u64, numbers: &Numbers) {
        let words = numbers.window.div_ceil(64).max(1);
        self.bits.clear();
        self.bits.resize(words, 0);
        // One round ahead, so that there is room for those before it.
        self.highest = numbers.modulus.map_or(number, |modulus| number % modulus + modulus);
        self.set(self.highest, words as u64 * 64);
    }

    fn set(&mut self, number: u64, bits: u64) {
        self.bits[(number % bits / 64) as usize] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: u64, bits: u64) {
        self.bits[(number % bits / 64) as usize] &= !(1 << (number % 64));
    }
}

/// What is kept of a key beside [`Seen`].
enum Watch<K> {
    /// Nothing.
    None,
    Lately(ValueState<K, Lately>),
}

/// See the module.
pub struct Deduplicate<K, S, F> {
    sequence: S,
    numbers: Numbers,
    seen: ValueState<K, Seen>,
    watch: Watch<K>,
    tell: F,
    repeated: Counter,
    restarts: Counter,
}

impl<K, S, F> Deduplicate<K, S, F>
where
    K: Key,
    F: FnMut(&K, Repetition),
{
    fn judge(&mut self, number: u64, cx: &mut Context<'_, K>) -> Verdict {
        let numbers = self.numbers;
        let Watch::Lately(lately) = &self.watch else {
            return self.seen.update(cx, |seen| seen.judge(number, &numbers));
        };
        let time = cx.time();
        let (verdict, mostly) = self.seen.update(cx, |seen| {
            lately.update(cx, |lately| {
                let verdict = match numbers.by_time {
                    true => lately.judge(seen, number, time, &numbers),
                    false => seen.judge(number, &numbers),
                };
                (verdict, lately.count(verdict == Verdict::Repeated))
            })
        });
        if verdict == Verdict::Repeated {
            (self.tell)(cx.key(), Repetition::Dropped(number));
        }
        if let Some(dropped) = mostly {
            (self.tell)(cx.key(), Repetition::Mostly(dropped));
        }
        verdict
    }
}

impl<K, T, S, F> Process<K, T> for Deduplicate<K, S, F>
where
    K: Key,
    T: 'static,
    S: Fn(&T) -> u64 + 'static,
    F: FnMut(&K, Repetition) + 'static,
{
    type Out = T;

    fn record(&mut self, record: T, cx: &mut Context<'_, K>, out: &mut impl Collector<T>) {
        let number = (self.sequence)(&record);
        match self.judge(number, cx) {
            Verdict::News => {}
            Verdict::Repeated => return self.repeated.add(1),
            Verdict::Restart => self.restarts.add(1),
        }
        out.record(cx.time(), record);
    }
}

/// The stream without repetitions.
type Deduplicated<C, P, S, F> = ProcessedKeyed<C, P, Deduplicate<<P as Placement<C>>::Key, S, F>>;

/// Tells nobody.
type Silent<K> = fn(&K, Repetition);

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
    ) -> Deduplicated<C, P, S, Silent<P::Key>> {
        self.deduplicate_within(DEDUPLICATE_WINDOW, sequence)
    }

    /// [`deduplicate`](Self::deduplicate) with another window: `window` numbers up to a key's highest, rounded up to a
    /// multiple of 64.
    pub fn deduplicate_within<S: Fn(&P::Value) -> u64 + 'static>(
        self,
        window: usize,
        sequence: S,
    ) -> Deduplicated<C, P, S, Silent<P::Key>> {
        let tell: Silent<P::Key> = |_, _| {};
        self.deduplicated(Numbers::new().window(window), sequence, tell, false)
    }

    /// [`deduplicate`](Self::deduplicate) for numbers of which more is known. `tell` is called for each record that is dropped, and
    /// when most of a key's are.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// # let readings = (0..600_u64).map(|n| ("a", n % 256)).chain([("a", 87)]);
    /// flow.source(Collection::new(readings.collect::<Vec<_>>()), Watermarks::monotonous())
    ///     .key_by(|&(device, _)| device)
    ///     .deduplicate_by(
    ///         Numbers::new().modulus(256),
    ///         |&(_, byte)| byte,
    ///         |device, what| assert_eq!((*device, what), ("a", Repetition::Dropped(87))),
    ///     )
    ///     .values()
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("deduplicate")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take().len(), 600);
    /// ```
    pub fn deduplicate_by<S, F>(
        self,
        numbers: Numbers,
        sequence: S,
        tell: F,
    ) -> Deduplicated<C, P, S, F>
    where
        S: Fn(&P::Value) -> u64 + 'static,
        F: FnMut(&P::Key, Repetition) + 'static,
    {
        self.deduplicated(numbers, sequence, tell, true)
    }

    fn deduplicated<S, F>(
        mut self,
        numbers: Numbers,
        sequence: S,
        tell: F,
        watched: bool,
    ) -> Deduplicated<C, P, S, F>
    where
        S: Fn(&P::Value) -> u64 + 'static,
        F: FnMut(&P::Key, Repetition) + 'static,
    {
        // The function compares the times of a key alone, so a clock per key is for what follows.
        let clock = self.follower.clock.take();
        let mut keyed = self.process_keyed(|states| Deduplicate {
            sequence,
            numbers,
            seen: states.value("seen"),
            watch: if watched { Watch::Lately(states.value("lately")) } else { Watch::None },
            tell,
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
                assert_eq!(
                    seen.judge(number, &Numbers::new().window(window)),
                    expected,
                    "{number} after {highest}"
                );
                all.insert(number);
                highest = if expected == Verdict::Restart { number } else { highest.max(number) };
            }
        }
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let (mut seen, numbers) = (Seen::default(), Numbers::new().window(64));
        let mut judge = |number| seen.judge(number, &numbers);
        assert_eq!(judge(u64::MAX), Verdict::News);
        assert_eq!(judge(u64::MAX), Verdict::Repeated);
        assert_eq!(judge(0), Verdict::Restart);
        assert_eq!(judge(u64::MAX - 1), Verdict::News);
    }

    /// Method: a counter that goes round, against a set of the numbers before they went round. Its messages are lost, repeated and
    /// overtaken within the window.
    #[test]
    fn a_counter_that_goes_round_equals_one_that_does_not() {
        let mut random = Random::new(8);
        for (modulus, window) in [(256, 128), (65_536, 1_024), (16, 8), (2, 1), (100, 1_024)] {
            let limit = (window as u64).min(modulus / 2).max(1);
            let numbers = Numbers::new().window(window).modulus(modulus);
            let (mut seen, mut all) = (Seen::default(), HashSet::new());
            let mut highest = random.below(3 * modulus);
            for n in 0..20_000 {
                let next = match random.below(10) {
                    0 if n > 0 => highest + 1 + random.below((modulus - limit).max(1)),
                    1..5 => highest.saturating_sub(random.below(limit)),
                    _ => highest + 1,
                };
                let expected = match all.insert(next) {
                    true => Verdict::News,
                    false => Verdict::Repeated,
                };
                let verdict = seen.judge(next % modulus, &numbers);
                assert_eq!(verdict, expected, "{next} after {highest}, modulus {modulus}");
                highest = if n == 0 { next } else { highest.max(next) };
            }
        }
    }

    fn judge(seen: &mut Seen, lately: &mut Lately, number: u64, at: i64) -> Verdict {
        let numbers = Numbers::new().restarts_by_time(true);
        lately.judge(seen, number, Timestamp::from_millis(at), &numbers)
    }

    #[test]
    fn a_number_that_has_come_on_a_later_record_is_a_counter_that_began_anew() {
        let (mut seen, mut lately) = (Seen::default(), Lately::default());
        for n in 0..1_000 {
            let expected = if n > 0 && n % 256 == 0 { Verdict::Restart } else { Verdict::News };
            assert_eq!(judge(&mut seen, &mut lately, n % 256, n as i64), expected, "{n}");
        }
        // The last round began with 768. Repetitions of this one and of the one before are none of the other.
        for (number, at) in [(231, 999), (0, 768), (255, 767), (40, 552)] {
            let verdict = judge(&mut seen, &mut lately, number, at);
            assert_eq!(verdict, Verdict::Repeated, "{number} at {at}");
        }
        assert_eq!(judge(&mut seen, &mut lately, 232, 1_000), Verdict::News);
        assert_eq!(judge(&mut seen, &mut lately, 232, 1_000), Verdict::Repeated, "not later");
    }

    /// A device that restarts, and repeats what it had sent before.
    #[test]
    fn what_was_overtaken_by_a_restart_is_judged_by_the_numbers_before() {
        let (mut seen, mut lately) = (Seen::default(), Lately::default());
        let script = [
            (10, 10, Verdict::News),
            (11, 11, Verdict::News),
            (13, 13, Verdict::News),
            (11, 20, Verdict::Restart),
            (12, 12, Verdict::News),
            (13, 13, Verdict::Repeated),
            (12, 21, Verdict::News),
            (12, 12, Verdict::Repeated),
            (12, 21, Verdict::Repeated),
        ];
        for (number, at, expected) in script {
            assert_eq!(judge(&mut seen, &mut lately, number, at), expected, "{number} at {at}");
        }
    }

    #[test]
    fn it_is_told_when_more_than_half_is_dropped() {
        let mut lately = Lately::default();
        let told = |lately: &mut Lately, dropped: u32| {
            (0..JUDGED).filter_map(|n| lately.count(n < dropped)).collect::<Vec<_>>()
        };
        assert!(told(&mut lately, JUDGED / 2).is_empty());
        assert_eq!(told(&mut lately, JUDGED / 2 + 1), [JUDGED / 2 + 1]);
        assert!(told(&mut lately, 0).is_empty());
        assert_eq!(told(&mut lately, JUDGED), [JUDGED]);
    }
}
