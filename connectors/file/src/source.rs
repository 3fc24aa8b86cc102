//! Lines of files, of named pipes and of standard input.
//!
//! A thread per partition reads blocks, cuts each after its last line feed and carries the rest over into the
//! next. The shard decodes lines where they lie in the block. Buffers travel in a circle: the thread can only read
//! into one that the shard has given back. That bounds what is in flight to [`BLOCKS_MAX`] blocks and needs no
//! allocation in steady state.
//!
//! A line ends with a line feed, or with the file; a carriage return before it does not belong to
//! the line. Empty lines are nothing at all. A line over the bound becomes one dead letter, and is
//! skipped while it is read, in bounded memory. In a job with stored state a last line without its line feed is left
//! for the next run: it may be half of one. A dead letter has the number of its line.
//!
//! # What a file holds
//! Its first bytes tell (`content.rs`). Gzip and zstd are unpacked, a byte order mark is skipped, and what has no lines of
//! UTF-8 is refused by its name. Such a file of a list ends the job; one of a folder becomes a dead letter, and the other
//! files are read.
//!
//! # Wake-ups
//! The thread first puts a block into the queue and then wakes the shard, the last time for the end. The shard
//! only waits after it found the queue empty. So whatever it did not see wakes it.
//!
//! # Going on
//! In a job with stored state, a file is read on from the line at which the last epoch left it. If it was renamed
//! meanwhile, it is read to its end first. A file that was cut or replaced is read from its beginning: see
//! `position.rs` and `tail.rs`. Pipes and standard input have no position: what was read of them and is in no epoch is lost
//! with the process.
//!
//! # Files that grow and files that appear
//! [`FileSource::follow`] waits for more at the end of each file, as `tail -F` does. [`FileSource::matching`] takes in
//! the files of a folder as they appear: see the module `folder`.
//!
//! # Stopping
//! [`Source::stop`] ends after the blocks that were handed over by then. A thread that is waiting for
//! a silent pipe notices only with its next input; it holds up nothing.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Cause, ConnectorError, DeadLetter, Decode, DecodeError, Discover, Emit, Epoch, KnownPartition,
    Message, OpenContext, Origin, PartitionId, Partitions, Source, SourceSpec, SourceStatus,
    Timestamp, thread_name,
};

use crate::folder::{Finder, Folder};
use crate::position::{Identity, Position, hash_of};
use crate::reader::{Block, Buffer, Open, Overlong, Piece, Start, Stream, read_lines};
use crate::tail::{Ends, Tail};
use crate::watch::Watch;

/// Lines are refused beyond this many bytes unless [`FileSource::line_bytes_max`] says otherwise.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Blocks in flight between the reading thread and the shard, per partition.
pub const BLOCKS_MAX: usize = 4;

/// Reads files line by line, with one partition per file. Each line is one message whose topic is the file's path
/// and whose offset is that of its first byte.
///
/// ```no_run
/// # use thalweg_kernel::Decode;
/// # fn example<D: Decode + Clone>(json: D) {
/// use thalweg_file::FileSource;
///
/// let one = FileSource::new("readings.jsonl", json.clone());
/// let many = FileSource::all(["north.jsonl", "south.jsonl"], json.clone());
/// let piped = FileSource::new("-", json.clone()); // standard input
/// let incoming = FileSource::matching("incoming/*.jsonl", json); // also those that appear later
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FileSource<D> {
    files: Files,
    decoder: D,
    line_bytes_max: usize,
    follows: bool,
}

#[derive(Clone, Debug)]
enum Files {
    Listed(Vec<PathBuf>),
    Matching(Folder),
}

impl<D> FileSource<D> {
    /// The lines of the file at `path`; `-` is standard input.
    pub fn new(path: impl Into<PathBuf>, decoder: D) -> Self {
        Self::all([path], decoder)
    }

    /// The lines of several files, each a partition of its own: order is kept within a file. A file is known by its
    /// path, so that the list may change between two runs of a job.
    pub fn all(paths: impl IntoIterator<Item = impl Into<PathBuf>>, decoder: D) -> Self {
        let files = Files::Listed(paths.into_iter().map(Into::into).collect());
        Self { files, decoder, line_bytes_max: LINE_BYTES_MAX, follows: false }
    }

