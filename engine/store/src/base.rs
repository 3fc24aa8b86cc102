//! The base: stored keys and their values, as of the folded epoch, in one B-tree that is read in place.
//!
//! LMDB's keys have 511 bytes at most. A key of up to [`SHORT_KEY_BYTES_MAX`] bytes is its own stored key. A
//! longer one is stored as its first 495 bytes and the 128-bit xxh3 of the whole: 511 bytes, which no short key
//! has. The whole key stands in the value, and is compared. Keys whose beginnings and hashes are both equal share
//! one stored key, as entries one after the other.
//!
//! # Order
//! Stored keys sort as whole keys do, but for long keys whose first 495 bytes are equal, which sort by hash. A
//! scan gathers such neighbours and sorts them. So scans and range deletes are exact for every range, whatever the
//! lengths of keys and bounds. A scan holds as many references in memory as there are long keys with one
//! beginning.

use std::collections::VecDeque;
use std::ops::Bound;

use heed::types::Bytes;
use heed::{PutFlags, RoRange, RoTxn, RwTxn};
use xxhash_rust::xxh3::xxh3_128;

use crate::StoreError;
use crate::envelope::{self, VALUE_HEADER_BYTES};
use crate::error::show_key;

pub(crate) type Db = heed::Database<Bytes, Bytes>;

/// A key of at most this many bytes is stored as it is.
pub(crate) const SHORT_KEY_BYTES_MAX: usize = 495;
/// The bytes of the stored key of a longer one.
const LONG_KEY_BYTES: usize = SHORT_KEY_BYTES_MAX + 16;

/// A key and its value.
pub(crate) type Entry<'t> = (&'t [u8], &'t [u8]);

fn is_long(stored: &[u8]) -> bool {
    stored.len() == LONG_KEY_BYTES
}

/// The key under which `key` is stored; `space` is where it is put together.
#[inline]
fn stored_key<'k>(key: &'k [u8], space: &'k mut [u8; LONG_KEY_BYTES]) -> &'k [u8] {
    if key.len() <= SHORT_KEY_BYTES_MAX {
        return key;
    }
    space[..SHORT_KEY_BYTES_MAX].copy_from_slice(&key[..SHORT_KEY_BYTES_MAX]);
    space[SHORT_KEY_BYTES_MAX..].copy_from_slice(&xxh3_128(key).to_be_bytes());
    space
}

#[cold]
fn damaged(key: &[u8], why: &str) -> StoreError {
    StoreError::Damaged(format!(
        "the stored value of {} is damaged: {why}; start from a savepoint, or from a copy of the state \
         directory",
        show_key(key)
    ))
}

#[cold]
fn unreadable(error: &heed::Error) -> StoreError {
    StoreError::lmdb("cannot read the state", error)
}

#[cold]
fn unwritable(error: &heed::Error) -> StoreError {
    StoreError::lmdb("cannot fold changes into the state", error)
}

/// Reads the base.
#[derive(Clone, Copy)]
pub(crate) struct Base(pub(crate) Db);

impl Base {
    /// The value of `key`, where it lies.
    #[inline]
    pub(crate) fn get<'t>(
        self,
        txn: &'t RoTxn,
        key: &[u8],
    ) -> Result<Option<&'t [u8]>, StoreError> {
        let mut space = [0; LONG_KEY_BYTES];
        let stored = stored_key(key, &mut space);
        let Some(value) = self.0.get(txn, stored).map_err(|error| unreadable(&error))? else {
            return Ok(None);
        };
        if !is_long(stored) {
            return envelope::open_value(key, value).map(Some).map_err(|why| damaged(key, &why));
        }
        let entries = Entries { stored, rest: value };
        for entry in entries {
            let (found, value) = entry?;
            if found == key {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The entries with keys from `from` on that are below `to`, in order.
    pub(crate) fn scan<'t>(
        self,
        txn: &'t RoTxn,
        from: &[u8],
        to: &[u8],
    ) -> Result<Scan<'t>, StoreError> {
        let range = stored_range(from, to);
        let (first, last) =
            (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
        let entries = if from < to {
            Some(self.0.range(txn, &(first, last)).map_err(|error| unreadable(&error))?)
        } else {
            None
        };
        Ok(Scan {
            entries,
            next: None,
            gathered: VecDeque::new(),
            from: from.to_vec(),
            to: to.to_vec(),
        })
    }
}

