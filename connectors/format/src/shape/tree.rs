//! The paths of a shape as one tree, which one pass through a JSON text follows.
//!
//! What no path leads to is skipped, and still checked as JSON. A value of another kind than the path asks for is noted as
//! what it is. Whether that will do is decided when a reading is made.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::{Path, Segment};
use super::rows::{Raw, Rows, Slot, Span};

#[derive(Clone, Debug, Default)]
struct Node {
    level: usize,
    /// Where the value is kept that stands here.
    slot: Option<Slot>,
    /// Where the key of the entry is kept.
    name: Option<Slot>,
    keys: Vec<(Box<str>, usize)>,
    items: Vec<(usize, usize)>,
    each: Option<usize>,
    entries: Option<usize>,
}

/// Paths that are read together.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// For each level, how many values its rows have.
    widths: Vec<usize>,
    /// What is taken apart: for each level but the first, the path to its rows.
    apart: Vec<Path>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], widths: vec![0], apart: Vec::new() }
    }

    pub(super) fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// The path to the rows of a level but the first.
    pub(super) fn apart(&self, level: usize) -> Option<&Path> {
        self.apart.get(level.checked_sub(1)?)
    }

    /// Adds a path, and says where its value is kept.
    ///
    /// # Errors
    /// If it takes apart what others do not.
    pub(super) fn insert(&mut self, path: &Path) -> Result<Slot, String> {
        let mut at = 0;
        for (place, segment) in path.segments.iter().enumerate() {
            let node = &self.nodes[at];
            let level = node.level;
            let known = match segment {
                Segment::Key(key) => node.keys.iter().find(|(k, _)| k == key).map(|(_, n)| *n),
                Segment::Index(index) => {
                    node.items.iter().find(|(i, _)| i == index).map(|(_, n)| *n)
                }
                Segment::Each => node.each,
                Segment::Entries => node.entries,
                Segment::Name => {
                    let slot = match node.name {
                        Some(slot) => slot,
                        None => self.slot(level),
                    };
                    self.nodes[at].name = Some(slot);
                    return Ok(slot);
                }
            };
            if let Some(next) = known {
                at = next;
                continue;
            }
            let opens = matches!(segment, Segment::Each | Segment::Entries);
            if opens {
                let prefix = Path { segments: path.segments[..=place].to_vec() };
                if let Some(other) = self.apart.get(level) {
                    return Err(format!(
                        "one array to take apart: `{prefix}` beside `{other}` would say nothing of which elements belong \
                         together"
                    ));
                }
                self.apart.push(prefix);
                self.widths.push(0);
            }
            let next = self.nodes.len();
            self.nodes.push(Node { level: level + usize::from(opens), ..Node::default() });
            let node = &mut self.nodes[at];
            match segment {
                Segment::Key(key) => node.keys.push((key.clone(), next)),
                Segment::Index(index) => node.items.push((*index, next)),
                Segment::Each => node.each = Some(next),
                Segment::Entries => node.entries = Some(next),
                Segment::Name => {}
            }
            if node.each.is_some() && !node.items.is_empty() {
                let array = Path { segments: path.segments[..place].to_vec() };
                return Err(format!(
                    "`{array}` either taken apart or with the numbers of its elements"
                ));
            }
            at = next;
        }
        let slot = match self.nodes[at].slot {
            Some(slot) => slot,
            None => self.slot(self.nodes[at].level),
        };
        self.nodes[at].slot = Some(slot);
        Ok(slot)
    }

    fn slot(&mut self, level: usize) -> Slot {
        let index = self.widths[level];
        self.widths[level] += 1;
        Slot { level, index }
    }

    /// Where the field of that name of each element is kept, for formats that have rows of named fields.
    pub(super) fn column(&self, name: &str) -> Option<Slot> {
        let row = self.nodes.get(self.nodes.first()?.each?)?;
        let (_, node) = row.keys.iter().find(|(key, _)| &**key == name)?;
        self.nodes.get(*node)?.slot
    }

    /// Where the whole payload is kept.
    pub(super) fn whole(&self) -> Option<Slot> {
        self.nodes.first()?.slot
    }
}

/// Reads what stands at a node. `payload` is the text that is read.
pub(super) struct Visit<'a> {
    tree: &'a Tree,
    rows: &'a mut Rows,
    payload: &'a str,
    node: usize,
    /// The node begins a row of its level.
    opens: Option<Raw>,
}

impl<'a> Visit<'a> {
    pub(super) fn new(tree: &'a Tree, rows: &'a mut Rows, payload: &'a str) -> Self {
        Self { tree, rows, payload, node: 0, opens: None }
    }

