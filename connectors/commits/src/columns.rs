//! How a record becomes a row: columns bound by functions.

use std::fmt;
use std::sync::Arc;

use thalweg_kernel::ConfigError;

use crate::cell::{Cell, Kind, Value};
use crate::note;

/// Writes one column of a record.
type Bind<T> = Arc<dyn Fn(&T, &mut Vec<u8>) + Send + Sync>;

/// The most columns of a table (SQLite's own limit on parameters is far above).
pub const COLUMNS_MAX: usize = 1_000;

/// The columns of a table, each bound to a function of the record.
pub struct Columns<T> {
    columns: Vec<(Column, Bind<T>)>,
}

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

impl<T> Columns<T> {
    /// No columns yet.
    pub const fn new() -> Self {
        Self { columns: Vec::new() }
    }

    /// Adds a column that holds what `get` returns.
    pub fn bind<C: Cell>(
        &mut self,
        name: impl Into<String>,
        key: bool,
        get: impl Fn(&T) -> C + Send + Sync + 'static,
    ) {
        let write = move |record: &T, out: &mut Vec<u8>| note::write(get(record).value(), out);
        self.add(name.into(), C::KIND, key, Arc::new(write));
    }

    /// Adds a column of text that is borrowed from the record.
    pub fn bind_text(
        &mut self,
        name: impl Into<String>,
        key: bool,
        get: impl Fn(&T) -> &str + Send + Sync + 'static,
    ) {
        let write = move |record: &T, out: &mut Vec<u8>| note::write(Value::Text(get(record)), out);
        self.add(name.into(), Kind::Text, key, Arc::new(write));
    }

    fn add(&mut self, name: String, kind: Kind, key: bool, bind: Bind<T>) {
        self.columns.push((Column { name, kind, key }, bind));
    }

    /// What the columns are called.
    pub fn names(&self) -> Vec<Column> {
        self.columns.iter().map(|(column, _)| column.clone()).collect()
    }

    /// Appends a record's row to a note.
    #[inline]
    pub fn write(&self, record: &T, out: &mut Vec<u8>) {
        self.columns.iter().for_each(|(_, bind)| bind(record, out));
    }

    /// Checks what does not depend on the database.
    ///
    /// # Errors
    /// If there is no column, or one without a name, or two with the same.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name: &str, allowed: &str| Err(ConfigError::new("column", name, allowed));
        if !(1..=COLUMNS_MAX).contains(&self.columns.len()) {
            let allowed = format!("1 to {COLUMNS_MAX} columns");
            return Err(ConfigError::new("columns", self.columns.len(), allowed));
        }
        for (place, (column, _)) in self.columns.iter().enumerate() {
            let name = &column.name;
            if name.is_empty() || name.contains('\0') {
                return refuse(name, "a name, without NUL");
            }
            let same = |(other, _): &(Column, _)| other.name.eq_ignore_ascii_case(name);
            if self.columns[..place].iter().any(same) {
                return refuse(name, "each name once; upper and lower case are the same");
            }
        }
        Ok(())
    }
}

impl<T> Clone for Columns<T> {
    fn clone(&self) -> Self {
        Self { columns: self.columns.clone() }
    }
}

impl<T> Default for Columns<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Columns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.columns.iter().map(|(column, _)| column)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_make_no_table_are_refused_by_name() {
        let mut columns = Columns::<u8>::new();
        assert!(columns.check().unwrap_err().to_string().contains("1 to 1000 columns"));
        columns.bind("a", true, |&n| n);
        columns.check().unwrap();
        columns.bind("A", false, |&n| n);
        assert!(columns.check().unwrap_err().to_string().starts_with("column = \"A\""));
        let mut columns = Columns::<u8>::new();
        columns.bind_text("", false, |_| "x");
        assert!(columns.check().unwrap_err().to_string().contains("a name, without NUL"));
    }
}
