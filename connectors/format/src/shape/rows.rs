//! What a payload was found to hold: a value for each path, in rows that are used again from message to message.
//!
//! An array that is taken apart makes a *level*. Level 0 has one row, the message. Level 1 has a row for each element of the
//! outermost such array, and so on. A reading is a row of the deepest level, with what stands in the rows around it. So
//! a device's name may follow its records, and one pass over the payload is enough.
//!
//! A text is kept as its place in the payload. One that had to be unescaped or put together lies in `made`.

use thalweg_kernel::Str;

/// A message may hold this many readings. More would let a small payload take much memory.
pub const READINGS_MAX: usize = 10_000;

/// A value as it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raw {
    Absent,
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Milliseconds since 1970, whatever the unit of times is.
    Time(i64),
    /// A part of the payload.
    Text(Span),
    /// A part of what was made.
    Made(Span),
    Object,
    Array,
    /// There are two.
    Twice,
    /// A number that is not finite.
    Beyond,
}

/// Bytes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// `None` beyond 4 GiB.
    pub(super) fn new(start: usize, end: usize) -> Option<Self> {
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
    }

    fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Where the value of a path is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) level: usize,
    pub(super) index: usize,
}

#[derive(Clone, Debug, Default)]
struct Level {
    width: usize,
    values: Vec<Raw>,
    /// For each row, the row around it.
    parents: Vec<usize>,
    /// For each row, whether it held the array of the next level.
    filled: Vec<bool>,
}

/// Why a payload cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Twice,
    TooMany,
}

/// The values of a payload.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    levels: Vec<Level>,
    made: String,
    /// Rows of the deepest level that are no readings; as long as the last of them.
    dropped: Vec<bool>,
    pub(super) fault: Option<Fault>,
}

impl Rows {
    /// Empty rows of these widths, one for each level, and the row of the message.
    pub(super) fn begin(&mut self, widths: &[usize]) {
        self.levels.resize_with(widths.len(), Level::default);
        for (level, width) in self.levels.iter_mut().zip(widths) {
            level.width = *width;
            level.values.clear();
            level.parents.clear();
            level.filled.clear();
        }
        self.made.clear();
        self.dropped.clear();
        self.fault = None;
        self.open(0);
    }

    /// Begins a row of a level; false if there are too many.
    pub(super) fn open(&mut self, level: usize) -> bool {
        let parent = match level.checked_sub(1) {
            Some(around) => self.count(around).saturating_sub(1),
            None => 0,
        };
        let Some(level) = self.levels.get_mut(level) else { return false };
        if level.parents.len() == READINGS_MAX {
            self.fault = Some(Fault::TooMany);
            return false;
        }
        level.parents.push(parent);
        level.filled.push(false);
        level.values.resize(level.values.len() + level.width, Raw::Absent);
        true
    }

    /// Takes the last row of a level back.
    pub(super) fn take_back(&mut self, level: usize) {
        let Some(level) = self.levels.get_mut(level) else { return };
        level.parents.pop();
        level.filled.pop();
        level.values.truncate(level.values.len().saturating_sub(level.width));
    }

    fn count(&self, level: usize) -> usize {
        self.levels.get(level).map_or(0, |level| level.parents.len())
    }

    /// The last row of `level` holds the array of the next level; false if it holds one already.
    pub(super) fn fill(&mut self, level: usize) -> bool {
        let level = self.levels.get_mut(level);
        let Some(filled) = level.and_then(|level| level.filled.last_mut()) else { return false };
        if *filled {
            self.fault = Some(Fault::Twice);
        }
        !std::mem::replace(filled, true)
    }

    /// Puts a value into the last row of its level; false if there is one.
    #[inline]
    pub(super) fn set(&mut self, slot: Slot, raw: Raw) -> bool {
        let Some(level) = self.levels.get_mut(slot.level) else { return false };
        let row = level.values.len().saturating_sub(level.width);
        match level.values.get_mut(row + slot.index) {
            Some(place @ Raw::Absent) => {
                *place = raw;
                true
            }
            _ => {
                self.fault = Some(Fault::Twice);
                false
            }
        }
    }

