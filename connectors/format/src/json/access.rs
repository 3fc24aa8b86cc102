//! Objects, arrays and enums as serde walks through them.

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::{Deserialize, Deserializer};
use thalweg_kernel::Str;

use super::error::Error;
use super::memory::{Known, Place, Reader};
use super::parser::{Chars, Parser};
use super::word::Word;

impl Parser<'_, '_> {
    /// Whether the topic gives one of `fields`.
    #[inline]
    pub(super) fn binds_one_of(&self, fields: &[&str]) -> bool {
        self.bindings.iter().any(|(name, _)| fields.contains(&name.as_str()))
    }
}

/// The fields of an object; those that the topic binds come first in the outermost one, and win.
pub(super) struct Fields<'p, 'de, 's> {
    parser: &'p mut Parser<'de, 's>,
    /// Where the next key stands; nowhere once the object is closed.
    place: Place,
    topic: Topic,
    /// The fields of the struct; `None` for a map, which takes all.
    wanted: Option<&'static [&'static str]>,
    /// The name of the visitor's type.
    owner: &'static str,
    /// Bindings not yet offered.
    to_offer: &'de [(Str, &'de str)],
    /// Where the last key's quote is.
    key: usize,
}

/// What the topic has to do with an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    /// It binds nothing here.
    Aside,
    /// Its fields are being offered.
    Offers,
    /// Its fields were offered, and hide the payload's.
    Hides,
}

impl<'p, 'de, 's> Fields<'p, 'de, 's> {
    /// Opens the object whose brace is the next byte.
    #[inline]
    pub(super) fn open(
        parser: &'p mut Parser<'de, 's>,
        wanted: Option<&'static [&'static str]>,
        owner: &'static str,
    ) -> Result<Self, Error> {
        let concerned = parser.outermost() && !parser.bindings.is_empty();
        let topic = if concerned { Topic::Offers } else { Topic::Aside };
        let (to_offer, key) = (parser.bindings, parser.at);
        parser.enter()?;
        Ok(Self { parser, place: Place::First, topic, wanted, owner, to_offer, key })
    }

    /// Where an error belongs that has no position: the end of a finished object, where it lacks
    /// something, or the last key.
    #[cold]
    pub(super) fn position(&self) -> usize {
        if self.place == Place::Nowhere { self.parser.at - 1 } else { self.key }
    }

    /// The visitor is done: so must the object be.
    #[inline]
    pub(super) fn close(mut self) -> Result<(), Error> {
        if self.place == Place::Nowhere || !self.goes_on()? {
            return Ok(());
        }
        Err(self.parser.expected("`}`: the object has more fields than its type"))
    }

    /// Moves to the next key, if there is one; else leaves the object.
    #[inline]
    fn goes_on(&mut self) -> Result<bool, Error> {
        match self.parser.token() {
            Some(b'}') => {
                self.parser.at += 1;
                self.parser.leave();
                self.place = Place::Nowhere;
                return Ok(false);
            }
            Some(b',') if self.place == Place::Later => {
                self.parser.at += 1;
                self.parser.token();
            }
            _ if self.place == Place::Later => return Err(self.parser.unseparated(true)),
            _ => self.place = Place::Later,
        }
        if self.parser.peek() == Some(b'"') {
            return Ok(true);
        }
        Err(self.parser.expected("a key in quotes"))
    }

    /// The next key, if it is the one that the memory expects: goes to its value.
    #[inline(always)]
    fn expected_key(&mut self) -> Option<(usize, Known)> {
        let memory = self.parser.memory.as_mut()?;
        let start = self.parser.at;
        let rest = self.parser.text.as_bytes().get(start..)?;
        let known = memory.expect(rest, self.place)?;
        self.place = Place::Later;
        self.parser.at = start + known.value;
        Some((start, known))
    }

    /// The next key whatever it is, if there is one: goes to its value, and remembers the way.
    fn any_key<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        loop {
            let (start, place) = (self.parser.at, self.place);
            if place == Place::Nowhere || !self.goes_on()? {
                return Ok(None);
            }
            self.key = self.parser.at;
            let (topic, bindings) = (self.topic, self.parser.bindings);
            let key = self.parser.string()?;
            let plain = matches!(key, Chars::Borrowed(_));
            let hidden = topic == Topic::Hides && binds(bindings, key.as_str());
            if hidden {
                self.after_key(start, place, plain)?;
                self.skip_value()?;
                continue;
            }
            let key = seed.deserialize(Word(key))?;
            self.after_key(start, place, plain)?;
            return Ok(Some(key));
        }
    }

    /// Goes from the end of a key to its value, and remembers the way if the key is written plainly.
    fn after_key(&mut self, start: usize, place: Place, plain: bool) -> Result<(), Error> {
        let key = (self.key + 1 - start, self.parser.at - 1 - start);
        self.parser.colon()?;
        self.parser.token();
        match &mut self.parser.memory {
            Some(memory) if plain => {
                memory.learn(&self.parser.text.as_bytes()[start..self.parser.at], key, place);
            }
            Some(memory) => memory.unknown(),
            None => {}
        }
        Ok(())
    }

    /// The visitor ignores the value of the last key. If the key is none of the struct's fields it will do
    /// so again: next time it is not even asked.
    #[inline(never)]
    fn learn_ignored(&mut self) {
        let key = self.key_text();
        if let Some(memory) = &mut self.parser.memory
            && let Some(fields) = self.wanted
            && !fields.contains(&key)
        {
            memory.ignored(Reader::new(fields, self.owner));
        }
    }

    /// Who reads this object, if it is a struct.
    #[inline(always)]
    fn reader(&self) -> Option<Reader> {
        self.wanted.map(|fields| Reader::new(fields, self.owner))
    }

    /// Skips the value of the last key.
    #[inline(always)]
    fn skip_value(&mut self) -> Result<(), Error> {
        let position = self.parser.at;
        self.parser.skip_value().map_err(|error| error.or_at(position).in_field(self.key_text()))
    }

    /// The next binding that is wanted.
    fn next_bound(&mut self) -> Option<&'de (Str, &'de str)> {
        while let Some((binding, others)) = self.to_offer.split_first() {
            if self.wanted.is_none_or(|fields| fields.contains(&binding.0.as_str())) {
                return Some(binding);
            }
            self.to_offer = others;
        }
        None
    }

    /// The last key, as written.
    #[cold]
    fn key_text(&self) -> &'de str {
        let text = self.parser.text;
        let start = self.key + 1;
        let end = super::scan::string_stop(text.as_bytes(), start);
        &text[start..end]
    }
}

