//! One list of an operator on one shard, and its way to the store and back.
//!
//! ```text
//! key   = u64:state u16:group u64:number     big-endian
//! value = the item
//! ```
//! A shard numbers the items that it adds, from one above the highest that it has found. So numbers are
//! its own within the groups that it owns, and order by number is the order in which it added them.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use thalweg_kernel::{Durable, Epoch, StateError, StateId, StateWriter, ValueDamaged};

use super::ListOptions;
use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};
use crate::counters::Counter;
use crate::pressure::Takes;

/// Multiples of the golden ratio, of which only the fraction is kept, spread evenly over any stretch of numbers.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// An item of a list.
pub(super) struct Held<V> {
    pub(super) value: V,
    number: u64,
    group: u16,
    bytes: u32,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not in the store yet.
    Fresh,
    Stored,
    /// In the store with an earlier schema.
    Outdated,
    /// In the store, as an item of another shard.
    Elsewhere,
}

/// See the module.
pub(super) struct List<V> {
    held: VecDeque<Held<V>>,
    /// How many items are this shard's, how many of these are to be written, and how many bytes they take.
    own: usize,
    unwritten: usize,
    bytes: usize,
    next: u64,
    /// What the store has and is gone.
    gone: Vec<(u16, u64)>,
    /// Every shard gets the items of all.
    union: bool,
    options: ListOptions<V>,
    id: StateId,
    groups: Range<u16>,
    /// To measure an item with.
    writer: StateWriter,
    scratch: Vec<u8>,
    refused: Counter,
}

impl<V: Durable> List<V> {
    pub(super) fn new(
        options: ListOptions<V>,
        union: bool,
        checkpoints: &Rc<Checkpoints>,
        instances: usize,
        refused: Counter,
    ) -> Self {
        Self {
            held: VecDeque::new(),
            own: 0,
            unwritten: 0,
            bytes: 0,
            next: 0,
            gone: Vec::new(),
            union,
            options,
            id: StateId::of("", ""),
            groups: checkpoints.groups().groups_of(checkpoints.shard(), instances),
            writer: StateWriter::default(),
            scratch: Vec::new(),
            refused,
        }
    }

    /// The items, in order.
    pub(super) fn held(&self) -> &VecDeque<Held<V>> {
        &self.held
    }

    /// Adds an item at the end, or gives it back.
    pub(super) fn push(&mut self, value: V) -> Result<(), V> {
        let (items_max, bytes_max) = (self.options.items_max, self.options.bytes_max);
        let bytes = if self.own < items_max { self.measure(&value) } else { None };
        let Some(bytes) = bytes.filter(|&bytes| self.bytes + bytes as usize <= bytes_max) else {
            self.refused.add(1);
            return Err(value);
        };
        let number = self.next;
        self.next += 1;
        let group = self.group_of(number);
        self.add(Held { value, number, group, bytes, place: Place::Fresh });
        Ok(())
    }

    /// How many bytes an item takes in the store; `None` where it is too large for one.
    fn measure(&mut self, value: &V) -> Option<u32> {
        self.scratch.clear();
        self.scratch = self.writer.write(std::mem::take(&mut self.scratch), value).ok()?;
        u32::try_from(self.scratch.len()).ok()
    }

    /// One of the shard's own groups.
    fn group_of(&self, number: u64) -> u16 {
        debug_assert!(!self.groups.is_empty(), "a shard without key groups");
        let place = u128::from(number.wrapping_mul(GOLDEN)) * self.groups.len() as u128;
        self.groups.start + (place >> 64) as u16
    }

    fn add(&mut self, held: Held<V>) {
        if held.place != Place::Elsewhere {
            self.own += 1;
            self.bytes += held.bytes as usize;
            self.unwritten += usize::from(held.place != Place::Stored);
        }
        self.held.push_back(held);
    }

    /// Takes the first item out.
    pub(super) fn pop_front(&mut self) -> Option<V> {
        let held = self.held.pop_front()?;
        self.forget(&held);
        Some(held.value)
    }

    /// Keeps the items for which `keep` holds.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|held| {
            let kept = keep(&held.value);
            if !kept {
                self.forget(held);
            }
            kept
        });
        self.held = held;
    }

    /// Takes all items out.
    pub(super) fn take(&mut self) -> VecDeque<Held<V>> {
        let held = std::mem::take(&mut self.held);
        held.iter().for_each(|held| self.forget(held));
        held
    }

    /// An item has been taken out.
    fn forget(&mut self, held: &Held<V>) {
        if held.place == Place::Elsewhere {
            return;
        }
        if held.place != Place::Stored {
            self.unwritten -= 1;
        }
        if held.place != Place::Fresh {
            self.gone.push((held.group, held.number));
        }
        self.own -= 1;
        self.bytes -= held.bytes as usize;
    }

    fn write_gone(&mut self, out: &mut Outgoing) {
        // Nothing that is stored stays as it is, so one deletion does for all.
        if self.gone.len() > 1 && self.own == self.unwritten {
            let (from, to) = self.id.range(self.groups.clone());
            out.changes.delete_range(&from, &to);
        } else {
            for &(group, number) in &self.gone {
                out.changes.delete_with(|key| write_key(self.id, group, number, key));
            }
        }
        self.gone = Vec::new();
    }
}

fn write_key(id: StateId, group: u16, number: u64, out: &mut Vec<u8>) {
    id.begin_key(group, out);
    out.extend_from_slice(&number.to_be_bytes());
}

impl<V: Durable> Stateful for List<V> {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        let migration = self.options.state.migration(stored.schema(id))?;
        let groups = if self.union { 0..u16::MAX } else { self.groups.clone() };
        let mut found = Vec::new();
        stored.scan(id, groups, &mut |group, rest, bytes| {
            let number = u64::from_be_bytes(rest.try_into().map_err(|_| {
                StateError::Other("the stored key of an item is too long or short".into())
            })?);
            let (value, place) = match &migration {
                None => (V::read(bytes)?, Place::Stored),
                Some(migrate) => (migrate(bytes)?, Place::Outdated),
            };
            let place = if self.groups.contains(&group) { place } else { Place::Elsewhere };
            found.push(Held { value, number, group, bytes: bytes.len() as u32, place });
            Ok(())
        })?;
        found.sort_unstable_by_key(|held| (held.number, held.group));
        self.next = found.last().map_or(0, |last| last.number + 1);
        found.into_iter().for_each(|held| self.add(held));
        Ok(())
    }

    fn takes(&mut self) -> Takes {
        let gone = self.gone.capacity() * size_of::<(u16, u64)>();
        Takes::fixed(self.bytes + self.held.capacity() * size_of::<Held<V>>() + gone)
    }

    fn snapshot(&mut self, _epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        if !self.gone.is_empty() {
            self.write_gone(out);
        }
        // They stand at the end, unless they were stored with another schema.
        for held in self.held.iter_mut().rev() {
            if self.unwritten == 0 {
                break;
            }
            if matches!(held.place, Place::Fresh | Place::Outdated) {
                out.put(|key| write_key(self.id, held.group, held.number, key), &held.value)?;
                held.place = Place::Stored;
                self.unwritten -= 1;
            }
        }
        Ok(())
    }
}
