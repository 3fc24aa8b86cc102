//! A source that cannot be replayed, made replayable by the journal: the protocol alone, without sockets.
//!
//! ```text
//!  socket -> append to the journal, and hand to the shard at once      (full: neither, and no ack)
//!         <- PUBACK, in receive order, once durable, and only if the connection is still the same
//!  barrier:   the position is the number of the next record            (epoch waits until durable up to it)
//!  committed: trim below the position of the oldest epoch that can be restored
//!  start:     from the stored position on, first what the journal has, then what the broker sends
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use thalweg_kernel::{
    Cause, ConnectorError, DeadLetter, DecodeError, Emit, Epoch, JournalError, JournalReader,
    JournalWriter, Message as Incoming, OpenContext, Origin, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};

use super::broker::{Broker, Delivery, Message};
use super::faults::Defect;
use super::ledger::Ledger;

/// What lies outside the process, and the intakes of the process that lives now.
pub(crate) struct Outside {
    pub(crate) broker: RefCell<Broker>,
    pub(crate) intakes: RefCell<Vec<Option<Rc<RefCell<Intake>>>>>,
    pub(crate) ledger: Ledger,
    pub(crate) defect: Option<Defect>,
}

/// One partition's side of the protocol.
pub(crate) struct Intake {
    outside: Rc<Outside>,
    partition: usize,
    journal: String,
    writer: Box<dyn JournalWriter>,
    replay: Option<Box<dyn JournalReader>>,
    /// The position of the next record to be handed over.
    next: u64,
    /// Handed over, not acknowledged, in receive order.
    unacknowledged: VecDeque<(u64, Delivery)>,
    /// Positions of epochs that can be restored, as far as they are known.
    positions: BTreeMap<Epoch, u64>,
    stopping: bool,
}

impl Intake {
    fn open(
        outside: &Rc<Outside>,
        partition: usize,
        cx: &OpenContext,
    ) -> Result<Self, ConnectorError> {
        let journal = journal_name(&cx.durability.operator, partition);
        let Some(journals) = &cx.durability.journals else {
            return Err(ConnectorError::new("intake", "there are no journals"));
        };
        let from = cx.durability.position.as_ref().and_then(|position| position.first_chunk());
        let mut from = from.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let writer = journals.open(&journal, cx.waker.clone()).map_err(failed)?;
        if outside.defect == Some(Defect::ReplaySkips) && from > 0 && from < writer.end() {
            from += 1;
        }
        if from > writer.end() {
            outside.ledger.violation(format!(
                "epoch {:?} is at {from} of {journal}, which ends at {}",
                cx.durability.restored,
                writer.end()
            ));
        }
        let replay = journals.read(&journal, from).map_err(failed)?;
        let positions = cx.durability.restored.map(|epoch| (epoch, from)).into_iter().collect();
        outside.broker.borrow_mut().connect(partition, cx.waker.clone());
        Ok(Self {
            outside: Rc::clone(outside),
            partition,
            journal,
            writer,
            replay: Some(replay),
            next: from,
            unacknowledged: VecDeque::new(),
            positions,
            stopping: false,
        })
    }

