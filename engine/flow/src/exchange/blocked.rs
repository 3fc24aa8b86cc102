//! Whether the sender of a lane waits for room, on which both of its ends agree without a lock.
//!
//! The sender says that it waits and then looks for room once more; the receiver makes room and then looks whether
//! somebody waits. Each fences between its own write and its look at the other's, so that one of them always sees
//! the other (the store-buffer pattern).

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::sync::{AtomicBool, fence};

/// See the module.
#[derive(Default)]
pub(crate) struct Blocked(AtomicBool);

impl Blocked {
    /// The sender: pushes what it has. If there is no room, the receiver knows of it when it makes some.
    #[inline]
    pub(crate) fn push<T>(
        &self,
        value: T,
        mut push: impl FnMut(T) -> Result<(), T>,
    ) -> Result<(), T> {
        let Err(value) = push(value) else { return Ok(()) };
        self.0.store(true, Relaxed);
        fence(SeqCst);
        // The receiver may have made room before it could see the flag.
        push(value)?;
        self.0.store(false, Relaxed);
        Ok(())
    }

    /// The receiver, having made room: whether the sender is to be woken.
    #[inline]
    pub(crate) fn made_room(&self) -> bool {
        fence(SeqCst);
        self.0.swap(false, Relaxed)
    }
}
