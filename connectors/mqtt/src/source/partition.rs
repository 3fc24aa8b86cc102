//! An open MQTT source on its shard: decodes and emits what its connection hands over, and keeps the
//! shard's side of the [`Progress`].
//!
//! # Position
//! What [`Source::snapshot`] writes in [`Mode::Journal`], little-endian. One byte holds the version of this
//! format, 1. Eight hold the number of the journal's record behind the last one emitted. Nothing, if that is not
//! known yet: the source has emitted nothing, and begins as it did. In other modes nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use thalweg_io::Work;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{
    Cause, ConnectorError, Decode, DecodeError, Emit, Epoch, Message, Origin, Source, SourceStatus,
    Timestamp,
};
use tracing::warn;

use crate::fault::Fault;
use crate::io_signal::IoSignal;
use crate::source::chunk::Chunk;
use crate::source::mode::Mode;
use crate::source::progress::Progress;
use crate::topic::{Bindings, TopicFilter};

/// The epochs whose marks are kept. Beyond that every other one is forgotten; an epoch then counts as one
/// next to it, on the safe side.
pub(crate) const EPOCHS_MAX: usize = 1024;
/// How long a source that is closed waits for its thread: the next attempt of the job finds the journal
/// closed and the session free. It takes one write to the disk, or one round trip to the broker.
const CLOSE_MS_MAX: u64 = 5_000;

const POSITION_VERSION: u8 = 1;

/// Reads what a snapshot wrote: a position, or nothing.
pub(crate) fn read_position(stored: &[u8]) -> Result<Option<u64>, String> {
    match stored {
        [] => Ok(None),
        [POSITION_VERSION, position @ ..] if position.len() == 8 => {
            let skipped = u64::from(seeded(Defect::MqttSkipsRecord));
            Ok(position.try_into().ok().map(|position| u64::from_le_bytes(position) + skipped))
        }
        [POSITION_VERSION, ..] => Err(format!(
            "the stored position has {} bytes instead of 9; the checkpoint is damaged",
            stored.len()
        )),
        [version, ..] => Err(format!(
            "the stored position has format {version}, and only {POSITION_VERSION} is known; use the version \
             of Thalweg that wrote it, or a later one"
        )),
    }
}

/// The marks of epochs, in their order.
#[derive(Default)]
struct Marks(VecDeque<(Epoch, u64)>);

impl Marks {
    fn push(&mut self, epoch: Epoch, mark: u64) {
        if self.0.len() >= EPOCHS_MAX {
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.0.push_back((epoch, mark));
    }

    /// The mark of `epoch`, or of one after it.
    fn at_least(&self, epoch: Epoch) -> Option<u64> {
        self.0.iter().find(|(of, _)| *of >= epoch).map(|(_, mark)| *mark)
    }

    /// The mark of `epoch`, or of one before it. Forgets those before that.
    fn at_most(&mut self, epoch: Epoch) -> Option<u64> {
        while self.0.get(1).is_some_and(|(of, _)| *of <= epoch) {
            self.0.pop_front();
        }
        self.0.front().filter(|(of, _)| *of <= epoch).map(|(_, mark)| *mark)
    }
}

/// What an opened partition is made of, beside its decoder.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) filters: Arc<[TopicFilter]>,
    pub(crate) from_io: flume::Receiver<ToShard>,
    pub(crate) to_io: flume::Sender<Chunk>,
    pub(crate) work: Work,
    pub(crate) signal: Arc<IoSignal>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) mode: Mode,
    /// Where the journal is read from.
    pub(crate) position: Option<u64>,
    /// The epoch that this comes from.
    pub(crate) restored: Option<(Epoch, u64)>,
}

/// What a poll may still emit, and what it has.
struct Room {
    left: usize,
    emitted: usize,
}

impl Room {
    /// A message was taken that gave `records`; one that gave none has cost its work, too.
    #[inline]
    fn take(&mut self, records: usize) {
        self.emitted += records;
        self.left = self.left.saturating_sub(records.max(1));
    }
}

/// What the connection tells the shard.
pub(crate) enum ToShard {
    Chunk(Chunk),
    Failed(Fault),
    Ended,
}

/// An open [`MqttSource`].
pub struct MqttPartition<D> {
    name: String,
    decoder: D,
    filters: Arc<[TopicFilter]>,
    from_io: flume::Receiver<ToShard>,
    to_io: flume::Sender<Chunk>,
    /// That of the connection, on this shard or a thread. It is done once the journal is closed and the connection ended.
    work: Work,
    signal: Arc<IoSignal>,
    /// The chunk being read, and the next message in it.
    current: Option<(Chunk, usize)>,
    ended: bool,
    /// This machine's clock was wrong then, by this number of milliseconds.
    clock_was: Option<(Range<Timestamp>, i64)>,
    told_unmatched: bool,
    mode: Mode,
    progress: Arc<Progress>,
    /// The mark behind the last message emitted, once there is one.
    emitted: Option<u64>,
    /// Of the epochs that are being written or may be gone back to.
    marks: Marks,
}

