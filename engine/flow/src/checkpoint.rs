//! Checkpoints as a shard sees them: which states there are, what they were restored from, and what they
//! have changed.
//!
//! # The way of a barrier
//! A shard is told to [begin](crate::Shard::begin) an epoch. Its sources note their positions and emit a
//! barrier, which takes its place among their records. An operator with several inputs reads nothing behind the
//! barrier until all inputs have brought it. Then it hands over what its state has changed, and
//! passes the barrier on. A sink seals what it was given.
//!
//! The shard gives the supervisor a [`ShardSnapshot`] when the barrier has passed every pipeline, and what the
//! connectors hold would survive a crash. Once the snapshots of all shards are stored the epoch exists, and sinks
//! commit it.
//!
//! Epochs follow one another: none begins before every shard has handed over its predecessor. So changes
//! gather in one block. A snapshot whose epoch is not stored loses nothing, as long as its changes are stored
//! with the next one, in order.
//!
//! # Names
//! State is found again by the stable name of its operator (see [`Stream::uid`](crate::Stream::uid)) and
//! its own name within the operator. An operator without a name is known by its kind, and by its number among the
//! operators of that kind. So operators of other kinds may come and go. When its kind has one more, nobody can tell
//! which of them was there before. Such a job does not start from stored state until its operators are named.

mod catalogue;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Changes, ConnectorError, Durable, Epoch, Journals, KeyGroups, Lineage, StateError, StateId,
    StateInfo, StateKind, StateReader, StateWriter, ValueDamaged,
};

use self::catalogue::Fate;
pub(crate) use self::catalogue::{Description, Reads, types_of};
use crate::at_end::{AtEnd, Ending};
use crate::pressure::Takes;
use crate::uid::Uid;

/// A block up to this size is copied, and its buffer is used again. A larger block is given away, so that memory does not
/// hold it twice.
const BLOCK_COPIED_BYTES_MAX: usize = 64 * 1_024;
/// What was handed over in this many epochs is told apart while storage cannot give it back.
const UNREADABLE_EPOCHS_MAX: usize = 64;

/// Where a job's state lives. Without one a job takes no checkpoints.
#[derive(Clone)]
pub struct Storage {
    /// Opens stored state for one shard.
    pub reader: OpenReader,
    /// Opens journals.
    pub journals: Option<Arc<dyn Journals>>,
    /// Whose epochs they are.
    pub lineage: Lineage,
    /// What may be dropped of stored state.
    pub allowed: Permissions,
}

/// What may be dropped of stored state for which a job has no use. Without a permission such a job does not start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Whether stored state that the job has no operator for is dropped.
    pub drop_unknown: bool,
    /// The states that begin anew, as `OPERATOR/STATE`, if what is stored of them does not fit the job. Those that
    /// fit are kept.
    pub begin_anew: Vec<String>,
}

/// Opens stored state for one shard.
pub type OpenReader = Arc<dyn Fn() -> Result<Box<dyn StateReader>, StateError> + Send + Sync>;

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("journals", &self.journals).finish_non_exhaustive()
    }
}

/// What a shard has to say about an epoch.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// The epoch.
    pub epoch: Epoch,
    /// The shard.
    pub shard: usize,
    /// What has changed since the epoch before, as the bytes of [`Changes`].
    pub changes: Vec<u8>,
    /// All states of the job: the same on every shard.
    pub states: Arc<[StateInfo]>,
    /// State takes more memory than it may, and could give some back if it were readable in storage.
    pub crowded: bool,
    /// Whether anything has moved on the shard since the epoch before. If not, `changes` puts nothing that is not stored
    /// already.
    pub moved: bool,
}

/// Which part of stored state an instance of an operator is for.
pub(crate) struct Stored<'a> {
    pub(crate) reader: &'a dyn StateReader,
    /// The key groups of this shard.
    pub(crate) groups: Range<u16>,
}

