//! What a process function is told of the call at hand, and what it does there: timers, side outputs, failing.

use std::any::TypeId;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Key, Timestamp};

use super::failure::FunctionError;
use super::timers::{AllTimers, Fired, TimerSpace};
use crate::exchange::side::SideTag;
use crate::state::TimeDomain;

/// Stands for the key where there is none: in functions of streams that are not partitioned, and in calls for no
/// key in particular. It is no [`Key`], so that such a call reaches neither keyed state nor timers.
#[derive(Debug)]
pub struct NoKey(());

/// What a process function is told of the call at hand. `K` is the key, or [`NoKey`].
pub struct Context<'a, K> {
    pub(crate) key: &'a K,
    /// The key's hash for tables.
    pub(crate) hash: u64,
    pub(crate) time: Timestamp,
    pub(crate) watermark: Timestamp,
    /// The event time that has been dealt with: the watermark, or while timers fire, the time of the latest.
    pub(crate) reached: Timestamp,
    pub(crate) processing_time: Timestamp,
    pub(super) timers: Option<&'a mut AllTimers<K>>,
    pub(super) fired: Option<Fired>,
    pub(super) failure: Option<FunctionError>,
    /// The function that is asked whether it wants to know of watermarks; none if it does not, or nobody asks.
    asked: Option<TypeId>,
}

impl Context<'_, NoKey> {
    /// Tells a function of a watermark: whether it wants to know. One does not whose call is the
    /// [default](super::Process::watermark), which does nothing.
    #[inline]
    pub(super) fn wants_watermarks<F: 'static>(
        &mut self,
        function: &mut F,
        tell: impl FnOnce(&mut F, &mut Self),
    ) -> bool {
        self.asked = Some(TypeId::of::<F>());
        tell(function, self);
        self.asked.is_some()
    }

    /// `F` does nothing but pass its calls on to `G`.
    #[inline]
    pub(super) fn asks_instead<F: 'static, G: 'static>(&mut self) {
        if self.asked == Some(TypeId::of::<F>()) {
            self.asked = Some(TypeId::of::<G>());
        }
    }

    /// A call of `F` that does nothing. (`F` may stand within another function, which does something: that is another type.)
    #[inline]
    pub(super) fn does_nothing<F: ?Sized + 'static>(&mut self) {
        if self.asked == Some(TypeId::of::<F>()) {
            self.asked = None;
        }
    }

    /// A call for no key.
    #[inline]
    pub(super) fn of_none(
        time: Timestamp,
        watermark: Timestamp,
        processing_time: Timestamp,
    ) -> Self {
        Self {
            key: &NoKey(()),
            hash: 0,
            time,
            watermark,
            reached: watermark,
            processing_time,
            timers: None,
            fired: None,
            failure: None,
            asked: None,
        }
    }
}

impl<'a, K> Context<'a, K> {
    /// A call for a key, at this event time, with this watermark, when event time has reached that.
    #[inline]
    pub(super) fn of_key(
        (key, hash): (&'a K, u64),
        (time, watermark, reached): (Timestamp, Timestamp, Timestamp),
        processing_time: Timestamp,
        timers: &'a mut AllTimers<K>,
        fired: Option<Fired>,
    ) -> Self {
        let timers = Some(timers);
        let (failure, asked) = (None, None);
        Self { key, hash, time, watermark, reached, processing_time, timers, fired, failure, asked }
    }
}

impl<K> Context<'_, K> {
    /// The record's event time, or the time for which the timer was set; otherwise the watermark.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The watermark: no record of this time or an earlier one is expected any more. It is that of the key where the stream
    /// has a [clock per key](crate::KeyedStream::clock_per_key), and of all keys otherwise.
    #[inline]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Whether the record at hand has come behind the watermark, when no record of its time was expected any more.
    #[inline]
    pub fn is_late(&self) -> bool {
        self.time <= self.watermark
    }

