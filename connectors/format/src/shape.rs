//! Fields by paths, for payloads that are not written for this job. They have nested objects, arrays of readings, numbers
//! in quotes and times of any unit, and are not always JSON.
//!
//! A [`Shape`] says which fields a record has and where each is found. An [`Extractor`] takes them out of messages as
//! rows of named values. A [`Shaped`] decoder hands each row to any [`DecodeFields`]: [`Json<T>`](crate::Json) makes a `T` of it.
//!
//! ```
//! use serde::Deserialize;
//! use thalweg_format::shape::{Payload, Shape, Shaped, TimeUnit};
//! use thalweg_format::Json;
//! use thalweg_kernel::{Decode, Message, Str, Timestamp};
//!
//! #[derive(Debug, PartialEq, Deserialize)]
//! struct Reading {
//!     device: Str,
//!     power: f64,
//!     at: i64,
//! }
//!
//! let shape = Shape::new(Payload::Json)
//!     .unit(TimeUnit::Seconds)
//!     .text("device", "src")?
//!     .number("power", "params.switch:0.apower")?
//!     .time("at", "params.ts")?;
//! let mut decoder = Shaped::new(shape, Json::<Reading>::new());
//! let payload = br#"{"src":"plug","params":{"ts":1736603810.49,"switch:0":{"apower":"42.5"}}}"#;
//! let reading = decoder.decode(&Message::new("plug/events/rpc", payload, Timestamp::default()))?;
//! assert_eq!(reading, Reading { device: "plug".into(), power: 42.5, at: 1_736_603_810_490 });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `path` | [`Path`] and how it is written |
//! | `tree`, `rows` | the paths as one tree, which one pass over a JSON text follows, and the rows that it fills |
//! | `value` | from what was found to text, numbers and whole numbers |
//! | `time` | [`TimeUnit`], ISO 8601, and [`TimeWatch`], which says what unit would fit |
//! | `senml`, `influx` | formats that have rows of their own |
//! | `diagnose` | what a wrong path met instead |
//!
//! # Where a field comes from
//! From a [`Path`]; or from several, put together by a text with paths in braces (`{model}/{id}`); or it is a constant
//! (`=boiler`). A level of the topic that has the name of a path of one key wins over the payload. A time may also be that of
//! the arrival (`arrival`); a field that has this name is written in quotes.
//!
//! # Several readings of one message
//! A path with `[]` or `*` takes an array or object apart: each element is a reading, and paths without them are of all.
//! One array can be taken apart, and arrays within its elements. (Arrays side by side would have to be matched by
//! their places, of which their payloads promise nothing.)
//!
//! Several measurements of one reading become a row each, with the measurement's name as a field
//! ([`Shape::measurements`]). The other way would be one wide row with columns for each measurement. We chose rows:
//! - Sinks keep their columns, and a database table its key, whatever is measured.
//! - A device that sends its battery once an hour has a reading of it once an hour. A wide row would need a rule for
//!   what is missing in it, and its count would count messages.
//! - What is wrong with one measurement is a dead letter of that one.
//!
//! # Bounds
//! A message holds [`READINGS_MAX`] readings at most. Of readings that are refused it makes [`REFUSALS_MAX`] errors; one more has
//! the count of the others. So a hostile payload makes neither many letters nor much work.
//!
//! # What others do
//! Telegraf's `json_v2` reads paths over a whole document, and needs a type beside each number in quotes. One time applies to a
//! message; telegraf#9831, #10646 and #11467 ask for a time of each element. Its default drops texts and truths in
//! silence. Here each element has its own time, what can be understood in one way is taken, and the rest is a
//! dead letter.
//!
//! # Speed
//! Nothing is built of a payload but the values that are asked for, and buffers are used again. A decoder for one kind of flat
//! object, such as [`Json`](crate::Json), is faster still.

use std::fmt::Write;
use std::sync::Arc;

