//! [`Changed`] and [`RowKind`]: what a changelog is made of.
//!
//! A *changelog* is a stream that tells how a table changes: each record is a row with its kind. An insert
//! and an update-after put their row; a delete and an update-before take theirs away. An update comes as an
//! update-before with the row as it was, and directly behind it an update-after with the row as it is. An
//! operator may leave the update-before out where the key says which row an update-after replaces.
//!
//! A stream without changes is a changelog of inserts: its records carry no kind, and cost nothing more.
//!
//! # Order
//! Changes of one key have an order, and it is theirs in one stream partition only. So a changelog reaches an
//! operator or a sink by the key of its table, or on one shard.
//!
//! # As text
//! A [`Changed`] is serialized as its row, with the field [`KIND_FIELD`] in front of the row's own fields:
//! `{"op":"+U","device":"d7","count":3}`. A row without fields becomes the field `value`:
//! `{"op":"+I","value":[1,2]}`. A row that has a field of that name itself is refused.

mod serialize;

use std::fmt;

use rkyv::{Archive, Deserialize as FromArchive, Serialize as ToArchive};
use serde::{Serialize, Serializer};

/// The field of a serialized [`Changed`] that holds its kind.
pub const KIND_FIELD: &str = "op";

/// What a row of a changelog does to its table. The numbers are stored: they never change.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    ToArchive,
    FromArchive,
)]
#[repr(u8)]
pub enum RowKind {
    /// The row is new.
    #[default]
    Insert = 0,
    /// The row as it was before an update, whose [`UpdateAfter`](Self::UpdateAfter) follows.
    UpdateBefore = 1,
    /// The row as it is after an update.
    UpdateAfter = 2,
    /// The row is no more.
    Delete = 3,
}

impl RowKind {
    /// All kinds, by their numbers.
    pub const ALL: [Self; 4] = [Self::Insert, Self::UpdateBefore, Self::UpdateAfter, Self::Delete];

    /// As changelogs are written: `+I`, `-U`, `+U`, `-D`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "+I",
            Self::UpdateBefore => "-U",
            Self::UpdateAfter => "+U",
            Self::Delete => "-D",
        }
    }

    /// The stored number.
    #[inline]
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// The kind with this stored number, if there is one.
    #[inline]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Insert),
            1 => Some(Self::UpdateBefore),
            2 => Some(Self::UpdateAfter),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// Whether the row is in the table from now on; otherwise it is not.
    #[inline]
    pub const fn puts(self) -> bool {
        matches!(self, Self::Insert | Self::UpdateAfter)
    }
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for RowKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A row of a changelog, and what it does; see the [module](self).
///
/// ```
/// use serde::Serialize;
/// use thalweg_kernel::Changed;
///
/// #[derive(Serialize)]
/// struct Count { device: &'static str, count: u64 }
///
/// let update = Changed::update(Count { device: "d7", count: 2 }, Count { device: "d7", count: 3 });
/// let lines = update.map(|change| serde_json::to_string(&change).unwrap());
/// assert_eq!(lines[0], r#"{"op":"-U","device":"d7","count":2}"#);
/// assert_eq!(lines[1], r#"{"op":"+U","device":"d7","count":3}"#);
/// ```
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    ToArchive,
    FromArchive,
)]
pub struct Changed<T> {
    /// What the row does.
    pub kind: RowKind,
    /// The row.
    pub row: T,
}

impl<T> Changed<T> {
    /// A row of this kind.
    pub const fn new(kind: RowKind, row: T) -> Self {
        Self { kind, row }
    }

    /// A new row.
    pub const fn insert(row: T) -> Self {
        Self::new(RowKind::Insert, row)
    }

    /// A row that is no more.
    pub const fn delete(row: T) -> Self {
        Self::new(RowKind::Delete, row)
    }

    /// A row that was `before` and is `after`: both changes, in their order.
    pub fn update(before: T, after: T) -> [Self; 2] {
        [Self::new(RowKind::UpdateBefore, before), Self::new(RowKind::UpdateAfter, after)]
    }

    /// Another row with this effect.
    pub fn map<U>(self, row: impl FnOnce(T) -> U) -> Changed<U> {
        Changed { kind: self.kind, row: row(self.row) }
    }
}

impl<T: Serialize> Serialize for Changed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize::with_kind(self.kind, &self.row, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durable, StateWriter};

    #[test]
    fn the_numbers_and_names_of_kinds_are_theirs_for_ever() {
        let all = RowKind::ALL.map(|kind| (kind.to_byte(), kind.name()));
        assert_eq!(all, [(0, "+I"), (1, "-U"), (2, "+U"), (3, "-D")]);
        for byte in 0..=u8::MAX {
            assert_eq!(RowKind::from_byte(byte).map(RowKind::to_byte), (byte < 4).then_some(byte));
        }
        assert_eq!(RowKind::ALL.map(RowKind::puts), [true, false, true, false]);
        assert_eq!(RowKind::ALL.map(|kind| kind.to_string()), ["+I", "-U", "+U", "-D"]);
    }

    #[test]
    fn a_change_can_be_kept_in_state() {
        let change = Changed::delete(("d7".to_owned(), 3_u64));
        let bytes = StateWriter::default().write(Vec::new(), &change).unwrap();
        assert_eq!(Changed::<(String, u64)>::read(&bytes).unwrap(), change);
    }
}
