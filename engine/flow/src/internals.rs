//! Parts that benchmarks measure by themselves. No promise is made about any of this.

use std::task::Waker;

use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

use crate::exchange::lane::{LaneReceiver, LaneSender, Mesh};
use crate::time::merge::Merge;
use crate::tuning::Tuning;

pub use crate::state::table::{Found, Held, KeyedTable, NEVER};
pub use crate::state::timers::{Inserted, Timers};
pub use crate::table_hash::table_hash;

/// The sending end of a lane between shards.
pub struct Sender<T>(LaneSender<T>);

/// The receiving end.
pub struct Receiver<T>(LaneReceiver<T>);

/// A lane of this many batches of this many records. Nobody is woken.
pub fn lane<T>(batches: usize, records: usize) -> Option<(Sender<T>, Receiver<T>)> {
    let alone = std::slice::from_ref(Waker::noop());
    let tuning = Tuning { lane_batches: batches, batch_records: records, ..Tuning::default() };
    let mesh = Mesh::new((alone, alone), &tuning);
    let (sender, receiver) = (mesh.take_senders(0).pop()?, mesh.take_receivers(0).pop()?);
    Some((Sender(sender), Receiver(receiver)))
}

impl<T> Sender<T> {
    /// Adds a record to the open batch, which goes when it is full.
    #[inline]
    pub fn record(&mut self, time: Timestamp, value: T) {
        self.0.record(time, value);
    }

    /// Sends what is open. Whether all has gone.
    pub fn flush(&mut self) -> bool {
        self.0.flush()
    }
}

impl<T> Receiver<T> {
    /// Swaps the next batch for the empty `batch`; false if there is none.
    pub fn take(&mut self, batch: &mut Batch<T>) -> bool {
        self.0.take(batch)
    }
}

/// The merged watermark of several inputs.
pub struct Watermark(Merge);

impl Watermark {
    /// Of this many inputs.
    pub fn of(inputs: usize) -> Self {
        Self(Merge::new(inputs))
    }

    /// Moves the watermark of one input; the merged one.
    #[inline]
    pub fn advance(&mut self, input: usize, to: Timestamp) -> Timestamp {
        self.0.mark(input, Mark::Watermark(to), |_| {});
        self.0.watermark()
    }
}
