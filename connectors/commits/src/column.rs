//! [`Column`]: what a table's column is called, and what it holds.

use crate::cell::Kind;

/// The most columns of a table (SQLite's own limit on parameters is far above).
pub const COLUMNS_MAX: usize = 1_000;

/// A column's name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, as it stands in the database.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// It belongs to the key: a row replaces the one with the same key.
    pub key: bool,
}