impl Stored<'_> {
    /// The schema that a state was stored with, if it was.
    pub(crate) fn schema(&self, id: StateId) -> Option<u32> {
        self.reader.states().iter().find(|state| state.id == id).map(|state| state.schema)
    }

    /// What a state was stored as, if it was.
    pub(crate) fn kind(&self, id: StateId) -> Option<StateKind> {
        self.reader.states().iter().find(|state| state.id == id).map(|state| state.kind)
    }

    /// Gives `each` the entries of the shard's own groups: group, own part of the key, value.
    pub(crate) fn own(
        &self,
        id: StateId,
        each: &mut dyn FnMut(u16, &[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut groups = self.groups.clone();
        if seeded(Defect::FlowForgetsKeyGroup) {
            groups.end = groups.end.saturating_sub(1).max(groups.start);
        }
        self.scan(id, groups, each)
    }

    /// Gives `each` the entries of `groups`, as [`own`](Self::own) does.
    pub(crate) fn scan(
        &self,
        id: StateId,
        groups: Range<u16>,
        each: &mut dyn FnMut(u16, &[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let (from, to) = id.range(groups);
        self.reader.scan(&from, &to, &mut |key, value| match StateId::split_key(key) {
            Some((group, rest)) => each(group, rest, value),
            None => Err(StateError::Other("a stored key is too short to be one".into())),
        })
    }
}

/// Stored state as a state finds it that begins anew in a job that goes on: nothing of it, at that time.
struct Anew {
    restored: Option<Epoch>,
    readable: Epoch,
}

impl StateReader for Anew {
    fn restored(&self) -> Option<Epoch> {
        self.restored
    }

    fn states(&self) -> &[StateInfo] {
        &[]
    }

    fn scan(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        Ok(())
    }

    fn get(
        &self,
        _: &[u8],
        _: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        Ok(false)
    }

    fn readable(&self) -> Epoch {
        self.readable
    }
}

/// Something that is kept: part of an operator, shared with whoever fills it.
pub(crate) trait Stateful {
    /// Its number in storage is known, and what was stored, if the job resumes.
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError>;

    /// Writes what has changed since the epoch before. What changes from now on belongs to the next one.
    fn snapshot(&mut self, epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged>;

    /// What it takes of the shard's account of memory: at hand at any time, without the room for more. By default
    /// nothing, for what is as small as its operator.
    fn takes(&mut self) -> Takes {
        Takes::default()
    }

    /// How many bytes of its memory storage could give back one day. The room that buffers have for more counts, and
    /// finding it may take a walk over a part of the state.
    fn memory_bytes(&self) -> usize {
        0
    }

    /// Drops from memory what storage can give back, until about `_bytes` are left. Storage can give back what changed
    /// last in an epoch up to `_readable`. The search ends early where it takes long; returns whether it has found
    /// all that can be dropped.
    fn shrink_to(&mut self, _readable: Epoch, _bytes: usize) -> bool {
        true
    }
}

/// The changes of the open epoch, under construction.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) changes: Changes,
    pub(crate) writer: StateWriter,
    /// The bytes in this block of keys that release 0.1 stored in one piece, for all states.
    pub(crate) piece_bytes: usize,
}

impl Outgoing {
    /// Puts a value under the key that `key` writes.
    #[inline]
    pub(crate) fn put(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>),
        value: &impl Durable,
    ) -> Result<(), ValueDamaged> {
        self.put_with(key, |writer, out| writer.write(out, value))
    }

    /// Puts the value that `value` writes under the key that `key` writes.
    #[inline]
    pub(crate) fn put_with(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut StateWriter, Vec<u8>) -> Result<Vec<u8>, ValueDamaged>,
    ) -> Result<(), ValueDamaged> {
        let Self { changes, writer, .. } = self;
        let mut failed = None;
        changes.put_with(key, |out| {
            value(writer, out).unwrap_or_else(|error| {
                failed = Some(error);
                Vec::new()
            })
        });
        failed.map_or(Ok(()), Err)
    }
}

struct Registered {
    description: Description,
    id: StateId,
    /// `None` where the operator does not run. Its operator owns it: states know of their shard's checkpoints, and
    /// would keep each other and their readers of the store alive for ever.
    part: Option<Weak<RefCell<dyn Stateful>>>,
}

impl Registered {
    fn part(&self) -> Option<Rc<RefCell<dyn Stateful>>> {
        self.part.as_ref()?.upgrade()
    }
}

/// The states of a shard's operators, and the epoch in the making.
pub(crate) struct Checkpoints {
    enabled: bool,
    groups: KeyGroups,
    shard: usize,
    states: RefCell<Vec<Registered>>,
    out: RefCell<Outgoing>,
    /// A value that could not be written or read; reported with the next step.
    failed: Cell<Option<StateError>>,
    memory_bytes_max: usize,
    readable: Cell<Epoch>,
    /// About how many bytes of state had changed in each epoch that storage could not give back yet, the oldest first.
    handed_over: RefCell<VecDeque<(Epoch, usize)>>,
    /// What becomes of open windows when the input has ended, and how far sources have come with that.
    at_end: Cell<AtEnd>,
    ending: Arc<Ending>,
    /// A source waits for an epoch with which it can end.
    wants_end: Cell<bool>,
}

impl Checkpoints {
    pub(crate) fn new(
        enabled: bool,
        groups: KeyGroups,
        shard: usize,
        memory_bytes_max: usize,
    ) -> Self {
        Self {
            enabled,
            groups,
            shard,
            states: RefCell::default(),
            out: RefCell::default(),
            failed: Cell::new(None),
            memory_bytes_max,
            readable: Cell::new(Epoch::NONE),
            handed_over: RefCell::default(),
            at_end: Cell::default(),
            ending: Arc::default(),
            wants_end: Cell::new(false),
        }
    }

    /// Those of a job whose sources end together.
    pub(crate) fn with_ending(self, ending: Arc<Ending>) -> Self {
        Self { ending, ..self }
    }

    /// What becomes of open windows when the input has ended.
    pub(crate) fn at_end(&self) -> &Cell<AtEnd> {
        &self.at_end
    }

    /// How far the sources of the job have come with their end.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Whether a source of this shard waits for an epoch with which it can end.
    pub(crate) fn wants_end(&self) -> &Cell<bool> {
        &self.wants_end
    }

    /// Whether state is what an earlier epoch holds: what has become of it since is to be forgotten.
    fn has_ended_before(&self, epoch: Epoch) -> bool {
        self.at_end.get() != AtEnd::Finish
            && self.ending.last().is_some_and(|last| last < epoch)
            && !seeded(Defect::FlowEndTakesWindows)
    }

    /// How much memory state may take on a shard.
    pub(crate) fn memory_bytes_max(&self) -> usize {
        self.memory_bytes_max
    }

    /// What was changed up to this epoch can be read from storage.
    pub(crate) fn readable(&self) -> Epoch {
        self.readable.get()
    }

    /// Stored state cannot be read: the job ends.
    #[cold]
    pub(crate) fn fail(&self, error: StateError) {
        self.failed.set(Some(error));
    }

    /// The error of a state, if there was one.
    pub(crate) fn check(&self) -> Result<(), ConnectorError> {
        match self.failed.take() {
            None => Ok(()),
            Some(error) => Err(ConnectorError::new("state", "it cannot be kept").caused_by(error)),
        }
    }

    /// How much memory the state takes that could leave it, and how much it may take. It may take what the state that
    /// never leaves memory, such as timers and lists of operators, leaves of the shard's account.
    fn account(&self) -> (usize, usize) {
        let states = self.states.borrow();
        let parts = states.iter().filter_map(Registered::part);
        let used = parts.map(|part| part.borrow().memory_bytes()).sum();
        (used, self.memory_bytes_max.saturating_sub(self.parts_take().fixed))
    }

    fn parts_take(&self) -> Takes {
        let states = self.states.borrow();
        let parts = states.iter().filter_map(Registered::part);
        parts.fold(Takes::default(), |sum, part| sum.and(part.borrow_mut().takes()))
    }

    /// What state takes, about, where storage can give back what was changed up to `readable`. Cheap: for every step.
    pub(crate) fn takes(&self, readable: Epoch) -> Takes {
        let mut handed_over = self.handed_over.borrow_mut();
        while handed_over.front().is_some_and(|(epoch, _)| *epoch <= readable) {
            handed_over.pop_front();
        }
        let unreadable = handed_over.iter().map(|(_, bytes)| bytes).sum();
        Takes { unreadable, ..self.parts_take() }
    }

    /// Whether state takes more memory than it may, and could give some back one day.
    pub(crate) fn is_crowded(&self) -> bool {
        let (used, may) = self.account();
        used > may
    }

    /// Whether the job takes checkpoints.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// The job's key groups.
    pub(crate) fn groups(&self) -> KeyGroups {
        self.groups
    }

    /// The shard.
    pub(crate) fn shard(&self) -> usize {
        self.shard
    }

    /// Adds a state to the job.
    pub(crate) fn register(
        &self,
        description: Description,
        part: Option<Rc<RefCell<dyn Stateful>>>,
    ) {
        let id = StateId::of("", "");
        let part = part.as_ref().map(Rc::downgrade);
        self.states.borrow_mut().push(Registered { description, id, part });
    }

    /// Hands over what a state has changed: its operator has got the barrier.
    pub(crate) fn take<S: Stateful + ?Sized>(&self, part: &RefCell<S>, epoch: Epoch) {
        if self.has_ended_before(epoch) {
            return;
        }
        let mut part = part.borrow_mut();
        self.note_handed_over(epoch, part.takes().changed);
        self.write(|out| part.snapshot(epoch, out));
    }

    fn note_handed_over(&self, epoch: Epoch, bytes: usize) {
        let mut handed_over = self.handed_over.borrow_mut();
        let epochs = handed_over.len();
        match handed_over.back_mut() {
            // Where folding is far behind, the newest ones count as one.
            Some(last) if last.0 == epoch || epochs >= UNREADABLE_EPOCHS_MAX => {
                *last = (epoch, last.1 + bytes);
            }
            _ => handed_over.push_back((epoch, bytes)),
        }
    }

    /// Writes to the open epoch.
    pub(crate) fn write(&self, write: impl FnOnce(&mut Outgoing) -> Result<(), ValueDamaged>) {
        if let Err(error) = write(&mut self.out.borrow_mut()) {
            self.fail(error.into());
        }
    }

    /// Takes what was handed over.
    pub(crate) fn take_changes(&self) -> Result<Vec<u8>, ConnectorError> {
        self.check()?;
        let Outgoing { changes, piece_bytes, .. } = &mut *self.out.borrow_mut();
        *piece_bytes = 0;
        if changes.is_too_long() {
            let what = "a key has more than 65,525 bytes, or a value more than 4 GiB; bound keys where \
                        they come from: `payload_bytes_max` of a decoder does";
            return Err(ConnectorError::new("state", what).lasting());
        }
        if changes.as_bytes().len() > BLOCK_COPIED_BYTES_MAX {
            return Ok(std::mem::take(changes).into_bytes());
        }
        let bytes = changes.as_bytes().to_vec();
        changes.clear();
        Ok(bytes)
    }

    /// What was changed up to `readable` can be read from storage: memory need not keep it.
    pub(crate) fn committed(&self, readable: Epoch) {
        self.readable.set(readable);
        self.shrink(readable);
    }

    /// Drops from memory what is over its bound and can be read from storage. Returns whether nothing is left to drop.
    pub(crate) fn shrink(&self, readable: Epoch) -> bool {
        let (used, may) = self.account();
        if used <= may {
            return true;
        }
        let mut all = true;
        // Each keeps its share.
        for part in self.states.borrow().iter().filter_map(Registered::part) {
            let mut part = part.borrow_mut();
            let bytes = part.memory_bytes() as u128 * may as u128 / used as u128;
            all &= part.shrink_to(readable, bytes as usize);
        }
        all
    }

    /// The description is complete: numbers the states by the stable names of their operators, and
    /// restores them.
    pub(crate) fn complete(
        &self,
        uids: &[Uid],
        storage: Option<(&dyn StateReader, &Permissions)>,
        shards: usize,
    ) -> Result<Arc<[StateInfo]>, ConnectorError> {
        let mut known = HashMap::new();
        let mut ours = Vec::new();
        for state in self.states.borrow_mut().iter_mut() {
            let description = state.description.clone();
            let Description { node, name, kind, schema, types, layout, .. } = description.clone();
            let operator = uids[node as usize].name.clone();
            state.id = StateId::of(&operator, &name);
            if let Some(other) = known.insert(state.id, (operator.clone(), name.clone())) {
                return Err(catalogue::twice(&other, &(operator, name)));
            }
            let (id, layout) = (state.id, Some(layout));
            ours.push((StateInfo { id, operator, name, kind, schema, types, layout }, description));
        }
        let mut dropped = HashSet::new();
        if let Some((reader, allowed)) = storage {
            for stored in reader.states() {
                if catalogue::fate(stored, &ours, allowed)? == Fate::Dropped {
                    dropped.insert(stored.id);
                    self.drop_stored(stored.id);
                }
            }
        }
        let infos: Vec<_> = ours.into_iter().map(|(info, _)| info).collect();
        let groups = self.groups.groups_of(self.shard, shards);
        let stored = storage.map(|(reader, _)| Stored { reader, groups: groups.clone() });
        // What begins anew must know the epoch from which the job goes on, too: what it writes now cannot be read yet.
        let anew = storage
            .map(|(reader, _)| Anew { restored: reader.restored(), readable: reader.readable() });
        let anew = anew.as_ref().map(|anew| Stored { reader: anew, groups });
        if let Some(stored) = &stored {
            catalogue::check_numbered(stored.reader.states(), uids, &infos)?;
        }
        for (state, info) in self.states.borrow().iter().zip(&infos) {
            let Some(part) = state.part() else { continue };
            let from = if dropped.contains(&state.id) { &anew } else { &stored };
            let restored = part.borrow_mut().restore(state.id, from.as_ref());
            restored.map_err(|error| {
                let what = format!("its state {:?} cannot be restored", info.name.as_str());
                ConnectorError::new(info.operator.as_str(), what).caused_by(error)
            })?;
        }
        Ok(infos.into())
    }

    /// Drops all that is stored of a state with the next epoch. (The block of the first shard is the first one: what
    /// any shard writes anew stands behind it.)
    fn drop_stored(&self, id: StateId) {
        if self.shard == 0 {
            let (from, _) = id.range(0..0);
            let (_, mut to) = id.range(0..u16::MAX);
            to.push(u8::MAX);
            self.out.borrow_mut().changes.delete_range(&from, &to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes memory that can leave it, or not.
    struct Part {
        takes: Takes,
        kept: usize,
    }

    impl Stateful for Part {
        fn restore(&mut self, _: StateId, _: Option<&Stored<'_>>) -> Result<(), StateError> {
            Ok(())
        }

        fn snapshot(&mut self, _: Epoch, _: &mut Outgoing) -> Result<(), ValueDamaged> {
            Ok(())
        }

        fn takes(&mut self) -> Takes {
            self.takes
        }

        fn memory_bytes(&self) -> usize {
            self.takes.bytes
        }

        fn shrink_to(&mut self, _: Epoch, bytes: usize) -> bool {
            self.kept = bytes;
            self.takes.bytes != 300
        }
    }

    /// Goal: what can leave memory shares what the rest leaves of the account, in proportion.
    #[test]
    fn all_state_is_in_one_account() {
        for (fixed, kept, crowded) in [
            (0, [usize::MAX; 2], false),
            (600, [usize::MAX; 2], false),
            (800, [150, 50], true),
            (1_000, [0, 0], true),
            (9_000, [0, 0], true),
        ] {
            let checkpoints = Checkpoints::new(true, KeyGroups::default(), 0, 1_000);
            let part = |takes| Rc::new(RefCell::new(Part { takes, kept: usize::MAX }));
            let bytes = |bytes| part(Takes { bytes, ..Takes::default() });
            let (parts, windows) = ([bytes(300), bytes(100)], part(Takes::fixed(fixed)));
            for (n, part) in parts.iter().chain([&windows]).enumerate() {
                let describe = Description::of::<u8, u8>(0, &n.to_string(), StateKind::Keyed);
                checkpoints.register(describe, Some(Rc::clone(part) as _));
            }
            let all = Takes { bytes: 400, fixed, ..Takes::default() };
            assert_eq!(checkpoints.takes(Epoch::NONE), all);
            assert_eq!(checkpoints.is_crowded(), crowded, "{fixed}");
            assert_eq!(checkpoints.shrink(Epoch::NONE), !crowded, "one part is not ready");
            assert_eq!([0, 1].map(|n: usize| parts[n].borrow().kept), kept, "{fixed}");
        }
    }

    /// Goal: what a part hands over awaits storage until storage can give it back, however many epochs that takes.
    #[test]
    fn what_was_handed_over_counts_until_it_is_readable() {
        let checkpoints = Checkpoints::new(true, KeyGroups::default(), 0, 1_000);
        let takes = Takes { bytes: 400, changed: 7, ..Takes::default() };
        let part = RefCell::new(Part { takes, kept: usize::MAX });
        let unreadable = |readable| checkpoints.takes(Epoch::new(readable)).unreadable;
        for epoch in 1..=2 {
            checkpoints.take(&part, Epoch::new(epoch));
            checkpoints.take(&part, Epoch::new(epoch));
        }
        assert_eq!([0, 1, 2].map(unreadable), [28, 14, 0]);
        let epochs = UNREADABLE_EPOCHS_MAX as u64 + 5;
        (1..=epochs).for_each(|epoch| checkpoints.take(&part, Epoch::new(epoch)));
        assert_eq!(unreadable(0), epochs as usize * 7);
        assert_eq!(checkpoints.handed_over.borrow().len(), UNREADABLE_EPOCHS_MAX);
        assert_eq!(unreadable(epochs - 1), 6 * 7, "the newest six count as one");
        assert_eq!(unreadable(epochs), 0);
    }
}
