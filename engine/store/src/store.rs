//! [`Store`]: the owner of a state directory. Opens and recovers it, commits epochs, gives out readers.

pub(crate) mod fold;
pub(crate) mod savepoint;

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use heed::RwTxn;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Change, Changes, Epoch, StateId, StateInfo, StateReader, Str};

use self::fold::Run;
use self::savepoint::Savepoint;
use crate::env::{self, Env};
use crate::lock::{DirLock, sync_dir};
use crate::policy::choose;
use crate::reader::{Snapshots, StoreReader};
use crate::record::{FORMAT, Meta};
use crate::room::Room;
use crate::tables::{Tables, part_key};
use crate::{EpochInfo, EpochRecord, FoldPolicy, Resume, StoreError, stillborn};

/// A block of changes has at most this many bytes.
pub const BLOCK_BYTES_MAX: usize = 1 << 30;

/// Room that is made sure of for an epoch besides its blocks: inner pages, and lists of free ones.
const COMMIT_SLACK_BYTES: u64 = 512 << 10;

/// How a store is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoreOptions {
    /// The most bytes that the state may have on disk. Only address space is reserved; the file grows with the
    /// state. Rounded up to whole pages.
    pub map_bytes: u64,
    /// How many of the newest epochs can be recovered; at least one.
    pub retained: usize,
    /// When the changelog is folded.
    pub fold: FoldPolicy,
    /// The most changes that a step of folding applies: it bounds how long a commit waits.
    pub fold_changes_max: usize,
}

impl Default for StoreOptions {
    /// 64 GiB (1 GiB where addresses have 32 bits), one epoch, 2,048 changes.
    fn default() -> Self {
        let map_bytes = if usize::BITS >= 64 { 64 << 30 } else { 1 << 30 };
        Self { map_bytes, retained: 1, fold: FoldPolicy::default(), fold_changes_max: 2_048 }
    }
}

/// The owner of a state directory.
///
/// Not for sharing: one thread commits and folds, which LMDB would serialise anyway. Shards read through
/// [readers](Self::reader). A call that returned [`StoreError::Failed`] or `Damaged` is the last one: all
/// later ones fail too, and the process must end and recover.
pub struct Store {
    pub(crate) env: Env,
    pub(crate) tables: Tables,
    pub(crate) room: Room,
    pub(crate) options: StoreOptions,
    pub(crate) meta: Meta,
    /// Those that are not folded, and the one that is last of those that are; in order.
    pub(crate) epochs: VecDeque<EpochInfo>,
    pub(crate) run: Option<Run>,
    /// The bytes of the base when folding last ended.
    pub(crate) base_bytes: u64,
    pub(crate) snapshots: Arc<Snapshots>,
    recovered: Option<EpochRecord>,
    states: Arc<[StateInfo]>,
    failed: Option<StoreError>,
    // Dropped last: the directory is ours as long as the environment is open.
    owner: Arc<DirLock>,
}

impl Store {
    /// Opens a state directory, which is made if it does not exist, and recovers the epoch to resume from.
    /// Later epochs are dropped, and everything up to it is folded, so it is the only one kept.
    ///
    /// # Errors
    /// [`InUse`](StoreError::InUse) if it has an owner already, here or in another process.
    /// [`Refused`](StoreError::Refused) if the epoch is not kept or a newer version wrote the directory.
    /// [`Damaged`](StoreError::Damaged) if what is needed of it is. `Full` and `Failed`.
    pub fn open(dir: &Path, options: StoreOptions, resume: Resume) -> Result<Self, StoreError> {
        let mut store = Self::open_as_it_is(dir, options)?;
        if store.meta.importing {
            return Err(StoreError::Refused(format!(
                "the import of a savepoint into {} was cut short: import it again",
                dir.display()
            )));
        }
        let txn = store.read_txn()?;
        let all = store.tables.epochs(&txn)?;
        let recorded: Vec<_> = all.iter().filter(|e| e.recorded).map(|e| e.epoch).collect();
        let mut oldest = Epoch::NONE;
        for &newest in recorded.iter().rev() {
            match store.tables.record(&txn, newest) {
                Ok(record) => {
                    oldest = record.map_or(oldest, |record| record.oldest);
                    break;
                }
                // An older one can still be asked for.
                Err(StoreError::Damaged(_)) if resume != Resume::Newest => {}
                Err(error) => return Err(error),
            }
        }
        let Some(epoch) = choose(&recorded, store.meta.folding, oldest, resume)? else {
            return Ok(store);
        };
        // All that will be needed is looked at before anything is changed.
        let record = store.tables.record(&txn, epoch)?;
        for block in store.tables.blocks(&txn, store.meta.folded, epoch)? {
            block.check()?;
        }
        drop(txn);
        let newest = all.last().map_or(epoch, |info| info.epoch);
        store.forget_later_than(epoch, newest)?;
        store.epochs = all.into_iter().filter(|e| e.epoch <= epoch).collect();
        store.epochs.retain(|e| e.epoch >= store.meta.folded);
        store.states = record.as_ref().map(|r| r.states.as_slice()).unwrap_or_default().into();
        store.recovered = record;
        store.fold_all(epoch)?;
        Ok(store)
    }

