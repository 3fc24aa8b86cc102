//! [`Reader`]: the records of a journal in order, from a position or a time on. Reads beside a writer,
//! takes no lock and changes nothing.
//!
//! It reads up to an end that was durable when it was made; [`Reader::extend`] moves that end. What lies
//! before it must be there and valid: anything else is damage.

use std::ops::Range;

use thalweg_kernel::{JournalError, JournalReader, JournalRecord, Timestamp};

use crate::disk::Disk;
use crate::errors::{damaged_at, failed};
use crate::format::{Bad, HEADER_BYTES, Header, RECORD_HEADER_BYTES, decode_record, segment_name};
use crate::scan::Tail;
use crate::segments::{firsts, headers, read_header, read_segment};

/// Read at a time, in bytes; more where a record is larger.
const WINDOW_BYTES: usize = 256 << 10;

/// A part of a segment in memory.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    /// Where in the segment it begins, and how much of `bytes` is read.
    offset: u64,
    filled: usize,
}

/// Reads a journal in order.
pub struct Reader<D: Disk> {
    disk: D,
    name: String,
    segment: Option<(D::File, Header)>,
    /// Where in the segment the next record begins.
    offset: u64,
    window: Window,
    position: u64,
    end: u64,
}

impl<D: Disk> Reader<D> {
    /// The records from position `from` on, and below `end`.
    ///
    /// # Errors
    /// If `from` has been trimmed or lies behind `end`, or if what lies there is damaged.
    pub fn new(disk: D, name: &str, from: u64, end: u64) -> Result<Self, JournalError> {
        let mut reader = Self {
            disk,
            name: name.to_owned(),
            segment: None,
            offset: 0,
            window: Window::default(),
            position: from,
            end,
        };
        if from > end {
            return Err(JournalError::Position(format!(
                "journal {name}: position {from} does not exist: it ends at {end}. Has its directory been \
                 replaced or restored from an older copy? Start from an earlier checkpoint, or afresh"
            )));
        }
        reader.seek(from)?;
        Ok(reader)
    }

    /// The records from the first one on that was received at `time` or later. Clocks jump, so all
    /// records before it are read; that takes about as long as copying them.
    ///
    /// # Errors
    /// If the journal is damaged.
    pub fn from_time(
        mut disk: D,
        name: &str,
        time: Timestamp,
        end: u64,
    ) -> Result<Self, JournalError> {
        let first = firsts(&mut disk, name)?.first().copied().unwrap_or(end);
        let mut reader = Self::new(disk, name, first.min(end), end)?;
        while reader.position < end {
            let Some(step) = reader.step()? else { break };
            if step.received >= time {
                // Back before it. Not to where the reader was: that may be the end of an older segment.
                reader.offset -= step.size as u64;
                reader.position -= 1;
                break;
            }
        }
        Ok(reader)
    }

