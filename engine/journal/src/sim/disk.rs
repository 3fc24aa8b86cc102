//! A disk in memory that fails as disks do, decided by a seed.
//!
//! What is written can be read at once, as through a page cache. When the power goes, each sector (512 bytes) that
//! was written since its file's last sync has any of its contents since then. Of the names given or taken since
//! the directory's last sync, some are there and some are not. A failed sync loses as a power cut does, but the
//! cache shows what was lost until the power goes. A failed sync of the directory leaves names as undecided as
//! they were. File systems with a journal commit names in order or stop, so a later sync that succeeds covers
//! them.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::direct::BLOCK_BYTES;
use crate::disk::{Completion, Disk, Submit, WriteError};
use crate::format::SECTOR_BYTES;

/// One directory in memory. Clones are one directory.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

/// An open file: it stays readable when its name is gone.
#[derive(Clone, Copy, Debug)]
pub struct SimFile(usize);

#[derive(Debug, Default)]
struct State {
    random: u64,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Naming>,
    operations: u64,
    power_fails_at: Option<u64>,
    sync_fails_in: Option<u64>,
    budget_bytes: Option<u64>,
    full_writes: u64,
    short_writes: u64,
    holds: bool,
}

#[derive(Clone, Debug)]
enum Naming {
    Give(String, usize),
    Take(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Contents of sectors since the last sync, in order.
    pending: Vec<(usize, [u8; SECTOR_BYTES])>,
}

impl SimDisk {
    /// An empty directory; all chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: seed, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far, reads not counted: what [`power_fails_in`](Self::power_fails_in) counts.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power goes during the operation that is this many operations away. That operation is done in part,
    /// if at all, and all later ones fail until [`power_on`](Self::power_on).
    pub fn power_fails_in(&self, operations: u64) {
        let mut state = self.state();
        state.power_fails_at = Some(state.operations + operations);
    }

    /// Whether it has gone.
    pub fn is_off(&self) -> bool {
        self.state().is_off()
    }

    /// The power goes, now if it has not, and comes back: what was not synced is lost, wholly or in part.
    pub fn power_on(&self) {
        let mut state = self.state();
        state.power_fails_at = None;
        state.sync_fails_in = None;
        let namings = std::mem::take(&mut state.pending_names);
        for naming in namings {
            if state.chance(2) {
                naming.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        for at in 0..state.files.len() {
            state.lose(at);
            let file = &mut state.files[at];
            file.cached.clone_from(&file.durable);
        }
        // What has no name is gone.
        let named: Vec<usize> = state.names.values().copied().collect();
        for at in (0..state.files.len()).filter(|at| !named.contains(at)) {
            state.files[at] = Content::default();
        }
    }

    /// The sync that is this many syncs away fails.
    pub fn sync_fails_in(&self, syncs: u64) {
        self.state().sync_fails_in = Some(syncs);
    }

    /// Room in bytes, or without bound.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.state().budget_bytes = bytes;
    }

    /// The number of writes, from now on, that find the disk full after a part of their bytes.
    pub fn refuse_writes(&self, writes: u64) {
        self.state().full_writes = writes;
    }

    /// The number of groups, from now on, that are submitted and of which a part is written.
    pub fn write_short(&self, writes: u64) {
        self.state().short_writes = writes;
    }

    /// Whether a group that is submitted is on its way until somebody waits for it.
    pub fn hold_submitted(&self, holds: bool) {
        self.state().holds = holds;
    }

    /// What all files take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.state().used()
    }

    /// The content of a file as it can be read, if there is such a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&at| state.files[at].cached.clone())
    }