/// The stored keys among which the keys of a range are.
fn stored_range(from: &[u8], to: &[u8]) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let first = from[..from.len().min(SHORT_KEY_BYTES_MAX)].to_vec();
    let last = match to.split_at_checked(SHORT_KEY_BYTES_MAX) {
        Some((beginning, rest)) if !rest.is_empty() => {
            let mut last = beginning.to_vec();
            last.resize(LONG_KEY_BYTES, u8::MAX);
            Bound::Included(last)
        }
        _ => Bound::Excluded(to.to_vec()),
    };
    // LMDB knows no empty keys.
    let first = if first.is_empty() { Bound::Unbounded } else { Bound::Included(first) };
    (first, last)
}

/// The entries under one long stored key.
struct Entries<'s, 't> {
    stored: &'s [u8],
    rest: &'t [u8],
}

impl<'t> Iterator for Entries<'_, 't> {
    type Item = Result<Entry<'t>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = envelope::take_long(&mut self.rest);
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry.map_err(|why| damaged(self.stored, &why)))
    }
}

/// Entries in the order of their keys.
pub(crate) struct Scan<'t> {
    entries: Option<RoRange<'t, Bytes, Bytes>>,
    /// The stored entry behind those gathered.
    next: Option<Entry<'t>>,
    /// Long keys with one beginning, in order.
    gathered: VecDeque<Entry<'t>>,
    from: Vec<u8>,
    to: Vec<u8>,
}

impl<'t> Scan<'t> {
    fn stored(&mut self) -> Result<Option<Entry<'t>>, StoreError> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let next = self.entries.as_mut().and_then(Iterator::next);
        next.transpose().map_err(|error| unreadable(&error))
    }

    fn advance(&mut self) -> Result<Option<Entry<'t>>, StoreError> {
        loop {
            if let Some(entry) = self.gathered.pop_front() {
                return Ok(Some(entry));
            }
            let Some((stored, value)) = self.stored()? else { return Ok(None) };
            if !is_long(stored) {
                let value =
                    envelope::open_value(stored, value).map_err(|why| damaged(stored, &why))?;
                // Only a bound that was cut to a stored key lets others through.
                if stored < self.from.as_slice() {
                    continue;
                }
                return Ok(Some((stored, value)));
            }
            self.gather((stored, value))?;
        }
    }

    /// Gathers the long keys that begin as `first` does.
    #[cold]
    fn gather(&mut self, first: Entry<'t>) -> Result<(), StoreError> {
        let beginning = &first.0[..SHORT_KEY_BYTES_MAX];
        let mut gathered = Vec::new();
        let mut next = Some(first);
        while let Some((stored, value)) = next {
            if !is_long(stored) || !stored.starts_with(beginning) {
                break;
            }
            for entry in (Entries { stored, rest: value }) {
                let entry = entry?;
                if self.from.as_slice() <= entry.0 && entry.0 < self.to.as_slice() {
                    gathered.push(entry);
                }
            }
            next = self.stored()?;
        }
        self.next = next;
        gathered.sort_unstable_by_key(|entry| entry.0);
        self.gathered = gathered.into();
        Ok(())
    }
}

impl<'t> Iterator for Scan<'t> {
    type Item = Result<Entry<'t>, StoreError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Changes the base within one transaction.
pub(crate) struct BaseWriter {
    base: Base,
    /// No stored key is greater: what is, can be appended, which fills pages to the brim.
    greatest: Vec<u8>,
    value: Vec<u8>,
}

impl BaseWriter {
    pub(crate) fn new(base: Base, txn: &RoTxn) -> Result<Self, StoreError> {
        let last = base.0.last(txn).map_err(|error| unreadable(&error))?;
        let greatest = last.map(|(key, _)| key.to_vec()).unwrap_or_default();
        Ok(Self { base, greatest, value: Vec::new() })
    }

