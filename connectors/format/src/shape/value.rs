//! From what stands in a payload to what a field holds: text, a number, a whole number or a time.
//!
//! What can be understood in one way is taken: a number in quotes, and `true` and `false` as 1 and 0. What could mean
//! several things is taken where the shape says so: a unit behind a number, and words such as `ON`. The rest is refused
//! with what was found.

use std::fmt;

use thalweg_kernel::{Cause, DecodeError, Str};

use crate::json::shortened;

/// A value as a reading has it: from the payload, or from the topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found<'a> {
    Missing,
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// Milliseconds since 1970.
    Time(i64),
    Text(&'a str),
    Object,
    Array,
    Twice,
    Beyond,
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("nothing"),
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "the number {value}"),
            Self::Signed(value) => write!(f, "the number {value}"),
            Self::Float(value) => write!(f, "the number {value}"),
            Self::Time(value) => write!(f, "the time {value}"),
            Self::Text(value) => write!(f, "the text {:?}", shortened(value)),
            Self::Object => f.write_str("an object"),
            Self::Array => f.write_str("an array"),
            Self::Twice => f.write_str("two values"),
            Self::Beyond => f.write_str("a number beyond the range of f64"),
        }
    }
}

/// Why a value will not do, before it is said of which field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) cause: Cause,
    pub(super) what: String,
}

impl Refused {
    #[cold]
    pub(super) fn missing() -> Self {
        Self { cause: Cause::MissingField, what: "missing".into() }
    }

    #[cold]
    pub(super) fn expected(expected: impl fmt::Display, found: Found<'_>) -> Self {
        let cause = match found {
            Found::Missing => return Self::missing(),
            Found::Twice => return Self { cause: Cause::Malformed, what: "given twice".into() },
            Found::Beyond => Cause::NotANumber,
            _ => Cause::WrongType,
        };
        Self { cause, what: format!("expected {expected}, found {found}") }
    }

    #[cold]
    pub(super) fn of_field(self, field: impl fmt::Display) -> DecodeError {
        DecodeError::new(self.cause, format!("field `{field}`: {}", self.what), None)
    }
}

/// How texts that stand for numbers are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    /// What may stand behind a number.
    pub(super) units: Vec<Str>,
    /// `ON` and `OFF` are 1 and 0.
    pub(super) on_off: bool,
}

const WORDS: [(&str, f64); 8] = [
    ("on", 1.0),
    ("off", 0.0),
    ("true", 1.0),
    ("false", 0.0),
    ("yes", 1.0),
    ("no", 0.0),
    ("open", 1.0),
    ("closed", 0.0),
];

impl Texts {
    #[inline]
    pub(super) fn number(&self, found: Found<'_>) -> Result<f64, Refused> {
        match found {
            Found::Float(value) => Ok(value),
            Found::Unsigned(value) => Ok(value as f64),
            Found::Signed(value) => Ok(value as f64),
            Found::Bool(value) => Ok(f64::from(u8::from(value))),
            Found::Text(text) => self.number_of_text(text),
            _ => Err(Refused::expected("a number", found)),
        }
    }

    fn number_of_text(&self, text: &str) -> Result<f64, Refused> {
        let trimmed = trimmed(text);
        if let Some(value) = decimal(trimmed) {
            return Ok(value);
        }
        for unit in &self.units {
            let number = trimmed.strip_suffix(unit.as_str()).map(str::trim_end);
            if let Some(value) = number.and_then(decimal) {
                return Ok(value);
            }
        }
        let is_word = |(word, _): &&(&str, f64)| trimmed.eq_ignore_ascii_case(word);
        match WORDS.iter().find(is_word) {
            Some((_, value)) if self.on_off => Ok(*value),
            word => Err(Self::no_number(text, trimmed, word.is_some())),
        }
    }

    #[cold]
    fn no_number(text: &str, trimmed: &str, is_word: bool) -> Refused {
        let mut refused = Refused::expected("a number", Found::Text(text));
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c));
        let (number, rest) = trimmed.split_at(end.unwrap_or(trimmed.len()));
        if is_word {
            refused.what.push_str("; `on_off` takes such words as 1 and 0");
        } else if decimal(number).is_some() && !rest.starts_with([',', ':', '/']) {
            let unit = shortened(rest.trim_start());
            refused.what.push_str(&format!("; `units` takes numbers with {unit:?} behind them"));
        } else if ["nan", "inf", "-inf"].iter().any(|no| trimmed.eq_ignore_ascii_case(no)) {
            refused.cause = Cause::NotANumber;
        }
        refused
    }
}

