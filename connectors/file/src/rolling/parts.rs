//! The names of part files, a shard's account of its own, and its notes. Pure.
//!
//! A shard leaves at most one note in an epoch. It lists every part that cannot be seen yet, so it replaces
//! the one before; while nothing changes that one stays.
//!
//! ```text
//! note = "TWF" u8:version(1) part*
//! part = u16:instance u64:run u32:number u64:length u8:suffix-length suffix
//! ```
//! Numbers are little-endian. There is no checksum: the store that keeps the notes has one. Whether a part
//! was in progress or rolled does not matter: after a restart each is finished with the noted length.

use std::collections::VecDeque;
use std::fmt;

use thalweg_kernel::{Epoch, OpenContext, StateId};

const MAGIC: &[u8; 4] = b"TWF\x01";
const PREFIX: &str = "part-";
/// The ends of hidden names.
pub(crate) const INPROGRESS: &str = "inprogress";
pub(crate) const OPEN: &str = "open";

/// A part, apart from its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) instance: u16,
    pub(crate) run: u64,
    pub(crate) number: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}-{}", self.instance, self.run, self.number)
    }
}

impl Name {
    /// From a name that begins with one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        let (instance, rest) = rest.split_once('-')?;
        let (run, rest) = rest.split_once('-')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (instance, run) = (instance.parse().ok()?, run.parse().ok()?);
        Some(Self { instance, run, number: rest[..end].parse().ok()? })
    }

    pub(crate) fn visible(self, suffix: &str) -> String {
        format!("{self}{suffix}")
    }
}

/// The hidden name of what will be called `visible`.
pub(crate) fn hidden(visible: &str, tag: u64, kind: &str) -> String {
    format!(".{visible}.{tag:016x}.{kind}")
}

/// What `hidden` will be called, if it is a hidden part of this tag, and of which kind it is.
pub(crate) fn unhidden(hidden: &str, tag: u64) -> Option<(&str, &str)> {
    let (rest, kind) = hidden.strip_prefix('.')?.rsplit_once('.')?;
    let (visible, found) = rest.rsplit_once('.')?;
    Name::parse(visible)?;
    let ours = found == format!("{tag:016x}") && [INPROGRESS, OPEN].contains(&kind);
    ours.then_some((visible, kind))
}

/// Tells apart the hidden files of several jobs and sinks in one directory.
pub(crate) fn tag(cx: &OpenContext) -> u64 {
    let stable = &cx.durability.operator;
    let sink = if stable.is_empty() { &cx.operator } else { stable };
    StateId::of(&cx.job, sink).number()
}

/// A part in a note: what it will be called, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Noted {
    pub(crate) visible: String,
    pub(crate) length: u64,
}

/// The parts of a note.
pub(crate) fn read_note(note: &[u8]) -> Option<Vec<Noted>> {
    let mut rest = note.strip_prefix(MAGIC)?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let instance = u16::from_le_bytes(take(&mut rest)?);
        let run = u64::from_le_bytes(take(&mut rest)?);
        let number = u32::from_le_bytes(take(&mut rest)?);
        let length = u64::from_le_bytes(take(&mut rest)?);
        let [suffix] = take(&mut rest)?;
        let (suffix, tail) = rest.split_at_checked(suffix.into())?;
        rest = tail;
        let suffix = str::from_utf8(suffix).ok().filter(|suffix| !suffix.contains('/'))?;
        parts.push(Noted { visible: Name { instance, run, number }.visible(suffix), length });
    }
    Some(parts)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// The part in progress.
#[derive(Debug)]
struct Current {
    name: Name,
    bytes: u64,
    /// The epoch that holds all its bytes.
    sealed: Option<Epoch>,
}

/// A part that was rolled and that cannot be seen yet, as far as is known.
#[derive(Debug)]
struct Rolled {
    name: Name,
    length: u64,
    sealed: Option<Epoch>,
    /// The thread was told to let it be seen.
    told: bool,
}

/// A shard's account of its parts.
#[derive(Debug)]
pub(crate) struct Parts {
    next: Name,
    /// Parts wait for epochs.
    holds: bool,
    current: Option<Current>,
    rolled: VecDeque<Rolled>,
    committed: Epoch,
    /// The parts of this run that can be seen.
    renamed: u64,
}

impl Parts {
    pub(crate) fn new(next: Name, holds: bool) -> Self {
        let (rolled, committed) = (VecDeque::new(), Epoch::NONE);
        Self { next, holds, current: None, rolled, committed, renamed: 0 }
    }

    /// The part in progress, if there is one.
    pub(crate) fn current(&self) -> Option<Name> {
        self.current.as_ref().map(|current| current.name)
    }

    /// Takes account of bytes; the part they belong to and where in it they begin.
    pub(crate) fn append(&mut self, bytes: u64) -> (Name, u64) {
        let next = &mut self.next;
        let current = self.current.get_or_insert_with(|| {
            let name = *next;
            next.number = next.number.wrapping_add(1);
            Current { name, bytes: 0, sealed: None }
        });
        let at = current.bytes;
        current.bytes += bytes;
        current.sealed = None;
        (current.name, at)
    }

