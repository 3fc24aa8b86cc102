//! The watermark that a window operator has reached, kept so that what was late stays late after a restart.
//!
//! Sources keep their clocks too, but an operator may be ahead of the watermark that these lead to. An idle partition's
//! clock is behind, and shards may differ. So each shard stores its watermark by the first of its groups, under a group
//! that no key has. After a restart on more or fewer shards, a shard takes the least watermark among those that cover
//! its own groups.
//!
//! ```text
//! key   = u64:state u16:65535 u16:first-group     big-endian
//! value = the watermark
//! ```

use std::ops::Range;

use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Changes, Durable, Epoch, StateError, StateId, Timestamp, ValueDamaged};

use crate::checkpoint::{Checkpoints, Outgoing, Stateful, Stored};

/// The group under which watermarks are stored. No key has it.
const WATERMARK_GROUP: u16 = u16::MAX;

/// See the module.
pub(super) struct Reached {
    id: StateId,
    own: Range<u16>,
    /// Short of the end of time: a stream that has ended may go on one day.
    watermark: Timestamp,
    /// What is stored of it.
    stored: Timestamp,
    /// What is stored of other shards that are gone.
    deletes: Changes,
}

impl Reached {
    pub(super) fn new(checkpoints: &Checkpoints, shards: usize) -> Self {
        Self {
            id: StateId::of("", ""),
            own: checkpoints.groups().groups_of(checkpoints.shard(), shards),
            watermark: Timestamp::MIN,
            stored: Timestamp::MIN,
            deletes: Changes::new(),
        }
    }

    pub(super) fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The watermark has moved on to there.
    #[inline]
    pub(super) fn advance(&mut self, watermark: Timestamp) {
        if watermark < Timestamp::MAX {
            self.watermark = self.watermark.max(watermark);
        }
    }
}

impl Stateful for Reached {
    fn restore(&mut self, id: StateId, stored: Option<&Stored<'_>>) -> Result<(), StateError> {
        self.id = id;
        let Some(stored) = stored else { return Ok(()) };
        // This shard's groups now were covered by the last shard that began at or before them, and by all that began
        // within them.
        let (from, mut to) = id.range(WATERMARK_GROUP..WATERMARK_GROUP);
        to.extend_from_slice(&[u8::MAX; 3]);
        let (mut before, mut within) = (None, None::<Timestamp>);
        let Self { own, deletes, .. } = self;
        stored.reader.scan(&from, &to, &mut |key, value| {
            let first = StateId::split_key(key).and_then(|(_, rest)| rest.try_into().ok());
            let Some(first) = first.map(u16::from_be_bytes) else {
                return Err(StateError::Other("a stored watermark has no group".into()));
            };
            let watermark = Timestamp::read(value)?;
            if first <= own.start {
                before = Some(watermark);
            } else if own.contains(&first) {
                within = Some(within.map_or(watermark, |least| least.min(watermark)));
                deletes.delete(key);
            }
            Ok(())
        })?;
        self.watermark = [before, within].into_iter().flatten().min().unwrap_or(Timestamp::MIN);
        if seeded(Defect::FlowForgetsWatermark) {
            self.watermark = Timestamp::MIN;
        }
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch, out: &mut Outgoing) -> Result<(), ValueDamaged> {
        let Self { id, own, watermark, stored, deletes } = self;
        out.changes.append(deletes);
        if watermark == stored {
            return Ok(());
        }
        *stored = *watermark;
        let key = |out: &mut Vec<u8>| {
            id.begin_key(WATERMARK_GROUP, out);
            out.extend_from_slice(&own.start.to_be_bytes());
        };
        out.put(key, watermark)
    }
}