    /// Puts a file there, durably: to try damaged ones.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut state = self.state();
        let at = state.files.len();
        let (cached, durable) = (content.to_vec(), content.to_vec());
        state.files.push(Content { cached, durable, pending: Vec::new() });
        state.names.insert(name.to_owned(), at);
        state.durable_names.insert(name.to_owned(), at);
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Give(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Take(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Content {
    /// These bytes in whole blocks, as far as the file has them, and where the first one begins.
    fn blocks(&self, bytes: &[u8], offset: usize) -> (u64, Vec<u8>) {
        let begin = offset - offset % BLOCK_BYTES;
        let mut blocks = [&self.cached[begin..offset], bytes].concat();
        let size = blocks.len().next_multiple_of(BLOCK_BYTES);
        blocks.resize(size.min(self.cached.len() - begin), 0);
        (begin as u64, blocks)
    }

    /// A sector becomes durable, as far as it lies within the file.
    fn keep(&mut self, sector: usize, content: &[u8; SECTOR_BYTES]) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.cached.len());
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&content[..to - from]);
    }
}

impl State {
    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random().is_multiple_of(of)
    }

    fn is_off(&self) -> bool {
        self.power_fails_at.is_some_and(|at| self.operations > at)
    }

    /// Counts an operation. `Ok(true)`: the power goes during it.
    fn operate(&mut self) -> io::Result<bool> {
        self.operations += 1;
        match self.power_fails_at {
            Some(at) if self.operations > at + 1 => Err(io::Error::other("the power is off")),
            Some(at) => Ok(self.operations > at),
            None => Ok(false),
        }
    }

    /// How much of `bytes` is written: a write is cut short at a block's border, never within a sector.
    fn part(&mut self, bytes: &[u8], offset: u64) -> usize {
        let until = offset as usize + (self.random() % (bytes.len() as u64 + 1)) as usize;
        (until / SECTOR_BYTES * SECTOR_BYTES).saturating_sub(offset as usize)
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&at| self.files[at].cached.len() as u64).sum()
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {name}")))
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    /// Changes a file's cached content and notes its sectors as unsynced.
    fn write(&mut self, at: usize, bytes: &[u8], offset: usize) {
        let file = &mut self.files[at];
        let end = offset + bytes.len();
        if file.cached.len() < end {
            file.cached.resize(end, 0);
        }
        file.cached[offset..end].copy_from_slice(bytes);
        if bytes.is_empty() {
            return;
        }
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(file.cached.len());
            let mut content = [0; SECTOR_BYTES];
            content[..to - from].copy_from_slice(&file.cached[from..to]);
            file.pending.push((sector, content));
        }
    }

    /// Makes what was not synced of a file durable. Only that: after a failed sync the cache shows more.
    fn settle(&mut self, at: usize) {
        for (sector, content) in std::mem::take(&mut self.files[at].pending) {
            self.files[at].keep(sector, &content);
        }
        let file = &mut self.files[at];
        file.durable.resize(file.cached.len(), 0);
    }

    /// Lets what was not synced of a file become durable, each sector at any of its contents or not.
    fn lose(&mut self, at: usize) {
        // Whole writes survive or vanish now and then; mostly it is sector by sector.
        let mood = self.random() % 4;
        for (sector, content) in std::mem::take(&mut self.files[at].pending) {
            let kept = match mood {
                0 => false,
                1 => true,
                _ => self.chance(2),
            };
            if kept {
                self.files[at].keep(sector, &content);
            }
        }
    }

    fn sync(&mut self, what: impl FnOnce(&mut Self, bool)) -> io::Result<()> {
        let power_goes = self.operate()?;
        if power_goes {
            return Err(io::Error::other("the power went"));
        }
        let fails = match &mut self.sync_fails_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if fails {
            self.sync_fails_in = None;
        }
        what(self, fails);
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        state.operate()?;
        let at = state.files.len();
        state.files.push(Content::default());
        state.name(Naming::Give(name.to_owned(), at));
        Ok(SimFile(at))
    }

    fn open(&mut self, name: &str, _write: bool) -> io::Result<SimFile> {
        self.state().find(name).map(SimFile)
    }

    fn size(&mut self, file: &SimFile) -> io::Result<u64> {
        Ok(self.state().files[file.0].cached.len() as u64)
    }

    fn allocate(&mut self, file: &SimFile, from: u64, to: u64, _fill: bool) -> io::Result<()> {
        let mut state = self.state();
        let power_goes = state.operate()?;
        if state.budget_bytes.is_some_and(|budget| state.used() + to - from > budget) {
            return Err(full());
        }
        let zeros = vec![0; (to - from) as usize];
        state.write(file.0, &zeros, from as usize);
        if power_goes {
            return Err(io::Error::other("the power went"));
        }
        state.settle(file.0);
        Ok(())
    }

    fn read_at(&mut self, file: &SimFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state();
        let cached = &state.files[file.0].cached;
        let from = (offset as usize).min(cached.len());
        let read = into.len().min(cached.len() - from);
        into[..read].copy_from_slice(&cached[from..from + read]);
        Ok(read)
    }

    fn write_at(&mut self, file: &SimFile, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let power_goes = state.operate()?;
        if state.full_writes > 0 {
            state.full_writes -= 1;
            let part = state.part(bytes, offset);
            state.write(file.0, &bytes[..part], offset as usize);
            return Err(full());
        }
        state.write(file.0, bytes, offset as usize);
        if power_goes { Err(io::Error::other("the power went")) } else { Ok(()) }
    }

    fn sync_data(&mut self, file: &SimFile) -> io::Result<()> {
        let at = file.0;
        self.state().sync(|state, fails| {
            if fails {
                state.lose(at);
            } else {
                state.settle(at);
            }
        })
    }

    fn submitter(&self) -> Option<Box<dyn Submit<SimFile>>> {
        let (ready, rings) = io::pipe().ok()?;
        Some(Box::new(SimSubmit {
            disk: self.clone(),
            ready: Arc::new(ready),
            rings,
            flight: None,
        }))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.find(from)?;
        state.name(Naming::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.find(name)?;
        state.name(Naming::Take(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.state().sync(|state, fails| {
            if !fails {
                let namings = std::mem::take(&mut state.pending_names);
                namings.iter().for_each(|naming| naming.apply(&mut state.durable_names));
            }
        })
    }
}

/// Writes a group when it is submitted, and syncs it when somebody asks what became of it.
struct SimSubmit {
    disk: SimDisk,
    ready: Arc<PipeReader>,
    rings: PipeWriter,
    flight: Option<(SimFile, Vec<u8>, io::Result<usize>)>,
}

impl Submit<SimFile> for SimSubmit {
    fn descriptor(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(&self.ready) as _
    }

    fn submit(&mut self, file: &SimFile, bytes: Vec<u8>, offset: u64) -> Result<(), Vec<u8>> {
        if self.rings.write_all(&[0]).is_err() {
            return Err(bytes);
        }
        let mut state = self.disk.state();
        let short = state.short_writes > 0;
        state.short_writes -= u64::from(short);
        let part = if short { state.part(&bytes, offset) } else { bytes.len() };
        // Some disks write whole blocks: what stands in front of the group once more, and zeros behind it.
        let (begin, blocks) = match state.chance(2) {
            true => state.files[file.0].blocks(&bytes[..part], offset as usize),
            false => (offset, bytes[..part].to_vec()),
        };
        drop(state);
        let written = self.disk.write_at(file, &blocks, begin).map(|()| part);
        self.flight = Some((*file, bytes, written));
        Ok(())
    }

    fn complete(&mut self, wait: bool) -> Option<Completion> {
        if self.disk.state().holds && !wait {
            return None;
        }
        let (file, bytes, written) = self.flight.take()?;
        let mut rung = [0];
        let read = (&*self.ready).read(&mut rung);
        debug_assert!(read.is_ok_and(|read| read == 1), "it was rung");
        let written = match written {
            Ok(part) if part == bytes.len() => {
                self.disk.sync_data(&file).map(|()| part).map_err(WriteError::Sync)
            }
            other => other.map_err(WriteError::Write),
        };
        Some(Completion { bytes, written })
    }
}
