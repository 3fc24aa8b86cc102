//! The thread that reads one file: bytes in, whole lines out.

use std::io::{self, Read};
use std::task::Waker;
use std::time::SystemTime;

use thalweg_kernel::Timestamp;
use thalweg_kernel::dead_letter::DEAD_LETTER_PAYLOAD_BYTES_MAX;
use thalweg_kernel::time::millis;

/// How much is read at once, at most.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// Opens the file; called in the thread, since it may have to wait.
pub(crate) type Input = Box<dyn FnOnce() -> io::Result<Box<dyn Read>> + Send>;

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
    pub(crate) read_at: Timestamp,
}

impl Block {
    #[inline]
    pub(crate) fn lines(&self) -> &[u8] {
        &self.buffer.bytes[..self.buffer.filled]
    }
}

/// A line that was too long to keep.
pub(crate) struct Overlong {
    pub(crate) offset: u64,
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
    /// Nothing comes after this.
    End,
}

impl Buffer {
    /// Reads once, and returns how much.
    fn read(&mut self, input: &mut dyn Read) -> io::Result<usize> {
        if self.bytes.len() - self.filled < BLOCK_BYTES / 2 {
            self.bytes.resize(self.filled + BLOCK_BYTES, 0);
        }
        loop {
            match input.read(&mut self.bytes[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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

/// The thread. The input begins at byte `from` of the file. Ends with it, or when the shard is gone.
pub(crate) fn read_lines(
    input: Input,
    from: u64,
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
    let mut cutter = Cutter { line_bytes_max, buffer, offset: from, overlong: None };
    let end = match input() {
        Err(error) => Piece::Failed { offset: from, error },
        Ok(mut input) => loop {
            match cutter.buffer.read(&mut input) {
                Ok(0) => break Piece::End,
                Ok(fresh) => {
                    if cutter.cut(fresh, buffers, &send).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let offset = cutter.offset + cutter.buffer.filled as u64;
                    break Piece::Failed { offset, error };
                }
            }
        },
    };
    // After an error the rest is a torn line, and no record.
    if matches!(end, Piece::End)
        && let Some(last) = cutter.last()
        && send(last).is_err()
    {
        return;
    }
    let _ = send(end);
}

/// Cuts what is read after its last line feed.
struct Cutter {
    line_bytes_max: usize,
    /// Holds what was read and not handed over: at first, the beginning of a line.
    buffer: Buffer,
    /// Where the buffer begins in the file.
    offset: u64,
    /// The line that is being skipped; the buffer is empty then.
    overlong: Option<Overlong>,
}

impl Cutter {
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
            send(Piece::Overlong(overlong))?;
            self.advance(end + 1);
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
                let offset = self.offset;
                self.offset += lines as u64;
                send(Piece::Lines(Block { buffer, offset, read_at: now() }))
            }
            // One more for the carriage return, which does not count. A line that is over the
            // bound within one block is found by the shard.
            None if bytes.len() > self.line_bytes_max.saturating_add(1) => {
                self.overlong = Some(Overlong {
                    offset: self.offset,
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

    /// A last line that no line feed ended.
    fn last(&mut self) -> Option<Piece> {
        if let Some(mut overlong) = self.overlong.take() {
            overlong.end = self.offset;
            return Some(Piece::Overlong(overlong));
        }
        let buffer = std::mem::take(&mut self.buffer);
        let block = Block { buffer, offset: self.offset, read_at: now() };
        (block.buffer.filled > 0).then_some(Piece::Lines(block))
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(millis(since))
}
