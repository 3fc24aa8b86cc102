//! Looking into journals that may be open elsewhere: what is there, what it holds, whether it is whole.
//! Read-only and without lock. What a writer adds meanwhile may be seen or not; what it trims meanwhile
//! is left out.

use std::fs;
use std::path::Path;

use thalweg_kernel::{JournalError, Timestamp};

use crate::config::Backend;
use crate::disk::Disk;
use crate::errors::{damaged_at, failed};
use crate::files::FileDisk;
use crate::format::{HEADER_BYTES, Header, decode_record, segment_name};
use crate::name::{directory_of, name_of};
use crate::reader::{Reader, end_of};
use crate::scan::Tail;
use crate::segments::{firsts, headers, read_segment, was_trimmed};

/// One journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalInfo {
    /// Its name.
    pub name: String,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentInfo>,
}

impl JournalInfo {
    /// The position of the oldest record kept.
    pub fn first(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.first)
    }

    /// The position behind the last record; the last group may be one that is not durable yet.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.end)
    }

    /// What the segments take on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// One segment of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its file.
    pub file: String,
    /// The position of its first record.
    pub first: u64,
    /// The position behind its last record.
    pub end: u64,
    /// When its earliest and its latest record were received; `None` where it has no record.
    pub times: Option<(Timestamp, Timestamp)>,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// Of these, what is in use, header included.
    pub used_bytes: u64,
    /// Bytes of a torn group behind its last record, which opening will cut.
    pub torn_bytes: u64,
    /// The first damage in it, with what to do.
    pub damage: Option<String>,
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The position of the oldest record kept.
    pub first: u64,
    /// The position behind the last valid record before any damage.
    pub end: u64,
    /// Valid records before any damage.
    pub records: u64,
    /// Bytes of a torn group at the end, which opening will cut. Not a damage.
    pub torn_bytes: u64,
    /// The first damage, with file, offset, position and what to do.
    pub damage: Option<String>,
}

