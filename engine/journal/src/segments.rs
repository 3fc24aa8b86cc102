//! The segments of one journal on its disk: opening and recovery, writing groups, rolling, trimming. The code is
//! single-threaded and has no clock: the threaded writer and the simulator both step it.
//!
//! *Rolling*: a spare file of zeros, named `spare`, is made ahead. It gets its header, is synced and renamed to
//! its segment's name, and then the directory is synced. So a file with a segment's name always has a durable
//! header and durable zeros. A spare that a crash left behind is removed.
//!
//! *Trimming* removes whole segments, the oldest first, and syncs the directory after each. So the segments that a
//! crash leaves follow each other without a gap.

use std::collections::VecDeque;
use std::io;

use thalweg_kernel::JournalError;
use thalweg_kernel::defects::{Defect, seeded};

use crate::config::JournalConfig;
use crate::disk::{Disk, Submit, WriteError};
use crate::errors::{damaged_at, failed, foreign, full_or_failed, no_segment};
use crate::format::{HEADER_BYTES, Header, name_hash, segment_first, segment_name};
use crate::gather::{Group, Place, Plan};
use crate::scan::{Scanned, Tail, scan};
use crate::spare::{SPARE, Spare, SpareOrder, prepare};

/// What opening a journal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The position of the oldest record that is kept.
    pub first: u64,
    /// The position behind the last record.
    pub end: u64,
    /// Segments.
    pub segments: usize,
    /// Bytes of a group that a crash had torn, which were cut. None of it had been reported as durable.
    pub cut_bytes: u64,
}

#[derive(Debug)]
struct Active<F> {
    file: F,
    first: u64,
    size: u64,
    /// Where the next group goes.
    offset: u64,
    /// The number of its first record.
    next: u64,
}

/// The segments of a journal that is open for writing.
#[derive(Debug)]
pub(crate) struct Segments<D: Disk> {
    pub(crate) disk: D,
    name: String,
    tag: u64,
    /// Where it begins, as long as it has no segment.
    begin: u64,
    segment_bytes: u64,
    cap_bytes: u64,
    zero_fill: bool,
    /// First record and size of the segments before the active one, oldest first.
    sealed: VecDeque<(u64, u64)>,
    active: Option<Active<D::File>>,
    spare: Option<Spare<D::File>>,
    pub(crate) recovery: Recovery,
}

impl<D: Disk> Segments<D> {
    /// Opens the journal called `name`, recovers it, and makes durable what it holds. `tag` is random
    /// and becomes the tag of a journal that is new, and `begin` the position of its first record.
    pub(crate) fn open(
        mut disk: D,
        name: &str,
        config: &JournalConfig,
        tag: u64,
        begin: u64,
    ) -> Result<Self, JournalError> {
        let names = disk.list().map_err(|e| failed(name, "listing its files", &e))?;
        if names.iter().any(|file| file == SPARE) {
            disk.remove(SPARE).map_err(|e| failed(name, "removing its spare file", &e))?;
        }
        let mut segments = Self {
            disk,
            name: name.to_owned(),
            tag,
            begin,
            segment_bytes: config.segment_bytes,
            cap_bytes: config.cap_bytes,
            zero_fill: config.zero_fill,
            sealed: VecDeque::new(),
            active: None,
            spare: None,
            recovery: Recovery::default(),
        };
        let headers = headers(&mut segments.disk, name)?;
        if let Some((last, sealed)) = headers.split_last() {
            segments.tag = last.tag;
            segments.sealed = sealed.iter().map(|header| (header.first, header.size)).collect();
            segments.recover(last)?;
        }
        segments.recovery.first = headers.first().map_or(begin, |header| header.first);
        segments.recovery.end = segments.end();
        segments.recovery.segments = headers.len();
        Ok(segments)
    }

