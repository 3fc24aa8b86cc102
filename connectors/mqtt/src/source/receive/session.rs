//! What a connection begins with, and what a source and its broker must agree on across connections: subscriptions, sessions, and
//! which packet ids are free.

use super::*;
use crate::source::known::connection;

/// How long subscriptions wait for the journal to note a new session.
const HELD_MS_MAX: u64 = 1_000;

impl Receive {
    fn subscribe(&mut self) {
        self.subscribe_at = None;
        self.part = 0;
        self.subscribe_part();
    }

    /// Subscribes, or waits until the journal knows of a new session: what comes then need not wait here.
    pub(super) fn subscribe_when_noted(&mut self) {
        match self.begins {
            Begins::At(mark) if mark > self.ledger.reached() => {
                self.subscribe_at = Some(self.reactor.now() + Duration::from_millis(HELD_MS_MAX));
            }
            Begins::At(_) => {
                self.begins = Begins::Not;
                self.subscribe();
            }
            Begins::Not | Begins::Unsaid => self.subscribe(),
        }
    }

    /// A disk that is behind for longer, or full, costs no message: the broker is to keep them. Nothing is taken meanwhile.
    pub(super) fn subscribe_if_late(&mut self) {
        if let Some(at) = self.subscribe_at
            && self.reactor.poll_until(at).is_ready()
        {
            warn!(
                "{}: the broker has lost the session, and the journal has not noted that yet: no message is taken until it has",
                self.who
            );
            self.subscribe();
        }
    }

    /// Also with a kept session: the job may have other topics than the one before. Whether there was something left.
    fn subscribe_part(&mut self) -> bool {
        let Some((identifier, asked)) = self.copies.part(self.part) else { return false };
        let filters = asked.iter().map(Asked::subscription);
        self.link.subscribe(filters, self.setup.plan.config.qos, identifier);
        true
    }

    /// The broker has granted what was asked for last. Filters with identifiers are asked for one by one: so a message that
    /// comes for one of them does for those before it.
    pub(super) fn part_subscribed(&mut self) {
        self.part += 1;
        if self.subscribe_part() {
            return;
        }
        if self.takes_back && !self.copies.covered().is_empty() {
            self.link.unsubscribe(self.copies.covered());
        }
        if let Some((one, other)) = self.copies.doubt() {
            warn!(
                "{}: the filters {one:?} and {other:?} overlap, and this connection has no subscription identifiers: a message \
                 that comes at once behind an equal one counts as a copy. With version=5, or filters that do not overlap, \
                 nothing is guessed",
                self.who
            );
        }
        self.has_run = true;
        self.setup.signal.listen(true);
        self.setup.cx.waker.wake_by_ref();
        let filters: Vec<_> = self.setup.filters.iter().map(TopicFilter::subscription).collect();
        if self.refused.is_empty() {
            info!("{}: subscribed to {}", self.who, filters.join(" "));
        }
        self.setup.on_subscribed.call();
        self.tell_refused();
    }

    /// The broker knows nothing of the session before: none of its packet ids comes again. What the journal says of them must not
    /// meet a message of the new one.
    pub(super) fn session_begins(&mut self) {
        let was_used = !self.known.is_empty();
        self.known.begin();
        if was_used && self.ledger.is_journal() && !seeded(Defect::MqttHidesSession) {
            self.begins = Begins::Unsaid;
            // Without room nothing is taken, either: then the broker is to keep what comes.
            self.begin_session();
        }
    }

    /// Goes on once the journal knows of a new session.
    pub(super) fn session_noted(&mut self) {
        if let Begins::At(mark) = self.begins
            && mark <= self.ledger.reached()
        {
            self.begins = Begins::Not;
            if self.subscribe_at.is_some() {
                self.subscribe();
            }
        }
    }

    /// An answered ping frees the packet ids that were acknowledged before it.
    #[inline]
    pub(super) fn forget_proven(&mut self) {
        let (pings, pongs) = self.link.pings();
        // What waits for room came before the answer, and is yet to be recognised.
        if pongs > self.pongs && self.stall.is_none() {
            self.pongs = pongs;
            self.known.proven(connection(self.generation), pings, pongs);
        }
    }

    /// The broker will not send the message of this id again. It hears of that when a crash cannot undo it.
    pub(super) fn released(&mut self, packet_id: u16) {
        // One that ends leaves it to the next start: the broker asks again.
        if self.stop == Stop::No && self.unnoted.len() < OWED_MAX {
            self.known.release(packet_id);
            self.unnoted.push_back(packet_id);
            self.note_released();
        }
    }

    pub(super) fn note_released(&mut self) {
        while let Some(packet_id) = self.unnoted.front().copied() {
            match self.ledger.release(packet_id, now()) {
                Ok(None) => return,
                Ok(Some(true)) => self.link.complete(packet_id),
                Ok(Some(false)) => {}
                Err(what) => return self.fault = Some(what),
            }
            self.unnoted.pop_front();
        }
    }
}
