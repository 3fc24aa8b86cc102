//! What a disk may hold after a crash, by the rules that journal and store rely on, and no kinder ones.
//!
//! | what | is durable | until then |
//! |---|---|---|
//! | bytes, a length, reserved room | once a sync of the file that began after it has ended; with `O_DSYNC`, once it has ended itself | it may be there, missing, or torn: any of its sectors of 512 bytes |
//! | a new, changed or removed name | once a sync of its directory that began after it has ended | the first few of a directory's changes may be there |
//!
//! A call that has begun may have had its effect.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use thalweg_testing::Random;

use crate::trace::{Event, Inode, Op};

/// What is written whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What becomes of changes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None is there.
    Dropped,
    /// All are there.
    Kept,
    /// All are there but for some sectors of the last write.
    LastTorn,
    /// All bytes are there, and no names.
    BytesOnly,
    /// All names are there, and no bytes.
    NamesOnly,
    /// For each by chance: there, missing, or torn.
    Mixed,
}

/// All that can become of them.
pub(crate) const FATES: [Fate; 6] =
    [Fate::Dropped, Fate::Kept, Fate::LastTorn, Fate::BytesOnly, Fate::NamesOnly, Fate::Mixed];

/// What was done to a disk.
pub(crate) struct Disk<'a> {
    events: &'a [Event],
    /// The line at which each event is durable.
    durable_at: Vec<usize>,
}

/// The files after a crash.
pub(crate) struct Image<'a> {
    contents: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<&'a Path, Inode>,
    directories: Vec<&'a Path>,
    /// How many changes were not durable.
    pub(crate) pending: usize,
}

impl<'a> Disk<'a> {
    /// The disk to which this was done; `syncs` says whether it does what it is told.
    pub(crate) fn new(events: &'a [Event], syncs: bool) -> Self {
        let first = |after: usize, by: &dyn Fn(&Op) -> bool| {
            let syncs = events.iter().filter(|sync| sync.begun > after && by(&sync.op));
            syncs.map(|sync| sync.ended).min().unwrap_or(usize::MAX)
        };
        let durable_at = events.iter().map(|event| match &event.op {
            _ if !syncs => usize::MAX,
            Op::Write { durably: true, .. } => event.ended,
            Op::Create(name, _) | Op::Mkdir(name) | Op::Rename(_, name) | Op::Unlink(name) => {
                let directory = name.parent().unwrap_or(name);
                first(event.ended, &|op| matches!(op, Op::SyncDir(synced) if synced == directory))
            }
            Op::Write { file, .. } | Op::Truncate(file, _) | Op::Allocate { file, .. } => {
                first(event.ended, &|op| *op == Op::Sync(*file))
            }
            Op::Sync(_) | Op::SyncDir(_) | Op::Said(_) => event.ended,
        });
        Self { events, durable_at: durable_at.collect() }
    }

    /// One of the images that a crash before line `cut` of the trace may leave.
    pub(crate) fn image(&self, cut: usize, fate: Fate, chance: &mut Random) -> Image<'a> {
        let mut image = Image {
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            directories: Vec::new(),
            pending: 0,
        };
        let begun = self.events.iter().zip(&self.durable_at).filter(|(e, _)| e.begun < cut);
        let is_write = |op: &Op| matches!(op, Op::Write { .. });
        let last_write = begun.clone().rfind(|(e, _)| is_write(&e.op)).map(|(e, _)| e.begun);
        // Directories with a change that is missing: those after it are, too.
        let mut stopped: Vec<&Path> = Vec::new();
        for (event, &durable_at) in begun {
            let sure = durable_at < cut;
            match &event.op {
                Op::Create(name, _) | Op::Mkdir(name) | Op::Rename(_, name) | Op::Unlink(name) => {
                    let directory = name.parent().unwrap_or(name);
                    image.pending += usize::from(!sure);
                    let stops = match fate {
                        _ if sure => false,
                        Fate::Dropped | Fate::BytesOnly => true,
                        Fate::Kept | Fate::LastTorn | Fate::NamesOnly => false,
                        Fate::Mixed => chance.one_in(3),
                    };
                    if stops || stopped.contains(&directory) {
                        stopped.push(directory);
                    } else {
                        image.rename(&event.op);
                    }
                }
                Op::Write { .. } | Op::Truncate(..) | Op::Allocate { .. } => {
                    let last = Some(event.begun) == last_write;
                    image.change(&event.op, sure, last, fate, chance);
                }
                Op::Sync(_) | Op::SyncDir(_) | Op::Said(_) => {}
            }
        }
        image
    }
}

impl<'a> Image<'a> {
    fn rename(&mut self, op: &'a Op) {
        match op {
            Op::Create(name, file) => drop(self.names.insert(name, *file)),
            Op::Mkdir(name) => self.directories.push(name),
            Op::Rename(from, to) => {
                // The file under the old name may itself be missing: then nothing has a new name.
                if let Some(file) = self.names.remove(from.as_path()) {
                    self.names.insert(to, file);
                }
            }
            Op::Unlink(name) => drop(self.names.remove(name.as_path())),
            _ => {}
        }
    }

