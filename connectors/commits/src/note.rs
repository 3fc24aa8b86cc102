//! [`Note`]: the rows of an epoch as bytes.
//!
//! A note describes itself, so that it can still be applied when the job has other columns by then.
//!
//! ```text
//! note   = "TWR" u8:version(2) u8:flags(1: rows have kinds) varint:columns column* row*
//! column = u8:kind(1 integer, 2 real, 3 text, 4 blob; +16 if it belongs to the key) text
//! row    = one cell per column                                  in a note without kinds
//!        | u8:kind(0 insert, 2 update-after) one cell per column
//!        | u8:kind(1 update-before, 3 delete) one cell per column of the key
//! cell   = 0                      NULL
//!        | 1 varint               an integer, zigzag
//!        | 2 f64                  little-endian
//!        | 3 text                 UTF-8
//!        | 4 text                 bytes
//!        | 5 i128                 an integer beyond 64 bits, little-endian
//! text   = varint:length byte*
//! varint = 7 bits a byte, lowest first, the top bit set in all but the last
//! ```
//! Version 1 has no flags, no kinds and no cell 5, and can be read for ever. There is no checksum: the store
//! that keeps the notes has one. Rows end where the note ends.

use thalweg_kernel::RowKind;

use crate::cell::{Kind, Value};
use crate::column::{COLUMNS_MAX, Column};

const MAGIC: &[u8; 3] = b"TWR";
const VERSION: u8 = 2;
/// Of notes that are still read, and written no more.
const VERSION_1: u8 = 1;
/// The flag of a note whose rows have kinds.
const KINDS: u8 = 1;
const KEY: u8 = 16;
const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const WIDE: u8 = 5;

/// What a note begins with. `kinds`: its rows have kinds.
pub fn begin(columns: &[Column], kinds: bool) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.push(if kinds { KINDS } else { 0 });
    varint(columns.len() as u64, &mut out);
    for column in columns {
        let kind = match column.kind {
            Kind::Integer => INTEGER,
            Kind::Real => REAL,
            Kind::Text => TEXT,
            Kind::Blob => BLOB,
        };
        out.push(kind | if column.key { KEY } else { 0 });
        text(column.name.as_bytes(), &mut out);
    }
    out
}

/// Appends a cell.
#[inline]
pub fn write(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Integer(number) => {
            out.push(INTEGER);
            varint(((number << 1) ^ (number >> 63)) as u64, out);
        }
        Value::Wide(number) => {
            out.push(WIDE);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Real(number) => {
            out.push(REAL);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Text(bytes) => {
            out.push(TEXT);
            text(bytes.as_bytes(), out);
        }
        Value::Blob(bytes) => {
            out.push(BLOB);
            text(bytes, out);
        }
    }
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A note that is not what this module writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a note with rows of an epoch cannot be read at byte {position}: {why}")]
pub struct NoteDamaged {
    /// Where in the note.
    pub position: usize,
    /// What is wrong there.
    pub why: &'static str,
}

/// The rows of a note.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    columns: Vec<Column>,
    kinds: bool,
    /// For a seeded defect: all rows are inserted.
    forgets_kinds: bool,
    head: &'a [u8],
    rows: Reader<'a>,
}

impl<'a> Note<'a> {
    /// Reads the head of a note.
    ///
    /// # Errors
    /// If it is damaged, or of a later version.
    pub fn read(note: &'a [u8]) -> Result<Self, NoteDamaged> {
        let mut reader = Reader { all: note, at: 0 };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(NoteDamaged { position: 0, why: "it does not begin as one" });
        }
        let kinds = match reader.byte()? {
            VERSION_1 => false,
            VERSION => match reader.byte()? {
                0 => false,
                KINDS => true,
                _ => return Err(reader.damaged("an unknown flag")),
            },
            _ => {
                return Err(NoteDamaged { position: 3, why: "it was written by a later version" });
            }
        };
        let count = reader.varint()?;
        if count == 0 || count > COLUMNS_MAX as u64 {
            return Err(reader.damaged("a wrong number of columns"));
        }
        let mut columns = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let tag = reader.byte()?;
            let kind = match tag & !KEY {
                INTEGER => Kind::Integer,
                REAL => Kind::Real,
                TEXT => Kind::Text,
                BLOB => Kind::Blob,
                _ => return Err(reader.damaged("an unknown type of column")),
            };
            let name = reader.str()?.to_owned();
            columns.push(Column { name, kind, key: tag & KEY != 0 });
        }
        let head = &note[..reader.at];
        Ok(Self { columns, kinds, forgets_kinds: false, head, rows: reader })
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The bytes that describe the columns: the same for the same columns.
    pub const fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Whether a row may leave the table.
    pub const fn has_kinds(&self) -> bool {
        self.kinds
    }

    /// Takes all rows for inserts.
    pub(crate) const fn forget_kinds(&mut self) {
        self.forgets_kinds = true;
    }

    /// Puts the next row into `row`, and returns what it does; none if there is no next row. Of a row that
    /// leaves the table only the key is known: the other cells are NULL.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn next_row(&mut self, row: &mut Vec<Value<'a>>) -> Result<Option<RowKind>, NoteDamaged> {
        row.clear();
        if self.rows.at == self.rows.all.len() {
            return Ok(None);
        }
        let mut kind = RowKind::Insert;
        if self.kinds {
            let byte = self.rows.byte()?;
            kind = RowKind::from_byte(byte).ok_or(self.rows.damaged("an unknown kind of row"))?;
        }
        for column in &self.columns {
            let is_written = kind.puts() || column.key;
            row.push(if is_written { self.rows.cell()? } else { Value::Null });
        }
        Ok(Some(if self.forgets_kinds { RowKind::Insert } else { kind }))
    }
}

