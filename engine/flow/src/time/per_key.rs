//! A clock per key: the watermark of a key follows from the records of that key alone.
//!
//! # What it is for
//! The watermark of a stream is one for all keys. A device that was offline for three hours brings a backlog for which the
//! others have no place any more: all of it is late. With a clock per key the backlog moves the clock of its device, from
//! where the device left it. Every window of the device is right, and the others go on meanwhile.
//!
//! # Design
//! A keyed stream carries its [`ClockPerKey`], placed or not, to the function that follows, which is a process function. There
//! it becomes a [`KeyClocks`]: a state of the operator, with an entry for each key.
//!
//! - **A record** sees the watermark of its key as the records of that key before it have left it. It is
//!   [late](crate::Context::is_late) by that watermark. Behind it the clock moves on. The event timers of the key that are due by then
//!   fire in order of their times, before anything else happens to the key.
//! - **The stream's watermark** goes on as ever, to the function's `watermark` and to what stands behind. It fires no timer
//!   before the stream ends. At the end all event timers fire, of all keys, in order of their times.
//! - **A processing-time timer** sees the watermark of its key, too. The event timers that it sets fire as if a record had set
//!   them.
//! - **A silent key** keeps its timers until it speaks again or the stream ends. With
//!   [`idle_after`](crate::Watermarks::idle_after) a key has a timeout in steady time. Once it has been silent for that, those of
//!   its timers fire that the watermark of the stream has passed. The clock of the key goes to the last timer that fires,
//!   and no further. What a device brings later is late only where its timers have fired already. A key that stays silent is
//!   looked at again each time that the timeout has passed.
//! - **A clock is stored** with the key: its watermark, its latest event time, and what its generator keeps. So it is part of
//!   each checkpoint, lies in the key's group, is restored on any number of shards, and may leave memory.
//!
//! The seam for strategies is that of sources, [`WatermarkGenerator`]. A generator is restored for each record and
//! saved behind it, unless it keeps nothing, as bounded disorder does. No key is looked at while nothing of it comes, so
//! `tick` is called behind each record. A strategy with [`every`](crate::Watermarks::every) passes on there what it has held.
//!
//! # Limits
//! - Clocks count as keys of the operator (`keys_max`). They go when their key is evicted. Where all states of the function have
//!   a time to live, a clock has the longest of these, from the last record of its key on. Otherwise it lives for ever.
//! - A time to live in event time is refused. Memory is freed by the watermark of the stream, which means nothing to a key that
//!   is hours behind.
//! - The clock is that of the function that follows, and of no operator behind it. What the function emits for a key that is
//!   behind is late where the watermark of the stream decides. `process_keyed` gives a stream that may have a clock per key of its own.
//!   Windows, and an operator with two keyed inputs, refuse a stream that has one.
//! - The timers that one record makes due may be more than the work of a step. The rest fires in the steps that follow, and
//!   later records wait meanwhile, those of other keys, too: so the order of results does not depend on the size of steps.
//! - The order of a key's records decides what is late. Several partitions that bring records of one key are merged as they
//!   come.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};
use thalweg_kernel::{Key, StateError, Timestamp};

use super::generator::WatermarkGenerator;
use super::watermarks::{Received, Watermarks};
use crate::checkpoint::Checkpoints;
use crate::flow::Flow;
use crate::pipeline::Now;
use crate::state::keyed::Keyed;
use crate::state::{AtKey, StateOptions, States, TimeDomain, Ttl};

/// A strategy that is still being described. The state that it becomes is named in [`open`](Self::open).
pub(crate) struct ClockPerKey<K, T> {
    open: Open<K, T>,
    pub(crate) idle_after: Option<Duration>,
}

