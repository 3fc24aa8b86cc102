//! A file, written by one thread for all shards.
//!
//! Lines of one shard stand in the order they were written; between shards there is none. A header is written
//! once, whichever shard is first. When the sink has closed, the file and, if it is new, its directory are synced.
//! Where the job ends without closing, whole lines may be missing at the end, and the last may be torn.
//! [`FileSink::append`] begins on a new line then, and so does a job that resumes from stored state. Results are
//! written at once, so some may stand there twice after a crash: at least once. Exactly once are
//! [`RollingFiles`](crate::RollingFiles).
//!
//! Before each write the thread looks at the path. If the file was moved or taken away, the thread begins it anew.
//! Nothing is written to a file that somebody has dealt with already.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thalweg_kernel::{ConnectorError, Encode, OpenContext, Sink, SinkSpec, Timestamp};
use tracing::warn;

use crate::egress::{Egress, Outlet, Output};

/// The first line of a file that is appended to is read up to here to compare it with the header.
const HEADER_BYTES_MAX: u64 = 64 * 1024;

/// Writes records into a file, a line each.
#[derive(Clone, Debug)]
pub struct FileSink<E> {
    path: PathBuf,
    encoder: E,
    append: bool,
    rotate_at: Option<u64>,
}

impl<E> FileSink<E> {
    /// A sink that creates the file at `path`, or empties it if it is there. Named pipes
    /// and devices are written as they are.
    pub fn new(path: impl Into<PathBuf>, encoder: E) -> Self {
        Self { path: path.into(), encoder, append: false, rotate_at: None }
    }

    /// Keeps what the file holds and writes behind it. A header must then equal the one that it has.
    #[must_use]
    pub fn append(mut self) -> Self {
        self.append = true;
        self
    }

    /// Renames the file when it would have more than `bytes` bytes, and begins it anew. The name gets the ending `.1`; the
    /// file that had that name is gone. So the two take twice as much at most. Only the first file has a header.
    #[must_use]
    pub fn rotate_at(mut self, bytes: u64) -> Self {
        self.rotate_at = Some(bytes);
        self
    }

    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn start(&self, cx: &OpenContext, append: bool) -> Result<Egress, ConnectorError> {
        let error = |what: &str, cause| ConnectorError::new(self.name(), what).caused_by(cause);
        let found = match self.path.metadata() {
            Ok(found) => Some(found),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(error("cannot open it for writing", cause)),
        };
        if found.as_ref().is_some_and(|found| found.is_dir()) {
            let what = "is a directory: name a file in it";
            return Err(ConnectorError::new(self.name(), what));
        }
        if let Some(found) = &found
            && !found.is_file()
        {
            // Opening a named pipe waits for its reader, which is nothing for a shard to do.
            let path = self.path.clone();
            let open = move || Ok(Device(OpenOptions::new().write(true).open(path)?));
            return Egress::start(cx, self.name(), None, open);
        }
        let mut options = OpenOptions::new();
        // Appended to in any case: who empties the file meanwhile gets no hole at its beginning.
        options.create(true).append(true);
        let mut file = options.open(&self.path).map_err(|cause| {
            error("cannot open it for writing: is its directory there, and may you write?", cause)
        })?;
        if !append {
            file.set_len(0).map_err(|cause| error("cannot empty it", cause))?;
        }
        let header = if append {
            resume(&self.path, &mut file).map_err(|cause| error("cannot append to it", cause))?
        } else {
            None
        };
        let directory = match found {
            Some(_) => None,
            None => Some(directory_of(&self.path)),
        };
        let (path, rotate_at) = (self.path.clone(), self.rotate_at);
        let regular = Regular::new(file, path, rotate_at, directory);
        let regular = regular.map_err(|cause| error("cannot look at it", cause))?;
        Egress::start(cx, self.name(), header, move || Ok(regular))
    }
}

