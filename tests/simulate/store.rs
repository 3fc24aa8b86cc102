//! A store that keeps whole epochs or nothing. It has a base, in which shards read, and the blocks of epochs
//! that are not folded into the base yet. One seed in sixteen has the engine's own store instead.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use thalweg_flow::{OpenReader, ShardSnapshot};
use thalweg_kernel::{
    Change, Changes, Epoch, KeyGroups, StateError, StateId, StateInfo, StateKind, StateReader, Str,
    Timestamp,
};
use thalweg_runtime::protocol::Complete;
use thalweg_store::{EpochRecord, FoldPolicy, Folding, Resume, Store as LmdbStore, StoreOptions};

use super::faults::Defect;
use super::ledger::Ledger;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module. Clones are the same store.
#[derive(Clone)]
pub(crate) struct Store {
    kept: Kept,
    ledger: Ledger,
    retained: u64,
    defect: Option<Defect>,
}

#[derive(Clone)]
enum Kept {
    Simple(Arc<Mutex<Stored>>),
    /// The engine's own, on a real file system.
    Real(Arc<Mutex<RealStore>>),
}

#[derive(Default)]
struct Stored {
    newest: Epoch,
    folded: Epoch,
    base: Entries,
    unfolded: VecDeque<(Epoch, Vec<Vec<u8>>)>,
    states: Arc<[StateInfo]>,
    /// As of the epoch before the newest, for a defect.
    stale: Option<(Epoch, Entries)>,
}

impl Store {
    /// An empty store, from which `retained` epochs before the newest can be restored. `real` asks for the engine's.
    pub(crate) fn new(ledger: Ledger, retained: u64, defect: Option<Defect>, real: bool) -> Self {
        let kept = if real {
            Kept::Real(Arc::new(Mutex::new(RealStore::new(retained))))
        } else {
            Kept::Simple(Arc::default())
        };
        Self { kept, ledger, retained, defect }
    }

    pub(crate) fn newest(&self) -> Epoch {
        match &self.kept {
            Kept::Simple(stored) => locked(stored).newest,
            Kept::Real(store) => locked(store).open().newest(),
        }
    }

    /// The number of the next epoch.
    pub(crate) fn next(&self) -> Epoch {
        match &self.kept {
            Kept::Simple(_) => self.newest().next(),
            Kept::Real(store) => locked(store).open().next(),
        }
    }

    /// The oldest epoch that can be restored.
    pub(crate) fn oldest(&self) -> Epoch {
        match &self.kept {
            Kept::Simple(_) => {
                let newest = self.newest().number();
                Epoch::new(newest.saturating_sub(self.retained).max(newest.min(1)))
            }
            Kept::Real(store) => locked(store).open().oldest(),
        }
    }

    /// Stores an epoch. `dies`: the process ends in the middle of it.
    pub(crate) fn commit(&self, complete: Complete, dies: bool) {
        let (epoch, newest) = (complete.epoch, self.newest());
        if epoch <= newest {
            self.ledger.violation(format!("epoch {epoch} is stored after epoch {newest}"));
        }
        match &self.kept {
            Kept::Simple(stored) => self.commit_simple(&mut locked(stored), complete, dies),
            Kept::Real(store) => locked(store).commit(complete),
        }
        self.ledger.set_oldest(self.oldest());
    }

    fn commit_simple(&self, stored: &mut Stored, complete: Complete, dies: bool) {
        let Complete { epoch, mut blocks, states, .. } = complete;
        if self.defect == Some(Defect::StaleEpoch) {
            stored.fold(usize::MAX);
            stored.stale = Some((stored.newest, stored.base.clone()));
        }
        if dies && self.defect == Some(Defect::HalfEpoch) {
            blocks.truncate(1);
        }
        stored.unfolded.push_back((epoch, blocks));
        (stored.newest, stored.states) = (epoch, states);
    }

