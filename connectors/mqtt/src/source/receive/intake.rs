//! What comes in: into the ledger, and into the chunk that is being filled. Before anything live, what the
//! journal holds from an earlier run.
//!
//! **No room.** A journal at its cap, on a full disk, or behind its disk takes nothing for the moment. What
//! comes in then waits here, unacknowledged, up to [`STALLED_MESSAGES_MAX`]; a broker that keeps to `inflight`
//! sends no more. Beyond that the socket is not read.
//! Nothing is lost, and the order stays. What still waits when the connection goes is repeated by the
//! broker, if it keeps the session.
//!
//! **Replay.** The journal is opened, and read to its end, before the first connection is made. So what is live
//! follows what is replayed without a gap or a repetition. The shard runs meanwhile.

use std::collections::VecDeque;

use thalweg_kernel::defects::{Defect, seeded};

use super::*;
use crate::link::Delivery;
use crate::source::acks::{Keeper, Taken};
use crate::source::known::{Met, Sighting, connection, fingerprint};

/// The most messages that wait for room.
pub const STALLED_MESSAGES_MAX: usize = 1024;
/// The most bytes of payload that wait for room; the last message may take it over by one packet.
pub const STALLED_BYTES_MAX: usize = 1024 * 1024;
/// How long a journal may be open elsewhere: an earlier attempt of this job is on its way out.
const OPEN_MS_MAX: u64 = 5_000;
const OPEN_RETRY_MS: u64 = 20;
/// A wait for room that is longer is told; a shorter one is a disk that is behind for a moment.
const TELL_AFTER_MS: u64 = 1_000;

/// Messages that the ledger has no room for, in receive order, each with its connection.
pub(super) struct Stall {
    waiting: VecDeque<(Delivery, u64)>,
    bytes: usize,
    why: String,
    /// When it is time to tell.
    tell_at: Instant,
    told: bool,
}

impl Stall {
    fn is_crowded(&self) -> bool {
        self.waiting.len() >= STALLED_MESSAGES_MAX || self.bytes >= STALLED_BYTES_MAX
    }
}

/// Messages over the limit. The first, second, fourth, eighth and so on is named.
#[derive(Default)]
pub(super) struct Oversized(u64);

impl Oversized {
    #[cold]
    fn count(&mut self, who: &str, meters: &SourceMeters, delivery: &Delivery, why: &str) {
        meters.too_large.increment(1);
        self.0 += 1;
        if self.0.is_power_of_two() {
            let topic: String =
                String::from_utf8_lossy(&delivery.topic).chars().take(200).collect();
            warn!(
                "{who}: a message on topic {topic:?} is a dead letter: {why} ({} so far)",
                self.0
            );
        }
    }
}

impl Receive {
    /// Opens the journal and reads again what is to be. False if the source was abandoned, or ended before
    /// it had begun.
    pub(super) async fn resume(&mut self, place: &Place) -> Result<bool, Fault> {
        let deadline = self.reactor.now() + Duration::from_millis(OPEN_MS_MAX);
        let writer = loop {
            match place.open(Waker::from(Arc::clone(&self.setup.signal)))? {
                Ok(writer) => break writer,
                Err(what) if self.reactor.now() >= deadline => return Err(what.into()),
                Err(_) => {
                    let goes_on = self.pause(Duration::from_millis(OPEN_RETRY_MS)).await;
                    if !goes_on || self.stop != Stop::No {
                        return Ok(false);
                    }
                }
            }
        };
        let end = writer.end();
        self.ledger.keep(Keeper::new(writer, self.setup.keeps_ids()));
        self.settle();
        if let Some(qos) = self.setup.keeps_ids()
            && !seeded(Defect::MqttForgetsIds)
        {
            self.known = place.known(end, qos)?;
        }
        let mut replay = place.replay(end)?;
        let mut count = 0;
        loop {
            if self.filling.is_none() && !self.wait_for_free().await {
                return Ok(!self.setup.signal.abandoned());
            }
            let Some(chunk) = &mut self.filling else { continue };
            let more = replay.fill(chunk)?;
            count += chunk.len() as u64;
            self.meters.replayed.increment(chunk.len() as u64);
            self.send();
            if !more {
                break;
            }
        }
        if count > 0 {
            info!("{}: read {count} messages again from the journal {}", self.who, place.name);
        }
        Ok(true)
    }

    /// Whether a message can be taken in now. Others wait for it in the socket.
    pub(super) fn may_take(&self) -> bool {
        // One that ends takes nothing, and leaves it to the broker.
        let ends = self.stop != Stop::No || self.fault.is_some();
        let crowded = self.stall.as_ref().is_some_and(Stall::is_crowded);
        ends || (!crowded && (self.filling.is_some() || !self.free.is_empty()))
    }

