//! What a decoder remembers of earlier messages: which key followed which, as bytes.
//!
//! A device sends its keys in one order, with one kind of white space, in every message. So what stands between
//! two values, `,"temp":`, is compared as a whole with what stood there last time. That takes a few instructions,
//! not a parse of separator, string, colon and white space. What is remembered was parsed when it was learnt, and
//! equal bytes parse equally, so nothing is taken on trust. Where they differ, the parser reads the key as if
//! nobody had guessed, and the memory learns.
//!
//! Each key remembers its follower rather than its place. So an optional field, or a message of
//! another kind, costs a miss where it departs and one where it returns. A key's slot is chosen
//! by a hash of its bytes; nothing grows, and nothing is allocated. When the keys of several
//! messages in a row come in an order that nobody could expect, the memory rests for a while.
//!
//! It also remembers who ignored a key's value. A struct lists its fields; what it does not list and did ignore is
//! skipped the next time without asking it. (A hand-written visitor that takes one key twice must list it, which
//! serde asks of it anyway.)

use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Keys remembered at a time.
const KEYS_MAX: usize = 252;
/// The number of slots that a key may take.
const WAYS: usize = 4;
/// The slot that stands for the beginning of a message: one behind the keys'.
const START: u8 = 252;
/// The slot that stands for every key that cannot be remembered, so that others can follow it.
const UNKNOWN: u8 = 253;
/// As many slots as a `u8` can name: none needs a check. Each takes a cache line, all together 16 KiB.
const SLOTS: usize = 256;
/// The longest text between two values that is remembered.
const GAP_BYTES_MAX: usize = 32;
/// After this many messages in a row whose keys were mostly unexpected, the memory rests ...
const STRANGE_MAX: u32 = 4;
/// ... for this many.
const REST_MESSAGES: u32 = 100;

/// Who reads an object: the list of the fields it takes, and the name of its type, by their addresses. The
/// name alone would not do: all struct variants of an enum share one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader {
    fields: (NonZeroUsize, usize),
    name: usize,
}

impl Reader {
    #[inline(always)]
    pub(super) fn new(fields: &'static [&'static str], name: &'static str) -> Self {
        let address = NonNull::from(fields).cast::<u8>().addr();
        Self { fields: (address, fields.len()), name: name.as_ptr().addr() }
    }
}

/// Where a key stands in its object: before the first one there is no comma.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Later,
    /// No key can come; an empty slot's too, so that none is taken for a key.
    Nowhere,
}

/// What stands from the end of a value to the beginning of the next.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Slot {
    /// The first and the last bytes, as many of them as [`Slot::begins`] compares.
    head: [u8; 16],
    tail: [u8; 16],
    len: u8,
    /// Where in it the key begins and ends, without its quotes.
    key: (u8, u8),
    place: Place,
    /// The slot of the key that followed last time.
    next: u8,
    /// Who ignores the key's value.
    ignored_by: Option<Reader>,
}

/// A cache line.
const _: () = assert!(size_of::<Slot>() == 64);

pub(super) struct Memory {
    slots: [Slot; SLOTS],
    /// The slot of the last key.
    last: u8,
    /// The slot of the key that should follow it.
    next: u8,
    /// Keys of this message that stood where they were expected, and the others.
    hits: u32,
    misses: u32,
    /// Messages in a row whose keys were mostly not where they were expected.
    strange: u32,
    /// Messages to come that are read without the memory.
    rest: u32,
}

/// A key that stands where it was expected, in bytes from the end of the value before it.
pub(super) struct Known {
    pub(super) key: (usize, usize),
    pub(super) value: usize,
    /// Who ignored its value last time.
    pub(super) ignored_by: Option<Reader>,
}

impl Memory {
    pub(super) const fn new() -> Self {
        let (half, place) = ([0; 16], Place::Nowhere);
        let slot = Slot {
            head: half,
            tail: half,
            len: 0,
            key: (0, 0),
            place,
            next: START,
            ignored_by: None,
        };
        let (hits, misses, strange, rest) = (0, 0, 0, 0);
        Self { slots: [slot; SLOTS], last: START, next: START, hits, misses, strange, rest }
    }

    /// A message begins; `None` while a source without habits is read without memory.
    #[inline]
    pub(super) fn begin(&mut self) -> Option<&mut Self> {
        if self.misses > self.hits || self.strange > 0 {
            self.doubt();
        }
        (self.hits, self.misses) = (0, 0);
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        self.last = START;
        self.next = self.slots[usize::from(START)].next;
        Some(self)
    }