/// Ends a torn line, and returns the first line, if there is one.
fn resume(path: &Path, file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut reader = File::open(path)?;
    let mut start = Vec::new();
    (&reader).take(HEADER_BYTES_MAX).read_to_end(&mut start)?;
    if start.is_empty() {
        return Ok(None);
    }
    let mut last = [0];
    reader.seek(SeekFrom::End(-1))?;
    reader.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    let first = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok(Some(first.strip_suffix(b"\r").unwrap_or(first).to_vec()))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

struct Regular {
    file: File,
    /// The device and inode of the file.
    number: (u64, u64),
    path: PathBuf,
    bytes: u64,
    rotate_at: Option<u64>,
    /// Of a new file: synced too, or a power cut could take the file with it.
    directory: Option<PathBuf>,
}

impl Output for Regular {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.stay_under_path()?;
        let bytes = self.bytes + lines.len() as u64;
        if self.bytes > 0 && self.rotate_at.is_some_and(|most| bytes > most) {
            self.rotate()?;
        }
        self.bytes += lines.len() as u64;
        self.file.write_all(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        match self.directory.take() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Regular {
    fn new(
        file: File,
        path: PathBuf,
        rotate_at: Option<u64>,
        directory: Option<PathBuf>,
    ) -> io::Result<Self> {
        let found = file.metadata()?;
        let (number, bytes) = ((found.dev(), found.ino()), found.len());
        Ok(Self { file, number, path, bytes, rotate_at, directory })
    }

    /// Begins the file anew where it was moved or taken away.
    fn stay_under_path(&mut self) -> io::Result<()> {
        match self.path.metadata() {
            Ok(found) if (found.dev(), found.ino()) == self.number => return Ok(()),
            Ok(found) if !found.is_file() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It may well be there.
            Err(_) => return Ok(()),
        }
        warn!("file {}: it was moved or taken away, and is begun anew", self.path.display());
        self.file.sync_all()?;
        self.begin()
    }

    /// Opens what is under the path, or begins it.
    fn begin(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        resume(&self.path, &mut file)?;
        let directory = Some(directory_of(&self.path));
        *self = Self::new(file, std::mem::take(&mut self.path), self.rotate_at, directory)?;
        Ok(())
    }

    #[cold]
    fn rotate(&mut self) -> io::Result<()> {
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        match fs::rename(&self.path, &before) {
            Ok(()) => {
                let (path, before) = (self.path.display(), Path::new(&before).display());
                warn!(
                    "file {path}: it had {} bytes, and is {before} now; what was {before} is gone",
                    self.bytes
                );
            }
            // Moved away just now: then it has made room, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.begin()
    }
}

/// A pipe or a device: nothing to sync.
struct Device(File);

impl Output for Device {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.write_all(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<T: 'static, E: Encode<T> + Clone + 'static> SinkSpec<T> for FileSink<E> {
    type Writer = FileWriter<E>;

    fn describe(&self) -> String {
        self.name()
    }

    fn open(&self, cx: &OpenContext) -> Result<FileWriter<E>, ConnectorError> {
        // What an earlier run of the job has written is not to be lost.
        let append = self.append || cx.durability.restored.is_some();
        let egress = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx, append))?;
        let outlet = Outlet::new(egress, cx.waker.clone());
        Ok(FileWriter { outlet, encoder: self.encoder.clone(), begun: false })
    }
}

/// A [`FileSink`] on one shard.
pub struct FileWriter<E> {
    outlet: Outlet,
    encoder: E,
    /// The header was seen to.
    begun: bool,
}

impl<E> FileWriter<E> {
    #[cold]
    fn begin<T>(&mut self, first: &T) -> Result<(), ConnectorError>
    where
        E: Encode<T>,
    {
        let mut header = Vec::new();
        self.encoder
            .header(first, &mut header)
            .map_err(|error| self.outlet.error("cannot write the header", error))?;
        self.begun = true;
        self.outlet.header(&header)
    }
}

impl<T, E: Encode<T>> Sink<T> for FileWriter<E> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.outlet.ready()
    }

    fn awaits_epoch(&self) -> bool {
        false
    }

    #[inline]
    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        if !self.begun {
            self.begin(&value)?;
        }
        self.encoder
            .encode(&value, self.outlet.line())
            .map_err(|error| self.outlet.error("a record does not fit", error))?;
        self.outlet.end_line()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.outlet.flush()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.outlet.close()
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
