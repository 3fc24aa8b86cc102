//! MQTT: a source that acknowledges what has been handed over, and a sink that is done when the
//! broker is. MQTT 3.1.1 and 5, QoS 0 to 2, TLS, on rumqttc's event loop.
//!
//! | type | what it is |
//! |---|---|
//! | [`MqttConfig`] | the broker and how to connect to it, from a URL or built |
//! | [`MqttSource`] | topics in, one partition, one connection |
//! | [`MqttSink`] | records out, one connection for all shards of the job |
//! | [`topic`] | filters with named levels: `sensors/{device}/temp` |
//! | `testing` | feature `testing`: private brokers for tests |
//!
//! # How it runs
//! Each source and each sink has one thread with one connection; nothing here blocks a shard.
//!
//! ```text
//!  broker -> rumqttc -> I/O thread == chunks of messages ==> shard: match, decode, emit
//!                       I/O thread <== the same chunks ====  hand-over: acknowledge now (QoS 1, 2)
//!
//!  shard: encode == loads of results ==> I/O thread: outbox -> rumqttc -> broker
//!         <== the same loads, empty ===  once the broker has acknowledged all of them
//! ```
//!
//! Messages travel in flat buffers that circulate, so nothing is allocated per message here.
//! (rumqttc itself allocates a few times for each.)
//!
//! What a message costs at a high rate is not its decoding but the wake-ups of two threads for it.
//! Above 8,000 messages a second a source at QoS 0 therefore lets messages gather for 0.4 ms (module
//! `pace`), and a chunk that has nothing to acknowledge comes back without waking anyone.
//!
//! # What is promised
//! | | source | sink |
//! |---|---|---|
//! | QoS 0 | at most once | done when written to the socket |
//! | QoS 1 | at least once: acknowledged after the hand-over; repeated after a lost connection | at least once, in order but for repetitions |
//! | QoS 2 | once per process: a repetition after a lost connection is recognised by its packet id. After a restart of the process, or when the broker lost the session: at least once | as QoS 1 |
//!
//! A source loses nothing of QoS 1 and 2 while it is away if its session is kept: give it a
//! `client_id`. Without one the broker forgets us with each connection, and what was published or
//! not yet acknowledged then is lost.
//!
//! Handed over means that the shard has emitted the message; whether a crash of the process then
//! loses it is a question for what comes behind: for exactly-once, a journal.
//!
//! # When things fail
//! | what | then |
//! |---|---|
//! | no broker, a lost connection, a broker that is busy | retried after [`RETRY_MS_MIN`], doubling up to [`RETRY_MS_MAX`], half of it by chance; logged once per kind |
//! | wrong password, wrong name, forbidden subscription, wrong certificate | the job ends: waiting does not mend it |
//! | an expired certificate | retried: this machine's clock may be what is wrong |
//! | a packet over `packet_bytes_max` comes in | MQTT 5: the broker leaves it out. 3.1.1: the connection fails; every third time is logged as an error that names the setting |
//! | another client takes our name | we take it back, ever more slowly; logged |
//! | a result that cannot be published | dropped, counted by reason, logged |
//! | a message that does not decode | a dead letter, acknowledged |
//!
//! # Bounds
//! | bound | what it holds |
//! |---|---|
//! | [`CHUNKS_MAX`] of [`CHUNK_MESSAGES_MAX`] or [`CHUNK_BYTES_MAX`] | messages received and not handed over |
//! | [`LOADS_MAX`] of [`LOAD_MESSAGES_MAX`] or [`LOAD_BYTES_MAX`], per shard | results written and not acknowledged |
//! | `inflight` | unacknowledged messages in either direction |
//! | `packet_bytes_max` | one packet |
//!
//! # Measured
//! Sink to source through mosquitto 2.0.11 on loopback, on two shared cores, at 1,000 msg/s:
//! median 0.12 to 0.18 ms, 99 % within 0.25 to 0.5 ms when the machine is quiet. At full speed,
//! QoS 1, unoptimised build and a broker that logs every packet: 23,000 msg/s both ways.
//! (`tests/latency.rs`)

mod bell;
mod chunk;
mod config;
mod link;
mod meters;
mod outbox;
mod pace;
mod packet_ids;
mod receive;
mod retry;
mod send;
mod sink;
mod source;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
pub mod topic;

pub use chunk::{CHUNK_BYTES_MAX, CHUNK_MESSAGES_MAX, CHUNKS_MAX};
pub use config::{MqttConfig, PASSWORD_ENV, Qos, USER_ENV, Version};
pub use retry::{RETRY_MS_MAX, RETRY_MS_MIN};
pub use sink::{LOAD_BYTES_MAX, LOAD_MESSAGES_MAX, LOADS_MAX, MqttSink, MqttWriter, Topic};
pub use source::{MqttPartition, MqttSource, Retained};
pub use topic::TopicFilter;

/// A number nobody can guess well, for names and jitter; not for secrets.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(std::process::id())
}

/// How an operator's connection is called in logs and errors: with its broker, once.
fn name_of(operator: &str, config: &MqttConfig) -> String {
    let broker = config.to_string();
    if operator.contains(&broker) { operator.to_owned() } else { format!("{operator} {broker}") }
}