    #[inline(never)]
    fn doubt(&mut self) {
        self.strange = if self.misses > self.hits { self.strange + 1 } else { 0 };
        if self.strange == STRANGE_MAX {
            (self.strange, self.rest) = (0, REST_MESSAGES);
        }
    }

    /// The key that is expected next, if `rest` begins with it.
    #[inline]
    pub(super) fn expect(&mut self, rest: &[u8], place: Place) -> Option<Known> {
        let slot = &self.slots[usize::from(self.next)];
        if slot.place != place || !slot.begins(rest) {
            return None;
        }
        self.last = self.next;
        self.next = slot.next;
        self.hits += 1;
        let key = (usize::from(slot.key.0), usize::from(slot.key.1));
        Some(Known { key, value: usize::from(slot.len), ignored_by: slot.ignored_by })
    }

    /// Remembers `gap` with its key as what followed the last key.
    pub(super) fn learn(&mut self, gap: &[u8], key: (usize, usize), place: Place) {
        let Some(hash) = hash(gap) else {
            self.unknown();
            return;
        };
        let set = hash % (KEYS_MAX / WAYS) * WAYS;
        let ways = set..set + WAYS;
        let free = |slot: &Slot| slot.place == Place::Nowhere;
        let same = |slot: &Slot| {
            usize::from(slot.len) == gap.len() && slot.place == place && slot.begins(gap)
        };
        let way = match self.slots[ways.clone()].iter().position(same) {
            Some(way) => way,
            None => {
                let way = self.slots[ways].iter().position(free).unwrap_or(hash / KEYS_MAX % WAYS);
                self.slots[set + way] = Slot::new(gap, key, place);
                way
            }
        };
        self.follow((set + way) as u8);
    }

    /// A key came that cannot be remembered.
    pub(super) fn unknown(&mut self) {
        self.follow(UNKNOWN);
    }

    fn follow(&mut self, index: u8) {
        self.misses += 1;
        self.slots[usize::from(self.last)].next = index;
        self.last = index;
        self.next = self.slots[usize::from(index)].next;
    }

    /// Remembers that `reader` ignored the value of the last key.
    pub(super) fn ignored(&mut self, reader: Reader) {
        self.slots[usize::from(self.last)].ignored_by = Some(reader);
    }
}

/// What decides where `gap` is remembered, if it can be.
#[inline]
fn hash(gap: &[u8]) -> Option<usize> {
    if gap.len() > GAP_BYTES_MAX {
        return None;
    }
    let (head, tail) = ends::<4>(gap)?;
    let ends = u64::from(u32::from_le_bytes(*head)) << 32 | u64::from(u32::from_le_bytes(*tail));
    let middle = u64::from(gap[gap.len() / 2]) << 24;
    let mixed = (ends ^ middle ^ gap.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some((mixed >> 48) as usize)
}

impl Slot {
    fn new(gap: &[u8], key: (usize, usize), place: Place) -> Self {
        let (mut head, mut tail) = ([0; 16], [0; 16]);
        let compared = match gap.len() {
            0..8 => 4,
            8..16 => 8,
            _ => 16,
        };
        head[..compared].copy_from_slice(&gap[..compared]);
        tail[..compared].copy_from_slice(&gap[gap.len() - compared..]);
        let key = (key.0 as u8, key.1 as u8);
        Self { head, tail, len: gap.len() as u8, key, place, next: START, ignored_by: None }
    }

    /// Whether `text` begins with what the slot remembers: two comparisons of a fixed size that overlap. A
    /// loop or a call would cost more than the work itself.
    #[inline]
    fn begins(&self, text: &[u8]) -> bool {
        let Some(text) = text.get(..usize::from(self.len)) else {
            return false;
        };
        match text.len() {
            8..16 => self.begins_and_ends::<8>(text),
            16.. => self.begins_and_ends::<16>(text),
            4..8 => self.begins_and_ends::<4>(text),
            _ => false,
        }
    }

    #[inline]
    fn begins_and_ends<const N: usize>(&self, text: &[u8]) -> bool {
        ends::<N>(text).is_some_and(|(head, tail)| {
            self.head.first_chunk() == Some(head) && self.tail.first_chunk() == Some(tail)
        })
    }
}

#[inline]
fn ends<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
    Some((bytes.first_chunk()?, bytes.last_chunk()?))
}
