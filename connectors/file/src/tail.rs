//! The bytes of one path, over all that becomes of the path. It is read on from where an earlier run left it, cut, replaced,
//! renamed, packed and followed.
//!
//! # What is read
//! First what an earlier run left of a file that was renamed meanwhile. It is looked for in the folder, by its number on
//! the disk. A copy that was made before the file was cut is known by its first bytes. Then the file that is under the
//! path now is read. It begins where it was left, if it [is the one](Position::is_of) that was read, else at its beginning.
//!
//! # Where it ends
//! A file ends in one of three ways, which [`Ends`] names. One that is followed never ends: its thread sleeps until it has grown
//! (`watch.rs`). If it was cut meanwhile, also if it has been filled again to more than before, it is read from its
//! beginning. If another file is under the path, the old one is read to its end, and then the other. Who writes to the
//! old file may do so for a while: a daemon keeps its descriptor until it is told of the renaming. So the old file has only
//! ended when the other one has bytes and nothing has come to the old one for [`QUIET`].
//!
//! An editor, `rsync` or `sed -i` puts a copy under the path, which may be longer. A file that begins as the old one did is
//! read on from where the old one was left, if [enough bytes](Identity::tells_by_itself) say so.
//!
//! # Limits
//! One renaming between two runs is found; of more than one the files between are not read. What was written to a
//! file before it was cut, and not yet read, is lost: the log says that it was cut. A packed file is read to its end
//! and not followed. While somebody goes on writing to a renamed file, the one that has its place waits.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use thalweg_kernel::defects::{Defect, seeded};
use tracing::{info, warn};

use crate::content::{self, Content, HEAD_BYTES, HEAD_BYTES_MIN};
use crate::position::{FINGERPRINT_BYTES_MAX, Identity, Position};
use crate::reader::{Got, Input, Trouble};
use crate::unzstd::Frames;
use crate::watch::{LOOK_EVERY, Watch, Woken};

/// A file that was renamed has ended when nothing has come to it for this long.
pub(crate) const QUIET: Duration = Duration::from_secs(2);

/// At most this many files wait for the one that is read: files that were renamed meanwhile, and the last.
const FILES_WAITING_MAX: usize = 4;

/// What the end of a file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It ends, and so does its last line.
    WithLine,
    /// It ends. A last line without its line feed is left for the next run: it may be half of one.
    BeforeLine,
    /// It does not end.
    Never,
}

/// See the module.
pub(crate) struct Tail {
    path: PathBuf,
    ends: Ends,
    current: Option<Part>,
    /// What is read when that has ended.
    next: VecDeque<Part>,
    watch: Option<Watch>,
    identity: Option<Identity>,
    /// The path was not there, and that was said.
    missed: bool,
    /// When the last bytes came, or when another file was found under the path.
    active: Instant,
}

/// A file that is being read.
struct Part {
    file: File,
    /// How it is read, once that is known by its first bytes.
    lines: Option<Lines>,
    identity: Identity,
    /// The byte of its lines at which the next read begins, and the number of the line there.
    offset: u64,
    line: u64,
    /// It is not under the path any more.
    renamed: bool,
}

enum Lines {
    Plain,
    Packed(Box<dyn Read>),
}

/// What is wrong with a packed file. The system's errors may pass; what the unpacker finds does not, and its own words
/// help nobody.
fn damaged(error: io::Error) -> Trouble {
    if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
        return Trouble::Io(error);
    }
    Trouble::Refused("holds packed lines that are damaged, or its end is missing".to_owned())
}

impl Part {
    fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    fn of(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        let identity = Identity { inode: found.ino(), device: found.dev(), ..Identity::default() };
        Ok(Self { file, lines: None, identity, offset: 0, line: 1, renamed: false })
    }

    fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; HEAD_BYTES];
        let mut filled = 0;
        while filled < head.len() {
            match self.file.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        head.truncate(filled);
        Ok(head)
    }

    /// Goes on at a position of this file.
    fn go_on(&mut self, position: &Position) {
        (self.offset, self.line) = (position.offset, position.line);
    }

    /// Begins to read; false if nothing can be said of it yet.
    fn begin(&mut self, may_grow: bool) -> Result<bool, Trouble> {
        let head = self.head()?;
        let says_little = head.len() < HEAD_BYTES_MIN && !head.contains(&b'\n');
        if head.is_empty() || may_grow && says_little {
            return Ok(false);
        }
        self.identity = self.identity.beginning(&head);
        let content = content::recognise(&head).map_err(Trouble::Refused)?;
        let skip = if seeded(Defect::FileSkipsPacked) { 0 } else { self.offset };
        let mut file = self.file.try_clone()?;
        let mut packed: Box<dyn Read> = match content {
            Content::Plain(from) => {
                self.offset = self.offset.max(from);
                self.file.seek(SeekFrom::Start(self.offset))?;
                self.lines = Some(Lines::Plain);
                return Ok(true);
            }
            Content::Gzip => {
                file.seek(SeekFrom::Start(0))?;
                Box::new(MultiGzDecoder::new(io::BufReader::new(file)))
            }
            Content::Zstd => {
                file.seek(SeekFrom::Start(0))?;
                Box::new(Frames::new(io::BufReader::new(file)))
            }
        };
        self.identity.packed = true;
        let skipped = io::copy(&mut (&mut packed).take(skip), &mut io::sink()).map_err(damaged)?;
        if skipped < skip {
            let what =
                format!("unpacked it has {skipped} bytes, and an earlier run had read {skip}");
            return Err(Trouble::Io(io::Error::other(what)));
        }
        self.lines = Some(Lines::Packed(packed));
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let count = match &mut self.lines {
            None => 0,
            Some(Lines::Plain) => self.file.read(buffer)?,
            Some(Lines::Packed(lines)) => lines.read(buffer).map_err(damaged)?,
        };
        self.offset += count as u64;
        Ok(count)
    }

    /// Whether the file is still the one that was read so far: it was not cut, and begins as it did.
    fn is_whole(&mut self) -> io::Result<bool> {
        if !matches!(self.lines, Some(Lines::Plain)) || seeded(Defect::FileReadsOnWhenCut) {
            return Ok(true);
        }
        if self.file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        let mut head = [0; FINGERPRINT_BYTES_MAX];
        let count = self.file.read_at(&mut head, 0)?;
        let whole = self.identity.begins_with(&head[..count]);
        if whole && count > self.identity.covered as usize {
            self.identity = self.identity.beginning(&head[..count]);
        }
        Ok(whole)
    }

    fn begin_anew(&mut self) {
        (self.offset, self.line, self.lines) = (0, 1, None);
        self.identity = Identity { packed: false, ..self.identity }.beginning(&[]);
    }
}