    /// The lines of all files whose path matches `pattern`, those included that appear while the job runs. The last
    /// part of the pattern may have `*`, which stands for any text, and `?`, which stands for one character. The job goes on until it
    /// is stopped.
    pub fn matching(pattern: impl Into<PathBuf>, decoder: D) -> Self {
        let files = Files::Matching(Folder::new(pattern.into()));
        Self { files, decoder, line_bytes_max: LINE_BYTES_MAX, follows: false }
    }

    /// How often the folder of [`matching`](Self::matching) files is looked at; once a second by default. A file is
    /// taken in when it has not changed for this long.
    #[must_use]
    pub fn look_every(mut self, interval: Duration) -> Self {
        if let Files::Matching(folder) = &mut self.files {
            folder.interval = interval;
        }
        self
    }

    /// How many [`matching`](Self::matching) files a shard reads at a time; [`FILES_OPEN_MAX`](crate::FILES_OPEN_MAX)
    /// by default. Others wait, in the order of their names, and do not hold event time back.
    #[must_use]
    pub fn files_open_max(mut self, files: usize) -> Self {
        if let Files::Matching(folder) = &mut self.files {
            folder.open_max = files.max(1);
        }
        self
    }

    /// Waits for more at the end of each listed file, as `tail -F` does. A file may be not there yet,
    /// renamed or cut. The job goes on until it is stopped.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follows = true;
        self
    }

    /// Refuses lines of more than `bytes` bytes, as [`Cause::TooLarge`].
    #[must_use]
    pub fn line_bytes_max(mut self, bytes: usize) -> Self {
        self.line_bytes_max = bytes;
        self
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn name(path: &Path) -> String {
    if is_stdin(path) { "stdin".into() } else { format!("file {}", path.display()) }
}

/// What the reading thread opens, and what ends its waiting when it is dropped.
struct Opening {
    open: Open,
    /// It has positions.
    is_file: bool,
    alive: Option<PipeWriter>,
}

/// Checks what can be checked without waiting, and leaves the rest to the reading thread. A file is read from where it
/// was left.
fn opening(path: &Path, stored: Option<Position>, ends: Ends) -> Result<Opening, ConnectorError> {
    if is_stdin(path) {
        let open: Open = Box::new(|| Ok(Box::new(Stream(Box::new(io::stdin())))));
        return Ok(Opening { open, is_file: false, alive: None });
    }
    let error = |cause: io::Error| {
        let what = match cause.kind() {
            io::ErrorKind::NotFound => "is not there: check the path",
            io::ErrorKind::PermissionDenied => "may not be read: check its permissions",
            _ => "cannot be opened",
        };
        ConnectorError::new(name(path), what).caused_by(cause)
    };
    let follows = ends == Ends::Never;
    let found = match path.metadata() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && follows => None,
        found => Some(found.map_err(error)?),
    };
    if found.as_ref().is_some_and(|found| found.is_dir()) {
        return Err(ConnectorError::new(name(path), "is a directory: name the files in it"));
    }
    let path = path.to_owned();
    if found.as_ref().is_some_and(|found| !found.is_file()) {
        // Opening a named pipe waits for its writer, which is nothing for a shard to do.
        let open: Open = Box::new(move || Ok(Box::new(Stream(Box::new(File::open(path)?)))));
        return Ok(Opening { open, is_file: false, alive: None });
    }
    if found.is_some() {
        // Whether it may be read.
        File::open(&path).map_err(error)?;
    }
    let (alive, watched) = if follows {
        let (reader, writer) = io::pipe().map_err(error)?;
        (Some(writer), Some(reader))
    } else {
        (None, None)
    };
    let open: Open = Box::new(move || {
        let watch = watched.map(|alive| Watch::new(&path, alive));
        Ok(Box::new(Tail::begin(&path, stored, ends, watch)?))
    });
    Ok(Opening { open, is_file: true, alive })
}

