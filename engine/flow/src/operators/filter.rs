//! `filter`: keeps the records that satisfy a predicate.
//!
//! # Without a branch
//! A processor cannot guess what many predicates say, and each wrong guess throws away what it had begun of the next
//! records. So a filter can *gather* records without a branch. It writes each small record behind those that it keeps,
//! and writes the next one over a record that it does not keep. Records pass on in one tight loop when
//! [`GATHERED_MAX`] are gathered, when a mark comes, and when the step ends.
//!
//! Gathering costs a copy, which is worth it only where guesses fail. So the filter tries it for one step in
//! [`PAUSE_STEPS`]. It goes on while it keeps a quarter to three quarters of the records, and while enough records pass
//! between two marks. Otherwise records pass one by one.
//!
//! The copy costs more the larger the record is, so records of more than [`GATHERED_BYTES_MAX`] bytes are never gathered.
//! (The events of the Yahoo benchmark have 40 bytes. With a branch, an event takes 70 instructions, and 10 to 11 ns
//! beside a busy sibling thread. Gathered, it takes 119 instructions and 15 to 18 ns. Alone, both take equally long.)
//!
//! Only the last filter of a chain gathers. A filter chooses once for a whole step, and both ways are compiled.

use std::convert::Infallible;
use std::mem::{needs_drop, size_of, take};

use thalweg_kernel::{Collector, Mark, Timestamp};

use crate::pipeline::{Chain, Operator, Then};
use crate::process::failure::{Failures, FunctionError};
use crate::stream::Stream;

/// At most this many records pass on together, so that they stay in the first-level cache.
const GATHERED_MAX: usize = 128;
/// Records of more bytes than this pass one by one.
const GATHERED_BYTES_MAX: usize = 32;
/// A step of fewer records does not say whether gathering is worth it.
const SEEN_MIN: usize = 64;
/// Gathering is worth it where at least this many records pass on together, on average.
const TOGETHER_MIN: usize = 16;
/// Gathering is tried again after this many steps.
const PAUSE_STEPS: u32 = 64;

/// See [`Stream::filter`].
struct Filter<F, T> {
    predicate: F,
    failures: Failures,
    /// Kept and not yet passed on.
    gathered: Vec<(Timestamp, T)>,
    /// Whether records are gathered in this step.
    gathers: bool,
    /// How many steps have passed since records were gathered last.
    paused: u32,
    /// How many records this step has seen and kept, and how often it passed gathered records on.
    seen: usize,
    kept: usize,
    passes: usize,
}

impl<C: Chain> Stream<C> {
    /// Keeps the records for which `predicate` holds.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// flow.source(Collection::new([1, 2, 3, 4]), Watermarks::monotonous())
    ///     .filter(|n| n % 2 == 0)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("filter")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [2, 4]);
    /// ```
    pub fn filter(
        self,
        mut predicate: impl FnMut(&C::Out) -> bool + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = C::Out>>> {
        self.try_filter(move |value| Ok::<_, Infallible>(predicate(value)))
    }

    /// Keeps the records for which `predicate` holds, or fails: [`on_error`](Self::on_error) says what becomes of the
    /// record then.
    pub fn try_filter<E: Into<FunctionError> + 'static>(
        self,
        predicate: impl FnMut(&C::Out) -> Result<bool, E> + 'static,
    ) -> Stream<Then<C, impl Operator<C::Out, Out = C::Out>>> {
        self.then_failing("Filter", |failures| Filter::new(predicate, failures))
    }
}

impl<F, T> Filter<F, T> {
    /// Whether such records can be written over, and cheaply.
    const PLAIN: bool = !needs_drop::<T>() && size_of::<T>() <= GATHERED_BYTES_MAX;

    fn new(predicate: F, failures: Failures) -> Self {
        Self {
            predicate,
            failures,
            gathered: Vec::new(),
            gathers: false,
            paused: 0,
            seen: 0,
            kept: 0,
            passes: 0,
        }
    }

    #[inline(never)]
    fn pass_on(&mut self, out: &mut impl Collector<T>) {
        self.passes += 1;
        self.kept += self.gathered.len();
        let mut gathered = take(&mut self.gathered);
        for (time, value) in gathered.drain(..) {
            out.record(time, value);
        }
        self.gathered = gathered;
    }

    /// Whether to gather in the next step.
    fn judge(&mut self) {
        if self.gathers {
            let guessable = self.kept * 4 < self.seen || self.kept * 4 > self.seen * 3;
            let together = self.kept >= self.passes * TOGETHER_MIN;
            self.gathers = !guessable && together && self.seen >= SEEN_MIN;
            (self.paused, self.seen, self.kept, self.passes) = (0, 0, 0, 0);
            return;
        }
        self.paused += 1;
        self.gathers = self.paused >= PAUSE_STEPS;
        if self.gathers && self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED_MAX);
        }
    }
}

