//! [`OptionInfo`]: what is known of one option, for reading it, for its errors, and for who looks it up.

use super::units;

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// Its name.
    pub key: &'static str,
    /// Other names that are understood, such as Flink's.
    pub aliases: &'static [&'static str],
    /// What it holds.
    pub kind: Kind,
    /// What it counts: `seconds`, `messages`. A number of `bytes` may be written with a unit: `64KiB`.
    pub unit: Option<&'static str>,
    /// The least and the most: of whole numbers, or of durations in milliseconds.
    pub range: Option<(u64, u64)>,
    /// What stands for it where it is not given.
    pub fallback: Fallback,
    /// Its value is shown nowhere.
    pub secret: bool,
    /// What it is for.
    pub doc: &'static [&'static str],
    /// A value as it may be written.
    pub example: Option<&'static str>,
}

/// What stands for an option where it is not given.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// Nothing: it must be given.
    Required,
    /// Nothing, which means this.
    Absent(&'static str),
    /// This value, as it would be written.
    Value(fn() -> String),
}

/// What an option holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// Yes or no.
    Bool,
    /// A whole number; `signed` ones may be below zero.
    Integer {
        /// It may be below zero.
        signed: bool,
    },
    /// A number.
    Float,
    /// A duration.
    Duration,
    /// The path of a file or directory.
    Path,
    /// An IP address and a port.
    Address,
    /// The address of a server.
    Url,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several of these.
    List(&'static Kind),
    /// Tables under names that the user chooses, each with these options.
    Named(&'static [&'static [OptionInfo]]),
}

impl Kind {
    /// Its name, short.
    pub fn name(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Bool => "bool".into(),
            Self::Integer { .. } => "integer".into(),
            Self::Float => "number".into(),
            Self::Duration => "duration".into(),
            Self::Path => "path".into(),
            Self::Address => "address".into(),
            Self::Url => "URL".into(),
            Self::Choice(_) => "choice".into(),
            Self::List(kind) => format!("list of {}", kind.name()),
            Self::Named(_) => "tables".into(),
        }
    }

    /// What may stand there, in words.
    pub fn allowed(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Bool => "true or false".into(),
            Self::Integer { signed: true } => "a whole number".into(),
            Self::Integer { signed: false } => "a whole number, 0 or more".into(),
            Self::Float => "a number".into(),
            Self::Duration => "a duration: 250ms, 10s, 5m, 1h 30m".into(),
            Self::Path => "a path".into(),
            Self::Address => "an address and a port: 127.0.0.1:9464".into(),
            Self::Url => "a URL".into(),
            Self::Choice(words) => either(words),
            Self::List(_) => "a list: [\"a\", \"b\"]".into(),
            Self::Named(_) => "a table for each name".into(),
        }
    }
}

/// `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [words @ .., last] => format!("{} or {last}", words.join(", ")),
    }
}

impl OptionInfo {
    /// The names under which it is found.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.key).chain(self.aliases.iter().copied())
    }

    /// Whether a value of this magnitude is within the range; one without magnitude is.
    pub(super) fn holds(&self, magnitude: Option<i128>) -> bool {
        let (Some((least, most)), Some(number)) = (self.range, magnitude) else { return true };
        (i128::from(least)..=i128::from(most)).contains(&number)
    }

    /// What may stand there, in words.
    pub fn allowed(&self) -> String {
        let unit = self.unit.map(|unit| format!(" {unit}")).unwrap_or_default();
        match (self.range, self.kind) {
            (Some((least, most)), Kind::Duration) => {
                let show = |ms| units::show_duration(std::time::Duration::from_millis(ms));
                if most == u64::MAX {
                    format!("{} or more", show(least))
                } else {
                    format!("{} to {}", show(least), show(most))
                }
            }
            (Some((least, u64::MAX)), _) => format!("{least} or more{unit}"),
            (Some((least, most)), _) => format!("{least} to {most}{unit}"),
            (None, kind) => match self.unit {
                Some(unit) => format!("{} ({unit})", kind.allowed()),
                None => kind.allowed(),
            },
        }
    }

    /// What must be given, in words.
    pub(super) fn needed(&self) -> String {
        let example =
            self.example.map(|example| format!(", such as {example}")).unwrap_or_default();
        format!("{}{example}; it has no default", self.allowed())
    }

    /// The value that stands for it where it is not given, as it would be written; `None` if there is none.
    pub fn default_text(&self) -> Option<String> {
        let Fallback::Value(show) = self.fallback else { return None };
        let text = show();
        match (self.unit, text.parse()) {
            (Some("bytes"), Ok(bytes)) => Some(units::show_bytes(bytes)),
            _ => Some(text),
        }
    }
}
