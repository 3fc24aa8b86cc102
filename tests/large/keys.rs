//! The source of the job: the keys of the plan, from the position of a checkpoint on. All but the hot ones
//! come at a given rate.

use std::time::Duration;

use thalweg::kernel::{
    ConnectorError, Emit, Epoch, Generated, OpenContext, PartitionId, Source, SourceSpec,
    SourceStatus, Timestamp,
};

use crate::plan::{Phase, Plan};

/// A pause between two bursts.
const BURST: Duration = Duration::from_millis(1);

/// Gives the keys of the plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) plan: Plan,
    /// Keys a second; those that are hot come as fast as they are taken.
    pub(crate) rate: u64,
}

/// A key that is given, and in which step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) key: u64,
    pub(crate) step: u64,
}

/// The one partition.
pub(crate) struct Giving {
    keys: Keys,
    next: u64,
    end: u64,
    /// When the first key was given at this pace, and which it was.
    since: Option<(Timestamp, u64)>,
}

impl SourceSpec for Keys {
    type Item = Given;
    type Partition = Giving;

    fn describe(&self) -> String {
        "keys".into()
    }

    fn open(&self, _: &PartitionId, cx: &OpenContext) -> Result<Giving, ConnectorError> {
        let position = cx.durability.position.as_deref().map(<[u8; 8]>::try_from).transpose();
        let Ok(position) = position else {
            return Err(ConnectorError::new("keys", "a position of another length"));
        };
        let next = position.map_or(0, u64::from_le_bytes);
        Ok(Giving { keys: *self, next, end: self.plan.len(), since: None })
    }
}

impl Source for Giving {
    type Item = Given;

    fn poll(
        &mut self,
        now: Timestamp,
        at_most: usize,
        out: &mut impl Emit<Given>,
    ) -> Result<SourceStatus, ConnectorError> {
        let (began, first) = *self.since.get_or_insert((now, self.next));
        let passed_ms = (now.as_millis() - began.as_millis()).max(0) as u64;
        let due = first + (passed_ms + 1) * self.keys.rate / 1_000;
        let mut given = 0;
        while given < at_most && self.next < self.end {
            let Some((phase, key)) = self.keys.plan.key(self.next) else { break };
            if phase == Phase::Hot {
                self.since = None;
            } else if self.next >= due {
                return Ok(SourceStatus::Waiting(Some(BURST)));
            }
            let step = self.next;
            out.record(Given { key, step }, Timestamp::from(step as i64), &Generated);
            self.next += 1;
            given += 1;
        }
        Ok(if self.next >= self.end { SourceStatus::Ended } else { SourceStatus::Ready })
    }

    fn stop(&mut self) {
        self.end = self.next;
    }

    fn snapshot(&mut self, _epoch: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.next.to_le_bytes());
    }
}