    /// This machine's clock, as of the step.
    #[inline]
    pub fn processing_time(&self) -> Timestamp {
        self.processing_time
    }

    /// Emits to a side output, with the time of the call.
    pub fn side<E>(&self, tag: &SideTag<E>, value: E) {
        tag.emit(self.time, value);
    }

    /// Does what may fail, with `?` as anywhere. With an error the call of the function has failed, and
    /// [`on_error`](crate::Stream::on_error) says what becomes of its record. The function goes on behind this, without a
    /// result; the last error of a call counts.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # use thalweg_kernel::Collector;
    /// /// The sum of each meter's readings, which come as text.
    /// struct Sum {
    ///     sum: ValueState<char, i64>,
    /// }
    ///
    /// impl Process<char, &'static str> for Sum {
    ///     type Out = i64;
    ///
    ///     fn record(
    ///         &mut self,
    ///         text: &'static str,
    ///         cx: &mut Context<'_, char>,
    ///         out: &mut impl Collector<i64>,
    ///     ) {
    ///         cx.attempt(|cx| {
    ///             let reading: i64 = text[1..].parse()?;
    ///             let sum = self.sum.get(cx).unwrap_or_default();
    ///             let sum = sum.checked_add(reading).ok_or("the sum is too large")?;
    ///             self.sum.set(cx, sum);
    ///             out.record(cx.time(), sum);
    ///             Ok(())
    ///         });
    ///     }
    /// }
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// # let texts = ["a1", "b7", "ax", "b9223372036854775807", "a3"];
    /// # let readings = flow.source(Collection::new(texts), Watermarks::monotonous());
    /// readings
    ///     .key_by(|text| text.chars().next().unwrap_or_default())
    ///     .process(|states| Sum { sum: states.value("sum") })
    ///     .on_error(OnError::Skip)
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("attempt")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [1, 7, 4]);
    /// ```
    #[inline]
    pub fn attempt<R>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<R, FunctionError>,
    ) -> Option<R> {
        match act(self) {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed(error);
                None
            }
        }
    }

    #[cold]
    fn failed(&mut self, error: FunctionError) {
        self.failure = Some(error);
    }
}

impl<K: Key> Context<'_, K> {
    /// The key.
    #[inline]
    pub fn key(&self) -> &K {
        self.key
    }

    /// Which timer fires, if this call is because of one.
    #[inline]
    pub fn fired(&self) -> Option<Fired> {
        self.fired
    }

    /// Sets a timer of this key in event time.
    pub fn event_timer(&mut self, time: Timestamp) {
        self.set_timer(TimerSpace::OWN, TimeDomain::EventTime, time);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_event_timer(&mut self, time: Timestamp) {
        self.delete_timer(TimerSpace::OWN, TimeDomain::EventTime, time);
    }

    /// Sets a timer of this key by this machine's clock.
    pub fn processing_timer(&mut self, time: Timestamp) {
        self.set_timer(TimerSpace::OWN, TimeDomain::ProcessingTime, time);
    }

    /// Takes a timer of this key back, if there is one at that time.
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.delete_timer(TimerSpace::OWN, TimeDomain::ProcessingTime, time);
    }

    /// Sets a timer of this key in a [space](crate::States::timers) of timers.
    #[inline]
    pub fn set_timer(&mut self, space: TimerSpace, domain: TimeDomain, time: Timestamp) {
        let space = if seeded(Defect::FlowTimerLosesItsSpace) { TimerSpace::OWN } else { space };
        if let Some(timers) = &self.timers {
            timers.of(space, domain).borrow_mut().insert(time, self.hash, self.key);
        }
    }

    /// Takes a timer of this key back from a space of timers, if there is one at that time.
    #[inline]
    pub fn delete_timer(&mut self, space: TimerSpace, domain: TimeDomain, time: Timestamp) {
        if let Some(timers) = &self.timers {
            timers.of(space, domain).borrow_mut().delete(time, self.hash, self.key);
        }
    }
}
