//! [`Rows`]: the rows of a note, and parts of them as one array a column. Pure.

use std::collections::HashMap;

use thalweg_commits::{Column, Kind, Note, NoteDamaged, Value, note};
use tokio_postgres::types::{ToSql, Type};

/// All rows of a note.
pub(crate) struct Rows<'a> {
    columns: Vec<Column>,
    cells: Vec<Value<'a>>,
}

/// A column of some rows.
#[derive(Debug, PartialEq)]
pub(crate) enum Array<'a> {
    Integers(Vec<Option<i64>>),
    Reals(Vec<Option<f64>>),
    Texts(Vec<Option<&'a str>>),
    Blobs(Vec<Option<&'a [u8]>>),
}

impl Array<'_> {
    /// As a parameter.
    pub(crate) fn parameter(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Integers(values) => (values, Type::INT8_ARRAY),
            Self::Reals(values) => (values, Type::FLOAT8_ARRAY),
            Self::Texts(values) => (values, Type::TEXT_ARRAY),
            Self::Blobs(values) => (values, Type::BYTEA_ARRAY),
        }
    }
}

impl<'a> Rows<'a> {
    /// Reads them.
    pub(crate) fn read(note: &mut Note<'a>) -> Result<Self, NoteDamaged> {
        let columns = note.columns().to_vec();
        let (mut cells, mut row) = (Vec::new(), Vec::new());
        while note.next_row(&mut row)? {
            cells.extend_from_slice(&row);
        }
        Ok(Self { columns, cells })
    }

    /// What their columns are.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.cells.len() / self.columns.len().max(1)
    }

    fn row(&self, row: usize) -> &[Value<'a>] {
        &self.cells[row * self.columns.len()..][..self.columns.len()]
    }

    /// Which of the rows `from..to` to insert: where there are keys, the last one of each, since one statement
    /// cannot replace what it has just inserted. What equal keys are is PostgreSQL's to say (`numeric`,
    /// `citext`); ours only saves it work.
    pub(crate) fn last_of_each(&self, from: usize, to: usize) -> Vec<usize> {
        if !self.columns.iter().any(|column| column.key) {
            return (from..to).collect();
        }
        let mut last = HashMap::with_capacity(to - from);
        let mut key = Vec::new();
        for row in from..to {
            key.clear();
            for (value, column) in self.row(row).iter().zip(&self.columns) {
                if column.key {
                    note::write(*value, &mut key);
                }
            }
            match last.get_mut(&key) {
                Some(before) => *before = row,
                None => _ = last.insert(key.clone(), row),
            }
        }
        let mut rows: Vec<_> = last.into_values().collect();
        rows.sort_unstable();
        rows
    }

    /// Some rows as one array a column; `None` if a value is not of its column's kind.
    pub(crate) fn arrays(&self, rows: &[usize]) -> Option<Vec<Array<'a>>> {
        macro_rules! collect {
            ($place:expr, $kind:ident, $array:ident) => {{
                let value = |&row: &usize| match self.row(row)[$place] {
                    Value::$kind(value) => Some(Some(value)),
                    Value::Null => Some(None),
                    _ => None,
                };
                Array::$array(rows.iter().map(value).collect::<Option<Vec<_>>>()?)
            }};
        }
        let array = |(place, column): (usize, &Column)| {
            Some(match column.kind {
                Kind::Integer => collect!(place, Integer, Integers),
                Kind::Real => collect!(place, Real, Reals),
                Kind::Text => collect!(place, Text, Texts),
                Kind::Blob => collect!(place, Blob, Blobs),
            })
        };
        self.columns.iter().enumerate().map(array).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_and_the_last_of_each_key_wins() {
        let column = |name: &str, kind, key| Column { name: name.into(), kind, key };
        let columns = [column("k", Kind::Text, true), column("n", Kind::Integer, false)];
        let mut bytes = note::begin(&columns);
        for (k, n) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            note::write(Value::Text(k), &mut bytes);
            note::write(if n == 2 { Value::Null } else { Value::Integer(n) }, &mut bytes);
        }
        let rows = Rows::read(&mut Note::read(&bytes).unwrap()).unwrap();
        assert_eq!((rows.len(), rows.last_of_each(0, 4)), (4, vec![1, 2, 3]));
        assert_eq!(rows.last_of_each(0, 2), [0, 1]);
        let arrays = rows.arrays(&[1, 2]).unwrap();
        let expected =
            [Array::Texts(vec![Some("b"), Some("a")]), Array::Integers(vec![None, Some(3)])];
        assert_eq!(arrays, expected);
    }

    #[test]
    fn a_value_of_another_kind_is_no_row_of_ours() {
        let columns = [Column { name: "n".into(), kind: Kind::Integer, key: false }];
        let mut bytes = note::begin(&columns);
        note::write(Value::Text("x"), &mut bytes);
        let rows = Rows::read(&mut Note::read(&bytes).unwrap()).unwrap();
        assert_eq!(rows.arrays(&[0]), None);
    }
}