    /// Notes that a value of a reading was given twice, which spoils that one. False for what belongs to several readings.
    #[cold]
    pub(super) fn spoil(&mut self, slot: Slot) -> bool {
        if slot.level == 0 || slot.level + 1 != self.levels.len() {
            return false;
        }
        self.fault = None;
        if let Some(row) = self.readings().checked_sub(1) {
            self.replace(row, slot, Raw::Twice);
        }
        true
    }

    /// Keeps a text that does not stand in the payload as it is.
    pub(super) fn make(&mut self, text: &str) -> Raw {
        let start = self.made.len();
        self.made.push_str(text);
        Span::new(start, self.made.len()).map_or(Raw::Absent, Raw::Made)
    }

    /// One text behind the other.
    pub(super) fn join(&mut self, first: Raw, second: Raw, payload: &str) -> Raw {
        let start = self.made.len();
        for raw in [first, second] {
            match raw {
                Raw::Text(span) => self.made.push_str(span.of(payload)),
                Raw::Made(span) => {
                    self.made.extend_from_within(span.start as usize..span.end as usize);
                }
                _ => {}
            }
        }
        Span::new(start, self.made.len()).map_or(Raw::Absent, Raw::Made)
    }

    /// Readings: the rows of the deepest level.
    pub(super) fn readings(&self) -> usize {
        self.count(self.levels.len().saturating_sub(1))
    }

    /// A row of the deepest level is no reading.
    pub(super) fn drop(&mut self, row: usize) {
        if self.dropped.len() <= row {
            self.dropped.resize(row + 1, false);
        }
        self.dropped[row] = true;
    }

    pub(super) fn is_dropped(&self, row: usize) -> bool {
        self.dropped.get(row).copied().unwrap_or(false)
    }

    /// The value of a path in a row of the deepest level.
    #[inline]
    pub(super) fn value(&self, row: usize, slot: Slot) -> Raw {
        let mut row = row;
        for level in self.levels.iter().skip(slot.level + 1).rev() {
            row = level.parents.get(row).copied().unwrap_or(0);
        }
        let place = |level: &Level| level.values.get(row * level.width + slot.index).copied();
        self.levels.get(slot.level).and_then(place).unwrap_or(Raw::Absent)
    }

    /// Changes the value of a path in a row of the deepest level.
    pub(super) fn replace(&mut self, row: usize, slot: Slot, raw: Raw) {
        if let Some(level) = self.levels.get_mut(slot.level)
            && let Some(place) = level.values.get_mut(row * level.width + slot.index)
        {
            *place = raw;
        }
    }

    /// A value's text, if it is one.
    #[inline]
    pub(super) fn text<'a>(&'a self, raw: Raw, payload: &'a str) -> Option<&'a str> {
        match raw {
            Raw::Text(span) => Some(span.of(payload)),
            Raw::Made(span) => Some(span.of(&self.made)),
            _ => None,
        }
    }

    /// The row around a row of a level.
    pub(super) fn parent(&self, level: usize, row: usize) -> usize {
        self.levels.get(level).and_then(|level| level.parents.get(row)).copied().unwrap_or(0)
    }

    /// The places of a row of a level in the arrays that were taken apart, from the outermost.
    pub(super) fn places(&self, level: usize, row: usize) -> Vec<usize> {
        let mut places = Vec::new();
        let mut row = row;
        for level in self.levels.iter().take(level + 1).skip(1).rev() {
            let parent = level.parents.get(row).copied().unwrap_or(0);
            // They stand in the order of the rows around them.
            let first = level.parents.partition_point(|other| *other < parent);
            places.push(row - first.min(row));
            row = parent;
        }
        places.reverse();
        places
    }

    /// The rows that lack the array of the next level, each with its level.
    pub(super) fn hollow(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let above = self.levels.len().saturating_sub(1);
        self.levels.iter().take(above).enumerate().flat_map(|(level, rows)| {
            let hollow = rows.filled.iter().enumerate().filter(|(_, filled)| !**filled);
            hollow.map(move |(row, _)| (level, row))
        })
    }
}

/// The value that the topic gives to a field.
pub(super) fn bound<'a>(bindings: &[(Str, &'a str)], name: &str) -> Option<&'a str> {
    bindings.iter().find(|(bound, _)| bound == name).map(|(_, value)| *value)
}
