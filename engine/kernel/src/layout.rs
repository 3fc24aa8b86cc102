//! [`Layout`]: what the stored bytes of a state mean, so that a job that would read them as something else is refused.
//!
//! Bytes of keys and values say nothing about themselves: an `(i64, f64)` reads as an `(f64, i64)` without an error.
//! So the catalogue holds a layout beside each state, and a job's layouts are compared with the stored ones when it
//! starts. A layout is opaque text, made of what can be known of a type:
//!
//! | of | is known |
//! |---|---|
//! | numbers, `bool`, `char`, texts, tuples, arrays, `Option`, `Vec`, maps and sets of the standard library | their structure, all the way down |
//! | a type of the user's | its name without the path, and its arguments |
//! | the whole value | the bytes of its archived form, without what that points to |
//!
//! Texts are alike whatever they are in memory (`String`, [`Str`](crate::Str), `&str`), and so are lists. Values are
//! known as rkyv archives them, keys as the program has them.
//!
//! # Limits
//! A user's own type that changes and keeps name and size is not noticed: give the state another schema number then.
//! One that only changes its name is refused, and a migration that returns its argument reads it.
//!
//! # Catalogues of release 0.1
//! They hold the names of Rust types, with paths, for people. [`Layout::types_may_fit`] compares those: what is known
//! on both sides must be alike; a user's type may have been renamed.

use std::any::type_name;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Durable;

/// What the stored bytes of a state mean. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    key: String,
    value: String,
    value_bytes: usize,
}

impl Layout {
    /// Of a state with keys and values of these types.
    pub fn of<K, V: Durable>() -> Self {
        let (archived, value_bytes) = V::archived();
        Self {
            key: Shape::of(type_name::<K>()).to_string(),
            value: Shape::of(archived).to_string(),
            value_bytes,
        }
    }

    /// The same with values of the type that [`Durable::archived`] names.
    #[must_use]
    pub fn with_values_of(&self, (archived, value_bytes): (&str, usize)) -> Self {
        Self { key: self.key.clone(), value: Shape::of(archived).to_string(), value_bytes }
    }

    /// The same with something before the key that is part of its meaning, such as the length of windows.
    #[must_use]
    pub fn with_keys_of(mut self, what: &str) -> Self {
        self.key = format!("{what}: {}", self.key);
        self
    }

    /// Whether a migration may read state of the layout `stored` in this one. The keys must be alike, and so must what
    /// is known of the values. The migration's writer vouches for the rest.
    pub fn may_migrate(&self, stored: &Self) -> bool {
        self.key == stored.key
            && self.value_bytes == stored.value_bytes
            && Shape::of(&self.value).may_be(&Shape::of(&stored.value))
    }

    /// Whether the types that a catalogue of release 0.1 names may be the same as the other ones. Both are written
    /// as `types` of a [`StateInfo`](crate::StateInfo) are: `K -> V`, or `list of V`.
    pub fn types_may_fit(stored: &str, ours: &str) -> bool {
        match (stored.split_once(" -> "), ours.split_once(" -> ")) {
            (Some((key, value)), Some((our_key, our_value))) => {
                let may_be = |a: &str, b: &str| Shape::of(a).may_be(&Shape::of(b));
                may_be(key, our_key) && may_be(value, our_value)
            }
            // Lists of operators: `list of V`.
            _ => match (stored.split_once(" of "), ours.split_once(" of ")) {
                (Some((what, value)), Some((our_what, our_value))) => {
                    what == our_what && Shape::of(value).may_be(&Shape::of(our_value))
                }
                _ => stored == ours,
            },
        }
    }

    /// These types of a [`StateInfo`](crate::StateInfo), with another type of values.
    pub fn types_with_values_of(types: &str, value: &str) -> String {
        let parted = [" -> ", " of "].map(|between| types.rsplit_once(between).zip(Some(between)));
        match parted.into_iter().flatten().next() {
            Some(((first, _), between)) => format!("{first}{between}{value}"),
            None => value.to_owned(),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} of {} bytes", self.key, self.value, self.value_bytes)
    }
}

/// A type, as far as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    name: String,
    arguments: Vec<Shape>,
}

/// What tuples are called.
const TUPLE: &str = "()";

impl Shape {
    fn of(name: &str) -> Self {
        let mut rest = name;
        match read(&mut rest) {
            Some(shape) if rest.trim().is_empty() => shape,
            _ => Self { name: name.to_owned(), arguments: Vec::new() },
        }
    }

