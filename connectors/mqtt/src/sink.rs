//! The MQTT sink: publishes each record. One connection, see [`send`](crate::sink::send), is shared by the job's shards;
//! its work is the first shard's. In a job with checkpoints results wait in an
//! outbox for their epoch: see [`outbox`](crate::sink::outbox).

mod backlog;
pub(crate) mod batches;
mod drops;
pub(crate) mod outbox;
mod publication;
mod send;
mod shared;
mod suspects;
mod unacked;
pub(crate) mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thalweg_kernel::{
    Changed, ConfigError, ConnectorError, Encode, OpenContext, SinkSpec, StateId,
};

use crate::config::MqttConfig;
use crate::link::Plan;
use crate::link::dialer::Dialer;
use crate::sink::batches::{BATCHES_MAX, ResultBatch};
use crate::sink::outbox::Outbox;
use crate::sink::publication::{Records, Rows};
use crate::sink::send::{Send, Setup};
use crate::sink::shared::Common;
use crate::sink::writer::{Connection, MqttWriter};
use crate::{client_ids, random_id};

/// Results wait for their epoch, and since it exists for the broker. They take about this many bytes of memory
/// and storage on a shard at most, unless [`MqttSink::outbox_bytes_max`] says otherwise. Then the sink takes no
/// more, and the sources wait.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a broker may acknowledge nothing once the job is to end, unless [`MqttSink::stop_timeout`] says otherwise.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a sink's shards share.
struct SinkShared {
    to_io: flume::Sender<Box<ResultBatch>>,
    common: Arc<Common>,
    /// For the shard that does the work of the connection.
    setup: Mutex<Option<Setup>>,
}

/// Where a record is published: a fixed topic, or a function that writes it.
pub trait Topic<T> {
    /// Appends the topic for `value` to `out`, which is empty.
    fn write(&self, value: &T, out: &mut String);

    /// How the job graph shows it.
    fn describe(&self) -> String {
        "{topic of the record}".to_owned()
    }
}

impl<T> Topic<T> for &'static str {
    fn write(&self, _value: &T, out: &mut String) {
        out.push_str(self);
    }

    fn describe(&self) -> String {
        (*self).to_owned()
    }
}

impl<T> Topic<T> for String {
    fn write(&self, _value: &T, out: &mut String) {
        out.push_str(self);
    }

    fn describe(&self) -> String {
        self.clone()
    }
}

impl<T, F: Fn(&T, &mut String)> Topic<T> for F {
    fn write(&self, value: &T, out: &mut String) {
        self(value, out);
    }
}

/// Publishes each record; `F` says where, `E` makes its payload.
///
/// At QoS 1 and 2 every result arrives at least once. What the broker has not acknowledged when a
/// connection breaks is sent again, in order, on the next. (Also at QoS 2: the client keeps no
/// session, for a broker may lose it.) At QoS 0 a result is done when it is written to the socket.
///
/// # In a job with checkpoints
/// Results are part of their epoch and published once it exists, so that nothing is published that a crash would take
/// back. While the broker is away they wait there, also across restarts. What was published and not known to be
/// acknowledged when the process ended is published again. It has the id of before in the user property `thalweg-id`
/// (MQTT 5): job and sink, epoch, instance, note, number. So a subscriber that keeps the newest ids sees each result
/// once. What may come again is what was waiting or on its way, at most [`outbox_bytes_max`](Self::outbox_bytes_max)
/// of results per shard. One id never means two results. [`at_least_once`](Self::at_least_once) publishes at once
/// instead.
///
/// # What is dropped
/// A record is dropped if its topic is not valid, or its packet over `packet_bytes_max` or the broker's limit, or if
/// the broker refuses it. Bad data must not end the job. It is counted by reason in `thalweg_mqtt_dropped_total`,
/// logged, and becomes a dead letter. (What the broker says after the stream has ended is counted and logged alone,
/// and a crash may lose that letter.)
///
/// Some brokers answer a result that they do not take by ending the connection; MQTT 3.1.1 has no other way. A result
/// that has ended three connections lets others go first. If the broker takes one of them and ends the connection on
/// this one again, it becomes a dead letter (`reason="connection_ended"`). Where the broker takes no result at all none
/// is dropped: the network might be what is bad, or the broker's disk full. Among retained results those of one topic
/// keep their order; elsewhere a result that was suspected wrongly comes later.
///
/// # What the broker takes
/// A broker may say that it takes QoS 1 at most. Results of QoS 2 go out with QoS 1 then, which promises as much here. One
/// that takes QoS 0 alone, or does not retain what is to be retained, ends the job with words. Results could be lost, and
/// a job that is content with that says so (`qos=0`, `retain=false`).
///
/// # A stop
/// A job that is to end waits for the broker's acknowledgements, for [`stop_timeout`](Self::stop_timeout) after the last one.
///
/// The connection's name is the configuration's `client_id` with `-out`, so a source may share the
/// configuration. A second sink needs a `client_id` of its own, or none: a job with two connectors of one name
/// does not start.
///
/// ```no_run
/// # use thalweg_mqtt::{MqttConfig, MqttSink};
/// # use thalweg_kernel::{Encode, format::EncodeError};
/// # #[derive(Clone)] struct Text;
/// # impl Encode<(String, f64)> for Text {
/// #     fn encode(&mut self, v: &(String, f64), out: &mut Vec<u8>) -> Result<(), EncodeError> { Ok(()) }
/// # }
/// let config: MqttConfig = "mqtt://localhost".parse()?;
/// let fixed = MqttSink::new(config.clone(), "alarms", Text);
/// let by_device = MqttSink::new(
///     config,
///     |(device, _): &(String, f64), topic: &mut String| {
///         topic.push_str("averages/");
///         topic.push_str(device);
///     },
///     Text,
/// );
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MqttSink<E, F> {
    config: MqttConfig,
    topic: F,
    encoder: E,
    retain: bool,
    at_least_once: bool,
    outbox_bytes_max: usize,
    stop_timeout: Duration,
}

