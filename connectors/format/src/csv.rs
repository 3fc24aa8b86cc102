//! CSV as RFC 4180 has it: a header of field names, then one line per record.
//!
//! A record is written as JSON into a buffer that is used again, and its scalars become the cells.
//! So whatever serde attributes say about names and forms holds in every text format alike. Numbers
//! are written with the fewest digits that read back equal.
//!
//! | a field holds | its columns |
//! |---|---|
//! | a scalar | one; `null`, NaN and infinity leave it empty |
//! | a struct or map | those of its fields, with dots: `value.avg` |
//! | an array | one, with the array as JSON text; but a record that is an array itself (a tuple) has one column per element: `0`, `1` |
//! | a record that is a scalar itself | one, named `value` |
//!
//! The first record fixes the columns: maps whose keys change belong into JSON lines. An optional
//! struct that is `null` later leaves its columns empty. One that is `null` in the first record has
//! shown no columns to fill later.
//!
//! A row of a changelog ([`Changed`](thalweg_kernel::Changed)) has its kind in the first column, `op`.

use serde::Serialize;
use thalweg_kernel::Encode;
use thalweg_kernel::format::EncodeError;

use crate::json::{Error, Parser};

/// Records may nest this deep.
const DEPTH_MAX: usize = 64;

/// Encodes each record as a line of CSV; see the [module](self).
///
/// ```
/// use serde::Serialize;
/// use thalweg_format::Csv;
/// use thalweg_kernel::Encode;
///
/// #[derive(Serialize)]
/// struct Row { device: &'static str, value: Stats }
/// #[derive(Serialize)]
/// struct Stats { avg: f64, max: Option<f64> }
///
/// let row = Row { device: "boiler, old", value: Stats { avg: 21.5, max: None } };
/// let (mut csv, mut out) = (Csv::new(), Vec::new());
/// csv.header(&row, &mut out)?;
/// out.push(b'\n');
/// csv.encode(&row, &mut out)?;
/// assert_eq!(String::from_utf8_lossy(&out), "device,value.avg,value.max\n\"boiler, old\",21.5,");
/// # Ok::<(), thalweg_kernel::format::EncodeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Csv {
    /// Fixed by the first record.
    columns: Option<Vec<String>>,
    json: Vec<u8>,
    /// Unescaped strings.
    scratch: String,
    /// The path to the scalar at hand.
    path: String,
}

impl Csv {
    /// An encoder whose columns the first record will fix.
    pub const fn new() -> Self {
        Self { columns: None, json: Vec::new(), scratch: String::new(), path: String::new() }
    }

    /// Calls `cell` with the path and the text of each scalar of `record`; `None` for null.
    fn cells<T: Serialize>(
        &mut self,
        record: &T,
        cell: &mut impl FnMut(&str, Option<&str>) -> Result<(), String>,
    ) -> Result<(), EncodeError> {
        self.json.clear();
        serde_json::to_writer(&mut self.json, record)
            .map_err(|error| refused(error.to_string()))?;
        let text = std::str::from_utf8(&self.json).map_err(|error| refused(error.to_string()))?;
        let mut parser = Parser::new(text, DEPTH_MAX, &mut self.scratch);
        self.path.clear();
        walk(&mut parser, &mut self.path, cell).map_err(|stop| match stop {
            Stop::Json(error) => refused(error.to_string()),
            Stop::Cell(reason) => refused(reason),
        })
    }

    fn columns_of<T: Serialize>(&mut self, record: &T) -> Result<Vec<String>, EncodeError> {
        let mut columns = Vec::new();
        self.cells(record, &mut |path, _| {
            columns.push(path.to_owned());
            Ok(())
        })?;
        if columns.is_empty() {
            return Err(refused("the record has no fields, so there are no columns".into()));
        }
        Ok(columns)
    }
}

impl<T: Serialize> Encode<T> for Csv {
    fn header(&mut self, first: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let columns = self.columns_of(first)?;
        let mut row = Row { columns: &columns, next: 0, out };
        columns.iter().for_each(|column| row.put(column));
        self.columns = Some(columns);
        Ok(())
    }

    fn encode(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        // Taken for the time of the call: the cells borrow the encoder's buffers.
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => self.columns_of(record)?,
        };
        let mut row = Row { columns: &columns, next: 0, out };
        let mut written = self.cells(record, &mut |path, text| row.cell(path, text));
        if written.is_ok() {
            written = row.end().map_err(refused);
        }
        self.columns = Some(columns);
        if written.is_err() {
            out.truncate(before);
        }
        written
    }
}

