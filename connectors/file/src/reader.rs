//! The thread that reads one partition: bytes in, whole lines out. What becomes of files is the input's affair
//! (`tail.rs`).

use std::io::{self, Read};
use std::task::Waker;
use std::time::SystemTime;

use thalweg_kernel::Timestamp;
use thalweg_kernel::dead_letter::DEAD_LETTER_PAYLOAD_BYTES_MAX;
use thalweg_kernel::time::millis;

use crate::position::Identity;

/// How much is read at once, at most.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// Opens the input; called in the thread, since it may have to wait.
pub(crate) type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Input>> + Send>;

/// Where bytes come from.
pub(crate) trait Input {
    /// Reads once. Waits where it has to.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble>;

    /// Which file was read last, as far as files are known.
    fn identity(&self) -> Option<Identity>;
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// The number of bytes that were read, one or more.
    Bytes(usize),
    /// The next bytes begin at this one of a file. A line that was begun has no end.
    Begin { offset: u64, line: u64 },
    /// A file has ended, and with it its last line. Another begins.
    Whole,
    /// Nothing more comes. `whole` says that the last line has ended, too.
    End { whole: bool },
}

/// Why nothing more can be read.
pub(crate) enum Trouble {
    /// The system said so.
    Io(io::Error),
    /// It is nothing that lines can be read of: what it is, and what to do.
    Refused(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A pipe, or whatever else has no file behind it.
pub(crate) struct Stream(pub(crate) Box<dyn Read>);

impl Input for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        let count = self.0.read(buffer)?;
        Ok(if count > 0 { Got::Bytes(count) } else { Got::End { whole: true } })
    }

    fn identity(&self) -> Option<Identity> {
        None
    }
}

/// Memory to read into. It is never shortened, so it is zeroed only once.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

/// Whole lines, the last one possibly without its line feed.
pub(crate) struct Block {
    pub(crate) buffer: Buffer,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// The number of its first line, or 0 if that is not known.
    pub(crate) line: u64,
    /// Its line feeds.
    pub(crate) feeds: u64,
    pub(crate) identity: Option<Identity>,
    pub(crate) read_at: Timestamp,
}

impl Block {
    /// The number of the line that begins at this byte of the block, if it is known.
    #[cold]
    pub(crate) fn line_at(&self, start: usize) -> Option<u64> {
        let before = memchr::memchr_iter(b'\n', &self.lines()[..start.min(self.buffer.filled)]);
        (self.line > 0).then(|| self.line + before.count() as u64)
    }

    /// The number of the line behind it, or 0.
    pub(crate) fn line_behind(&self) -> u64 {
        if self.line > 0 { self.line + self.feeds } else { 0 }
    }

    #[inline]
    pub(crate) fn lines(&self) -> &[u8] {
        &self.buffer.bytes[..self.buffer.filled]
    }
}

/// A line that was too long to keep.
pub(crate) struct Overlong {
    pub(crate) offset: u64,
    /// Its number, or 0 if that is not known.
    pub(crate) line: u64,
    pub(crate) identity: Option<Identity>,
    pub(crate) bytes: u64,
    /// Where the next line begins.
    pub(crate) end: u64,
    /// As much as a dead letter keeps.
    pub(crate) start: Vec<u8>,
    pub(crate) read_at: Timestamp,
    /// The last byte so far was a carriage return: no part of the line, if a line feed follows.
    cr: bool,
}

pub(crate) enum Piece {
    Lines(Block),
    Overlong(Overlong),
    Failed {
        offset: u64,
        error: io::Error,
    },
    /// It is not to be read.
    Refused(String),
    /// Nothing comes after this. `left` bytes remain of a line without its line feed.
    End {
        left: usize,
        identity: Option<Identity>,
    },
}

