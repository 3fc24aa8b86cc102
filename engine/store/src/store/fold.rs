//! Folding: the changes of the oldest epochs go into the base, all of them together and in bounded steps.
//!
//! A *run* takes the epochs up to the oldest one that is kept, in four phases. It plans (see [`Plan`]), deletes
//! ranges, applies the last change of each key in the order of the keys, and forgets the epochs. Each step is at
//! most one write transaction, so commits come in between.
//!
//! A crash that cuts a run short makes the next one begin again, over a base that is changed in part. The outcome
//! does not depend on that, since a run sets each key it touches to one value. Until it has ended the base is of
//! no epoch. So before its first change a run notes durably that nothing older than its target can be recovered
//! any more (`folding`). When it ends, it notes that the base has arrived (`folded`).

use std::ops::Bound;

use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};

use crate::base::BaseWriter;
use crate::plan::Plan;
use crate::record::Meta;
use crate::store::commit;
use crate::tables::part_key;
use crate::{Store, StoreError};

/// Changes that one step of planning takes.
const PLAN_CHANGES_MAX: usize = 16_384;
/// Bytes that one step applies, but for its last value.
const STEP_BYTES_MAX: usize = 4 << 20;
/// Epochs that one step forgets.
const FORGET_EPOCHS_MAX: usize = 256;
/// Changes per step while nobody waits: at recovery.
const RECOVERY_CHANGES_MAX: usize = 16_384;

/// What a step of folding came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folding {
    /// There is nothing to fold now.
    Idle,
    /// There is more to do: call again.
    More,
    /// A run has ended: all that was changed up to this epoch can be read.
    Done(Epoch),
}

/// A run of folding.
pub(crate) struct Run {
    target: Epoch,
    plan: Plan,
    phase: Phase,
}

/// How far a run has come.
#[derive(Clone)]
enum Phase {
    /// To plan from here on: the number of a block, an offset in it.
    Plan(usize, usize),
    /// To delete ranges from this one on.
    Ranges(usize),
    /// To apply changes from these positions on.
    Points(Vec<usize>),
    /// All applied. To forget the epochs.
    Forget,
}

impl Store {
    /// Does one step of folding if a run is under way, or one is due. It also does one if one is `wanted` (for
    /// changes that memory should not keep) and there is anything to fold.
    ///
    /// # Errors
    /// [`Full`](StoreError::Full): nothing was written; go on later. All others are final.
    pub fn fold(&mut self, wanted: bool) -> Result<Folding, StoreError> {
        self.usable()?;
        if self.run.is_none() {
            let target = self.oldest();
            let foldable = self.epochs.iter().filter(|e| self.meta.folded < e.epoch);
            let bytes: u64 = foldable.take_while(|e| e.epoch <= target).map(|e| e.bytes).sum();
            if target <= self.meta.folded
                || !(wanted || self.options.fold.due(bytes, self.base_bytes))
            {
                return Ok(Folding::Idle);
            }
            self.begin(target);
        }
        self.step(self.options.fold_changes_max)
    }

    /// Folds everything up to `target`.
    pub(crate) fn fold_all(&mut self, target: Epoch) -> Result<(), StoreError> {
        if target > self.meta.folded {
            self.begin(target);
            while self.step(RECOVERY_CHANGES_MAX)? == Folding::More {}
        }
        Ok(())
    }

    fn begin(&mut self, target: Epoch) {
        self.run = Some(Run { target, plan: Plan::default(), phase: Phase::Plan(0, 0) });
    }

    fn step(&mut self, changes_max: usize) -> Result<Folding, StoreError> {
        let Some(mut run) = self.run.take() else { return Ok(Folding::Idle) };
        let result = match run.phase {
            Phase::Plan(block, offset) => self.plan(&mut run, block, offset),
            Phase::Ranges(_) | Phase::Points(_) => self.apply(&mut run, changes_max),
            Phase::Forget => self.forget(run.target),
        };
        match self.final_unless_full(result) {
            Ok(true) => Ok(Folding::Done(run.target)),
            Ok(false) => {
                self.run = Some(run);
                Ok(Folding::More)
            }
            Err(error) => {
                // A transaction that was given up has changed nothing, and neither has its phase.
                self.run = Some(run);
                Err(error)
            }
        }
    }

