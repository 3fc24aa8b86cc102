//! Settings as they were written: a TOML file, and the variables that override it, as one [`Table`]. Each value in it
//! knows its line or its variable.
//!
//! A variable `THALWEG_SINK__SQLITE__PATH` is the key `sink.sqlite.path`. Its text stands for a value of any type; lists and
//! tables are written as in TOML.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use thalweg_kernel::ConfigError;
use thalweg_kernel::options::{Origin, Raw, Table, Value};
use toml_edit::{ImDocument, Item, TableLike};

/// Variables begin with this.
const PREFIX: &str = "THALWEG_";

/// Tells where a part of the text stands.
type Place<'a> = &'a dyn Fn(Option<Range<usize>>) -> Origin;

/// Reads a file.
///
/// # Errors
/// If it cannot be read, or is no TOML.
pub(super) fn file(path: &Path) -> Result<Table, ConfigError> {
    let wrong = |allowed: String| ConfigError::new("FILE", path.display(), allowed);
    let text = std::fs::read_to_string(path)
        .map_err(|error| wrong(format!("a TOML file that can be read ({error})")))?;
    let name = path.display().to_string();
    toml(&text, &name).map_err(|(line, what)| {
        let place = line.map(|line| format!("{name}:{line}"));
        wrong(format!("valid TOML: {what}")).at(place)
    })
}

/// Reads a text; an error names its line, if it has one.
pub(super) fn toml(text: &str, name: &str) -> Result<Table, (Option<usize>, String)> {
    let line_of = |offset: usize| {
        let before = text.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    };
    let document = ImDocument::parse(text).map_err(|error| {
        let line = error.span().map(|span| line_of(span.start));
        (line, error.message().trim().replace('\n', ", "))
    })?;
    let name: Arc<str> = name.into();
    let place = |span: Option<Range<usize>>| {
        let line = span.map_or(1, |span| line_of(span.start));
        Origin::File { path: Arc::clone(&name), line }
    };
    // A key stands in a document once, and so in the table.
    table(document.as_table(), "", place(None), &place).map_err(|error| (None, error.to_string()))
}

fn table(
    from: &dyn TableLike,
    path: &str,
    origin: Origin,
    place: Place<'_>,
) -> Result<Table, ConfigError> {
    let mut made = Table::new(path, origin);
    for (key, item) in from.iter() {
        let span = from.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
        let origin = place(span);
        let path = made.key(key);
        if let Some(raw) = raw(item, &path, &origin, place)? {
            made.put(key, Value { raw, origin })?;
        }
    }
    Ok(made)
}

fn raw(
    item: &Item,
    path: &str,
    origin: &Origin,
    place: Place<'_>,
) -> Result<Option<Raw>, ConfigError> {
    use toml_edit::Value as Toml;

    Ok(Some(match item {
        Item::None => return Ok(None),
        Item::Table(from) => Raw::Table(table(from, path, origin.clone(), place)?),
        Item::ArrayOfTables(tables) => {
            let tables = tables.iter().map(|from| {
                let raw = Raw::Table(table(from, path, origin.clone(), place)?);
                Ok(Value { raw, origin: origin.clone() })
            });
            Raw::List(tables.collect::<Result<_, ConfigError>>()?)
        }
        Item::Value(Toml::String(text)) => Raw::Text(text.value().clone()),
        Item::Value(Toml::Integer(number)) => Raw::Integer(*number.value()),
        Item::Value(Toml::Float(number)) => Raw::Float(*number.value()),
        Item::Value(Toml::Boolean(value)) => Raw::Bool(*value.value()),
        Item::Value(Toml::Datetime(time)) => Raw::Text(time.value().to_string()),
        Item::Value(Toml::InlineTable(from)) => {
            Raw::Table(table(from, path, origin.clone(), place)?)
        }
        Item::Value(Toml::Array(items)) => {
            let items = items.iter().map(|item| {
                let origin = place(item.span());
                let raw = raw(&Item::Value(item.clone()), path, &origin, place)?;
                Ok(raw.map(|raw| Value { raw, origin }))
            });
            Raw::List(items.filter_map(Result::transpose).collect::<Result<_, ConfigError>>()?)
        }
    }))
}

