//! A lane carries batches from one shard to another. A bounded ring takes full batches forward, and a second one brings
//! empty batches back. So buffers circulate, and a lane allocates nothing in the steady state.
//!
//! A record costs 8 ns between near cores and 30 ns between far ones. (Measured on two cores of one machine, with
//! records of 64 bytes and batches of 256.) A record that is sent alone costs 24 and 90 ns. Hence the batches, and hence
//! the advice to project to small records before `key_by`.
//!
//! # Limits
//! A lane holds [`Tuning::lane_batches`](crate::Tuning) batches. What one step yields beyond that
//! waits at the sender, in order, and the sender's pipeline is not stepped again until it has gone. So
//! the backlog is at most one step's output. (A step's output is what `flat_map` makes of one batch, or the rows of
//! windows and timers that fire. [`Tuning::step_work_max`](crate::Tuning) bounds the rows.)
//!
//! # Wake-ups
//! The sender wakes the receiver after each batch. The receiver wakes the sender only if that
//! said it was [blocked](super::blocked). A batch that holds marks alone may [stay](super::kept) at the sender.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Batch, Collector, Mark, Timestamp};

use super::blocked::Blocked;
use super::due::{Due, EVERYTHING, NOTHING};
use super::kept::{Keeping, due_behind};
use crate::graph::InputId;
use crate::tuning::Tuning;

/// The lanes of a job, by the input that they lead to. A lane is found by its place alone, whatever it carries: a node
/// may have several inputs of one type.
#[derive(Default)]
pub(crate) struct Meshes(Mutex<HashMap<InputId, Arc<dyn Any + Send + Sync>>>);

impl Meshes {
    /// The lanes that lead to `input`, made by the first shard that asks; `None` if another shard has made lanes for
    /// other records there.
    pub(crate) fn get_or_make<T: Send + 'static>(
        &self,
        input: InputId,
        make: impl FnOnce() -> Mesh<T>,
    ) -> Option<Arc<Mesh<T>>> {
        let mut meshes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mesh = meshes.entry(input).or_insert_with(|| Arc::new(make()));
        Arc::clone(mesh).downcast().ok()
    }
}

/// The lanes of one input: every producing shard to every shard that it leads to.
pub(crate) struct Mesh<T> {
    senders: Mutex<Vec<Vec<Option<LaneSender<T>>>>>,
    receivers: Mutex<Vec<Vec<Option<LaneReceiver<T>>>>>,
}

impl<T> Mesh<T> {
    /// A lane from each shard to each shard. The first wakers are those of the senders, the second those of the
    /// receivers, both from shard 0 on.
    pub(crate) fn new((producers, receiving): (&[Waker], &[Waker]), tuning: &Tuning) -> Self {
        let mut senders = Vec::new();
        let mut receivers: Vec<Vec<_>> = receiving.iter().map(|_| Vec::new()).collect();
        for (shard, from) in producers.iter().enumerate() {
            let mut row = Vec::new();
            for (other, (to, receivers)) in receiving.iter().zip(&mut receivers).enumerate() {
                let (sender, receiver) = lane(from, to, shard == other, tuning);
                row.push(Some(sender));
                receivers.push(Some(receiver));
            }
            senders.push(row);
        }
        Self { senders: Mutex::new(senders), receivers: Mutex::new(receivers) }
    }

    /// The sending ends of `shard`, one for each shard. Each can be taken once.
    pub(crate) fn take_senders(&self, shard: usize) -> Vec<LaneSender<T>> {
        let mut rows = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get_mut(shard).into_iter().flatten().filter_map(Option::take).collect()
    }

    /// The receiving ends of `shard`, one for each producing shard. Each can be taken once.
    pub(crate) fn take_receivers(&self, shard: usize) -> Vec<LaneReceiver<T>> {
        let mut rows = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get_mut(shard).into_iter().flatten().filter_map(Option::take).collect()
    }
}

/// A lane; `own` says that both of its ends are on one shard.
fn lane<T>(
    from: &Waker,
    to: &Waker,
    own: bool,
    tuning: &Tuning,
) -> (LaneSender<T>, LaneReceiver<T>) {
    let &Tuning { lane_batches, batch_records, watermark_delay_max, .. } = tuning;
    let (full, receive_full) = RingBuffer::new(lane_batches);
    // One more buffer can be open at each end.
    let (empty, take_empty) = RingBuffer::new(lane_batches + 2);
    let (blocked, due) = (Arc::<Blocked>::default(), Arc::<Due>::default());
    // A shard that sends to itself is awake.
    let keeps = !own && watermark_delay_max > Duration::ZERO;
    let sender = LaneSender {
        open: Batch::default(),
        backlog: VecDeque::new(),
        full,
        empty: take_empty,
        batch_records,
        blocked: Arc::clone(&blocked),
        receiver: to.clone(),
        keeping: keeps.then(|| Keeping::new(Arc::clone(&due), watermark_delay_max)),
        due: Arc::clone(&due),
        watermark: Timestamp::MIN,
    };
    let receiver = LaneReceiver {
        full: receive_full,
        empty,
        blocked,
        sender: from.clone(),
        due,
        published: EVERYTHING,
        own,
    };
    (sender, receiver)
}

