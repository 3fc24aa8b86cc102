//! Which keys with timers have been silent for how long: for functions whose keys have [clocks](crate::time::per_key) with
//! an idle timeout.
//!
//! A key has one entry in a heap, by the time at which it is to be looked at. A record only notes when it came. So a key
//! that speaks is looked at once in a timeout, and put back. A key without timers is not in here.
//!
//! A key is not silent whose records only wait in a lane, because the operator was not stepped while a sink was full.
//! - No key is looked at in front of a step where the step before brought records: more may wait. Where no step goes without
//!   records for as long as the timeout, keys are looked at all the same.
//! - A step that comes later than it was wanted by more than the timeout, and by more than a second, ends a *stall*. All keys
//!   have been silent since that step then.
//!
//! None of this is stored: after a restart every key with a timer has been silent since the first step.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use thalweg_kernel::{Key, Timestamp};

use crate::state::table::{Found, KeyedTable, NEVER};

/// Steps that come later by this much or less end no stall: so late may a thread wake up.
const STALL_MIN: Duration = Duration::from_secs(1);

/// See the module. Hashes are those of [`table_hash`](crate::table_hash::table_hash).
pub(super) struct Silence<K> {
    after: Duration,
    /// When a record of the key came last, of each key in the heap.
    heard: KeyedTable<K, Duration, ()>,
    looks: BinaryHeap<Look<K>>,
    /// No key has been silent since before.
    since: Duration,
    /// The last step has brought a record.
    brought: bool,
}

/// When a key is to be looked at.
struct Look<K> {
    at: Duration,
    hash: u64,
    key: K,
}

impl<K> Ord for Look<K> {
    /// The earliest one is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.hash).cmp(&(self.at, self.hash))
    }
}

impl<K> PartialOrd for Look<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Look<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K> Eq for Look<K> {}

impl<K: Key> Silence<K> {
    /// Of keys that count as silent after this time.
    pub(super) fn new(after: Duration) -> Self {
        let (heard, looks) = (KeyedTable::new(), BinaryHeap::new());
        Self { after, heard, looks, since: Duration::ZERO, brought: false }
    }

    /// A step begins; when the one before it began.
    pub(super) fn step_begins(&mut self, before: Duration, now: Duration) {
        let Some(look_at) = self.look_at() else { return };
        if now.saturating_sub(before.max(look_at)) > self.after.max(STALL_MIN) {
            self.since = now;
        }
    }

    /// Whether keys may be looked at in the step that begins.
    pub(super) fn may_look(&mut self, now: Duration) -> bool {
        let overdue = |at: Duration| at.max(self.since).saturating_add(self.after) <= now;
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
        self.looks.push(Look { at: now.saturating_add(self.after), hash, key: key.clone() });
    }

    /// Looks at the key that is due next: one that is silent, or none where it has spoken. `None` if no key is due.
    pub(super) fn look(&mut self, now: Duration) -> Option<Option<(u64, K)>> {
        self.looks.peek().filter(|look| look.at <= now)?;
        let Look { hash, key, .. } = self.looks.pop()?;
        let Found::Here(held) = self.heard.get(hash, &key, Timestamp::MIN) else {
            return Some(None);
        };
        let silent_at = held.value.max(self.since).saturating_add(self.after);
        if silent_at > now {
            self.looks.push(Look { at: silent_at, hash, key });
            return Some(None);
        }
        self.heard.remove(hash, &key, Timestamp::MIN);
        Some(Some((hash, key)))
    }

    /// When the next key is to be looked at.
    pub(super) fn look_at(&self) -> Option<Duration> {
        self.looks.peek().map(|look| look.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_hash::table_hash;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_key_is_silent_when_nothing_of_it_came_for_so_long() {
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
        assert_eq!(silence.look_at(), None);
    }
}
