//! [`Backlog`]: what the last run has left in the outboxes, and in which order it leaves. Pure.
//!
//! The changes of one topic keep their order if older epochs are published first. In one run a topic belongs to one
//! shard, whose outbox is in order. What the last run has left may be of another number of shards: then the outboxes
//! of several shards have notes of one topic. So of what was left only the oldest epoch is published, on all shards,
//! and then the next. What this run adds comes when nothing of it is left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};

/// See the module.
pub(crate) struct Backlog {
    left: Mutex<Left>,
    /// Notes of this epoch and of older ones may be published.
    upto: AtomicU64,
}

#[derive(Debug)]
struct Left {
    /// Shards that have still to open.
    opening: usize,
    /// The notes that were left, by their epochs.
    notes: BTreeMap<Epoch, usize>,
}

impl Left {
    fn upto(&self) -> u64 {
        match self.notes.first_key_value() {
            _ if seeded(Defect::MqttOldRowsLate) => u64::MAX,
            _ if self.opening > 0 => 0,
            Some((epoch, _)) => epoch.number(),
            None => u64::MAX,
        }
    }
}

impl Backlog {
    /// Of this many shards, none of which has opened.
    pub(crate) fn new(shards: usize) -> Self {
        let left = Left { opening: shards, notes: BTreeMap::new() };
        Self { left: Mutex::new(left), upto: AtomicU64::new(0) }
    }

    /// Up to which epoch notes may be published now.
    pub(crate) fn upto(&self) -> Epoch {
        Epoch::new(self.upto.load(Ordering::Acquire))
    }

    /// A shard opens with notes of these epochs; whether more may be published than before.
    pub(crate) fn open(&self, epochs: impl Iterator<Item = Epoch>) -> bool {
        self.change(|left| {
            left.opening = left.opening.saturating_sub(1);
            epochs.for_each(|epoch| *left.notes.entry(epoch).or_default() += 1);
        })
    }

    /// A note that was left is on its way; whether more may be published than before.
    pub(crate) fn sent(&self, epoch: Epoch) -> bool {
        self.change(|left| {
            if let Some(count) = left.notes.get_mut(&epoch) {
                *count -= 1;
                if *count == 0 {
                    left.notes.remove(&epoch);
                }
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut Left)) -> bool {
        // Never left half-changed, so a panic elsewhere does not matter.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut left);
        let upto = left.upto();
        self.upto.swap(upto, Ordering::AcqRel) < upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_epoch_leaves_first_and_only_when_all_are_there() {
        let backlog = Backlog::new(2);
        let epochs = |numbers: &[u64]| numbers.iter().map(|&n| Epoch::new(n)).collect::<Vec<_>>();
        assert!(!backlog.open(epochs(&[5, 7]).into_iter()));
        assert_eq!(backlog.upto(), Epoch::NONE);
        assert!(backlog.open(epochs(&[6, 5]).into_iter()));
        assert_eq!(backlog.upto(), Epoch::new(5));
        assert!(!backlog.sent(Epoch::new(5)));
        assert!(backlog.sent(Epoch::new(5)) && backlog.upto() == Epoch::new(6));
        assert!(backlog.sent(Epoch::new(6)) && backlog.upto() == Epoch::new(7));
        assert!(backlog.sent(Epoch::new(7)) && backlog.upto() == Epoch::new(u64::MAX));
    }
}
