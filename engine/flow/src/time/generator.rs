//! How a watermark follows from records: the seam, and the generators that come with the engine.
//!
//! A generator belongs to one partition of a source. It is pure: what it says depends on the records, on the
//! clocks that a step brings, and on what it keeps. What it keeps is stored with the partition's position, and
//! so is the last watermark. A record that was late before a restart is late after it.
//!
//! | strategy | where a watermark stands |
//! |---|---|
//! | [`BoundedDisorder`] | behind each record that is later than all before it |
//! | [`Punctuated`] | behind the records that say so |
//! | [`Periodic`] | at the end of a step, at most once in an interval, as another generator has it |
//! | your own | wherever [`WatermarkGenerator`] returns one |
//!
//! Watermarks never go back: the engine passes over one that is not above the last.
//!
//! **Reproducible results** need generators that look at records alone. One that looks at a clock, as
//! [`Periodic`] does, decides by this machine's speed which record is late: a replay may decide otherwise.

use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::{Durable, StateWriter, Timestamp};

use crate::pipeline::Now;

/// Makes the watermarks of one partition. Each partition has its own clone.
///
/// ```
/// # use thalweg_flow::*;
/// # use thalweg_kernel::Timestamp;
/// /// Knows how late the latest records of a device were, and allows for as much again.
/// #[derive(Clone, Default)]
/// struct Adaptive { latest: i64, behind_ms: i64 }
///
/// impl<T> WatermarkGenerator<T> for Adaptive {
///     fn record(&mut self, _: &T, time: Timestamp) -> Option<Timestamp> {
///         let time = time.as_millis();
///         self.latest = self.latest.max(time);
///         self.behind_ms = (self.behind_ms - self.behind_ms / 64).max(self.latest - time);
///         Some(Timestamp::from(self.latest - 2 * self.behind_ms - 1))
///     }
///
///     fn save(&self, out: &mut Vec<u8>) {
///         out.extend([self.latest, self.behind_ms].iter().flat_map(|n| n.to_le_bytes()));
///     }
///
///     fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
///         let (latest, behind) = saved.split_at_checked(8).ok_or("it is too short")?;
///         let number = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes);
///         let number = |bytes| number(bytes).map_err(|_| "it is no number of eight bytes");
///         (self.latest, self.behind_ms) = (number(latest)?, number(behind)?);
///         Ok(())
///     }
/// }
///
/// let watermarks = Watermarks::generated_by(Adaptive::default()).timestamps(|&(_, time): &(u32, i64)| time);
/// # let _ = watermarks;
/// ```
pub trait WatermarkGenerator<T>: Clone + 'static {
    /// Whether [`record`](Self::record) is to be called. A generator that says no costs one comparison per record.
    const SEES_RECORDS: bool = true;

    /// Takes a record, and returns the watermark behind it. The clock guard has let the record through.
    fn record(&mut self, _value: &T, _time: Timestamp) -> Option<Timestamp> {
        None
    }

    /// Takes the event time of a record that is later than all before it, and returns the watermark behind that
    /// record.
    fn latest(&mut self, _time: Timestamp) -> Option<Timestamp> {
        None
    }

    /// A step has polled the partition: returns the watermark that follows from the clocks.
    fn tick(&mut self, _now: Now) -> Option<Timestamp> {
        None
    }

    /// The steady time at which [`tick`](Self::tick) has more to say, if nothing comes until then.
    fn tick_at(&self) -> Option<Duration> {
        None
    }

    /// Writes what it keeps. The engine keeps the last watermark and the latest event time by itself.
    fn save(&self, _out: &mut Vec<u8>) {}

    /// Goes on from what [`save`](Self::save) wrote; from nothing, where a job of an earlier release or another
    /// strategy had nothing to write.
    ///
    /// # Errors
    /// If it did not write this: says what is wrong. The job does not start.
    fn restore(&mut self, _saved: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Records come up to a bound behind the latest one. The watermark is the latest event time minus the bound
/// minus one millisecond. So a record *at* the bound is not late. (Flink's definition.)
#[derive(Clone, Copy, Debug)]
pub struct BoundedDisorder {
    pub(crate) lateness_ms: i64,
}

impl<T> WatermarkGenerator<T> for BoundedDisorder {
    const SEES_RECORDS: bool = false;

    #[inline(always)]
    fn latest(&mut self, time: Timestamp) -> Option<Timestamp> {
        Some(time.minus_ms(self.lateness_ms).minus_ms(1))
    }
}

/// Some records say themselves how far time has come: a function returns the watermark behind such
/// records.
#[derive(Clone, Copy, Debug)]
pub struct Punctuated<F>(pub(crate) F);

impl<T, F: Fn(&T, Timestamp) -> Option<Timestamp> + Clone + 'static> WatermarkGenerator<T>
    for Punctuated<F>
{
    fn record(&mut self, value: &T, time: Timestamp) -> Option<Timestamp> {
        (self.0)(value, time)
    }
}

/// Passes on the watermarks of another generator at most once in an interval of steady time.
#[derive(Clone, Copy, Debug)]
pub struct Periodic<G> {
    inner: G,
    interval: Duration,
    /// The highest watermark since the last one that was passed on.
    held: Option<Timestamp>,
    due_at: Duration,
}

impl<G> Periodic<G> {
    pub(crate) fn new(inner: G, interval: Duration) -> Self {
        Self { inner, interval, held: None, due_at: Duration::ZERO }
    }

    fn hold(&mut self, watermark: Option<Timestamp>) {
        self.held = self.held.max(watermark);
    }
}

/// What a [`Periodic`] keeps.
#[derive(Archive, Serialize, Deserialize)]
struct Saved {
    held: Option<Timestamp>,
    inner: Vec<u8>,
}

impl<T, G: WatermarkGenerator<T>> WatermarkGenerator<T> for Periodic<G> {
    const SEES_RECORDS: bool = G::SEES_RECORDS;

    fn record(&mut self, value: &T, time: Timestamp) -> Option<Timestamp> {
        let watermark = self.inner.record(value, time);
        self.hold(watermark);
        None
    }

    fn latest(&mut self, time: Timestamp) -> Option<Timestamp> {
        let watermark = self.inner.latest(time);
        self.hold(watermark);
        None
    }

    fn tick(&mut self, now: Now) -> Option<Timestamp> {
        let watermark = self.inner.tick(now);
        self.hold(watermark);
        if now.steady < self.due_at {
            return None;
        }
        let due = self.held.take();
        if due.is_some() {
            self.due_at = now.steady.saturating_add(self.interval);
        }
        due
    }

    fn tick_at(&self) -> Option<Duration> {
        let held = self.held.map(|_| self.due_at);
        [held, self.inner.tick_at()].into_iter().flatten().min()
    }

    fn save(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        self.inner.save(&mut inner);
        let saved = Saved { held: self.held, inner };
        // Only a value of more than 2 GiB cannot be written; then what is held comes with the next record.
        if let Ok(bytes) = StateWriter::default().write(std::mem::take(out), &saved) {
            *out = bytes;
        }
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        if saved.is_empty() {
            return self.inner.restore(saved);
        }
        let saved = Saved::read(saved).map_err(|error| error.to_string())?;
        self.held = saved.held;
        self.inner.restore(&saved.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { steady: Duration::from_millis(ms), ..Now::default() }
    }

    #[test]
    fn a_periodic_generator_keeps_to_its_interval_and_loses_no_watermark() {
        type Generator = Periodic<BoundedDisorder>;
        let mut periodic =
            Periodic::new(BoundedDisorder { lateness_ms: 5 }, Duration::from_millis(10));
        let tick = |periodic: &mut Generator, ms| WatermarkGenerator::<u8>::tick(periodic, at(ms));
        let due = |periodic: &Generator| WatermarkGenerator::<u8>::tick_at(periodic);
        let latest = |periodic: &mut Generator, time: i64| {
            assert_eq!(WatermarkGenerator::<u8>::latest(periodic, time.into()), None);
        };
        latest(&mut periodic, 100);
        assert_eq!(tick(&mut periodic, 50), Some(94.into()));
        assert_eq!(due(&periodic), None, "nothing is held");
        latest(&mut periodic, 110);
        latest(&mut periodic, 120);
        assert_eq!(tick(&mut periodic, 59), None);
        assert_eq!(due(&periodic), Some(Duration::from_millis(60)));
        let mut saved = Vec::new();
        WatermarkGenerator::<u8>::save(&periodic, &mut saved);
        let mut other =
            Periodic::new(BoundedDisorder { lateness_ms: 5 }, Duration::from_millis(10));
        WatermarkGenerator::<u8>::restore(&mut other, &saved).unwrap();
        assert_eq!(tick(&mut periodic, 60), Some(114.into()));
        assert_eq!(tick(&mut other, 0), Some(114.into()), "what was held is held after a restart");
        assert!(WatermarkGenerator::<u8>::restore(&mut other, &[1]).is_err());
    }
}