    fn plan(
        &self,
        run: &mut Run,
        mut number: usize,
        mut offset: usize,
    ) -> Result<bool, StoreError> {
        let txn = self.read_txn()?;
        let stored = self.tables.blocks(&txn, self.meta.folded, run.target)?;
        let blocks: Vec<_> = stored.iter().map(|block| block.bytes()).collect();
        let mut changes_max = PLAN_CHANGES_MAX;
        while changes_max > 0
            && let Some(block) = stored.get(number)
        {
            if offset == 0 {
                block.check()?;
            }
            let next = run.plan.add(&blocks, number, offset, &mut changes_max);
            match next.map_err(|error| StoreError::changes(&block.place(), error))? {
                Some(next) => offset = next,
                None => (number, offset) = (number + 1, 0),
            }
        }
        run.phase = Phase::Plan(number, offset);
        if number == stored.len() {
            run.plan.seal(&blocks);
            run.phase = Phase::Ranges(0);
        }
        Ok(false)
    }

    /// One transaction of deleting ranges and applying changes.
    fn apply(&mut self, run: &mut Run, mut changes_max: usize) -> Result<bool, StoreError> {
        let changelog = self.epochs.iter().map(|info| info.bytes).sum::<u64>();
        let pages = (changes_max as u64).min((self.base_bytes + 4 * changelog) / self.page_bytes());
        let payload = 2 * changelog.min(STEP_BYTES_MAX as u64);
        self.make_room((pages + 64) * self.page_bytes() + payload)?;
        // The changes are read in a transaction of their own, so that they can lie still while the other
        // one writes.
        let reading_txn = self.read_txn()?;
        let stored = self.tables.blocks(&reading_txn, self.meta.folded, run.target)?;
        let blocks: Vec<_> = stored.iter().map(|block| block.bytes()).collect();
        let mut txn = self.write_txn()?;
        let mut meta = Meta { folding: self.meta.folding.max(run.target), ..self.meta.clone() };
        let mut writer = BaseWriter::new(self.tables.base, &txn)?;
        let mut phase = run.phase.clone();
        if let Phase::Ranges(next) = &mut phase {
            for (from, to) in run.plan.ranges(&blocks).skip(*next) {
                if changes_max == 0 || !writer.delete_range(&mut txn, from, to, &mut changes_max)? {
                    break;
                }
                *next += 1;
                changes_max = changes_max.saturating_sub(1);
            }
            if *next == run.plan.ranges(&blocks).len() {
                phase = Phase::Points(run.plan.start());
            }
        }
        if let Phase::Points(positions) = &mut phase {
            let mut points = run.plan.read(&blocks, std::mem::take(positions));
            let mut bytes = 0;
            let mut ended = false;
            while changes_max > 0 && bytes < STEP_BYTES_MAX {
                changes_max -= 1;
                let Some((key, value)) = points.next() else {
                    ended = true;
                    break;
                };
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                match value {
                    Some(value) => writer.put(&mut txn, key, value)?,
                    None if seeded(Defect::StoreKeepsRemovedKey) => {}
                    None => writer.delete(&mut txn, key)?,
                }
            }
            *positions = points.into_positions();
            if ended || seeded(Defect::StoreArrivesEarly) {
                meta.folded = run.target;
                phase = Phase::Forget;
            }
        }
        if meta != self.meta {
            self.tables.put_meta(&mut txn, &meta)?;
        }
        commit(txn)?;
        drop(reading_txn);
        run.phase = phase;
        self.meta = meta;
        self.snapshots.committed();
        self.snapshots.publish(self.meta.folded);
        Ok(false)
    }

    /// One transaction of forgetting epochs; whether that was the last.
    fn forget(&mut self, target: Epoch) -> Result<bool, StoreError> {
        let older = self.epochs.iter().take(FORGET_EPOCHS_MAX).filter(|e| e.epoch < target).count();
        let bound = match self.epochs.get(older) {
            Some(next) => next.epoch.min(target),
            None => target,
        };
        self.make_room(256 * self.page_bytes())?;
        let mut txn = self.write_txn()?;
        let (first, before) = (part_key(Epoch::NONE, 0), Bound::Excluded(part_key(bound, 0)));
        self.tables.delete_parts(&mut txn, first, before)?;
        if bound == target {
            let last = Bound::Included(part_key(target, u32::MAX));
            self.tables.delete_parts(&mut txn, part_key(target, 1), last)?;
        }
        commit(txn)?;
        self.epochs.drain(..older);
        self.snapshots.committed();
        if bound == target {
            self.base_bytes = self.measure_base()?;
        }
        Ok(bound == target)
    }
}
