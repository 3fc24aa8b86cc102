//! A source whose partitions do what a script says. The position of a partition is its place in the script: after a crash
//! it goes on where the last epoch was.

use std::sync::Arc;

use thalweg_kernel::{
    Cause, ConnectorError, DeadLetter, DecodeError, Emit, Epoch, Generated, OpenContext, Origin,
    PartitionId, Partitions, Source, SourceSpec, SourceStatus, Timestamp,
};

/// What a partition does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<T> {
    /// It emits this record.
    Record(T),
    /// It has something that cannot be decoded.
    Refuse,
    /// It has nothing at one poll.
    Silence,
    /// It has nothing until the clock shows this time, in milliseconds.
    Until(i64),
}

/// Partitions that do what a script says.
#[derive(Debug)]
pub struct Scripted<T> {
    partitions: Arc<[Vec<Act<T>>]>,
    ends: bool,
}

impl<T> Clone for Scripted<T> {
    fn clone(&self) -> Self {
        Self { partitions: Arc::clone(&self.partitions), ends: self.ends }
    }
}

impl<T> Scripted<T> {
    /// Partitions that end behind their last act.
    pub fn new(partitions: impl Into<Arc<[Vec<Act<T>>]>>) -> Self {
        Self { partitions: partitions.into(), ends: true }
    }

    /// Partitions that are silent behind their last act, and do not end by themselves.
    pub fn without_end(partitions: impl Into<Arc<[Vec<Act<T>>]>>) -> Self {
        Self { ends: false, ..Self::new(partitions) }
    }

    /// Partitions of these records.
    pub fn of_records<P: IntoIterator<Item = T>>(partitions: impl IntoIterator<Item = P>) -> Self {
        let partitions = partitions.into_iter();
        Self::new(
            partitions.map(|part| part.into_iter().map(Act::Record).collect()).collect::<Vec<_>>(),
        )
    }
}

impl<T: Clone + 'static> SourceSpec for Scripted<T> {
    type Item = T;
    type Partition = ScriptedPartition<T>;

    fn describe(&self) -> String {
        "scripted".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.partitions.len())
    }

    fn open(
        &self,
        id: &PartitionId,
        cx: &OpenContext,
    ) -> Result<ScriptedPartition<T>, ConnectorError> {
        let unknown = || ConnectorError::new("scripted", format!("there is no partition {id}"));
        let number = id.number().ok_or_else(unknown)?;
        let position = cx.durability.position.as_deref().unwrap_or(&[0; 8]);
        let position = position.try_into().map_err(|_| unknown())?;
        let (script, next) = (self.clone(), u64::from_le_bytes(position) as usize);
        Ok(ScriptedPartition { script, number, next, is_stopped: false })
    }
}

/// One partition of a [`Scripted`] source.
#[derive(Debug)]
pub struct ScriptedPartition<T> {
    script: Scripted<T>,
    number: usize,
    next: usize,
    is_stopped: bool,
}

impl<T: Clone> Source for ScriptedPartition<T> {
    type Item = T;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<T>,
    ) -> Result<SourceStatus, ConnectorError> {
        let acts = &self.script.partitions[self.number];
        let mut emitted = 0;
        while emitted < records_max {
            let Some(act) = acts.get(self.next).filter(|_| !self.is_stopped) else {
                let ends = self.is_stopped || self.script.ends;
                return Ok(if ends { SourceStatus::Ended } else { SourceStatus::Waiting(None) });
            };
            if matches!(act, Act::Until(time) if now < Timestamp::from(*time)) {
                return Ok(SourceStatus::Waiting(None));
            }
            self.next += 1;
            match act {
                Act::Record(record) => out.record(record.clone(), now, &Generated),
                Act::Refuse => {
                    let error = DecodeError::new(Cause::Malformed, "as the script says", None);
                    out.dead_letter(DeadLetter { received: now, ..Generated.dead_letter(error) });
                }
                Act::Silence => return Ok(SourceStatus::Waiting(None)),
                Act::Until(_) => continue,
            }
            emitted += 1;
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&(self.next as u64).to_le_bytes());
    }
}