use jiff::tz::TimeZone;
use smallvec::SmallVec;
use thalweg_kernel::{Cause, Decode, DecodeError, DecodeFields, Field, Message, Str, Timestamp};

use self::diagnose::Diagnosis;
use self::rows::{Fault, Raw, Rows, Slot, bound};
use self::time::Times;
use self::tree::{Tree, Visit};
use self::value::{Found, Refused, Texts};
use crate::json::{DEPTH_MAX, State};
use crate::payload::PAYLOAD_BYTES_MAX;

mod diagnose;
mod influx;
mod path;
mod rows;
mod senml;
#[cfg(test)]
mod tests;
mod time;
mod tree;
mod value;

pub use path::Path;
pub use rows::READINGS_MAX;
pub use time::{TimeUnit, TimeWatch};

/// This many readings of a message are refused each by its own error.
pub const REFUSALS_MAX: usize = 16;

/// How payloads are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// One JSON value.
    #[default]
    Json,
    /// Bare text: its only path is `$`.
    Text,
    /// A SenML pack in JSON (RFC 8428). The fields of a reading are `n`, `t`, `v` and `u`, with their base values.
    Senml,
    /// Influx line protocol. The fields of a reading are its tags and fields, `_measurement` and `_time`.
    Influx,
}

thalweg_kernel::choices! {
    Payload:
    "json" => Payload::Json,
    "text" => Payload::Text,
    "senml" => Payload::Senml,
    "influx" => Payload::Influx,
}

/// A field of a shape that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{from}` is not allowed; allowed: {allowed}")]
pub struct ShapeError {
    /// Where the field was to come from.
    pub from: String,
    /// What would do.
    pub allowed: String,
}

impl ShapeError {
    fn new(from: &str, allowed: impl Into<String>) -> Self {
        Self { from: from.to_owned(), allowed: allowed.into() }
    }
}

/// A path, and where its value is kept.
#[derive(Clone, Debug)]
struct At {
    path: Path,
    slot: Slot,
    /// The name of a topic's level that wins over it.
    name: Option<Str>,
}

/// Where a field comes from.
#[derive(Clone, Debug)]
enum Whence {
    At(At),
    Parts(Vec<Part>),
    Constant(Str),
    Arrival,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Str),
    At(At),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Whole,
    Time,
}

#[derive(Clone, Debug)]
struct Column {
    name: Str,
    from: Whence,
    kind: Kind,
}

/// Several measurements of a reading: the fields that hold the name and the value of one, and where they are found.
#[derive(Clone, Debug)]
struct Measured {
    name: Str,
    value: Str,
    of: Vec<(Str, At)>,
}

/// Which fields a record has, and where each is found. See the [module](self).
#[derive(Clone, Debug)]
pub struct Shape {
    payload: Payload,
    tree: Tree,
    senml: Option<senml::Slots>,
    columns: Vec<Column>,
    measured: Option<Measured>,
    times: Times,
    texts: Texts,
    skips_missing: bool,
    or_arrival: bool,
}

impl Shape {
    /// A shape without fields.
    pub fn new(payload: Payload) -> Self {
        let mut tree = Tree::new();
        let senml = match payload {
            Payload::Senml => senml::Slots::of(&mut tree).ok(),
            Payload::Json | Payload::Text | Payload::Influx => None,
        };
        let unit =
            if payload == Payload::Influx { TimeUnit::Nanoseconds } else { TimeUnit::default() };
        Self {
            payload,
            tree,
            senml,
            columns: Vec::new(),
            measured: None,
            times: Times { unit, zone: TimeZone::UTC },
            texts: Texts::default(),
            skips_missing: false,
            or_arrival: false,
        }
    }

    /// What numbers count that are times; milliseconds if it is not said, and nanoseconds in line protocol.
    #[must_use]
    pub fn unit(mut self, unit: TimeUnit) -> Self {
        self.times.unit = unit;
        self
    }