    /// Fills an empty state directory from a savepoint, which becomes its first epoch.
    ///
    /// # Errors
    /// [`Refused`](StoreError::Refused) if there is state in the directory already.
    /// [`Damaged`](StoreError::Damaged) if the savepoint is: nothing can be resumed from the directory then,
    /// but another savepoint can be imported.
    pub fn import(
        dir: &Path,
        options: StoreOptions,
        from: &mut Savepoint,
    ) -> Result<Self, StoreError> {
        let mut store = Self::open_as_it_is(dir, options)?;
        let txn = store.read_txn()?;
        let empty = store.tables.epochs(&txn)?.is_empty() && store.meta.folding == Epoch::NONE;
        drop(txn);
        if !(empty || store.meta.importing) {
            return Err(StoreError::Refused(format!(
                "there is state in {}: import into an empty directory, or remove this one",
                dir.display()
            )));
        }
        savepoint::import(&mut store, from)?;
        drop(store);
        Self::open(dir, options, Resume::Newest)
    }

    /// Opens the directory, and sweeps up what was deleted in principle.
    fn open_as_it_is(dir: &Path, mut options: StoreOptions) -> Result<Self, StoreError> {
        options.retained = options.retained.max(1);
        options.fold_changes_max = options.fold_changes_max.max(1);
        let owner = Arc::new(DirLock::acquire(dir)?);
        let page = rustix::param::page_size() as u64;
        let map_bytes = options.map_bytes.max(64 * page).next_multiple_of(page);
        let map_bytes = usize::try_from(map_bytes).map_err(|_| {
            StoreError::Refused(format!(
                "`map_bytes` = {map_bytes} is more than there are addresses"
            ))
        })?;
        stillborn::remove(owner.dir())?;
        let env = env::open(&owner, map_bytes)?;
        let failed = |error| StoreError::lmdb("cannot prepare the state directory", &error);
        env.clear_stale_readers().map_err(failed)?;
        let mut txn = env.write_txn().map_err(failed)?;
        let tables = Tables::create(&env, &mut txn)?;
        let mut meta = match tables.meta(&txn)? {
            Some(meta) => {
                let folded = meta.folded;
                tables.delete_parts(
                    &mut txn,
                    part_key(Epoch::NONE, 0),
                    Bound::Excluded(part_key(folded, 0)),
                )?;
                let last = Bound::Included(part_key(folded, u32::MAX));
                tables.delete_parts(&mut txn, part_key(folded, 1), last)?;
                meta
            }
            None => Meta { format: FORMAT, ..Meta::default() },
        };
        if meta.id.is_empty() {
            // New, or from before directories had ids.
            meta.id = random_id();
            tables.put_meta(&mut txn, &meta)?;
        }
        txn.commit().map_err(failed)?;
        sync_dir(owner.dir())?;
        let mut store = Self {
            room: Room::of(owner.dir())?,
            options,
            snapshots: Arc::new(Snapshots::new(meta.folded)),
            meta,
            epochs: VecDeque::new(),
            run: None,
            base_bytes: 0,
            recovered: None,
            states: Arc::new([]),
            failed: None,
            env,
            tables,
            owner,
        };
        store.base_bytes = store.measure_base()?;
        Ok(store)
    }

