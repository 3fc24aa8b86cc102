//! [`Tables`]: the databases of a state directory and what their keys and values are.
//!
//! ```text
//! base    key -> value, see the module `base`
//! epochs  u64:epoch u32:part -> block; part 0 is the epoch's record (JSON), part n the n-th block of changes
//! meta    "meta" -> block of JSON: format, folded and folding epoch
//! ```
//! Numbers in keys are big-endian, so that they sort. Records stand beside the changes, not in a database
//! of their own: committing an epoch then rewrites the path to one leaf, not to two.

use std::io::Write as _;
use std::ops::Bound;

use heed::types::Bytes;
use heed::{RoTxn, RwTxn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thalweg_kernel::Epoch;

use crate::base::{Base, Db};
use crate::env::Env;
use crate::envelope::{self, BLOCK_HEADER_BYTES};
use crate::record::{EpochRecord, FORMAT, Meta};
use crate::{EpochInfo, StoreError};

const META_KEY: &[u8] = b"meta";

/// The key of a part of an epoch.
pub(crate) type PartKey = [u8; 12];

pub(crate) fn part_key(epoch: Epoch, part: u32) -> PartKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&epoch.number().to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

fn split_part_key(key: &[u8]) -> Option<(Epoch, u32)> {
    let (epoch, part) = key.split_first_chunk::<8>()?;
    let part = u32::from_be_bytes(part.try_into().ok()?);
    Some((Epoch::new(u64::from_be_bytes(*epoch)), part))
}

/// A block as it is stored.
#[derive(Clone, Copy)]
pub(crate) struct StoredBlock<'t> {
    key: &'t [u8],
    stored: &'t [u8],
}

impl<'t> StoredBlock<'t> {
    /// Its bytes, unchecked.
    pub(crate) fn bytes(self) -> &'t [u8] {
        envelope::block_bytes(self.stored)
    }

    /// Its bytes, if they are what was written.
    pub(crate) fn check(self) -> Result<&'t [u8], StoreError> {
        envelope::open_block(self.key, self.stored).map_err(|why| damaged(&self.place(), &why))
    }

    /// Where it stands, for people.
    pub(crate) fn place(self) -> String {
        match split_part_key(self.key) {
            Some((epoch, 0)) => format!("the record of epoch {epoch}"),
            Some((epoch, part)) => format!("block {part} of the changes of epoch {epoch}"),
            None => "an entry of the changelog".to_owned(),
        }
    }
}

#[cold]
pub(crate) fn damaged(place: &str, why: &str) -> StoreError {
    StoreError::Damaged(format!(
        "{place} is damaged: {why}; start from an older epoch, if one is kept, from a savepoint, or from \
         a copy of the state directory"
    ))
}

#[cold]
fn unreadable(error: &heed::Error) -> StoreError {
    StoreError::lmdb("cannot read the state directory", error)
}

#[cold]
fn unwritable(error: &heed::Error) -> StoreError {
    StoreError::lmdb("cannot write an epoch", error)
}

/// The databases of a state directory.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) base: Base,
    epochs: Db,
    meta: Db,
}

impl Tables {
    /// Opens them, and makes those that do not exist.
    pub(crate) fn create(env: &Env, txn: &mut RwTxn) -> Result<Self, StoreError> {
        let mut create = |name| {
            let created = env.create_database::<Bytes, Bytes>(txn, Some(name));
            created.map_err(|error| StoreError::lmdb("cannot prepare the state directory", &error))
        };
        Ok(Self { base: Base(create("base")?), epochs: create("epochs")?, meta: create("meta")? })
    }

    /// Opens them; `None` if they do not exist. `txn` must be committed, for LMDB to keep them open.
    pub(crate) fn open(env: &Env, txn: &RoTxn) -> Result<Option<Self>, StoreError> {
        let open = |name| {
            let opened = env.open_database::<Bytes, Bytes>(txn, Some(name));
            opened.map_err(|error| unreadable(&error))
        };
        let (base, epochs, meta) = (open("base")?, open("epochs")?, open("meta")?);
        Ok(base.zip(epochs).zip(meta).map(|((base, epochs), meta)| Self {
            base: Base(base),
            epochs,
            meta,
        }))
    }

    /// What the store noted about itself; `None` in a new directory.
    pub(crate) fn meta(&self, txn: &RoTxn) -> Result<Option<Meta>, StoreError> {
        let place = "the meta record of the state directory";
        let stored = self.meta.get(txn, META_KEY).map_err(|error| unreadable(&error))?;
        let Some(stored) = stored else { return Ok(None) };
        let meta: Meta = read_json(META_KEY, stored, place)?;
        if meta.format > FORMAT {
            return Err(StoreError::Refused(format!(
                "the state directory has format {}, this version of Thalweg knows {FORMAT} at most: use \
                 the version that wrote it, or start from a savepoint",
                meta.format
            )));
        }
        Ok(Some(meta))
    }

