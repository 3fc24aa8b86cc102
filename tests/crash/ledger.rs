//! What was published, and what became of it: the truth that the sink is held against.

use std::time::Duration;

/// Devices of the fleet; the mark at the end comes from one more.
pub(crate) const DEVICES: usize = 24;

/// Event time between two messages, in milliseconds.
const STEP_MS: i64 = 2;

/// The event time of the first message.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// The most messages by which an unacknowledged message may be behind the latest. A message is published only when
/// all others before it have been acknowledged or given up.
pub(crate) const BEHIND_MAX: u64 = 400;

/// Windows have this length, in milliseconds of event time.
pub(crate) const WINDOW_MS: i64 = 1_000;

/// How long the job waits for messages out of order: no message may be late.
pub(crate) const DISORDER: Duration = Duration::from_millis(1_000);

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The broker has acknowledged it: it must be in the sink once.
    Acknowledged,
    /// Sent, and never acknowledged: it may be there once or not at all.
    Unknown,
}

/// A published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) device: usize,
    pub(crate) sequence: u64,
    pub(crate) time_ms: i64,
    pub(crate) value: i64,
    pub(crate) fate: Fate,
}

/// All messages, in order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    messages: Vec<Published>,
    sequences: Vec<u64>,
}

impl Ledger {
    /// Takes up the next message of a device; its number.
    pub(crate) fn begin(&mut self, device: usize) -> u64 {
        let number = self.messages.len() as u64;
        let time_ms = BEGIN_MS + number as i64 * STEP_MS;
        self.begin_at(device, time_ms);
        number
    }

    /// The mark at the end: late enough to close all windows of what was published before.
    pub(crate) fn begin_mark(&mut self) -> u64 {
        let number = self.messages.len() as u64;
        let time_ms = BEGIN_MS + number as i64 * STEP_MS + 60_000;
        self.begin_at(DEVICES, time_ms);
        number
    }

    fn begin_at(&mut self, device: usize, time_ms: i64) {
        self.sequences.resize(self.sequences.len().max(device + 1), 0);
        self.sequences[device] += 1;
        let sequence = self.sequences[device];
        // Nothing that could be guessed from the other fields, and of either sign.
        let mixed = (self.messages.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let value = mixed as i64 - (1 << 23);
        let fate = Fate::Unknown;
        self.messages.push(Published { device, sequence, time_ms, value, fate });
    }

    /// The broker has acknowledged it.
    pub(crate) fn acknowledge(&mut self, number: u64) {
        self.messages[number as usize].fate = Fate::Acknowledged;
    }

    /// How many were taken up.
    pub(crate) fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    /// How many have been acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.messages.iter().filter(|m| m.fate == Fate::Acknowledged).count() as u64
    }

    /// All of them.
    pub(crate) fn messages(&self) -> &[Published] {
        &self.messages
    }
}

/// How a device is called.
pub(crate) fn device_name(device: usize) -> String {
    if device == DEVICES { "end".to_owned() } else { format!("d{device:02}") }
}

/// The topic of a device.
pub(crate) fn topic(device: usize) -> String {
    format!("fleet/{}/reading", device_name(device))
}

impl Published {
    /// As it goes over the wire.
    pub(crate) fn payload(&self) -> String {
        let Self { sequence, time_ms, value, .. } = self;
        format!("{{\"sequence\":{sequence},\"time_ms\":{time_ms},\"value\":{value}}}")
    }
}
