//! [`View`]: the state as of an epoch, folded or not: the base with the changes since laid over it.
//!
//! It changes nothing, so a savepoint of any kept epoch can be written, and a state directory looked into,
//! without folding. It holds 32 bytes for each change that is not folded yet, and a read transaction for as
//! long as it is looked at.

use heed::RoTxn;
use thalweg_kernel::Epoch;

use crate::StoreError;
use crate::base::{Base, Entry};
use crate::plan::{Hidden, Plan};
use crate::tables::Tables;

/// The state as of an epoch.
pub(crate) struct View<'t> {
    base: Base,
    txn: &'t RoTxn<'t>,
    blocks: Vec<&'t [u8]>,
    plan: Plan,
}

impl<'t> View<'t> {
    /// The state as of `epoch`. The base holds what was changed up to `folded`, and perhaps some later
    /// changes, but nothing from behind `epoch`.
    pub(crate) fn new(
        tables: &Tables,
        txn: &'t RoTxn<'t>,
        folded: Epoch,
        epoch: Epoch,
    ) -> Result<Self, StoreError> {
        let mut plan = Plan::default();
        let stored = tables.blocks(txn, folded, epoch)?;
        let blocks: Vec<_> = stored.iter().map(|block| block.bytes()).collect();
        for (number, block) in stored.iter().enumerate() {
            block.check()?;
            plan.add(&blocks, number, 0, &mut usize::MAX.clone())
                .map_err(|error| StoreError::changes(&block.place(), error))?;
        }
        plan.seal(&blocks);
        Ok(Self { base: tables.base, txn, blocks, plan })
    }

    /// Gives `each` the entries with keys from `from` on that are below `to` (all, if that is `None`), in
    /// order of their keys.
    pub(crate) fn scan<E: From<StoreError>>(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Above all keys: theirs have 65,535 bytes at most, and a stored one 511.
        let top = vec![u8::MAX; usize::from(u16::MAX) + 1];
        let to = to.unwrap_or(&top);
        let mut entries = self.base.scan(self.txn, from, to)?;
        let mut entry: Option<Entry> = entries.next().transpose()?;
        let start = self.plan.start_at(&self.blocks, from);
        let mut changes = self.plan.read(&self.blocks, start).take_while(|&(key, _)| key < to);
        let mut change = changes.next();
        let mut hidden = Hidden::new(&self.plan, &self.blocks);
        loop {
            match (entry, change) {
                (None, None) => return Ok(()),
                (Some((key, value)), _) if change.is_none_or(|(changed, _)| key < changed) => {
                    if !hidden.hides(key) {
                        each(key, value)?;
                    }
                    entry = entries.next().transpose()?;
                }
                (_, Some((key, value))) => {
                    if let Some(value) = value {
                        each(key, value)?;
                    }
                    if entry.is_some_and(|(old, _)| old == key) {
                        entry = entries.next().transpose()?;
                    }
                    change = changes.next();
                }
                // The second arm takes an entry without a change.
                (Some(_), None) => return Ok(()),
            }
        }
    }
}