type Open<K, T> = Box<dyn FnOnce(&Flow, &mut States<'_, K>) -> Box<dyn KeyClocks<K, T>>>;

/// The clocks of an operator's keys, whatever generator they have.
pub(crate) trait KeyClocks<K, T> {
    /// Takes a record: the watermarks of its key in front of it and behind it.
    fn follow(
        &mut self,
        at: &AtKey<'_, K>,
        record: &T,
        time: Timestamp,
        now: Now,
    ) -> (Timestamp, Timestamp);

    /// How far the clock of a key has come.
    fn watermark(&mut self, at: &AtKey<'_, K>) -> Timestamp;

    /// The clock of a key goes on to there, if it is not further already; where it is then.
    fn advance(&mut self, at: &AtKey<'_, K>, to: Timestamp) -> Timestamp;
}

impl<K: Key, T: 'static> ClockPerKey<K, T> {
    pub(crate) fn new<G: WatermarkGenerator<T>>(strategy: Watermarks<Received, G>) -> Self {
        let Watermarks { generator, idle_after, .. } = strategy;
        let open = |flow: &Flow, states: &mut States<'_, K>| {
            let ttl = time_to_live(states.ttls()).unwrap_or_else(|what| {
                flow.fail(what);
                None
            });
            let options = ttl.into_iter().fold(StateOptions::new(), StateOptions::ttl);
            let weigh = |_: &K, clock: &Clock| clock.generator.capacity();
            let kept = states.entries_with("clock of the key", options, weigh);
            let checkpoints = Rc::clone(flow.checkpoints());
            Box::new(Clocks { kept, generator, checkpoints }) as Box<dyn KeyClocks<K, T>>
        };
        Self { open: Box::new(open), idle_after }
    }

    /// The clocks, as one more of the states of an operator.
    pub(crate) fn open(self, flow: &Flow, states: &mut States<'_, K>) -> Box<dyn KeyClocks<K, T>> {
        (self.open)(flow, states)
    }
}

/// How long clocks live beside states that live so long.
fn time_to_live(
    ttls: impl Iterator<Item = Option<Ttl>>,
) -> Result<Option<Ttl>, thalweg_kernel::ConnectorError> {
    let ttls: Vec<_> = ttls.collect();
    if ttls.iter().flatten().any(|ttl| ttl.domain == TimeDomain::EventTime) {
        let what = "a function of a stream with clock_per_key() has a state with Ttl::event_time, which would go by the \
                    watermark of the stream; use Ttl::processing_time, or a timer that clears the state";
        return Err(thalweg_kernel::ConnectorError::new("job", what));
    }
    let all: Option<Vec<_>> = ttls.into_iter().collect();
    let longest = all.and_then(|ttls| ttls.into_iter().map(|ttl| ttl.lives_ms).max());
    let millis = longest.map(|ms| Duration::from_millis(ms.unsigned_abs()));
    Ok(millis.map(Ttl::processing_time))
}

/// The clock of a key, as it is kept.
#[derive(Archive, Serialize, Deserialize)]
struct Clock {
    latest: Timestamp,
    watermark: Timestamp,
    generator: Vec<u8>,
}

impl Clock {
    fn new() -> Self {
        Self { latest: Timestamp::MIN, watermark: Timestamp::MIN, generator: Vec::new() }
    }

    /// Takes a record, with a generator that keeps nothing yet; the watermarks in front of the record and behind it.
    fn follow<T, G: WatermarkGenerator<T>>(
        &mut self,
        generator: &mut G,
        record: &T,
        time: Timestamp,
        now: Now,
    ) -> Result<(Timestamp, Timestamp), String> {
        if !self.generator.is_empty() {
            generator.restore(&self.generator)?;
        }
        let mut said = if G::SEES_RECORDS { generator.record(record, time) } else { None };
        if time > self.latest {
            self.latest = time;
            said = said.max(generator.latest(time));
        }
        said = said.max(generator.tick(now));
        self.generator.clear();
        generator.save(&mut self.generator);
        let before = self.watermark;
        // The end of time is the engine's to say.
        let said = said.unwrap_or(Timestamp::MIN).min(Timestamp::MAX.minus_ms(1));
        self.watermark = before.max(said);
        Ok((before, self.watermark))
    }
}

/// See the module.
struct Clocks<K, G> {
    kept: Rc<RefCell<Keyed<K, Clock>>>,
    generator: G,
    checkpoints: Rc<Checkpoints>,
}

impl<K: Key, T: 'static, G: WatermarkGenerator<T>> KeyClocks<K, T> for Clocks<K, G> {
    fn follow(
        &mut self,
        at: &AtKey<'_, K>,
        record: &T,
        time: Timestamp,
        now: Now,
    ) -> (Timestamp, Timestamp) {
        let (mut kept, mut generator) = (self.kept.borrow_mut(), self.generator.clone());
        let (followed, grown) = kept.change(at, Clock::new, |clock| {
            let before = clock.generator.capacity() as isize;
            let followed = clock.follow(&mut generator, record, time, now);
            (followed, clock.generator.capacity() as isize - before)
        });
        kept.grow_by(grown);
        followed.unwrap_or_else(|why| {
            self.checkpoints.fail(StateError::Other(format!(
                "what was stored of the clock of key {} is not what its generator wrote ({why}); start the job with the \
                 strategy that wrote it, or give the operator another stable name to begin anew",
                at.key.describe()
            )));
            (Timestamp::MIN, Timestamp::MIN)
        })
    }

    fn watermark(&mut self, at: &AtKey<'_, K>) -> Timestamp {
        self.kept.borrow_mut().get(at).map_or(Timestamp::MIN, |clock| clock.watermark)
    }

    fn advance(&mut self, at: &AtKey<'_, K>, to: Timestamp) -> Timestamp {
        self.kept.borrow_mut().change(at, Clock::new, |clock| {
            clock.watermark = clock.watermark.max(to);
            clock.watermark
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(of: &[Option<Ttl>]) -> Result<Option<Ttl>, String> {
        time_to_live(of.iter().copied()).map_err(|error| error.to_string())
    }

    #[test]
    fn clocks_live_as_long_as_what_lives_longest() {
        let [short, long] = [5, 9].map(|s| Ttl::processing_time(Duration::from_secs(s)));
        assert_eq!(lives(&[Some(long), Some(short)]), Ok(Some(long)));
        assert_eq!(lives(&[Some(long), None]), Ok(None));
        assert_eq!(lives(&[]), Ok(None));
        let refused = lives(&[Some(Ttl::event_time(Duration::from_secs(5)))]).unwrap_err();
        assert!(refused.contains("use Ttl::processing_time"), "{refused}");
    }
}