impl<D: Decode + Clone + 'static> SourceSpec for FileSource<D>
where
    D::Item: 'static,
{
    type Item = D::Item;
    type Partition = Lines<D>;

    fn describe(&self) -> String {
        match &self.files {
            Files::Listed(paths) => match paths.as_slice() {
                [path] => name(path),
                paths => format!("{} files", paths.len()),
            },
            Files::Matching(folder) => format!("files {}", folder.pattern()),
        }
    }

    fn partitions(&self) -> Partitions {
        match &self.files {
            Files::Listed(paths) => Partitions::Fixed(paths.iter().map(|path| id(path)).collect()),
            Files::Matching(_) => Partitions::Discovered,
        }
    }

    fn open(&self, partition: &PartitionId, cx: &OpenContext) -> Result<Lines<D>, ConnectorError> {
        let stored = cx.durability.position.as_deref().filter(|position| !position.is_empty());
        let (is_stored, stored) = (stored.is_some(), Position::read(stored));
        let Files::Listed(paths) = &self.files else {
            // Somebody has put it there whole. It may be gone by now, which the thread finds out.
            let path = PathBuf::from(partition.as_str());
            let open: Open = {
                let path = path.clone();
                Box::new(move || Ok(Box::new(Tail::begin(&path, stored, Ends::WithLine, None)?)))
            };
            let opening = Opening { open, is_file: true, alive: None };
            return Lines::open(&path, opening, stored, self, cx);
        };
        let Some(path) = paths.iter().find(|path| id(path) == *partition) else {
            let what = format!("there is no partition \"{partition}\"");
            return Err(ConnectorError::new(self.describe(), what));
        };
        if is_stored && stored.is_none_or(|stored| stored.path != hash_of(path)) {
            let what = "its place in the list of files was another file's when the job was stored by an earlier \
                        release; keep the files and their order, or give the source another stable name to begin anew";
            return Err(ConnectorError::new(name(path), what));
        }
        let ends = match (self.follows, cx.durability.checkpoints) {
            (true, _) => Ends::Never,
            (false, true) if !seeded(Defect::FileTakesHalfLine) => Ends::BeforeLine,
            (false, _) => Ends::WithLine,
        };
        Lines::open(path, opening(path, stored, ends)?, stored, self, cx)
    }

    fn discover(
        &self,
        known: &[KnownPartition],
        cx: &OpenContext,
    ) -> Result<Box<dyn Discover>, ConnectorError> {
        let Files::Matching(folder) = &self.files else {
            return Err(ConnectorError::new(self.describe(), "its files are listed"));
        };
        Ok(Box::new(Finder::begin(folder, known, cx)?))
    }
}

/// The partition of a file: its path.
fn id(path: &Path) -> PartitionId {
    PartitionId::new(path.display().to_string())
}

/// One open file.
pub struct Lines<D> {
    /// The path as the messages' topic.
    topic: String,
    name: String,
    decoder: D,
    line_bytes_max: usize,
    pieces: flume::Receiver<Piece>,
    give_back: flume::Sender<Buffer>,
    block: Option<Block>,
    /// Where the next line begins in the block.
    at: usize,
    /// Where the next line begins in the file.
    position: u64,
    /// The number of that line, or 0 if it is not known. While a block is there, that of its first line.
    line: u64,
    /// It is a file, which has positions.
    is_file: bool,
    /// It was found in a folder: it alone ends with what is wrong in it.
    is_found: bool,
    /// Which one.
    identity: Identity,
    /// Ends the thread's waiting when it is dropped.
    _alive: Option<PipeWriter>,
    /// After a stop: the pieces that are still to be taken.
    remaining: Option<usize>,
}

