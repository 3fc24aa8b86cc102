//! Records as an aligned table for a terminal.
//!
//! The columns are the scalar fields, nested ones with dots (`value.avg`), arrays as JSON. Numbers stand to the
//! right. A wider value widens its column from there on, since what was printed is printed. When the fields
//! change, a new header follows an empty line. Control characters are replaced, so that no device can send escape
//! sequences to the operator's terminal.

use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A cell is cut off after this many characters.
const CELL_CHARS_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    /// What [`Table::render`] returns; used again.
    text: String,
}

struct Column {
    name: String,
    width_chars: usize,
}

struct Cell {
    name: String,
    text: String,
    number: bool,
}

impl Table {
    /// The rows for `lines` of JSON, with a header where one is due.
    pub(crate) fn render(&mut self, lines: &[u8]) -> &str {
        self.text.clear();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<&RawValue>(line) {
                Ok(value) => self.row(value),
                // The sink wrote it, so this does not happen; but better seen than lost.
                Err(_) => {
                    self.text.push_str(&printable(&String::from_utf8_lossy(line)));
                    self.text.push('\n');
                }
            }
        }
        &self.text
    }

    fn row(&mut self, record: &RawValue) {
        let mut cells = Vec::new();
        flatten(record, String::new(), &mut cells);
        let same = cells.len() == self.columns.len()
            && cells.iter().zip(&self.columns).all(|(cell, column)| cell.name == column.name);
        if !same {
            self.header(&cells);
        }
        for (cell, column) in cells.iter().zip(&mut self.columns) {
            column.width_chars = column.width_chars.max(chars(&cell.text));
        }
        let widths: Vec<_> = self.columns.iter().map(|column| column.width_chars).collect();
        self.line(cells.iter().map(|cell| (cell.text.as_str(), cell.number)).zip(widths));
    }

    fn header(&mut self, cells: &[Cell]) {
        if !self.columns.is_empty() {
            self.text.push('\n');
        }
        let column = |cell: &Cell| Column {
            width_chars: chars(&cell.name).max(chars(&cell.text)),
            name: cell.name.clone(),
        };
        self.columns = cells.iter().map(column).collect();
        let widths: Vec<_> = self.columns.iter().map(|column| column.width_chars).collect();
        let rules: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
        let names = cells.iter().map(|cell| (cell.name.as_str(), cell.number));
        self.line(names.zip(widths.iter().copied()));
        self.line(rules.iter().map(|rule| (rule.as_str(), false)).zip(widths));
    }

    fn line<'a>(&mut self, cells: impl Iterator<Item = ((&'a str, bool), usize)>) {
        for (place, ((text, right), width)) in cells.enumerate() {
            self.text.push_str(if place > 0 { "  " } else { "" });
            let _ = match right {
                true => write!(self.text, "{text:>width$}"),
                false => write!(self.text, "{text:<width$}"),
            };
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// The cells of a value. serde_json has a depth limit of its own, so recursion is bounded.
fn flatten(value: &RawValue, path: String, cells: &mut Vec<Cell>) {
    let json = value.get();
    if json.starts_with('{')
        && let Ok(fields) = serde_json::from_str::<Fields<'_>>(json)
    {
        for (name, value) in fields.0 {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            flatten(value, path, cells);
        }
        return;
    }
    let name = if path.is_empty() { "value".to_owned() } else { printable(&path) };
    let number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let text = match json {
        "null" => String::new(),
        _ if json.starts_with('"') => serde_json::from_str::<String>(json).unwrap_or_default(),
        _ => json.to_owned(),
    };
    cells.push(Cell { name, text: printable(&text), number });
}

/// `text` on one line, harmless, and cut off where it is too long.
fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(CELL_CHARS_MAX).map(harmless).collect();
    if text.chars().nth(CELL_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// An object's fields in their order, values unparsed.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_grows_and_repeats_its_header_when_fields_change() {
        let mut table = Table::default();
        let first = concat!(
            r#"{"device":"a","value":{"avg":0.1,"n":3},"on":true}"#,
            "\n",
            r#"{"device":"boiler-12","value":{"avg":-21.25,"n":null},"on":false}"#,
            "\n",
        );
        let expected = "\
device  value.avg  value.n  on
------  ---------  -------  ----
a             0.1        3  true
boiler-12     -21.25           false
";
        assert_eq!(table.render(first.as_bytes()), expected);
        let expected = "b                  1        2  true\n";
        let line = b"{\"device\":\"b\",\"value\":{\"avg\":1,\"n\":2},\"on\":true}\n";
        assert_eq!(table.render(line), expected);
        assert_eq!(table.render(b"7\n"), "\nvalue\n-----\n    7\n");
    }

    #[test]
    fn a_device_cannot_control_the_terminal() {
        let mut table = Table::default();
        let line =
            serde_json::to_vec(&[("x", "\u{1b}[2J\nöl".to_owned() + &"y".repeat(99))]).unwrap();
        let text = table.render(&line).to_owned();
        assert!(!text.contains('\u{1b}') && text.lines().count() == 3, "{text}");
        let line = serde_json::json!({"x": "\u{1b}[2J\nöl"}).to_string();
        assert_eq!(table.render(line.as_bytes()), "\nx\n-------\n\u{fffd}[2J\u{fffd}öl\n");
    }
}
