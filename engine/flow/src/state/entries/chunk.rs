//! A sorted list of a key's entries, and of those that were removed and that the store may still show.

use std::collections::BTreeMap;

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

/// Entries that were removed, and that the store may still show. The epoch is that whose snapshot deleted the entry; `None`
/// before that. They may be many more than a chunk has entries: of a queue all that were taken from its front.
type Gone<N> = BTreeMap<N, Option<Epoch>>;

/// About the bytes that one of them takes.
pub(super) const fn gone_bytes<N>() -> usize {
    // Nodes are full by two thirds.
    size_of::<(N, Option<Epoch>)>() * 3 / 2
}

pub(super) fn is_past(written: Option<Epoch>, readable: Epoch) -> bool {
    written.is_some_and(|epoch| epoch <= readable)
}

/// See the module.
pub(super) struct Chunk<N, V> {
    pub(super) items: Vec<Item<N, V>>,
    /// Nearly always none, so it takes one word.
    gone: Option<Box<Gone<N>>>,
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

    /// Whether this entry is gone.
    pub(super) fn is_gone(&self, entry: &N) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.contains_key(entry))
    }

    /// Whether any entries are gone.
    pub(super) fn some_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// How many entries are gone.
    pub(super) fn gone(&self) -> usize {
        self.gone.as_ref().map_or(0, |gone| gone.len())
    }

    /// Whether the store does not show any of them any more.
    pub(super) fn all_gone_are_past(&self, readable: Epoch) -> bool {
        self.gone.iter().flat_map(|gone| gone.values()).all(|&written| is_past(written, readable))
    }

    /// Gives `delete` what is gone and not written yet: `epoch` writes it.
    pub(super) fn write_gone(&mut self, epoch: Epoch, mut delete: impl FnMut(&N)) {
        for (entry, written) in self.gone.iter_mut().flat_map(|gone| gone.iter_mut()) {
            if written.is_none() {
                delete(entry);
                *written = Some(epoch);
            }
        }
    }

    /// Moves what is gone from `least` on to another chunk.
    pub(super) fn divide_gone(&mut self, least: &N, upper: &mut Self) {
        let Some(mut gone) = self.gone.take() else { return };
        let above = gone.split_off(least);
        self.gone = (!gone.is_empty()).then_some(gone);
        upper.gone = (!above.is_empty()).then(|| Box::new(above));
    }

    /// Takes over what is gone of another chunk. The larger part stays where it is.
    pub(super) fn join_gone(&mut self, other: &mut Self) {
        if other.gone() > self.gone() {
            std::mem::swap(&mut self.gone, &mut other.gone);
        }
        if let (Some(gone), Some(others)) = (&mut self.gone, other.gone.take()) {
            gone.extend(*others);
        }
    }

    /// Counts anew what the next snapshot writes, and looks for the earliest end of a life.
    pub(super) fn count(&mut self) {
        let gone = self.gone.iter().flat_map(|gone| gone.values());
        let pending = gone.filter(|written| written.is_none()).count();
        let dirty = self.items.iter().filter(|item| item.is_dirty()).count();
        self.dirty = (dirty + pending) as u32;
        self.earliest = self.items.iter().map(|item| item.until).min().unwrap_or(NEVER);
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

    /// Remembers that an entry is gone which the store may have; whether that was not known.
    pub(super) fn note_gone(&mut self, entry: N) -> bool {
        let gone = self.gone.get_or_insert_default();
        let before = gone.len();
        gone.entry(entry).or_default();
        let is_new = gone.len() > before;
        self.dirty += u32::from(is_new);
        is_new
    }

    /// Forgets that an entry is gone, since it is back: whether it was, and whether that had to be written yet.
    pub(super) fn forget_gone(&mut self, entry: &N) -> (bool, bool) {
        let Some(gone) = &mut self.gone else { return (false, false) };
        let Some(written) = gone.remove(entry) else { return (false, false) };
        if gone.is_empty() {
            self.gone = None;
        }
        let pending = written.is_none();
        self.dirty -= u32::from(pending);
        (true, pending)
    }

    /// Forgets gone entries that the store does not show any more; how many.
    pub(super) fn purge(&mut self, readable: Epoch) -> usize {
        let Some(gone) = &mut self.gone else { return 0 };
        let before = gone.len();
        gone.retain(|_, written| !is_past(*written, readable));
        let left = gone.len();
        if left == 0 {
            self.gone = None;
        }
        before - left
    }

    /// Gives back the memory of a list that needs less than a quarter of it.
    pub(super) fn give_back(&mut self) {
        if self.items.len() < self.items.capacity() / 4 {
            self.items.shrink_to(self.items.len() * 2);
        }
    }
}