impl<D: Decode> Lines<D> {
    fn open(
        path: &Path,
        opening: Opening,
        stored: Option<Position>,
        source: &FileSource<D>,
        cx: &OpenContext,
    ) -> Result<Self, ConnectorError>
    where
        D: Clone,
    {
        let FileSource { line_bytes_max, decoder, .. } = source.clone();
        let Opening { open, is_file, alive } = opening;
        let stored = stored.unwrap_or(Position { line: 1, ..Position::default() });
        let start = Start { offset: stored.offset, line: stored.line };
        // Overlong lines and the end travel without a buffer.
        let (send, pieces) = flume::bounded(2 * BLOCKS_MAX);
        let (give_back, buffers) = flume::bounded(BLOCKS_MAX);
        for _ in 0..BLOCKS_MAX {
            let _ = give_back.try_send(Buffer::default());
        }
        let waker = cx.waker.clone();
        let span = tracing::Span::current();
        thread::Builder::new()
            .name(thread_name(&cx.job, &format!("in{}", cx.operator_id)))
            .spawn(move || {
                span.in_scope(|| read_lines(open, start, line_bytes_max, &buffers, send, waker));
            })
            .map_err(|e| {
                ConnectorError::new(name(path), "cannot start its reading thread").caused_by(e)
            })?;
        let topic = if is_stdin(path) { "stdin".into() } else { path.display().to_string() };
        Ok(Self {
            topic,
            name: name(path),
            decoder,
            line_bytes_max,
            pieces,
            give_back,
            block: None,
            at: 0,
            position: start.offset,
            line: start.line,
            is_file,
            is_found: matches!(source.files, Files::Matching(_)),
            identity: stored.identity,
            _alive: alive,
            remaining: None,
        })
    }

    /// Emits lines of the block until there are `records_max` records, and returns what that took of them, and how
    /// many there are. A line is emitted whole; one without records takes as much as one record.
    fn emit_block(
        &mut self,
        block: &Block,
        records_max: usize,
        out: &mut impl Emit<D::Item>,
    ) -> (usize, usize) {
        let lines = block.lines();
        let (mut taken, mut emitted) = (0, 0);
        while taken < records_max && self.at < lines.len() {
            let start = self.at;
            let rest = &lines[start..];
            let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            self.at = start + length + 1;
            let line = &rest[..length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let mut message = Message::new(&self.topic, line, block.read_at);
            message.offset = Some(block.offset + start as u64);
            message.partition = Some(&self.topic);
            let origin = Line { message, block, start };
            if line.len() > self.line_bytes_max {
                (taken, emitted) = (taken + 1, emitted + 1);
                let refused = too_large(line.len() as u64, self.line_bytes_max);
                out.dead_letter(origin.dead_letter(refused));
                continue;
            }
            // All that a line holds, or the position behind it would forget the rest.
            let before = emitted;
            out.begin_message();
            self.decoder.decode_each(&message, |decoded| {
                emitted += 1;
                match decoded {
                    Ok(value) => out.record(value, block.read_at, &origin),
                    Err(refused) => out.refused(refused, &origin),
                }
            });
            out.end_message();
            taken += (emitted - before).max(1);
        }
        (taken, emitted)
    }

    #[cold]
    fn emit_overlong(&self, overlong: &Overlong, out: &mut impl Emit<D::Item>) {
        let mut message = Message::new(&self.topic, &overlong.start, overlong.read_at);
        message.offset = Some(overlong.offset);
        message.partition = Some(&self.topic);
        let mut letter = message.dead_letter(too_large(overlong.bytes, self.line_bytes_max));
        letter.payload_bytes = overlong.bytes;
        letter.line = Some(overlong.line).filter(|line| *line > 0);
        out.dead_letter(letter);
    }

    fn is_of(&mut self, identity: Option<Identity>) {
        self.identity = identity.unwrap_or(self.identity);
    }

    /// The next piece, or what is to be reported instead.
    fn next_piece(&mut self) -> Result<Result<Piece, SourceStatus>, ConnectorError> {
        if let Some(remaining) = &mut self.remaining {
            match remaining.checked_sub(1) {
                Some(fewer) => *remaining = fewer,
                None => return Ok(Err(SourceStatus::Ended)),
            }
        }
        match self.pieces.try_recv() {
            Ok(piece) => Ok(Ok(piece)),
            Err(flume::TryRecvError::Empty) => Ok(Err(SourceStatus::Waiting(None))),
            Err(flume::TryRecvError::Disconnected) => {
                Err(ConnectorError::new(&self.name, "its reading thread panicked"))
            }
        }
    }
}

/// A line of a block. Its number is only looked for where it is asked for.
struct Line<'a> {
    message: Message<'a>,
    block: &'a Block,
    /// Where it begins in the block.
    start: usize,
}

