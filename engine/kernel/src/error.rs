//! Errors of connectors and of configuration, phrased for the person who must act on them.

use std::any::Any;
use std::fmt;

use crate::{JournalError, StateError};

/// A connector cannot go on.
///
/// Bad *data* is never one of these: it becomes a [`DeadLetter`](crate::DeadLetter) and the stream
/// goes on. Weather that a connector can wait out (a broker that is away) is not one either.
#[derive(Debug, thiserror::Error)]
#[error("{connector}: {what}")]
pub struct ConnectorError {
    /// Which connector, with its address: `file out.csv`, `mqtt://broker:1883`.
    pub connector: String,
    /// What went wrong, and what to do about it.
    pub what: String,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Another attempt in this process cannot mend it: the job ends, whatever its restart strategy.
    pub lasting: bool,
}

impl ConnectorError {
    /// An error of `connector` that says `what`.
    pub fn new(connector: impl Into<String>, what: impl Into<String>) -> Self {
        Self { connector: connector.into(), what: what.into(), source: None, lasting: false }
    }

    /// The same with its cause; the cause's text becomes part of the message. It lasts if the cause
    /// does.
    #[must_use]
    pub fn caused_by(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.what = format!("{}: {cause}", self.what);
        self.lasting |= lasts(&cause);
        self.source = Some(Box::new(cause));
        self
    }

    /// This error, which another attempt cannot mend.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }
}

/// Whether what was caused by this stays as it is. So do a wrong setting, damage, and storage that has failed,
/// since nobody knows what it wrote.
fn lasts(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<ConfigError>() || cause.is::<StateError>() || cause.is::<JournalError>()
}

/// The message of a caught panic.
pub fn message_of_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// A wrong setting: names the key, the value and what is allowed, and the place where it was written. Programs exit
/// with code 2 on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key as the user wrote it: `source.mqtt.qos`, `--shards`, the query parameter of a URL.
    pub key: String,
    /// The value as the user wrote it; passwords are replaced by `***`. Empty where there is none.
    pub value: String,
    /// What would be accepted.
    pub allowed: String,
    /// What is wrong with the setting.
    pub fault: Fault,
    /// What the user may have meant.
    pub suggestion: Option<Box<str>>,
    /// Where the user wrote it: `gateway.toml:12`, or the variable that holds it.
    pub place: Option<Box<str>>,
}

/// What is wrong with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its value.
    Value,
    /// It is not there.
    Missing,
    /// Nobody reads a setting of this name.
    Unknown,
    /// It is given twice. Neither value is shown: it may be a password.
    Twice,
}

impl ConfigError {
    /// `key` has `value`, but only `allowed` would do.
    pub fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            allowed: allowed.into(),
            fault: Fault::Value,
            suggestion: None,
            place: None,
        }
    }

    /// `key` is not there, and what is `needed` has no default.
    pub fn missing(key: impl Into<String>, needed: impl Into<String>) -> Self {
        Self { fault: Fault::Missing, ..Self::new(key, "", needed) }
    }

    /// There is no setting `key`; `known` are those that there are.
    pub fn unknown<'a>(
        key: impl Into<String>,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Self {
        let key = key.into();
        let name = key.rsplit('.').next().unwrap_or_default();
        let suggestion = nearest(name, known.clone()).map(Into::into);
        let allowed = known.into_iter().collect::<Vec<_>>().join(", ");
        Self { fault: Fault::Unknown, suggestion, ..Self::new(key, "", allowed) }
    }

    /// `key` is given twice, by whatever ways.
    pub fn twice(key: impl Into<String>) -> Self {
        Self { fault: Fault::Twice, ..Self::new(key, "", "one value; it is given twice") }
    }

    /// The error with what the user may have meant, if one of `known` is near to what was written.
    #[must_use]
    pub fn near<'a>(mut self, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.suggestion = nearest(&self.value, known).map(Into::into);
        self
    }

    /// The error of a setting that stands below `section`.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.key = match (section, &*self.key) {
            ("", _) => self.key,
            (_, "") => section.to_owned(),
            (_, key) => format!("{section}.{key}"),
        };
        self
    }

    /// The error with its place, if it has none.
    #[must_use]
    pub fn at(mut self, place: Option<impl fmt::Display>) -> Self {
        self.place = self.place.or_else(|| place.map(|place| place.to_string().into()));
        self
    }
}

