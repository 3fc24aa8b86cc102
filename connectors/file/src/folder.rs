//! The files of a folder, as they appear: a thread per shard lists the folder, and the shard takes in what is news.
//!
//! # Which files
//! Regular files whose name matches the pattern and does not begin with a dot; folders in the folder are not looked
//! into. A file is taken in when neither its size nor its time of change has changed for one interval. So one that
//! is still being written is left alone. To be on the safe side write a file under a name that does not match, and
//! rename it. Names that are not UTF-8 are passed over, with a warning.
//!
//! # Once
//! A file that was read is not read again. One that has grown is read on from where it ended. It is the same file if
//! it has the same path and inode and has not become shorter. Otherwise it is another of the name, and read from its
//! beginning. When a file is gone, its position is forgotten. A folder that cannot be read, or is another than at the
//! start (unmounted, say), has no news until it is back.
//!
//! A file that an earlier run has begun to read must be there at the start. If not, the job does not start, and says
//! which.
//!
//! # Limits
//! A shard reads [`FILES_OPEN_MAX`] files at a time, each by a thread of its own, and may know of
//! [65,536](thalweg_kernel::partition::SOURCE_PARTITIONS_MAX): take away what was read.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::task::Waker;
use std::thread;
use std::time::{Duration, SystemTime};

use thalweg_kernel::{
    ConnectorError, Discover, Discovery, KnownPartition, OpenContext, PartitionId, PartitionNews,
    Timestamp, thread_name,
};
use tracing::warn;

use crate::position::Position;

/// A shard reads at most this many files of a folder at a time, unless
/// [`FileSource::files_open_max`](crate::FileSource::files_open_max) says otherwise.
pub const FILES_OPEN_MAX: usize = 16;

/// How often a folder is looked at, unless [`FileSource::look_every`](crate::FileSource::look_every) says otherwise.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// News that wait for the shard, in listings: the thread waits where there are more.
const LISTINGS_MAX: usize = 4;

/// Which files, and how they are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pattern: PathBuf,
    pub(crate) interval: Duration,
    pub(crate) open_max: usize,
}

impl Folder {
    pub(crate) fn new(pattern: PathBuf) -> Self {
        let interval = Duration::from_millis(LOOK_INTERVAL_MS);
        Self { pattern, interval, open_max: FILES_OPEN_MAX }
    }

    pub(crate) fn pattern(&self) -> String {
        self.pattern.display().to_string()
    }

    fn error(&self, what: impl Into<String>) -> ConnectorError {
        ConnectorError::new(format!("files {}", self.pattern()), what)
    }

    /// The folder itself.
    fn dir(&self) -> &Path {
        let parent = self.pattern.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    }
}

/// Whether `name` matches `pattern`, in which `*` is any text and `?` any character.
fn matches(pattern: &[char], name: &[char]) -> bool {
    // The last `*`, and where the text that it stands for ends so far: there is no need to try an earlier one again.
    let (mut star, mut at, mut next) = (None, 0, 0);
    while next < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, next));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[next] => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((behind, end)) = star else { return false };
                star = Some((behind, end + 1));
                (at, next) = (behind, end + 1);
            }
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// A file as it was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    bytes: u64,
    changed: SystemTime,
}

impl Seen {
    fn of(file: &Metadata) -> Self {
        let changed = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Self { inode: file.ino(), bytes: file.len(), changed }
    }
}

/// What the thread knows of a file.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// As it was seen last; `None` before that.
    seen: Option<Seen>,
    /// The inode, 0 if that is not known, and the size up to which it is taken in.
    taken: Option<(u64, u64)>,
    /// An earlier run has begun it, and waits for it.
    begun: bool,
}

impl Entry {
    /// Whether it is the file that was taken in, or more of it.
    fn is_same(&self, seen: &Seen) -> bool {
        self.taken
            .is_some_and(|(inode, bytes)| [0, seen.inode].contains(&inode) && bytes <= seen.bytes)
    }
}

/// What has become of the files, from listing to listing.
struct Looking {
    pattern: Vec<char>,
    ours: Box<dyn Fn(&PartitionId) -> bool + Send>,
    entries: BTreeMap<PartitionId, Entry>,
    interval: Duration,
    /// A name that is not UTF-8 was spoken of.
    told: bool,
}