impl<E, F> MqttSink<E, F> {
    /// A sink that publishes to `topic`.
    pub fn new(config: MqttConfig, topic: F, encoder: E) -> Self {
        let (at_least_once, outbox_bytes_max) = (false, OUTBOX_BYTES_MAX);
        let stop_timeout = STOP_TIMEOUT;
        Self {
            config,
            topic,
            encoder,
            retain: false,
            at_least_once,
            outbox_bytes_max,
            stop_timeout,
        }
    }

    /// Whether the broker keeps the last result of each topic for later subscribers.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Publishes the table of a changelog: each row stays with the broker, in the topic that follows from the
    /// row's key.
    ///
    /// An insert or an update-after publishes its row, retained. A delete publishes an empty payload, retained, on
    /// which the broker forgets the topic. So does an update-before, unless an update-after of its topic follows at
    /// once: the two are one update. The topic and the encoder are of the rows; where two keys have one topic, the
    /// newer row is seen.
    ///
    /// The changes of one key must come through one shard, in their order. Key the stream by what the topic is
    /// made of, or let it run on one shard. They are published in that order, also after a restart on another
    /// number of shards. What is published again after a crash begins further back and ends where it was.
    ///
    /// A row whose payload would be empty is dropped and counted (`reason="empty_payload"`). The configuration
    /// needs a `client_id`. Under its name the broker ends the last run's connection before it takes anything from
    /// the next one. So no row of earlier comes late.
    ///
    /// Without this, a stream of changes is published change by change, with its kind as a field (see
    /// [`Changed`]).
    #[must_use]
    pub fn changelog(self) -> MqttChangelog<E, F> {
        MqttChangelog(self.retain(true))
    }

    /// Publishes results as they come, also in a job with checkpoints. After a crash some of them are
    /// worked out and published again.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// Bounds the results that wait on each shard, in bytes; [`OUTBOX_BYTES_MAX`] by default.
    #[must_use]
    pub fn outbox_bytes_max(mut self, bytes: usize) -> Self {
        self.outbox_bytes_max = bytes;
        self
    }

    /// How long the broker may acknowledge nothing once the job is to end, while results are under way; [`STOP_TIMEOUT`] by
    /// default. Each acknowledgement lets it begin anew, up to ten times this from the stop on. What is not delivered by then is
    /// counted and named, and the job ends with an error. A job with checkpoints keeps its results, and the next start
    /// delivers them.
    #[must_use]
    pub fn stop_timeout(mut self, longest: Duration) -> Self {
        self.stop_timeout = longest;
        self
    }

