//! A source that cannot be replayed, made replayable by the journal: the protocol alone, without sockets.
//!
//! ```text
//!  socket -> append to the journal, and hand to the shard at once      (full: neither, and no ack)
//!         <- PUBACK, in receive order, once durable, and only if the connection is still the same
//!  barrier:   the position is the number of the next record            (epoch waits until durable up to it)
//!  committed: trim below the position of the oldest epoch that can be restored
//!  start:     from the stored position on, first what the journal has, then what the broker sends
//! ```
//! Where partitions are discovered, one appears with its first message. It ends now and then while all that it has is
//! acknowledged, and is found again with the next message. Once nothing more will come, some of those that have ended are gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use thalweg_kernel::{
    Cause, ConnectorError, DeadLetter, DecodeError, Discover, Discovery, Emit, Epoch, JournalError,
    JournalReader, JournalWriter, KnownPartition, Message as Incoming, OpenContext, Origin,
    PartitionId, PartitionNews, Partitions, Source, SourceSpec, SourceStatus, Timestamp,
};
use thalweg_testing::Random;

use super::broker::{Broker, Delivery, Message};
use super::faults::Defect;
use super::ledger::Ledger;

/// The stable name of the source.
pub(crate) const SOURCE: &str = "readings";

/// What lies outside the process, and the intakes of the process that lives now.
pub(crate) struct Outside {
    pub(crate) broker: RefCell<Broker>,
    pub(crate) intakes: RefCell<Vec<Option<Rc<RefCell<Intake>>>>>,
    pub(crate) ledger: Ledger,
    pub(crate) defect: Option<Defect>,
    /// Partitions are discovered.
    pub(crate) discovered: bool,
    pub(crate) random: RefCell<Random>,
    /// Of each partition, whether it was opened since the job was started last, and has read what its journal had. Also true
    /// if the job was told that the partition is gone.
    pub(crate) read: RefCell<Vec<bool>>,
    /// Partitions that are not there any more.
    pub(crate) gone: RefCell<Vec<bool>>,
}

impl Outside {
    /// Whether a partition is there: from its first message on.
    pub(crate) fn is_there(&self, partition: usize) -> bool {
        self.broker.borrow().has_appeared(partition) && !self.gone.borrow()[partition]
    }