/// A message shows this much of a value.
const VALUE_CHARS_MAX: usize = 200;

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, allowed, fault, suggestion, place } = self;
        if let Some(place) = place {
            write!(f, "{place}: ")?;
        }
        match (fault, value.char_indices().nth(VALUE_CHARS_MAX)) {
            (Fault::Missing, _) => write!(f, "{key} is missing; needed: {allowed}")?,
            (Fault::Unknown, _) if allowed.is_empty() => {
                write!(f, "{key} is not known: there is nothing to set there")?;
            }
            (Fault::Unknown, _) => write!(f, "{key} is not known; known: {allowed}")?,
            (Fault::Twice, _) => {
                write!(f, "{key} is given twice, as a key or in a URL: give it once")?
            }
            (Fault::Value, None) => {
                write!(f, "{key} = {value:?} is not allowed; allowed: {allowed}")?
            }
            (Fault::Value, Some((end, _))) => {
                write!(f, "{key} = {:?}... is not allowed; allowed: {allowed}", &value[..end])?;
            }
        }
        match suggestion {
            Some(suggestion) => write!(f, "; did you mean {suggestion}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The one of `known` that `name` is most likely a misspelling of: at most one edit for every three letters.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = known.into_iter().map(|known| (edits(&lower, known), known));
    let (edits, known) = near.min_by_key(|(edits, _)| *edits)?;
    (known != name && edits <= known.len().min(name.len()) / 3).then_some(known)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one text to the other. Texts of more
/// than 64 letters are not compared.
fn edits(one: &str, other: &str) -> usize {
    const LETTERS_MAX: usize = 64;
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().max(other.len()) > LETTERS_MAX {
        return usize::MAX;
    }
    let width = other.len() + 1;
    let mut table = vec![0; (one.len() + 1) * width];
    for i in 0..=one.len() {
        for j in 0..width {
            table[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let differs = usize::from(one[i - 1] != other[j - 1]);
                let swapped =
                    i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                let swap = if swapped { table[(i - 2) * width + j - 2] + 1 } else { usize::MAX };
                (table[(i - 1) * width + j] + 1)
                    .min(table[i * width + j - 1] + 1)
                    .min(table[(i - 1) * width + j - 1] + differs)
                    .min(swap)
            };
        }
    }
    table[table.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_what_and_what_was_meant() {
        let wrong = ConfigError::new("driver", "glomio", "auto, glommio or threads");
        let wrong = wrong.near(["auto", "glommio", "threads"]).within("engine");
        let wrong = wrong.at(Some("gateway.toml:3"));
        assert_eq!(
            wrong.to_string(),
            "gateway.toml:3: engine.driver = \"glomio\" is not allowed; allowed: auto, glommio or \
             threads; did you mean glommio?"
        );
        let unknown = ConfigError::unknown("source.flies", ["topics", "files"]);
        assert_eq!(
            unknown.to_string(),
            "source.flies is not known; known: topics, files; did you mean files?"
        );
        let unknown = ConfigError::unknown("sink.blackhole.colour", []);
        assert_eq!(
            unknown.to_string(),
            "sink.blackhole.colour is not known: there is nothing to set there"
        );
        assert_eq!(
            ConfigError::twice("qos").to_string(),
            "qos is given twice, as a key or in a URL: give it once"
        );
        let missing = ConfigError::missing("size", "a duration, such as 10s").within("window");
        assert_eq!(missing.to_string(), "window.size is missing; needed: a duration, such as 10s");
    }

    #[test]
    fn what_is_far_away_is_not_suggested() {
        for (name, meant) in [
            ("qso", Some("qos")),
            ("quos", Some("qos")),
            ("client-id", Some("client_id")),
            ("clientid", Some("client_id")),
            ("CLIENT_ID", Some("client_id")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, ["qos", "client_id", "inflight"]), meant, "{name}");
        }
        assert_eq!(edits(&"x".repeat(65), "x"), usize::MAX);
    }

    #[test]
    fn what_stays_as_it_is_lasts_and_weather_does_not() {
        let error = || ConnectorError::new("file out.csv", "cannot be written");
        assert!(!error().lasting);
        let weather = error().caused_by(std::io::Error::other("away"));
        assert_eq!(weather.to_string(), "file out.csv: cannot be written: away");
        assert!(!weather.lasting && weather.source.is_some());
        assert!(error().caused_by(ConfigError::new("a", "b", "c")).lasting);
        assert!(error().caused_by(StateError::Other("damaged".into())).lasting);
        assert!(error().caused_by(JournalError::Failed("away".into())).lasting);
        let lasting = error().lasting().caused_by(std::io::Error::other("away"));
        assert!(lasting.lasting, "a cause does not mend it");
    }

    #[test]
    fn a_panic_says_what_it_was_told() {
        let message =
            |panic: fn()| message_of_panic(&*std::panic::catch_unwind(panic).unwrap_err());
        assert_eq!(message(|| panic!("as it is")), "as it is");
        assert_eq!(message(|| panic!("with {}", 7)), "with 7");
        assert_eq!(message(|| std::panic::panic_any(7)), "no message");
    }

    #[test]
    fn a_value_is_shown_up_to_its_bound() {
        let fits = "x".repeat(VALUE_CHARS_MAX);
        let shown = |value: &str| ConfigError::new("a", value, "b").to_string();
        assert_eq!(shown(&fits), format!("a = \"{fits}\" is not allowed; allowed: b"));
        assert_eq!(
            shown(&format!("{fits}y")),
            format!("a = \"{fits}\"... is not allowed; allowed: b")
        );
    }

    #[test]
    fn a_key_stands_below_its_section_if_there_are_both() {
        let within = |key: &str, section: &str| ConfigError::new(key, "", "").within(section).key;
        assert_eq!([within("a", ""), within("", "s"), within("a", "s")], ["a", "s", "s.a"]);
    }

    #[test]
    fn edits_are_as_few_as_they_can_be() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "xbc", 1),
            ("abc", "ab", 1),
            ("abc", "bc", 1),
            ("abc", "acb", 1),
            ("bac", "abc", 1),
            ("abcd", "badc", 2),
            ("ca", "abc", 3),
            ("ab", "xy", 2),
            ("aab", "aba", 1),
            ("kitten", "sitting", 3),
            ("aaaa", "a", 3),
        ] {
            assert_eq!(edits(one, other), expected, "{one:?} {other:?}");
            assert_eq!(edits(other, one), expected, "{other:?} {one:?}");
        }
        assert_eq!(edits(&"x".repeat(64), &"y".repeat(63)), 64);
    }
}