/// Reads variables. Others of ours have meanings of their own, such as `THALWEG_LOG`; settings have two underscores.
///
/// # Errors
/// If two of them are one setting.
pub(super) fn variables(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Table, ConfigError> {
    let mut made = Table::default();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else {
            continue;
        };
        let key = rest.to_lowercase().replace("__", ".");
        let origin = Origin::Variable(name.as_str().into());
        made.insert(&key, Value { raw: of_variable(&text, &origin), origin })?;
    }
    Ok(made)
}

/// The variables of this process that are text.
pub(super) fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// A list or a table if it is one in TOML, else text.
fn of_variable(text: &str, origin: &Origin) -> Raw {
    let text = text.trim();
    let is_whole = |open, close| text.starts_with(open) && text.ends_with(close);
    if is_whole('[', ']') || is_whole('{', '}') {
        let value = text.parse::<toml_edit::Value>().ok();
        let place = |_: Option<Range<usize>>| origin.clone();
        let read = value.and_then(|value| raw(&Item::Value(value), "", origin, &place).ok());
        if let Some(read) = read.flatten() {
            return read;
        }
    }
    // Without quotes, too: `[a, b]`.
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(items) => {
            let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
            let written =
                |item: &str| Value { raw: Raw::Written(item.to_owned()), origin: origin.clone() };
            Raw::List(items.map(written).collect())
        }
        None => Raw::Written(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(table: &'a Table, path: &str) -> &'a Value {
        let mut value = None;
        let mut table = table;
        for key in path.split('.') {
            value = table.get(key);
            if let Some(Value { raw: Raw::Table(inner), .. }) = value {
                table = inner;
            }
        }
        value.unwrap()
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a = 1\n[b]\nc = 'x'\nd = [1,\n 2.5]\n[b.e]\nf = { g = true }\n\n[[h]]\ni = 1979-05-27\n";
        let table = toml(text, "job.toml").unwrap();
        for (path, line, expected) in
            [("a", 1, "1"), ("b.c", 3, "x"), ("b.d", 4, "[1, 2.5]"), ("b.e.f.g", 7, "true")]
        {
            let value = found(&table, path);
            assert_eq!(value.raw.to_string(), expected, "{path}");
            assert_eq!(value.origin, Origin::File { path: "job.toml".into(), line }, "{path}");
        }
        let Raw::List(items) = &found(&table, "b.d").raw else { panic!("{table:?}") };
        assert_eq!(items[1].origin, Origin::File { path: "job.toml".into(), line: 5 });
        let Raw::Table(inner) = &found(&table, "b.e.f").raw else { panic!("{table:?}") };
        assert_eq!(inner.path(), "b.e.f");
        let Raw::List(items) = &found(&table, "h").raw else { panic!("{table:?}") };
        assert_eq!(items.len(), 1);
        assert!(toml("x = 1\na = [\n", "f").unwrap_err().0.unwrap() > 1);
    }

    #[test]
    fn keys_with_dots_in_quotes_are_keys() {
        let table = toml("'a.b' = 1", "f").unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a.b"]);
    }

    #[test]
    fn variables_are_settings_by_another_name() {
        let of = |pairs: &[(&str, &str)]| {
            variables(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
        };
        let table = of(&[
            ("THALWEG_LOG", "info"),
            ("OTHER_A__B", "1"),
            ("THALWEG_SINK__SQLITE__PATH", "/a b"),
            ("THALWEG_A__LIST", "['x', \"y,z\"]"),
            ("THALWEG_A__BARE", "[x, y]"),
            ("THALWEG_A__TABLE", "{ k = 1 }"),
            ("THALWEG_A__ODD", "[x"),
        ])
        .unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["sink", "a"]);
        let path = found(&table, "sink.sqlite.path");
        assert_eq!(path.raw, Raw::Written("/a b".into()));
        assert_eq!(path.origin.place().unwrap(), "variable THALWEG_SINK__SQLITE__PATH");
        for (path, expected) in
            [("a.list", "[x, y,z]"), ("a.bare", "[x, y]"), ("a.table.k", "1"), ("a.odd", "[x")]
        {
            assert_eq!(found(&table, path).raw.to_string(), expected);
        }
        let error = of(&[("THALWEG_A__B", "1"), ("THALWEG_A__b", "2")]).unwrap_err().to_string();
        assert!(error.contains("a.b is given twice"), "{error}");
    }
}
