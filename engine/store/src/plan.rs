//! [`Plan`]: the last change of every key over a row of blocks, in the order of the keys.
//!
//! Folding epochs one by one would rewrite a page of the base for every changed key, epoch after epoch. Folding
//! them together, sorted, and only the last change of each key, rewrites a page once. A plan laid over the base is
//! the state as of the plan's last epoch.
//!
//! A plan is made in bounded steps: changes are taken chunk by chunk, each chunk is sorted by itself, and
//! reading merges the chunks. It holds 32 bytes for each change, and the keys and values stay where they
//! are. Pure: it sees blocks as slices and does no I/O.
//!
//! Deletions of ranges are kept apart. They are done first, and hide the changes of keys within them
//! that came before: what comes after them in the row of blocks stands.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Change, Changes, ChangesDamaged};

/// Changes that are sorted together.
const CHUNK_CHANGES: usize = 16_384;

/// Where a change stands in the row of blocks: later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    block: u32,
    offset: u32,
}

/// A change of one key: its place, and the beginning of its key, so that sorting seldom looks at the key.
#[derive(Clone, Copy)]
struct Point {
    head: [u64; 3],
    place: Place,
}

fn head(key: &[u8]) -> [u64; 3] {
    let mut bytes = [0; 24];
    let length = key.len().min(24);
    bytes[..length].copy_from_slice(&key[..length]);
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    [word(0), word(8), word(16)]
}

/// The change at a place. Places are only made of changes that were read.
fn change_at<'a>(blocks: &[&'a [u8]], place: Place) -> Option<Change<'a>> {
    let block = blocks.get(place.block as usize)?.get(place.offset as usize..)?;
    Changes::read(block).next()?.ok()
}

fn key_at<'a>(blocks: &[&'a [u8]], place: Place) -> &'a [u8] {
    match change_at(blocks, place) {
        Some(Change::Put { key, .. } | Change::Delete { key }) => key,
        Some(Change::DeleteRange { from, .. }) => from,
        None => &[],
    }
}

/// The bytes of a change in its block.
pub(crate) fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put { key, value } => 7 + key.len() + value.len(),
        Change::Delete { key } => 3 + key.len(),
        Change::DeleteRange { from, to } => 5 + from.len() + to.len(),
    }
}

/// The last change of every key over a row of blocks.
#[derive(Default)]
pub(crate) struct Plan {
    /// Each sorted by key, then place.
    chunks: Vec<Vec<Point>>,
    /// The chunk that is being filled.
    open: Vec<Point>,
    /// In order of places; when [sealed](Self::seal), in order of where they begin.
    ranges: Vec<Place>,
}

impl Plan {
    /// Takes changes of the block numbered `number` of `blocks` from `offset` on, at most `changes_max`, which
    /// is counted down. Returns the offset to go on from, or `None` at the block's end.
    pub(crate) fn add(
        &mut self,
        blocks: &[&[u8]],
        number: usize,
        mut offset: usize,
        changes_max: &mut usize,
    ) -> Result<Option<usize>, ChangesDamaged> {
        let block = blocks.get(number).copied().unwrap_or_default();
        let rest = block.get(offset..).unwrap_or_default();
        for change in Changes::read(rest) {
            if *changes_max == 0 {
                return Ok(Some(offset));
            }
            *changes_max -= 1;
            let change = change?;
            let place = Place { block: number as u32, offset: offset as u32 };
            match change {
                Change::Put { key, .. } | Change::Delete { key } => {
                    self.open.push(Point { head: head(key), place });
                    if self.open.len() == CHUNK_CHANGES {
                        self.close_chunk(blocks);
                    }
                }
                Change::DeleteRange { .. } => self.ranges.push(place),
            }
            offset += change_bytes(&change);
        }
        Ok(None)
    }

    fn close_chunk(&mut self, blocks: &[&[u8]]) {
        let mut chunk = std::mem::take(&mut self.open);
        chunk.sort_unstable_by(|a, b| {
            let by_key =
                || key_at(blocks, a.place).cmp(key_at(blocks, b.place)).then(a.place.cmp(&b.place));
            a.head.cmp(&b.head).then_with(by_key)
        });
        self.chunks.push(chunk);
    }

    /// Nothing more is added.
    pub(crate) fn seal(&mut self, blocks: &[&[u8]]) {
        if !self.open.is_empty() {
            self.close_chunk(blocks);
        }
        self.ranges.sort_unstable_by_key(|&place| (key_at(blocks, place), place));
    }

    /// Where reading begins.
    pub(crate) fn start(&self) -> Vec<usize> {
        vec![0; self.chunks.len()]
    }

    /// Where reading the keys from `from` on begins.
    pub(crate) fn start_at(&self, blocks: &[&[u8]], from: &[u8]) -> Vec<usize> {
        let head = head(from);
        let below = |point: &Point| {
            point.head.cmp(&head).then_with(|| key_at(blocks, point.place).cmp(from)).is_lt()
        };
        self.chunks.iter().map(|chunk| chunk.partition_point(below)).collect()
    }