    /// Acknowledges what has become durable: in a real source its own thread does.
    pub(crate) fn acknowledge(&mut self) -> Result<(), ConnectorError> {
        let durable = match self.outside.defect {
            Some(Defect::AckEarly) => u64::MAX,
            _ => self.writer.durable().map_err(failed)?,
        };
        let mut broker = self.outside.broker.borrow_mut();
        let mut due = Vec::new();
        while let Some((_, delivery)) = self.unacknowledged.pop_front_if(|(at, _)| *at < durable) {
            due.push(delivery);
        }
        if self.outside.defect == Some(Defect::AckOrder) {
            due.reverse();
        }
        for mut delivery in due {
            let now = broker.generation(self.partition);
            if self.outside.defect == Some(Defect::AckGeneration) {
                delivery.generation = now;
            }
            // What an older connection brought is delivered again on this one.
            if delivery.generation == now {
                broker.acknowledge(self.partition, &self.journal, &delivery);
            }
        }
        Ok(())
    }

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Message>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..records_max {
            if let Some(replay) = &mut self.replay {
                match replay.next().map_err(failed)? {
                    Some(record) => {
                        self.next = record.position + 1;
                        emit(record.bytes, record.received, out);
                    }
                    None => self.replay = None,
                }
                continue;
            }
            if self.stopping {
                return Ok(SourceStatus::Ended);
            }
            let delivery = self.outside.broker.borrow().peek(self.partition).cloned();
            let Some(delivery) = delivery else { return Ok(SourceStatus::Waiting(None)) };
            match self.writer.append(now, &[&delivery.payload]) {
                Ok(position) => {
                    self.next = position + 1;
                    emit(&delivery.payload, now, out);
                    self.unacknowledged.push_back((position, delivery));
                }
                Err(JournalError::Full(_)) if self.outside.defect == Some(Defect::DropWhenFull) => {
                    self.unacknowledged.push_back((0, delivery));
                }
                // It stays in the socket; the journal wakes us when there is room.
                Err(JournalError::Full(_)) => return Ok(SourceStatus::Waiting(None)),
                Err(error) => return Err(failed(error)),
            }
            self.outside.broker.borrow_mut().take(self.partition);
        }
        Ok(SourceStatus::Ready)
    }

    fn snapshot(&mut self, epoch: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.next.to_le_bytes());
        self.positions.insert(epoch, self.next);
        self.outside.ledger.position(&self.journal, epoch, self.next);
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        let durable = self.writer.durable().map_err(failed)?;
        Ok(self.positions.get(&epoch).is_none_or(|position| *position <= durable))
    }

    fn committed(&mut self, oldest: Epoch) {
        if self.outside.defect == Some(Defect::TrimFar) {
            return self.writer.trim(self.next);
        }
        if let Some(position) = self.positions.get(&oldest) {
            self.writer.trim(*position);
        }
        self.positions = self.positions.split_off(&oldest);
    }
}

/// The journal of a partition of the source with this name.
pub(crate) fn journal_name(operator: &str, partition: usize) -> String {
    format!("{operator}-{partition}")
}

fn failed(error: JournalError) -> ConnectorError {
    ConnectorError::new("intake", "its journal cannot go on").caused_by(error)
}

/// Emits what a payload says.
fn emit(payload: &[u8], received: Timestamp, out: &mut impl Emit<Message>) {
    match Message::decode(payload) {
        Some(message) => out.record(message, received, &Payload(payload)),
        None => {
            let error = DecodeError::new(Cause::Malformed, "it is poison", None);
            out.dead_letter(Payload(payload).dead_letter(error));
        }
    }
}

struct Payload<'a>(&'a [u8]);

impl Origin for Payload<'_> {
    fn dead_letter(&self, error: DecodeError) -> DeadLetter {
        Incoming::new("fleet", self.0, Timestamp::default()).dead_letter(error)
    }
}

/// The source as a job names it.
pub(crate) struct Fleet {
    pub(crate) outside: Rc<Outside>,
    pub(crate) partitions: usize,
}

/// One open partition.
pub(crate) struct Partition(Rc<RefCell<Intake>>);

impl SourceSpec for Fleet {
    type Item = Message;
    type Partition = Partition;

    fn describe(&self) -> String {
        "fleet".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.partitions)
    }

    fn open(&self, partition: &PartitionId, cx: &OpenContext) -> Result<Partition, ConnectorError> {
        let partition = partition.number().unwrap_or_default();
        let intake = Rc::new(RefCell::new(Intake::open(&self.outside, partition, cx)?));
        self.outside.intakes.borrow_mut()[partition] = Some(Rc::clone(&intake));
        Ok(Partition(intake))
    }
}

impl Source for Partition {
    type Item = Message;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Message>,
    ) -> Result<SourceStatus, ConnectorError> {
        self.0.borrow_mut().poll(now, records_max, out)
    }

    fn stop(&mut self) {
        self.0.borrow_mut().stopping = true;
    }

    fn snapshot(&mut self, epoch: Epoch, position: &mut Vec<u8>) {
        self.0.borrow_mut().snapshot(epoch, position);
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        self.0.borrow_mut().durable(epoch)
    }

    fn committed(&mut self, _epoch: Epoch, oldest: Epoch) {
        self.0.borrow_mut().committed(oldest);
    }
}
