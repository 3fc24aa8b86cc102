//! Against a simpler truth: `serde_json` and this decoder accept one set of documents, with equal values, and
//! refuse the others. Documents are valid and mutilated.
//!
//! Differences that are meant are kept out of the comparison. Text that is not UTF-8 is refused even where it is
//! skipped (the model is asked only for text). `-0` is an integer (not generated where an integer is read). Floats
//! are exact (compared within one unit in the last place here, and exactly with the standard library's parser
//! elsewhere). Documents stay under both depth limits.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;

use super::decode_bytes;

/// A generator of its own (xorshift64*), so that the meaning of a seed never changes.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 33) as usize) % bound
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    pub(super) fn number(&mut self) -> String {
        let mut text = self.pick(&["", "-"]).to_owned();
        let whole = match self.below(4) {
            0 => 0,
            1 => self.next() >> self.below(64),
            _ => self.next() % 10_000,
        };
        // Never minus zero, which the model takes for a float.
        let whole = if whole == 0 && text == "-" { 1 } else { whole };
        let _ = write!(text, "{whole}");
        if self.below(3) == 0 {
            let digits = self.below(20) + 1;
            text.push('.');
            (0..digits).for_each(|_| text.push(char::from(b'0' + self.below(10) as u8)));
        }
        if self.below(5) == 0 {
            text.push_str(self.pick(&["e", "E"]));
            text.push_str(self.pick(&["", "+", "-"]));
            let bound = if self.below(8) == 0 { 400 } else { 30 };
            let _ = write!(text, "{}", self.below(bound));
        }
        text
    }

    fn string(&mut self, out: &mut String) {
        out.push('"');
        for _ in 0..self.below(12) {
            out.push_str(self.pick(&[
                "a",
                "bc",
                "temp",
                " ",
                "é",
                "😀",
                "\\n",
                "\\\"",
                "\\\\",
                "\\/",
                "\\u0041",
                "\\u00e9",
                "\\ud83d\\ude00",
                "{",
                "]",
                ",",
                "0123456789",
                "\\b\\f\\r\\t",
                "\u{7f}",
            ]));
        }
        out.push('"');
    }

    fn space(&mut self, out: &mut String) {
        if self.below(4) == 0 {
            out.push_str(self.pick(&[" ", "\n", "\t", "\r\n", "   "]));
        }
    }

    /// A document of at most `depth` levels.
    fn value(&mut self, depth: usize, out: &mut String) {
        self.space(out);
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0 => out.push_str("null"),
            1 => out.push_str(self.pick(&["true", "false"])),
            2 | 3 => out.push_str(&self.number()),
            4 | 5 => self.string(out),
            6 | 7 => {
                out.push('[');
                for i in 0..self.below(5) {
                    out.push_str(if i > 0 { "," } else { "" });
                    self.value(depth - 1, out);
                }
                out.push(']');
            }
            _ => self.object(depth - 1, out),
        }
        self.space(out);
    }

    /// An object whose keys are often fields of [`Record`], and their values often right.
    fn object(&mut self, depth: usize, out: &mut String) {
        out.push('{');
        for i in 0..self.below(9) {
            out.push_str(if i > 0 { "," } else { "" });
            self.space(out);
            let key =
                self.pick(&["i", "u", "x", "text", "flag", "list", "inner", "pair", "kind", ""]);
            match key {
                "" => self.string(out),
                key => {
                    let _ = write!(out, "\"{key}\"");
                }
            }
            self.space(out);
            out.push(':');
            match (key, self.below(4)) {
                (_, 0) => self.value(depth, out),
                ("i" | "u", _) => out.push_str(&self.below(300).to_string()),
                ("x", _) => out.push_str(&self.number()),
                ("text", _) => self.string(out),
                ("flag", _) => out.push_str(self.pick(&["true", "false", "null"])),
                ("list", _) => out.push_str(self.pick(&["[]", "[1 , 2]", "[3,-4,5.5e0]"])),
                ("inner", _) if depth > 0 => self.object(depth - 1, out),
                ("pair", _) => out.push_str(self.pick(&["[1,\"a\"]", "[1]", "[1,\"a\",2]"])),
                ("kind", _) => {
                    out.push_str(self.pick(&["\"On\"", "{\"Level\":3}", "\"Level\"", "{}"]))
                }
                _ => self.value(depth, out),
            }
        }
        out.push('}');
    }

    pub(super) fn mutilate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 if at < bytes.len() => bytes[at] = self.pick(TOKENS).as_bytes()[0],
                _ => {
                    let token = self.pick(TOKENS);
                    bytes.splice(at..at, token.bytes());
                }
            }
        }
    }
}

