//! A sorted list of a key's entries, and of those that were removed and that the store may still show.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, OrderedKey, Timestamp};

use crate::state::table::NEVER;

const DIRTY: u64 = 1;
const STORED: u64 = 2;
const EPOCH_SHIFT: u32 = 2;

/// An entry in memory.
pub(super) struct Item<N, V> {
    pub(super) entry: N,
    pub(super) value: V,
    /// The last millisecond at which it is there.
    pub(super) until: Timestamp,
    /// Whether it has changed since the last snapshot, whether the store may have it, and the epoch that wrote it.
    marks: u64,
}

impl<N, V> Item<N, V> {
    /// One that the store does not have.
    pub(super) fn new(entry: N, value: V, until: Timestamp) -> Self {
        Self { entry, value, until, marks: DIRTY }
    }

    /// One as the store has it.
    pub(super) fn stored(entry: N, value: V, until: Timestamp) -> Self {
        Self { entry, value, until, marks: STORED }
    }

    /// One that the store has in another form.
    pub(super) fn migrated(entry: N, value: V, until: Timestamp) -> Self {
        Self { entry, value, until, marks: DIRTY | STORED }
    }

    #[inline]
    pub(super) fn lives_at(&self, now: Timestamp) -> bool {
        self.until >= now
    }

    /// It has changed since the last snapshot.
    pub(super) fn mark(&mut self) {
        self.marks |= DIRTY;
    }

    /// It was removed and is back: the store may have it.
    pub(super) fn mark_stored(&mut self) {
        self.marks |= STORED;
    }

    /// The snapshot of this epoch has written it.
    pub(super) fn written(&mut self, epoch: Epoch) {
        self.marks = epoch.number() << EPOCH_SHIFT | STORED;
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.marks & DIRTY != 0
    }

    pub(super) fn is_stored(&self) -> bool {
        self.marks & STORED != 0
    }

    /// Whether the store can give it back as it is.
    pub(super) fn is_readable(&self, readable: Epoch) -> bool {
        !self.is_dirty()
            && (self.marks >> EPOCH_SHIFT <= readable.number()
                || seeded(Defect::FlowEvictsUnreadable))
    }
}

/// An entry that was removed, and that the store may still show.
pub(super) struct Gone<N> {
    pub(super) entry: N,
    /// The epoch whose snapshot deleted it; `None` before that.
    pub(super) written: Option<Epoch>,
}

pub(super) fn is_past(written: Option<Epoch>, readable: Epoch) -> bool {
    written.is_some_and(|epoch| epoch <= readable)
}

/// See the module.
pub(super) struct Chunk<N, V> {
    pub(super) items: Vec<Item<N, V>>,
    #[expect(clippy::box_collection, reason = "nearly always none, so it should take one word")]
    pub(super) gone: Option<Box<Vec<Gone<N>>>>,
    /// No item's last millisecond is before this one.
    pub(super) earliest: Timestamp,
    /// Items and gone ones that the next snapshot writes.
    pub(super) dirty: u32,
    /// Entries of its range that are in the store alone.
    pub(super) cold: u16,
    /// Since memory was last searched for what can be dropped.
    pub(super) used: bool,
}

impl<N: OrderedKey, V> Chunk<N, V> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), gone: None, earliest: NEVER, dirty: 0, cold: 0, used: true }
    }

    /// Entries in memory and cold.
    pub(super) fn total(&self) -> usize {
        self.items.len() + usize::from(self.cold)
    }

    pub(super) fn is_unneeded(&self) -> bool {
        self.total() == 0 && self.gone.is_none()
    }

    pub(super) fn find(&self, entry: &N) -> Result<usize, usize> {
        self.items.binary_search_by(|item| item.entry.cmp(entry))
    }

    pub(super) fn find_gone(&self, entry: &N) -> Option<Result<usize, usize>> {
        Some(self.gone.as_ref()?.binary_search_by(|gone| gone.entry.cmp(entry)))
    }

    pub(super) fn add(&mut self, at: usize, item: Item<N, V>) {
        if self.items.len() == self.items.capacity() {
            // By half, so that what is unused is little and known.
            self.items.reserve_exact((self.items.len() / 2).max(1));
        }
        self.earliest = self.earliest.min(item.until);
        self.dirty += u32::from(item.is_dirty());
        self.items.insert(at, item);
    }

    /// Remembers that an entry is gone which the store may have.
    pub(super) fn note_gone(&mut self, entry: N) -> bool {
        let gone = self.gone.get_or_insert_default();
        match gone.binary_search_by(|gone| gone.entry.cmp(&entry)) {
            Ok(_) => false,
            Err(at) => {
                gone.insert(at, Gone { entry, written: None });
                self.dirty += 1;
                true
            }
        }
    }

    /// Forgets that an entry is gone, since it is back: whether it was, and whether that had to be written yet.
    pub(super) fn forget_gone(&mut self, entry: &N) -> (bool, bool) {
        let Some(Ok(at)) = self.find_gone(entry) else { return (false, false) };
        let Some(gone) = &mut self.gone else { return (false, false) };
        let pending = gone.remove(at).written.is_none();
        if gone.is_empty() {
            self.gone = None;
        }
        self.dirty -= u32::from(pending);
        (true, pending)
    }

    /// Forgets gone entries that the store does not show any more.
    pub(super) fn purge(&mut self, readable: Epoch) {
        let Some(gone) = &mut self.gone else { return };
        gone.retain(|gone| !is_past(gone.written, readable));
        if gone.is_empty() {
            self.gone = None;
        }
    }

    /// Gives back the memory of a list that needs less than a quarter of it.
    pub(super) fn give_back(&mut self) {
        if self.items.len() < self.items.capacity() / 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }
}