impl<D> MqttPartition<D> {
    pub(crate) fn new(decoder: D, parts: Parts) -> Self {
        let Parts {
            name,
            filters,
            from_io,
            to_io,
            work,
            signal,
            progress,
            mode,
            position,
            restored,
        } = parts;
        let emitted = match mode {
            Mode::AckOnCheckpoint => Some(0),
            Mode::None | Mode::Journal => position,
        };
        let mut marks = Marks::default();
        if let (Mode::Journal, Some((epoch, mark))) = (mode, restored) {
            marks.push(epoch, mark);
        }
        Self {
            name,
            decoder,
            filters,
            from_io,
            to_io,
            work,
            signal,
            current: None,
            ended: false,
            clock_was: None,
            told_unmatched: false,
            mode,
            progress,
            emitted,
            marks,
        }
    }
}

impl<D: Decode> MqttPartition<D> {
    /// Emits messages of `chunk` from `next` on; says where it stopped.
    fn emit(
        &mut self,
        chunk: &mut Chunk,
        mut next: usize,
        room: &mut Room,
        out: &mut impl Emit<D::Item>,
    ) -> usize {
        let mut unmatched = 0;
        // Lives as long as the borrow of the chunk: one small allocation per chunk, none per message.
        let mut bindings: Bindings<'_> = Vec::new();
        while room.left > 0
            && let Some(plain) = chunk.message(next)
        {
            next += 1;
            if !self.filters.iter().any(|filter| filter.matches(plain.topic, &mut bindings)) {
                unmatched += 1;
                if !self.told_unmatched {
                    self.told_unmatched = true;
                    tell_unmatched(&self.name, plain.topic);
                }
                continue;
            }
            let mut message = Message { bindings: &bindings, ..plain };
            if let Some((wrong, by_ms)) = &self.clock_was
                && wrong.contains(&message.received)
            {
                message.received = message.received.plus_ms(*by_ms);
            }
            if let Some((why, left_out)) = chunk.refusal(next - 1) {
                room.take(1);
                let error = DecodeError::new(Cause::TooLarge, why, None);
                let mut letter = message.dead_letter(error);
                letter.payload_bytes += left_out;
                out.dead_letter(letter);
                continue;
            }
            // All that a message holds, or the position behind it would forget the rest.
            let mut emitted = 0;
            out.begin_message();
            self.decoder.decode_each(&message, |decoded| {
                emitted += 1;
                match decoded {
                    Ok(value) => out.record(value, message.received, &message),
                    Err(error) => out.refused(error, &message),
                }
            });
            out.end_message();
            room.take(emitted);
        }
        chunk.unmatched += unmatched;
        if let Some(mark) = chunk.behind(next) {
            self.emitted = Some(mark);
        }
        next
    }

    /// Hands a read chunk back, which in [`Mode::None`] is what acknowledges its messages. If the thread has gone,
    /// its connection has too, and the broker will send them again.
    fn hand_over(&self, chunk: Chunk) {
        let news = chunk.is_news();
        let _gone = self.to_io.try_send(chunk);
        // Otherwise the thread finds it when it needs it: a wake-up per chunk would cost more than
        // the chunk.
        if news || self.signal.wanted() || self.signal.stopped() {
            self.signal.raise();
        }
    }
}

impl<D: Decode> Source for MqttPartition<D> {
    type Item = D::Item;

    fn poll(
        &mut self,
        _now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<D::Item>,
    ) -> Result<SourceStatus, ConnectorError> {
        if self.ended {
            return Ok(SourceStatus::Ended);
        }
        let (mut room, before) = (Room { left: records_max, emitted: 0 }, self.emitted);
        loop {
            if let Some((mut chunk, next)) = self.current.take() {
                let next = self.emit(&mut chunk, next, &mut room, out);
                if next < chunk.len() {
                    self.current = Some((chunk, next));
                    return Ok(SourceStatus::Ready);
                }
                self.hand_over(chunk);
            }
            match self.from_io.try_recv() {
                Ok(ToShard::Chunk(chunk)) => self.current = Some((chunk, 0)),
                Ok(ToShard::Failed(fault)) => return Err(fault.error(&self.name)),
                Ok(ToShard::Ended) => {
                    self.ended = true;
                    return Ok(SourceStatus::Ended);
                }
                // Messages that no filter matches, or that hold no record, yield nothing, and are to be acknowledged.
                Err(flume::TryRecvError::Empty) if room.emitted == 0 && self.emitted > before => {
                    return Ok(SourceStatus::Ready);
                }
                Err(flume::TryRecvError::Empty) => return Ok(SourceStatus::Waiting(None)),
                Err(flume::TryRecvError::Disconnected) => {
                    let what =
                        "the connection's work ended unexpectedly; its panic message is in the log";
                    return Err(ConnectorError::new(&self.name, what));
                }
            }
        }
    }