impl Origin for Line<'_> {
    #[cold]
    fn dead_letter(&self, error: DecodeError) -> DeadLetter {
        let mut letter = self.message.dead_letter(error);
        letter.line = self.block.line_at(self.start);
        letter
    }
}

#[cold]
fn too_large(bytes: u64, bytes_max: usize) -> DecodeError {
    let reason = format!("the line has {bytes} bytes; {bytes_max} are allowed");
    DecodeError::new(Cause::TooLarge, reason, None)
}

impl<D: Decode> Source for Lines<D> {
    type Item = D::Item;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<D::Item>,
    ) -> Result<SourceStatus, ConnectorError> {
        let (mut left, mut silent, before) = (records_max, true, self.position);
        while left > 0 {
            if let Some(block) = self.block.take() {
                let (taken, emitted) = self.emit_block(&block, left, out);
                left = left.saturating_sub(taken);
                silent &= emitted == 0;
                self.position = block.offset + self.at.min(block.lines().len()) as u64;
                if self.at < block.lines().len() {
                    self.block = Some(block);
                } else {
                    self.line = block.line_behind();
                    // There is room for every buffer; a thread that is gone needs none.
                    let _ = self.give_back.try_send(block.buffer);
                }
                continue;
            }
            match self.next_piece()? {
                Ok(Piece::Lines(block)) => {
                    self.is_of(block.identity);
                    (self.position, self.line) = (block.offset, block.line);
                    self.block = Some(block);
                    self.at = 0;
                }
                Ok(Piece::Overlong(overlong)) => {
                    self.is_of(overlong.identity);
                    self.emit_overlong(&overlong, out);
                    self.position = overlong.end;
                    self.line = overlong.line + u64::from(overlong.line > 0);
                    (left, silent) = (left - 1, false);
                }
                Ok(Piece::End { left: rest, identity }) => {
                    // For a poll after this one, should there be any.
                    self.remaining = Some(0);
                    self.is_of(identity);
                    if rest > 0 {
                        tracing::warn!(
                            "{}: its last line has no line feed, and may be half of one: its {rest} bytes are left for \
                             the next run. If the line is whole, end it with a line feed",
                            self.name
                        );
                    }
                    return Ok(SourceStatus::Ended);
                }
                Ok(Piece::Refused(why)) if self.is_found => {
                    self.remaining = Some(0);
                    let mut message = Message::new(&self.topic, &[], now);
                    message.partition = Some(&self.topic);
                    let refused =
                        DecodeError::new(Cause::Malformed, format!("the file {why}"), None);
                    out.dead_letter(message.dead_letter(refused));
                    return Ok(SourceStatus::Ended);
                }
                Ok(Piece::Refused(why)) => {
                    return Err(ConnectorError::new(&self.name, why).lasting());
                }
                Ok(Piece::Failed { offset, error }) => {
                    let what = format!("cannot be read on from byte {offset}");
                    return Err(ConnectorError::new(&self.name, what).caused_by(error));
                }
                // Empty lines, and those that hold no record, yield nothing, and are read.
                Err(SourceStatus::Waiting(_)) if silent && self.position > before => {
                    return Ok(SourceStatus::Ready);
                }
                Err(status) => return Ok(status),
            }
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {
        let handed_over = self.pieces.len();
        self.remaining.get_or_insert(handed_over);
    }

    fn snapshot(&mut self, _epoch: Epoch, position: &mut Vec<u8>) {
        if !self.is_file {
            return;
        }
        let line = match &self.block {
            Some(block) => block.line_at(self.at).unwrap_or(0),
            None => self.line,
        };
        let (path, identity) = (hash_of(Path::new(&self.topic)), self.identity);
        Position { offset: self.position, path, line, identity }.write(position);
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
