//! Which keys with timers have been silent for how long: for functions whose keys have [clocks](crate::time::per_key) with
//! an idle timeout.
//!
//! A key has one entry in order of the times at which keys are to be looked at. A record only notes when it came. So a key
//! that speaks is looked at once in a timeout, and put back. A key without timers is not in here.
//!
//! A key is not silent whose records only wait in a lane, because the operator was not stepped while a sink was full.
//! - No key is looked at in front of a step where the step before brought records: more may wait. Where no step goes without
//!   records for as long as the timeout, keys are looked at nevertheless.
//! - A step that comes later than it was wanted by more than the timeout, and by more than a second, ends a *stall*. All keys
//!   have been silent since that step then.
//!
//! None of this is stored: after a restart every key with a timer has been silent since one of the first steps. Its memory
//! counts with that of the timers.

use std::time::Duration;

use thalweg_kernel::{Key, Timestamp};

use crate::state::table::{Found, KeyedTable, NEVER};
use crate::state::timers::Timers;
use crate::table_hash::table_hash;

/// A step that comes too late by at most this much ends no stall, since a thread may wake up as late as that.
const STALL_MIN: Duration = Duration::from_secs(1);

/// See the module. Hashes are those of [`table_hash`](crate::table_hash::table_hash).
pub(super) struct Silence<K> {
    after: Duration,
    /// When a record of a key came last, of each key that is to be looked at.
    heard: KeyedTable<K, Duration, ()>,
    /// When each of them is to be looked at, in milliseconds.
    looks: Timers<K>,
    /// No key has been silent since before.
    since: Duration,
    /// The last step has brought a record.
    brought: bool,
}

