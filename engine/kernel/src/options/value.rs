//! [`Table`] and [`Value`]: settings as they were written, each with the place where it stands, before anybody has
//! said what they mean.
//!
//! A table comes from a TOML file, from variables, from a URL's query or from the string pairs of an SQL statement.
//! The last three know text only: [`Raw::Written`] stands for whatever the setting's type makes of it, where a TOML
//! string ([`Raw::Text`]) stays text.

use std::fmt;
use std::sync::Arc;

use crate::ConfigError;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What was written.
    pub raw: Raw,
    /// Where.
    pub origin: Origin,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// Text that stands for a value of any type.
    Written(String),
    /// Text in quotes.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(Table),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(text) | Self::Text(text) => f.write_str(text),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::List(values) => {
                f.write_str("[")?;
                for (place, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if place > 0 { ", " } else { "" }, value.raw)?;
                }
                f.write_str("]")
            }
            Self::Table(table) => {
                let keys = table.keys().collect::<Vec<_>>();
                write!(
                    f,
                    "a table of {}",
                    if keys.is_empty() { "nothing".into() } else { keys.join(", ") }
                )
            }
        }
    }
}

impl Raw {
    /// Its text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Written(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Where a value was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody noted it: the user has it before the eyes.
    #[default]
    Here,
    /// In a file.
    File {
        /// Its path as the user gave it.
        path: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(Arc<str>),
}

impl Origin {
    /// What an error says of it.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::Here => None,
            Self::File { path, line } => Some(format!("{path}:{line}")),
            Self::Variable(name) => Some(format!("variable {name}")),
        }
    }
}

/// Settings under their keys, in the order they were written. A key stands there once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The keys that lead to it: `sink.sqlite`; empty for the outermost.
    path: String,
    origin: Origin,
    entries: Vec<(String, Value)>,
}

impl Table {
    /// An empty table below these keys.
    pub fn new(path: impl Into<String>, origin: Origin) -> Self {
        Self { path: path.into(), origin, entries: Vec::new() }
    }

    /// The table of an SQL statement's `WITH`, or of the parameters of a URL: `a.b` is `b` in the table `a`.
    ///
    /// # Errors
    /// If a key is given twice, or is a table and a value.
    pub fn of_pairs<'a>(
        path: &str,
        origin: &Origin,
        pairs: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = Self::new(path, origin.clone());
        for (key, text) in pairs {
            table.insert(key, Value { raw: Raw::Written(text), origin: origin.clone() })?;
        }
        Ok(table)
    }

    /// The keys that lead to it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it begins.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The keys of its values.
    pub fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Its values with their keys.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Takes the value under `key` out of the table.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.entries.iter().position(|(known, _)| known == key)?;
        Some(self.entries.remove(place).1)
    }

    /// Puts in a value under a key in which dots mean nothing.
    ///
    /// # Errors
    /// If there is one already.
    pub fn put(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        if self.get(key).is_some() {
            return Err(self.twice(key, &value));
        }
        let value = value.moved(&self.key(key));
        self.entries.push((key.to_owned(), value));
        Ok(())
    }

    /// Puts in a value; `a.b` puts it into the table `a`, which is made if it is not there.
    ///
    /// # Errors
    /// If there is one already, or `a` is no table.
    pub fn insert(&mut self, key: &str, value: Value) -> Result<(), ConfigError> {
        let (first, rest) = match key.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (key, None),
        };
        let place = self.entries.iter().position(|(known, _)| known == first);
        match (place, rest) {
            (None, None) => self.put(first, value),
            (None, Some(rest)) => {
                let mut inner = Self::new(self.key(first), value.origin.clone());
                let origin = value.origin.clone();
                inner.insert(rest, value)?;
                self.entries.push((first.to_owned(), Value { raw: Raw::Table(inner), origin }));
                Ok(())
            }
            (Some(place), Some(rest)) if let Raw::Table(inner) = &mut self.entries[place].1.raw => {
                inner.insert(rest, value)
            }
            (Some(_), _) => Err(self.twice(first, &value)),
        }
    }

    fn twice(&self, key: &str, value: &Value) -> ConfigError {
        ConfigError::twice(self.key(key)).at(value.origin.place())
    }

    /// Lays `over` on top: its values take the places of those that are here, and tables are merged.
    pub fn merge(&mut self, over: Self) {
        for (key, value) in over.entries {
            match self.entries.iter_mut().find(|(known, _)| *known == key) {
                None => self.entries.push((key, value)),
                Some((_, Value { raw: Raw::Table(under), .. }))
                    if let Raw::Table(over) = value.raw =>
                {
                    under.merge(over);
                }
                Some((_, under)) => *under = value,
            }
        }
    }

    /// The whole key of the setting `key` of this table.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error about a setting of this table, whose key is its key here, with the whole key and its place.
    pub fn blame(&self, error: ConfigError) -> ConfigError {
        let origin = self.get(&error.key).map_or(&self.origin, |value| &value.origin);
        error.at(origin.place()).within(&self.path)
    }
}

