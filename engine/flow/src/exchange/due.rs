//! What the receiver of a lane waits for, on which both of its ends agree without a lock: see `kept.rs`.
//!
//! The receiver publishes its *due time*, the least watermark that could make anything happen behind it. The end of time
//! says that nothing waits, and the beginning that every mark matters. The sender *asks* to be woken when a due time
//! comes that is not above the one it names. It asks so for a watermark that it keeps, and for a due time of the lane on
//! which it relies.
//!
//! A lane brings each due time once. When the receiver's watermark of the lane, `told`, is at the due time or above, other
//! lanes hold that time back. So what matters is a watermark that passes the due time from below.
//!
//! The sender asks and then looks at the due time once more; the receiver publishes and then looks at what it was asked.
//! All of that is sequentially consistent, so that one of them always sees the other (the store-buffer pattern).

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::sync::AtomicI64;

/// The due time of a receiver behind which nothing waits; asked, that any due time matters.
pub(crate) const NOTHING: i64 = i64::MAX;
/// The due time of a receiver to which every mark matters; asked, that none does.
pub(crate) const EVERYTHING: i64 = i64::MIN;

/// See the module. All times are in milliseconds.
#[derive(Debug)]
pub(crate) struct Due {
    due: AtomicI64,
    asks: AtomicI64,
}

impl Default for Due {
    fn default() -> Self {
        // Until the receiver has said more.
        Self { due: AtomicI64::new(EVERYTHING), asks: AtomicI64::new(EVERYTHING) }
    }
}

/// Whether a receiver with this due time, whom the lane has told this watermark, misses what its sender asks about.
#[inline]
fn matters(due: i64, told: i64, asks: i64) -> bool {
    match (due, asks) {
        (NOTHING, _) | (_, EVERYTHING) => false,
        (EVERYTHING, _) | (_, NOTHING) => true,
        _ => told < due && due <= asks,
    }
}

impl Due {
    /// The sender: whether the receiver can do without this for now.
    #[inline]
    pub(crate) fn spares(&self, asks: i64, told: i64) -> bool {
        !matters(self.due.load(SeqCst), told, asks)
    }

    /// The sender: asks to be woken when the receiver cannot do without this any more. The receiver may have published
    /// before it could see what it is asked, so the sender looks again.
    #[inline]
    pub(crate) fn ask(&self, asks: i64) {
        self.asks.store(asks, SeqCst);
    }

    /// The sender: it asks for less, and nothing hangs on when the receiver sees that.
    #[inline]
    pub(crate) fn ask_less(&self, asks: i64) {
        self.asks.store(asks, Relaxed);
    }

    /// The due time.
    #[inline]
    pub(crate) fn due(&self) -> i64 {
        self.due.load(SeqCst)
    }

    /// The receiver: its due time is another one now. Whether the sender is to be woken.
    #[inline]
    pub(crate) fn publish(&self, due: i64, told: i64) -> bool {
        self.due.store(due, SeqCst);
        matters(due, told, self.asks.load(SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_a_watermark_that_passes_the_due_time_from_below() {
        assert!(matters(10, 9, 10) && matters(10, EVERYTHING, 15));
        assert!(!matters(10, 5, 9), "it does not come so far");
        assert!(!matters(10, 10, 15), "the lane has brought it");
        assert!(!matters(NOTHING, 5, 15) && !matters(NOTHING, 5, NOTHING), "nothing waits");
        assert!(matters(EVERYTHING, 5, 6) && matters(EVERYTHING, 5, NOTHING), "all matters");
        assert!(matters(10, 15, NOTHING), "the merged watermark may jump");
        assert!(!matters(10, 5, EVERYTHING) && !matters(EVERYTHING, 5, EVERYTHING), "not asked");
    }

    #[test]
    fn a_sender_is_woken_for_a_due_time_that_it_has_asked_about() {
        let due = Due::default();
        assert!(!due.spares(10, 5), "until the receiver has said more, everything matters");
        assert!(!due.publish(11, 5) && due.spares(10, 5));
        due.ask(10);
        assert!(due.publish(10, 5) && !due.spares(10, 5));
        due.ask_less(EVERYTHING);
        assert!(!due.publish(9, 5));
    }
}
