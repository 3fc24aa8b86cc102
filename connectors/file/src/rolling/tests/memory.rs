//! Thousands of seeded schedules on a directory in memory. A crash is that of the process, which keeps what was
//! written, or a power cut. A power cut keeps what was synced and perhaps some of the rest.

use std::io;
use std::sync::{Arc, Mutex};

use thalweg_kernel::OpenContext;

use thalweg_commits::{CommitThread, Committer, Step};

use super::super::committer::FileCommitter;
use super::super::disk::Disk;
use super::*;
use thalweg_commits::model::{self, Random, World};

const TAG: u64 = 5;

#[derive(Clone, Default)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
}

type Names = BTreeMap<String, usize>;

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    /// The directory after each change since the last sync, which comes first.
    history: Vec<Names>,
    locked: bool,
    /// The bytes or names that may still be written before the disk is full.
    room: usize,
}

impl State {
    fn changed(&mut self) {
        self.history.push(self.names.clone());
    }

    fn take_room(&mut self, wanted: usize) -> io::Result<()> {
        match self.room.checked_sub(wanted) {
            Some(room) => self.room = room,
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(())
    }

    fn synced_names(&mut self) {
        self.history = vec![self.names.clone()];
    }

    fn power_cut(&mut self, random: &mut Random) {
        if !self.history.is_empty() {
            let kept = random.below(self.history.len());
            self.names = self.history[kept].clone();
        }
        self.synced_names();
        for inode in &mut self.inodes {
            let mut kept = inode.synced.clone();
            if random.percent(50) && inode.data.len() > kept.len() {
                // The length got there before the bytes did.
                let more = random.below(inode.data.len() - kept.len() + 1);
                let from = kept.len();
                kept.extend_from_slice(&inode.data[from..from + more]);
                if random.percent(50) {
                    kept[from..].fill(0);
                }
            }
            *inode = Inode { data: kept.clone(), synced: kept };
        }
    }
}

#[derive(Clone, Default)]
struct Memory {
    state: Arc<Mutex<State>>,
    holds_lock: bool,
}

impl Memory {
    fn inode<R>(&self, name: &str, f: impl FnOnce(&mut Inode) -> R) -> R {
        let mut state = self.state.lock().unwrap();
        let at = state.names[name];
        f(&mut state.inodes[at])
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Not when a failed test has poisoned it: that would hide the failure.
        if self.holds_lock
            && let Ok(mut state) = self.state.lock()
        {
            state.locked = false;
        }
    }
}

impl Disk for Memory {
    type File = usize;

    fn lock(&mut self) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap();
        if !self.holds_lock && !state.locked {
            (self.holds_lock, state.locked) = (true, true);
        }
        Ok(self.holds_lock)
    }

    fn create(&mut self, name: &str) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        state.take_room(1)?;
        assert!(!state.names.contains_key(name), "{name} is used twice");
        let at = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.into(), at);
        state.changed();
        Ok(at)
    }

    fn write_at(&mut self, file: &usize, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let count = bytes.len().min(state.room);
        state.room -= count;
        let data = &mut state.inodes[*file].data;
        let at = at as usize;
        assert!(at <= data.len(), "a hole");
        data.resize(data.len().max(at + count), 0);
        data[at..at + count].copy_from_slice(&bytes[..count]);
        if count < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self, file: &usize) -> io::Result<()> {
        let inode = &mut self.state.lock().unwrap().inodes[*file];
        inode.synced = inode.data.clone();
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.state.lock().unwrap().synced_names();
        Ok(())
    }

    fn names(&mut self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().unwrap().names.keys().cloned().collect())
    }

    fn length(&mut self, name: &str) -> io::Result<Option<u64>> {
        let state = self.state.lock().unwrap();
        Ok(state.names.get(name).map(|&at| state.inodes[at].data.len() as u64))
    }

    fn whole_lines(&mut self, name: &str) -> io::Result<u64> {
        let end = self.inode(name, |inode| inode.data.iter().rposition(|&byte| byte == b'\n'));
        Ok(end.map_or(0, |end| end as u64 + 1))
    }

    fn cut(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.inode(name, |inode| {
            inode.data.truncate(length as usize);
            inode.synced = inode.data.clone();
        });
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.take_room(1)?;
        assert!(!state.names.contains_key(to), "{to} is there");
        let at = state.names.remove(from).unwrap();
        state.names.insert(to.into(), at);
        state.changed();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.names.remove(name).unwrap();
        state.changed();
        Ok(())
    }
}