    /// Checks the broker's settings, and that the files and variables they name can be read.
    /// Opens no connection.
    ///
    /// # Errors
    /// Names the first setting that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(mode) = self.config.durability {
            let allowed = "nothing here: it says when a source acknowledges, and this is a sink";
            return Err(ConfigError::new("durability", mode, allowed));
        }
        self.config.check()
    }

    fn wrong(&self, cause: ConfigError) -> ConnectorError {
        ConnectorError::new(self.config.to_string(), "wrong setting").caused_by(cause)
    }

    /// The connection's name, if it is not to be random.
    fn client_id(&self) -> Option<String> {
        self.config.client_id.as_ref().map(|id| format!("{id}-out"))
    }

    fn share(&self, cx: &OpenContext) -> Result<SinkShared, ConnectorError> {
        let wrong = |cause| self.wrong(cause);
        let config = self.config.clone();
        let plan = Arc::new(Plan {
            client_id: self.client_id().unwrap_or_else(random_id),
            clean: true,
            login: config.login().map_err(wrong)?,
            tls: config.tls.then(|| Dialer::new(&config)).transpose().map_err(wrong)?,
            needs_properties: false,
            gives_ids: cx.durability.checkpoints && !self.at_least_once,
            config,
        });
        let (to_io, batches) = flume::bounded(BATCHES_MAX * cx.instances);
        let common = Arc::new(Common::new(cx.instances));
        let setup = Setup {
            plan,
            retain: self.retain,
            stop_timeout: self.stop_timeout,
            batches,
            common: Arc::clone(&common),
            // What is shared holds this.
            cx: OpenContext { tasks: None, shared: Arc::default(), ..cx.clone() },
        };
        Ok(SinkShared { to_io, common, setup: Mutex::new(Some(setup)) })
    }
}

impl<E: Clone, F: Clone> MqttSink<E, F> {
    fn records(&self) -> Records<E, F> {
        Records { topic: self.topic.clone(), encoder: self.encoder.clone() }
    }

    fn open_with<P>(
        &self,
        cx: &OpenContext,
        publication: P,
    ) -> Result<MqttWriter<P>, ConnectorError> {
        let name = self.config.to_string();
        let named =
            || self.client_id().map_or(Ok(()), |id| client_ids::claim(cx, &self.config, &id));
        self.check().and_then(|()| named()).map_err(|cause| self.wrong(cause))?;
        let shared = cx.shared.get_or_try_init(cx.operator_id, || self.share(cx))?;
        let outbox = (cx.durability.checkpoints && !self.at_least_once).then(|| {
            let who = StateId::of(&cx.job, &cx.durability.operator).number();
            let notes = cx.durability.pending.iter().map(|(id, note)| (*id, note.to_vec()));
            Outbox::new(who, self.outbox_bytes_max, notes)
        });
        let outbox = outbox.transpose().map_err(|why| ConnectorError::new(&name, why))?;
        // Whichever shard was the first to open: what runs on one shard has its connection there, too.
        let setup = match cx.shard {
            0 => shared.setup.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        let start = |setup| {
            let run = move |reactor| Send::run(setup, reactor);
            thalweg_io::start(
                cx,
                &format!("out{}", cx.operator_id),
                thalweg_io::Direction::Out,
                run,
            )
            .map_err(|cause| {
                ConnectorError::new(&name, "cannot start a thread for its connection")
                    .caused_by(cause)
            })
        };
        let work = setup.map(start).transpose()?;
        let (to_io, common) = (shared.to_io.clone(), Arc::clone(&shared.common));
        let connection = Connection { to_io, common, work };
        Ok(MqttWriter::new(cx, &self.config, publication, outbox, connection))
    }
}

impl<T, E, F> SinkSpec<T> for MqttSink<E, F>
where
    E: Encode<T> + Clone + 'static,
    F: Topic<T> + Clone + 'static,
{
    type Writer = MqttWriter<Records<E, F>>;

    fn describe(&self) -> String {
        format!("{} {}", self.config, self.topic.describe())
    }

    fn open(&self, cx: &OpenContext) -> Result<Self::Writer, ConnectorError> {
        self.open_with(cx, self.records())
    }
}

/// Publishes the table of a changelog; see [`MqttSink::changelog`].
#[derive(Clone, Debug)]
pub struct MqttChangelog<E, F>(MqttSink<E, F>);

impl<E, F> MqttChangelog<E, F> {
    /// As [`MqttSink::check`].
    ///
    /// # Errors
    /// Names the first setting that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.0.config.client_id.is_none() {
            let allowed =
                "a name that no other client has: a changelog's rows are published under one";
            return Err(ConfigError::missing("client_id", allowed));
        }
        self.0.check()
    }
}

impl<T, E, F> SinkSpec<Changed<T>> for MqttChangelog<E, F>
where
    E: Encode<T> + Clone + 'static,
    F: Topic<T> + Clone + 'static,
{
    type Writer = MqttWriter<Rows<E, F>>;

    fn describe(&self) -> String {
        SinkSpec::<T>::describe(&self.0)
    }

    fn open(&self, cx: &OpenContext) -> Result<Self::Writer, ConnectorError> {
        self.check().map_err(|cause| self.0.wrong(cause))?;
        self.0.open_with(cx, Rows(self.0.records()))
    }
}