    /// The zone of times that name none: an offset, or a name such as `Europe/Berlin`; UTC if it is not said.
    ///
    /// # Errors
    /// If it is neither, or this machine has no rules of that name.
    pub fn zone(mut self, name: &str) -> Result<Self, ShapeError> {
        self.times.zone = time::zone(name).map_err(|allowed| ShapeError::new(name, allowed))?;
        Ok(self)
    }

    /// Texts that may stand behind a number, such as `°C`.
    #[must_use]
    pub fn units(mut self, units: impl IntoIterator<Item = impl Into<Str>>) -> Self {
        self.texts.units = units.into_iter().map(Into::into).collect();
        // `m` would leave the k of `km`.
        self.texts.units.sort_by_key(|unit| std::cmp::Reverse(unit.len()));
        self
    }

    /// Takes the texts on, true, yes and open as the number 1, and off, false, no and closed as 0, in either case.
    #[must_use]
    pub fn on_off(mut self, takes: bool) -> Self {
        self.texts.on_off = takes;
        self
    }

    /// Leaves out a reading that lacks one of its numbers, or all of its measurements. Otherwise it is a dead letter.
    #[must_use]
    pub fn skips_missing(mut self, skips: bool) -> Self {
        self.skips_missing = skips;
        self
    }

    /// Gives a reading without a time that of its arrival. Otherwise it is a dead letter.
    #[must_use]
    pub fn or_arrival(mut self, gives: bool) -> Self {
        self.or_arrival = gives;
        self
    }

    /// A field of text. A number becomes its digits.
    ///
    /// # Errors
    /// If `from` says of no place where it comes from.
    pub fn text(self, name: impl Into<Str>, from: &str) -> Result<Self, ShapeError> {
        self.column(name.into(), from, Kind::Text)
    }

    /// A number.
    ///
    /// # Errors
    /// As for [`text`](Self::text).
    pub fn number(self, name: impl Into<Str>, from: &str) -> Result<Self, ShapeError> {
        self.column(name.into(), from, Kind::Number)
    }

    /// A whole number, 0 or more.
    ///
    /// # Errors
    /// As for [`text`](Self::text).
    pub fn whole(self, name: impl Into<Str>, from: &str) -> Result<Self, ShapeError> {
        self.column(name.into(), from, Kind::Whole)
    }

    /// A time, or `arrival`.
    ///
    /// # Errors
    /// As for [`text`](Self::text).
    pub fn time(self, name: impl Into<Str>, from: &str) -> Result<Self, ShapeError> {
        self.column(name.into(), from, Kind::Time)
    }

    /// Several measurements: each makes a row of its own, with the field `name` for its name and `value` for its number. One is
    /// written as a path, whose last key is its name, or as `NAME = PATH`. One that is missing makes no row; if all are,
    /// that is a dead letter.
    ///
    /// # Errors
    /// If one is no path, or two have one name.
    pub fn measurements<'a>(
        mut self,
        name: impl Into<Str>,
        value: impl Into<Str>,
        of: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ShapeError> {
        let mut found: Vec<(Str, At)> = Vec::new();
        for text in of {
            let (name, path) = match text.split_once('=') {
                Some((name, path)) if !name.contains(['"', '\'']) => (Some(name.trim()), path),
                _ => (None, text),
            };
            let at = self.at(text, path)?;
            let name = name.or_else(|| at.path.last_key()).filter(|name| !name.is_empty());
            let Some(name) = name.map(Str::from) else {
                let allowed = "a measurement with a name: \"NAME = PATH\"";
                return Err(ShapeError::new(text, allowed));
            };
            if found.iter().any(|(other, _)| *other == name) {
                let allowed = format!(
                    "a measurement with a name that no other has, since another is `{name}`: \"NAME = PATH\""
                );
                return Err(ShapeError::new(text, allowed));
            }
            found.push((name, at));
        }
        self.measured = Some(Measured { name: name.into(), value: value.into(), of: found });
        Ok(self)
    }