    /// Drops the epochs behind `epoch` up to the `newest`, for good.
    fn forget_later_than(&mut self, epoch: Epoch, newest: Epoch) -> Result<(), StoreError> {
        let mut txn = self.write_txn()?;
        let last = Bound::Included(part_key(Epoch::new(u64::MAX), u32::MAX));
        self.tables.delete_parts(&mut txn, part_key(epoch.next(), 0), last)?;
        let meta = Meta {
            folding: self.meta.folding.max(epoch),
            dropped: if newest > epoch { self.meta.dropped.max(newest) } else { self.meta.dropped },
            ..self.meta.clone()
        };
        if meta != self.meta {
            self.tables.put_meta(&mut txn, &meta)?;
        }
        commit(txn)?;
        self.meta = meta;
        Ok(())
    }

    /// The record of the epoch that was recovered; `None` if the job begins anew.
    pub fn recovered(&self) -> Option<&EpochRecord> {
        self.recovered.as_ref()
    }

    /// The random id of the directory, by whose count its epochs are numbered. If a savepoint filled the
    /// directory: the id of the directory that the savepoint was of, with its epoch.
    pub fn identity(&self) -> (Str, Option<(Str, Epoch)>) {
        (self.meta.id.clone(), self.meta.parent.clone())
    }

    /// The newest epoch; [`Epoch::NONE`] before the first.
    pub fn newest(&self) -> Epoch {
        self.epochs.back().map_or(self.meta.folded, |info| info.epoch)
    }

    /// The number for the next epoch, or a greater one: numbers of epochs that were dropped are not used
    /// again, since sinks may remember them.
    pub fn next(&self) -> Epoch {
        if seeded(Defect::StoreReusesEpoch) {
            return self.newest().next();
        }
        self.newest().max(self.meta.dropped).next()
    }

    /// The oldest epoch that can be recovered: journals may be trimmed to its positions.
    pub fn oldest(&self) -> Epoch {
        let retained = if seeded(Defect::StoreFoldsTooFar) { 1 } else { self.options.retained };
        let kept = retained.min(self.epochs.len());
        self.epochs.get(self.epochs.len() - kept).map_or(self.meta.folded, |info| info.epoch)
    }

    /// Commits an epoch: its record, and the blocks of changes of its shards. Each block stands for
    /// itself; where several change one key, the later one wins. When this returns, the epoch is
    /// durable, whole; if the process ends before, it does not exist.
    ///
    /// # Errors
    /// [`Full`](StoreError::Full) and [`Refused`](StoreError::Refused) (an epoch that is not newer than the
    /// last, a block that is none): nothing was written. All others are final.
    pub fn commit(&mut self, mut record: EpochRecord, blocks: &[&[u8]]) -> Result<(), StoreError> {
        self.usable()?;
        let epoch = record.epoch;
        if epoch < self.next() {
            return Err(StoreError::Refused(format!(
                "epoch {epoch} cannot be written: its number has been used; the next is {}",
                self.next()
            )));
        }
        blocks.iter().try_for_each(|block| check_block(block))?;
        let kept = self.options.retained.min(self.epochs.len() + 1);
        let oldest = self.epochs.get(self.epochs.len() + 1 - kept);
        record.oldest = oldest.map_or(epoch, |info| info.epoch);
        let payload: u64 = blocks.iter().map(|block| block.len() as u64 + 8_192).sum();
        let result = self.commit_parts(&record, blocks, payload);
        let bytes = self.final_unless_full(result)?;
        let parts = blocks.iter().filter(|block| !block.is_empty()).count() as u32;
        self.epochs.push_back(EpochInfo { epoch, recorded: true, blocks: parts, bytes });
        self.snapshots.committed();
        Ok(())
    }