/// The sending end: an open batch, which goes when it is full or flushed.
pub(crate) struct LaneSender<T> {
    open: Batch<T>,
    /// Full batches the ring had no room for.
    backlog: VecDeque<Batch<T>>,
    full: Producer<Batch<T>>,
    empty: Consumer<Batch<T>>,
    batch_records: usize,
    blocked: Arc<Blocked>,
    receiver: Waker,
    /// What the receiver waits for; and what the lane keeps back by it, if it leads to another shard.
    due: Arc<Due>,
    keeping: Option<Keeping>,
    /// The last one of a lane that keeps nothing back.
    watermark: Timestamp,
}

impl<T> LaneSender<T> {
    /// Sends the open batch if it holds anything that cannot stay, and what had to wait. Whether all has gone.
    pub(crate) fn flush(&mut self) -> bool {
        if !self.open.is_empty() {
            self.pass_open();
        }
        self.send_backlog()
    }

    /// Sends the open batch, unless it holds marks alone and the receiver can do without them.
    fn pass_open(&mut self) {
        let Self { keeping, open, .. } = self;
        let has_marks_alone = open.times().is_empty();
        let stays = keeping.as_mut().is_some_and(|it| has_marks_alone && it.stays(open));
        if !stays {
            self.send_open();
        }
    }

    fn send_open(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.sent();
        }
        let next = self.empty.pop().unwrap_or_else(|_| Batch::with_capacity(self.batch_records));
        let full = std::mem::replace(&mut self.open, next);
        self.backlog.push_back(full);
        self.send_backlog();
    }

    /// The receiver's due time, of which this shard hears when it falls.
    pub(crate) fn due_at(&mut self) -> Timestamp {
        match &mut self.keeping {
            Some(keeping) => keeping.rely(),
            None => due_behind(self.due.due().into(), self.watermark),
        }
    }

    /// The receiver's due time, for a source that is silent: of each other one this shard hears, until it forgets that.
    pub(crate) fn watch_due(&mut self) -> Timestamp {
        match &mut self.keeping {
            Some(keeping) => keeping.watch(),
            None => {
                self.due.ask(NOTHING - 1);
                due_behind(self.due.due().into(), self.watermark)
            }
        }
    }

    /// This shard needs to hear of the due time no more.
    pub(crate) fn forget_due(&mut self) {
        match &mut self.keeping {
            Some(keeping) => keeping.forget(),
            None => self.due.ask_less(EVERYTHING),
        }
    }

    /// When what is kept must go, if anything is.
    #[inline]
    pub(crate) fn kept_until(&mut self, now: Duration) -> Option<Duration> {
        self.keeping.as_mut()?.kept_until(now)
    }

    /// Sends what is kept.
    pub(crate) fn send_kept(&mut self) {
        if self.keeping.as_ref().is_some_and(Keeping::keeps) {
            self.send_open();
        }
    }

    fn send_backlog(&mut self) -> bool {
        let mut sent = false;
        while let Some(batch) = self.backlog.pop_front() {
            let full = &mut self.full;
            let push = |batch| full.push(batch).map_err(|PushError::Full(batch)| batch);
            if let Err(batch) = self.blocked.push(batch, push) {
                self.backlog.push_front(batch);
                break;
            }
            sent = true;
        }
        if sent && !seeded(Defect::FlowForgetsWakeUp) {
            self.receiver.wake_by_ref();
        }
        self.backlog.is_empty()
    }
}

impl<T> Collector<T> for LaneSender<T> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        self.open.record(time, value);
        if self.open.len() >= self.batch_records {
            self.send_open();
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark) {
        if seeded(Defect::FlowBarrierOvertakes) && matches!(mark, Mark::Barrier(_)) {
            let overtaken = std::mem::take(&mut self.open);
            self.open.mark(mark);
            self.send_open();
            self.open = overtaken;
            return;
        }
        self.open.mark(mark);
        match (&mut self.keeping, mark) {
            (Some(keeping), _) => keeping.mark(mark),
            (None, Mark::Watermark(watermark)) => self.watermark = watermark,
            (None, _) => {}
        }
        // A barrier ends its batch; and a destination that gets no records must not gather marks
        // without bound.
        if matches!(mark, Mark::Barrier(_)) {
            self.send_open();
        } else if self.open.marks().len() >= self.batch_records {
            self.pass_open();
        }
    }
}

