//! [`Chunk`]: rows as columns, with the watermarks that moved among them.

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Collector, Mark, RowKind, Timestamp};

use super::column::{Column, DataType, retype};

/// Rows as columns, each with an event time and a kind, and the watermarks that moved among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    times: Vec<Timestamp>,
    /// Empty where all rows are inserts.
    kinds: Vec<RowKind>,
    columns: Vec<Column>,
    /// The fixed hash of each row's key, where the stream is partitioned; else empty.
    hashes: Vec<u64>,
    /// Each stands before the row at its position. Both only grow, and no two have one position.
    watermarks: Vec<(u32, Timestamp)>,
}

impl Chunk {
    /// An empty chunk with columns of these types.
    pub fn new(types: &[DataType]) -> Self {
        Self { columns: types.iter().copied().map(Column::new).collect(), ..Self::default() }
    }

    /// The number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no row.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The rows' event times.
    #[inline]
    pub fn times(&self) -> &[Timestamp] {
        &self.times
    }

    /// What row `row` does to its table.
    #[inline]
    pub fn kind(&self, row: usize) -> RowKind {
        self.kinds.get(row).copied().unwrap_or(RowKind::Insert)
    }

    /// The columns, in order.
    #[inline]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The fixed hash of the key of row `row`, if it is known.
    #[inline]
    pub(super) fn hash(&self, row: usize) -> Option<u64> {
        self.hashes.get(row).copied()
    }

    /// The watermarks, each before the row at its position.
    #[inline]
    pub fn watermarks(&self) -> &[(u32, Timestamp)] {
        &self.watermarks
    }

    /// Adds the time and kind of a row whose values are added to the columns one by one.
    #[inline]
    pub fn push(&mut self, time: Timestamp, kind: RowKind) {
        if kind != RowKind::Insert || !self.kinds.is_empty() {
            self.kinds.resize(self.times.len(), RowKind::Insert);
            self.kinds.push(kind);
        }
        self.times.push(time);
    }

    /// The columns, for values of rows that were [pushed](Self::push).
    #[inline]
    pub fn columns_mut(&mut self) -> &mut [Column] {
        &mut self.columns
    }

    /// A watermark that stands behind the rows so far.
    #[inline]
    pub fn watermark(&mut self, watermark: Timestamp) {
        let at = self.times.len() as u32;
        match self.watermarks.last_mut() {
            Some((position, last)) if *position == at => *last = watermark,
            _ => self.watermarks.push((at, watermark)),
        }
    }

    /// Forgets all rows and keeps the buffers.
    pub(super) fn clear(&mut self) {
        self.times.clear();
        self.kinds.clear();
        self.hashes.clear();
        self.watermarks.clear();
        self.columns.iter_mut().for_each(Column::clear);
    }

    /// Makes an empty chunk one with columns of these types. Columns that fit keep their buffers.
    pub(super) fn retype(&mut self, types: &[DataType]) {
        retype(&mut self.columns, types);
    }

    pub(super) fn swap_columns(&mut self, columns: &mut Vec<Column>) {
        std::mem::swap(&mut self.columns, columns);
    }

    /// Adds the event times of more inserts.
    pub(super) fn extend_times(&mut self, times: impl Iterator<Item = Timestamp>) {
        self.times.extend(times);
        if !self.kinds.is_empty() {
            self.kinds.resize(self.times.len(), RowKind::Insert);
        }
    }

    /// Leaves out all rows but these, in ascending order. A watermark then stands before the first kept row that was
    /// behind it.
    pub fn keep(&mut self, rows: &[u32]) {
        if rows.len() == self.len() {
            return;
        }
        for (to, &from) in rows.iter().enumerate() {
            self.times[to] = self.times[from as usize];
        }
        self.times.truncate(rows.len());
        if !self.kinds.is_empty() {
            for (to, &from) in rows.iter().enumerate() {
                self.kinds[to] = self.kinds[from as usize];
            }
            self.kinds.truncate(rows.len());
        }
        if !self.hashes.is_empty() {
            for (to, &from) in rows.iter().enumerate() {
                self.hashes[to] = self.hashes[from as usize];
            }
            self.hashes.truncate(rows.len());
        }
        self.columns.iter_mut().for_each(|column| column.keep(rows));
        let mut kept = 0;
        let moved = self.watermarks.drain(..).map(|(position, watermark)| {
            kept += rows[kept..].iter().take_while(|&&row| row < position).count();
            (kept as u32, watermark)
        });
        let mut watermarks: Vec<(u32, Timestamp)> = Vec::new();
        for (position, watermark) in moved {
            match watermarks.last_mut() {
                Some((last, known)) if *last == position => *known = watermark,
                _ => watermarks.push((position, watermark)),
            }
        }
        self.watermarks = watermarks;
    }

    /// Adds these rows of another chunk, in ascending order, and the watermarks that stand before, among and behind them.
    /// `hashes` are the hashes of all its rows' keys.
    pub(super) fn gather(&mut self, from: &Self, hashes: &[u64], rows: &[u32]) {
        let mut taken = 0;
        let before = self.times.len();
        for &(position, watermark) in &from.watermarks {
            taken += rows[taken..].iter().take_while(|&&row| row < position).count();
            let at = if seeded(Defect::FlowMisplacesWatermark) { before } else { before + taken };
            match self.watermarks.last_mut() {
                Some((last, known)) if *last == at as u32 => *known = watermark,
                _ => self.watermarks.push((at as u32, watermark)),
            }
        }
        self.times.extend(rows.iter().map(|&row| from.times[row as usize]));
        self.hashes.extend(rows.iter().map(|&row| hashes[row as usize]));
        if !(from.kinds.is_empty() && self.kinds.is_empty()) {
            self.kinds.resize(before, RowKind::Insert);
            self.kinds.extend(rows.iter().map(|&row| from.kind(row as usize)));
        }
        for (column, other) in self.columns.iter_mut().zip(&from.columns) {
            column.gather(other, rows);
        }
    }

    /// Replaces each watermark by what `merge` makes of it, if anything.
    pub(super) fn merge_watermarks(
        &mut self,
        mut merge: impl FnMut(Timestamp) -> Option<Timestamp>,
    ) {
        self.watermarks.retain_mut(|(_, watermark)| match merge(*watermark) {
            Some(merged) => {
                *watermark = merged;
                true
            }
            None => false,
        });
    }

    /// Takes the watermark off that stands behind the last row.
    pub(super) fn take_behind(&mut self) -> Option<Timestamp> {
        let rows = self.times.len();
        self.watermarks.pop_if(|&mut (at, _)| at as usize == rows).map(|(_, watermark)| watermark)
    }

    /// Emits the chunk as one record, and behind it the watermark that stands behind its last row. A chunk without rows is
    /// given back.
    #[inline]
    pub(super) fn emit(mut self, out: &mut impl Collector<Self>) -> Option<Self> {
        let behind = self.take_behind();
        let empty = match self.times.last().copied() {
            Some(time) => {
                out.record(time, self);
                None
            }
            None => Some(self),
        };
        if let Some(watermark) = behind {
            out.mark(Mark::Watermark(watermark));
        }
        empty
    }
}
