//! Waiting for a file to grow or to be replaced, asleep: by inotify on the file and on its folder.
//!
//! A network's file system tells nobody what other machines do there, and a kernel may have no watches left. There the
//! file is looked at once a second, and the log says so.
//!
//! A path may lead through symbolic links, each of which can be turned elsewhere. Such a path is looked at once a second,
//! too. So is one that is not there, whose folder may come back as another one.

use std::fs::File;
use std::io::{self, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tracing::warn;

/// How often a file is looked at that cannot be watched.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// File systems whose changes come from elsewhere: NFS, SMB, CIFS, SMB 2, 9P, FUSE, AFS, Ceph.
const ELSEWHERE: [u64; 8] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x6573_5546, 0x5346_414f, 0x00c3_6400];

/// What is to be told of a folder.
const OF_FOLDER: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Whether a path leads through symbolic links, so that its own folder does not tell all that becomes of it.
fn is_linked(path: &Path) -> bool {
    match (path.canonicalize(), std::path::absolute(path)) {
        (Ok(real), Ok(path)) => real != path,
        // It is not there, and is looked for anyway.
        _ => false,
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something may have changed.
    Changed,
    /// Nobody reads any more.
    Unwanted,
}

/// Watches one path.
pub(crate) struct Watch {
    /// None where the file is looked at instead.
    inotify: Option<OwnedFd>,
    /// Hangs up when nobody reads any more.
    alive: PipeReader,
    path: PathBuf,
    folder: PathBuf,
    watched: Option<i32>,
    /// The path leads through symbolic links.
    linked: bool,
}

impl Watch {
    pub(crate) fn new(path: &Path, alive: PipeReader) -> Self {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let begun = Self::begin(&folder).unwrap_or_else(|error| {
            warn!(
                "file {}: it cannot be watched ({error}), and is looked at once a second",
                path.display()
            );
            None
        });
        let linked = is_linked(path);
        Self { inotify: begun, alive, path: path.to_owned(), folder, watched: None, linked }
    }

    fn begin(folder: &Path) -> io::Result<Option<OwnedFd>> {
        let system = rustix::fs::statfs(folder)?;
        if ELSEWHERE.contains(&(system.f_type as u64 & 0xffff_ffff)) {
            let what = "its folder is on a network's file system, which tells of no change";
            return Err(io::Error::other(what));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, folder, OF_FOLDER)?;
        Ok(Some(inotify))
    }

    /// Watches this open file of the path, and the one before no more. To be called before its end is looked for.
    pub(crate) fn file(&mut self, file: &File) {
        self.linked = is_linked(&self.path);
        let Some(inotify) = &self.inotify else { return };
        if let Some(before) = self.watched.take() {
            // It may have gone with its file.
            let _gone = inotify::remove_watch(inotify, before);
        }
        // By its descriptor, since the path may be another file's by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
        match inotify::add_watch(inotify, path.as_str(), flags) {
            Ok(watched) => self.watched = Some(watched),
            Err(error) => {
                let folder = self.folder.display();
                warn!(
                    "a file of {folder} cannot be watched ({error}), and is looked at once a second"
                );
                self.inotify = None;
            }
        }
    }

    /// Sleeps until something may have changed since the last wait, or until it is time to look anyway.
    pub(crate) fn wait(&mut self, look_after: Option<Duration>) -> io::Result<Woken> {
        let mut look_after = look_after.or(self.linked.then_some(LOOK_EVERY));
        if let Some(inotify) = &self.inotify {
            // Its path may be another folder's by now; the watch of one that is watched already stays as it is.
            let watched = inotify::add_watch(inotify, &self.folder, OF_FOLDER);
            look_after = look_after.or(watched.is_err().then_some(LOOK_EVERY));
        } else {
            look_after = look_after.or(Some(LOOK_EVERY));
        }
        let look_after = look_after.map(|pause| Timespec {
            tv_sec: pause.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: pause.subsec_nanos().into(),
        });
        let changes = self.inotify.as_ref().map_or(self.alive.as_fd(), OwnedFd::as_fd);
        let mut ready =
            [PollFd::new(&self.alive, PollFlags::empty()), PollFd::new(&changes, PollFlags::IN)];
        let waits_for = if self.inotify.is_some() { &mut ready[..] } else { &mut ready[..1] };
        match poll(waits_for, look_after.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !ready[0].revents().is_empty() {
            return Ok(Woken::Unwanted);
        }
        if let Some(inotify) = &self.inotify {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(inotify, &mut buffer);
            // What they say is looked up: several may have come to one.
            while events.next().is_ok() {}
        }
        Ok(Woken::Changed)
    }
}