    fn change(&mut self, op: &Op, sure: bool, last: bool, fate: Fate, chance: &mut Random) {
        self.pending += usize::from(!sure);
        let (there, torn) = match fate {
            _ if sure => (true, false),
            Fate::Dropped | Fate::NamesOnly => (false, false),
            Fate::Kept | Fate::BytesOnly => (true, false),
            Fate::LastTorn => (true, last),
            Fate::Mixed => (!chance.one_in(3), chance.one_in(2)),
        };
        if !there {
            return;
        }
        match op {
            Op::Write { file, offset, bytes, .. } => {
                let content = self.contents.entry(*file).or_default();
                let mut at = *offset as usize;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let piece = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
                    if !torn || chance.one_in(2) {
                        content.resize(content.len().max(at + piece), 0);
                        content[at..at + piece].copy_from_slice(&rest[..piece]);
                    }
                    (at, rest) = (at + piece, &rest[piece..]);
                }
            }
            Op::Truncate(file, length) => {
                self.contents.entry(*file).or_default().resize(*length as usize, 0);
            }
            Op::Allocate { file, offset, length } => {
                let content = self.contents.entry(*file).or_default();
                content.resize(content.len().max((offset + length) as usize), 0);
            }
            _ => {}
        }
    }

    /// Writes the files that were below `from` to `to`.
    pub(crate) fn write(&self, from: &Path, to: &Path) -> Result<()> {
        let place = |name: &Path| -> Result<PathBuf> { Ok(to.join(name.strip_prefix(from)?)) };
        let there = |directory: &Path| directory == from || self.directories.contains(&directory);
        for directory in &self.directories {
            // Only where the one above it is there, too.
            if directory.ancestors().skip(1).take_while(|d| d.starts_with(from)).all(there) {
                fs::create_dir_all(place(directory)?)?;
            }
        }
        let nothing = Vec::new();
        for (name, file) in &self.names {
            let path = place(name)?;
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            let content = self.contents.get(file).unwrap_or(&nothing);
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            file.set_len(content.len() as u64)?;
            // Zeros need not be written.
            for (number, page) in content.chunks(4096).enumerate() {
                if page.iter().any(|&byte| byte != 0) {
                    file.write_all_at(page, number as u64 * 4096)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: usize, op: Op) -> Event {
        Event { begun: at, ended: at, op }
    }

    fn write(offset: u64, byte: u8, length: usize, durably: bool) -> Op {
        Op::Write { file: 1, offset, bytes: vec![byte; length], durably }
    }

    fn content(events: &[Event], cut: usize, fate: Fate) -> Option<Vec<u8>> {
        let image = Disk::new(events, true).image(cut, fate, &mut Random::of(1, 0));
        let file = *image.names.get(Path::new("/d/a"))?;
        Some(image.contents.get(&file).cloned().unwrap_or_default())
    }

    #[test]
    fn only_what_was_synced_is_sure() {
        let events = [
            event(0, Op::Create("/d/a".into(), 1)),
            event(1, write(0, 1, 4, false)),
            event(2, Op::SyncDir("/d".into())),
            event(3, write(2, 2, 4, false)),
            event(4, Op::Sync(1)),
            event(5, write(0, 3, 1, true)),
            event(6, Op::Truncate(1, 3)),
        ];
        assert_eq!(content(&events, 2, Fate::Dropped), None);
        assert_eq!(content(&events, 2, Fate::Kept), Some(vec![1; 4]));
        assert_eq!(content(&events, 3, Fate::Dropped), Some(vec![]));
        assert_eq!(content(&events, 4, Fate::Kept), Some(vec![1, 1, 2, 2, 2, 2]));
        assert_eq!(content(&events, 5, Fate::Dropped), Some(vec![1, 1, 2, 2, 2, 2]));
        assert_eq!(content(&events, 7, Fate::Dropped), Some(vec![3, 1, 2, 2, 2, 2]));
        assert_eq!(content(&events, 7, Fate::Kept), Some(vec![3, 1, 2]));
    }

    #[test]
    fn a_sync_covers_only_what_had_ended_when_it_began() {
        let events = [
            event(0, Op::Create("/d/a".into(), 1)),
            event(1, Op::SyncDir("/d".into())),
            Event { begun: 2, ended: 4, op: write(0, 1, 4, false) },
            Event { begun: 3, ended: 5, op: Op::Sync(1) },
        ];
        assert_eq!(content(&events, 9, Fate::Dropped), Some(vec![]));
        assert_eq!(content(&events, 9, Fate::Kept), Some(vec![1; 4]));
    }

    #[test]
    fn a_torn_write_is_old_or_new_in_each_sector() {
        let events = [
            event(0, Op::Create("/d/a".into(), 1)),
            event(1, Op::SyncDir("/d".into())),
            event(2, write(0, 1, 4096, false)),
            event(3, Op::Sync(1)),
            event(4, write(100, 2, 3000, false)),
        ];
        let torn = content(&events, 5, Fate::LastTorn).unwrap();
        let sectors = torn[512..3072].chunks(512);
        let kinds: Vec<_> = sectors.map(|s| (s[0], s.iter().all(|b| *b == s[0]))).collect();
        assert!(kinds.iter().all(|&(_, whole)| whole), "{kinds:?}");
        assert!(kinds.contains(&(1, true)) && kinds.contains(&(2, true)), "{kinds:?}");
    }
}
