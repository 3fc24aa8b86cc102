//! A store that keeps whole epochs or nothing: a base, in which shards read, and the blocks of epochs
//! that are not folded into it yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thalweg_flow::OpenReader;
use thalweg_kernel::{
    Change, Changes, Epoch, StateError, StateId, StateInfo, StateKind, StateReader, Str,
};
use thalweg_runtime::protocol::Complete;

use super::faults::Defect;
use super::ledger::Ledger;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module. Clones are the same store.
#[derive(Clone)]
pub(crate) struct Store {
    stored: Arc<Mutex<Stored>>,
    ledger: Ledger,
    retained: u64,
    defect: Option<Defect>,
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
    /// An empty store. So many epochs can be restored.
    pub(crate) fn new(ledger: Ledger, retained: u64, defect: Option<Defect>) -> Self {
        Self { stored: Arc::default(), ledger, retained, defect }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn newest(&self) -> Epoch {
        self.stored().newest
    }

    /// The number of the next epoch.
    pub(crate) fn next(&self) -> Epoch {
        self.newest().next()
    }

    /// The oldest epoch that can be restored.
    pub(crate) fn oldest(&self) -> Epoch {
        let newest = self.newest().number();
        Epoch::new(newest.saturating_sub(self.retained).max(newest.min(1)))
    }

    /// Stores an epoch. `dies`: the process ends in the middle of it.
    pub(crate) fn commit(&self, complete: Complete, dies: bool) {
        let Complete { epoch, mut blocks, states, .. } = complete;
        let mut stored = self.stored();
        if epoch <= stored.newest {
            let newest = stored.newest;
            self.ledger.violation(format!("epoch {epoch} is stored after epoch {newest}"));
        }
        if self.defect == Some(Defect::StaleEpoch) {
            stored.fold(usize::MAX);
            stored.stale = Some((stored.newest, stored.base.clone()));
        }
        if dies && self.defect == Some(Defect::HalfEpoch) {
            blocks.truncate(1);
        }
        stored.unfolded.push_back((epoch, blocks));
        (stored.newest, stored.states) = (epoch, states);
        drop(stored);
        self.ledger.set_oldest(self.oldest());
    }

    /// Folds so many epochs into the base; whether more are left.
    pub(crate) fn fold(&self, epochs: usize) -> bool {
        let mut stored = self.stored();
        stored.fold(epochs);
        !stored.unfolded.is_empty()
    }

    /// Opens what the newest epoch holds.
    pub(crate) fn open(&self) -> OpenReader {
        let mut stored = self.stored();
        stored.fold(usize::MAX);
        if let Some((epoch, entries)) = stored.stale.take() {
            (stored.newest, stored.folded, stored.base) = (epoch, epoch, entries);
        }
        let (store, restored, states) = (self.clone(), stored.newest, Arc::clone(&stored.states));
        Arc::new(move || -> Result<Box<dyn StateReader>, StateError> {
            Ok(Box::new(Reader { store: store.clone(), restored, states: Arc::clone(&states) }))
        })
    }

    /// The sum of the numbers in an operator's list.
    pub(crate) fn sum(&self, operator: &str, list: &str) -> u64 {
        let mut stored = self.stored();
        stored.fold(usize::MAX);
        let prefix = StateId::of(operator, list).number().to_be_bytes();
        let entries = stored.base.range(prefix.to_vec()..);
        let items = entries.take_while(|(key, _)| key.starts_with(&prefix));
        items.map(|(_, item)| item.as_slice().try_into().map_or(0, u64::from_le_bytes)).sum()
    }

    /// The states of these kinds that still hold something: operator, state, entries.
    pub(crate) fn left(&self, kinds: &[StateKind]) -> Vec<(Str, Str, usize)> {
        let mut stored = self.stored();
        stored.fold(usize::MAX);
        let of_kind = stored.states.iter().filter(|state| kinds.contains(&state.kind));
        let counted = of_kind.map(|state| {
            let prefix = state.id.number().to_be_bytes();
            let entries = stored.base.range(prefix.to_vec()..);
            let count = entries.take_while(|(key, _)| key.starts_with(&prefix)).count();
            (state.operator.clone(), state.name.clone(), count)
        });
        counted.filter(|(_, _, count)| *count > 0).collect()
    }
}

impl Stored {
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
    store: Store,
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
        let stored = self.store.stored();
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
        let value = self.store.stored().base.get(key).cloned();
        value.map_or(Ok(false), |value| found(&value).map(|()| true))
    }

    fn readable(&self) -> Epoch {
        self.store.stored().folded
    }
}