/// The names of the journals below `place`, sorted.
///
/// # Errors
/// If the directory cannot be read.
pub fn names(place: &Path) -> Result<Vec<String>, JournalError> {
    let unreadable = |error: std::io::Error| {
        JournalError::Failed(format!(
            "journals below {} cannot be listed: {error}",
            place.display()
        ))
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(place).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().map_err(unreadable)?.is_dir()
            && let Some(name) = entry.file_name().to_str().and_then(name_of)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// All journals below `place` with their segments, sorted by name. Reads everything once.
///
/// # Errors
/// If a directory cannot be read. Damage in a segment is part of the answer; damage in a header, which
/// tells what a file is, ends it.
pub fn list(place: &Path) -> Result<Vec<JournalInfo>, JournalError> {
    let names = names(place)?;
    names.into_iter().map(|name| describe(&mut disk(place, &name)?, &name)).collect()
}

/// One journal below `place` with its segments.
///
/// # Errors
/// As for [`list`].
pub fn segments(place: &Path, name: &str) -> Result<JournalInfo, JournalError> {
    describe(&mut disk(place, name)?, name)
}

/// Reads a journal below `place` from position `from` on, or, where there is none, from the oldest record.
///
/// # Errors
/// If its last segment is damaged, or `from` is trimmed or does not exist.
pub fn read(place: &Path, name: &str, from: Option<u64>) -> Result<Reader<FileDisk>, JournalError> {
    let mut disk = disk(place, name)?;
    let end = end_of(&mut disk, name)?.0;
    let from = match from {
        Some(from) => from,
        None => firsts(&mut disk, name)?.first().copied().unwrap_or(0),
    };
    Reader::new(disk, name, from, end)
}

/// Reads a journal below `place` from the first record on that was received at `time` or later.
///
/// # Errors
/// If it is damaged.
pub fn read_from_time(
    place: &Path,
    name: &str,
    time: Timestamp,
) -> Result<Reader<FileDisk>, JournalError> {
    let mut disk = disk(place, name)?;
    let end = end_of(&mut disk, name)?.0;
    Reader::from_time(disk, name, time, end)
}

/// Reads everything of a journal below `place` and reports the first damage.
///
/// # Errors
/// If it cannot be read at all.
pub fn verify(place: &Path, name: &str) -> Result<Verified, JournalError> {
    verify_disk(&mut disk(place, name)?, name)
}

/// [`verify`] on any disk.
///
/// # Errors
/// If it cannot be read at all.
pub fn verify_disk<D: Disk>(disk: &mut D, name: &str) -> Result<Verified, JournalError> {
    let mut verified = Verified { first: 0, end: 0, records: 0, torn_bytes: 0, damage: None };
    let info = match describe(disk, name) {
        Ok(info) => info,
        Err(JournalError::Damaged(damage)) => {
            verified.damage = Some(damage);
            return Ok(verified);
        }
        Err(error) => return Err(error),
    };
    verified.first = info.first();
    verified.end = info.first();
    for segment in &info.segments {
        verified.records += segment.end - segment.first;
        verified.end = segment.end;
        verified.torn_bytes = segment.torn_bytes;
        verified.damage.clone_from(&segment.damage);
        if verified.damage.is_some() {
            break;
        }
    }
    Ok(verified)
}

fn disk(place: &Path, name: &str) -> Result<FileDisk, JournalError> {
    let path = place.join(directory_of(name)?);
    FileDisk::new(&path, Backend::Plain).map_err(|e| failed(name, "opening its directory", &e))
}

fn describe<D: Disk>(disk: &mut D, name: &str) -> Result<JournalInfo, JournalError> {
    let headers = headers(disk, name)?;
    let mut segments = Vec::with_capacity(headers.len());
    for (at, header) in headers.iter().enumerate() {
        let next = headers.get(at + 1).map(|next| next.first);
        match describe_segment(disk, name, header, next) {
            Ok(segment) => segments.push(segment),
            Err(_) if was_trimmed(disk, name, header.first)? => segments.clear(),
            Err(error) => return Err(error),
        }
    }
    Ok(JournalInfo { name: name.to_owned(), segments })
}

/// `next` is the first record of the segment behind it: this one is complete then.
fn describe_segment<D: Disk>(
    disk: &mut D,
    name: &str,
    header: &Header,
    next: Option<u64>,
) -> Result<SegmentInfo, JournalError> {
    let file_name = segment_name(header.first);
    let file = disk.open(&file_name, false);
    let file = file.map_err(|e| failed(name, &format!("opening {file_name}"), &e))?;
    let (bytes, scanned) = read_segment(disk, &file, name, header)?;
    let mut info = SegmentInfo {
        file: file_name,
        first: header.first,
        end: scanned.position,
        times: None,
        bytes: header.size,
        used_bytes: scanned.offset as u64,
        torn_bytes: 0,
        damage: None,
    };
    let mut offset = HEADER_BYTES as usize;
    for position in header.first..scanned.position {
        let Ok(found) = decode_record(&bytes[offset..], header.tag, position) else { break };
        let time = found.record.received;
        let (earliest, latest) = info.times.unwrap_or((time, time));
        info.times = Some((earliest.min(time), latest.max(time)));
        offset += found.size;
    }
    let missing = next.is_some_and(|next| next != scanned.position);
    let why = match scanned.tail {
        Tail::Damaged(why) => Some(why.to_string()),
        Tail::Torn(_) if next.is_some() => {
            Some("a later segment follows, so this one was complete".to_owned())
        }
        Tail::Torn(bytes) => {
            info.torn_bytes = bytes as u64;
            None
        }
        Tail::Clean if missing => Some("the next segment begins with another number".to_owned()),
        Tail::Clean => None,
    };
    info.damage = why.map(|why| {
        damaged_at(name, &info.file, scanned.offset as u64, scanned.position, &why).to_string()
    });
    Ok(info)
}
