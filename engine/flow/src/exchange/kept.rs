//! Watermarks wake nobody who has nothing due: what a lane keeps back, and for how long.
//!
//! # Idea
//! At a gateway's rates a batch holds one record, and every other shard gets a batch with the watermark alone. To wake
//! a shard for it costs more than the record, and mostly the watermark closes nothing there.
//!
//! So the receiver of a lane publishes its *due time* (`due.rs`): the least watermark that could make anything happen behind
//! it. That is the earliest window end or event timer of the operators there, or the due time of what they feed. When a
//! step ends, an open batch without records, barrier and end *stays* at the sender if the receiver can do without it. It
//! goes with the next record or barrier, or when the due time falls so far, or after
//! [`Tuning::watermark_delay_max`](crate::Tuning).
//!
//! | what the marks of the batch come to | wakes the receiver |
//! |---|---|
//! | a watermark | if it passes the due time from below |
//! | idle, so that the merged watermark may jump | if anything is due at all |
//! | active, if idle has gone | always |
//! | the end of time, an end, a barrier | always |
//!
//! Marks that stay are rewritten to what they come to, so they are two at most. A lane that falls idle and wakes up again
//! has said nothing.
//!
//! # Why that is safe
//! The marks of a lane keep their places among its records. So whoever keeps a batch is like a shard that is a bit slower.
//! How fast a shard is changes no result of records that come in time. A lane that speaks again is the exception, for which
//! receivers must not be fast. Its records could be late behind the watermarks of others. So nobody keeps that mark, where
//! the mark of silence has gone.
//!
//! A record that is late behind the watermark of *another* lane is called late if the receiver knows of that watermark. That is
//! a race of two shards, also where each watermark goes at once. What is kept lengthens the race from microseconds to that
//! delay. State that expires in event time would be seen for as much longer, by records that come in time. So
//! to a function with such a state every mark matters.
//!
//! # Why results come no later
//! What matters goes at once, by what the receiver has published. The receiver publishes at the end of each step whatever has
//! changed. If it waits for something now that the sender keeps, it wakes the sender. A due time may come from a lane to
//! a third shard, behind the receiver. Then the receiver has asked to be woken when the due time of that lane falls. A due
//! time of such a lane that has risen is not told by itself. So once the lane has got a watermark of that time, every
//! mark matters until the due time is another one.
//!
//! A queue of this shard, or the shard's lane to itself, may have passed a due time that stands behind it. Others hold that
//! back, and no watermark that comes through the queue makes it happen. It must hide no later due time, so it counts as
//! [`OF_OTHERS`]. A change of a due time on this shard is always told.

use std::sync::Arc;
use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

use super::due::{Due, EVERYTHING, NOTHING};

/// The due time of a reader that waits for others: no watermark matters to it, but an idle mark may. In milliseconds.
const OF_OTHERS: i64 = NOTHING - 1;

/// The due time of a reader on this shard, for a writer who has brought it this watermark.
#[inline]
pub(super) fn due_behind(due: Timestamp, watermark: Timestamp) -> Timestamp {
    let is_of_others = due <= watermark && due > Timestamp::MIN;
    if is_of_others && !seeded(Defect::FlowPassedDueHidesLater) {
        return OF_OTHERS.into();
    }
    due
}

/// What the marks of a lane come to.
#[derive(Clone, Copy)]
struct Standing {
    watermark: Timestamp,
    is_idle: bool,
    has_ended: bool,
}

/// The sender's side of a lane to another shard. See the module.
pub(crate) struct Keeping {
    due: Arc<Due>,
    delay_max: Duration,
    /// By all marks so far, and by those that were sent.
    stands: Standing,
    told: Standing,
    /// What the receiver was asked, for what is kept and for the due time that others were told. `EVERYTHING` is neither.
    asked: i64,
    kept: i64,
    relied: i64,
    /// In steady time: when what is kept must go.
    until: Option<Duration>,
}

impl Keeping {
    pub(crate) fn new(due: Arc<Due>, delay_max: Duration) -> Self {
        let begin = Standing { watermark: Timestamp::MIN, is_idle: false, has_ended: false };
        Self {
            due,
            delay_max,
            stands: begin,
            told: begin,
            asked: EVERYTHING,
            kept: EVERYTHING,
            relied: EVERYTHING,
            until: None,
        }
    }

