//! [`StoreReader`]: the base, read in place by the threads of shards.
//!
//! # What a reader sees
//! The base alone, and always the newest one. Folding goes on while shards run. So a value may be newer than the
//! epoch the job resumed from, and different keys may be of different epochs. That is sound under one contract.
//! **A shard asks only for keys that it has not changed since the job began, or whose last change is in a
//! [`readable`](StateReader::readable) epoch.** (Deleting a range changes every key in it.) A key of the first
//! kind has one value in every epoch. A key of the second kind has one value in every base from that epoch on. All
//! other keys are in the shard's memory, and stay there until they are readable.
//!
//! # Transactions
//! A read transaction shows one snapshot and keeps its pages from being used again: held over many commits
//! it would let the file grow. Beginning one for every get makes a random get up to a third slower. So a reader
//! keeps one until the next commit, which takes it away; a scan has its own, for as long as it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use heed::{RoTxn, WithoutTls};
use thalweg_kernel::{Epoch, StateError, StateInfo, StateReader};

use crate::StoreError;
use crate::base::Base;
use crate::env::Env;

type Txn = RoTxn<'static, WithoutTls>;

/// Where a reader keeps its transaction, with the commit it began after.
type Slot = Mutex<Option<(Txn, u64)>>;

/// What the store and its readers share.
pub(crate) struct Snapshots {
    /// The number of commits since the store was opened.
    commits: AtomicU64,
    /// The base holds all that was changed up to this epoch.
    folded: AtomicU64,
    slots: Mutex<Vec<Weak<Slot>>>,
}

/// A panic while one of our locks is held leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    pub(crate) fn new(folded: Epoch) -> Self {
        Self {
            commits: AtomicU64::new(0),
            folded: AtomicU64::new(folded.number()),
            slots: Mutex::default(),
        }
    }

    /// A transaction has been committed: readers begin anew.
    pub(crate) fn committed(&self) {
        // Counted first: a reader that puts its transaction back after this loop sees the new count.
        self.commits.fetch_add(1, Ordering::Release);
        lock(&self.slots).retain(|slot| match slot.upgrade() {
            Some(slot) => {
                drop(lock(&slot).take());
                true
            }
            None => false,
        });
    }

    /// The base holds all that was changed up to `epoch`, and [`committed`](Self::committed) was told.
    pub(crate) fn publish(&self, epoch: Epoch) {
        self.folded.store(epoch.number(), Ordering::Release);
    }
}

/// Reads stored state. One for each shard.
pub(crate) struct StoreReader {
    // Dropped first: the transaction holds on to the environment.
    slot: Arc<Slot>,
    snapshots: Arc<Snapshots>,
    base: Base,
    env: Env,
    restored: Option<Epoch>,
    states: Arc<[StateInfo]>,
    /// Keeps the directory locked as long as the environment is open.
    _owner: Arc<crate::lock::DirLock>,
}

impl StoreReader {
    pub(crate) fn new(
        snapshots: &Arc<Snapshots>,
        (env, base): (&Env, Base),
        (restored, states): (Option<Epoch>, &Arc<[StateInfo]>),
        owner: &Arc<crate::lock::DirLock>,
    ) -> Self {
        let slot = Arc::new(Slot::default());
        lock(&snapshots.slots).push(Arc::downgrade(&slot));
        Self {
            slot,
            snapshots: Arc::clone(snapshots),
            base,
            env: env.clone(),
            restored,
            states: Arc::clone(states),
            _owner: Arc::clone(owner),
        }
    }

    fn begin(&self) -> Result<(Txn, u64), StoreError> {
        let commits = self.snapshots.commits.load(Ordering::Acquire);
        let txn = self.env.clone().static_read_txn();
        let txn =
            txn.map_err(|error| StoreError::lmdb("cannot begin to read the state", &error))?;
        Ok((txn, commits))
    }

    /// The transaction that is kept, if it is current, else a new one. It is taken out, not borrowed, so
    /// that whoever looks at a value may get another one.
    fn take(&self) -> Result<(Txn, u64), StoreError> {
        let kept = lock(&self.slot).take();
        match kept {
            Some(kept) if kept.1 == self.snapshots.commits.load(Ordering::Acquire) => Ok(kept),
            _ => self.begin(),
        }
    }

    fn put_back(&self, (txn, commits): (Txn, u64)) {
        let mut slot = lock(&self.slot);
        if commits == self.snapshots.commits.load(Ordering::Acquire) {
            *slot = Some((txn, commits));
        }
    }
}

impl StateReader for StoreReader {
    fn restored(&self) -> Option<Epoch> {
        self.restored
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
        let (txn, _) = self.begin()?;
        for entry in self.base.scan(&txn, from, to)? {
            let (key, value) = entry?;
            each(key, value)?;
        }
        Ok(())
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        let txn = self.take()?;
        let value = self.base.get(&txn.0, key)?;
        let was_there = value.is_some();
        if let Some(value) = value {
            found(value)?;
        }
        self.put_back(txn);
        Ok(was_there)
    }

    fn readable(&self) -> Epoch {
        Epoch::new(self.snapshots.folded.load(Ordering::Acquire))
    }
}