    fn commit_parts(
        &mut self,
        record: &EpochRecord,
        blocks: &[&[u8]],
        payload: u64,
    ) -> Result<u64, StoreError> {
        self.make_room(payload + COMMIT_SLACK_BYTES)?;
        let mut txn = self.write_txn()?;
        if seeded(Defect::StoreTwoTransactions) {
            self.tables.put_epoch(&mut txn, record, &[])?;
            commit(txn)?;
            txn = self.write_txn()?;
        }
        let bytes = self.tables.put_epoch(&mut txn, record, blocks)?;
        let meta = Meta { format: FORMAT, ..self.meta.clone() };
        if meta != self.meta {
            self.tables.put_meta(&mut txn, &meta)?;
        }
        commit(txn)?;
        self.meta = meta;
        Ok(bytes)
    }

    /// A reader for one shard: of the base as it is, in place. See the contract in [`crate`].
    pub fn reader(&self) -> Box<dyn StateReader> {
        let restored = self.recovered.as_ref().map(|record| record.epoch);
        Box::new(StoreReader::new(
            &self.snapshots,
            (&self.env, self.tables.base),
            (restored, &self.states),
            &self.owner,
        ))
    }

    /// The job's changes up to this epoch can be read.
    pub fn readable(&self) -> Epoch {
        self.meta.folded
    }

    /// Writes a savepoint of an epoch that is kept to the file `to`, which appears when it is whole and
    /// durable.
    ///
    /// # Errors
    /// [`Refused`](StoreError::Refused) if the epoch is not kept, `Full` if the disk is, `Damaged` if the
    /// state is. The store stays usable.
    pub fn export(&self, epoch: Epoch, to: &Path) -> Result<(), StoreError> {
        self.usable()?;
        let txn = self.read_txn()?;
        let floor = self.meta.folding.max(self.oldest());
        let record = self.tables.record(&txn, epoch)?.filter(|_| epoch >= floor);
        let Some(record) = record else {
            return Err(StoreError::Refused(format!("epoch {epoch} is not kept")));
        };
        let view = crate::view::View::new(&self.tables, &txn, self.meta.folded, epoch)?;
        savepoint::write(&record, &view, to)
    }

    pub(crate) fn usable(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Lets nothing more be done after an error that is final.
    pub(crate) fn final_unless_full<T>(
        &mut self,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error @ (StoreError::Failed(_) | StoreError::Damaged(_))) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    pub(crate) fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let used = (self.env.info().last_page_number as u64 + 1) * self.page_bytes();
        self.room.ensure(used, bytes)
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        u64::from(self.env.stat().page_size)
    }

    pub(crate) fn read_txn(&self) -> Result<heed::RoTxn<'static, heed::WithoutTls>, StoreError> {
        let txn = self.env.clone().static_read_txn();
        txn.map_err(|error| StoreError::lmdb("cannot begin to read the state", &error))
    }

    pub(crate) fn write_txn(&self) -> Result<RwTxn<'_>, StoreError> {
        let txn = self.env.write_txn();
        txn.map_err(|error| StoreError::lmdb("cannot begin to write the state", &error))
    }

    pub(crate) fn measure_base(&self) -> Result<u64, StoreError> {
        let txn = self.read_txn()?;
        let stat = self.tables.base.0.stat(&txn);
        let stat = stat.map_err(|error| StoreError::lmdb("cannot measure the state", &error))?;
        let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        Ok(pages as u64 * u64::from(stat.page_size))
    }
}

/// 128 bits that no other directory has.
fn random_id() -> Str {
    use std::hash::{BuildHasher, RandomState};

    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random()).into()
}

pub(crate) fn commit(txn: RwTxn) -> Result<(), StoreError> {
    txn.commit().map_err(|error| StoreError::lmdb("cannot commit", &error))
}

/// What could not be folded later is not taken.
fn check_block(block: &[u8]) -> Result<(), StoreError> {
    let refused = |why: &str| StoreError::Refused(format!("a block of changes {why}"));
    if block.len() > BLOCK_BYTES_MAX {
        return Err(refused(&format!("has more than {BLOCK_BYTES_MAX} bytes")));
    }
    for change in Changes::read(block) {
        let short = match change.map_err(|error| refused(&error.to_string()))? {
            Change::Put { key, .. } | Change::Delete { key } => key.len() < StateId::PREFIX_BYTES,
            Change::DeleteRange { from, .. } => from.is_empty(),
        };
        if short {
            return Err(refused("has a key that does not begin with its state and group"));
        }
    }
    Ok(())
}
