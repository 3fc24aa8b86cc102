//! The cursor over a payload: tokens, strings, literals, and the skipping of whole values.
//!
//! The payload was checked to be UTF-8 as a whole, so every slice between two ASCII bytes is a `&str` at no
//! further cost. Skipping is a loop with one bit per open container, not recursion. A million opening brackets are
//! refused at the depth limit, with a flat stack.

use thalweg_kernel::{Cause, Str};

use super::error::Error;
use super::memory::Memory;
use super::scan::string_stop;

/// The deepest nesting that can be allowed: skipping keeps one bit per level.
pub(super) const DEPTH_MAX: usize = 128;

pub(crate) struct Parser<'de, 's> {
    pub(super) text: &'de str,
    /// The next byte; always at the boundary of a character.
    pub(super) at: usize,
    /// The containers around it.
    depth: usize,
    depth_max: usize,
    /// Unescaped strings; reused from message to message.
    scratch: &'s mut String,
    /// What keys are expected, if the decoder remembers any.
    pub(super) memory: Option<&'s mut Memory>,
    /// A number beyond the range of `f64` is infinite, and no error: the visitor refuses it.
    pub(crate) is_lenient: bool,
    /// Fields that the topic gives to the outermost object.
    pub(super) bindings: &'de [(Str, &'de str)],
}

/// A string: a piece of the payload, or unescaped in the scratch buffer.
#[derive(Clone, Copy)]
pub(crate) enum Chars<'de, 'a> {
    Borrowed(&'de str),
    Copied(&'a str),
}

impl Chars<'_, '_> {
    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Copied(text) => text,
        }
    }
}

