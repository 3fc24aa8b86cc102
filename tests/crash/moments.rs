//! When the job is killed: after a time, or at a named point, recognised from outside by what happens to its files.
//!
//! | point | seen as |
//! |---|---|
//! | `segment` | a file appears in a journal |
//! | `journal` | a journal's file is written |
//! | `epoch` | the file of the state is written |
//! | `part` | a result's file appears: a part in progress, SQLite's rollback journal or WAL |
//! | `rename` | a file is renamed: a part is finished |
//! | `removal` | a file is removed: a trimmed segment, a committed rollback journal |
//! | `result` | a result's file is written; with MQTT: a result was received |

use std::fmt;
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use thalweg::runtime::StateDirectory;
use thalweg_testing::Random;

use crate::job::state_dir;
use crate::sinks::out_dir;

/// How long to wait for a point that may never come.
const POINT_MAX: Duration = Duration::from_millis(1_500);

/// A named point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    Segment,
    Journal,
    Epoch,
    Part,
    Rename,
    Removal,
    Result,
}

const POINTS: [Point; 7] = [
    Point::Segment,
    Point::Journal,
    Point::Epoch,
    Point::Part,
    Point::Rename,
    Point::Removal,
    Point::Result,
];

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// The time after the start.
    After(Duration),
    /// When this has happened `n` times since the start.
    At(Point, u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment => "segment",
            Self::Journal => "journal",
            Self::Epoch => "epoch",
            Self::Part => "part",
            Self::Rename => "rename",
            Self::Removal => "removal",
            Self::Result => "result",
        })
    }
}

impl Moment {
    /// The next one by chance: many lives end while the job starts or replays, some live long.
    pub(crate) fn next(chance: &mut Random) -> Self {
        if chance.one_in(3) {
            // The first events of a life belong to recovery.
            let most = chance.one_of([2, 10, 60]);
            return Self::At(chance.one_of(POINTS), 1 + chance.below(most));
        }
        let mean_ms = chance.one_of([15, 50, 150, 150, 400]);
        Self::After(chance.exponential(Duration::from_millis(mean_ms)))
    }

    /// Waits for it, or until the child has ended by itself; whether it came.
    pub(crate) fn wait(self, dir: &Path, watch: Option<Watch>, child: &mut Child) -> Result<bool> {
        let begun = Instant::now();
        let (until, mut left) = match self {
            Self::After(time) => (begun + time, u64::MAX),
            Self::At(_, times) => (begun + POINT_MAX, times),
        };
        let mut watch = watch;
        loop {
            if let (Some(watch), Self::At(point, _)) = (&mut watch, self) {
                left = left.saturating_sub(watch.count(point, dir)?);
            }
            let now = Instant::now();
            if left == 0 || now >= until {
                return Ok(true);
            }
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            thread::sleep((until - now).min(Duration::from_micros(200)));
        }
    }
}

/// Sees what happens in the directories of a job.
pub(crate) struct Watch {
    inotify: OwnedFd,
    places: Vec<(i32, PathBuf)>,
}

impl Watch {
    /// Begins to watch all directories below `dir` that there are.
    pub(crate) fn begin(dir: &Path) -> Result<Self> {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).context("cannot watch files")?;
        let mut watch = Self { inotify, places: Vec::new() };
        watch.add(dir)?;
        Ok(watch)
    }

    fn add(&mut self, dir: &Path) -> Result<()> {
        let events =
            WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let number = inotify::add_watch(&self.inotify, dir, events).context("cannot watch")?;
        self.places.push((number, dir.to_owned()));
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    /// How often `point` was reached since the last call.
    fn count(&mut self, point: Point, dir: &Path) -> Result<u64> {
        let mut buffer = [const { MaybeUninit::uninit() }; 4_096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let (state, out) = (state_dir(dir), out_dir(dir));
        let (journals, epochs) =
            (StateDirectory::journals_in(&state), StateDirectory::epochs_in(&state));
        let mut count = 0;
        let mut new = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error).context("cannot watch files"),
            };
            let Some((_, place)) = self.places.iter().find(|(number, _)| *number == event.wd())
            else {
                continue;
            };
            let kind = event.events();
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            if kind.contains(ReadFlags::CREATE | ReadFlags::ISDIR) {
                new.push(place.join(name.unwrap_or_default()));
                continue;
            }
            let appears = kind.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            let written = kind.contains(ReadFlags::MODIFY);
            count += u64::from(match point {
                Point::Segment => appears && place.starts_with(&journals),
                Point::Journal => written && place.starts_with(&journals),
                Point::Epoch => written && place.starts_with(&epochs),
                Point::Part => appears && place.starts_with(&out),
                Point::Rename => kind.contains(ReadFlags::MOVED_TO),
                Point::Removal => kind.contains(ReadFlags::DELETE),
                Point::Result => written && place.starts_with(&out),
            });
        }
        for place in new {
            if place.is_dir() {
                self.add(&place)?;
            }
        }
        Ok(count)
    }
}