impl Buffer {
    /// Reads once, and returns how much.
    fn read(&mut self, input: &mut dyn Input) -> Result<Got, Trouble> {
        if self.bytes.len() - self.filled < BLOCK_BYTES / 2 {
            self.bytes.resize(self.filled + BLOCK_BYTES, 0);
        }
        loop {
            match input.read(&mut self.bytes[self.filled..]) {
                Ok(got) => {
                    if let Got::Bytes(count) = got {
                        self.filled += count;
                    }
                    return Ok(got);
                }
                Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Begins anew with `bytes`.
    fn begin(&mut self, bytes: &[u8]) {
        self.filled = bytes.len();
        if self.bytes.len() < self.filled {
            self.bytes.resize(self.filled + BLOCK_BYTES, 0);
        }
        self.bytes[..self.filled].copy_from_slice(bytes);
    }

    fn forget(&mut self, count: usize) {
        self.bytes.copy_within(count..self.filled, 0);
        self.filled -= count;
    }
}

/// Wakes the shard when the thread ends, however it ends.
struct WakeAtEnd(Waker);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// The shard is gone: nobody waits for the rest.
struct Gone;

/// Where the input begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// The byte of the file.
    pub(crate) offset: u64,
    /// The number of the line there, or 0 if it is not known.
    pub(crate) line: u64,
}

/// The thread. Ends with the input, or when the shard is gone.
pub(crate) fn read_lines(
    open: Open,
    start: Start,
    line_bytes_max: usize,
    buffers: &flume::Receiver<Buffer>,
    pieces: flume::Sender<Piece>,
    waker: Waker,
) {
    // Declared before it takes the sender over, so dropped after it: the woken shard finds the queue closed.
    let at_end = WakeAtEnd(waker);
    let pieces = pieces;
    let send = |piece| {
        let sent = pieces.send(piece).map_err(|_| Gone);
        at_end.0.wake_by_ref();
        sent
    };
    let Ok(buffer) = buffers.recv() else { return };
    let Start { offset, line } = start;
    let mut cutter =
        Cutter { line_bytes_max, buffer, offset, line, identity: None, overlong: None };
    let last = match open() {
        Err(error) => Piece::Failed { offset, error },
        Ok(mut input) => match cutter.cut_all(&mut *input, buffers, &send) {
            Ok(last) => last,
            Err(Gone) => return,
        },
    };
    let _ = send(last);
}

/// Cuts what is read after its last line feed.
struct Cutter {
    line_bytes_max: usize,
    /// Holds what was read and not handed over: at first, the beginning of a line.
    buffer: Buffer,
    /// Where the buffer begins in the file.
    offset: u64,
    /// The number of the line that begins there, or 0.
    line: u64,
    /// Which file it is.
    identity: Option<Identity>,
    /// The line that is being skipped; the buffer is empty then.
    overlong: Option<Overlong>,
}

impl Cutter {
    /// Hands over all lines of an input; what is to be said at the end.
    fn cut_all(
        &mut self,
        input: &mut dyn Input,
        buffers: &flume::Receiver<Buffer>,
        send: &impl Fn(Piece) -> Result<(), Gone>,
    ) -> Result<Piece, Gone> {
        loop {
            let got = self.buffer.read(input);
            self.identity = input.identity();
            let whole = match got {
                Ok(Got::Bytes(fresh)) => {
                    self.cut(fresh, buffers, send)?;
                    continue;
                }
                Ok(Got::Begin { offset, line }) => {
                    (self.offset, self.line, self.overlong) = (offset, line, None);
                    self.buffer.filled = 0;
                    continue;
                }
                Ok(Got::Whole) => {
                    self.last(buffers, send)?;
                    continue;
                }
                Ok(Got::End { whole }) => whole,
                // After an error the rest is a torn line, and no record.
                Err(Trouble::Io(error)) => {
                    let offset = self.offset + self.buffer.filled as u64;
                    return Ok(Piece::Failed { offset, error });
                }
                Err(Trouble::Refused(why)) => return Ok(Piece::Refused(why)),
            };
            if whole {
                self.last(buffers, send)?;
            }
            let left = self.buffer.filled;
            return Ok(Piece::End { left, identity: self.identity });
        }
    }

    /// Hands over the lines that the last `fresh` bytes of the buffer completed.
    fn cut(
        &mut self,
        fresh: usize,
        buffers: &flume::Receiver<Buffer>,
        send: &impl Fn(Piece) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        let mut searched = self.buffer.filled - fresh;
        if let Some(mut overlong) = self.overlong.take() {
            let bytes = &self.buffer.bytes[..self.buffer.filled];
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                overlong.bytes += bytes.len() as u64;
                overlong.cr = bytes.ends_with(b"\r");
                self.overlong = Some(overlong);
                self.advance(self.buffer.filled);
                return Ok(());
            };
            overlong.bytes += end as u64;
            overlong.cr = if end == 0 { overlong.cr } else { bytes[end - 1] == b'\r' };
            overlong.bytes -= u64::from(overlong.cr);
            overlong.end = self.offset + end as u64 + 1;
            overlong.identity = self.identity;
            send(Piece::Overlong(overlong))?;
            self.advance(end + 1);
            self.line += u64::from(self.line > 0);
            searched = 0;
        }
        let bytes = &self.buffer.bytes[..self.buffer.filled];
        match memchr::memrchr(b'\n', &bytes[searched..]) {
            Some(last) => {
                let lines = searched + last + 1;
                // Waits for the shard to give one back: this is the bound on what is in flight.
                let mut next = buffers.recv().map_err(|_| Gone)?;
                next.begin(&self.buffer.bytes[lines..self.buffer.filled]);
                let mut buffer = std::mem::replace(&mut self.buffer, next);
                buffer.filled = lines;
                self.offset += lines as u64;
                send(Piece::Lines(self.block(buffer)))
            }
            // One more for the carriage return, which does not count. A line that is over the
            // bound within one block is found by the shard.
            None if bytes.len() > self.line_bytes_max.saturating_add(1) => {
                self.overlong = Some(Overlong {
                    offset: self.offset,
                    line: self.line,
                    identity: self.identity,
                    bytes: bytes.len() as u64,
                    end: 0,
                    start: bytes[..bytes.len().min(DEAD_LETTER_PAYLOAD_BYTES_MAX)].to_vec(),
                    read_at: now(),
                    cr: bytes.ends_with(b"\r"),
                });
                self.advance(self.buffer.filled);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn advance(&mut self, count: usize) {
        self.offset += count as u64;
        self.buffer.forget(count);
    }

    /// A block of these lines, behind which the next begins.
    fn block(&mut self, buffer: Buffer) -> Block {
        let bytes = &buffer.bytes[..buffer.filled];
        let feeds = memchr::memchr_iter(b'\n', bytes).count() as u64;
        let offset = self.offset - bytes.len() as u64;
        let (line, identity) = (self.line, self.identity);
        if line > 0 {
            self.line += feeds;
        }
        Block { buffer, offset, line, feeds, identity, read_at: now() }
    }

    /// Hands over a last line that no line feed ended.
    fn last(
        &mut self,
        buffers: &flume::Receiver<Buffer>,
        send: &impl Fn(Piece) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        if let Some(mut overlong) = self.overlong.take() {
            overlong.end = self.offset;
            overlong.identity = self.identity;
            return send(Piece::Overlong(overlong));
        }
        if self.buffer.filled == 0 {
            return Ok(());
        }
        let next = buffers.recv().map_err(|_| Gone)?;
        let buffer = std::mem::replace(&mut self.buffer, next);
        self.buffer.filled = 0;
        self.offset += buffer.filled as u64;
        let block = self.block(buffer);
        send(Piece::Lines(block))
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(millis(since))
}