    /// The number of the record that [`next`](JournalReader::next) returns.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The end it reads up to.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Goes on up to a later end, which must be durable: a writer's
    /// [`durable`](thalweg_kernel::JournalWriter::durable).
    pub fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Opens the segment that holds `from`, and skips the records before it.
    fn seek(&mut self, from: u64) -> Result<(), JournalError> {
        let firsts = firsts(&mut self.disk, &self.name)?;
        let Some(&first) = firsts.iter().rfind(|first| **first <= from) else {
            // A journal without a record, which may begin at any position, or one whose beginning is gone.
            return match firsts.first() {
                Some(&oldest) => Err(self.trimmed(oldest)),
                None if from == 0 || from == self.end => Ok(()),
                None => Err(self.trimmed(self.end)),
            };
        };
        self.open(first)?;
        while self.position < from {
            if self.step()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn open(&mut self, first: u64) -> Result<(), JournalError> {
        let header = match read_header(&mut self.disk, &self.name, first) {
            Ok(header) => header,
            Err(error) => return Err(self.gone(first).unwrap_or(error)),
        };
        let file_name = segment_name(first);
        let file = match self.disk.open(&file_name, false) {
            Ok(file) => file,
            Err(error) => {
                let error = failed(&self.name, &format!("opening {file_name}"), &error);
                return Err(self.gone(first).unwrap_or(error));
            }
        };
        self.segment = Some((file, header));
        self.offset = HEADER_BYTES;
        self.window.filled = 0;
        self.position = first;
        Ok(())
    }

    /// If this segment is no longer there, it was trimmed meanwhile.
    fn gone(&mut self, first: u64) -> Option<JournalError> {
        let oldest = *firsts(&mut self.disk, &self.name).ok()?.first()?;
        (oldest > first).then(|| self.trimmed(oldest))
    }

    #[cold]
    fn trimmed(&self, oldest: u64) -> JournalError {
        JournalError::Position(format!(
            "journal {}: position {} has been trimmed: the oldest record kept is {oldest}. Start from a \
             newer checkpoint, or from position {oldest}",
            self.name, self.position
        ))
    }

    /// Goes behind the next record; where it lies in the window. `None` where the journal has no segment.
    fn step(&mut self) -> Result<Option<Step>, JournalError> {
        if self.segment.is_none() {
            // Made when nothing had been written yet.
            self.seek(self.position)?;
            if self.segment.is_none() {
                return Ok(None);
            }
        }
        let mut rolled = false;
        loop {
            let bad = match self.decode()? {
                Ok(step) => {
                    self.offset += step.size as u64;
                    self.position += 1;
                    return Ok(Some(step));
                }
                Err(bad) => bad,
            };
            // A segment ends where it has no more records; the next one begins with this one.
            let position = self.position;
            let here = self.segment.as_ref().map_or(0, |(_, header)| header.first);
            if rolled
                || here == position
                || !firsts(&mut self.disk, &self.name)?.contains(&position)
            {
                let why = match bad {
                    Bad::Zeros => "there is nothing, though it was durable",
                    Bad::Short(_) => "it would reach behind the segment's end",
                    Bad::Wrong(why) => why,
                };
                let file = segment_name(here);
                return Err(damaged_at(&self.name, &file, self.offset, position, why));
            }
            self.open(position)?;
            rolled = true;
        }
    }

    /// Decodes at the current place, reading as much as that takes.
    fn decode(&mut self) -> Result<Result<Step, Bad>, JournalError> {
        let Some((file, header)) = &self.segment else { return Ok(Err(Bad::Zeros)) };
        let left = (header.size - self.offset) as usize;
        let window = &mut self.window;
        let mut need = RECORD_HEADER_BYTES;
        // Whether the window was read just now: an older one may show what has been overwritten since.
        let mut fresh = false;
        loop {
            let at = self.offset.checked_sub(window.offset).map(|at| at as usize);
            let at = match at.filter(|at| at + need <= window.filled) {
                Some(at) => at,
                None if need > left && fresh => return Ok(Err(Bad::Short(need))),
                None => {
                    let wanted = need.max(WINDOW_BYTES).min(left);
                    window.bytes.resize(wanted.max(window.bytes.len()), 0);
                    let into = &mut window.bytes[..wanted];
                    let read = self.disk.read_at(file, into, self.offset);
                    let what = || format!("reading {}", segment_name(header.first));
                    window.filled = read.map_err(|e| failed(&self.name, &what(), &e))?;
                    window.offset = self.offset;
                    if fresh && window.filled < need {
                        return Ok(Err(Bad::Short(need)));
                    }
                    fresh = true;
                    // What an old window said of the length does not count.
                    need = RECORD_HEADER_BYTES;
                    continue;
                }
            };
            let bytes = &window.bytes[at..window.filled];
            match decode_record(bytes, header.tag, self.position) {
                Ok(found) => {
                    let from = at + RECORD_HEADER_BYTES;
                    return Ok(Ok(Step {
                        received: found.record.received,
                        content: from..from + found.record.bytes.len(),
                        size: found.size,
                    }));
                }
                Err(Bad::Short(size)) => need = size,
                Err(_) if !fresh => window.filled = 0,
                Err(bad) => return Ok(Err(bad)),
            }
        }
    }
}

/// A record that has been decoded: its content's place in the window, the bytes it takes.
struct Step {
    received: Timestamp,
    content: Range<usize>,
    size: usize,
}

impl<D: Disk> JournalReader for Reader<D> {
    fn next(&mut self) -> Result<Option<JournalRecord<'_>>, JournalError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let Some(step) = self.step()? else {
            let file = segment_name(position);
            return Err(damaged_at(&self.name, &file, 0, position, "the file is missing"));
        };
        let bytes = &self.window.bytes[step.content];
        Ok(Some(JournalRecord { position, received: step.received, bytes }))
    }
}

/// The end of a journal that nobody writes now: what opening it would find, without changing it.
///
/// # Errors
/// If its last segment is damaged.
pub(crate) fn end_of<D: Disk>(disk: &mut D, name: &str) -> Result<(u64, u64), JournalError> {
    let Some(header) = headers(disk, name)?.pop() else { return Ok((0, 0)) };
    let file_name = segment_name(header.first);
    let file = disk.open(&file_name, false);
    let file = file.map_err(|e| failed(name, &format!("opening {file_name}"), &e))?;
    let (_, scanned) = read_segment(disk, &file, name, &header)?;
    match scanned.tail {
        Tail::Clean => Ok((scanned.position, 0)),
        Tail::Torn(bytes) => Ok((scanned.position, bytes as u64)),
        Tail::Damaged(why) => Err(damaged_at(
            name,
            &file_name,
            scanned.offset as u64,
            scanned.position,
            &why.to_string(),
        )),
    }
}