const TOKENS: &[&str] = &[
    "{", "}", "[", "]", ",", ":", "\"", "\\", "0", "-", "+", ".", "e", "E", "t", "null", "true",
    "nul", " ", "\n", "\u{1}", "1e999", "NaN", "\\u12", "\\ud800", "\u{feff}", "/", "é", "00",
    "1.", "'",
];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    On,
    Level(u8),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    i: Option<i16>,
    u: Option<u64>,
    x: Option<f64>,
    text: Option<String>,
    flag: Option<bool>,
    #[serde(default)]
    list: Vec<f64>,
    inner: Option<Box<Record>>,
    pair: Option<(u8, String)>,
    kind: Option<Kind>,
}

/// Equal, floats within one unit in the last place.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let bits = |n: &serde_json::Number| n.as_f64().unwrap().to_bits() as i64;
            (bits(a) - bits(b)).abs() <= 1
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && alike(a, b))
        }
        _ => a == b,
    }
}

fn compare<T: DeserializeOwned + Serialize>(payload: &[u8]) -> bool {
    let ours = decode_bytes::<T>(payload);
    let model = std::str::from_utf8(payload)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str::<T>(text).map_err(|error| error.to_string()));
    let text = String::from_utf8_lossy(payload);
    match (ours, model) {
        (Ok(ours), Ok(model)) => {
            let (ours, model) =
                (serde_json::to_value(ours).unwrap(), serde_json::to_value(model).unwrap());
            assert!(alike(&ours, &model), "{text}\n{ours}\n{model}");
            true
        }
        (Err(ours), Err(_)) => {
            let end = payload.len() as u64;
            assert!(ours.position.is_some_and(|position| position <= end), "{text}\n{ours:?}");
            false
        }
        (ours, model) => panic!(
            "{text}\nwe: {:?}\nmodel: {:?}",
            ours.map(|v| serde_json::to_string(&v)),
            model.map(|v| serde_json::to_string(&v))
        ),
    }
}

#[test]
fn agrees_with_serde_json_on_documents_whole_and_mutilated() {
    let mut random = Random(20_26);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..30_000 {
        let mut text = String::new();
        if round % 2 == 0 {
            random.object(4, &mut text)
        } else {
            random.value(4, &mut text)
        }
        let mut payload = text.into_bytes();
        if round % 3 > 0 {
            random.mutilate(&mut payload);
        }
        let outcomes = [
            compare::<Value>(&payload),
            compare::<Record>(&payload),
            compare::<Option<Kind>>(&payload),
            compare::<std::collections::BTreeMap<String, Ignored>>(&payload),
        ];
        let yes = outcomes.iter().filter(|outcome| **outcome).count();
        accepted += yes;
        refused += outcomes.len() - yes;
    }
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

/// Any value, skipped.
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for Ignored {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

#[test]
fn every_truncation_of_an_object_is_refused() {
    let mut random = Random(7);
    for _ in 0..300 {
        let mut text = String::new();
        random.object(3, &mut text);
        for end in 0..text.len() {
            assert!(decode_bytes::<Value>(&text.as_bytes()[..end]).is_err(), "{}", text);
            assert!(decode_bytes::<serde::de::IgnoredAny>(&text.as_bytes()[..end]).is_err());
        }
    }
}