/// A line under way.
struct Row<'a> {
    columns: &'a [String],
    next: usize,
    out: &'a mut Vec<u8>,
}

impl Row<'_> {
    fn cell(&mut self, path: &str, text: Option<&str>) -> Result<(), String> {
        if self.columns.get(self.next).is_some_and(|column| column == path) {
            self.put(text.unwrap_or_default());
            return Ok(());
        }
        let below =
            |column: &String| column.strip_prefix(path).is_some_and(|inner| inner.starts_with('.'));
        let absent = self.columns[self.next..].iter().take_while(|column| below(column)).count();
        if text.is_some() || absent == 0 {
            return Err(self.unexpected(path));
        }
        (0..absent).for_each(|_| self.put(""));
        Ok(())
    }

    #[cold]
    fn unexpected(&self, path: &str) -> String {
        let columns = self.columns.join(", ");
        match self.columns.get(self.next) {
            Some(due) => format!(
                "column `{path}` stands where the first record had `{due}`; the columns are {columns}"
            ),
            None => {
                format!("column `{path}` was not in the first record; the columns are {columns}")
            }
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.columns.get(self.next) {
            Some(due) => Err(format!("column `{due}` of the first record is missing")),
            None => Ok(()),
        }
    }

    /// Appends a cell, in quotes where it needs them.
    fn put(&mut self, text: &str) {
        if self.next > 0 {
            self.out.push(b',');
        }
        self.next += 1;
        let special = |byte: u8| matches!(byte, b'"' | b',' | b'\n' | b'\r');
        // An only cell that is empty would make an empty line, which readers skip.
        let vanishes = text.is_empty() && self.columns.len() == 1;
        if !vanishes && !text.bytes().any(special) {
            self.out.extend_from_slice(text.as_bytes());
            return;
        }
        self.out.push(b'"');
        for (part, piece) in text.split('"').enumerate() {
            if part > 0 {
                self.out.extend_from_slice(b"\"\"");
            }
            self.out.extend_from_slice(piece.as_bytes());
        }
        self.out.push(b'"');
    }
}

enum Stop {
    Json(Error),
    Cell(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Json(error)
    }
}

/// Walks through the value that is next. Recursion is bounded by the parser's depth limit.
fn walk(
    parser: &mut Parser<'_, '_>,
    path: &mut String,
    cell: &mut impl FnMut(&str, Option<&str>) -> Result<(), String>,
) -> Result<(), Stop> {
    let outside = path.len();
    match parser.token() {
        Some(b'{') => {
            parser.enter()?;
            while !parser.takes(b'}') {
                parser.takes(b',');
                parser.token();
                let key = parser.string()?;
                descend(path, key.as_str());
                parser.colon()?;
                walk(parser, path, cell)?;
                path.truncate(outside);
            }
            parser.leave();
        }
        Some(b'[') if path.is_empty() => {
            parser.enter()?;
            for index in 0.. {
                if parser.takes(b']') {
                    break;
                }
                parser.takes(b',');
                descend(path, &index.to_string());
                walk(parser, path, cell)?;
                path.truncate(outside);
            }
            parser.leave();
        }
        Some(b'"') => cell(or_value(path), Some(parser.string()?.as_str())).map_err(Stop::Cell)?,
        _ => {
            let text = parser.skipped()?;
            let text = (text != "null").then_some(text);
            cell(or_value(path), text).map_err(Stop::Cell)?;
        }
    }
    Ok(())
}