/// A time of the steady clock, rounded up: no key is looked at too early.
fn look_at(at: Duration) -> Timestamp {
    Timestamp::from(i64::try_from(at.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

impl<K: Key> Silence<K> {
    /// Of keys that count as silent after this time.
    pub(super) fn new(after: Duration) -> Self {
        let (heard, looks) = (KeyedTable::new(), Timers::new(usize::MAX));
        Self { after, heard, looks, since: Duration::ZERO, brought: false }
    }

    /// About the bytes that it takes.
    pub(super) fn takes_bytes(&self) -> usize {
        // A bucket of a table is empty in three of eight cases, on average.
        self.heard.entries_bytes() * 8 / 5 + self.looks.takes_bytes()
    }

    /// A step begins; `before` is when the one before it began.
    pub(super) fn step_begins(&mut self, before: Duration, now: Duration) {
        let Some(look_at) = self.look_at() else { return };
        if now.saturating_sub(before.max(look_at)) > self.after.max(STALL_MIN) {
            self.since = now;
        }
    }

    /// Whether keys may be looked at in the step that begins.
    pub(super) fn may_look(&mut self, now: Duration) -> bool {
        let (since, after) = (self.since, self.after);
        let overdue = |at: Duration| at.max(since).saturating_add(after) <= now;
        let brought = std::mem::take(&mut self.brought);
        !brought || self.look_at().is_some_and(overdue)
    }

    /// A record of a key has come; `has_timers` says whether the key has any.
    #[inline]
    pub(super) fn heard(
        &mut self,
        (hash, key): (u64, &K),
        now: Duration,
        has_timers: impl FnOnce() -> bool,
    ) {
        self.brought = true;
        if let Found::Here(held) = self.heard.get_mut(hash, key, Timestamp::MIN) {
            held.value = now;
        } else if has_timers() {
            self.insert((hash, key), now);
        }
    }

    /// A key may have timers that no record of it has set: it counts as silent from now on, if it was not known.
    pub(super) fn watch(
        &mut self,
        (hash, key): (u64, &K),
        now: Duration,
        has_timers: impl FnOnce() -> bool,
    ) {
        if !matches!(self.heard.get(hash, key, Timestamp::MIN), Found::Here(_)) && has_timers() {
            self.insert((hash, key), now);
        }
    }

    fn insert(&mut self, (hash, key): (u64, &K), now: Duration) {
        self.heard.insert(hash, key.clone(), now, NEVER);
        self.looks.insert(look_at(now.saturating_add(self.after)), hash, key.clone());
    }

    /// Looks at the key that is due next: one that is silent, or none where it has spoken. `None` if no key is due.
    pub(super) fn look(&mut self, now: Duration) -> Option<Option<(u64, K)>> {
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let (_, key) = self.looks.pop_due(now_ms.into())?;
        let hash = table_hash(&key);
        let Found::Here(held) = self.heard.get(hash, &key, Timestamp::MIN) else {
            return Some(None);
        };
        let silent_at = held.value.max(self.since).saturating_add(self.after);
        if silent_at > now {
            self.looks.insert(look_at(silent_at), hash, key);
            return Some(None);
        }
        self.heard.remove(hash, &key, Timestamp::MIN);
        Some(Some((hash, key)))
    }

    /// When the next key is to be looked at.
    pub(super) fn look_at(&mut self) -> Option<Duration> {
        let at = self.looks.earliest()?.as_millis();
        Some(Duration::from_millis(at.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_key_is_silent_when_nothing_of_it_came_for_the_timeout() {
        let mut silence = Silence::new(at(10));
        let mut heard =
            |key: u32, ms: u64| silence.heard((table_hash(&key), &key), at(ms), || true);
        heard(1, 0);
        heard(2, 1);
        heard(1, 7);
        let mut silent = |ms: u64| {
            let mut all = Vec::new();
            while let Some(looked) = silence.look(at(ms)) {
                all.extend(looked.map(|(_, key)| key));
            }
            (all, silence.look_at())
        };
        assert_eq!(silent(9), (vec![], Some(at(10))));
        assert_eq!(silent(10), (vec![], Some(at(11))), "it spoke at 7");
        assert_eq!(silent(12), (vec![2], Some(at(17))));
        assert_eq!(silent(17), (vec![1], None));
    }

    /// Goal: what waited while nobody stepped the operator is no silence, and a thread that wakes up late ends no stall.
    #[test]
    fn a_stall_is_no_silence() {
        let mut silence = Silence::new(at(5_000));
        silence.heard((table_hash(&1), &1), at(0), || true);
        silence.step_begins(at(0), at(9_000));
        assert!(!silence.may_look(at(9_000)), "more may wait");
        assert!(silence.may_look(at(9_000)));
        silence.step_begins(at(9_000), at(40_000));
        assert_eq!(silence.look(at(40_000)), Some(None), "a stall");
        assert_eq!(silence.look(at(44_999)), None);
        silence.step_begins(at(40_000), at(46_000));
        assert_eq!(silence.look(at(46_000)), Some(Some((table_hash(&1), 1))));
    }

    #[test]
    fn keys_are_looked_at_in_the_end_though_each_step_brings_records() {
        let mut silence = Silence::new(at(5_000));
        silence.heard((table_hash(&1), &1), at(0), || true);
        let mut may_look = |ms: u64| {
            silence.heard((table_hash(&2), &2), at(ms), || false);
            silence.may_look(at(ms))
        };
        assert_eq!([4_000, 5_000, 9_999, 10_000].map(&mut may_look), [false, false, false, true]);
    }

    #[test]
    fn a_key_without_timers_is_not_looked_at() {
        let mut silence = Silence::new(at(10));
        silence.heard((table_hash(&1), &1), at(0), || false);
        assert_eq!((silence.look_at(), silence.takes_bytes()), (None, 0));
    }

    #[test]
    fn what_is_known_of_keys_takes_memory_until_they_are_silent() {
        let mut silence = Silence::new(at(10));
        (0..1_000_u64).for_each(|key| silence.heard((table_hash(&key), &key), at(0), || true));
        let takes = silence.takes_bytes();
        assert!(takes >= 1_000 * (size_of::<u64>() * 3 + size_of::<Duration>()), "{takes} bytes");
        while silence.look(at(10)).is_some() {}
        assert_eq!(silence.takes_bytes(), 0);
    }
}