    /// A change of `snapshot` that changes what the newest epoch holds, if there is one. What has expired may leave the store
    /// at any time: so of keyed state only what is put counts.
    pub(crate) fn news(&self, snapshot: &ShardSnapshot) -> Option<String> {
        let Kept::Simple(stored) = &self.kept else { return None };
        let stored = locked(stored);
        let state_of = |key: &[u8]| {
            let of = |state: &&StateInfo| key.starts_with(&state.id.number().to_be_bytes());
            snapshot.states.iter().find(of)
        };
        for change in Changes::read(&snapshot.changes) {
            let (key, value) = match change {
                Ok(Change::Put { key, value }) => (key, Some(value)),
                Ok(Change::Delete { key }) => (key, None),
                Ok(Change::DeleteRange { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            let state = state_of(key);
            let of_keys = [StateKind::Keyed, StateKind::Map, StateKind::List];
            let may_expire = state.is_none_or(|state| of_keys.contains(&state.kind));
            if stored.value(key).as_deref() != value && (value.is_some() || !may_expire) {
                let name = state.map(|state| format!("{}/{}", state.operator, state.name));
                return Some(format!(
                    "{} of {name:?}",
                    if value.is_some() { "a put" } else { "a delete" }
                ));
            }
        }
        None
    }

    /// Folds this many epochs into the base; whether more are left.
    pub(crate) fn fold(&self, epochs: usize) -> bool {
        match &self.kept {
            Kept::Simple(stored) => {
                let mut stored = locked(stored);
                stored.fold(epochs);
                !stored.unfolded.is_empty()
            }
            Kept::Real(store) => {
                let more = locked(store).fold(epochs);
                // What is folded can be restored as one only.
                self.ledger.set_oldest(self.oldest());
                more
            }
        }
    }

    /// Opens what the newest epoch holds, for a life that begins. No shard of an earlier life is left.
    pub(crate) fn open(&self) -> OpenReader {
        let stored = match &self.kept {
            Kept::Simple(stored) => stored,
            Kept::Real(store) => {
                let store = Arc::clone(store);
                locked(&store).reopen();
                self.ledger.set_oldest(self.oldest());
                return Arc::new(move || -> Result<Box<dyn StateReader>, StateError> {
                    Ok(locked(&store).open().reader())
                });
            }
        };
        let (readers, mut stored) = (Arc::clone(stored), locked(stored));
        stored.fold(usize::MAX);
        if let Some((epoch, entries)) = stored.stale.take() {
            (stored.newest, stored.folded, stored.base) = (epoch, epoch, entries);
        }
        let (restored, states) = (stored.newest, Arc::clone(&stored.states));
        Arc::new(move || -> Result<Box<dyn StateReader>, StateError> {
            let (stored, states) = (Arc::clone(&readers), Arc::clone(&states));
            Ok(Box::new(Reader { stored, restored, states }))
        })
    }

    /// All that the newest epoch holds. Only while no life is.
    fn look(&self) -> (Vec<StateInfo>, Entries) {
        let reader = match (self.open())() {
            Ok(reader) => reader,
            Err(error) => panic!("{error}"),
        };
        let mut entries = Entries::new();
        let mut each = |key: &[u8], value: &[u8]| {
            entries.insert(key.into(), value.into());
            Ok(())
        };
        if let Err(error) = reader.scan(&[0; 8], &[u8::MAX; 16], &mut each) {
            panic!("{error}");
        }
        (reader.states().to_vec(), entries)
    }

    /// The sum of the numbers in an operator's list. Only while no life is.
    pub(crate) fn sum(&self, operator: &str, list: &str) -> u64 {
        let prefix = StateId::of(operator, list).number().to_be_bytes();
        let (_, entries) = self.look();
        let items =
            entries.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(&prefix));
        items.map(|(_, item)| item.as_slice().try_into().map_or(0, u64::from_le_bytes)).sum()
    }

    /// The states of these kinds that still hold something: operator, state, entries. Only while no life is.
    pub(crate) fn left(&self, kinds: &[StateKind]) -> Vec<(Str, Str, usize)> {
        let (states, entries) = self.look();
        let of_kind = states.iter().filter(|state| kinds.contains(&state.kind));
        let counted = of_kind.map(|state| {
            let prefix = state.id.number().to_be_bytes();
            let entries = entries.range(prefix.to_vec()..);
            let count = entries.take_while(|(key, _)| key.starts_with(&prefix)).count();
            (state.operator.clone(), state.name.clone(), count)
        });
        counted.filter(|(_, _, count)| *count > 0).collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's store in a directory of its own, in memory where that is to be had. A crash of the process is a store
/// that is opened again: what was committed is there, and nothing of an epoch that was not.
struct RealStore {
    dir: TempDir,
    options: StoreOptions,
    store: Option<LmdbStore>,
}

impl RealStore {
    fn new(retained: u64) -> Self {
        // Small, so that folds come often, and take more than one step.
        let fold = FoldPolicy { bytes_min: 2_048, bytes_max: 1 << 20, base_ratio: 0.5 };
        let retained = 1 + retained as usize;
        let options = StoreOptions { map_bytes: 256 << 20, retained, fold, fold_changes_max: 16 };
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            TempDir::with_prefix_in("thalweg-simulated-", memory)
        } else {
            TempDir::with_prefix("thalweg-simulated-")
        };
        let dir = dir.unwrap_or_else(|error| panic!("no directory for a store: {error}"));
        let mut new = Self { dir, options, store: None };
        new.reopen();
        new
    }

    fn reopen(&mut self) {
        // One process has a directory open once.
        self.store = None;
        match LmdbStore::open(self.dir.path(), self.options, Resume::Newest) {
            Ok(store) => self.store = Some(store),
            Err(error) => panic!("the store does not open: {error}"),
        }
    }

    fn open(&mut self) -> &mut LmdbStore {
        match &mut self.store {
            Some(store) => store,
            None => panic!("the store is closed"),
        }
    }

    fn commit(&mut self, complete: Complete) {
        let Complete { epoch, blocks, states, .. } = complete;
        let directory = self.open().identity().0;
        let record = EpochRecord {
            epoch,
            job: "simulated".into(),
            key_groups: KeyGroups::default().count(),
            shards: blocks.len() as u32,
            at: Timestamp::default(),
            states: states.to_vec(),
            counts: BTreeMap::new(),
            oldest: Epoch::NONE,
            directory,
        };
        let blocks: Vec<_> = blocks.iter().map(Vec::as_slice).collect();
        if let Err(error) = self.open().commit(record, &blocks) {
            panic!("epoch {epoch} is not stored: {error}");
        }
    }

    fn fold(&mut self, steps: usize) -> bool {
        // Each step ends a run or does some of one, so this comes to an end.
        for _ in 0..steps {
            match self.open().fold(steps == usize::MAX) {
                Ok(Folding::More) => {}
                Ok(Folding::Idle | Folding::Done(_)) => return false,
                Err(error) => panic!("the store does not fold: {error}"),
            }
        }
        true
    }
}

impl Stored {
    /// What the newest epoch holds under a key.
    fn value(&self, wanted: &[u8]) -> Option<Vec<u8>> {
        let blocks = self.unfolded.iter().rev().flat_map(|(_, blocks)| blocks.iter().rev());
        for block in blocks {
            let mut last = None;
            for change in Changes::read(block) {
                match change {
                    Ok(Change::Put { key, value }) if key == wanted => last = Some(Some(value)),
                    Ok(Change::Delete { key }) if key == wanted => last = Some(None),
                    Ok(Change::DeleteRange { from, to }) if from <= wanted && wanted < to => {
                        last = Some(None);
                    }
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            if let Some(value) = last {
                return value.map(<[u8]>::to_vec);
            }
        }
        self.base.get(wanted).cloned()
    }

    fn fold(&mut self, epochs: usize) {
        for (epoch, blocks) in self.unfolded.drain(..epochs.min(self.unfolded.len())) {
            for change in blocks.iter().flat_map(|block| Changes::read(block)) {
                match change {
                    Ok(Change::Put { key, value }) => {
                        self.base.insert(key.into(), value.into());
                    }
                    Ok(Change::Delete { key }) => {
                        self.base.remove(key);
                    }
                    Ok(Change::DeleteRange { from, to }) => {
                        self.base.retain(|key, _| !(from <= key.as_slice() && key.as_slice() < to));
                    }
                    // The simulator damages no block.
                    Err(error) => panic!("{error}"),
                }
            }
            self.folded = epoch;
        }
    }
}

struct Reader {
    stored: Arc<Mutex<Stored>>,
    restored: Epoch,
    states: Arc<[StateInfo]>,
}

impl StateReader for Reader {
    fn restored(&self) -> Option<Epoch> {
        Some(self.restored).filter(|&epoch| epoch > Epoch::NONE)
    }

    fn states(&self) -> &[StateInfo] {
        &self.states
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        // Copied out: `each` may ask again.
        let stored = locked(&self.stored);
        let range = stored.base.range(from.to_vec()..to.to_vec());
        let range: Vec<_> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
        drop(stored);
        range.iter().try_for_each(|(key, value)| each(key, value))
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        let value = locked(&self.stored).base.get(key).cloned();
        value.map_or(Ok(false), |value| found(&value).map(|()| true))
    }

    fn readable(&self) -> Epoch {
        locked(&self.stored).folded
    }
}