    fn column(mut self, name: Str, from: &str, kind: Kind) -> Result<Self, ShapeError> {
        let from = self.from(from, kind)?;
        self.columns.push(Column { name, from, kind });
        Ok(self)
    }

    fn from(&mut self, from: &str, kind: Kind) -> Result<Whence, ShapeError> {
        if let Some(constant) = from.strip_prefix('=') {
            let will_do = match kind {
                Kind::Text => true,
                Kind::Number => value::decimal(constant).is_some(),
                Kind::Whole => constant.parse::<u64>().is_ok(),
                Kind::Time => false,
            };
            let allowed = match kind {
                Kind::Time => "a path, or \"arrival\"",
                _ => "a number behind the `=`",
            };
            return if will_do {
                Ok(Whence::Constant(constant.into()))
            } else {
                Err(ShapeError::new(from, allowed))
            };
        }
        if kind == Kind::Time && from == "arrival" {
            return Ok(Whence::Arrival);
        }
        if kind != Kind::Text || !from.contains('{') {
            return self.at(from, from).map(Whence::At);
        }
        let mut parts = Vec::new();
        let mut rest = from;
        while let Some((text, behind)) = rest.split_once('{') {
            let Some((path, behind)) = behind.split_once('}') else {
                return Err(ShapeError::new(from, "a `}` behind each `{` and its path"));
            };
            if !text.is_empty() {
                parts.push(Part::Text(text.into()));
            }
            parts.push(Part::At(self.at(from, path)?));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Whence::Parts(parts))
    }

    fn at(&mut self, written: &str, path: &str) -> Result<At, ShapeError> {
        let wrong = |allowed| ShapeError::new(written, allowed);
        let path: Path = path.parse().map_err(wrong)?;
        let name = path.as_key().map(Str::from);
        let path = match self.payload {
            Payload::Json => path,
            Payload::Text if path.segments.is_empty() || name.is_some() => path,
            Payload::Text => {
                return Err(wrong(
                    "$, which is the whole text, or the name of a topic's level".into(),
                ));
            }
            Payload::Senml => path.of_each(),
            Payload::Influx if name.is_some() => path.of_each(),
            Payload::Influx => {
                return Err(wrong("the name of a tag or field, _measurement or _time".into()));
            }
        };
        let slot = self.tree.insert(&path).map_err(wrong)?;
        Ok(At { path, slot, name })
    }