    /// Whether nothing is left in journals that the job has not read since it was started last.
    pub(crate) fn is_read(&self) -> bool {
        let read = self.read.borrow();
        let broker = self.broker.borrow();
        (0..read.len()).all(|partition| read[partition] || !broker.has_appeared(partition))
    }
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
    /// It has ended by itself, and may be found again.
    ended: bool,
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
        let restored = cx.durability.restored;
        let positions = restored.map(|epoch| (epoch, from)).into_iter().collect();
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
            ended: false,
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
                    None => {
                        self.replay = None;
                        self.outside.read.borrow_mut()[self.partition] = true;
                    }
                }
                continue;
            }
            if self.stopping {
                return Ok(SourceStatus::Ended);
            }
            let delivery = self.outside.broker.borrow().peek(self.partition).cloned();
            let Some(delivery) = delivery else {
                let may_end = self.outside.discovered && self.unacknowledged.is_empty();
                self.ended = may_end && self.outside.random.borrow_mut().one_in(4);
                return Ok(if self.ended {
                    SourceStatus::Ended
                } else {
                    SourceStatus::Waiting(None)
                });
            };
            match self.writer.append(now, &[&delivery.payload]) {
                Ok(position) => {
                    self.next = position + 1;
                    emit(&delivery.payload, now, out);
                    self.unacknowledged.push_back((position, delivery));
                }
                Err(JournalError::Full(_) | JournalError::Busy(_))
                    if self.outside.defect == Some(Defect::DropWhenFull) =>
                {
                    self.unacknowledged.push_back((0, delivery));
                }
                // It stays in the socket; the journal wakes us when there is room.
                Err(JournalError::Full(_) | JournalError::Busy(_)) => {
                    return Ok(SourceStatus::Waiting(None));
                }
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
        match self.outside.discovered {
            true => Partitions::Discovered,
            false => Partitions::numbered(self.partitions),
        }
    }

    fn open(&self, partition: &PartitionId, cx: &OpenContext) -> Result<Partition, ConnectorError> {
        let partition = partition.number().unwrap_or_default();
        if let Some(before) = self.outside.intakes.borrow_mut()[partition].take()
            && Rc::strong_count(&before) > 1
        {
            self.outside.ledger.violation(format!("partition {partition} is opened, and is open"));
        }
        let intake = Rc::new(RefCell::new(Intake::open(&self.outside, partition, cx)?));
        self.outside.intakes.borrow_mut()[partition] = Some(Rc::clone(&intake));
        Ok(Partition(intake))
    }

    fn discover(
        &self,
        known: &[KnownPartition],
        cx: &OpenContext,
    ) -> Result<Box<dyn Discover>, ConnectorError> {
        let (outside, mut news) = (Rc::clone(&self.outside), Vec::new());
        for known in known {
            let partition = known.id.number().unwrap_or_default();
            let records = outside.ledger.records(&journal_name(&cx.durability.operator, partition));
            let is_read = known.position.as_ref() == (records.len() as u64).to_le_bytes();
            if known.ended && is_read && outside.broker.borrow().is_drained() {
                let mut gone = outside.gone.borrow_mut();
                gone[partition] |= outside.random.borrow_mut().one_in(2);
            }
            if outside.gone.borrow()[partition] {
                if !known.ended {
                    outside.ledger.violation(format!("{} was gone, and has not ended", known.id));
                }
                news.push(PartitionNews::Gone(known.id.clone()));
            }
        }
        let ours = (0..self.partitions)
            .filter(|&partition| PartitionId::numbered(partition).shard(cx.shards) == cx.shard);
        let ours = ours.map(|partition| (partition, false)).collect();
        let looks_before = outside.random.borrow_mut().below(3);
        Ok(Box::new(Look { outside, ours, news, looks_before, waker: cx.waker.clone() }))
    }
}

/// Looks for the partitions of a shard.
struct Look {
    outside: Rc<Outside>,
    /// Partitions, and whether each was found since it has ended last.
    ours: Vec<(usize, bool)>,
    /// What is known from the start.
    news: Vec<PartitionNews>,
    /// The partitions that are there at the start are not found before this many looks.
    looks_before: usize,
    waker: Waker,
}

impl Discover for Look {
    fn discover(
        &mut self,
        _: Timestamp,
        _: usize,
        news: &mut Vec<PartitionNews>,
    ) -> Result<Discovery, ConnectorError> {
        if self.looks_before > 0 {
            self.looks_before -= 1;
            self.waker.wake_by_ref();
            return Ok(Discovery::Listing);
        }
        news.append(&mut self.news);
        for (partition, _) in &self.ours {
            self.outside.read.borrow_mut()[*partition] |= self.outside.gone.borrow()[*partition];
        }
        for (partition, found) in &mut self.ours {
            let is_closed = |intake: &mut Rc<RefCell<Intake>>| Rc::strong_count(intake) == 1;
            let mut intakes = self.outside.intakes.borrow_mut();
            if intakes[*partition].take_if(is_closed).is_some() {
                self.outside.broker.borrow_mut().disconnect(*partition);
            }
            let has_ended = match &intakes[*partition] {
                Some(intake) => intake.borrow().ended,
                // It was not opened since the job was started, or is closed.
                None => true,
            };
            *found &= !has_ended || intakes[*partition].is_some();
            let has_more = || self.outside.broker.borrow().has_more(*partition);
            let is_new = !self.outside.read.borrow()[*partition];
            if !*found && has_ended && self.outside.is_there(*partition) && (is_new || has_more()) {
                *found = true;
                news.push(PartitionNews::Found(PartitionId::numbered(*partition)));
            }
        }
        Ok(Discovery::Listed(Some(Duration::from_millis(1))))
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
