//! [`Path`]: where in a payload a field lies.
//!
//! | path | finds |
//! |---|---|
//! | `temp` | the field `temp` of the message |
//! | `ENERGY.Power` | a field within a field |
//! | `tags[0].v` | an element of an array, from 0 |
//! | `object."temp.1"` | a key with a dot, a bracket or a quote in it; `'temp.1'` is quoted, too |
//! | `io.66` | the key `66`: a number behind a dot is a key |
//! | `$` | the whole payload |
//! | `records[].ts` | a field of *each* element: the array is taken apart into readings |
//! | `tags.*.rssi` | a field of each entry of an object, whatever the key of the entry |
//! | `tags.*.@name` | the key of that entry |
//!
//! A bare key goes to the next `.` or `[`, and may have spaces, colons and slashes.

use std::fmt;
use std::str::FromStr;

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Key(Box<str>),
    Index(usize),
    /// Each element of an array.
    Each,
    /// Each entry of an object.
    Entries,
    /// The key of the entry.
    Name,
}

/// Where in a payload a field lies. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    pub(super) segments: Vec<Segment>,
}

impl Path {
    /// The path of a single key, if it is one.
    pub fn as_key(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [Segment::Key(key)] => Some(key),
            _ => None,
        }
    }

    /// The last key in it.
    pub fn last_key(&self) -> Option<&str> {
        self.segments.iter().rev().find_map(|segment| match segment {
            Segment::Key(key) => Some(&**key),
            _ => None,
        })
    }

    /// This path below each element of the outermost array.
    pub(super) fn of_each(mut self) -> Self {
        self.segments.insert(0, Segment::Each);
        self
    }

    /// The path with the places of the elements that it takes apart.
    pub(super) fn at(&self, places: &[usize]) -> Self {
        let mut places = places.iter();
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Each => places.next().map_or(Segment::Each, |place| Segment::Index(*place)),
            Segment::Entries => {
                places.next();
                Segment::Entries
            }
            other => other.clone(),
        });
        Self { segments: segments.collect() }
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let mut parser = Parser { text, at: 0 };
        let mut segments = Vec::new();
        if text == "$" {
            return Ok(Self { segments });
        }
        if text.starts_with("$.") || text.starts_with("$[") {
            parser.at = 1;
            parser.takes('.');
        }
        loop {
            let segment = if parser.takes('[') { parser.bracket()? } else { parser.key()? };
            if segment == Segment::Name && segments.last() != Some(&Segment::Entries) {
                return Err("@name stands behind `*` alone: `tags.*.@name`".into());
            }
            segments.push(segment);
            match parser.peek() {
                None => return Ok(Self { segments }),
                Some('[') => {}
                Some('.') => parser.at += 1,
                Some(_) => return Err(parser.expected("`.` or `[`")),
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn takes(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        self.at += if found { character.len_utf8() } else { 0 };
        found
    }

    fn expected(&self, what: &str) -> String {
        match self.peek() {
            None => format!("a path with {what} at its end"),
            Some(found) => {
                let place = self.text[..self.at].chars().count() + 1;
                format!("a path with {what} at its character {place}, where {found:?} stands")
            }
        }
    }

    fn bracket(&mut self) -> Result<Segment, String> {
        let rest = &self.text[self.at..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let index = rest[..digits].parse();
        self.at += digits;
        let segment = match (digits, index) {
            (0, _) => Segment::Each,
            (_, Ok(index)) => Segment::Index(index),
            (_, Err(_)) => return Err(self.expected("a smaller number")),
        };
        if self.takes(']') { Ok(segment) } else { Err(self.expected("a number or `]`")) }
    }

    fn key(&mut self) -> Result<Segment, String> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote);
        }
        let rest = &self.text[self.at..];
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let key = &rest[..end];
        match key {
            "" => return Err(self.expected("a key")),
            "*" => {
                self.at += end;
                return Ok(Segment::Entries);
            }
            "@name" => {
                self.at += end;
                return Ok(Segment::Name);
            }
            _ => {}
        }
        if let Some(bad) = key.find(['"', '\'', ']', '{', '}']) {
            self.at += bad;
            return Err(self.expected("such a character in a key in quotes"));
        }
        self.at += end;
        Ok(Segment::Key(key.into()))
    }

    fn quoted(&mut self, quote: char) -> Result<Segment, String> {
        self.at += quote.len_utf8();
        let mut key = String::new();
        loop {
            let Some(character) = self.peek() else {
                return Err(self.expected(&format!("{quote} behind the key")));
            };
            self.at += character.len_utf8();
            match character {
                _ if character == quote => return Ok(Segment::Key(key.into())),
                '\\' => {
                    let Some(escaped) = self.peek() else { continue };
                    self.at += escaped.len_utf8();
                    key.push(escaped);
                }
                _ => key.push(character),
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("$");
        }
        for (place, segment) in self.segments.iter().enumerate() {
            let dot = if place > 0 { "." } else { "" };
            match segment {
                Segment::Key(key) if needs_quotes(key) => write!(f, "{dot}{key:?}")?,
                Segment::Key(key) => write!(f, "{dot}{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Each => f.write_str("[]")?,
                Segment::Entries => write!(f, "{dot}*")?,
                Segment::Name => write!(f, "{dot}@name")?,
            }
        }
        Ok(())
    }
}

fn needs_quotes(key: &str) -> bool {
    let bad = ['.', '[', ']', '"', '\'', '{', '}', '\\', '='];
    key.is_empty() || key.trim() != key || key.contains(bad) || matches!(key, "*" | "$" | "@name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn paths_are_read_and_shown() {
        for (text, shown) in [
            ("temp", "temp"),
            (" ENERGY.Power ", "ENERGY.Power"),
            ("$", "$"),
            ("$.a", "a"),
            ("$[0]", "[0]"),
            ("tags[0].v", "tags[0].v"),
            ("[][1].a", "[][1].a"),
            ("switch:0.apower", "switch:0.apower"),
            ("io.66", "io.66"),
            ("\"object\".\"temp.1\"", "object.\"temp.1\""),
        ] {
            assert_eq!(path(text).to_string(), shown);
            assert_eq!(path(shown), path(text));
        }
        assert_eq!(path("a.'x\\'y'").last_key(), Some("x'y"));
        assert_eq!(path("a[0]").last_key(), Some("a"));
        assert_eq!((path("a").as_key(), path("a.b").as_key()), (Some("a"), None));
        assert_eq!(path("tags.*.@name").to_string(), "tags.*.@name");
        assert_eq!(path("a[].b[].c").at(&[3, 0]).to_string(), "a[3].b[0].c");
        assert_eq!(path("a.\"*\"").segments[1], Segment::Key("*".into()));
    }

    #[test]
    fn what_is_no_path_says_where() {
        for (text, part) in [
            ("", "a key at its end"),
            ("a..b", "a key at its character 3, where '.' stands"),
            ("a.", "a key at its end"),
            ("a[x]", "a number or `]` at its character 3"),
            ("a[1", "a number or `]` at its end"),
            ("a[99999999999999999999]", "a smaller number"),
            ("a]b", "in quotes"),
            ("\"a", "\" behind the key"),
            ("\"a\"b", "`.` or `[` at its character 4"),
            ("a.@name", "behind `*`"),
            ("{a}", "in quotes"),
        ] {
            let why = text.parse::<Path>().unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