    pub(crate) fn put_meta(&self, txn: &mut RwTxn, meta: &Meta) -> Result<(), StoreError> {
        put_block(self.meta, txn, META_KEY, &json(meta)?)
    }

    /// The epochs that have left anything, in order.
    pub(crate) fn epochs(&self, txn: &RoTxn) -> Result<Vec<EpochInfo>, StoreError> {
        let mut epochs: Vec<EpochInfo> = Vec::new();
        for part in self.epochs.iter(txn).map_err(|error| unreadable(&error))? {
            let (key, stored) = part.map_err(|error| unreadable(&error))?;
            let Some((epoch, part)) = split_part_key(key) else {
                return Err(damaged("a key of the changelog", "it is no epoch's"));
            };
            if epochs.last().is_none_or(|last| last.epoch != epoch) {
                epochs.push(EpochInfo { epoch, recorded: false, blocks: 0, bytes: 0 });
            }
            if let Some(info) = epochs.last_mut() {
                info.recorded |= part == 0;
                info.blocks += u32::from(part > 0);
                info.bytes += stored.len() as u64;
            }
        }
        Ok(epochs)
    }

    /// The record of an epoch, if it has one.
    pub(crate) fn record(
        &self,
        txn: &RoTxn,
        epoch: Epoch,
    ) -> Result<Option<EpochRecord>, StoreError> {
        let key = part_key(epoch, 0);
        let stored = self.epochs.get(txn, &key).map_err(|error| unreadable(&error))?;
        let place = || format!("the record of epoch {epoch}");
        stored.map(|stored| read_json(&key, stored, &place())).transpose()
    }

    /// The blocks of changes of the epochs behind `after`, up to `to`, in order.
    pub(crate) fn blocks<'t>(
        &self,
        txn: &'t RoTxn,
        after: Epoch,
        to: Epoch,
    ) -> Result<Vec<StoredBlock<'t>>, StoreError> {
        let (first, last) = (part_key(after.next(), 0), part_key(to, u32::MAX));
        let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
        let mut blocks = Vec::new();
        for part in self.epochs.range(txn, &range).map_err(|error| unreadable(&error))? {
            let (key, stored) = part.map_err(|error| unreadable(&error))?;
            if !key.ends_with(&[0; 4]) {
                blocks.push(StoredBlock { key, stored });
            }
        }
        Ok(blocks)
    }

    /// Writes an epoch.
    pub(crate) fn put_epoch(
        &self,
        txn: &mut RwTxn,
        record: &EpochRecord,
        blocks: &[&[u8]],
    ) -> Result<u64, StoreError> {
        let record_bytes = json(record)?;
        put_block(self.epochs, txn, &part_key(record.epoch, 0), &record_bytes)?;
        let mut bytes = (BLOCK_HEADER_BYTES + record_bytes.len()) as u64;
        let filled = blocks.iter().filter(|block| !block.is_empty());
        for (part, block) in (1..).zip(filled) {
            put_block(self.epochs, txn, &part_key(record.epoch, part), block)?;
            bytes += (BLOCK_HEADER_BYTES + block.len()) as u64;
        }
        Ok(bytes)
    }

    /// Deletes the parts from `from` on that are below `to`.
    pub(crate) fn delete_parts(
        &self,
        txn: &mut RwTxn,
        from: PartKey,
        to: Bound<PartKey>,
    ) -> Result<(), StoreError> {
        let to = to.as_ref().map(<[u8; 12]>::as_slice);
        let deleted = self.epochs.delete_range(txn, &(Bound::Included(&from[..]), to));
        deleted.map(|_| ()).map_err(|error| unwritable(&error))
    }
}

/// Puts bytes in their envelope, straight into their page.
fn put_block(table: Db, txn: &mut RwTxn, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
    let header = envelope::block_header(key, bytes);
    let put = table.put_reserved(txn, key, header.len() + bytes.len(), |space| {
        space.write_all(&header)?;
        space.write_all(bytes)
    });
    put.map_err(|error| unwritable(&error))
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::Refused(format!("the record cannot be written: {error}")))
}

fn read_json<T: DeserializeOwned>(key: &[u8], stored: &[u8], place: &str) -> Result<T, StoreError> {
    let bytes = envelope::open_block(key, stored).map_err(|why| damaged(place, &why))?;
    serde_json::from_slice(bytes).map_err(|error| damaged(place, &error.to_string()))
}