impl Looking {
    /// Compares a listing with the one before: what is news, in the order of names.
    fn compare(
        &mut self,
        listing: &BTreeMap<PartitionId, Seen>,
        now: SystemTime,
    ) -> Vec<PartitionNews> {
        let mut news = Vec::new();
        // What was seen and is not there is gone. What was never seen in this run may be behind a mount that is missing.
        self.entries.retain(|id, entry| {
            let gone = entry.seen.is_some() && !listing.contains_key(id);
            if gone && entry.taken.is_some() {
                news.push(PartitionNews::Gone(id.clone()));
            }
            !gone
        });
        for (id, &seen) in listing {
            let entry = self.entries.entry(id.clone()).or_default();
            let quiet = now.duration_since(seen.changed).is_ok_and(|age| age >= self.interval);
            let settled = quiet || entry.seen == Some(seen) || entry.begun;
            entry.seen = Some(seen);
            if !settled {
                continue;
            }
            let is_same = entry.is_same(&seen);
            if is_same && !entry.begun && entry.taken == Some((seen.inode, seen.bytes)) {
                continue;
            }
            if entry.taken.is_some() && !is_same {
                news.push(PartitionNews::Gone(id.clone()));
            }
            news.push(PartitionNews::Found(id.clone()));
            entry.begun = false;
            entry.taken = Some((seen.inode, seen.bytes));
        }
        news
    }

    /// Lists those files of the folder that match and are this shard's.
    fn list(&mut self, dir: &Path) -> io::Result<BTreeMap<PartitionId, Seen>> {
        let mut listing = BTreeMap::new();
        for file in fs::read_dir(dir)? {
            let file = file?;
            let name = file.file_name();
            let Some(name) = name.to_str() else {
                if !std::mem::replace(&mut self.told, true) {
                    let path = file.path();
                    warn!(
                        "{}: its name is not UTF-8, so it is not read: rename it",
                        path.display()
                    );
                }
                continue;
            };
            if name.starts_with('.') || !matches(&self.pattern, &name.chars().collect::<Vec<_>>()) {
                continue;
            }
            let path = file.path();
            let id = PartitionId::new(path.display().to_string());
            if !(self.ours)(&id) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(found) if found.is_file() => drop(listing.insert(id, Seen::of(&found))),
                Ok(_) => {}
                // Taken away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listing)
    }
}

/// Tells a shard of the files of a folder.
pub(crate) struct Finder {
    folder: Folder,
    listings: flume::Receiver<Vec<PartitionNews>>,
    /// Dropped with this, which ends the thread.
    _running: flume::Sender<Infallible>,
    waiting: VecDeque<PartitionNews>,
    listed: bool,
    /// Those that an earlier run has begun, until the first listing.
    begun: Vec<PartitionId>,
}

impl Finder {
    pub(crate) fn begin(
        folder: &Folder,
        known: &[KnownPartition],
        cx: &OpenContext,
    ) -> Result<Self, ConnectorError> {
        let Some(name) = folder.pattern.file_name().and_then(|name| name.to_str()) else {
            return Err(folder
                .error("names no files: end it in a pattern such as *.jsonl")
                .lasting());
        };
        if folder.dir().to_str().is_none() {
            return Err(folder.error("the folder's name is not UTF-8: rename it").lasting());
        }
        let dir = folder.dir().metadata().map_err(|cause| {
            folder.error("its folder cannot be read: create it, or check the path").caused_by(cause)
        })?;
        if !dir.is_dir() {
            return Err(folder.error("what should be its folder is none"));
        }
        let (shard, shards) = (cx.shard, cx.shards);
        let entries = known.iter().map(|known| {
            let position = Position::read(Some(&known.position));
            // Unpacked a file has more bytes than on the disk.
            let bytes = |at: &Position| if at.identity.packed { 0 } else { at.offset };
            let taken = position.map(|at| (at.identity.inode, bytes(&at)));
            (known.id.clone(), Entry { seen: None, taken, begun: !known.ended })
        });
        let looking = Looking {
            pattern: name.chars().collect(),
            ours: Box::new(move |id| id.shard(shards) == shard),
            entries: entries.collect(),
            interval: folder.interval,
            told: false,
        };
        let begun = known.iter().filter(|known| !known.ended).map(|known| known.id.clone());
        let (send, listings) = flume::bounded(LISTINGS_MAX);
        let (running, stopped) = flume::bounded(0);
        let (at, waker, same) = (folder.clone(), cx.waker.clone(), (dir.dev(), dir.ino()));
        thread::Builder::new()
            .name(thread_name(&cx.job, &format!("look{}", cx.operator_id)))
            .spawn(move || look(&at, looking, same, &send, &stopped, &waker))
            .map_err(|e| {
                folder.error("cannot start the thread that looks for them").caused_by(e)
            })?;
        Ok(Self {
            folder: folder.clone(),
            listings,
            _running: running,
            waiting: VecDeque::new(),
            listed: false,
            begun: begun.collect(),
        })
    }

