//! Where one partition's poll puts its records: they get their event time here, and watermarks follow them.

use thalweg_kernel::source::clock_ahead;
use thalweg_kernel::{
    Cause, Collector, DeadLetter, DecodeError, Emit, Mark, Origin, PartitionId, Str, Timestamp,
};

use super::letters::MessageLetters;

use crate::counters::Counter;
use crate::dead_letters::DeadLetterOutput;
use crate::notices::SourceNotices;
use crate::time::generator::WatermarkGenerator;
use crate::time::merge::Merge;
use crate::time::watermarks::{EventTime, PartitionClock, Watermarks};

/// Clocks that are right differ by less.
const CLOCKS_DIFFER_MS: i64 = 1_000;

pub(super) struct Emitting<'a, E, G, C> {
    pub(super) index: usize,
    /// A copy, at hand without a look at where the partition is.
    pub(super) clock: PartitionClock,
    pub(super) generator: &'a mut G,
    pub(super) merge: &'a mut Merge,
    pub(super) watermarks: &'a Watermarks<E, G>,
    pub(super) now: Timestamp,
    pub(super) latest_believed: Timestamp,
    /// No record moves time further than to there.
    pub(super) holds_at: Timestamp,
    pub(super) notices: &'a SourceNotices,
    pub(super) ahead: &'a Counter,
    pub(super) dead_letters: &'a DeadLetterOutput,
    pub(super) partition: &'a PartitionId,
    pub(super) out: &'a mut C,
    pub(super) records: usize,
    pub(super) letters: usize,
    /// Those of the message that is being emitted.
    pub(super) of_message: MessageLetters,
}

impl<E, G, C> Emitting<'_, E, G, C> {
    #[cold]
    fn wake<T>(&mut self)
    where
        C: Collector<T>,
    {
        self.clock.wake();
        self.merge.mark(self.index, Mark::Active, |mark| self.out.mark(mark));
    }

    #[cold]
    fn refuse(&mut self, event: Timestamp, origin: &impl Origin) {
        let (now, guard_ms) = (self.now, self.watermarks.clock_guard_ms);
        let letter = || origin.dead_letter(clock_ahead(event, now, guard_ms));
        self.bury(Cause::ClockAhead, letter);
    }

    #[cold]
    fn bury(&mut self, cause: Cause, letter: impl FnOnce() -> DeadLetter) {
        self.letters += 1;
        let partition = self.partition;
        let letter = || {
            let mut letter = letter();
            letter.partition.get_or_insert_with(|| partition.as_str().into());
            letter
        };
        self.of_message.push(self.emitted(), cause, letter, self.dead_letters);
    }

    const fn emitted(&self) -> usize {
        self.records + self.letters
    }

    /// A record is ahead of this machine's clock by more than clocks that are right differ.
    #[cold]
    fn is_ahead(&mut self, who: Str, by_ms: i64) {
        self.ahead.add(1);
        self.notices.is_ahead(who, by_ms);
    }

    /// Time goes on behind a record of this sender.
    #[inline(never)]
    fn advance<T>(&mut self, event: Timestamp, who: Option<Str>)
    where
        C: Collector<T>,
        G: WatermarkGenerator<T>,
        E: EventTime<T>,
    {
        let held = event.min(self.holds_at);
        let moves = self.clock.observe(held);
        if E::NAMES
            && let Some(who) = who
        {
            let ahead_ms = event.ms_since(self.now);
            if E::FROM_RECORD && ahead_ms > CLOCKS_DIFFER_MS {
                self.is_ahead(who.clone(), ahead_ms);
            }
            if moves {
                self.notices.moves(Some(who), held);
            }
        }
        let event = held;
        if moves && let Some(watermark) = self.generator.latest(event) {
            self.pass_on(watermark);
        }
    }

    #[inline(always)]
    fn pass_on<T>(&mut self, watermark: Timestamp)
    where
        C: Collector<T>,
    {
        if self.clock.advance(watermark) {
            let mark = Mark::Watermark(watermark);
            self.merge.mark(self.index, mark, |mark| self.out.mark(mark));
        }
    }

    /// The generator has said so of itself. (The end of time is the engine's to say.)
    #[inline(never)]
    pub(super) fn generated<T>(&mut self, watermark: Timestamp)
    where
        C: Collector<T>,
    {
        self.pass_on(watermark.min(Timestamp::MAX.minus_ms(1)));
    }
}

impl<T, E: EventTime<T>, G: WatermarkGenerator<T>, C: Collector<T>> Emit<T>
    for Emitting<'_, E, G, C>
{
    #[inline]
    fn record(&mut self, value: T, received: Timestamp, origin: &impl Origin) {
        let time = self.watermarks.event_time.of(&value, received);
        let mut who = None;
        if time >= self.clock.news_from() {
            if E::FROM_RECORD && time > self.latest_believed {
                return self.refuse(time, origin);
            }
            if self.clock.is_idle() {
                self.wake();
            }
            if E::NAMES {
                who = self.watermarks.event_time.name(&value);
            }
        }
        let generated = if G::SEES_RECORDS { self.generator.record(&value, time) } else { None };
        self.records += 1;
        self.out.record(time, value);
        // Asked again, not kept from above: then the chain is compiled once and not twice.
        if time >= self.clock.news_from() {
            self.advance(time, who);
        }
        if let Some(watermark) = generated {
            self.generated(watermark);
        }
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.bury(letter.cause, || letter);
    }

    #[cold]
    fn refused(&mut self, error: DecodeError, origin: &impl Origin) {
        self.bury(error.cause, || origin.dead_letter(error));
    }

    #[inline]
    fn begin_message(&mut self) {
        self.of_message.begin(self.emitted());
    }

    #[inline]
    fn end_message(&mut self) {
        self.of_message.end(self.emitted(), self.dead_letters);
    }
}
