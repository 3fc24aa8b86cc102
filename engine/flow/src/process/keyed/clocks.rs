//! The process function of a stream that has a [clock per key](crate::time::per_key). The clock of a record's key decides
//! what is late and which timers fire.

use std::time::Duration;

use thalweg_kernel::{Collector, Key, Timestamp};

use super::KeyedProcessing;
use crate::flow::Flow;
use crate::pipeline::Now;
use crate::process::context::Context;
use crate::process::failure::Emits;
use crate::process::function::Process;
use crate::process::silence::Silence;
use crate::state::{AtKey, States};
use crate::table_hash::table_hash;
use crate::time::per_key::{ClockPerKey, FIRED_MAX, KeyClocks};

/// The clocks of a function's keys, and which of the keys are silent.
pub(super) struct ClocksOfKeys<K, T> {
    clocks: Box<dyn KeyClocks<K, T>>,
    silence: Option<Silence<K>>,
    now: Now,
    /// The keys of restored timers are known to `silence`.
    begun: bool,
}

impl<K: Key, T: 'static> ClocksOfKeys<K, T> {
    pub(super) fn open(clock: ClockPerKey<K, T>, flow: &Flow, states: &mut States<'_, K>) -> Self {
        let silence = clock.idle_after.map(Silence::new);
        let clocks = clock.open(flow, states);
        Self { clocks, silence, now: Now::default(), begun: false }
    }

    /// A step begins.
    pub(super) fn step_begins(&mut self, now: Now) {
        if let Some(silence) = &mut self.silence {
            silence.step_begins(self.now.steady, now.steady);
        }
        self.now = now;
    }

    /// How far the clock of a key has come.
    pub(super) fn watermark(&mut self, at: &AtKey<'_, K>) -> Timestamp {
        self.clocks.watermark(at)
    }
}

impl<K: Key, T: 'static, P: Process<K, T>> KeyedProcessing<K, T, P> {
    /// Processes a record by the clock of its key.
    #[inline(never)]
    pub(super) fn process_by_its_clock(
        &mut self,
        (time, key, hash): (Timestamp, K, u64),
        record: T,
        out: &mut impl Collector<P::Out>,
    ) {
        let at = self.at(&key, hash);
        let Some(of_keys) = &mut self.clocks else { return };
        let (before, behind) = of_keys.clocks.follow(&at, &record, time, of_keys.now);
        let call = |function: &mut P, cx: &mut Context<'_, K>, out: &mut Emits<'_, _>| {
            function.record(record, cx, out);
        };
        self.call((time, before, before), (&key, hash), None, out, call);
        for _ in 0..FIRED_MAX {
            if !self.fire_of_key((hash, &key), behind, behind, out) {
                break;
            }
        }
        let Self { clocks, timers, .. } = self;
        let Some(ClocksOfKeys { silence: Some(silence), now, .. }) = clocks else { return };
        silence.heard((hash, &key), now.steady, || timers.earliest_of(hash, &key).is_some());
    }

    /// Fires the earliest event timer of a key, if it is not after `until`; whether one was.
    fn fire_of_key(
        &mut self,
        (hash, key): (u64, &K),
        until: Timestamp,
        watermark: Timestamp,
        out: &mut impl Collector<P::Out>,
    ) -> bool {
        let Some((time, fired)) = self.timers.pop_due_of(hash, key, until) else { return false };
        let at = self.at(key, hash);
        // Of a silent key the clock goes on with its timers.
        let watermark = match &mut self.clocks {
            Some(of_keys) if time > watermark => of_keys.clocks.advance(&at, time),
            _ => watermark,
        };
        self.call_timer((time, watermark, time), (key, hash), fired, out);
        true
    }

    /// A call that no record has caused may have set timers of a key.
    pub(super) fn watch(&mut self, hash: u64, key: &K) {
        let Self { clocks, timers, .. } = self;
        let Some(ClocksOfKeys { silence: Some(silence), now, .. }) = clocks else { return };
        silence.watch((hash, key), now.steady, || timers.earliest_of(hash, key).is_some());
    }

    /// In a step that begins: fires timers of keys that are silent, as far as the stream's watermark has passed them. When
    /// more are to be looked at, on this machine's clock.
    #[inline]
    pub(super) fn fire_silent(
        &mut self,
        now: Now,
        out: &mut impl Collector<P::Out>,
    ) -> Option<Timestamp> {
        self.clocks.as_ref()?.silence.as_ref()?;
        self.look_at_silent(now, out)
    }

    #[inline(never)]
    fn look_at_silent(&mut self, now: Now, out: &mut impl Collector<P::Out>) -> Option<Timestamp> {
        if self.watermark == Timestamp::MAX {
            // The end fires all that there are.
            return None;
        }
        let Self { clocks, timers, .. } = &mut *self;
        let ClocksOfKeys { silence: Some(silence), begun, .. } = clocks.as_mut()? else {
            return None;
        };
        if !*begun {
            *begun = true;
            timers.keys(|key| silence.watch((table_hash(key), key), now.steady, || true));
        }
        let mut work_left = if silence.may_look(now.steady) { self.work_max } else { 0 };
        while work_left > 0 {
            let ClocksOfKeys { silence: Some(silence), .. } = self.clocks.as_mut()? else {
                return None;
            };
            let Some(looked) = silence.look(now.steady) else { break };
            work_left -= 1;
            let Some((hash, key)) = looked else { continue };
            while work_left > 0
                && self.fire_of_key((hash, &key), self.watermark, Timestamp::MIN, out)
            {
                work_left -= 1;
            }
            let Self { clocks, timers, .. } = &mut *self;
            let ClocksOfKeys { silence: Some(silence), .. } = clocks.as_mut()? else { return None };
            // Work that is left is done in the next step. Otherwise the key is looked at when it has been silent for as long
            // again.
            let since = if work_left > 0 { now.steady } else { Duration::ZERO };
            silence.watch((hash, &key), since, || timers.earliest_of(hash, &key).is_some());
        }
        let look_at = self.clocks.as_ref()?.silence.as_ref()?.look_at()?;
        let left = look_at.saturating_sub(now.steady);
        Some(now.wall.plus_ms(i64::try_from(left.as_millis()).unwrap_or(i64::MAX)))
    }
}