/// The receiving end.
pub(crate) struct LaneReceiver<T> {
    full: Consumer<Batch<T>>,
    empty: Producer<Batch<T>>,
    blocked: Arc<Blocked>,
    sender: Waker,
    due: Arc<Due>,
    /// The due time that the sender knows.
    published: i64,
    own: bool,
}

impl<T> LaneReceiver<T> {
    /// Swaps the next batch for the empty `batch`, whose buffers go back; false if there is none.
    pub(crate) fn take(&mut self, batch: &mut Batch<T>) -> bool {
        let Ok(next) = self.full.pop() else { return false };
        // The ring back has a place for every buffer in circulation but those a burst added.
        let _ = self.empty.push(std::mem::replace(batch, next));
        if self.blocked.made_room() {
            self.sender.wake_by_ref();
        }
        true
    }

    /// Publishes the due time of what stands behind the lane, whose watermark is `told`. Whether that is news for a pipeline
    /// of this shard.
    pub(crate) fn publish(&mut self, due: Timestamp, told: Timestamp) -> bool {
        let due = due.as_millis();
        if due == self.published {
            return false;
        }
        self.published = due;
        let is_kept = self.due.publish(due, told.as_millis());
        if is_kept && !self.own && !seeded(Defect::FlowForgetsKeptWatermark) {
            self.sender.wake_by_ref();
        }
        self.own
    }

    /// Whether the sender cannot send until something is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.full.slots() == self.full.buffer().capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One shard, which is never asleep.
    fn alone() -> (&'static [Waker], &'static [Waker]) {
        let one = std::slice::from_ref(Waker::noop());
        (one, one)
    }

    fn tuning(lane_batches: usize, batch_records: usize) -> Tuning {
        Tuning { lane_batches, batch_records, ..Tuning::default() }
    }

    #[test]
    fn a_full_lane_keeps_the_rest_in_order_at_the_sender() {
        let mesh = Mesh::<u32>::new(alone(), &tuning(2, 4));
        let (mut senders, mut receivers) = (mesh.take_senders(0), mesh.take_receivers(0));
        let (sender, receiver) = (&mut senders[0], &mut receivers[0]);
        for n in 0..40 {
            sender.record(0.into(), n);
        }
        assert!(!sender.flush());
        let mut got = Vec::new();
        let mut batch = Batch::default();
        for _ in 0..40 {
            while receiver.take(&mut batch) {
                struct Push<'a>(&'a mut Vec<u32>);
                impl Collector<u32> for Push<'_> {
                    fn record(&mut self, _: Timestamp, value: u32) {
                        self.0.push(value);
                    }
                    fn mark(&mut self, _: Mark) {}
                }
                batch.drain_into(&mut Push(&mut got));
            }
            sender.flush();
        }
        assert!(sender.flush());
        assert_eq!(got, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn each_input_of_a_node_has_lanes_of_its_own() {
        let meshes = Meshes::default();
        let find = |input| meshes.get_or_make(input, || Mesh::<u32>::new(alone(), &tuning(2, 4)));
        let (left, right) = (find((7, 0)).unwrap(), find((7, 1)).unwrap());
        let (mut lefts, mut rights) = (left.take_senders(0), right.take_senders(0));
        lefts[0].record(0.into(), 1);
        rights[0].record(0.into(), 2);
        assert!(lefts[0].flush() && rights[0].flush());
        let mut batch = Batch::default();
        assert!(find((7, 1)).unwrap().take_receivers(0)[0].take(&mut batch));
        assert_eq!(batch.len(), 1);
        assert!(find((7, 1)).unwrap().take_receivers(0).is_empty(), "taken once");
        let other = meshes.get_or_make((7, 0), || Mesh::<u64>::new(alone(), &tuning(2, 4)));
        assert!(other.is_none(), "other records");
    }

    #[test]
    fn buffers_circulate() {
        let mesh = Mesh::<u64>::new(alone(), &tuning(4, 8));
        let (mut senders, mut receivers) = (mesh.take_senders(0), mesh.take_receivers(0));
        let mut batch = Batch::default();
        let mut seen = std::collections::HashSet::new();
        for n in 0..10_000 {
            senders[0].record(0.into(), n);
            if senders[0].flush() && receivers[0].take(&mut batch) {
                seen.insert(batch.times().as_ptr());
                batch.clear();
            }
        }
        assert!(seen.len() <= 4, "{} buffers for one record in flight", seen.len());
    }
}