fn descend(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// A record that is a scalar has no path.
fn or_value(path: &str) -> &str {
    if path.is_empty() { "value" } else { path }
}

#[cold]
fn refused(reason: String) -> EncodeError {
    EncodeError { format: "CSV", reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use thalweg_kernel::Changed;
    use thalweg_testing::Random;

    /// The header and the lines that `records` give.
    fn lines<T: Serialize>(records: &[T]) -> Result<String, EncodeError> {
        let (mut csv, mut out) = (Csv::new(), Vec::new());
        csv.header(&records[0], &mut out)?;
        for record in records {
            out.push(b'\n');
            csv.encode(record, &mut out)?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    #[derive(Serialize)]
    struct Row {
        device: &'static str,
        value: Option<Stats>,
        n: u64,
    }

    #[derive(Serialize)]
    struct Stats {
        avg: f64,
        max: f32,
    }

    #[test]
    fn nested_fields_become_dotted_columns() {
        let rows = [
            Row { device: "a", value: Some(Stats { avg: 0.1, max: 0.1 }), n: u64::MAX },
            Row { device: "b", value: None, n: 0 },
            Row { device: "", value: Some(Stats { avg: f64::NAN, max: -0.0 }), n: 1 },
        ];
        let expected = "device,value.avg,value.max,n\n\
                        a,0.1,0.1,18446744073709551615\nb,,,0\n,,-0.0,1";
        assert_eq!(lines(&rows).unwrap(), expected);
    }

    #[test]
    fn tuples_scalars_and_inner_arrays() {
        assert_eq!(lines(&[("a", 1), ("b", 2)]).unwrap(), "0,1\na,1\nb,2");
        assert_eq!(lines(&[1.5, 2.0]).unwrap(), "value\n1.5\n2.0");
        assert_eq!(lines(&[json!({"xs": [1, "a"]})]).unwrap(), "xs\n\"[1,\"\"a\"\"]\"");
        assert_eq!(lines(&[Some(1), None]).unwrap(), "value\n1\n\"\"");
    }

    #[test]
    fn a_changelog_has_its_kind_in_the_first_column() {
        let row = |n| Row { device: "a", value: None, n };
        let [before, after] = Changed::update(row(1), row(2));
        let rows = [Changed::insert(row(1)), before, after, Changed::delete(row(2))];
        assert_eq!(lines(&rows).unwrap(), "op,device,value,n\n+I,a,,1\n-U,a,,1\n+U,a,,2\n-D,a,,2");
        let clash = lines(&[Changed::insert(json!({"op": 1}))]).unwrap_err();
        assert!(clash.reason.contains("a field `op` of its own"), "{}", clash.reason);
    }

    #[test]
    fn other_columns_than_the_first_records_are_refused_by_name() {
        let reason = |records: &[Value]| lines(records).unwrap_err().reason;
        assert_eq!(
            reason(&[json!({"a": 1, "b": 2}), json!({"a": 1})]),
            "column `b` of the first record is missing"
        );
        assert_eq!(
            reason(&[json!({"a": 1}), json!({"a": 1, "c": 2})]),
            "column `c` was not in the first record; the columns are a"
        );
        assert_eq!(
            reason(&[json!({"a": 1}), json!({"x": 1})]),
            "column `x` stands where the first record had `a`; the columns are a"
        );
        assert_eq!(
            reason(&[json!({"a": {"b": 1}}), json!({"a": 1})]),
            "column `a` stands where the first record had `a.b`; the columns are a.b"
        );
        assert_eq!(reason(&[json!({})]), "the record has no fields, so there are no columns");
    }

    #[test]
    fn a_refused_record_leaves_no_trace_and_the_columns_stay() {
        let (mut csv, mut out) = (Csv::new(), b"x".to_vec());
        csv.encode(&json!({"a": 1, "b": 2}), &mut out).unwrap();
        assert!(csv.encode(&json!({"a": 1}), &mut out).is_err());
        assert_eq!(out, b"x1,2");
        csv.encode(&json!({"a": 3, "b": 4}), &mut out).unwrap();
        assert_eq!(out, b"x1,23,4");
    }

    /// Method: write cells full of specials, read them back with the `csv` crate.
    #[test]
    fn another_reader_reads_back_every_cell() {
        let alphabet = ["a", "\"", ",", "\n", "\r", " ", "é", "'", "\\", "", "\t"];
        let mut random = Random::new(7);
        for columns in [1, 2, 5] {
            let names: Vec<_> = (0..columns).map(|c| format!("c{c} \",")).collect();
            let rows: Vec<BTreeMap<&str, String>> = (0..300)
                .map(|_| {
                    let mut cell = || {
                        let parts = random.below(6);
                        (0..parts).map(|_| random.one_of(alphabet)).collect()
                    };
                    names.iter().map(|name| (name.as_str(), cell())).collect()
                })
                .collect();
            let text = lines(&rows).unwrap();
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), names);
            let read: Vec<_> = reader.records().map(Result::unwrap).collect();
            assert_eq!(read.len(), rows.len());
            for (read, row) in read.iter().zip(&rows) {
                assert!(read.iter().eq(row.values()), "{read:?} {row:?}");
            }
        }
    }
}
