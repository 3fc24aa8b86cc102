//! MQTT: a source that acknowledges what is safe, and a sink that is done when the broker is. MQTT 3.1.1 and 5, QoS 0 to 2, TLS, in rumqttc's packets.
//!
//! | type | what it is |
//! |---|---|
//! | [`MqttConfig`] | the broker and how to connect to it, from a URL or built |
//! | [`MqttSource`] | topics in, one partition, one connection |
//! | [`MqttSink`] | records out, one connection for all shards of the job; or the table of a changelog, a retained topic for each row |
//! | [`Mode`], [`Start`] | when a source acknowledges, and where in its journal it begins |
//! | [`WithProperty`] | a user property, such as a sequence number, beside the decoded record |
//! | [`record`] | a message as it stands in the journal |
//! | [`topic`] | filters with named levels: `sensors/{device}/temp` |
//! | `testing` | feature `testing`: private brokers for tests |
//!
//! # How it runs
//! Each source and each sink has one connection. Its work is a task of the shard that reads the source, or of the first shard
//! of a sink ([`thalweg_io`]). Where the driver cannot wait for descriptors the work has a thread of its own.
//! Nothing here blocks a shard: a name is looked up on a thread that is there for that long.
//!
//! ```text
//!  broker -> link ----> work == chunks of messages ==> shard: match, decode, emit
//!              |        work <== the same chunks ====  hand-over
//!              |
//!              +=> journal: write, sync => acknowledge (QoS 1, 2)
//!
//!  shard: encode == batches of results ==> work: outbox -> link -> broker
//!         <== the same batches, empty ===  once the broker has acknowledged all of them
//! ```
//!
//! Messages travel in flat buffers that circulate, so nothing is allocated per message here.
//! (rumqttc's codec allocates once or twice for each.)
//!
//! What a message costs at a high rate is not its decoding but the wake-ups, of the shard and of the broker, for it. Above 8,000 messages a second messages therefore gather for 0.4 ms at QoS 0, and for 0.1 to 0.2 ms
//! otherwise (module `pace`). A chunk that has nothing to acknowledge comes back without waking anyone. All
//! acknowledgements, or publishes, that are due go out in one write.
//!
//! # What is promised
//! A source acknowledges by one of three modes ([`Mode`], URL parameter `durability`), always in receive order,
//! and only on the connection that delivered the message. Otherwise the broker repeats it.
//!
//! | mode | acknowledged when | a crash of this process | a lost connection |
//! |---|---|---|---|
//! | `journal`, the default with a state directory | the message is durable in the journal | what is in the journal is read again, behind the checkpoint: its effect on the state happens once. What the broker repeats of it is recognised | what was not acknowledged is repeated, and recognised |
//! | `ack_on_checkpoint` | an epoch that covers it exists | what was not acknowledged is repeated by the broker: at least once | the repetition is recognised |
//! | `none`, the default without | the shard has emitted it | what has no checkpoint behind it is lost | the repetition is recognised |
//!
//! | | source | sink |
//! |---|---|---|
//! | QoS 0 | at most once; from a journal, once from the moment it is durable there | done when written to the socket |
//! | QoS 1 | as its mode says | at least once, in order but for repetitions; in a job with checkpoints through the outbox: see [`MqttSink`] |
//! | QoS 2 | as QoS 1; and a repetition is always told from news | as QoS 1 |
//!
//! What the broker sends again is recognised while it keeps the session, and the receiver's state is part of the journal. Module
//! `source::known` says how, and when a repetition of QoS 1 can be mistaken; [`MqttSource::recognise_repeats`] turns that off.
//! What its *publisher* sends twice is two messages. Only a number that the publisher gives tells these apart:
//! de-duplicate by it ([`WithProperty`]). As fields of the record properties come by
//! [`WithMetadata`](thalweg_kernel::WithMetadata).
//!
//! A source loses nothing of QoS 1 and 2 while it is away if its session is kept: give it a
//! `client_id`. Without one the broker forgets us with each connection, and what was published or
//! not yet acknowledged then is lost.
//!
//! With `ack_on_checkpoint` the broker's window is the most messages of a checkpoint interval. At 20 (mosquitto
//! with MQTT 3.1.1) and one checkpoint a second that is 20 msg/s. With MQTT 5 it is `inflight`, if the broker has
//! no lower limit.
//!
//! # The journal
//! Each message received goes to the shard at once and into the journal `NAME-PARTITION`, NAME being the
//! operator's stable name. Retained messages that are skipped do not. A snapshot of the source is its position
//! there. The checkpoint waits until the journal is durable up to it, and trims it below the oldest epoch
//! retained. The last 32,768 records stay in any case, or 16 MiB of them, as long as the journal has room. They tell what the
//! broker may send again.
//!
//! A start reads from the checkpoint's position to the end before it connects, so live messages follow without a
//! gap or a repetition. Without a checkpoint it reads from the oldest record kept, or from where
//! [`MqttSource::start_from`] says. Topics are matched and payloads decoded anew.
//!
//! | what | then |
//! |---|---|
//! | no room: the journal is at its cap, or the disk is full | nothing is taken or acknowledged, the broker keeps it; counted, and after a second logged once; goes on by itself |
//! | a message over the journal's record limit | a dead letter (`too_large`), acknowledged, counted. That dead letter is not in the journal: a crash may lose or repeat it |
//! | a failed write or sync, a damaged journal, a directory that was removed or replaced | the job ends, whatever its restart strategy; nothing is acknowledged after it |
//! | the journal is still open in an attempt of the job that is ending | waited for, up to 5 s |
//! | a change of mode | a source that leaves `journal` warns that what was acknowledged behind the last checkpoint is not processed |
//!
//! # When things fail
//! | what | then |
//! |---|---|
//! | no broker, a lost connection, a broker that is busy | retried after [`RETRY_MS_MIN`], doubling up to `reconnect_max`, half of it by chance. The waits begin anew after a connection that held for 5 s, and after one that brought something. Logged once per kind, and each minute |
//! | wrong password, wrong name, forbidden subscription, wrong certificate | at a start the attempt ends; the restart strategy says whether there is another. Once the connection has stood it is retried and said each minute, for it may be mended at the broker |
//! | an expired certificate | retried: this machine's clock may be what is wrong |
//! | a broker that does not speak MQTT 5 | without a `version` it is spoken to in 3.1.1, and one line says so. With `version` the attempt ends and says what to write |
//! | TLS where none is expected, or none where it is | the attempt ends and says what to write |
//! | a broker that sends us to another server | named; followed with `follow_redirects` |
//! | a broker without wildcards or shared subscriptions | the attempt ends if a filter needs them |
//! | less QoS granted than asked for | a source says so. A sink publishes QoS 2 as QoS 1; it ends where QoS 0 alone is left and more was asked for |
//! | a packet over `packet_bytes_max` comes in | it is read past in pieces and acknowledged. It becomes a dead letter (`too_large`) with its size and its first bytes, which a crash may lose or repeat |
//! | another client takes our name | we take it back, ever more slowly; logged |
//! | a result that cannot be published | dropped, counted by reason, logged; a dead letter |
//! | a result in whose wake the broker ends the connection, again and again | others go first; it is dropped if the broker takes them: see [`MqttSink`] |
//! | a job that is to end, and a broker that is away | the sink waits for `stop_timeout`, then fails and counts what is left |
//! | a message that does not decode | a dead letter, acknowledged |
//!
//! # Bounds
//! | bound | what it holds |
//! |---|---|
//! | [`CHUNKS_MAX`] of [`CHUNK_MESSAGES_MAX`] or [`CHUNK_BYTES_MAX`] | messages received and not handed over |
//! | [`OUTBOX_BYTES_MAX`], per shard | results that wait for their epoch, or for the broker since it exists |
//! | [`BATCHES_MAX`] of [`BATCH_MESSAGES_MAX`] or [`BATCH_BYTES_MAX`], per shard | results written and not acknowledged |
//! | [`STALLED_MESSAGES_MAX`] or [`STALLED_BYTES_MAX`] | messages that wait for room in the journal |
//! | `inflight` | unacknowledged messages in either direction; over MQTT 3.1.1 the broker's window instead |
//! | 65,535 | acknowledgements owed: the packet ids there are |
//! | 768 KiB | what is known of packet ids |
//! | 576 KiB and `packet_bytes_max` | what the broker has not taken of publishes and answers; beyond that it is not read, until it takes some or leaves a ping unanswered |
//! | 1,024 | epochs whose positions a source remembers; beyond that some are rounded, to the safe side |
//! | `packet_bytes_max` | one packet; of a larger one 80 KiB are kept while it is read past |
//!
//! # Measured
//! Sink to source through mosquitto 2.0.11 on loopback, on two shared cores, at 1,000 msg/s: the median is 0.12 to
//! 0.18 ms. When the machine is quiet, 99 % arrive within 0.25 to 0.5 ms. At full speed, QoS 1, unoptimised build
//! and a broker that logs every packet: 23,000 msg/s both ways. (`tests/latency.rs`)
//!
//! The journal was measured against none: QoS 1, 110 bytes, up to the last acknowledgement, through mosquitto
//! 2.0.11 on these two cores. Two series of seven runs each of 150,000 messages took turns
//! (`tests/throughput.rs`). The fastest runs' messages a second, the CPU time of this process for a message, and
//! the medians of the pairs' ratios. Live, that process is the publisher too, and mosquitto is the limit:
//!
//! | the broker's window | | none | journal | ratio |
//! |---|---|---|---|---|
//! | 20 | 3.1.1, live | 70,500, 3.8 us | 70,000, 7.3 us | 1.03, 0.95 |
//! | 20 | 5, live | 68,300, 4.1 us | 62,900, 8.5 us | 0.96, 0.95 |
//! | 1,000 | 3.1.1, live | 73,000, 3.6 us | 73,200, 6.9 us | 0.97, 0.98 |
//! | 1,000 | 5, live | 72,300, 3.6 us | 72,400, 6.6 us | 1.00, 0.95 |
//! | 20 | 3.1.1, a backlog | 197,000, 1.1 us | 177,000, 1.7 us | 0.97, 0.96 |
//! | 20 | 5, a backlog | 204,000, 0.9 us | 222,000, 1.3 us | 1.41, 1.29 |
//! | 1,000 | 3.1.1, a backlog | 223,000, 0.6 us | 227,000, 1.2 us | 1.06, 1.02 |
//! | 1,000 | 5, a backlog | 213,000, 0.8 us | 208,000, 1.4 us | 0.97, 1.03 |
//!
//! What bounds it otherwise: a group is written only after the one before is synced. With a window of W messages
//! and S for a sync that is at most W / S messages a second. It is about half of that if two groups take turns.
//! With 20 and 0.1 ms it is 100,000 to 200,000; with 20 and a slow card's 5 ms 2,000 to 4,000. Where that is too
//! little, raise mosquitto's `max_inflight_messages`.

