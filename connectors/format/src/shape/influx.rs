//! Influx line protocol: a line is a reading.
//!
//! ```text
//! weather,place=roof temperature=21.5,humidity=40i 1700000000000000000
//! ```
//! Its fields are the tags and fields of the line by their names, `_measurement` and `_time`. A line without a time has
//! that of its arrival. Empty lines and comments (`#`) are skipped. A line that is wrong is refused alone.

use thalweg_kernel::{Cause, DecodeError};

use super::rows::{Raw, Rows, Span};
use super::tree::Tree;

/// Reads the lines of a payload, each as a row of the first level. `now` is the time of a line without one.
pub(super) fn read(
    tree: &Tree,
    rows: &mut Rows,
    payload: &str,
    now: i64,
    refuse: &mut dyn FnMut(DecodeError),
) {
    let mut line = Line { tree, rows, payload, at: 0, number: 1 };
    loop {
        line.skip_empty();
        if line.peek().is_none() {
            return;
        }
        if !line.rows.open(1) {
            refuse(DecodeError::new(Cause::TooLarge, super::too_many(), Some(line.at)));
            return;
        }
        if let Err(what) = line.read(now) {
            line.rows.take_back(1);
            let what = format!("line {}: {what}", line.number);
            refuse(DecodeError::new(Cause::Malformed, what, Some(line.at)));
            line.skip_line();
        }
    }
}

struct Line<'a> {
    tree: &'a Tree,
    rows: &'a mut Rows,
    payload: &'a str,
    at: usize,
    number: usize,
}

/// A part of a line: a name, or the value of a tag.
#[derive(Clone, Copy)]
struct Word {
    start: usize,
    end: usize,
    escaped: bool,
}

impl Line<'_> {
    fn peek(&self) -> Option<u8> {
        self.payload.as_bytes().get(self.at).copied()
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_empty(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => (self.at, self.number) = (self.at + 1, self.number + 1),
                b' ' | b'\r' | b'\t' => self.at += 1,
                b'#' => self.skip_line(),
                _ => return,
            }
        }
    }

    /// To the line feed.
    fn skip_line(&mut self) {
        // A text without an end has led behind the payload.
        let rest = self.payload.get(self.at..).unwrap_or_default();
        self.at += rest.find('\n').unwrap_or(rest.len());
    }

    fn read(&mut self, now: i64) -> Result<(), String> {
        let measurement = self.word(b", ")?;
        self.put_word("_measurement", measurement)?;
        while self.takes(b',') {
            let name = self.word(b"=, ")?;
            self.equals(name)?;
            let value = self.word(b", ")?;
            self.named(name, |line, name| line.put_word(name, value))?;
        }
        if !self.takes(b' ') {
            return Err("expected a blank and fields behind the measurement and its tags".into());
        }
        while self.takes(b' ') {}
        loop {
            let name = self.word(b"=, ")?;
            self.equals(name)?;
            let value = self.value()?;
            self.named(name, |line, name| line.put(name, value))?;
            if !self.takes(b',') {
                break;
            }
        }
        while self.takes(b' ') || self.takes(b'\r') {}
        let time = match self.peek() {
            None | Some(b'\n') => Raw::Time(now),
            Some(_) => {
                let rest = &self.payload[self.at..];
                let end = rest.find([' ', '\r', '\n']).unwrap_or(rest.len());
                let text = &rest[..end];
                let time = text.parse().map_err(|_| {
                    let text = crate::json::shortened(text);
                    format!("expected a time behind the fields, found {text:?}")
                })?;
                self.at += end;
                Raw::Signed(time)
            }
        };
        self.put("_time", time)?;
        while self.takes(b' ') || self.takes(b'\r') {}
        match self.peek() {
            None | Some(b'\n') => Ok(()),
            Some(_) => Err("expected the end of the line behind its time".into()),
        }
    }

    fn equals(&mut self, name: Word) -> Result<(), String> {
        if self.takes(b'=') {
            return Ok(());
        }
        let name = crate::json::shortened(&self.payload[name.start..name.end]);
        Err(format!("expected `=` behind {name:?}"))
    }

    /// A part of the line up to one of these, or to its end.
    fn word(&mut self, stops: &[u8]) -> Result<Word, String> {
        let (start, mut escaped) = (self.at, false);
        while let Some(byte) = self.peek() {
            if byte == b'\\' && self.payload.as_bytes().get(self.at + 1).is_some_and(is_special) {
                escaped = true;
                self.at += 2;
                continue;
            }
            if stops.contains(&byte) || byte == b'\n' {
                break;
            }
            self.at += 1;
        }
        if self.at == start {
            return Err("expected a name or a value".into());
        }
        Ok(Word { start, end: self.at, escaped })
    }

    /// The value of a field.
    fn value(&mut self) -> Result<Raw, String> {
        if self.takes(b'"') {
            return self.string();
        }
        let word = self.word(b", \r")?;
        let text = &self.payload[word.start..word.end];
        let whole = |suffix| text.strip_suffix(suffix).map(str::to_owned);
        let found = match text {
            "t" | "T" | "true" | "True" | "TRUE" => Some(Raw::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Some(Raw::Bool(false)),
            _ => match (whole('i'), whole('u')) {
                (Some(text), _) => text.parse().ok().map(Raw::Signed),
                (_, Some(text)) => text.parse().ok().map(Raw::Unsigned),
                (None, None) => super::value::decimal(text).map(Raw::Float),
            },
        };
        found.ok_or_else(|| {
            let text = crate::json::shortened(text);
            format!("expected a number, a truth or a text in quotes, found {text:?}")
        })
    }

    /// The rest of a text whose quote was taken.
    fn string(&mut self) -> Result<Raw, String> {
        let (start, mut escaped) = (self.at, false);
        loop {
            match self.peek() {
                None => return Err("the payload ends within a text".into()),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                }
                Some(b'\n') => self.number += 1,
                Some(_) => {}
            }
            self.at += 1;
        }
        let end = self.at.min(self.payload.len());
        self.at += 1;
        Ok(self.text(Word { start, end, escaped }))
    }

    fn text(&mut self, word: Word) -> Raw {
        let text = &self.payload[word.start..word.end];
        if word.escaped {
            return self.rows.make(&unescaped(text));
        }
        Span::new(word.start, word.end).map_or(Raw::Absent, Raw::Text)
    }

    /// Does something with the text of a name.
    fn named(
        &mut self,
        word: Word,
        put: impl FnOnce(&mut Self, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        let payload = self.payload;
        let text = &payload[word.start..word.end];
        if word.escaped { put(self, &unescaped(text)) } else { put(self, text) }
    }

    fn put_word(&mut self, name: &str, word: Word) -> Result<(), String> {
        if self.tree.column(name).is_none() {
            return Ok(());
        }
        let raw = self.text(word);
        self.put(name, raw)
    }

    fn put(&mut self, name: &str, raw: Raw) -> Result<(), String> {
        match self.tree.column(name) {
            Some(slot) if !self.rows.set(slot, raw) => {
                Err(format!("{:?} is given twice", crate::json::shortened(name)))
            }
            _ => Ok(()),
        }
    }
}

/// What a backslash stands in front of, where it is no backslash itself.
const fn is_special(byte: &u8) -> bool {
    matches!(byte, b',' | b'=' | b' ' | b'"' | b'\\')
}

fn unescaped(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escapes = character == '\\'
            && characters.peek().is_some_and(|next| next.is_ascii() && is_special(&(*next as u8)));
        match characters.next_if(|_| escapes) {
            Some(escaped) => made.push(escaped),
            None => made.push(character),
        }
    }
    made
}