impl Value {
    /// The value in a place of that path.
    fn moved(mut self, path: &str) -> Self {
        if let Raw::Table(table) = &mut self.raw {
            path.clone_into(&mut table.path);
            for (key, value) in &mut table.entries {
                let inner = std::mem::replace(&mut value.raw, Raw::Bool(false));
                value.raw =
                    Self { raw: inner, origin: Origin::Here }.moved(&format!("{path}.{key}")).raw;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Value {
        Value { raw: Raw::Written(text.into()), origin: Origin::Here }
    }

    #[test]
    fn dots_make_tables_and_a_key_stands_once() {
        let pairs =
            [("a.b", "1"), ("c", "2"), ("a.d.e", "3")].map(|(key, text)| (key, text.to_owned()));
        let mut table = Table::of_pairs("x", &Origin::Here, pairs).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "c"]);
        let Some(Value { raw: Raw::Table(inner), .. }) = table.get("a") else {
            panic!("{table:?}")
        };
        assert_eq!(
            table.clone().remove("c").map(|value| value.raw),
            Some(Raw::Written("2".into()))
        );
        assert_eq!(table.clone().remove("b"), None);
        assert_eq!((inner.path(), inner.keys().collect::<Vec<_>>()), ("x.a", vec!["b", "d"]));
        for key in ["c", "a", "a.b", "c.d"] {
            let error = table.insert(key, written("secret")).unwrap_err().to_string();
            assert!(error.contains("given twice") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_lies_on_top_counts_and_tables_are_merged() {
        let origin = Origin::Variable("V".into());
        let mut table =
            Table::of_pairs("", &Origin::Here, [("a.b", "1".into()), ("a.c", "2".into())]).unwrap();
        let over = Table::of_pairs("", &origin, [("a.c", "3".into()), ("d", "4".into())]).unwrap();
        table.merge(over);
        let Some(Value { raw: Raw::Table(inner), .. }) = table.get("a") else {
            panic!("{table:?}")
        };
        assert_eq!(inner.get("b"), Some(&written("1")));
        assert_eq!(inner.get("c"), Some(&Value { origin, ..written("3") }));
        let error = table.blame(ConfigError::new("d", "4", "5"));
        assert_eq!(error.to_string(), "variable V: d = \"4\" is not allowed; allowed: 5");
    }

    #[test]
    fn a_table_that_is_put_elsewhere_knows_its_path() {
        let inner = Table::of_pairs("", &Origin::Here, [("b.c", "1".into())]).unwrap();
        let mut table = Table::new("z", Origin::Here);
        table.insert("a", Value { raw: Raw::Table(inner), origin: Origin::Here }).unwrap();
        let error = table.insert("a.b.c", written("2")).unwrap_err();
        assert_eq!(error.key, "z.a.b.c");
    }
}
