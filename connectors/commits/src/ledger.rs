//! [`Ledger`]: what was sealed and committed by whom, and what is to be applied next. Pure.
//!
//! Invariants:
//! 1. Nothing is applied before all instances have opened, and the first thing is what was recovered.
//! 2. An epoch is applied once every instance has committed it or a later one, or has closed.
//! 3. Notes are applied in the order of their epochs.

use std::collections::VecDeque;

use bytes::Bytes;
use thalweg_kernel::{Epoch, PendingId};

/// A note, kept until its epoch exists and it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedNote {
    /// Its number.
    pub id: PendingId,
    /// How many rows are in it. (Unknown, 0, of one that was recovered.)
    pub rows: u64,
    /// Its bytes.
    pub note: Bytes,
}

/// Rows that are not held back for an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Whose they are.
    pub instance: u16,
    /// How many.
    pub rows: u64,
    /// A note with them.
    pub note: Bytes,
}

/// What a shard says.
#[derive(Debug)]
pub enum Message {
    /// It is there, resumes from this epoch, and has recovered these notes.
    Open(Epoch, Vec<SealedNote>),
    /// `.1` exists; these notes belong to it and to those before it.
    Commit(u16, Epoch, Vec<SealedNote>),
    /// Rows that need not wait.
    Direct(Direct),
    /// This instance has seen everything applied, and says no more.
    Close(u16),
}

/// What goes into one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The first one of a job: later commits than this are of epochs that do not exist.
    pub restored: Option<Epoch>,
    /// With it, all of this epoch is applied, and of those before it.
    pub upto: Epoch,
    /// Notes, in the order of their epochs.
    pub notes: Vec<SealedNote>,
    /// Rows that are not held back.
    pub direct: Vec<Direct>,
}

impl Work {
    /// Nothing has to be written for it.
    pub fn is_empty(&self) -> bool {
        self.is_direct() && self.direct.is_empty()
    }

    /// Nothing but rows that belong to no epoch.
    pub fn is_direct(&self) -> bool {
        self.restored.is_none() && self.notes.is_empty()
    }
}

#[derive(Debug, Default)]
struct Instance {
    committed: Epoch,
    closed: bool,
    held: VecDeque<SealedNote>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Ledger {
    instances: Vec<Instance>,
    opened: usize,
    restored: Epoch,
    recovered: Option<Vec<SealedNote>>,
    direct: Vec<Direct>,
    /// All of this epoch and before it has been handed out.
    upto: Epoch,
}

impl Ledger {
    /// For this many instances.
    pub fn new(instances: usize) -> Self {
        Self {
            instances: (0..instances).map(|_| Instance::default()).collect(),
            opened: 0,
            restored: Epoch::NONE,
            recovered: Some(Vec::new()),
            direct: Vec::new(),
            upto: Epoch::NONE,
        }
    }

    /// Takes note of what a shard says.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Open(restored, notes) => {
                self.opened += 1;
                // A note's epoch exists, whatever else is said.
                let newest = notes.iter().map(|held| held.id.epoch).max();
                self.restored = self.restored.max(restored).max(newest.unwrap_or_default());
                self.recovered.get_or_insert_default().extend(notes);
            }
            Message::Commit(instance, epoch, notes) => {
                if let Some(instance) = self.instances.get_mut(usize::from(instance)) {
                    instance.committed = instance.committed.max(epoch);
                    instance.held.extend(notes);
                }
            }
            Message::Direct(direct) => self.direct.push(direct),
            Message::Close(instance) => {
                if let Some(instance) = self.instances.get_mut(usize::from(instance)) {
                    instance.closed = true;
                }
            }
        }
    }

    /// What is to be applied next; not asked again before that is done.
    pub fn next_work(&mut self) -> Option<Work> {
        if self.opened < self.instances.len() {
            return None;
        }
        if let Some(mut notes) = self.recovered.take() {
            // One note may have come to several instances; their order is that of their shards.
            notes.sort_by_key(|held| held.id);
            notes.dedup_by_key(|held| held.id);
            self.upto = self.restored;
            let restored = Some(self.restored);
            return Some(Work { restored, upto: self.upto, notes, direct: Vec::new() });
        }
        let open = self.instances.iter().filter(|instance| !instance.closed);
        let upto = open.map(|instance| instance.committed).min().unwrap_or_default();
        if upto > self.upto {
            self.upto = upto;
            let mut notes = Vec::new();
            for instance in &mut self.instances {
                let count = instance.held.partition_point(|held| held.id.epoch <= upto);
                notes.extend(instance.held.drain(..count));
            }
            notes.sort_by_key(|held| held.id);
            return Some(Work { upto, notes, ..Work::default() });
        }
        self.direct_work()
    }

    /// What needs neither an epoch nor the others.
    pub fn direct_work(&mut self) -> Option<Work> {
        let direct = std::mem::take(&mut self.direct);
        (!direct.is_empty()).then(|| Work { upto: self.upto, direct, ..Work::default() })
    }

    /// Whether nothing will be said any more.
    pub fn all_closed(&self) -> bool {
        self.instances.iter().all(|instance| instance.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(epoch: u64, instance: u16, number: u32) -> SealedNote {
        let id = PendingId { epoch: Epoch::new(epoch), instance, number };
        SealedNote { id, rows: 1, note: Bytes::new() }
    }

    fn ids(work: Option<Work>) -> Vec<(u64, u16)> {
        let notes = work.unwrap().notes;
        notes.iter().map(|held| (held.id.epoch.number(), held.id.instance)).collect()
    }

    fn opened() -> Ledger {
        let mut ledger = Ledger::new(2);
        ledger.take(Message::Open(Epoch::new(4), vec![]));
        ledger.take(Message::Open(Epoch::new(4), vec![]));
        assert!(ids(ledger.next_work()).is_empty());
        ledger
    }

    #[test]
    fn what_was_recovered_comes_first_and_in_order_when_all_have_opened() {
        let mut ledger = Ledger::new(2);
        ledger.take(Message::Open(Epoch::new(4), vec![held(4, 0, 0)]));
        assert_eq!(ledger.next_work(), None);
        ledger.take(Message::Open(Epoch::new(4), vec![held(3, 2, 0), held(4, 0, 0)]));
        let work = ledger.next_work();
        assert_eq!(work.as_ref().unwrap().restored, Some(Epoch::new(4)));
        assert_eq!(ids(work), [(3, 2), (4, 0)]);
        assert_eq!(ledger.next_work(), None);
    }

    #[test]
    fn an_epoch_is_applied_once_every_instance_has_committed_it() {
        let mut ledger = opened();
        ledger.take(Message::Commit(0, Epoch::new(6), vec![held(5, 0, 0), held(6, 0, 0)]));
        assert_eq!(ledger.next_work(), None);
        ledger.take(Message::Commit(1, Epoch::new(5), vec![held(5, 1, 0)]));
        assert_eq!(ids(ledger.next_work()), [(5, 0), (5, 1)]);
        ledger.take(Message::Commit(1, Epoch::new(6), vec![]));
        assert_eq!(ids(ledger.next_work()), [(6, 0)]);
    }

    #[test]
    fn one_that_has_closed_holds_up_nobody() {
        let mut ledger = opened();
        ledger.take(Message::Commit(0, Epoch::new(5), vec![held(5, 0, 0)]));
        ledger.take(Message::Close(1));
        assert_eq!(ids(ledger.next_work()), [(5, 0)]);
        ledger.take(Message::Close(0));
        assert!(ledger.all_closed());
        assert_eq!(ledger.next_work(), None);
    }
}
