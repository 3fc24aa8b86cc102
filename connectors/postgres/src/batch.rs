//! [`Rows`]: the rows of a note, and parts of them as one array a column. Pure.

use std::collections::HashMap;

use thalweg_commits::{Column, Kind, Note, NoteDamaged, Refused, Value, note};
use tokio_postgres::types::{ToSql, Type};

use crate::table::Shape;

/// The rows of a note that can be sent.
pub(crate) struct Rows<'a> {
    columns: Vec<Column>,
    /// Which columns hold integers of any width.
    wide: Vec<bool>,
    cells: Vec<Value<'a>>,
    /// Which rows leave the table.
    leave: Vec<bool>,
}

/// A column of some rows.
#[derive(Debug, PartialEq)]
pub(crate) enum Array<'a> {
    Integers(Vec<Option<i64>>),
    /// Integers of any width, as text.
    Numbers(Vec<Option<String>>),
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
            Self::Numbers(values) => (values, Type::TEXT_ARRAY),
            Self::Texts(values) => (values, Type::TEXT_ARRAY),
            Self::Blobs(values) => (values, Type::BYTEA_ARRAY),
        }
    }
}

impl<'a> Rows<'a> {
    /// Reads them, but for those with an integer that no column of `shape` can hold.
    pub(crate) fn read(
        note: &mut Note<'a>,
        shape: &Shape,
        refused: &mut Refused,
    ) -> Result<Self, NoteDamaged> {
        let columns = note.columns().to_vec();
        let wide = columns.iter().map(|column| shape.holds_wide(column)).collect();
        let (mut cells, mut leave, mut row) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(kind) = note.next_row(&mut row)? {
            if !refused.is_too_wide(&columns, &row, |column| shape.holds_wide(column)) {
                cells.extend_from_slice(&row);
                leave.push(!kind.puts());
            }
        }
        Ok(Self { columns, wide, cells, leave })
    }

    /// What their columns are.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.leave.len()
    }

    /// Whether a row leaves the table.
    pub(crate) fn leaves(&self, row: usize) -> bool {
        self.leave[row]
    }

    /// Whether some of the rows `from..to` leave the table and others come into it.
    pub(crate) fn is_mixed(&self, from: usize, to: usize) -> bool {
        self.leave[from..to].iter().any(|&leaves| leaves != self.leave[from])
    }

    pub(crate) fn row(&self, row: usize) -> &[Value<'a>] {
        &self.cells[row * self.columns.len()..][..self.columns.len()]
    }

    /// Which of the rows `from..to` to send. Where there are keys it is the last one of each, since one
    /// statement cannot replace what it has just inserted. What equal keys are is PostgreSQL's to say
    /// (`numeric`, `citext`); ours only saves it work.
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

    /// Some rows as one array a column, of the key's columns alone if these rows leave the table. `None` if a
    /// value is not of its column's kind.
    pub(crate) fn arrays(&self, rows: &[usize], leave: bool) -> Option<Vec<Array<'a>>> {
        macro_rules! collect {
            ($place:expr, $array:ident, $($value:pat => $cell:expr),+) => {{
                let value = |&row: &usize| match self.row(row)[$place] {
                    Value::Null => Some(None),
                    $($value => Some(Some($cell)),)+
                    _ => None,
                };
                Array::$array(rows.iter().map(value).collect::<Option<Vec<_>>>()?)
            }};
        }
        let array = |(place, column): (usize, &Column)| {
            Some(match column.kind {
                Kind::Integer if self.wide[place] => collect!(
                    place, Numbers,
                    Value::Integer(number) => number.to_string(),
                    Value::Wide(number) => number.to_string()
                ),
                Kind::Integer => collect!(place, Integers, Value::Integer(number) => number),
                Kind::Real => collect!(place, Reals, Value::Real(number) => number),
                Kind::Text => collect!(place, Texts, Value::Text(text) => text),
                Kind::Blob => collect!(place, Blobs, Value::Blob(bytes) => bytes),
            })
        };
        let columns = self.columns.iter().enumerate();
        columns.filter(|(_, column)| !leave || column.key).map(array).collect()
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::RowKind;

    use super::*;
    use crate::table::Found;

    fn shape(base: &str) -> Shape {
        let found = |name: &str, base: &str| Found {
            name: name.into(),
            written: base.into(),
            base: base.into(),
            category: "N".into(),
            needed: false,
            loose: false,
        };
        Shape(vec![found("k", "text"), found("n", base)])
    }

    fn columns() -> [Column; 2] {
        let column = |name: &str, kind, key| Column { name: name.into(), kind, key };
        [column("k", Kind::Text, true), column("n", Kind::Integer, false)]
    }

    /// A note of these rows, read for a table whose column `n` has this type; and how many were refused.
    fn check(base: &str, rows: &[(RowKind, &str, Value<'_>)], look: impl FnOnce(Rows<'_>, u64)) {
        let mut bytes = note::begin(&columns(), true);
        for (kind, key, number) in rows {
            bytes.push(kind.to_byte());
            note::write(Value::Text(key), &mut bytes);
            if kind.puts() {
                note::write(*number, &mut bytes);
            }
        }
        let mut refused = Refused::default();
        let rows = Rows::read(&mut Note::read(&bytes).unwrap(), &shape(base), &mut refused);
        look(rows.unwrap(), refused.count);
    }

    const SOME: [(RowKind, &str, Value<'_>); 5] = [
        (RowKind::Insert, "a", Value::Integer(1)),
        (RowKind::Insert, "b", Value::Null),
        (RowKind::UpdateAfter, "a", Value::Integer(3)),
        (RowKind::Delete, "c", Value::Null),
        (RowKind::Insert, "d", Value::Wide(1 << 64)),
    ];

    #[test]
    fn rows_become_columns_and_the_last_of_each_key_wins() {
        check("numeric", &SOME, |rows, refused| {
            assert_eq!((rows.len(), refused), (5, 0));
            assert_eq!(
                (rows.last_of_each(0, 5), rows.last_of_each(0, 2)),
                (vec![1, 2, 3, 4], vec![0, 1])
            );
            assert!(!rows.is_mixed(0, 3) && rows.is_mixed(0, 4) && !rows.is_mixed(3, 4));
            let expected = [
                Array::Texts(vec![Some("b"), Some("a"), Some("d")]),
                Array::Numbers(vec![None, Some("3".into()), Some("18446744073709551616".into())]),
            ];
            assert_eq!(rows.arrays(&[1, 2, 4], false).unwrap(), expected);
            assert_eq!(rows.arrays(&[3], true).unwrap(), [Array::Texts(vec![Some("c")])]);
        });
    }

    #[test]
    fn an_integer_that_its_column_cannot_hold_is_refused_alone() {
        check("int8", &SOME, |rows, refused| {
            assert_eq!((rows.len(), refused), (4, 1));
            let numbers = Array::Integers(vec![Some(1), None]);
            assert_eq!(rows.arrays(&[0, 1], false).unwrap()[1], numbers);
        });
    }

    #[test]
    fn a_value_of_another_kind_is_no_row_of_ours() {
        check("int8", &[(RowKind::Insert, "a", Value::Text("x"))], |rows, _| {
            assert_eq!(rows.arrays(&[0], false), None);
        });
    }
}
