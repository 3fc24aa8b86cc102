//! Counters, with handles that are made once. Labels: `job` and `operator`; never a topic.
//!
//! | name | counts |
//! |---|---|
//! | `thalweg_mqtt_received_total`, `_received_bytes_total` | messages taken from the broker, and their payloads' bytes |
//! | `thalweg_mqtt_acks_total` | messages acknowledged, each when its mode allowed it |
//! | `thalweg_mqtt_stale_acks_total` | messages that could be acknowledged only after their connection had gone: the broker repeats these |
//! | `thalweg_mqtt_duplicates_total` | messages that the broker sent again, and that count once |
//! | `thalweg_mqtt_retained_skipped_total` | retained messages that the source does not want |
//! | `thalweg_mqtt_copies_skipped_total` | further copies of a message that several filters of the source match |
//! | `thalweg_mqtt_unmatched_total` | messages of a subscription that the source does not have (any more) |
//! | `thalweg_mqtt_journal_appended_total` | messages taken into the journal |
//! | `thalweg_mqtt_journal_replayed_total` | messages read again from the journal at a start |
//! | `thalweg_mqtt_journal_full_total` | times that the journal had no room and messages had to wait |
//! | `thalweg_mqtt_journal_stalled` | gauge: 1 while they wait |
//! | `thalweg_mqtt_journal_refused_total` | messages over the journal's record limit: dead letters |
//! | `thalweg_mqtt_too_large_total` | messages over `packet_bytes_max`: dead letters |
//! | `thalweg_mqtt_journal_left_total` | messages that still waited for room when the source stopped: a broker that keeps the session repeats messages of QoS 1 and 2 |
//! | `thalweg_mqtt_connects_total` | connections made |
//! | `thalweg_mqtt_connected` | gauge: 1 while connected |
//! | `thalweg_mqtt_published_total`, `_published_bytes_total` | results with the broker (QoS 0: written), and their payloads' bytes |
//! | `thalweg_mqtt_republished_total` | results sent again after a lost connection |
//! | `thalweg_mqtt_dropped_total` | results that cannot be published, by `reason` |

use metrics::{Counter, Gauge, counter, gauge};
use thalweg_kernel::OpenContext;

pub(crate) struct SourceMeters {
    pub(crate) received: Counter,
    pub(crate) bytes: Counter,
    pub(crate) acks: Counter,
    pub(crate) stale_acks: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) retained_skipped: Counter,
    pub(crate) copies_skipped: Counter,
    pub(crate) unmatched: Counter,
    pub(crate) journal_appended: Counter,
    pub(crate) replayed: Counter,
    pub(crate) journal_full: Counter,
    pub(crate) journal_refused: Counter,
    pub(crate) journal_left: Counter,
    pub(crate) too_large: Counter,
    pub(crate) stalled: Gauge,
    pub(crate) connects: Counter,
    pub(crate) connected: Gauge,
}

pub(crate) struct SinkMeters {
    published: Counter,
    bytes: Counter,
    pub(crate) republished: Counter,
    pub(crate) connects: Counter,
    pub(crate) connected: Gauge,
}

/// Why a result was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// The topic is empty, too long, or has a character that it must not have.
    Topic,
    /// The packet is over `packet_bytes_max` or the broker's own limit.
    TooLarge,
    /// A row whose payload is empty, where that would take the row away.
    Empty,
    /// The broker said no.
    Refused,
    /// The connection ended in its wake, again and again, while the broker took others.
    Ends,
}

impl DropReason {
    const fn name(self) -> &'static str {
        match self {
            Self::Topic => "invalid_topic",
            Self::TooLarge => "too_large",
            Self::Empty => "empty_payload",
            Self::Refused => "refused",
            Self::Ends => "connection_ended",
        }
    }
}

fn counted(cx: &OpenContext, name: &'static str) -> Counter {
    counter!(name, "job" => cx.job.to_string(), "operator" => cx.operator.to_string())
}

fn gauged(cx: &OpenContext, name: &'static str) -> Gauge {
    gauge!(name, "job" => cx.job.to_string(), "operator" => cx.operator.to_string())
}

/// The counter of results dropped for `reason`.
pub(crate) fn dropped(cx: &OpenContext, reason: DropReason) -> Counter {
    counter!(
        "thalweg_mqtt_dropped_total",
        "job" => cx.job.to_string(),
        "operator" => cx.operator.to_string(),
        "reason" => reason.name()
    )
}

impl SourceMeters {
    pub(crate) fn new(cx: &OpenContext) -> Self {
        Self {
            received: counted(cx, "thalweg_mqtt_received_total"),
            bytes: counted(cx, "thalweg_mqtt_received_bytes_total"),
            acks: counted(cx, "thalweg_mqtt_acks_total"),
            stale_acks: counted(cx, "thalweg_mqtt_stale_acks_total"),
            duplicates: counted(cx, "thalweg_mqtt_duplicates_total"),
            retained_skipped: counted(cx, "thalweg_mqtt_retained_skipped_total"),
            copies_skipped: counted(cx, "thalweg_mqtt_copies_skipped_total"),
            unmatched: counted(cx, "thalweg_mqtt_unmatched_total"),
            journal_appended: counted(cx, "thalweg_mqtt_journal_appended_total"),
            replayed: counted(cx, "thalweg_mqtt_journal_replayed_total"),
            journal_full: counted(cx, "thalweg_mqtt_journal_full_total"),
            journal_refused: counted(cx, "thalweg_mqtt_journal_refused_total"),
            journal_left: counted(cx, "thalweg_mqtt_journal_left_total"),
            too_large: counted(cx, "thalweg_mqtt_too_large_total"),
            stalled: gauged(cx, "thalweg_mqtt_journal_stalled"),
            connects: counted(cx, "thalweg_mqtt_connects_total"),
            connected: gauged(cx, "thalweg_mqtt_connected"),
        }
    }
}

impl SinkMeters {
    pub(crate) fn new(cx: &OpenContext) -> Self {
        Self {
            published: counted(cx, "thalweg_mqtt_published_total"),
            bytes: counted(cx, "thalweg_mqtt_published_bytes_total"),
            republished: counted(cx, "thalweg_mqtt_republished_total"),
            connects: counted(cx, "thalweg_mqtt_connects_total"),
            connected: gauged(cx, "thalweg_mqtt_connected"),
        }
    }
    /// A result is with the broker.
    pub(crate) fn published(&self, payload_bytes: usize) {
        self.published.increment(1);
        self.bytes.increment(payload_bytes as u64);
    }
}