impl Tail {
    /// What is to be read of a path, from this position on. What cannot be opened now is told at once.
    pub(crate) fn begin(
        path: &Path,
        stored: Option<Position>,
        ends: Ends,
        watch: Option<Watch>,
    ) -> io::Result<Self> {
        let identity = stored.map(|stored| stored.identity);
        let mut tail = Self {
            path: path.to_owned(),
            ends,
            current: None,
            next: VecDeque::new(),
            watch,
            identity,
            missed: false,
            active: Instant::now(),
        };
        let mut part = match Part::open(path) {
            Ok(part) => Some(part),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(stored) = stored {
            let was = match &mut part {
                None => Err("it is not there"),
                Some(part) => {
                    let is_of =
                        stored.is_of(&part.identity, part.file.metadata()?.len(), &part.head()?);
                    is_of.map(|()| part.go_on(&stored)).map_err(|other| other.words())
                }
            };
            if let Err(why) = was {
                tail.next.extend(tail.renamed(&stored, why));
            }
        }
        tail.next.extend(part);
        Ok(tail)
    }

    /// What is left of the file that an earlier run read, where it was renamed, or copied before it was cut. A copy is only
    /// looked for under names that begin with that of the file.
    fn renamed(&self, stored: &Position, why: &str) -> Option<Part> {
        let name = self.path.display();
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let entries =
            fs::read_dir(parent.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
        let known = &stored.identity;
        let own_name = self.path.file_name().unwrap_or_default().as_encoded_bytes();
        let found = entries.filter(|entry| entry.path() != self.path).find_map(|entry| {
            let path = entry.path();
            let found = path.symlink_metadata().ok().filter(Metadata::is_file)?;
            let is_it =
                known.inode != 0 && (found.ino(), found.dev()) == (known.inode, known.device);
            let is_copy = known.tells_by_itself()
                && entry.file_name().as_encoded_bytes().starts_with(own_name);
            if !is_it && !is_copy || seeded(Defect::FileForgetsRenamed) {
                return None;
            }
            let part = Part::open(&path).ok()?;
            let is_of = stored.is_of(&part.identity, found.len(), &part.head().ok()?);
            is_of.is_ok().then_some((path, part))
        });
        let Some((path, mut part)) = found else {
            warn!(
                "file {name}: {why}, and the file that was read is not in its folder any more: what may have stood \
                 behind its byte {} was not read; this one is read from its beginning",
                stored.offset
            );
            return None;
        };
        let (to, from) = (path.display(), stored.offset);
        info!(
            "file {name}: {why}: what was read has become {to}, and is read on from its byte {from} first"
        );
        part.go_on(stored);
        part.renamed = true;
        Some(part)
    }

    /// Whether another file is under the path than the one that is read. The other one, if so.
    fn other(&mut self) -> io::Result<Option<Part>> {
        let Some(last) = self.next.back().or(self.current.as_ref()) else { return Ok(None) };
        let found = match self.path.metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_same = (found.ino(), found.dev()) == (last.identity.inode, last.identity.device);
        if is_same || !found.is_file() {
            return Ok(None);
        }
        match Part::open(&self.path) {
            Ok(part) => Ok(Some(part)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on in a copy of the file that is read; gives it back if it is none.
    fn go_on_in(&mut self, mut other: Part) -> Result<Option<Part>, Trouble> {
        let Some(current) = &mut self.current else { return Ok(Some(other)) };
        let is_plain = matches!(current.lines, Some(Lines::Plain));
        if !is_plain || current.renamed || !current.identity.tells_by_itself() {
            return Ok(Some(other));
        }
        let (offset, identity) = (current.offset, current.identity);
        let position = Position { offset, identity, ..Position::default() };
        let bytes = other.file.metadata()?.len();
        if position.is_of(&other.identity, bytes, &other.head()?).is_err() {
            return Ok(Some(other));
        }
        // A line that was begun goes on there, so nothing is said of it.
        other.offset = offset;
        if !other.begin(true)? {
            return Ok(Some(other));
        }
        info!("file {}: a copy has taken its place, and is read on", self.path.display());
        if let Some(watch) = &mut self.watch {
            watch.file(&other.file);
        }
        *current = other;
        Ok(None)
    }

    /// Whether the file that is read has ended, since another one has its place: how long it has still to be
    /// looked at, if not.
    fn is_left(&self) -> io::Result<Result<(), Duration>> {
        let is_renamed = self.current.as_ref().is_some_and(|part| part.renamed);
        if !self.follows() || is_renamed {
            return Ok(Ok(()));
        }
        let mut next_bytes = 0;
        for next in &self.next {
            next_bytes += next.file.metadata()?.len();
        }
        let left = QUIET.saturating_sub(self.active.elapsed());
        Ok(match (next_bytes, left) {
            (0, _) => Err(LOOK_EVERY),
            (_, Duration::ZERO) => Ok(()),
            (_, left) => Err(left),
        })
    }

    /// The file that is read next, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        self.current = self.next.pop_front();
        if self.current.is_none() && self.ends == Ends::Never {
            self.current = match Part::open(&self.path) {
                Ok(part) => Some(part),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        if let (Some(watch), Some(part)) = (&mut self.watch, &self.current) {
            watch.file(&part.file);
        }
        Ok(self.current.is_some())
    }

    fn follows(&self) -> bool {
        self.ends == Ends::Never
    }

    /// Nothing more comes now: waits, or says that it was all. There may be a time after which to look anyway.
    fn ended(&mut self, look_after: Option<Duration>) -> Result<Option<Got>, Trouble> {
        let Some(watch) = self.watch.as_mut().filter(|_| self.ends == Ends::Never) else {
            // A file that was packed or renamed is whole.
            let whole = self.ends == Ends::WithLine
                || self.current.as_ref().is_some_and(|part| part.identity.packed || part.renamed);
            return Ok(Some(Got::End { whole }));
        };
        match watch.wait(look_after)? {
            Woken::Changed => Ok(None),
            Woken::Unwanted => Ok(Some(Got::End { whole: false })),
        }
    }
}

impl Input for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        loop {
            let Some(part) = &mut self.current else {
                if self.advance()? {
                    let Some(part) = &self.current else { continue };
                    return Ok(Got::Begin { offset: part.offset, line: part.line });
                }
                if !std::mem::replace(&mut self.missed, true) {
                    let next = if self.follows() {
                        "it is waited for"
                    } else {
                        "it was taken away before it was read"
                    };
                    warn!("file {}: it is not there: {next}", self.path.display());
                }
                if let Some(got) = self.ended(Some(LOOK_EVERY))? {
                    return Ok(got);
                }
                continue;
            };
            let may_grow = self.ends == Ends::Never && !part.renamed;
            if part.lines.is_none() && part.begin(may_grow)? {
                self.identity = Some(part.identity);
                return Ok(Got::Begin { offset: part.offset, line: part.line });
            }
            let count = part.read(buffer)?;
            if !part.is_whole()? {
                warn!(
                    "file {}: it was cut, and is read from its beginning; what may have been written before, and not \
                     read, is lost",
                    self.path.display()
                );
                part.begin_anew();
                continue;
            }
            if count > 0 {
                self.identity = Some(part.identity);
                self.active = Instant::now();
                return Ok(Got::Bytes(count));
            }
            if self.next.len() < FILES_WAITING_MAX && self.follows() {
                let mut other = self.other()?;
                if let Some(found) = other.take_if(|_| self.next.is_empty()) {
                    other = self.go_on_in(found)?;
                    if other.is_none() {
                        continue;
                    }
                }
                if let Some(other) = other {
                    self.next.push_back(other);
                    self.active = Instant::now();
                }
            }
            let mut look_after = None;
            if !self.next.is_empty() {
                match self.is_left()? {
                    Ok(()) => {
                        // Written between that read and now.
                        let Some(part) = &mut self.current else { continue };
                        let count = part.read(buffer)?;
                        if count > 0 {
                            self.active = Instant::now();
                            return Ok(Got::Bytes(count));
                        }
                        self.current = None;
                        return Ok(Got::Whole);
                    }
                    Err(left) => look_after = Some(left),
                }
            } else if self.follows() && !self.path.exists() {
                look_after = Some(LOOK_EVERY);
            }
            if let Some(got) = self.ended(look_after)? {
                return Ok(got);
            }
        }
    }

    fn identity(&self) -> Option<Identity> {
        self.identity
    }
}