struct Fake {
    state: Arc<Mutex<State>>,
    thread: Option<CommitThread<FileCommitter<Memory>>>,
    /// Threads of earlier runs in this process.
    old: Vec<CommitThread<FileCommitter<Memory>>>,
    reader: Reader,
    at_checkpoints: bool,
}

impl World for Fake {
    type Sink = RollingWriter<Numbers>;

    fn open(&mut self, contexts: &[OpenContext]) -> Vec<Self::Sink> {
        let rolling = Rolling {
            bytes: 60,
            after: ROLL_AFTER,
            idle: ROLL_AFTER,
            at_checkpoints: self.at_checkpoints,
            suffix: ".txt".into(),
        };
        let cx = &contexts[0];
        let disk = Memory { state: Arc::clone(&self.state), holds_lock: false };
        let (coordinator, thread) =
            FileCoordinator::new("fake".into(), cx, &rolling, TAG, true, disk);
        self.thread = Some(thread);
        let run = cx.durability.restored.unwrap_or_default().number();
        let open = |cx: &OpenContext| {
            let next = Name { instance: cx.shard as u16, run, number: 0 };
            coordinator.open(cx, Numbers, rolling.clone(), true, next).unwrap()
        };
        contexts.iter().map(open).collect()
    }

    fn step(&mut self, random: &mut Random) {
        self.state.lock().unwrap().room =
            if random.percent(20) { random.below(30) } else { usize::MAX };
        if !self.old.is_empty() && random.percent(40) {
            let at = random.below(self.old.len());
            match self.old[at].step() {
                Step::Failed => panic!("an earlier run has failed"),
                Step::Done => drop(self.old.remove(at)),
                _ => {}
            }
        }
        let thread = self.thread.as_mut().unwrap();
        if random.percent(5) {
            thread.committer().tick(std::time::Instant::now() + 2 * ROLL_AFTER);
        }
        assert_ne!(thread.step(), Step::Failed);
    }

    fn crash(&mut self, sinks: Vec<Self::Sink>, random: &mut Random) {
        let thread = self.thread.take().unwrap();
        if random.percent(50) {
            // Only the job ends: the thread is still there.
            drop(sinks);
            self.old.push(thread);
            return;
        }
        let power = random.percent(50);
        drop((sinks, thread));
        self.old.clear();
        if power {
            self.state.lock().unwrap().power_cut(random);
        }
    }

    fn check(&mut self, positions: &[u64], all: bool) {
        let mut state = self.state.lock().unwrap();
        if all {
            // What has closed is durable, even if no more than that is.
            state.names = state.history[0].clone();
            state.inodes.iter_mut().for_each(|inode| inode.data = inode.synced.clone());
        }
        let content =
            |(name, &at): (&String, &usize)| (name.clone(), state.inodes[at].data.clone());
        let found: Vec<_> = state.names.iter().map(content).collect();
        self.reader.look(found.clone(), *positions.last().unwrap(), all);
        // A reader that takes parts away, now and then.
        let taken = found.into_iter().find(|(name, _)| Name::parse(name).is_some());
        if let Some((name, content)) = taken.filter(|(name, _)| name.len() % 3 == 0) {
            let at = state.names.remove(&name);
            // It, too, sees to it that this is durable; but not to what others do.
            state.history.iter_mut().for_each(|names| names.retain(|_, inode| Some(*inode) != at));
            self.reader.taken.insert(name, content);
        }
    }
}

fn play(seeds: std::ops::Range<u64>, at_checkpoints: bool) {
    for seed in seeds {
        let state = Arc::<Mutex<State>>::default();
        state.lock().unwrap().synced_names();
        let (old, reader) = (Vec::new(), Reader::default());
        model::play(&mut Fake { state, thread: None, old, reader, at_checkpoints }, seed, 150, 15);
    }
}

#[test]
fn nothing_is_lost_and_nothing_repeated_in_2000_schedules() {
    play(0..2_000, false);
}

#[test]
fn nor_where_every_checkpoint_rolls() {
    play(10_000..10_500, true);
}