    /// Finds the end of the last segment, cuts a torn tail, and makes the rest durable.
    fn recover(&mut self, header: &Header) -> Result<(), JournalError> {
        let file_name = segment_name(header.first);
        let failed = |what: &str, error: &io::Error| {
            failed(&self.name, &format!("{what} {file_name}"), error)
        };
        let file = self.disk.open(&file_name, true).map_err(|e| failed("opening", &e))?;
        self.disk.settle(&file, header.size);
        let (bytes, scanned) = read_segment(&mut self.disk, &file, &self.name, header)?;
        let cut = match scanned.tail {
            Tail::Clean => 0,
            Tail::Torn(bytes) => bytes,
            Tail::Damaged(why) => {
                return Err(damaged_at(
                    &self.name,
                    &file_name,
                    scanned.offset as u64,
                    scanned.position,
                    &why.to_string(),
                ));
            }
        };
        // The last group once more, and zeros over the torn one: see `scan`.
        // The header too, where it may have been written last: when an empty segment grew.
        let from = if scanned.group == HEADER_BYTES as usize { 0 } else { scanned.group };
        let mut again = bytes[from..scanned.offset].to_vec();
        if !seeded(Defect::JournalKeepsTornTail) {
            again.resize(again.len() + cut, 0);
        }
        if seeded(Defect::JournalTrustsCache) {
            again.clear();
        }
        let written = self.disk.write_at(&file, &again, from as u64);
        // Where every write is a copy, a full disk has no room for what is there already.
        written.map_err(|e| full_or_failed(&self.name, "writing", &e))?;
        self.disk.sync_data(&file).map_err(|e| failed("syncing", &e))?;
        self.disk.sync_dir().map_err(|e| failed("syncing the directory of", &e))?;
        self.recovery.end = scanned.position;
        self.recovery.cut_bytes = cut as u64;
        self.active = Some(Active {
            file,
            first: header.first,
            size: header.size,
            offset: scanned.offset as u64,
            next: scanned.position,
        });
        Ok(())
    }