    /// Takes a message in, when [one may be](Self::may_take).
    pub(super) fn deliver(&mut self, mut delivery: Delivery) {
        // Not acknowledged, hence not lost: a session that outlives us keeps it.
        if self.stop != Stop::No || self.fault.is_some() {
            return;
        }
        delivery.is_copy = self.copies.is_copy(&delivery);
        let generation = self.generation;
        if self.stall.is_some() {
            self.wait_behind(delivery, generation, String::new());
        } else {
            // The time of a chunk is that of its first message.
            if self.filling.is_none() {
                self.take_free();
            }
            if let Some((delivery, why)) = self.take(delivery, generation) {
                self.wait_behind(delivery, generation, why);
            }
        }
    }

    /// Takes a message into the chunk being filled. Gives it back, with the reason, where there is no room.
    fn take(&mut self, delivery: Delivery, generation: u64) -> Option<(Delivery, String)> {
        if self.filling.is_none() {
            return Some((delivery, String::new()));
        }
        if self.ledger.is_crowded() {
            return Some((delivery, "every packet id awaits its acknowledgement".to_owned()));
        }
        if self.begins == Begins::Unsaid {
            if !self.begin_session() {
                return Some((delivery, "the journal has no room for a new session".to_owned()));
            }
            // It has subscribed; what comes stands behind that in the journal.
            self.begins = Begins::Not;
        }
        if matches!(self.begins, Begins::At(mark) if mark > self.ledger.reached()) {
            return Some((delivery, "the journal has not noted the new session yet".to_owned()));
        }
        let (packet_id, qos) = (delivery.packet_id, delivery.qos);
        let bytes = delivery.payload.len() as u64;
        let seen = self.sight(&delivery, generation);
        let met = seen.map_or(Met::News, |seen| self.known.meet(seen, delivery.dup));
        if met != Met::News {
            // It was taken earlier, and the answer follows what became of it then.
            self.repeated(&delivery, met);
            if met == Met::AgainHere {
                return None;
            }
        } else if delivery.is_copy {
            self.meters.copies_skipped.increment(1);
        } else if delivery.retained && self.setup.skip_retained {
            self.meters.retained_skipped.increment(1);
        } else {
            let chunk = self.filling.as_mut()?;
            match self.ledger.take(&delivery, chunk.received) {
                Ok(Taken::Yes(mark)) => {
                    if self.ledger.is_journal() {
                        self.meters.journal_appended.increment(1);
                    }
                    chunk.push(delivery, mark);
                }
                Ok(Taken::NoRoom(why)) => return Some((delivery, why)),
                Ok(Taken::Refused(mark, why)) => {
                    match delivery.is_cut {
                        false => self.meters.journal_refused.increment(1),
                        true => self.oversized.count(&self.who, &self.meters, &delivery, &why),
                    }
                    if !delivery.is_cut || !seeded(Defect::MqttForgetsOversized) {
                        chunk.push_refused(delivery, mark, why);
                    }
                }
                Err(what) => {
                    self.fault = Some(what);
                    return None;
                }
            }
        }
        if let Some(seen) = seen {
            self.known.note(seen);
        }
        let Some(chunk) = &mut self.filling else { return None };
        if self.ledger.is_by_hand_over() {
            chunk.push_ack(packet_id, qos);
        } else if generation == self.generation {
            self.ledger.owe(packet_id, qos);
        }
        let full = chunk.is_full();
        self.pace.count(qos);
        self.meters.received.increment(1);
        self.meters.bytes.increment(bytes);
        if full {
            self.send();
        }
        None
    }

    /// How a message is known again, if it may come again.
    #[inline]
    fn sight(&self, delivery: &Delivery, generation: u64) -> Option<Sighting> {
        let Delivery { packet_id, qos, topic, payload, .. } = delivery;
        let comes_again = match qos {
            Qos::AtMostOnce => false,
            Qos::AtLeastOnce => self.setup.recognises(),
            Qos::ExactlyOnce => true,
        };
        // Only the ids of this connection's session mean anything.
        (comes_again && generation == self.generation).then(|| Sighting {
            packet_id: *packet_id,
            qos: *qos,
            fingerprint: fingerprint(topic, payload),
            connection: connection(generation),
        })
    }

    /// A message came again.
    #[cold]
    fn repeated(&mut self, delivery: &Delivery, met: Met) {
        self.meters.duplicates.increment(1);
        self.repeats.note(self.reactor.now(), &delivery.topic);
        if met == Met::AgainHere {
            self.link.waive();
        }
    }