impl<'de, 's> Parser<'de, 's> {
    #[inline]
    pub(crate) fn new(text: &'de str, depth_max: usize, scratch: &'s mut String) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            depth_max,
            scratch,
            memory: None,
            is_lenient: false,
            bindings: &[],
        }
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The first byte of the next token.
    #[inline]
    pub(crate) fn token(&mut self) -> Option<u8> {
        match self.peek() {
            Some(byte) if byte <= b' ' => self.token_after_space(),
            byte => byte,
        }
    }

    fn token_after_space(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Takes the token `byte`, if it is the next one.
    #[inline]
    pub(crate) fn takes(&mut self, byte: u8) -> bool {
        let found = self.token() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Opens a container: takes its bracket and counts it.
    #[inline]
    pub(crate) fn enter(&mut self) -> Result<(), Error> {
        if self.depth == self.depth_max {
            return Err(self.too_deep());
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Leaves a container whose closing bracket was taken.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    #[inline]
    pub(super) fn outermost(&self) -> bool {
        self.depth == 0
    }

    /// Nothing but white space may follow.
    #[inline]
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        match self.token() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the message")),
        }
    }

    /// Takes `word`, one of `true`, `false` and `null`.
    #[inline]
    pub(crate) fn literal(&mut self, word: &str) -> Result<(), Error> {
        let end = self.at + word.len();
        if self.text.as_bytes().get(self.at..end) != Some(word.as_bytes()) {
            return Err(self.no_value());
        }
        self.at = end;
        Ok(())
    }

    /// Reads the string whose opening quote is the next byte.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Chars<'de, '_>, Error> {
        let start = self.at + 1;
        let stop = string_stop(self.text.as_bytes(), start);
        if self.text.as_bytes().get(stop) == Some(&b'"') {
            self.at = stop + 1;
            return Ok(Chars::Borrowed(&self.text[start..stop]));
        }
        self.escaped_string(start, stop)
    }

    #[inline(never)]
    fn escaped_string(
        &mut self,
        mut start: usize,
        mut stop: usize,
    ) -> Result<Chars<'de, '_>, Error> {
        self.scratch.clear();
        loop {
            self.scratch.push_str(&self.text[start..stop]);
            self.at = stop;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Chars::Copied(self.scratch.as_str()));
                }
                Some(b'\\') => {
                    let character = self.escape()?;
                    self.scratch.push(character);
                }
                _ => return Err(self.broken_string()),
            }
            start = self.at;
            stop = string_stop(self.text.as_bytes(), start);
        }
    }

    /// Takes the escape whose backslash is the next byte.
    fn escape(&mut self) -> Result<char, Error> {
        let start = self.at;
        let unit = match self.escape_unit()? {
            Unit::Char(character) => return Ok(character),
            Unit::Utf16(unit) => unit,
        };
        let lone = |parser: &mut Self| {
            parser.at = start;
            Err(parser.malformed("half of a surrogate pair is no character"))
        };
        match unit {
            0xd800..=0xdbff if self.peek() == Some(b'\\') => match self.escape_unit()? {
                Unit::Utf16(low @ 0xdc00..=0xdfff) => {
                    let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    char::from_u32(code).map_or_else(|| lone(self), Ok)
                }
                _ => lone(self),
            },
            _ => char::from_u32(unit).map_or_else(|| lone(self), Ok),
        }
    }

    fn escape_unit(&mut self) -> Result<Unit, Error> {
        self.at += 1;
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.hex_unit(),
            None => return Err(self.broken_string()),
            Some(_) => return Err(self.expected("one of \"\\/bfnrtu after the backslash")),
        };
        self.at += 1;
        Ok(Unit::Char(character))
    }

    fn hex_unit(&mut self) -> Result<Unit, Error> {
        let mut unit = 0;
        for _ in 0..4 {
            self.at += 1;
            match self.peek().and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => unit = unit * 16 + digit,
                None => return Err(self.expected("four hexadecimal digits after \\u")),
            }
        }
        self.at += 1;
        Ok(Unit::Utf16(unit))
    }

    /// Checks and skips the string whose opening quote is the next byte. Half a surrogate pair is
    /// let through: it is grammatical, and only who wants the text cannot have it.
    #[inline(always)]
    pub(super) fn skip_string(&mut self) -> Result<(), Error> {
        self.at = string_stop(self.text.as_bytes(), self.at + 1);
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(());
        }
        self.skip_escaped_string()
    }

    #[inline(never)]
    fn skip_escaped_string(&mut self) -> Result<(), Error> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => _ = self.escape_unit()?,
                _ => return Err(self.broken_string()),
            }
            self.at = string_stop(self.text.as_bytes(), self.at);
        }
    }

    /// Takes the colon after a key.
    #[inline]
    pub(crate) fn colon(&mut self) -> Result<(), Error> {
        if self.takes(b':') { Ok(()) } else { Err(self.expected("`:` after the key")) }
    }

    #[inline]
    fn skip_key(&mut self) -> Result<(), Error> {
        if self.token() != Some(b'"') {
            return Err(self.expected("a key in quotes"));
        }
        self.skip_string()?;
        self.colon()
    }

    /// Checks and skips one whole value.
    #[inline]
    pub(crate) fn skip_value(&mut self) -> Result<(), Error> {
        if self.peek() == Some(b'"') { self.skip_string() } else { self.skip_no_string() }
    }

    #[inline(never)]
    fn skip_no_string(&mut self) -> Result<(), Error> {
        match self.token() {
            Some(b'{' | b'[') => self.skip_container(),
            _ => self.skip_scalar(),
        }
    }

    /// The text of the next value, checked.
    pub(crate) fn skipped(&mut self) -> Result<&'de str, Error> {
        self.token();
        let start = self.at;
        self.skip_value()?;
        Ok(&self.text[start..self.at])
    }

    #[inline]
    fn skip_scalar(&mut self) -> Result<(), Error> {
        match self.token() {
            Some(b'"') => self.skip_string(),
            Some(b'-' | b'0'..=b'9') => self.skip_number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => Err(self.no_value()),
        }
    }

    #[inline(never)]
    fn skip_container(&mut self) -> Result<(), Error> {
        let outside = self.depth;
        // One bit per container opened here, the innermost lowest; an object's is set.
        let mut objects = 0u128;
        loop {
            match self.token() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.enter()?;
                    let object = bracket == b'{';
                    objects = objects << 1 | u128::from(object);
                    match (self.token(), object) {
                        (Some(b'}'), true) | (Some(b']'), false) => {}
                        (_, true) => {
                            self.skip_key()?;
                            continue;
                        }
                        (_, false) => continue,
                    }
                }
                _ => self.skip_scalar()?,
            }
            // A value is complete: close what closes here, or go on to the next value.
            loop {
                if self.depth == outside {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                match (self.token(), object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        self.leave();
                        objects >>= 1;
                    }
                    (Some(b','), _) => {
                        self.at += 1;
                        if object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    _ => return Err(self.unseparated(object)),
                }
            }
        }
    }

    #[cold]
    pub(super) fn unseparated(&self, object: bool) -> Error {
        self.expected(if object { "`,` or `}`" } else { "`,` or `]`" })
    }

    #[cold]
    pub(super) fn malformed(&self, what: &str) -> Error {
        Error::new(Cause::Malformed, what, Some(self.at))
    }

    /// Something else stands here than the grammar allows.
    #[cold]
    pub(crate) fn expected(&self, what: &str) -> Error {
        match self.text[self.at..].chars().next() {
            None => self.malformed(&format!("expected {what}, but the message ends")),
            Some(found) => self.malformed(&format!("expected {what}, found {found:?}")),
        }
    }

    #[cold]
    fn broken_string(&self) -> Error {
        match self.peek() {
            None => self.malformed("the message ends within a string"),
            Some(_) => self.malformed("a control character within a string must be escaped"),
        }
    }

    #[cold]
    fn too_deep(&self) -> Error {
        let what = format!("nested more than {} levels deep", self.depth_max);
        Error::new(Cause::TooDeep, what, Some(self.at))
    }

    /// No value begins here. What C and Python print for floats that are no numbers has its own
    /// cause: a broken sensor rather than a broken encoder.
    #[cold]
    pub(super) fn no_value(&self) -> Error {
        let rest = &self.text[self.at..];
        let unsigned = rest.strip_prefix('-').unwrap_or(rest);
        let end = unsigned.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(unsigned.len());
        let word = &unsigned[..end];
        if ["nan", "inf", "infinity"].iter().any(|name| word.eq_ignore_ascii_case(name)) {
            let what = format!("{} is not a number", &rest[..rest.len() - unsigned.len() + end]);
            return Error::new(Cause::NotANumber, what, Some(self.at));
        }
        if rest.starts_with('\u{feff}') {
            return self.malformed("expected a value, found a byte order mark: send UTF-8 without");
        }
        if self.text.bytes().all(|byte| byte.is_ascii_whitespace()) {
            return self.malformed("the payload is empty");
        }
        self.expected("a value")
    }
}

enum Unit {
    Char(char),
    /// A code unit of UTF-16, as in `\u00e9`.
    Utf16(u32),
}