fn binds(bindings: &[(Str, &str)], name: &str) -> bool {
    bindings.iter().any(|(bound, _)| bound == name)
}

impl<'de> MapAccess<'de> for &mut Fields<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if self.topic == Topic::Offers {
            match self.next_bound() {
                Some((name, _)) => return seed.deserialize(Word(Chars::Borrowed(name))).map(Some),
                None => self.topic = Topic::Hides,
            }
        }
        loop {
            if self.parser.peek() == Some(b'}') && self.place != Place::Nowhere {
                self.parser.at += 1;
                self.parser.leave();
                self.place = Place::Nowhere;
                return Ok(None);
            }
            let Some((start, known)) = self.expected_key() else {
                return self.any_key(seed);
            };
            if known.ignored_by.is_some() && known.ignored_by == self.reader() {
                let position = self.parser.at;
                if let Err(error) = self.parser.skip_value() {
                    self.key = start + known.key.0 - 1;
                    return Err(error.or_at(position).in_field(self.key_text()));
                }
                continue;
            }
            self.key = start + known.key.0 - 1;
            // There may be more white space before the value than last time.
            self.parser.token();
            let name = &self.parser.text[start + known.key.0..start + known.key.1];
            if self.topic == Topic::Aside || !binds(self.parser.bindings, name) {
                return seed.deserialize(Word(Chars::Borrowed(name))).map(Some);
            }
            self.skip_value()?;
        }
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        if self.topic == Topic::Offers
            && let Some(((name, value), others)) = self.to_offer.split_first()
        {
            self.to_offer = others;
            return seed
                .deserialize(Word(Chars::Borrowed(value)))
                .map_err(|error| error.in_field(name).bound());
        }
        let position = self.parser.at;
        if type_name::<V>() == type_name::<PhantomData<IgnoredAny>>()
            && self.parser.memory.is_some()
        {
            self.learn_ignored();
        }
        seed.deserialize(&mut *self.parser)
            .map_err(|error| error.or_at(position).in_field(self.key_text()))
    }
}

