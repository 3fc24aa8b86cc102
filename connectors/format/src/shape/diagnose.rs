//! What a path met instead of its field: a second look at the payload, for the reason of a dead letter.

use std::cell::{Cell, OnceCell};

use serde_json::Value;

use super::REFUSALS_MAX;
use super::path::{Path, Segment};
use crate::json::shortened;

/// Fields that a reason lists.
const NAMES_MAX: usize = 8;

/// The second look at one payload, which is read at most once for it.
pub(super) struct Diagnosis<'a> {
    payload: &'a str,
    root: OnceCell<Option<Value>>,
    left: Cell<usize>,
}

impl<'a> Diagnosis<'a> {
    #[inline]
    pub(super) const fn of(payload: &'a str) -> Self {
        Self { payload, root: OnceCell::new(), left: Cell::new(REFUSALS_MAX) }
    }

    /// Why there is nothing at `path`, whose elements are named by their places; `None` if that cannot be told.
    /// Only the first [`REFUSALS_MAX`] are looked for.
    #[cold]
    pub(super) fn missing(&self, path: &Path) -> Option<String> {
        self.left.set(self.left.get().checked_sub(1)?);
        let root = self.root.get_or_init(|| serde_json::from_str(self.payload).ok());
        missing(root.as_ref()?, path)
    }
}

fn missing(root: &Value, path: &Path) -> Option<String> {
    let mut value = root;
    for (place, segment) in path.segments.iter().enumerate() {
        let here = Path { segments: path.segments[..place].to_vec() };
        let here = if place == 0 { "the message".to_owned() } else { format!("`{here}`") };
        let next = match (segment, value) {
            (Segment::Key(key), Value::Object(fields)) => match fields.get(&**key) {
                Some(next) => next,
                None => {
                    let names = names(fields.keys().map(String::as_str));
                    return Some(format!("missing: {here} has {names}"));
                }
            },
            (Segment::Index(index), Value::Array(items)) => match items.get(*index) {
                Some(next) => next,
                None => return Some(format!("missing: {here} has {} elements", items.len())),
            },
            (Segment::Each, Value::Array(_))
            | (Segment::Entries | Segment::Name, Value::Object(_)) => {
                return None;
            }
            (Segment::Index(_) | Segment::Each, other) => {
                return Some(format!("missing: {here} is {}, and not an array", kind(other)));
            }
            (Segment::Key(_) | Segment::Entries | Segment::Name, other) => {
                return Some(format!("missing: {here} is {}, and not an object", kind(other)));
            }
        };
        value = next;
    }
    None
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the text {:?}", shortened(value)),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    if count == 0 {
        return "no fields".into();
    }
    let shown = names.take(NAMES_MAX).map(|name| format!("`{}`", shortened(name)));
    let mut shown = shown.collect::<Vec<_>>().join(", ");
    if count > NAMES_MAX {
        shown.push_str(&format!(" and {} more", count - NAMES_MAX));
    }
    shown
}
