//! [`Inspector`]: looks into a state directory without owning it, whether a job runs on it or not.
//!
//! It changes nothing. It sees the moment at which it was opened, through one read transaction. While it lives,
//! the file of a running job grows and does not use its free pages again, so drop it soon.

use std::collections::BTreeMap;
use std::path::Path;

use heed::{RoTxn, WithoutTls};
use thalweg_kernel::{Epoch, StateId, StateInfo};

use crate::tables::Tables;
use crate::view::View;
use crate::{EpochInfo, EpochRecord, StoreError, env};

/// A state with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSummary {
    /// Its number.
    pub id: StateId,
    /// Its description; `None` if it has entries that no operator of the job claims.
    pub info: Option<StateInfo>,
    /// The number of its entries.
    pub entries: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
}

/// The states that are described, in that order, then those that are not.
pub(crate) fn summaries(
    states: &[StateInfo],
    mut counts: BTreeMap<u64, (u64, u64)>,
) -> Vec<StateSummary> {
    let mut summaries = Vec::new();
    for info in states {
        let (entries, bytes) = counts.remove(&info.id.number()).unwrap_or_default();
        summaries.push(StateSummary { id: info.id, info: Some(info.clone()), entries, bytes });
    }
    // The number of a state is the only way to make its id from outside.
    let id = |number: u64| serde_json::from_value::<StateId>(number.into()).ok();
    summaries.extend(counts.into_iter().filter_map(|(number, (entries, bytes))| {
        Some(StateSummary { id: id(number)?, info: None, entries, bytes })
    }));
    summaries
}

/// Looks into a state directory.
pub struct Inspector {
    txn: RoTxn<'static, WithoutTls>,
    tables: Tables,
    epochs: Vec<EpochInfo>,
    folded: Epoch,
    record: EpochRecord,
}

impl Inspector {
    /// Opens a state directory for looking: at its newest epoch.
    ///
    /// # Errors
    /// [`Refused`](StoreError::Refused) if there is no state, no epoch yet, or if this very process owns it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let env = env::open_read_only(dir)?;
        let none = || StoreError::Refused(format!("there is no epoch in {} yet", dir.display()));
        let failed = |error| StoreError::lmdb("cannot look into the state directory", &error);
        let opening = env.read_txn().map_err(failed)?;
        let tables = Tables::open(&env, &opening)?.ok_or_else(none)?;
        opening.commit().map_err(failed)?;
        let txn = env.static_read_txn().map_err(failed)?;
        let meta = tables.meta(&txn)?.ok_or_else(none)?;
        let epochs: Vec<_> =
            tables.epochs(&txn)?.into_iter().filter(|info| info.epoch >= meta.folded).collect();
        let newest = epochs.iter().rev().find(|info| info.recorded).ok_or_else(none)?;
        let record = tables.record(&txn, newest.epoch)?.ok_or_else(none)?;
        Ok(Self { txn, tables, epochs, folded: meta.folded, record })
    }

    /// The record of the newest epoch; its `oldest` is the first that can be recovered.
    pub fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// The epochs in the directory, in order: those that are not folded, and the last that is.
    pub fn epochs(&self) -> &[EpochInfo] {
        &self.epochs
    }

    /// The states as of the newest epoch. Reads them all.
    ///
    /// # Errors
    /// `Damaged`, `Failed`.
    pub fn states(&self) -> Result<Vec<StateSummary>, StoreError> {
        let mut counts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        self.view()?.scan::<StoreError>(&[], None, |key, value| {
            let state = key.first_chunk().map_or(0, |state| u64::from_be_bytes(*state));
            let (entries, bytes) = counts.entry(state).or_default();
            *entries += 1;
            *bytes += (key.len() + value.len()) as u64;
            Ok(())
        })?;
        Ok(summaries(&self.record.states, counts))
    }

    /// Gives `each` the entries of a state as of the newest epoch, in order of their stored keys. Only entries
    /// whose own key (behind state and group) begins with `prefix` are given.
    ///
    /// # Errors
    /// `Damaged`, `Failed`, and the errors of `each`.
    pub fn entries(
        &self,
        state: StateId,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let from = state.number().to_be_bytes();
        let to = state.number().checked_add(1).map(u64::to_be_bytes);
        self.view()?.scan(&from, to.as_ref().map(<[u8; 8]>::as_slice), |key, value| {
            match StateId::split_key(key) {
                Some((_, rest)) if rest.starts_with(prefix) => each(key, value),
                _ => Ok(()),
            }
        })
    }

    fn view(&self) -> Result<View<'_>, StoreError> {
        View::new(&self.tables, &self.txn, self.folded, self.record.epoch)
    }
}