mod client_ids;
mod config;
mod connector;
mod fault;
mod io_signal;
mod link;
mod metrics;
mod pace;
pub mod resend;
mod retry;
mod sink;
mod source;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topic;

pub use config::{MqttConfig, PASSWORD_ENV, Qos, USER_ENV, Version};
pub use connector::{CONNECTOR, MqttConnector, MqttSinkOptions, MqttSourceOptions, TopicOfColumns};
pub use retry::{RETRY_MS_MAX, RETRY_MS_MIN};
pub use sink::batches::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BATCHES_MAX};
pub use sink::writer::MqttWriter;
pub use sink::{MqttChangelog, MqttSink, OUTBOX_BYTES_MAX, STOP_TIMEOUT, Topic};
pub use source::chunk::{CHUNK_BYTES_MAX, CHUNK_MESSAGES_MAX, CHUNKS_MAX};
pub use source::mode::{Mode, Start};
pub use source::partition::MqttPartition;
pub use source::property::WithProperty;
pub use source::receive::{STALLED_BYTES_MAX, STALLED_MESSAGES_MAX};
pub use source::{MqttSource, Retained, record};
pub use topic::TopicFilter;

/// A number nobody can guess well, for names and jitter; not for secrets.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(std::process::id())
}

/// A client id for whoever needs none of its own.
fn random_id() -> String {
    format!("thalweg-{:08x}", random() as u32)
}

/// How an operator's connection is called in logs and errors: with its broker, once.
fn name_of(operator: &str, config: &MqttConfig) -> String {
    let broker = config.to_string();
    if operator.contains(&broker) { operator.to_owned() } else { format!("{operator} {broker}") }
}