    fn node(&self) -> &'a Node {
        &self.tree.nodes[self.node]
    }

    fn below(&mut self, node: usize) -> Visit<'_> {
        Visit { tree: self.tree, rows: self.rows, payload: self.payload, node, opens: None }
    }

    #[inline]
    fn put<E: Error>(&mut self, raw: Raw) -> Result<(), E> {
        match self.node().slot {
            Some(slot) => put(self.rows, slot, raw),
            None => Ok(()),
        }
    }
}

#[inline]
fn put<E: Error>(rows: &mut Rows, slot: Slot, raw: Raw) -> Result<(), E> {
    if rows.set(slot, raw) || rows.spoil(slot) { Ok(()) } else { Err(E::custom("given twice")) }
}

/// A text as its place in the payload, if it stands there.
#[inline]
fn borrowed(text: &str, payload: &str, rows: &mut Rows) -> Raw {
    let span = text.as_ptr().addr().checked_sub(payload.as_ptr().addr()).and_then(|start| {
        let end = start + text.len();
        if end <= payload.len() { Span::new(start, end) } else { None }
    });
    span.map_or_else(|| rows.make(text), Raw::Text)
}

impl<'de> DeserializeSeed<'de> for Visit<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Some(name) = self.opens {
            let node = self.node();
            if !self.rows.open(node.level) {
                return Err(D::Error::custom("more readings than a message may hold"));
            }
            if let Some(slot) = node.name {
                put(self.rows, slot, name)?;
            }
        }
        deserializer.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($method:ident $type:ty => $raw:path;)*) => {$(
        #[inline]
        fn $method<E: Error>(mut self, value: $type) -> Result<(), E> {
            self.put($raw(value))
        }
    )*};
}

impl<'de> Visitor<'de> for Visit<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalars! {
        visit_bool bool => Raw::Bool;
        visit_u64 u64 => Raw::Unsigned;
        visit_i64 i64 => Raw::Signed;
    }

    #[inline]
    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        self.put(if value.is_finite() { Raw::Float(value) } else { Raw::Beyond })
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.put(Raw::Null)
    }

    #[inline]
    fn visit_borrowed_str<E: Error>(mut self, text: &'de str) -> Result<(), E> {
        if self.node().slot.is_none() {
            return Ok(());
        }
        let raw = borrowed(text, self.payload, self.rows);
        self.put(raw)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        let raw = self.rows.make(text);
        self.put(raw)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.put(Raw::Object)?;
        let node = self.node();
        if node.entries.is_some() && !self.rows.fill(node.level) {
            return Err(A::Error::custom("given twice"));
        }
        loop {
            let key = Key { node, rows: self.rows, payload: self.payload };
            match map.next_key_seed(key)? {
                None => return Ok(()),
                Some(Way::To(child)) => map.next_value_seed(self.below(child))?,
                Some(Way::Entry(child, name)) => {
                    map.next_value_seed(Visit { opens: Some(name), ..self.below(child) })?;
                }
                Some(Way::Nowhere) => _ = map.next_value::<IgnoredAny>()?,
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.put(Raw::Array)?;
        let node = self.node();
        if let Some(child) = node.each {
            if !self.rows.fill(node.level) {
                return Err(A::Error::custom("given twice"));
            }
            let mut more = Some(());
            while more.is_some() {
                let element = Visit { opens: Some(Raw::Absent), ..self.below(child) };
                more = seq.next_element_seed(element)?;
            }
            return Ok(());
        }
        for index in 0.. {
            let item = node.items.iter().find(|(item, _)| *item == index);
            let more = match item {
                Some((_, child)) => seq.next_element_seed(self.below(*child))?,
                None => seq.next_element::<IgnoredAny>()?.map(drop),
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Where a key leads.
enum Way {
    To(usize),
    Entry(usize, Raw),
    Nowhere,
}

struct Key<'a> {
    node: &'a Node,
    rows: &'a mut Rows,
    payload: &'a str,
}

impl Key<'_> {
    #[inline]
    fn way(&self, key: &str) -> Option<Way> {
        let found = self.node.keys.iter().find(|(known, _)| **known == *key);
        found.map(|(_, child)| Way::To(*child))
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Way;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Way, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Way;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Way, E> {
        Ok(match (self.way(key), self.node.entries) {
            (Some(way), _) => way,
            (None, Some(child)) => Way::Entry(child, borrowed(key, self.payload, self.rows)),
            (None, None) => Way::Nowhere,
        })
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Way, E> {
        Ok(match (self.way(key), self.node.entries) {
            (Some(way), _) => way,
            (None, Some(child)) => Way::Entry(child, self.rows.make(key)),
            (None, None) => Way::Nowhere,
        })
    }
}