#[derive(Clone, Debug)]
struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[cold]
    const fn damaged(&self, why: &'static str) -> NoteDamaged {
        NoteDamaged { position: self.at, why }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], NoteDamaged> {
        let rest = &self.all[self.at..];
        let taken = rest.get(..count).ok_or(self.damaged("it is cut off"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoteDamaged> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, NoteDamaged> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, NoteDamaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.damaged("a number without an end"))
    }

    fn text(&mut self) -> Result<&'a [u8], NoteDamaged> {
        let length = self.varint()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn str(&mut self) -> Result<&'a str, NoteDamaged> {
        let bytes = self.text()?;
        str::from_utf8(bytes).map_err(|_| self.damaged("text that is not UTF-8"))
    }

    fn cell(&mut self) -> Result<Value<'a>, NoteDamaged> {
        Ok(match self.byte()? {
            NULL => Value::Null,
            INTEGER => {
                let number = self.varint()?;
                Value::Integer((number >> 1) as i64 ^ -((number & 1) as i64))
            }
            REAL => Value::Real(f64::from_le_bytes(self.array()?)),
            WIDE => Value::Wide(i128::from_le_bytes(self.array()?)),
            TEXT => Value::Text(self.str()?),
            BLOB => Value::Blob(self.text()?),
            _ => return Err(self.damaged("an unknown kind of cell")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: Kind, key: bool) -> Column {
        Column { name: name.into(), kind, key }
    }

    fn columns() -> Vec<Column> {
        vec![
            column("device", Kind::Text, true),
            column("n", Kind::Integer, false),
            column("ø", Kind::Real, false),
            column("raw", Kind::Blob, false),
        ]
    }

    type Rows<'a> = Vec<(RowKind, Vec<Value<'a>>)>;

    /// The rows of the first version's golden file.
    fn plain() -> Rows<'static> {
        let rows = [
            vec![Value::Text("a"), Value::Integer(-1), Value::Real(0.5), Value::Blob(&[0, 255])],
            vec![Value::Text(""), Value::Integer(i64::MIN), Value::Null, Value::Blob(&[])],
            vec![Value::Null, Value::Integer(i64::MAX), Value::Real(-0.0), Value::Null],
        ];
        rows.map(|row| (RowKind::Insert, row)).into()
    }

    /// Rows of all kinds, and their note.
    fn sample() -> (Rows<'static>, Vec<u8>) {
        let mut rows = plain();
        rows[1].0 = RowKind::UpdateAfter;
        rows[2].1[1] = Value::Wide(i128::from(u64::MAX));
        for kind in [RowKind::UpdateBefore, RowKind::Delete] {
            rows.push((kind, vec![Value::Text("key"), Value::Null, Value::Null, Value::Null]));
        }
        let mut note = begin(&columns(), true);
        for (kind, row) in &rows {
            note.push(kind.to_byte());
            let cells = if kind.puts() { &row[..] } else { &row[..1] };
            cells.iter().for_each(|&value| write(value, &mut note));
        }
        (rows, note)
    }

    fn read_all(note: &[u8]) -> Result<Rows<'_>, NoteDamaged> {
        let mut note = Note::read(note)?;
        let (mut rows, mut row) = (Vec::new(), Vec::new());
        while let Some(kind) = note.next_row(&mut row)? {
            rows.push((kind, row.clone()));
        }
        Ok(rows)
    }

    #[test]
    fn rows_come_back_with_their_columns_and_kinds() {
        let (rows, note) = sample();
        assert_eq!(Note::read(&note).unwrap().columns(), columns());
        assert_eq!(Note::read(&note).unwrap().head(), begin(&columns(), true));
        assert_eq!(read_all(&note).unwrap(), rows);
        let mut note = begin(&columns(), false);
        plain().iter().flat_map(|(_, row)| row).for_each(|&value| write(value, &mut note));
        assert!(!Note::read(&note).unwrap().has_kinds());
        assert_eq!(read_all(&note).unwrap(), plain());
    }

    fn golden(version: u8) -> String {
        format!("{}/tests/golden/rows-v{version}.note", env!("CARGO_MANIFEST_DIR"))
    }

    /// The format is stored. To write the file again after a *new* version was added, run this test with
    /// `THALWEG_GOLDEN=write`; files of old versions stay.
    #[test]
    fn notes_of_all_versions_can_be_read_for_ever() {
        let (rows, note) = sample();
        if std::env::var_os("THALWEG_GOLDEN").is_some() {
            std::fs::write(golden(VERSION), &note).unwrap();
        }
        let newest = std::fs::read(golden(VERSION)).unwrap();
        assert_eq!(newest, note);
        assert_eq!(read_all(&newest).unwrap(), rows);
        let oldest = std::fs::read(golden(VERSION_1)).unwrap();
        assert_eq!(Note::read(&oldest).unwrap().columns(), columns());
        assert_eq!(read_all(&oldest).unwrap(), plain());
    }

    /// Goal: whatever the bytes, an error and no panic, and nothing read that was not written.
    #[test]
    fn damage_is_an_error() {
        let (rows, note) = sample();
        for end in 0..note.len() {
            if let Ok(read) = read_all(&note[..end]) {
                assert!(read.len() < rows.len() && read == rows[..read.len()], "cut at {end}");
            }
        }
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut damaged = note.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % damaged.len();
                damaged[at] ^= 1 << (seed % 8);
            }
            // Need not fail: the store has a checksum. Must not panic.
            let _ = read_all(&damaged);
        }
        let later = [&note[..3], &[VERSION + 1], &note[4..]].concat();
        assert!(read_all(&later).unwrap_err().to_string().contains("later version"));
    }
}