impl<T, E, F> Filter<F, T>
where
    E: Into<FunctionError>,
    F: FnMut(&T) -> Result<bool, E>,
{
    #[inline(always)]
    fn keeps(&mut self, time: Timestamp, value: &T) -> bool {
        self.failures.call(time, || (self.predicate)(value)).unwrap_or(false)
    }
}

impl<T, E, F> Operator<T> for Filter<F, T>
where
    T: 'static,
    E: Into<FunctionError>,
    F: FnMut(&T) -> Result<bool, E> + 'static,
{
    type Out = T;

    const GATHERS: bool = Self::PLAIN;

    #[inline(always)]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<T>) {
        if self.keeps(time, &value) {
            out.record(time, value);
        }
    }

    #[inline(always)]
    fn gathers(&self) -> bool {
        self.gathers
    }

    #[inline(always)]
    fn gather(&mut self, time: Timestamp, value: T, out: &mut impl Collector<T>) {
        if self.gathered.len() == self.gathered.capacity() {
            self.pass_on(out);
        }
        self.seen += 1;
        let before = self.gathered.len();
        let keep = self.keeps(time, &value);
        self.gathered.push((time, value));
        self.gathered.truncate(before + usize::from(keep));
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<T>) {
        if !self.gathered.is_empty() {
            self.pass_on(out);
        }
        self.failures.mark(mark);
        out.mark(mark);
    }

    fn ready(&self) -> bool {
        self.failures.have_room()
    }

    #[inline]
    fn settle(&mut self, out: &mut impl Collector<T>) {
        if Self::PLAIN {
            if !self.gathered.is_empty() {
                self.pass_on(out);
            }
            self.judge();
        }
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}

#[cfg(test)]
mod tests {
    use thalweg_testing::mix;

    use super::*;

    #[derive(Default)]
    struct Log(Vec<(Timestamp, Option<u64>)>);

    impl Collector<u64> for Log {
        fn record(&mut self, time: Timestamp, value: u64) {
            self.0.push((time, Some(value)));
        }

        fn mark(&mut self, mark: Mark) {
            let Mark::Watermark(watermark) = mark else { panic!("{mark:?}") };
            self.0.push((watermark, None));
        }
    }

    /// Takes `records` in each step, with a mark behind every `marked`-th one, and returns in how many of
    /// 1,000 steps they were gathered. Each step must let pass what a plain filter does, in order.
    fn gathered_steps(records: u64, marked: u64, keep: fn(u64) -> bool) -> usize {
        let mut filter =
            Filter::new(move |n: &u64| Ok::<_, Infallible>(keep(*n)), Failures::default());
        let mut gathered = 0;
        for step in 0..1_000 {
            let (mut out, mut expected) = (Log::default(), Log::default());
            let gathers = filter.gathers();
            gathered += usize::from(gathers);
            for n in step * records..(step + 1) * records {
                let (time, mark) = (Timestamp::from(n), Mark::Watermark(n.into()));
                match gathers {
                    true => filter.gather(time, n, &mut out),
                    false => filter.record(time, n, &mut out),
                }
                if keep(n) {
                    expected.record(time, n);
                }
                if n.is_multiple_of(marked) {
                    filter.mark(mark, &mut out);
                    expected.mark(mark);
                }
            }
            filter.settle(&mut out);
            assert_eq!(out.0, expected.0, "step {step} of {records} records");
        }
        gathered
    }

    #[test]
    fn what_cannot_be_guessed_is_gathered_and_nothing_else_changes() {
        let tried = 1_000 / (PAUSE_STEPS as usize + 1);
        let third = |n| mix(n).is_multiple_of(3);
        assert_eq!(gathered_steps(1_024, 1_000, third), 1_000 - PAUSE_STEPS as usize);
        assert_eq!(
            gathered_steps(200, 150, |n| mix(n).is_multiple_of(2)),
            1_000 - PAUSE_STEPS as usize
        );
        // Few at a time, with a mark for each, nearly none, nearly all.
        assert_eq!(gathered_steps(10, 1_000, third), tried);
        assert_eq!(gathered_steps(256, 1, third), tried);
        assert_eq!(gathered_steps(256, 100, |n| mix(n).is_multiple_of(256)), tried);
        assert_eq!(gathered_steps(256, 100, |n| !mix(n).is_multiple_of(256)), tried);
    }

    #[test]
    fn records_that_are_large_or_own_something_are_not_put_aside() {
        let plain = [
            Filter::<fn(&u64) -> bool, u64>::PLAIN,
            Filter::<fn(&String) -> bool, String>::PLAIN,
            Filter::<fn(&[u64; 5]) -> bool, [u64; 5]>::PLAIN,
        ];
        assert_eq!(plain, [true, false, false]);
    }
}
