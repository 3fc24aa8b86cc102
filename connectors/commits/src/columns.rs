//! How a record becomes a row: columns bound by functions.

use std::fmt;
use std::sync::Arc;

use thalweg_kernel::{Changed, ConfigError, RowKind};

use crate::cell::{Cell, Kind, Value};
use crate::column::{COLUMNS_MAX, Column};
use crate::note;

/// Writes one column of a record.
type Bind<T> = Arc<dyn Fn(&T, &mut Vec<u8>) + Send + Sync>;

/// The columns of a table, each bound to a function of the record.
pub struct Columns<T> {
    columns: Vec<(Column, Bind<T>)>,
    /// What a record's row does, where it may do more than be inserted.
    kind: Option<fn(&T) -> RowKind>,
}

impl<T> Columns<T> {
    /// No columns yet.
    pub const fn new() -> Self {
        Self { columns: Vec::new(), kind: None }
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

    /// Adds a column of this type that holds what `get` returns.
    pub(crate) fn bind_value(
        &mut self,
        name: impl Into<String>,
        kind: Kind,
        key: bool,
        get: impl Fn(&T) -> Value<'_> + Send + Sync + 'static,
    ) {
        let write = move |record: &T, out: &mut Vec<u8>| note::write(get(record), out);
        self.add(name.into(), kind, key, Arc::new(write));
    }

    fn add(&mut self, name: String, kind: Kind, key: bool, bind: Bind<T>) {
        self.columns.push((Column { name, kind, key }, bind));
    }

    /// What the columns are called.
    pub fn names(&self) -> Vec<Column> {
        self.columns.iter().map(|(column, _)| column.clone()).collect()
    }

    /// Whether some columns are the key.
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|(column, _)| column.key)
    }

    /// What tells the kind of a record's row; none where all rows are inserted.
    #[inline]
    pub(crate) const fn kind(&self) -> Option<fn(&T) -> RowKind> {
        self.kind
    }

    /// Appends a record's row to a note.
    #[inline]
    pub fn write(&self, record: &T, out: &mut Vec<u8>) {
        self.columns.iter().for_each(|(_, bind)| bind(record, out));
    }

    /// Appends the key of a record's row.
    #[inline]
    pub fn write_key(&self, record: &T, out: &mut Vec<u8>) {
        let key = self.columns.iter().filter(|(column, _)| column.key);
        key.for_each(|(_, bind)| bind(record, out));
    }

    /// Checks what does not depend on the database.
    ///
    /// # Errors
    /// If there is no column, or one without a name, or two with one name.
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

impl<T: 'static> Columns<T> {
    /// The columns, of the rows of a changelog. `follows`: a row does to the table what its kind says;
    /// otherwise each change is inserted.
    pub(crate) fn of_changes(self, follows: bool) -> Columns<Changed<T>> {
        let of_row = |(column, bind): (Column, Bind<T>)| {
            let bind: Bind<Changed<T>> = Arc::new(move |change, out| bind(&change.row, out));
            (column, bind)
        };
        let columns = self.columns.into_iter().map(of_row).collect();
        Columns { columns, kind: follows.then_some(|change| change.kind) }
    }
}

impl<T> Clone for Columns<T> {
    fn clone(&self) -> Self {
        Self { columns: self.columns.clone(), kind: self.kind }
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
