//! The bytes of one path, over all that becomes of the path: read on from where an earlier run left it, cut, replaced,
//! renamed, packed, followed.
//!
//! # What is read
//! First what an earlier run left of a file that was renamed meanwhile: it is looked for in the folder, by its number on
//! the disk. A copy that was made before the file was cut is known by its first bytes. Then the file that is under the path now; from where it was left, if it [is the one](Position::is_of)
//! that was read, else from its beginning.
//!
//! # Where it ends
//! A file ends in one of three ways, which [`Ends`] names. One that is followed never ends: its thread sleeps until it has grown
//! (`watch.rs`). If it was cut meanwhile, also if it has been filled again to more than before, it is read from its
//! beginning. If another file is under the path, the old one is read to its end, and then the other.
//!
//! # Limits
//! One renaming between two runs is found; of more than one the files between are not read. What was written to a
//! file before it was cut, and not yet read, is lost: the log says that it was cut. A packed file is read to its end
//! and not followed.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use thalweg_kernel::defects::{Defect, seeded};
use tracing::{info, warn};

use crate::content::{self, Content, HEAD_BYTES, HEAD_BYTES_MIN};
use crate::position::{FINGERPRINT_BYTES_MAX, Identity, Position};
use crate::reader::{Got, Input, Trouble};
use crate::unzstd::Frames;
use crate::watch::{Watch, Woken};

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
        let skipped = io::copy(&mut (&mut packed).take(skip), &mut io::sink())?;
        if skipped < skip {
            let what =
                format!("unpacked it has {skipped} bytes, and an earlier run had read {skip}");
            return Err(Trouble::Io(io::Error::other(what)));
        }
        self.lines = Some(Lines::Packed(packed));
        Ok(true)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.lines {
            None => 0,
            Some(Lines::Plain) => self.file.read(buffer)?,
            Some(Lines::Packed(lines)) => {
                lines.read(buffer).map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => error,
                    // The unpacker's own words help nobody.
                    kind => io::Error::new(
                        kind,
                        "what is packed there is damaged, or its end is missing",
                    ),
                })?
            }
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
        let Some(current) = &self.current else { return Ok(None) };
        let found = match self.path.metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_same =
            (found.ino(), found.dev()) == (current.identity.inode, current.identity.device);
        if is_same || !found.is_file() {
            return Ok(None);
        }
        match Part::open(&self.path) {
            Ok(part) => Ok(Some(part)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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

    /// Nothing more comes now: waits, or says that it was all.
    fn ended(&mut self) -> Result<Option<Got>, Trouble> {
        let Some(watch) = self.watch.as_mut().filter(|_| self.ends == Ends::Never) else {
            // A file that was packed or renamed is whole.
            let whole = self.ends == Ends::WithLine
                || self.current.as_ref().is_some_and(|part| part.identity.packed || part.renamed);
            return Ok(Some(Got::End { whole }));
        };
        match watch.wait()? {
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
                if let Some(got) = self.ended()? {
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
                return Ok(Got::Bytes(count));
            }
            if self.next.is_empty() && self.ends == Ends::Never {
                let other = self.other()?;
                self.next.extend(other);
            }
            if !self.next.is_empty() {
                // Written between that read and the renaming.
                let Some(part) = &mut self.current else { continue };
                let count = part.read(buffer)?;
                if count > 0 {
                    return Ok(Got::Bytes(count));
                }
                self.current = None;
                return Ok(Got::Whole);
            }
            if let Some(got) = self.ended()? {
                return Ok(got);
            }
        }
    }

    fn identity(&self) -> Option<Identity> {
        self.identity
    }
}