    /// Notes in the journal that a session begins. Whether there was room.
    #[cold]
    pub(super) fn begin_session(&mut self) -> bool {
        match self.ledger.begin_session(now()) {
            Ok(Some(mark)) => {
                self.begins = Begins::At(mark);
                self.ledger.flush(self.reactor.now(), true);
            }
            Ok(None) => return false,
            Err(what) => self.fault = Some(what),
        }
        true
    }

    /// Puts a message behind those that wait for room.
    #[cold]
    fn wait_behind(&mut self, delivery: Delivery, generation: u64, why: String) {
        let stall = self.stall.get_or_insert_with(|| {
            self.meters.journal_full.increment(1);
            self.meters.stalled.set(1.0);
            let tell_at = self.reactor.now() + Duration::from_millis(TELL_AFTER_MS);
            Stall { waiting: VecDeque::new(), bytes: 0, why, tell_at, told: false }
        });
        stall.bytes += delivery.payload.len();
        stall.waiting.push_back((delivery, generation));
    }

    /// Takes what waits for room, as far as there is some.
    #[cold]
    pub(super) fn unstall(&mut self) {
        let Some(mut stall) = self.stall.take() else { return };
        while let Some((delivery, generation)) = stall.waiting.pop_front() {
            if self.filling.is_none() && !self.take_free() {
                self.take_all_back();
                if !self.take_free() {
                    stall.waiting.push_front((delivery, generation));
                    break;
                }
            }
            let bytes = delivery.payload.len();
            if let Some((delivery, why)) = self.take(delivery, generation) {
                stall.why = why;
                stall.waiting.push_front((delivery, generation));
                break;
            }
            stall.bytes -= bytes;
        }
        // It may have used up the chunks.
        if self.free.is_empty() {
            self.take_all_back();
        }
        if stall.waiting.is_empty() {
            self.stall_ended(&stall);
        } else {
            self.stall = Some(stall);
        }
    }

    fn stall_ended(&self, stall: &Stall) {
        self.meters.stalled.set(0.0);
        if stall.told {
            info!("{}: there is room again; messages are taken and acknowledged", self.who);
        }
    }

    /// Nothing more is coming soon: what was taken goes to the shard and to the disk.
    pub(super) fn pass_on(&mut self) {
        // The last chunk is kept until another comes back or it is full. So a quiet stream into
        // a shard that stands still fills it, and the socket is read meanwhile.
        if !self.free.is_empty() {
            self.send();
        }
        self.flush();
    }

    /// Says once that a wait for room is a long one.
    #[cold]
    pub(super) fn tell_stall(&mut self) {
        let Some(stall) = &mut self.stall else { return };
        if !stall.told && self.reactor.poll_until(stall.tell_at).is_ready() {
            stall.told = true;
            let why = &stall.why;
            error!(
                "{}: no message is taken or acknowledged for now; the broker keeps them: {why}",
                self.who
            );
        }
    }

    /// Nothing more is taken: leaves what waits for room to the broker.
    pub(super) fn give_up_stalled(&mut self) {
        let Some(stall) = self.stall.take() else { return };
        self.meters.journal_left.increment(stall.waiting.len() as u64);
        self.stall_ended(&stall);
    }

    /// The connection has gone; the broker repeats what was not acknowledged, so that need not wait.
    pub(super) fn leave_stalled_to_broker(&mut self) {
        let Some(mut stall) = self.stall.take() else { return };
        stall.waiting.retain(|(delivery, _)| delivery.qos == Qos::AtMostOnce);
        stall.bytes = stall.waiting.iter().map(|(delivery, _)| delivery.payload.len()).sum();
        if stall.waiting.is_empty() {
            self.stall_ended(&stall);
        } else {
            self.stall = Some(stall);
        }
    }

    /// Takes a free chunk to fill; waits for one if there is none. False if the end came first.
    async fn wait_for_free(&mut self) -> bool {
        poll_fn(|cx| {
            if self.attend(cx) || self.stop != Stop::No || self.fault.is_some() {
                return Poll::Ready(false);
            }
            if self.filling.is_some() || self.take_free() {
                return Poll::Ready(true);
            }
            Poll::Pending
        })
        .await
    }

    /// Takes a free chunk to fill, if there is one.
    fn take_free(&mut self) -> bool {
        let Some(mut chunk) = self.free.pop() else { return false };
        chunk.reset(self.generation, now());
        self.filling = Some(chunk);
        true
    }
}
