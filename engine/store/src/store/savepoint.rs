//! Savepoints: one file that holds the state of a job as of one epoch and describes itself.
//!
//! ```text
//! file    = header block* index footer
//! header  = "TWSAVE\r\n" u16:version(2) u16:0 u32:length u32:crc json      the epoch's record
//! block   = u32:length u32:crc entry*                                     at most 64 KiB, or one entry
//! entry   = u16:key-length u32:value-length key value
//! index   = section*
//! section = u64:state u16:group u64:offset u64:entries u64:bytes           34 bytes
//! footer  = u64:index-offset u64:sections u64:entries u64:bytes u32:index-crc u32:crc "\nTWSAVED"
//! ```
//! Numbers are little-endian. Entries are in the order of their stored keys: by state, by key group, by key. Each
//! state's key group begins a section, and a section a block, so that one can be looked into without reading the
//! others. Checksums are CRC32C. They cover the header's bytes but the checksum itself, a block's length and
//! entries, the index, and the footer before its checksum. Sections follow each other without gaps, so a reader
//! that has read them all has seen every byte.
//!
//! A savepoint is written beside its name, synced, and renamed: under its name it is whole. Versions 1 and 2
//! will be readable for ever; a newer one is refused by name. Version 2 has maps and lists entry by entry, and
//! layouts of states, in its record.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};
use thalweg_kernel::StateId;

use crate::base::BaseWriter;
use crate::lock::sync_dir;
use crate::record::Meta;
use crate::store::commit;
use crate::tables::json;
use crate::view::View;
use crate::{EpochRecord, StateSummary, Store, StoreError};

const MAGIC: [u8; 8] = *b"TWSAVE\r\n";
const END_MAGIC: [u8; 8] = *b"\nTWSAVED";
const VERSION: u16 = 2;
const HEADER_BYTES: usize = 20;
const SECTION_BYTES: usize = 34;
const FOOTER_BYTES: usize = 48;
/// A block is closed when it has this much.
const BLOCK_BYTES: usize = 64 << 10;
/// What a length in a damaged file may claim.
const RECORD_BYTES_MAX: usize = 64 << 20;
const SECTIONS_BYTES_MAX: u64 = 1 << 30;
/// Entries that one transaction of an import takes.
const IMPORT_ENTRIES: usize = 16_384;

/// The entries of one key group of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    state: u64,
    group: u16,
    offset: u64,
    entries: u64,
    bytes: u64,
}

impl Section {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.state.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        for number in [self.offset, self.entries, self.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        let state = u64_le(&mut bytes)?;
        let (group, rest) = bytes.split_first_chunk()?;
        bytes = rest;
        let group = u16::from_le_bytes(*group);
        let (offset, entries) = (u64_le(&mut bytes)?, u64_le(&mut bytes)?);
        Some(Self { state, group, offset, entries, bytes: u64_le(&mut bytes)? })
    }
}