    /// The size of the part in progress.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.bytes)
    }

    /// Ends the part in progress, if there is one.
    pub(crate) fn roll(&mut self) -> Option<Name> {
        let Current { name, bytes, sealed } = self.current.take()?;
        // One that waits for no epoch has one that always existed.
        let sealed = if self.holds { sealed } else { Some(Epoch::NONE) };
        self.rolled.push_back(Rolled { name, length: bytes, sealed, told: false });
        Some(name)
    }

    /// All bytes so far belong to `epoch`.
    pub(crate) fn seal(&mut self, epoch: Epoch) {
        if let Some(current) = &mut self.current {
            current.sealed.get_or_insert(epoch);
        }
        for rolled in &mut self.rolled {
            rolled.sealed.get_or_insert(epoch);
        }
    }

    /// Whether bytes belong to no epoch.
    pub(crate) fn has_unsealed(&self) -> bool {
        let current = self.current.as_ref().is_some_and(|current| current.sealed.is_none());
        self.holds && (current || self.rolled.iter().any(|rolled| rolled.sealed.is_none()))
    }

    /// `epoch` exists.
    pub(crate) fn commit(&mut self, epoch: Epoch) {
        self.committed = self.committed.max(epoch);
    }

    /// The parts that may be seen now; each is told of once.
    pub(crate) fn due(&mut self) -> Vec<Name> {
        let committed = self.committed;
        let due = self.rolled.iter_mut().filter(|rolled| {
            !rolled.told && rolled.sealed.is_some_and(|sealed| sealed <= committed)
        });
        due.map(|rolled| {
            rolled.told = true;
            rolled.name
        })
        .collect()
    }

    /// The number of parts of this run that can be seen, in the order in which they were due.
    pub(crate) fn renamed(&mut self, count: u64) {
        while self.renamed < count && self.rolled.pop_front().is_some() {
            self.renamed += 1;
        }
    }

    /// How many parts of this run are known to be seen.
    pub(crate) fn seen(&self) -> u64 {
        self.renamed
    }

    /// Whether all parts that may be seen can be seen.
    pub(crate) fn all_due_seen(&self) -> bool {
        let may = |rolled: &Rolled| rolled.sealed.is_some_and(|sealed| sealed <= self.committed);
        !self.rolled.iter().any(may)
    }

    /// Whether everything can be seen.
    pub(crate) fn all_seen(&self) -> bool {
        self.current.is_none() && self.rolled.is_empty()
    }

    /// The note that says all this; empty if there is nothing to say.
    pub(crate) fn note(&self, suffix: &str) -> Vec<u8> {
        let rolled = self.rolled.iter().map(|rolled| (rolled.name, rolled.length));
        let current = self.current.iter().map(|current| (current.name, current.bytes));
        let mut out = Vec::new();
        for (name, length) in rolled.chain(current) {
            if out.is_empty() {
                out.extend_from_slice(MAGIC);
            }
            out.extend_from_slice(&name.instance.to_le_bytes());
            out.extend_from_slice(&name.run.to_le_bytes());
            out.extend_from_slice(&name.number.to_le_bytes());
            out.extend_from_slice(&length.to_le_bytes());
            out.push(suffix.len() as u8);
            out.extend_from_slice(suffix.as_bytes());
        }
        out
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    const FIRST: Name = Name { instance: 3, run: 40, number: 0 };

    #[test]
    fn hidden_names_are_known_again_and_only_ours() {
        let visible = FIRST.visible(".csv.gz");
        let name = hidden(&visible, 7, INPROGRESS);
        assert_eq!(name, ".part-3-40-0.csv.gz.0000000000000007.inprogress");
        assert_eq!(unhidden(&name, 7), Some((&*visible, INPROGRESS)));
        assert_eq!(Name::parse(&visible), Some(FIRST));
        for other in [&visible, ".part-7.lock", ".part-3-40-x.0000000000000007.open", "a", "."] {
            assert_eq!(unhidden(other, 7), None, "{other}");
        }
        assert_eq!(unhidden(&name, 8), None);
    }

    #[test]
    fn a_part_is_due_when_the_epoch_that_holds_all_of_it_exists() {
        let mut parts = Parts::new(FIRST, true);
        parts.append(10);
        parts.seal(Epoch::new(1));
        parts.append(5);
        assert_eq!(parts.roll(), Some(FIRST));
        assert!(parts.has_unsealed());
        parts.commit(Epoch::new(1));
        assert!(parts.due().is_empty());
        parts.seal(Epoch::new(2));
        // Given up: the next one covers it.
        parts.append(7);
        parts.seal(Epoch::new(3));
        parts.roll();
        assert!(!parts.has_unsealed());
        parts.commit(Epoch::new(3));
        assert_eq!(parts.due().len(), 2);
        assert!(parts.due().is_empty());
        parts.renamed(2);
        assert!(
            parts.seen() == 2
                && parts.all_seen()
                && parts.all_due_seen()
                && parts.note("").is_empty()
        );
    }

    /// The format is stored. To write the file again after a *new* version was added, run this test with
    /// `THALWEG_GOLDEN=write`; files of old versions stay.
    #[test]
    fn a_note_of_version_1_can_be_read_for_ever() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/parts-v1.note");
        let mut parts = Parts::new(FIRST, true);
        parts.append(10);
        parts.roll();
        parts.append(1 << 40);
        let note = parts.note(".csv");
        if std::env::var_os("THALWEG_GOLDEN").is_some() {
            std::fs::write(path, &note).unwrap();
        }
        let golden = std::fs::read(path).unwrap();
        let expected = [("part-3-40-0.csv", 10), ("part-3-40-1.csv", 1 << 40)];
        let expected = expected.map(|(visible, length)| Noted { visible: visible.into(), length });
        assert_eq!(read_note(&golden).unwrap(), expected);
        assert_eq!(golden, note);
        for end in 0..golden.len() {
            assert!(read_note(&golden[..end]).is_none_or(|parts| parts.len() < 2));
        }
    }
}
