//! Triggers: when a window yields a result, and when what it keeps is dropped.
//!
//! A trigger is asked with each record of a window and with each of its timers, and says what is to happen. It may keep a
//! small state for each key and window, and set timers in event time and processing time.
//!
//! Whatever the trigger says, a window ends when the watermark reaches its last millisecond. The trigger is asked one
//! last time then; after that all that is kept of the window is dropped, the trigger's state included. A record whose windows
//! have all ended is late. (There is no allowed lateness yet: it would be a distance between the last millisecond and
//! the end, in `per_key.rs`.)
//!
//! # Windows that merge
//! When a record joins windows, their contents become one, and so do the trigger's states. A timer stands for the window in
//! which it was set, also when that has become part of a larger one. So a trigger may be asked at times which it did not set.

use thalweg_kernel::{Durable, Timestamp};

use super::time_window::TimeWindow;

/// What is to happen with a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fires {
    /// Nothing.
    No,
    /// It yields a result, and keeps what it has.
    Yes,
    /// It yields a result, and begins anew.
    AndPurges,
    /// It begins anew without a result.
    Purges,
}

/// Says when windows yield results: see the module's source.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Timestamp;
/// /// A result with every third record, and one at the end.
/// struct EveryThird;
///
/// impl<T> Trigger<T> for EveryThird {
///     type State = u32;
///
///     fn record(&mut self, _: &T, _: Timestamp, cx: &mut TriggerContext<'_, u32>) -> Fires {
///         *cx.state += 1;
///         if *cx.state % 3 == 0 { Fires::Yes } else { Fires::No }
///     }
///
///     fn merge(&mut self, into: &mut u32, other: &u32) {
///         *into += other;
///     }
/// }
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new((0..5).map(|time| ("a", time))),
/// #     Watermarks::monotonous().timestamps(|&(_, time)| time),
/// # );
/// readings
///     .key_by(|&(device, _)| device)
///     .window(Tumbling::of(Duration::from_secs(1)))
///     .trigger(EveryThird)
///     .aggregate(Count)
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("trigger")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # assert_eq!(out.take().into_iter().map(|w| w.value).collect::<Vec<_>>(), [3, 5]);
/// ```
pub trait Trigger<T>: 'static {
    /// What it keeps of each key and window; `()` costs nothing.
    type State: Durable + Default;

    /// A record has come into the window.
    fn record(
        &mut self,
        _record: &T,
        _time: Timestamp,
        _cx: &mut TriggerContext<'_, Self::State>,
    ) -> Fires {
        Fires::No
    }

    /// The watermark has reached `time`: that of a timer, or the window's last millisecond.
    fn event_time(&mut self, time: Timestamp, cx: &mut TriggerContext<'_, Self::State>) -> Fires {
        if time >= cx.window.last { Fires::Yes } else { Fires::No }
    }

    /// This machine's clock has reached the time of a timer.
    fn processing_time(
        &mut self,
        _time: Timestamp,
        _cx: &mut TriggerContext<'_, Self::State>,
    ) -> Fires {
        Fires::No
    }

    /// A window becomes part of another one: adds its state to the other's.
    fn merge(&mut self, into: &mut Self::State, other: &Self::State);

    /// Windows have become the one of `cx`, by the record with which the trigger is asked next.
    fn merged(&mut self, _cx: &mut TriggerContext<'_, Self::State>) -> Fires {
        Fires::No
    }
}

/// What a trigger is told of the window at hand, and where it sets timers.
pub struct TriggerContext<'a, S> {
    /// The window, as it is now.
    pub window: TimeWindow,
    /// What the trigger keeps of the window and its key.
    pub state: &'a mut S,
    /// No record of this time or an earlier one is expected any more.
    pub watermark: Timestamp,
    /// This machine's clock, as of the step.
    pub processing_time: Timestamp,
    pub(super) timers: &'a mut dyn SetTimers,
}

/// Where the timers of a key and window are set.
pub(super) trait SetTimers {
    fn event(&mut self, time: Timestamp);
    fn processing(&mut self, time: Timestamp);
}

impl<S> TriggerContext<'_, S> {
    /// Asks again when the watermark reaches `time`. A time behind the window's last millisecond is cut off to it.
    pub fn event_timer(&mut self, time: Timestamp) {
        self.timers.event(time.min(self.window.last));
    }

    /// Asks again when this machine's clock reaches `time`, unless the window has ended by then.
    pub fn processing_timer(&mut self, time: Timestamp) {
        self.timers.processing(time);
    }
}

/// The default trigger: one result, when the watermark reaches the window's last millisecond.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnWatermark;

impl<T> Trigger<T> for OnWatermark {
    type State = ();

    fn merge(&mut self, _into: &mut (), _other: &()) {}
}
