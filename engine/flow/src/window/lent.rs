//! The few keys of the slice at hand, while the sender has them (`local.rs`).
//!
//! The sender and the operator share the windows of a shard, each for as long as one call takes. To borrow them anew with
//! each record costs a check and two writes. So the sender has the keys of the slice at hand until it puts the slice down.
//! That happens before anything else reads windows or adds to them.

use thalweg_kernel::Key;

use super::few::Few;
use super::storage::Stamped;

/// See the module.
pub(super) struct LentKeys<K, A> {
    keys: Few<K, Stamped<A>>,
    stamp: u32,
}

impl<K: Key, A> LentKeys<K, A> {
    /// No keys.
    pub(super) const fn none() -> Self {
        Self { keys: Few::new(), stamp: 0 }
    }

    /// Takes `keys` out of a slice; `stamp` is that of the open epoch.
    pub(super) fn of(keys: &mut Few<K, Stamped<A>>, stamp: u32) -> Self {
        Self { keys: std::mem::replace(keys, Few::new()), stamp }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The accumulator of a key that has changed since the last barrier already. (The slice notes the first change.)
    #[inline(always)]
    pub(super) fn get(&mut self, hash: u64, key: &K) -> Option<&mut A> {
        let kept = self.keys.get(hash, key)?;
        if kept.stamp == self.stamp { Some(&mut kept.accumulator) } else { None }
    }

    /// The keys, for their slice.
    pub(super) fn into_keys(self) -> Few<K, Stamped<A>> {
        self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_hash::table_hash;

    /// Goal: what is at hand changes nothing that the next checkpoint would miss.
    #[test]
    fn a_key_is_at_hand_once_its_change_is_noted_and_all_keys_go_back() {
        let (mut keys, mut dirty) = (Few::new(), Vec::new());
        for (key, stamp) in [(1_u32, 4), (2, 5)] {
            keys.insert(table_hash(&key), key, Stamped { accumulator: 10_u64, stamp });
        }
        let hash = table_hash(&1);
        let mut lent = LentKeys::of(&mut keys, 5);
        assert!(keys.is_empty() && !lent.is_empty());
        assert!(lent.get(hash, &1).is_none(), "its change would be missed");
        *lent.get(table_hash(&2), &2).unwrap() += 1;

        keys = lent.into_keys();
        keys.get(hash, &1).unwrap().mark(5, hash, &mut dirty);
        let mut lent = LentKeys::of(&mut keys, 5);
        *lent.get(hash, &1).unwrap() += 1;
        assert!(lent.get(table_hash(&3), &3).is_none());
        assert_eq!(dirty, [hash]);
        let kept: Vec<_> =
            lent.into_keys().drain().map(|(key, kept)| (key, kept.accumulator)).collect();
        assert_eq!(kept, [(1, 11), (2, 11)]);
    }
}
