//! [`Pending`]: the notes that a sink leaves in an epoch, and [`PendingId`], what they are called.

use std::fmt;

use crate::{Changes, Epoch, StateId};

/// The number of a note that a sink left in an epoch. It is never used twice in a job, so it can also
/// serve as the deterministic id of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PendingId {
    /// The epoch it was left in.
    pub epoch: Epoch,
    /// The sink's instance: the shard it ran on then.
    pub instance: u16,
    /// Its place among the notes of that epoch and instance.
    pub number: u32,
}

impl PendingId {
    /// Appends it to a stored key, behind the group, which is the instance.
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.number().to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
    }

    /// From the parts of a stored key.
    pub fn read(instance: u16, rest: &[u8]) -> Option<Self> {
        let (epoch, number) = rest.split_first_chunk()?;
        Some(Self {
            epoch: Epoch::new(u64::from_be_bytes(*epoch)),
            instance,
            number: u32::from_be_bytes(number.try_into().ok()?),
        })
    }
}

impl fmt::Display for PendingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.instance, self.number)
    }
}

/// Where a sink leaves its notes at a barrier.
pub struct Pending<'a> {
    changes: &'a mut Changes,
    state: StateId,
    epoch: Epoch,
    instance: u16,
    count: u32,
}

impl<'a> Pending<'a> {
    /// Notes of `instance` for `epoch`, written to `changes` as entries of `state`.
    pub fn new(changes: &'a mut Changes, state: StateId, epoch: Epoch, instance: u16) -> Self {
        Self { changes, state, epoch, instance, count: 0 }
    }

    /// Leaves a note; its number. It is there after a restart until it is deleted.
    pub fn put(&mut self, note: &[u8]) -> PendingId {
        let id = PendingId { epoch: self.epoch, instance: self.instance, number: self.count };
        self.count += 1;
        let state = self.state;
        let key = |out: &mut Vec<u8>| {
            state.begin_key(id.instance, out);
            id.write(out);
        };
        self.changes.put_with(key, |mut out| {
            out.extend_from_slice(note);
            out
        });
        id
    }

    /// Deletes a note, of this or of an earlier run, and of any instance.
    pub fn delete(&mut self, id: PendingId) {
        let state = self.state;
        self.changes.delete_with(|out| {
            state.begin_key(id.instance, out);
            id.write(out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;

    #[test]
    fn notes_have_numbers_of_their_own_and_come_back_under_them() {
        let (state, epoch) = (StateId::of("sink", "pending"), Epoch::new(7));
        let mut changes = Changes::new();
        let mut pending = Pending::new(&mut changes, state, epoch, 3);
        let ids = [pending.put(b"a"), pending.put(b"b")];
        pending.delete(PendingId { epoch: Epoch::new(6), instance: 9, number: 0x102 });
        assert_eq!(ids.map(|id| id.to_string()), ["7-3-0", "7-3-1"]);
        let read = |key: &[u8]| {
            let (instance, rest) = StateId::split_key(key).unwrap();
            PendingId::read(instance, rest).unwrap().to_string()
        };
        let changes = Changes::read(changes.as_bytes()).map(|change| match change.unwrap() {
            Change::Put { key, value } => format!("+{} {}", read(key), value.escape_ascii()),
            Change::Delete { key } => format!("-{}", read(key)),
            other => panic!("{other:?}"),
        });
        assert_eq!(changes.collect::<Vec<_>>(), ["+7-3-0 a", "+7-3-1 b", "-6-9-258"]);
        assert_eq!(PendingId::read(1, &[0; 11]), None);
    }
}