    /// The position behind the last record that was written and synced.
    pub(crate) fn end(&self) -> u64 {
        self.active.as_ref().map_or(self.begin, |active| active.next)
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    /// What can be taken, before any group is handed out.
    pub(crate) fn plan(&self) -> Plan {
        let active = self.active.as_ref();
        let sealed: u64 = self.sealed.iter().map(|(_, size)| size).sum();
        Plan {
            room: active.map_or(0, |active| active.size - active.offset),
            empty: active.filter(|active| active.next == active.first).map(|active| active.size),
            total: sealed + active.map_or(0, |active| active.size),
            segment_bytes: self.segment_bytes,
            cap_bytes: self.cap_bytes,
        }
    }

    /// Writes a group and makes it durable. After `Full` that group may be given again, nothing else; any
    /// other error is final.
    pub(crate) fn commit(&mut self, group: &Group) -> Result<(), JournalError> {
        self.make_place(group)?;
        let Some(active) = &mut self.active else { return Err(no_segment(&self.name)) };
        if seeded(Defect::JournalNoSync) {
            return self.write(group).map(|()| self.advance(group));
        }
        match self.disk.write_durably(&active.file, &group.bytes, active.offset) {
            Ok(()) => {
                self.advance(group);
                Ok(())
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn failure(&self, error: &WriteError) -> JournalError {
        match error {
            WriteError::Write(error) => full_or_failed(&self.name, "writing", error),
            WriteError::Sync(error) => failed(&self.name, "syncing", error),
        }
    }

    /// Begins to [`commit`](Self::commit) a group whose place is there already; [`complete`](Self::complete) follows.
    /// Whether that was possible: if not, nothing has happened.
    pub(crate) fn submit(&mut self, group: &mut Group, to: &mut dyn Submit<D::File>) -> bool {
        let Some(active) = &self.active else { return false };
        let bytes = std::mem::take(&mut group.bytes);
        let refused = to.submit(&active.file, bytes, active.offset).err();
        let submitted = refused.is_none();
        group.bytes = refused.unwrap_or_default();
        submitted
    }

    /// What became of a group that was submitted. `false` and `Full`: it is not durable, and is to be committed. Any
    /// other error is final.
    pub(crate) fn complete(
        &mut self,
        group: &Group,
        written: Result<usize, WriteError>,
    ) -> Result<bool, JournalError> {
        let whole = written.map_err(|error| self.failure(&error))? == group.bytes.len();
        if whole {
            self.advance(group);
        }
        Ok(whole)
    }

    /// The first half of [`commit`](Self::commit): writes it.
    pub(crate) fn write(&mut self, group: &Group) -> Result<(), JournalError> {
        self.make_place(group)?;
        let Some(active) = &self.active else { return Err(no_segment(&self.name)) };
        let written = self.disk.write_at(&active.file, &group.bytes, active.offset);
        written.map_err(|error| full_or_failed(&self.name, "writing", &error))
    }

    /// The second half of [`commit`](Self::commit): makes it durable.
    pub(crate) fn sync(&mut self, group: &Group) -> Result<(), JournalError> {
        let Some(active) = &self.active else { return Err(no_segment(&self.name)) };
        if !seeded(Defect::JournalNoSync) {
            let synced = self.disk.sync_data(&active.file);
            synced.map_err(|error| failed(&self.name, "syncing", &error))?;
        }
        self.advance(group);
        Ok(())
    }

    fn advance(&mut self, group: &Group) {
        if let Some(active) = &mut self.active {
            active.offset += group.bytes.len() as u64;
            active.next = group.end();
        }
    }

    /// Makes the place that the group was given. Does nothing where an earlier attempt has made it.
    fn make_place(&mut self, group: &Group) -> Result<(), JournalError> {
        match group.place {
            Place::Active => Ok(()),
            Place::Roll(_) if self.active.as_ref().is_some_and(|a| a.first == group.first) => {
                Ok(())
            }
            Place::Roll(size) => self.roll(size, group.first),
            Place::Grow(size) => self.grow(size),
        }
    }

    fn roll(&mut self, size: u64, first: u64) -> Result<(), JournalError> {
        let mut spare = match self.spare.take() {
            Some(spare) => spare,
            None => prepare(&mut self.disk, &self.name, size, self.zero_fill)?,
        };
        let rolled = self.begin_segment(&mut spare, size, first);
        if let Err(error) = rolled {
            // Kept for the next attempt.
            self.spare = Some(spare);
            return Err(error);
        }
        let file = spare.file;
        let active = Active { file, first, size, offset: HEADER_BYTES, next: first };
        if let Some(sealed) = self.active.replace(active) {
            self.sealed.push_back((sealed.first, sealed.size));
        }
        Ok(())
    }

    fn begin_segment(
        &mut self,
        spare: &mut Spare<D::File>,
        size: u64,
        first: u64,
    ) -> Result<(), JournalError> {
        let name = &self.name;
        if spare.size < size {
            let grown = self.disk.allocate(&spare.file, spare.size, size, self.zero_fill);
            grown.map_err(|e| full_or_failed(name, "making room for a segment", &e))?;
            spare.size = size;
        }
        let header = Header { name_hash: name_hash(name), first, tag: self.tag, size };
        let written = self.disk.write_at(&spare.file, &header.encode(), 0);
        written.map_err(|e| full_or_failed(name, "writing a header", &e))?;
        self.disk.sync_data(&spare.file).map_err(|e| failed(name, "syncing a header", &e))?;
        let renamed = self.disk.rename(SPARE, &segment_name(first));
        renamed.map_err(|e| full_or_failed(name, "naming a segment", &e))?;
        if seeded(Defect::JournalNoSyncDir) {
            return Ok(());
        }
        self.disk.sync_dir().map_err(|e| failed(name, "syncing its directory", &e))
    }

    /// Makes the active segment, which is empty, longer.
    fn grow(&mut self, size: u64) -> Result<(), JournalError> {
        let name = &self.name;
        let Some(active) = self.active.as_mut().filter(|active| active.size < size) else {
            return Ok(());
        };
        let grown = self.disk.allocate(&active.file, active.size, size, self.zero_fill);
        grown.map_err(|e| full_or_failed(name, "making room for a large record", &e))?;
        let first = active.first;
        let header = Header { name_hash: name_hash(name), first, tag: self.tag, size };
        let written = self.disk.write_at(&active.file, &header.encode(), 0);
        written.map_err(|e| full_or_failed(name, "writing a header", &e))?;
        self.disk.sync_data(&active.file).map_err(|e| failed(name, "syncing a header", &e))?;
        active.size = size;
        Ok(())
    }

    /// Whether the next segment should be prepared now: there is none, or it is half full.
    pub(crate) fn wants_spare(&self) -> bool {
        self.spare.is_none()
            && self.active.as_ref().is_none_or(|active| active.offset * 2 >= active.size)
    }

    /// What preparing a spare takes, to do it elsewhere.
    pub(crate) fn spare_order(&self) -> SpareOrder {
        let name = self.name.clone();
        SpareOrder { name, size: self.segment_bytes, zero_fill: self.zero_fill }
    }

    pub(crate) fn give_spare(&mut self, spare: Spare<D::File>) {
        self.spare = Some(spare);
    }

    /// From this position on a trim removes something.
    pub(crate) fn removable_at(&self) -> Option<u64> {
        let &(first, _) = self.sealed.front()?;
        if seeded(Defect::JournalTrimsTooFar) {
            return Some(first);
        }
        let next = self.sealed.get(1).map(|(first, _)| *first);
        next.or_else(|| self.active.as_ref().map(|active| active.first))
    }

    /// Removes the segments that lie entirely below `position`; the bytes that became free.
    pub(crate) fn trim(&mut self, position: u64) -> Result<u64, JournalError> {
        let mut freed = 0;
        while self.removable_at().is_some_and(|at| at <= position) {
            let Some((first, size)) = self.sealed.pop_front() else { break };
            let removed = self.disk.remove(&segment_name(first));
            removed.map_err(|e| failed(&self.name, "removing a segment", &e))?;
            self.disk.sync_dir().map_err(|e| failed(&self.name, "syncing its directory", &e))?;
            freed += size;
        }
        Ok(freed)
    }

    /// The position of the oldest record that is kept.
    pub(crate) fn first(&self) -> u64 {
        let sealed = self.sealed.front().map(|(first, _)| *first);
        sealed.or_else(|| self.active.as_ref().map(|active| active.first)).unwrap_or(0)
    }

    /// Removes the spare: nothing more is coming.
    pub(crate) fn close(&mut self) {
        if self.spare.take().is_some() {
            // Opening removes it otherwise.
            let _ = self.disk.remove(SPARE);
        }
    }
}

/// The headers of all segments, oldest first. A segment that is trimmed meanwhile is left out, and so are
/// those before it.
pub(crate) fn headers<D: Disk>(disk: &mut D, name: &str) -> Result<Vec<Header>, JournalError> {
    let firsts = firsts(disk, name)?;
    let mut headers: Vec<Header> = Vec::with_capacity(firsts.len());
    for first in firsts {
        let header = match read_header(disk, name, first) {
            Ok(header) => header,
            Err(_) if was_trimmed(disk, name, first)? => {
                headers.clear();
                continue;
            }
            Err(error) => return Err(error),
        };
        if headers.last().is_some_and(|before| before.tag != header.tag) {
            return Err(foreign(name, first, "it is of another life of this journal"));
        }
        headers.push(header);
    }
    Ok(headers)
}

/// The numbers of the segments' first records, in order.
pub(crate) fn firsts<D: Disk>(disk: &mut D, name: &str) -> Result<Vec<u64>, JournalError> {
    let files = disk.list().map_err(|e| failed(name, "listing its files", &e))?;
    let mut firsts: Vec<u64> = files.iter().filter_map(|file| segment_first(file)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Whether a segment that was there is no longer, and later ones are.
pub(crate) fn was_trimmed<D: Disk>(
    disk: &mut D,
    name: &str,
    first: u64,
) -> Result<bool, JournalError> {
    let firsts = firsts(disk, name)?;
    Ok(firsts.first().is_some_and(|oldest| *oldest > first))
}

/// The header of the segment that begins with record `first`.
pub(crate) fn read_header<D: Disk>(
    disk: &mut D,
    name: &str,
    first: u64,
) -> Result<Header, JournalError> {
    let file_name = segment_name(first);
    let failed = |error: &io::Error| failed(name, &format!("reading {file_name}"), error);
    let file = disk.open(&file_name, false).map_err(|e| failed(&e))?;
    let mut bytes = [0; HEADER_BYTES as usize];
    let read = disk.read_at(&file, &mut bytes, 0).map_err(|e| failed(&e))?;
    let size = disk.size(&file).map_err(|e| failed(&e))?;
    let header = Header::decode(&bytes[..read]).map_err(|why| foreign(name, first, why))?;
    if header.name_hash != name_hash(name) {
        return Err(foreign(name, first, "it belongs to a journal of another name"));
    }
    if header.first != first {
        return Err(foreign(name, first, "its header names another first record; was it renamed?"));
    }
    if header.size > size || header.size < HEADER_BYTES {
        return Err(foreign(name, first, &format!("{size} bytes of {} are there", header.size)));
    }
    Ok(header)
}

/// Reads and scans a whole segment.
pub(crate) fn read_segment<D: Disk>(
    disk: &mut D,
    file: &D::File,
    name: &str,
    header: &Header,
) -> Result<(Vec<u8>, Scanned), JournalError> {
    let mut bytes = vec![0; header.size as usize];
    let read = disk.read_at(file, &mut bytes, 0);
    let read =
        read.map_err(|e| failed(name, &format!("reading {}", segment_name(header.first)), &e))?;
    if read < bytes.len() {
        let why = format!("{read} bytes of {} are there", header.size);
        return Err(foreign(name, header.first, &why));
    }
    let scanned = scan(&bytes, header);
    Ok((bytes, scanned))
}