    /// The first listing must have what was begun, which comes first.
    fn first(&mut self, news: Vec<PartitionNews>) -> Result<Vec<PartitionNews>, ConnectorError> {
        self.listed = true;
        let begun = std::mem::take(&mut self.begun);
        let is_begun = |news: &PartitionNews| match news {
            PartitionNews::Found(id) | PartitionNews::Gone(id) => begun.contains(id),
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = news.into_iter().partition(is_begun);
        if let Some(lost) =
            begun.iter().find(|id| !first.contains(&PartitionNews::Found((*id).clone())))
        {
            let what = format!(
                "an earlier run of the job had begun to read {lost}, which is not there: put it back, or give the \
                 source another stable name to begin anew"
            );
            return Err(self.folder.error(what).lasting());
        }
        first.extend(rest);
        Ok(first)
    }
}

impl Discover for Finder {
    fn discover(
        &mut self,
        _now: Timestamp,
        mut open: usize,
        news: &mut Vec<PartitionNews>,
    ) -> Result<Discovery, ConnectorError> {
        // A listing is only taken where there is no other: the bound on what waits.
        while self.waiting.is_empty() {
            match self.listings.try_recv() {
                Ok(listing) if self.listed => self.waiting.extend(listing),
                Ok(listing) => self.waiting = self.first(listing)?.into(),
                Err(flume::TryRecvError::Empty) => break,
                Err(flume::TryRecvError::Disconnected) => {
                    return Err(self.folder.error("the thread that looks for them has ended"));
                }
            }
        }
        while let Some(next) = self.waiting.front() {
            let opens = matches!(next, PartitionNews::Found(_));
            if opens && open >= self.folder.open_max {
                break;
            }
            open += usize::from(opens);
            news.extend(self.waiting.pop_front());
        }
        Ok(if self.listed { Discovery::Listed(None) } else { Discovery::Listing })
    }
}

/// The thread: lists the folder until nobody listens.
fn look(
    folder: &Folder,
    mut looking: Looking,
    same: (u64, u64),
    send: &flume::Sender<Vec<PartitionNews>>,
    stopped: &flume::Receiver<Infallible>,
    waker: &Waker,
) {
    let dir = folder.dir();
    let (mut first, mut told) = (true, false);
    loop {
        let found = dir.metadata();
        let found = found.map(|found| (found.dev(), found.ino()) == same);
        match found.and_then(|is_same| is_same.then(|| looking.list(dir)).transpose()) {
            Ok(Some(listing)) => {
                let news = looking.compare(&listing, SystemTime::now());
                if first || !news.is_empty() {
                    if send.send(news).is_err() {
                        return;
                    }
                    waker.wake_by_ref();
                }
                (first, told) = (false, false);
            }
            Ok(None) if !told => {
                told = true;
                warn!(
                    "files {}: another folder is in its place: was it unmounted? Waiting for it",
                    folder.pattern()
                );
            }
            Err(error) if !told => {
                told = true;
                warn!(
                    "files {}: the folder cannot be listed: {error}. Waiting for it",
                    folder.pattern()
                );
            }
            _ => {}
        }
        match stopped.recv_timeout(folder.interval) {
            Err(flume::RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(flume::RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