    /// What a path of a reading was found to hold.
    #[inline]
    fn found<'a>(&self, at: &At, reading: &Reading<'a>) -> Found<'a> {
        if let Some(name) = &at.name
            && let Some(value) = bound(reading.message.bindings, name)
        {
            return Found::Text(value);
        }
        let raw = reading.rows.value(reading.row, at.slot);
        match raw {
            Raw::Absent => Found::Missing,
            Raw::Null => Found::Null,
            Raw::Bool(value) => Found::Bool(value),
            Raw::Unsigned(value) => Found::Unsigned(value),
            Raw::Signed(value) => Found::Signed(value),
            Raw::Float(value) => Found::Float(value),
            Raw::Time(value) => Found::Time(value),
            Raw::Text(_) | Raw::Made(_) => {
                reading.rows.text(raw, reading.text).map_or(Found::Missing, Found::Text)
            }
            Raw::Object => Found::Object,
            Raw::Array => Found::Array,
            Raw::Twice => Found::Twice,
            Raw::Beyond => Found::Beyond,
        }
    }

    /// Whether the reading is to be left out.
    fn skips(&self, reading: &Reading<'_>) -> bool {
        if !self.skips_missing {
            return false;
        }
        let lacks = |at: &At| matches!(self.found(at, reading), Found::Missing | Found::Null);
        let lacks_number = self.columns.iter().any(|column| {
            matches!((&column.from, column.kind), (Whence::At(at), Kind::Number) if lacks(at))
        });
        let measured = self.measured.as_ref();
        let lacks_all =
            measured.is_some_and(|measured| measured.of.iter().all(|(_, at)| lacks(at)));
        lacks_number || lacks_all
    }

    /// Whether the field of this name can differ among the readings of one message.
    pub fn tells_readings_apart(&self, name: &str) -> bool {
        let deepest = self.tree.widths().len() - 1;
        let tells = |at: &At| at.slot.level == deepest;
        self.columns.iter().filter(|column| column.name == name).any(|column| match &column.from {
            Whence::At(at) => tells(at),
            Whence::Parts(parts) => {
                parts.iter().any(|part| matches!(part, Part::At(at) if tells(at)))
            }
            Whence::Constant(_) | Whence::Arrival => false,
        })
    }

    /// Whether a message may hold several readings.
    pub fn takes_apart(&self) -> bool {
        self.tree.widths().len() > 1
    }

    /// The value of a field of a reading. What is put together is written to `made`.
    #[inline]
    fn field<'a>(
        &'a self,
        column: &'a Column,
        reading: &Reading<'a>,
        made: &'a mut String,
    ) -> Result<Field<'a>, DecodeError> {
        let at = match &column.from {
            Whence::At(at) => at,
            Whence::Arrival => return Ok(Field::Time(reading.message.received)),
            Whence::Constant(text) => {
                return Ok(match column.kind {
                    Kind::Text | Kind::Time => Field::Text(text),
                    Kind::Number => value::decimal(text).map_or(Field::Null, Field::Float),
                    Kind::Whole => text.parse().map_or(Field::Null, Field::Unsigned),
                });
            }
            Whence::Parts(parts) => {
                made.clear();
                for part in parts {
                    match part {
                        Part::Text(text) => made.push_str(text),
                        Part::At(at) => self.append(at, reading, made)?,
                    }
                }
                return Ok(Field::Text(made));
            }
        };
        let found = self.found(at, reading);
        let field = match column.kind {
            Kind::Time if self.or_arrival && matches!(found, Found::Missing | Found::Null) => {
                return Ok(Field::Time(reading.message.received));
            }
            Kind::Number => self.texts.number(found).map(Field::Float),
            Kind::Whole => value::whole(found).map(Field::Unsigned),
            Kind::Time => self.times.ms(found).map(|ms| Field::Time(ms.into())),
            Kind::Text => match found {
                Found::Text(text) => return Ok(Field::Text(text)),
                _ => {
                    made.clear();
                    self.append(at, reading, made)?;
                    return Ok(Field::Text(made));
                }
            },
        };
        field.map_err(|refused| self.refused(refused, at, reading))
    }

    /// Appends what stands at a path as text.
    fn append(&self, at: &At, reading: &Reading<'_>, made: &mut String) -> Result<(), DecodeError> {
        let _infallible = match self.found(at, reading) {
            Found::Text(text) => {
                made.push_str(text);
                Ok(())
            }
            Found::Unsigned(value) => write!(made, "{value}"),
            Found::Signed(value) | Found::Time(value) => write!(made, "{value}"),
            // Two long numbers, such as those of two SIM cards, may have one float.
            found @ Found::Float(value) if value.abs() > value::EXACT_MAX => {
                let refused = Refused::expected(
                    "a text, or a number of fewer digits (a longer one needs quotes)",
                    found,
                );
                return Err(self.refused(refused, at, reading));
            }
            Found::Float(value) => write!(made, "{value}"),
            Found::Bool(value) => write!(made, "{value}"),
            found => {
                let refused = Refused::expected("a text", found);
                return Err(self.refused(refused, at, reading));
            }
        };
        Ok(())
    }

    /// The error of a path, with what the path met.
    #[cold]
    fn refused(&self, mut refused: Refused, at: &At, reading: &Reading<'_>) -> DecodeError {
        let level = at.slot.level;
        let mut row = reading.row;
        for below in (level + 1..self.tree.widths().len()).rev() {
            row = reading.rows.parent(below, row);
        }
        let places = reading.rows.places(level, row);
        let path = at.path.at(&places);
        if refused.cause == Cause::MissingField && self.is_json() {
            refused.what = reading.diagnosis.missing(&path).unwrap_or(refused.what);
        }
        match self.payload {
            Payload::Influx => {
                let name = Path { segments: path.segments.into_iter().skip(1).collect() };
                refused.what = format!("{} (reading {})", refused.what, reading.row + 1);
                refused.of_field(name)
            }
            _ => refused.of_field(path),
        }
    }

    const fn is_json(&self) -> bool {
        matches!(self.payload, Payload::Json | Payload::Senml)
    }

    /// No measurement of a reading is there.
    #[cold]
    fn no_measurement(&self, measured: &Measured, reading: &Reading<'_>) -> DecodeError {
        match measured.of.as_slice() {
            [] => Refused::missing().of_field("$"),
            [(_, at)] => self.refused(Refused::missing(), at, reading),
            [(_, first), others @ ..] => {
                let mut error = self.refused(Refused::missing(), first, reading);
                let others: Vec<_> =
                    others.iter().map(|(_, at)| format!("`{}`", at.path)).collect();
                error.reason.push_str(&format!("; nor is there any of {}", others.join(", ")));
                error
            }
        }
    }

    /// What is wrong with a message that lacks the array that is taken apart, in a row around it.
    #[cold]
    fn hollow(
        &self,
        level: usize,
        row: usize,
        rows: &Rows,
        diagnosis: &Diagnosis<'_>,
    ) -> DecodeError {
        let Some(path) = self.tree.apart(level + 1) else {
            return Refused::missing().of_field("$");
        };
        let path = path.at(&rows.places(level, row));
        let refused = match diagnosis.missing(&path) {
            Some(what) => Refused { what, ..Refused::missing() },
            None => Refused::missing(),
        };
        refused.of_field(path)
    }
}