    fn listens(&self) -> bool {
        self.signal.listens()
    }

    fn clock_was_set(&mut self, at: Range<Timestamp>, by_ms: i64) {
        self.clock_was = Some((at, by_ms));
    }

    fn stop(&mut self) {
        self.signal.stop();
    }

    fn snapshot(&mut self, epoch: Epoch, position: &mut Vec<u8>) {
        let (Mode::AckOnCheckpoint | Mode::Journal, Some(mark)) = (self.mode, self.emitted) else {
            return;
        };
        self.marks.push(epoch, mark);
        if self.mode == Mode::Journal {
            if self.progress.want(mark) {
                self.signal.raise();
            }
            position.push(POSITION_VERSION);
            position.extend_from_slice(&mark.to_le_bytes());
        }
    }

    fn durable(&mut self, epoch: Epoch) -> Result<bool, ConnectorError> {
        match (self.mode, self.marks.at_least(epoch)) {
            _ if seeded(Defect::MqttPositionNotDurable) => Ok(true),
            (Mode::Journal, Some(mark)) => {
                self.progress.is_durable(mark).map_err(|fault| fault.error(&self.name))
            }
            _ => Ok(true),
        }
    }

    fn committed(&mut self, epoch: Epoch, oldest: Epoch) {
        let released = match self.mode {
            Mode::None => None,
            Mode::AckOnCheckpoint => self.marks.at_most(epoch),
            Mode::Journal if seeded(Defect::MqttTrimsToNewest) => self.marks.at_most(epoch),
            Mode::Journal => self.marks.at_most(oldest),
        };
        if let Some(mark) = released
            && mark > self.progress.released()
        {
            self.progress.release(mark);
            self.signal.raise();
        }
    }
}

impl<D> Drop for MqttPartition<D> {
    fn drop(&mut self) {
        if self.ended {
            self.signal.leave();
        } else {
            self.signal.abandon();
        }
        if !self.work.finish(Duration::from_millis(CLOSE_MS_MAX)) {
            tell_slow_close(&self.name);
        }
    }
}

#[cold]
fn tell_slow_close(name: &str) {
    warn!(
        "{name}: its thread has not closed the journal and the connection within {CLOSE_MS_MAX} ms; the disk is \
         slow. The next start waits for it"
    );
}

#[cold]
fn tell_unmatched(name: &str, topic: &str) {
    warn!(
        "{name}: messages come in that no topic filter of this source matches, the first on \
         {topic:?}; they are counted and left out. The session probably still holds a subscription \
         of an earlier job: give another client_id, or connect once with clean_session=true"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number)
    }

    #[test]
    fn positions_are_read_and_what_is_none_is_refused() {
        assert_eq!(read_position(&[]), Ok(None));
        let stored = [1, 7, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(read_position(&stored), Ok(Some(263)));
        assert!(read_position(&stored[..8]).is_err_and(|what| what.contains("8 bytes")));
        assert!(read_position(&[2; 9]).is_err_and(|what| what.contains("format 2")));
    }

    #[test]
    fn marks_are_those_of_their_epochs() {
        let mut marks = Marks::default();
        assert_eq!((marks.at_least(epoch(1)), marks.at_most(epoch(1))), (None, None));
        for (number, mark) in [(3, 30), (4, 40), (6, 60)] {
            marks.push(epoch(number), mark);
        }
        assert_eq!(marks.at_most(epoch(2)), None);
        for (number, at_least) in [(1, Some(30)), (3, Some(30)), (5, Some(60)), (7, None)] {
            assert_eq!(marks.at_least(epoch(number)), at_least, "{number}");
        }
        // Epoch 5 failed: what is before 6 may still be asked for.
        assert_eq!(marks.at_most(epoch(5)), Some(40));
        assert_eq!(marks.0.len(), 2);
        assert_eq!(marks.at_most(epoch(9)), Some(60));
    }

    /// Goal: however many epochs fail, memory is bounded and every answer on the safe side.
    #[test]
    fn too_many_epochs_cost_precision_not_safety() {
        let mut marks = Marks::default();
        for number in 1..=10 * EPOCHS_MAX as u64 {
            marks.push(epoch(number), number * 10);
            assert!(marks.0.len() <= EPOCHS_MAX);
            assert_eq!(marks.at_least(epoch(number)), Some(number * 10), "the newest is exact");
            let any = epoch(number / 2 + 1);
            assert!(marks.at_least(any).is_some_and(|mark| mark >= any.number() * 10));
        }
        assert!(marks.at_most(epoch(5_000)).is_some_and(|mark| mark <= 50_000));
    }
}