    /// With the name by which all types of this form go.
    fn known_as(name: &str, mut arguments: Vec<Self>) -> Self {
        let plain = name.strip_prefix("Archived").unwrap_or(name);
        let number =
            plain.strip_suffix("_ule").or_else(|| plain.strip_suffix("_le")).unwrap_or(plain);
        let name = match number {
            "String" | "CompactString" | "str" => "String",
            "Vec" | "VecDeque" => "Vec",
            "HashMap" | "BTreeMap" | "IndexMap" => {
                arguments.truncate(2);
                number
            }
            "HashSet" | "BTreeSet" => {
                arguments.truncate(1);
                number
            }
            tuple if tuple.starts_with("Tuple") && plain != name => TUPLE,
            other => other,
        };
        Self { name: name.to_owned(), arguments }
    }

    /// Whether the language or its library defines it, so that its name says what it is.
    fn is_known(&self) -> bool {
        const KNOWN: [&str; 28] = [
            "u8",
            "u16",
            "u32",
            "u64",
            "u128",
            "usize",
            "i8",
            "i16",
            "i32",
            "i64",
            "i128",
            "isize",
            "f32",
            "f64",
            "bool",
            "char",
            "String",
            "Vec",
            "Option",
            "Box",
            "HashMap",
            "BTreeMap",
            "HashSet",
            "BTreeSet",
            "Duration",
            "Timestamp",
            "Reverse",
            TUPLE,
        ];
        let is_name = self.name.chars().all(|c| c.is_alphanumeric() || c == '_');
        // What could not be parsed is compared as it is.
        KNOWN.contains(&self.name.as_str()) || !is_name
    }

    /// Whether it may be this other one: what is known of both is alike.
    fn may_be(&self, other: &Self) -> bool {
        if self.name != other.name {
            return !self.is_known() && !other.is_known();
        }
        self.arguments.len() == other.arguments.len()
            && self.arguments.iter().zip(&other.arguments).all(|(a, b)| a.may_be(b))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, arguments } = self;
        let (open, close) = match name.as_str() {
            TUPLE => ("(", ")"),
            _ if name.starts_with('[') => ("[", &name[1..]),
            _ if arguments.is_empty() => return f.write_str(name),
            _ => {
                f.write_str(name)?;
                ("<", ">")
            }
        };
        f.write_str(open)?;
        for (n, argument) in arguments.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            argument.fmt(f)?;
        }
        f.write_str(close)
    }
}

/// Takes a type off the beginning of `text`.
fn read(text: &mut &str) -> Option<Shape> {
    *text = text.trim_start();
    if let Some(rest) = text.strip_prefix('&') {
        let rest = rest.strip_prefix("'static").unwrap_or(rest).trim_start();
        *text = rest.strip_prefix("mut ").unwrap_or(rest);
        return read(text);
    }
    if let Some(rest) = text.strip_prefix('(') {
        *text = rest;
        let arguments = read_list(text, ')')?;
        return Some(Shape { name: TUPLE.to_owned(), arguments });
    }
    if let Some(rest) = text.strip_prefix('[') {
        *text = rest;
        let argument = read(text)?;
        let (length, rest) = text.split_once(']')?;
        *text = rest;
        let length = length.trim_start();
        return Some(match length.is_empty() {
            // A slice is a list.
            true => Shape { name: "Vec".to_owned(), arguments: vec![argument] },
            false => Shape { name: format!("[{length}]"), arguments: vec![argument] },
        });
    }
    loop {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty() {
            return None;
        }
        *text = rest;
        let mut arguments = Vec::new();
        if let Some(rest) = text.strip_prefix('<') {
            *text = rest;
            arguments = read_list(text, '>')?;
        }
        match text.strip_prefix("::") {
            Some(rest) => *text = rest,
            None => return Some(Shape::known_as(name, arguments)),
        }
    }
}

