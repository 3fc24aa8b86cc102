//! [`Row`]: a result of the job of `thalweg run`, with its columns and its formats.

use serde::Serialize;
use thalweg_flow::{StatsValue, Windowed};
use thalweg_format::{Csv, JsonLines};
use thalweg_kernel::connector::{Encoder, Format};
use thalweg_kernel::format::EncodeError;
use thalweg_kernel::{Column, Encode, Field, FieldKind, Record, Str, Timestamp};

/// One row of the result, as it is written.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    key: Str,
    start: Timestamp,
    end: Timestamp,
    count: u64,
    avg: f64,
    min: f64,
    max: f64,
}

impl From<Windowed<Str, StatsValue>> for Row {
    fn from(Windowed { key, start, end, value }: Windowed<Str, StatsValue>) -> Self {
        let StatsValue { count, avg, min, max } = value;
        Self { key, start, end, count, avg, min, max }
    }
}

/// Its columns.
pub(crate) fn columns() -> Vec<Column> {
    let column = |name: &str, column: &str, kind, key| Column {
        name: name.into(),
        column: column.into(),
        kind,
        key,
    };
    vec![
        column("key", "key", FieldKind::Text, true),
        column("start", "window_start", FieldKind::Time, true),
        column("end", "window_end", FieldKind::Time, false),
        column("count", "count", FieldKind::Unsigned, false),
        column("avg", "avg", FieldKind::Float, false),
        column("min", "min", FieldKind::Float, false),
        column("max", "max", FieldKind::Float, false),
    ]
}

impl Record for Row {
    fn field(&self, place: usize) -> Field<'_> {
        match place {
            0 => Field::Text(&self.key),
            1 => Field::Time(self.start),
            2 => Field::Time(self.end),
            3 => Field::Unsigned(self.count),
            4 => Field::Float(self.avg),
            5 => Field::Float(self.min),
            6 => Field::Float(self.max),
            _ => Field::Null,
        }
    }
}

/// Rows in any of the formats.
#[derive(Clone, Debug)]
pub(crate) enum RowEncoder {
    Json(JsonLines),
    Csv(Csv),
}

impl Encoder<Row> for RowEncoder {
    fn of(format: Format) -> Self {
        match format {
            Format::Json => Self::Json(JsonLines),
            Format::Csv => Self::Csv(Csv::new()),
        }
    }
}

impl Encode<Row> for RowEncoder {
    fn header(&mut self, first: &Row, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Json(json) => json.header(first, out),
            Self::Csv(csv) => csv.header(first, out),
        }
    }

    fn encode(&mut self, value: &Row, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Json(json) => json.encode(value, out),
            Self::Csv(csv) => csv.encode(value, out),
        }
    }
}
