//! [`Refused`]: rows that a table does not want, and why.

use std::fmt::{self, Write};

use crate::cell::Value;
use crate::column::Column;

/// The rows of one transaction that are kept with their causes, at most; further ones are counted.
pub const REFUSALS_MAX: usize = 1_024;
/// What is kept of a row's text, in bytes.
const ROW_BYTES_MAX: usize = 4 * 1024;

/// A row that a table does not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose row it is.
    pub instance: u16,
    /// Its columns: `device = "d7", count = 3`.
    pub row: String,
    /// What the database says of it.
    pub why: String,
}

/// The rows that were refused in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Whose rows are being written.
    pub instance: u16,
    /// How many.
    pub count: u64,
    /// The first [`REFUSALS_MAX`] of them.
    pub first: Vec<Refusal>,
}

impl Refused {
    /// Notes a row and what the database says of it.
    #[cold]
    pub fn add(&mut self, columns: &[Column], row: &[Value<'_>], why: impl fmt::Display) {
        self.count += 1;
        if self.first.len() < REFUSALS_MAX {
            let (instance, row, why) = (self.instance, text(columns, row), why.to_string());
            self.first.push(Refusal { instance, row, why });
        }
    }

    /// Notes a row if one of its integers is beyond 64 bits in a column that does not `hold` such integers.
    pub fn is_too_wide(
        &mut self,
        columns: &[Column],
        row: &[Value<'_>],
        hold: impl Fn(&Column) -> bool,
    ) -> bool {
        let wide = columns.iter().zip(row).find_map(|(column, value)| match *value {
            Value::Wide(number) if !hold(column) => Some((column, number)),
            _ => None,
        });
        let Some((Column { name, .. }, number)) = wide else { return false };
        let why = format_args!(
            "{number} is beyond 64 bits, and the type of column {name} holds no such integers: give the \
             column one that does, or bind it as text"
        );
        self.add(columns, row, why);
        true
    }
}

fn text(columns: &[Column], row: &[Value<'_>]) -> String {
    let mut text = String::new();
    for (Column { name, .. }, value) in columns.iter().zip(row) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = match value {
            Value::Null => write!(text, "{comma}{name} = NULL"),
            Value::Integer(number) => write!(text, "{comma}{name} = {number}"),
            Value::Wide(number) => write!(text, "{comma}{name} = {number}"),
            Value::Real(number) => write!(text, "{comma}{name} = {number:?}"),
            Value::Text(value) => write!(text, "{comma}{name} = {value:?}"),
            Value::Blob(bytes) => write!(text, "{comma}{name} = {} bytes", bytes.len()),
        };
        if text.len() > ROW_BYTES_MAX {
            text.truncate(text.floor_char_boundary(ROW_BYTES_MAX));
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Kind;

    fn columns() -> [Column; 3] {
        ["a", "b", "c"].map(|name| Column { name: name.into(), kind: Kind::Integer, key: false })
    }

    #[test]
    fn a_row_is_named_with_its_cause() {
        let mut refused = Refused::default();
        let row = [Value::Text("x\"\n"), Value::Wide(1 << 64), Value::Blob(b"ab")];
        assert!(!refused.is_too_wide(&columns(), &row, |column| column.name == "b"));
        assert!(refused.is_too_wide(&columns(), &row, |column| column.name == "a"));
        let Refusal { row, why, .. } = &refused.first[0];
        assert_eq!(row, r#"a = "x\"\n", b = 18446744073709551616, c = 2 bytes"#);
        assert!(why.starts_with("18446744073709551616 is beyond 64 bits"), "{why}");
        assert!(why.contains("column b"), "{why}");
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let mut refused = Refused::default();
        let long = "ø".repeat(ROW_BYTES_MAX);
        for _ in 0..=REFUSALS_MAX {
            refused.add(&columns(), &[Value::Text(&long), Value::Null, Value::Null], "no");
        }
        assert_eq!((refused.count, refused.first.len()), (1_025, 1_024));
        assert!(refused.first[0].row.len() <= ROW_BYTES_MAX + '…'.len_utf8());
    }
}