/// Takes types off the beginning of `text`, up to `end`.
fn read_list(text: &mut &str, end: char) -> Option<Vec<Shape>> {
    let mut list = Vec::new();
    loop {
        *text = text.trim_start();
        if let Some(rest) = text.strip_prefix(end) {
            *text = rest;
            return Some(list);
        }
        list.push(read(text)?);
        *text = text.trim_start();
        *text = text.strip_prefix(',').unwrap_or(text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use rkyv::{Archive, Deserialize, Serialize};

    use super::*;
    use crate::{Str, Timestamp};

    #[derive(Archive, Serialize, Deserialize)]
    struct Seen {
        count: u64,
    }

    #[derive(Archive, Serialize, Deserialize)]
    struct Of<T>(T);

    fn layout<K, V: Durable>() -> String {
        Layout::of::<K, V>().to_string()
    }

    #[test]
    fn layouts_say_what_is_known_of_a_type() {
        assert_eq!(layout::<u64, (i64, f64)>(), "u64 -> (i64, f64) of 16 bytes");
        assert_eq!(layout::<Str, (f64, i64)>(), "String -> (f64, i64) of 16 bytes");
        assert_eq!(
            layout::<(&'static str, Option<u8>), u8>(),
            "(String, Option<u8>) -> u8 of 1 bytes"
        );
        assert_eq!(layout::<[u8; 4], ()>(), "[u8; 4] -> () of 0 bytes");
        assert_eq!(layout::<Vec<u8>, Seen>(), "Vec<u8> -> Seen of 8 bytes");
        assert_eq!(layout::<i8, Of<Option<String>>>(), "i8 -> Of<Option<String>> of 9 bytes");
        assert_eq!(
            layout::<i8, Vec<(bool, Timestamp)>>(),
            "i8 -> Vec<(bool, Timestamp)> of 8 bytes"
        );
        assert_eq!(
            layout::<i8, BTreeMap<u32, [i16; 2]>>(),
            "i8 -> BTreeMap<u32, [i16; 2]> of 8 bytes"
        );
        assert_eq!(Layout::of::<u8, String>(), Layout::of::<u8, Str>());
        assert_eq!(Layout::of::<u8, Vec<u8>>().value, Layout::of::<u8, VecDeque<u8>>().value);
        let (tumbling, other) =
            (Layout::of::<u8, u8>().with_keys_of("1 s"), Layout::of::<u8, u8>());
        assert_ne!(tumbling, other);
    }

    #[test]
    fn a_migration_reads_what_may_be_its_argument() {
        let may = |a: Layout, b: Layout| a.may_migrate(&b) && b.may_migrate(&a);
        assert!(may(Layout::of::<u8, Seen>(), Layout::of::<u8, Of<u64>>()), "renamed");
        assert!(!may(Layout::of::<u8, Seen>(), Layout::of::<u8, Of<u32>>()), "of another size");
        assert!(!may(Layout::of::<u8, Seen>(), Layout::of::<u16, Seen>()), "of other keys");
        assert!(!may(Layout::of::<u8, (i64, f64)>(), Layout::of::<u8, (f64, i64)>()));
        assert!(!may(Layout::of::<u8, Vec<Seen>>(), Layout::of::<u8, Vec<u64>>()));
    }

    #[test]
    fn the_names_of_types_are_compared_as_far_as_they_tell() {
        let fit = Layout::types_may_fit;
        assert!(fit("u64 -> (i64, f64)", "u64 -> (i64, f64)"));
        assert!(!fit("u64 -> (i64, f64)", "u64 -> (f64, i64)"));
        assert!(!fit("u64 -> u32", "u64 -> (u32,)"));
        assert!(fit(
            "alloc::string::String -> a::b::Seen",
            "compact_str::CompactString -> c::Known"
        ));
        assert!(!fit("u64 -> a::b::Seen", "u64 -> i64"), "what it was is not known");
        assert!(fit("&str -> a::Of<b::Seen>", "alloc::string::String -> c::Of<d::Known>"));
        assert!(!fit("&str -> a::Of<u8>", "alloc::string::String -> c::Of<u16>"));
        assert!(!fit("u8 -> alloc::vec::Vec<(u8, i64)>", "u8 -> alloc::vec::Vec<(i8, i64)>"));
        assert!(fit("list of a::Seen", "list of b::c::Known"));
        assert!(
            !fit("list of (u8, i64)", "list of (i64, u8)")
                && !fit("list of u8", "union list of u8")
        );
        let with = Layout::types_with_values_of;
        assert_eq!(with("u64 -> (i64, f64)", "u8"), "u64 -> u8");
        assert_eq!(with("union list of a::Seen", "(u8, u8)"), "union list of (u8, u8)");
        assert!(
            fit("u8 -> [f64; 3]", "u8 -> [f64; 3]") && !fit("u8 -> [f64; 3]", "u8 -> [f64; 4]")
        );
        assert!(fit("list of u8", "list of u8") && !fit("list of u8", "list of u16"));
        assert!(!fit("u8 -> list of u8", "u8 -> list of u16"), "what is behind a type counts");
        assert!(
            fit("u8 -> dyn a::B", "u8 -> dyn a::B"),
            "what cannot be parsed is compared as text"
        );
        assert!(fit("u8 -> <a::B as c::D>::E", "u8 -> <a::B as c::D>::E"));
    }
}