    /// Puts a value.
    pub(crate) fn put(
        &mut self,
        txn: &mut RwTxn,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        let mut space = [0; LONG_KEY_BYTES];
        let stored = stored_key(key, &mut space);
        self.value.clear();
        if is_long(stored) {
            self.others(txn, stored, key)?;
            envelope::write_long(key, value, &mut self.value);
        } else {
            self.value.reserve(VALUE_HEADER_BYTES + value.len());
            self.value.extend_from_slice(&envelope::value_header(key, value));
            self.value.extend_from_slice(value);
        }
        self.put_stored(txn, stored)
    }

    /// Puts what is in `self.value`.
    fn put_stored(&mut self, txn: &mut RwTxn, stored: &[u8]) -> Result<(), StoreError> {
        let appended = stored > self.greatest.as_slice();
        let flags = if appended { PutFlags::APPEND } else { PutFlags::empty() };
        let put = self.base.0.put_with_flags(txn, flags, stored, &self.value);
        put.map_err(|error| unwritable(&error))?;
        if appended {
            self.greatest.clear();
            self.greatest.extend_from_slice(stored);
        }
        Ok(())
    }

    /// Fills `self.value` with the entries under `stored` but that of `key`; whether that one was there.
    fn others(&mut self, txn: &RoTxn, stored: &[u8], key: &[u8]) -> Result<bool, StoreError> {
        self.value.clear();
        let value = self.base.0.get(txn, stored).map_err(|error| unreadable(&error))?;
        let mut was_there = false;
        for entry in (Entries { stored, rest: value.unwrap_or_default() }) {
            let (other, value) = entry?;
            if other == key {
                was_there = true;
            } else {
                envelope::write_long(other, value, &mut self.value);
            }
        }
        Ok(was_there)
    }

    /// Deletes a key, if it is there.
    pub(crate) fn delete(&mut self, txn: &mut RwTxn, key: &[u8]) -> Result<(), StoreError> {
        let mut space = [0; LONG_KEY_BYTES];
        let stored = stored_key(key, &mut space);
        if is_long(stored) {
            if !self.others(txn, stored, key)? {
                return Ok(());
            }
            if !self.value.is_empty() {
                return self.put_stored(txn, stored);
            }
        }
        self.base.0.delete(txn, stored).map(|_| ()).map_err(|error| unwritable(&error))
    }

    /// Deletes the keys from `from` on that are below `to`, at most `entries_max` of them, counted down;
    /// whether all are gone now.
    pub(crate) fn delete_range(
        &mut self,
        txn: &mut RwTxn,
        from: &[u8],
        to: &[u8],
        entries_max: &mut usize,
    ) -> Result<bool, StoreError> {
        if from >= to {
            return Ok(true);
        }
        if from.len().max(to.len()) > SHORT_KEY_BYTES_MAX {
            return self.delete_each(txn, from, to, entries_max);
        }
        // Where to stop: at the first stored key that does not go any more.
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut stored = self.base.0.range(txn, &range).map_err(|error| unreadable(&error))?;
        let end = stored.nth(*entries_max).transpose().map_err(|error| unreadable(&error))?;
        let end = end.map(|(key, _)| key.to_vec());
        drop(stored);
        let last = end.as_deref().unwrap_or(to);
        let range = (Bound::Included(from), Bound::Excluded(last));
        let gone = self.base.0.delete_range(txn, &range).map_err(|error| unwritable(&error))?;
        *entries_max = entries_max.saturating_sub(gone);
        Ok(end.is_none())
    }

    /// The keys of a range one by one, for bounds that are no stored keys.
    #[cold]
    fn delete_each(
        &mut self,
        txn: &mut RwTxn,
        from: &[u8],
        to: &[u8],
        entries_max: &mut usize,
    ) -> Result<bool, StoreError> {
        let mut keys = Vec::new();
        for entry in self.base.scan(txn, from, to)?.take(entries_max.saturating_add(1)) {
            keys.push(entry?.0.to_vec());
        }
        let complete = keys.len() <= *entries_max;
        keys.truncate(*entries_max);
        *entries_max -= keys.len();
        for key in keys {
            self.delete(txn, &key)?;
        }
        Ok(complete)
    }
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