/// Without what devices leave around a text.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
}

/// A text that is a finite number throughout, as JSON writes numbers or with a `+`, or without a digit before or behind
/// its point.
pub(super) fn decimal(text: &str) -> Option<f64> {
    // What Rust also reads are words: `inf`, `NaN`.
    let plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Up to here each whole number has a float of its own.
pub(super) const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A whole number, 0 or more.
#[inline]
pub(super) fn whole(found: Found<'_>) -> Result<u64, Refused> {
    let value = match found {
        Found::Unsigned(value) => Some(value),
        Found::Signed(value) => u64::try_from(value).ok(),
        Found::Float(value) => {
            let is_whole = value.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&value);
            is_whole.then_some(value as u64)
        }
        Found::Text(text) => trimmed(text).parse().ok(),
        _ => None,
    };
    value.ok_or_else(|| Refused::expected("a whole number, 0 or more", found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> Texts {
        Texts::default()
    }

    #[test]
    fn numbers_are_taken_in_quotes_and_truths_as_0_and_1() {
        for (found, value) in [
            (Found::Float(21.5), 21.5),
            (Found::Unsigned(7), 7.0),
            (Found::Signed(-7), -7.0),
            (Found::Bool(true), 1.0),
            (Found::Bool(false), 0.0),
            (Found::Text("21.5"), 21.5),
            (Found::Text(" -3e2\n"), -300.0),
            (Found::Text("+4.\0"), 4.0),
            (Found::Text(".5"), 0.5),
        ] {
            assert_eq!(strict().number(found), Ok(value), "{found}");
        }
    }

    #[test]
    fn what_could_mean_several_things_is_taken_where_it_is_said() {
        let texts = Texts { units: vec!["°C".into(), "%".into()], on_off: true };
        for (text, value) in [
            ("21.5 °C", 21.5),
            ("21.5°C", 21.5),
            ("40 %", 40.0),
            ("ON", 1.0),
            ("off", 0.0),
            ("Open", 1.0),
            ("closed", 0.0),
            ("true", 1.0),
        ] {
            assert_eq!(texts.number(Found::Text(text)), Ok(value), "{text}");
            let refused = strict().number(Found::Text(text)).unwrap_err();
            assert_eq!(refused.cause, Cause::WrongType);
        }
        let what = |text| strict().number(Found::Text(text)).unwrap_err().what;
        assert_eq!(
            what("21.5 °F"),
            "expected a number, found the text \"21.5 °F\"; `units` takes numbers with \"°F\" behind them"
        );
        assert!(what("ON").ends_with("`on_off` takes such words as 1 and 0"));
        for text in ["21,5", "12:30", "hot", "", "--", "1/2"] {
            let what = what(text);
            assert!(!what.contains("units") && !what.contains("on_off"), "{what}");
            assert!(texts.number(Found::Text(text)).is_err(), "{text}");
        }
        assert!(texts.number(Found::Text("70 °F")).is_err());
        for text in ["nan", "-inf"] {
            assert_eq!(texts.number(Found::Text(text)).unwrap_err().cause, Cause::NotANumber);
        }
        assert_eq!(texts.number(Found::Text("1e999")).unwrap_err().cause, Cause::WrongType);
        assert_eq!(strict().number(Found::Missing).unwrap_err(), Refused::missing());
        let null = strict().number(Found::Null).unwrap_err();
        assert_eq!(null.what, "expected a number, found null");
    }

    #[test]
    fn whole_numbers_are_whole() {
        for (found, value) in [
            (Found::Unsigned(u64::MAX), Some(u64::MAX)),
            (Found::Float(12.0), Some(12)),
            (Found::Float(1e300), None),
            (Found::Float(0.5), None),
            (Found::Signed(-1), None),
            (Found::Text("17"), Some(17)),
            (Found::Text("x"), None),
            (Found::Bool(true), None),
        ] {
            assert_eq!(whole(found).ok(), value, "{found}");
        }
    }
}