/// A reading that was found.
struct Reading<'a> {
    message: &'a Message<'a>,
    /// What was read of the payload.
    text: &'a str,
    rows: &'a Rows,
    row: usize,
    diagnosis: &'a Diagnosis<'a>,
}

/// Where the readings of a message go, and its errors, of which only the first are given one by one.
struct Out<F> {
    each: F,
    refused: usize,
    /// The first error that was held back.
    held: Option<DecodeError>,
}

impl<F: FnMut(Result<&[(Str, Field<'_>)], DecodeError>)> Out<F> {
    #[inline]
    fn give(&mut self, fields: &[(Str, Field<'_>)]) {
        (self.each)(Ok(fields));
    }

    #[cold]
    fn refuse(&mut self, error: DecodeError) {
        self.refused += 1;
        if self.refused <= REFUSALS_MAX {
            (self.each)(Err(error));
        } else {
            self.held.get_or_insert(error);
        }
    }

    /// Gives what was held back, as one error.
    fn end(mut self) {
        let Some(mut error) = self.held.take() else { return };
        let others = self.refused.saturating_sub(REFUSALS_MAX + 1);
        if others > 0 {
            error.reason.push_str(&format!("; {others} more readings of the message are refused"));
        }
        (self.each)(Err(error));
    }
}

/// Takes the fields of a shape out of messages.
#[derive(Clone, Debug)]
pub struct Extractor {
    shape: Arc<Shape>,
    payload_bytes_max: usize,
    watch: TimeWatch,
    state: State,
    rows: Rows,
    /// For each column, a text that was put together.
    made: Vec<String>,
}

/// As many as most shapes have, with room for one.
const FIELDS: usize = 6;

/// The fields of a row, by their names.
type Fields<'a> = SmallVec<[(Str, Field<'a>); FIELDS]>;

impl Extractor {
    /// One of payloads up to [`PAYLOAD_BYTES_MAX`].
    pub fn new(shape: Shape) -> Self {
        let made = vec![String::new(); shape.columns.len()];
        Self {
            shape: Arc::new(shape),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            watch: TimeWatch::new(),
            state: State::default(),
            rows: Rows::default(),
            made,
        }
    }

    /// As [`Json::payload_bytes_max`](crate::Json::payload_bytes_max).
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// Says what is wrong with the unit of times together with others that have this watch.
    #[must_use]
    pub fn watch(mut self, watch: TimeWatch) -> Self {
        self.watch = watch;
        self
    }

    /// Gives `each` the fields of each reading of a message, and what of the message is none. The fields stand in the order in
    /// which the shape names them, and those of a measurement behind them.
    pub fn extract(
        &mut self,
        message: &Message<'_>,
        each: impl FnMut(Result<&[(Str, Field<'_>)], DecodeError>),
    ) {
        let mut out = Out { each, refused: 0, held: None };
        let Self { shape, rows, state, .. } = self;
        let text = match text(message.payload, self.payload_bytes_max) {
            Ok(text) => text,
            Err(error) => return out.refuse(error),
        };
        rows.begin(shape.tree.widths());
        let in_front = message.payload.len() - unmarked(message.payload).len();
        // What stands in front of the text belongs to the payload.
        let placed = |mut error: DecodeError| {
            error.position = error.position.map(|position| position + in_front as u64);
            error
        };
        let refuse = &mut |error| out.refuse(placed(error));
        if let Err(error) = fill(shape, rows, state, text, message.received, refuse) {
            out.refuse(placed(error));
            return out.end();
        }
        let diagnosis = &Diagnosis::of(text);
        for (level, row) in rows.hollow() {
            if !shape.skips_missing && shape.is_json() {
                out.refuse(shape.hollow(level, row, rows, diagnosis));
            }
        }
        for row in 0..rows.readings() {
            if !rows.is_dropped(row) {
                let reading = Reading { message, text, rows, row, diagnosis };
                emit(shape, &self.watch, &reading, &mut self.made, &mut out);
            }
        }
        out.end();
    }
}

/// The text of a payload, without what devices leave around it.
#[inline]
fn text(payload: &[u8], bytes_max: usize) -> Result<&str, DecodeError> {
    crate::payload::within(payload, bytes_max)?;
    let payload = unmarked(payload);
    let is_left = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let end = payload.iter().rposition(|byte| !is_left(byte)).map_or(0, |last| last + 1);
    crate::payload::checked(payload.get(..end).unwrap_or_default(), bytes_max)
}

/// Without a byte order mark.
#[inline]
fn unmarked(payload: &[u8]) -> &[u8] {
    payload.strip_prefix("\u{feff}".as_bytes()).unwrap_or(payload)
}

/// Reads a text into the rows.
fn fill(
    shape: &Shape,
    rows: &mut Rows,
    state: &mut State,
    text: &str,
    received: Timestamp,
    refuse: &mut dyn FnMut(DecodeError),
) -> Result<(), DecodeError> {
    match shape.payload {
        Payload::Json | Payload::Senml => {
            let visit = Visit::new(&shape.tree, rows, text);
            if let Err(error) = crate::json::read_as(visit, text, &[], DEPTH_MAX, true, state) {
                return Err(match rows.fault {
                    Some(Fault::Twice) => DecodeError { cause: Cause::Malformed, ..error },
                    Some(Fault::TooMany) => {
                        DecodeError { cause: Cause::TooLarge, reason: too_many(), ..error }
                    }
                    None => error,
                });
            }
            match &shape.senml {
                Some(senml) => senml.resolve(rows, text, received, refuse),
                None => Ok(()),
            }
        }
        Payload::Text => {
            if let Some(slot) = shape.tree.whole() {
                let raw = rows::Span::new(0, text.len()).map_or(Raw::Absent, Raw::Text);
                rows.set(slot, raw);
            }
            Ok(())
        }
        Payload::Influx => {
            influx::read(&shape.tree, rows, text, received.as_millis(), refuse);
            Ok(())
        }
    }
}

fn too_many() -> String {
    format!("the message holds more than {READINGS_MAX} readings")
}

/// Gives `each` the rows of a reading.
fn emit<'a>(
    shape: &'a Shape,
    watch: &TimeWatch,
    reading: &Reading<'a>,
    made: &'a mut [String],
    out: &mut Out<impl FnMut(Result<&[(Str, Field<'_>)], DecodeError>)>,
) {
    if shape.skips(reading) {
        return;
    }
    let mut fields: Fields<'_> = SmallVec::new();
    for (column, made) in shape.columns.iter().zip(made) {
        match shape.field(column, reading, made) {
            Ok(field) => {
                if let (Field::Time(time), Whence::At(at)) = (field, &column.from) {
                    let name = at.name.as_deref().or_else(|| at.path.last_key()).unwrap_or("$");
                    watch.see(name, time.as_millis(), reading.message.received, shape.times.unit);
                }
                fields.push((column.name.clone(), field));
            }
            Err(error) => return out.refuse(error),
        }
    }
    let Some(measured) = &shape.measured else { return out.give(&fields) };
    let common = fields.len();
    let mut some = false;
    for (name, at) in &measured.of {
        let found = shape.found(at, reading);
        if matches!(found, Found::Missing | Found::Null) {
            continue;
        }
        some = true;
        match shape.texts.number(found) {
            Ok(value) => {
                fields.push((measured.name.clone(), Field::Text(name)));
                fields.push((measured.value.clone(), Field::Float(value)));
                out.give(&fields);
                fields.truncate(common);
            }
            Err(refused) => out.refuse(shape.refused(refused, at, reading)),
        }
    }
    if !some {
        out.refuse(shape.no_measurement(measured, reading));
    }
}

/// Decodes by a shape: hands the fields of each reading to `D`.
#[derive(Clone, Debug)]
pub struct Shaped<D> {
    extractor: Extractor,
    decoder: D,
}

impl<D: DecodeFields> Shaped<D> {
    /// A decoder of payloads up to [`PAYLOAD_BYTES_MAX`].
    pub fn new(shape: Shape, decoder: D) -> Self {
        Self { extractor: Extractor::new(shape), decoder }
    }

    /// As [`Json::payload_bytes_max`](crate::Json::payload_bytes_max).
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.extractor.payload_bytes_max = bytes;
        self
    }
}

impl<D: DecodeFields> Decode for Shaped<D> {
    type Item = D::Item;

    /// The only record of a message.
    fn decode(&mut self, message: &Message<'_>) -> Result<D::Item, DecodeError> {
        only(|each| self.decode_each(message, each))
    }

    fn decode_each(
        &mut self,
        message: &Message<'_>,
        mut each: impl FnMut(Result<D::Item, DecodeError>),
    ) {
        let Self { extractor, decoder } = self;
        extractor.extract(message, |fields| {
            each(fields.and_then(|fields| decoder.decode_fields(fields)));
        });
    }
}

/// The only record that is given.
///
/// # Errors
/// As it was given, or if there is none or there are several.
pub fn only<T>(
    give: impl FnOnce(&mut dyn FnMut(Result<T, DecodeError>)),
) -> Result<T, DecodeError> {
    let (mut found, mut count) = (None, 0_usize);
    give(&mut |record| {
        count += 1;
        found = Some(record);
    });
    match (found, count) {
        (Some(record), 1) => record,
        (_, count) => {
            let reason = format!("the message holds {count} readings where one is due");
            Err(DecodeError::new(Cause::WrongType, reason, None))
        }
    }
}