    /// The deleted ranges, in order of where they begin.
    pub(crate) fn ranges<'a>(
        &self,
        blocks: &'a [&'a [u8]],
    ) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> {
        self.ranges.iter().map(|&place| match change_at(blocks, place) {
            Some(Change::DeleteRange { from, to }) => (from, to),
            _ => (&[][..], &[][..]),
        })
    }

    /// Reads the last changes in order of their keys, from `positions` on.
    pub(crate) fn read<'a>(&'a self, blocks: &'a [&'a [u8]], positions: Vec<usize>) -> Reading<'a> {
        let mut reading = Reading {
            plan: self,
            blocks,
            positions,
            heads: BinaryHeap::with_capacity(self.chunks.len()),
            hidden: Hidden::new(self, blocks),
        };
        for chunk in 0..self.chunks.len() {
            let first = reading.first_of(chunk);
            reading.heads.extend(first);
        }
        reading
    }
}

/// The next change of a chunk. Greater is read sooner.
struct First<'a> {
    key: &'a [u8],
    point: Point,
    chunk: usize,
}

impl Ord for First<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = || other.key.cmp(self.key).then(self.point.place.cmp(&other.point.place));
        other.point.head.cmp(&self.point.head).then_with(by_key)
    }
}

impl PartialOrd for First<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for First<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for First<'_> {}

/// The last changes of a plan in order of their keys.
pub(crate) struct Reading<'a> {
    plan: &'a Plan,
    blocks: &'a [&'a [u8]],
    positions: Vec<usize>,
    heads: BinaryHeap<First<'a>>,
    hidden: Hidden<'a>,
}

impl<'a> Reading<'a> {
    /// The first change of `chunk` that has not been read.
    fn first_of(&self, chunk: usize) -> Option<First<'a>> {
        let point = *self.plan.chunks.get(chunk)?.get(*self.positions.get(chunk)?)?;
        Some(First { key: key_at(self.blocks, point.place), point, chunk })
    }

    /// Takes the first of all off: of several for one key the last.
    fn take(&mut self) -> Option<(&'a [u8], Place)> {
        let chunk = self.heads.peek()?.chunk;
        self.positions[chunk] += 1;
        let next = self.first_of(chunk);
        let taken = match next {
            Some(next) => std::mem::replace(&mut *self.heads.peek_mut()?, next),
            None => self.heads.pop()?,
        };
        Some((taken.key, taken.point.place))
    }

    /// Where to go on reading later.
    pub(crate) fn into_positions(self) -> Vec<usize> {
        self.positions
    }
}

impl<'a> Iterator for Reading<'a> {
    /// A key, and its value if it has not been deleted.
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, place) = self.take()?;
            // Within one chunk equal keys stand in the order of their places, so the later one may
            // still come: it wins.
            let mut last = place;
            while self.heads.peek().is_some_and(|first| first.key == key) {
                let place = self.take()?.1;
                last = if seeded(Defect::StoreFoldsStaleValue) { last } else { last.max(place) };
            }
            if self.hidden.since(key).is_some_and(|range| range > last) {
                continue;
            }
            let value = match change_at(self.blocks, last) {
                Some(Change::Put { value, .. }) => Some(value),
                _ => None,
            };
            return Some((key, value));
        }
    }
}

/// Walks along the deleted ranges in order of keys.
pub(crate) struct Hidden<'a> {
    /// From, to (excluded) and place, in order of from.
    ranges: Vec<(&'a [u8], &'a [u8], Place)>,
    next: usize,
    /// Those that have begun and not ended.
    open: Vec<(&'a [u8], Place)>,
}

impl<'a> Hidden<'a> {
    pub(crate) fn new(plan: &Plan, blocks: &'a [&'a [u8]]) -> Self {
        let places = plan.ranges.iter().copied();
        let ranges = plan.ranges(blocks).zip(places).map(|((from, to), place)| (from, to, place));
        Self { ranges: ranges.collect(), next: 0, open: Vec::new() }
    }

    /// Whether a deleted range covers `key`, of which the plan holds no change. Keys are asked for in order.
    pub(crate) fn hides(&mut self, key: &[u8]) -> bool {
        self.since(key).is_some()
    }

    /// The place of the last deletion of a range that covers `key`.
    fn since(&mut self, key: &[u8]) -> Option<Place> {
        while let Some(&(from, to, place)) = self.ranges.get(self.next)
            && from <= key
        {
            self.next += 1;
            self.open.push((to, place));
        }
        if self.open.is_empty() {
            return None;
        }
        self.open.retain(|&(to, _)| key < to);
        self.open.iter().map(|&(_, place)| place).max()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