/// The elements of an array.
pub(super) struct Elements<'p, 'de, 's> {
    parser: &'p mut Parser<'de, 's>,
    start: usize,
    /// Elements begun.
    count: usize,
    closed: bool,
}

impl<'p, 'de, 's> Elements<'p, 'de, 's> {
    /// Opens the array whose bracket is the next byte.
    #[inline]
    pub(super) fn open(parser: &'p mut Parser<'de, 's>) -> Result<Self, Error> {
        let start = parser.at;
        parser.enter()?;
        Ok(Self { parser, start, count: 0, closed: false })
    }

    #[cold]
    pub(super) fn position(&self) -> usize {
        self.start
    }

    /// The visitor is done: so must the array be.
    #[inline]
    pub(super) fn close(mut self) -> Result<(), Error> {
        if self.closed || !self.goes_on()? {
            return Ok(());
        }
        let what = format!("expected an array of {} elements, found more", self.count);
        Err(Error::new(thalweg_kernel::Cause::WrongType, what, Some(self.parser.at)))
    }

    /// Moves to the next element, if there is one; else leaves the array.
    #[inline]
    fn goes_on(&mut self) -> Result<bool, Error> {
        match self.parser.token() {
            Some(b']') => {
                self.parser.at += 1;
                self.parser.leave();
                self.closed = true;
                Ok(false)
            }
            Some(b',') if self.count > 0 => {
                self.parser.at += 1;
                match self.parser.token() {
                    Some(b']') => Err(self.parser.expected("an element after the comma")),
                    _ => Ok(true),
                }
            }
            _ if self.count > 0 => Err(self.parser.unseparated(false)),
            _ => Ok(true),
        }
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_element_seed<E: DeserializeSeed<'de>>(
        &mut self,
        seed: E,
    ) -> Result<Option<E::Value>, Error> {
        if self.closed || !self.goes_on()? {
            return Ok(None);
        }
        let position = self.parser.at;
        let element = seed
            .deserialize(&mut *self.parser)
            .map_err(|error| error.or_at(position).in_element(self.count))?;
        self.count += 1;
        Ok(Some(element))
    }
}

/// An enum: a variant's name alone, or an object with the variant as its only key.
pub(super) struct Variant<'p, 'de, 's> {
    parser: &'p mut Parser<'de, 's>,
    tagged: bool,
}

impl<'p, 'de, 's> Variant<'p, 'de, 's> {
    /// The string that is the next token.
    pub(super) fn unit(parser: &'p mut Parser<'de, 's>) -> Self {
        Self { parser, tagged: false }
    }

    /// Within an object whose brace was taken.
    pub(super) fn tagged(parser: &'p mut Parser<'de, 's>) -> Self {
        Self { parser, tagged: true }
    }

    #[cold]
    fn bare(&self, visitor: &dyn serde::de::Expected) -> Error {
        Error::invalid_type(Unexpected::UnitVariant, visitor)
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        if self.parser.token() != Some(b'"') {
            return Err(self.parser.expected("a variant's name in quotes"));
        }
        let name = seed.deserialize(Word(self.parser.string()?))?;
        if self.tagged {
            self.parser.colon()?;
        }
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.tagged { Deserialize::deserialize(self.parser) } else { Ok(()) }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        if self.tagged {
            seed.deserialize(self.parser)
        } else {
            Err(self.bare(&"a variant with a value"))
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        if self.tagged { self.parser.deserialize_seq(visitor) } else { Err(self.bare(&visitor)) }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.tagged {
            self.parser.deserialize_struct("", fields, visitor)
        } else {
            Err(self.bare(&visitor))
        }
    }
}

/// A word can only name a variant that has no value.
impl<'de> EnumAccess<'de> for Word<'de, '_> {
    type Error = Error;
    type Variant = NoValue;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, NoValue), Error> {
        Ok((seed.deserialize(self)?, NoValue))
    }
}

pub(super) struct NoValue;

impl<'de> VariantAccess<'de> for NoValue {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _seed: S) -> Result<S::Value, Error> {
        Err(Error::invalid_type(Unexpected::UnitVariant, &"a variant with a value"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        Err(Error::invalid_type(Unexpected::UnitVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error::invalid_type(Unexpected::UnitVariant, &visitor))
    }
}
