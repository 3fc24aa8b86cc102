//! Objects, arrays and enums as serde walks through them.

use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde::{Deserialize, Deserializer};
use thalweg_kernel::Str;

use super::de::Word;
use super::error::Error;
use super::parser::{Chars, Parser};

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
    /// Bindings not yet offered; empty but in the outermost object.
    to_offer: &'de [(Str, &'de str)],
    outermost: bool,
    /// The fields of the struct; `None` for a map, which takes all.
    wanted: Option<&'static [&'static str]>,
    /// The binding whose key was given last.
    bound: Option<&'de (Str, &'de str)>,
    /// Where the last key's quote is.
    key: usize,
    first: bool,
    closed: bool,
}

impl<'p, 'de, 's> Fields<'p, 'de, 's> {
    /// Opens the object whose brace is the next byte.
    #[inline]
    pub(super) fn open(
        parser: &'p mut Parser<'de, 's>,
        wanted: Option<&'static [&'static str]>,
    ) -> Result<Self, Error> {
        let outermost = parser.outermost() && !parser.bindings.is_empty();
        let to_offer = if outermost { parser.bindings } else { &[] };
        let key = parser.at;
        parser.enter()?;
        let (bound, first, closed) = (None, true, false);
        Ok(Self { parser, to_offer, outermost, wanted, bound, key, first, closed })
    }

    /// Where an error belongs that has no position: the end of a finished object, where it lacks
    /// something, or the last key.
    #[cold]
    pub(super) fn position(&self) -> usize {
        if self.closed { self.parser.at - 1 } else { self.key }
    }

    /// The visitor is done: so must the object be.
    #[inline]
    pub(super) fn close(mut self) -> Result<(), Error> {
        if self.closed || !self.goes_on()? {
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
                self.closed = true;
                return Ok(false);
            }
            Some(b',') if !self.first => {
                self.parser.at += 1;
                self.parser.token();
            }
            _ if !self.first => return Err(self.parser.unseparated(true)),
            _ => self.first = false,
        }
        if self.parser.peek() == Some(b'"') {
            return Ok(true);
        }
        Err(self.parser.expected("a key in quotes"))
    }

    /// The next binding that is wanted.
    fn next_bound(&mut self) -> Option<&'de (Str, &'de str)> {
        while let Some((binding, others)) = self.to_offer.split_first() {
            self.to_offer = others;
            if self.wanted.is_none_or(|fields| fields.contains(&binding.0.as_str())) {
                return Some(binding);
            }
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

impl<'de> MapAccess<'de> for &mut Fields<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if !self.to_offer.is_empty() {
            self.bound = self.next_bound();
            if let Some((name, _)) = self.bound {
                return seed.deserialize(Word(Chars::Borrowed(name))).map(Some);
            }
        }
        self.bound = None;
        loop {
            if self.closed || !self.goes_on()? {
                return Ok(None);
            }
            self.key = self.parser.at;
            let outermost = self.outermost;
            let bindings = self.parser.bindings;
            let key = self.parser.string()?;
            if outermost && bindings.iter().any(|(name, _)| name == key.as_str()) {
                self.parser.colon()?;
                self.parser.skip_value()?;
                continue;
            }
            let key = seed.deserialize(Word(key))?;
            self.parser.colon()?;
            return Ok(Some(key));
        }
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        if let Some((name, value)) = self.bound {
            return seed
                .deserialize(Word(Chars::Borrowed(value)))
                .map_err(|error| error.in_field(name).bound());
        }
        self.parser.token();
        let position = self.parser.at;
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