    /// The lane has got a mark.
    #[inline]
    pub(crate) fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Watermark(watermark) => self.stands.watermark = watermark,
            Mark::Idle => self.stands.is_idle = true,
            Mark::Active => self.stands.is_idle = false,
            Mark::End => self.stands.has_ended = true,
            Mark::Barrier(_) => {}
        }
    }

    /// The open batch has gone.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.told = self.stands;
        if self.kept != EVERYTHING {
            self.keeps_nothing();
        }
    }

    /// Whether an open batch stays that holds marks alone, and no barrier. It is rewritten to what it comes to.
    pub(crate) fn stays<T>(&mut self, open: &mut Batch<T>) -> bool {
        let Self { stands, told, .. } = *self;
        let ends = stands.has_ended || stands.watermark == Timestamp::MAX;
        if ends || self.due.due() == EVERYTHING {
            return false;
        }
        let turns = stands.is_idle != told.is_idle;
        if open.marks().len() > 1 || !turns {
            open.clear();
            if turns && !stands.is_idle {
                open.mark(Mark::Active);
            }
            if stands.watermark > told.watermark {
                open.mark(Mark::Watermark(stands.watermark));
            }
            if turns && stands.is_idle {
                open.mark(Mark::Idle);
            }
        }
        if open.is_empty() {
            self.keeps_nothing();
            return true;
        }
        if turns && !stands.is_idle && !seeded(Defect::FlowKeepsActive) {
            return false;
        }
        let falls_idle = turns && stands.is_idle;
        self.keep(if falls_idle { NOTHING } else { stands.watermark.as_millis() })
    }

    /// Keeps what is open, unless the receiver needs it now.
    fn keep(&mut self, asks: i64) -> bool {
        let told = self.told.watermark.as_millis();
        if seeded(Defect::FlowKeepsDueWatermark) && asks != NOTHING {
            self.kept = asks;
            return true;
        }
        if !self.due.spares(asks, told) {
            return false;
        }
        self.kept = asks;
        self.ask();
        self.due.spares(asks, told)
    }

    #[cold]
    fn keeps_nothing(&mut self) {
        (self.kept, self.until) = (EVERYTHING, None);
        self.asked = self.asks();
        self.due.ask_less(self.asked);
    }

    /// What the receiver is to be asked.
    fn asks(&self) -> i64 {
        // Where others were told that nothing waits, any due time is news.
        self.kept.max(self.relied.saturating_sub(1))
    }

    fn ask(&mut self) {
        let asks = self.asks();
        if asks != self.asked {
            self.asked = asks;
            self.due.ask(asks);
        }
    }

    /// The receiver's due time. This shard is woken when that falls, from now on.
    pub(crate) fn rely(&mut self) -> Timestamp {
        let due = self.due.due();
        if !seeded(Defect::FlowReliesUnasked) {
            self.relied = due;
            self.ask();
        }
        // It may have fallen before the receiver could see that it is asked.
        let due = Timestamp::from(due.min(self.due.due()));
        if due <= self.stands.watermark { Timestamp::MIN } else { due }
    }

    /// The receiver's due time, for a source that is silent and may let time go on. This shard is woken whenever it is another
    /// one, until it [forgets](Self::forget) that.
    pub(crate) fn watch(&mut self) -> Timestamp {
        self.relied = NOTHING;
        self.ask();
        due_behind(self.due.due().into(), self.stands.watermark)
    }

    /// Nobody relies on the due time any more.
    pub(crate) fn forget(&mut self) {
        self.relied = EVERYTHING;
        self.asked = self.asks();
        self.due.ask_less(self.asked);
    }

    /// When what is kept must go, if anything is.
    #[inline]
    pub(crate) fn kept_until(&mut self, now: Duration) -> Option<Duration> {
        if self.kept == EVERYTHING || seeded(Defect::FlowKeepsForever) {
            return None;
        }
        if self.until.is_none() {
            let until = now.saturating_add(self.delay_max);
            self.until = (until < Duration::MAX).then_some(until);
        }
        self.until
    }

    /// Whether anything is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.kept != EVERYTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane whose receiver waits for this, and what it does with marks.
    struct Lane {
        due: Arc<Due>,
        keeping: Keeping,
        open: Batch<u32>,
    }

    impl Lane {
        fn new(due_at: i64) -> Self {
            let due = Arc::<Due>::default();
            due.publish(due_at, EVERYTHING);
            let keeping = Keeping::new(Arc::clone(&due), Duration::from_millis(100));
            Self { due, keeping, open: Batch::default() }
        }

        /// The marks that go when a step ends which has brought these.
        fn step(&mut self, marks: &[Mark]) -> Vec<Mark> {
            for &mark in marks {
                self.open.mark(mark);
                self.keeping.mark(mark);
            }
            if self.keeping.stays(&mut self.open) {
                return Vec::new();
            }
            self.keeping.sent();
            let gone = self.open.marks().iter().map(|&(_, mark)| mark).collect();
            self.open.clear();
            gone
        }
    }

    fn wm(ms: i64) -> Mark {
        Mark::Watermark(ms.into())
    }

    #[test]
    fn a_watermark_goes_when_it_is_due_and_then_no_more() {
        let mut lane = Lane::new(10);
        assert_eq!(lane.step(&[wm(5)]), []);
        assert_eq!(lane.step(&[wm(9)]), []);
        assert_eq!(lane.open.marks().len(), 1, "what stays is one");
        assert_eq!(lane.step(&[wm(10)]), [wm(10)]);
        assert_eq!(lane.step(&[wm(11)]), [], "others hold that time back");
        assert!(lane.due.publish(11, 10), "the sender is to be woken");
        assert_eq!(lane.step(&[]), [wm(11)]);
    }

    #[test]
    fn a_silence_that_is_over_says_nothing_and_one_that_lasts_goes_when_anything_is_due() {
        let mut lane = Lane::new(NOTHING);
        let silence = [Mark::Idle, Mark::Active, wm(7), Mark::Idle];
        for _ in 0..3 {
            assert_eq!(lane.step(&silence), []);
            assert_eq!(lane.open.marks(), [(0, wm(7)), (0, Mark::Idle)]);
            assert_eq!(lane.step(&[Mark::Active]), []);
            assert_eq!(lane.open.marks(), [(0, wm(7))]);
        }
        assert_eq!(lane.step(&[Mark::Idle]), []);
        assert!(lane.due.publish(1_000, EVERYTHING), "the merged watermark may jump there");
        assert_eq!(lane.step(&[]), [wm(7), Mark::Idle]);
        assert_eq!(lane.step(&[wm(8), Mark::Active]), [Mark::Active, wm(8)], "never kept");
    }

    #[test]
    fn what_waits_for_others_takes_a_silence_and_no_watermark() {
        let behind =
            |due: i64, watermark: i64| due_behind(due.into(), watermark.into()).as_millis();
        assert_eq!((behind(11, 10), behind(NOTHING, 10)), (11, NOTHING));
        assert_eq!(behind(EVERYTHING, 10), EVERYTHING);
        assert_eq!((behind(10, 10), behind(9, 10)), (OF_OTHERS, OF_OTHERS));
        let mut lane = Lane::new(OF_OTHERS);
        assert_eq!(lane.step(&[wm(15)]), []);
        assert_eq!(lane.step(&[Mark::Idle]), [wm(15), Mark::Idle]);
        let mut lane = Lane::new(OF_OTHERS);
        assert_eq!(lane.step(&[wm(15)]), []);
        assert!(lane.due.publish(15, EVERYTHING), "the sender is to be woken");
    }

    #[test]
    fn the_end_goes_and_so_does_everything_where_everything_matters() {
        let mut lane = Lane::new(NOTHING);
        let end = [Mark::Watermark(Timestamp::MAX), Mark::End];
        assert_eq!(lane.step(&end[..1]), end[..1]);
        assert_eq!(lane.step(&end[1..]), end[1..]);
        let mut lane = Lane::new(EVERYTHING);
        let silence = [Mark::Idle, Mark::Active];
        assert_eq!(lane.step(&silence), silence);
    }

    #[test]
    fn what_is_kept_has_its_time_from_the_first_mark_on() {
        let at = |ms: u64| Duration::from_millis(ms);
        let mut lane = Lane::new(10);
        assert_eq!(lane.keeping.kept_until(at(0)), None);
        assert_eq!(lane.step(&[wm(5)]), []);
        assert_eq!(lane.keeping.kept_until(at(3)), Some(at(103)));
        assert_eq!(lane.step(&[wm(6)]), []);
        assert_eq!(lane.keeping.kept_until(at(50)), Some(at(103)));
        assert_eq!(lane.step(&[wm(12)]), [wm(12)]);
        assert_eq!(lane.keeping.kept_until(at(60)), None);
    }

    #[test]
    fn whoever_relies_on_a_due_time_hears_when_it_falls() {
        let mut lane = Lane::new(NOTHING);
        assert_eq!(lane.keeping.rely(), Timestamp::MAX);
        assert!(lane.due.publish(50, EVERYTHING));
        assert_eq!(lane.keeping.rely(), 50.into());
        assert!(!lane.due.publish(50, EVERYTHING) && !lane.due.publish(60, EVERYTHING));
        assert!(lane.due.publish(49, EVERYTHING));
        // It may have risen since, unheard.
        assert_eq!(lane.step(&[wm(49)]), [wm(49)]);
        assert_eq!(lane.keeping.rely(), Timestamp::MIN);
    }
}
