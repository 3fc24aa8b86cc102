//! [`RefusedResults`]: dead letters on their way from the thread behind a sink to the sink's shard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::DeadLetter;

/// The letters that wait for one shard, at most. The sink has counted and logged each before, so further ones are
/// left out.
pub const REFUSED_RESULTS_MAX: usize = 4_096;

/// See the [module](self). While there are none, asking costs one load.
#[derive(Debug, Default)]
pub struct RefusedResults {
    letters: Mutex<VecDeque<DeadLetter>>,
    any: AtomicBool,
}

impl RefusedResults {
    /// Adds a letter, unless [`REFUSED_RESULTS_MAX`] wait already. Wake the shard afterwards.
    #[cold]
    pub fn push(&self, letter: DeadLetter) {
        let mut letters = self.letters();
        if letters.len() < REFUSED_RESULTS_MAX {
            letters.push_back(letter);
            self.any.store(true, Ordering::Release);
        }
    }

    /// Takes the oldest one.
    #[inline]
    pub fn pop(&self) -> Option<DeadLetter> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut letters = self.letters();
        let letter = letters.pop_front();
        self.any.store(!letters.is_empty(), Ordering::Release);
        letter
    }

    /// Never left half-changed, so a panic elsewhere does not matter.
    fn letters(&self) -> MutexGuard<'_, VecDeque<DeadLetter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn letters_come_out_in_order_and_have_a_bound() {
        let refused = RefusedResults::default();
        for n in 0..REFUSED_RESULTS_MAX + 5 {
            refused.push(DeadLetter::of_result("sink", n.to_string(), Timestamp::default(), b""));
        }
        let out: Vec<_> =
            std::iter::from_fn(|| refused.pop()).map(|letter| letter.reason).collect();
        assert!(out.iter().enumerate().all(|(n, reason)| *reason == n.to_string()));
        assert_eq!((out.len(), refused.pop()), (REFUSED_RESULTS_MAX, None));
    }
}
