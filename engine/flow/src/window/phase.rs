//! Where a firing stands, between two steps.

use super::pane::Pane;
use super::parts::Cursor;
use super::running::Firing;
use super::storage::{Stamped, Walk};

/// See the module; `firing.rs` goes from one to the next.
pub(super) enum Phase<K, A> {
    /// No window fires.
    Idle,
    /// The slices of a window are merged into what windows share, and this is the pane at hand.
    Merge { firing: Firing, pane: usize, cold: Walk, cursor: Cursor },
    /// A window yields its rows.
    Rows { firing: Firing, cursor: Cursor },
    /// A slice is taken out. Where windows do not overlap, that yields its rows, and rows of cold keys come first.
    TakeOut { firing: Firing, pane: Pane<K, Stamped<A>>, cold: Walk, cursor: Cursor },
}