fn u64_le(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Writes a savepoint of what `view` shows.
pub(crate) fn write(record: &EpochRecord, view: &View, to: &Path) -> Result<(), StoreError> {
    let failed =
        |error: &std::io::Error| match StoreError::io("cannot write the savepoint", to, error) {
            // The state itself is as it was.
            StoreError::Failed(text) => StoreError::Refused(text),
            other => other,
        };
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let (parent, Some(name)) = (parent.unwrap_or(Path::new(".")), to.file_name()) else {
        return Err(StoreError::Refused(format!("{} is no name of a file", to.display())));
    };
    // A savepoint may be written anew; nobody's other file is worth less.
    let is_other = |mut file: File| {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).is_err() || magic != MAGIC
    };
    if File::open(to).is_ok_and(is_other) {
        let to = to.display();
        return Err(StoreError::Refused(format!(
            "{to} is there and is no savepoint: name another file"
        )));
    }
    let beside = parent.join(format!(".{}.part", name.to_string_lossy()));
    let written = (|| {
        let file = File::create(&beside).map_err(|error| failed(&error))?;
        let mut writer = Writer::begin(BufWriter::new(file), record).map_err(|e| failed(&e))?;
        view.scan(&[], None, |key, value| {
            writer.entry(key, value).map_err(|error| failed(&error))
        })?;
        let file = writer.end().map_err(|error| failed(&error))?;
        file.sync_all().map_err(|error| failed(&error))?;
        fs::rename(&beside, to).map_err(|error| failed(&error))?;
        sync_dir(parent)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Writes the parts one after the other.
struct Writer {
    file: BufWriter<File>,
    at: u64,
    block: Vec<u8>,
    sections: Vec<Section>,
}

impl Writer {
    fn begin(mut file: BufWriter<File>, record: &EpochRecord) -> std::io::Result<Self> {
        let json = json(record).map_err(std::io::Error::other)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 2]);
        header.extend_from_slice(&(json.len() as u32).to_le_bytes());
        let crc = crc32c_append(crc32c(&header), &json);
        header.extend_from_slice(&crc.to_le_bytes());
        file.write_all(&header)?;
        file.write_all(&json)?;
        let at = (header.len() + json.len()) as u64;
        Ok(Self { file, at, block: Vec::new(), sections: Vec::new() })
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        let (state, group) = place(key);
        if self.sections.last().is_none_or(|last| (last.state, last.group) != (state, group)) {
            self.close_block()?;
            self.sections.push(Section { state, group, offset: self.at, entries: 0, bytes: 0 });
        } else if self.block.len() + key.len() + value.len() > BLOCK_BYTES {
            self.close_block()?;
        }
        if let Some(section) = self.sections.last_mut() {
            section.entries += 1;
            section.bytes += (key.len() + value.len()) as u64;
        }
        self.block.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        Ok(())
    }

    fn close_block(&mut self) -> std::io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = (self.block.len() as u32).to_le_bytes();
        let crc = crc32c_append(crc32c(&length), &self.block);
        self.file.write_all(&length)?;
        self.file.write_all(&crc.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.at += 8 + self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    fn end(mut self) -> std::io::Result<File> {
        self.close_block()?;
        let mut index = Vec::new();
        self.sections.iter().for_each(|section| section.write(&mut index));
        let total = |of: fn(&Section) -> u64| self.sections.iter().map(of).sum::<u64>();
        let mut footer = Vec::new();
        let entries = total(|section| section.entries);
        let bytes = total(|section| section.bytes);
        for number in [self.at, self.sections.len() as u64, entries, bytes] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        footer.extend_from_slice(&crc32c(&index).to_le_bytes());
        footer.extend_from_slice(&crc32c(&footer).to_le_bytes());
        footer.extend_from_slice(&END_MAGIC);
        self.file.write_all(&index)?;
        self.file.write_all(&footer)?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

/// The state and group of a stored key.
fn place(key: &[u8]) -> (u64, u16) {
    let state = key.first_chunk().map_or(0, |state| u64::from_be_bytes(*state));
    (state, StateId::split_key(key).map_or(0, |(group, _)| group))
}

/// A savepoint that is open for reading. What is read is checked.
pub struct Savepoint {
    file: BufReader<File>,
    path: PathBuf,
    record: EpochRecord,
    sections: Vec<Section>,
    index_offset: u64,
}

impl Savepoint {
    /// Opens a savepoint and checks header, index and footer; blocks are checked when they are read.
    ///
    /// # Errors
    /// [`Refused`](StoreError::Refused) if it is none, or of a newer version; `Damaged`, `Failed`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: &std::io::Error| {
            StoreError::Refused(format!("cannot read the savepoint {}: {error}", path.display()))
        };
        let damaged = |what: &str| damaged(path, what);
        let mut file = BufReader::new(File::open(path).map_err(|error| failed(&error))?);
        let length = file.seek(SeekFrom::End(0)).map_err(|error| failed(&error))?;
        if length < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(damaged("it is too short"));
        }
        let mut header = [0; HEADER_BYTES];
        read_at(&mut file, 0, &mut header).map_err(|error| failed(&error))?;
        if header[..8] != MAGIC {
            return Err(StoreError::Refused(format!("{} is no savepoint", path.display())));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version > VERSION {
            return Err(StoreError::Refused(format!(
                "the savepoint {} has format {version}, this version of Thalweg knows {VERSION} at most: \
                 use the version that wrote it, or a later one",
                path.display()
            )));
        }
        let json_length = u32_le(&header, 12) as usize;
        let blocks_offset = (HEADER_BYTES + json_length) as u64;
        let index_end = length - FOOTER_BYTES as u64;
        if json_length > RECORD_BYTES_MAX || blocks_offset > index_end {
            return Err(damaged("its header"));
        }
        let mut json = vec![0; json_length];
        file.read_exact(&mut json).map_err(|error| failed(&error))?;
        if crc32c_append(crc32c(&header[..16]), &json) != u32_le(&header, 16) {
            return Err(damaged("its header"));
        }
        let record: EpochRecord = serde_json::from_slice(&json)
            .map_err(|error| damaged(&format!("its record ({error})")))?;

        let mut footer = [0; FOOTER_BYTES];
        read_at(&mut file, index_end, &mut footer).map_err(|error| failed(&error))?;
        if footer[40..] != END_MAGIC || crc32c(&footer[..36]) != u32_le(&footer, 36) {
            return Err(damaged("its footer"));
        }
        let mut numbers = &footer[..32];
        let mut number = || u64_le(&mut numbers).unwrap_or_default();
        let (index_offset, count, entries, bytes) = (number(), number(), number(), number());
        let index_bytes = count.saturating_mul(SECTION_BYTES as u64);
        if index_offset.checked_add(index_bytes) != Some(index_end)
            || index_bytes > SECTIONS_BYTES_MAX
        {
            return Err(damaged("its footer"));
        }
        let mut index = vec![0; index_bytes as usize];
        read_at(&mut file, index_offset, &mut index).map_err(|error| failed(&error))?;
        if crc32c(&index) != u32_le(&footer, 32) {
            return Err(damaged("its index"));
        }
        let sections: Vec<_> = index.chunks(SECTION_BYTES).filter_map(Section::read).collect();
        let offsets = sections.iter().map(|section| section.offset).chain([index_offset]);
        let total = |of: fn(&Section) -> u64| sections.iter().map(of).sum::<u64>();
        let begins = sections.first().map_or(index_offset, |section| section.offset);
        if begins != blocks_offset
            || !offsets.is_sorted()
            || (total(|s| s.entries), total(|s| s.bytes)) != (entries, bytes)
        {
            return Err(damaged("its index"));
        }
        Ok(Self { file, path: path.to_owned(), record, sections, index_offset })
    }

    /// The record of its epoch.
    pub fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// Its states: all states of the job, also empty ones, and others that have entries.
    pub fn states(&self) -> Vec<StateSummary> {
        let mut counts = BTreeMap::new();
        for section in &self.sections {
            let (entries, bytes) = counts.entry(section.state).or_insert((0, 0));
            *entries += section.entries;
            *bytes += section.bytes;
        }
        crate::inspect::summaries(&self.record.states, counts)
    }

    /// Reads everything and checks it.
    ///
    /// # Errors
    /// [`Damaged`](StoreError::Damaged), `Failed`.
    pub fn verify(&mut self) -> Result<(), StoreError> {
        self.each(|_| true, |_, _| Ok(()))
    }

    /// Gives `each` the entries of a state, in order of their stored keys, whose own key (behind state
    /// and group) begins with `prefix`.
    ///
    /// # Errors
    /// `Damaged`, `Failed`, and the errors of `each`.
    pub fn entries(
        &mut self,
        state: StateId,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let found = |key: &[u8], value: &[u8]| match StateId::split_key(key) {
            Some((_, rest)) if rest.starts_with(prefix) => each(key, value),
            _ => Ok(()),
        };
        self.each(|section| section.state == state.number(), found)
    }

    /// Gives `each` the entries of the sections that are wanted.
    fn each(
        &mut self,
        wanted: impl Fn(&Section) -> bool,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let ends = self.sections.iter().skip(1).map(|section| section.offset);
        let ends: Vec<_> = ends.chain([self.index_offset]).collect();
        let sections = self.sections.clone();
        for (section, end) in sections.iter().zip(ends).filter(|(section, _)| wanted(section)) {
            let (mut at, mut entries, mut bytes) = (section.offset, 0, 0);
            while at < end {
                let block = self.block(at, end)?;
                at += 8 + block.len() as u64;
                let mut rest = &block[..];
                while !rest.is_empty() {
                    let entry = take_entry(&mut rest)
                        .filter(|(key, _)| place(key) == (section.state, section.group));
                    let (key, value) = entry.ok_or_else(|| damaged(&self.path, "a block"))?;
                    entries += 1;
                    bytes += (key.len() + value.len()) as u64;
                    each(key, value)?;
                }
            }
            if (entries, bytes) != (section.entries, section.bytes) {
                return Err(damaged(&self.path, "a section"));
            }
        }
        Ok(())
    }

    /// The block at `at`, which lies before `end`.
    fn block(&mut self, at: u64, end: u64) -> Result<Vec<u8>, StoreError> {
        let failed = |error: &std::io::Error| {
            StoreError::Refused(format!(
                "cannot read the savepoint {}: {error}",
                self.path.display()
            ))
        };
        let damaged = || damaged(&self.path, &format!("the block at byte {at}"));
        let mut header = [0; 8];
        if end - at < 8 {
            return Err(damaged());
        }
        read_at(&mut self.file, at, &mut header).map_err(|error| failed(&error))?;
        let length = u32_le(&header, 0);
        if u64::from(length) > end - at - 8 {
            return Err(damaged());
        }
        let mut block = vec![0; length as usize];
        self.file.read_exact(&mut block).map_err(|error| failed(&error))?;
        if crc32c_append(crc32c(&header[..4]), &block) != u32_le(&header, 4) {
            return Err(damaged());
        }
        Ok(block)
    }
}

#[cold]
fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged(format!(
        "the savepoint {} is damaged: {what}; use another one, or a copy of it",
        path.display()
    ))
}

fn read_at(file: &mut BufReader<File>, at: u64, out: &mut [u8]) -> std::io::Result<()> {
    let here = file.stream_position()?;
    // Relative, so that what is buffered stays of use when reading on.
    file.seek_relative(at as i64 - here as i64)?;
    file.read_exact(out)
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (header, behind) = rest.split_first_chunk::<6>()?;
    let key_length = u16::from_le_bytes([header[0], header[1]]);
    let (key, behind) = behind.split_at_checked(key_length.into())?;
    let (value, behind) = behind.split_at_checked(u32_le(header, 2) as usize)?;
    *rest = behind;
    Some((key, value))
}

/// Fills an empty store, or one that an import was cut short in. Until the last transaction nothing can be
/// resumed from it.
pub(crate) fn import(store: &mut Store, from: &mut Savepoint) -> Result<(), StoreError> {
    let epoch = from.record.epoch;
    let mut record = from.record.clone();
    record.oldest = epoch;
    let importing = Meta { importing: true, folding: epoch, ..store.meta.clone() };
    store.make_room(256 * store.page_bytes())?;
    let mut txn = store.write_txn()?;
    let failed = |error| StoreError::lmdb("cannot empty the state directory", &error);
    store.tables.base.0.clear(&mut txn).map_err(failed)?;
    store.tables.put_meta(&mut txn, &importing)?;
    commit(txn)?;

    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    from.each(
        |_| true,
        |key, value| {
            bytes += key.len() + value.len();
            entries.push((key.to_vec(), value.to_vec()));
            if entries.len() == IMPORT_ENTRIES || bytes > 4 << 20 {
                bytes = 0;
                put_all(store, &mut entries)?;
            }
            Ok(())
        },
    )?;
    put_all(store, &mut entries)?;

    let mut txn = store.write_txn()?;
    store.tables.put_epoch(&mut txn, &record, &[])?;
    let parent = Some((record.directory.clone(), epoch)).filter(|(id, _)| !id.is_empty());
    let meta = Meta { importing: false, folded: epoch, parent, ..importing };
    store.tables.put_meta(&mut txn, &meta)?;
    commit(txn)
}

fn put_all(store: &mut Store, entries: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
    let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    store.make_room(2 * bytes as u64 + 256 * store.page_bytes())?;
    let mut txn = store.write_txn()?;
    let mut writer = BaseWriter::new(store.tables.base, &txn)?;
    for (key, value) in entries.drain(..) {
        writer.put(&mut txn, &key, &value)?;
    }
    commit(txn)
}
