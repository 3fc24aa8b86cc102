//! The MQTT sink: publishes each record. One connection on its own thread, see
//! [`send`](crate::send), is shared by the job's shards. In a job with checkpoints results wait in an
//! outbox for their epoch: see [`held`](crate::held).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;

use bytes::Bytes;
use metrics::Counter;
use thalweg_kernel::{
    ConfigError, ConnectorError, Encode, Epoch, OpenContext, Pending, Sink, SinkSpec, StateId,
    Timestamp,
};
use tracing::warn;

use crate::bell::Bell;
use crate::config::MqttConfig;
use crate::held::{Held, ID_BYTES_MAX, IdStem};
use crate::link::Plan;
use crate::meters::{Drop as Reason, dropped};
use crate::send::{Send, Setup};
use crate::topic::check_topic;
use crate::{random, tls};

/// The most results of one load; a batch of the engine may take it over.
pub const LOAD_MESSAGES_MAX: usize = 512;
/// A load with this many bytes is full; a batch of the engine may take it over.
pub const LOAD_BYTES_MAX: usize = 256 * 1024;
/// The loads of one shard. All results that were written and have not arrived are in them, so
/// they bound a sink's memory.
pub const LOADS_MAX: usize = 8;

/// Results that wait for their epoch, or for the broker since it exists, take at most about this many bytes
/// of memory and storage on a shard, unless [`MqttSink::held_bytes_max`] says otherwise. Then the sink takes no
/// more, and the sources wait.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

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
/// At QoS 1 and 2 every result arrives at least once: what the broker has not acknowledged when a
/// connection breaks is sent again, in order, on the next. (Also at QoS 2: the client keeps no
/// session, because what rumqttc keeps of one does not survive a broker that lost it.) At QoS 0 a
/// result is done when it is written to the socket.
///
/// # In a job with checkpoints
/// Results are part of their epoch and published once it exists, so that nothing is published that a
/// crash would take back; while the broker is away they wait there, also across restarts. What was published
/// and not known to be acknowledged when the process ended is published again, with the same id in the
/// user property `thalweg-id` (MQTT 5): job and sink, epoch, instance, note, number. So a subscriber that keeps the ids
/// of late sees each result once. [`at_least_once`](Self::at_least_once) publishes at once instead.
///
/// # What is dropped
/// A record whose topic is not valid, or whose packet is over `packet_bytes_max` or the broker's
/// own limit, or that the broker refuses, is dropped: bad data must not end the job. It is counted
/// by reason in `thalweg_mqtt_dropped_total` and logged. (An MQTT 3.1.1 broker has no way to say
/// that it refuses a result: most discard it, some close the connection. After the third time the
/// topic is named in the log; it is not dropped, for the network might be what is bad.)
///
/// The connection's name is the configuration's `client_id` with `-out`, so a source may share the
/// configuration.
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
    held_bytes_max: usize,
}

impl<E, F> MqttSink<E, F> {
    /// A sink that publishes to `topic`.
    pub fn new(config: MqttConfig, topic: F, encoder: E) -> Self {
        let (at_least_once, held_bytes_max) = (false, HELD_BYTES_MAX);
        Self { config, topic, encoder, retain: false, at_least_once, held_bytes_max }
    }

    /// Whether the broker keeps the last result of each topic for later subscribers.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Publishes results as they come, also in a job with checkpoints. After a crash some of them are
    /// worked out and published again.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// Bounds the results that wait on each shard, in bytes; [`HELD_BYTES_MAX`] by default.
    #[must_use]
    pub fn held_bytes_max(mut self, bytes: usize) -> Self {
        self.held_bytes_max = bytes;
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

    fn start(&self, cx: &OpenContext, name: &str) -> Result<Office, ConnectorError> {
        let wrong =
            |cause: ConfigError| ConnectorError::new(name, "wrong setting").caused_by(cause);
        let config = self.config.clone();
        let plan = Plan {
            client_id: match &config.client_id {
                Some(id) => format!("{id}-out"),
                None => format!("thalweg-{:08x}", random() as u32),
            },
            clean: true,
            login: config.login().map_err(wrong)?,
            tls: config.tls.then(|| tls::client_config(&config)).transpose().map_err(wrong)?,
            config,
        };
        let (to_io, loads) = flume::bounded(LOADS_MAX * cx.instances);
        let common = Arc::new(Common {
            bell: Bell::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(String::new()),
            closed: AtomicUsize::new(0),
            writers: cx.instances,
            finished: AtomicBool::new(false),
            wakers: Mutex::default(),
        });
        let setup =
            Setup { plan, retain: self.retain, loads, common: Arc::clone(&common), cx: cx.clone() };
        thread::Builder::new()
            .name(format!("mqtt-out-{}", cx.operator_id))
            .spawn(move || Send::run(setup))
            .map_err(|cause| {
                ConnectorError::new(name, "cannot start the I/O thread").caused_by(cause)
            })?;
        Ok(Office { to_io, common })
    }
}

/// What the shards share: the way to the I/O thread.
struct Office {
    to_io: flume::Sender<Box<Load>>,
    common: Arc<Common>,
}

/// What the shards and the I/O thread tell each other.
pub(crate) struct Common {
    pub(crate) bell: Bell,
    failed: AtomicBool,
    failure: Mutex<String>,
    /// Writers that have seen all their results arrive.
    closed: AtomicUsize,
    writers: usize,
    /// The connection has been ended in good order.
    finished: AtomicBool,
    /// The shards, for news that concerns them all.
    wakers: Mutex<Vec<Waker>>,
}

impl Common {
    pub(crate) fn fail(&self, what: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.failed.store(true, Ordering::Release);
        self.wake_all();
    }

    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.wake_all();
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.wakers().iter().for_each(Waker::wake_by_ref);
    }

    pub(crate) fn all_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) == self.writers
    }
}

/// A shard's end of the way back.
pub(crate) struct Port {
    done: AtomicU64,
    empty: flume::Sender<Box<Load>>,
    waker: Waker,
}

impl Port {
    /// One more result has arrived or was dropped.
    pub(crate) fn done(&self) {
        self.done.fetch_add(1, Ordering::Release);
    }

    /// A load's results have all arrived.
    pub(crate) fn give_back(&self, load: Box<Load>) {
        // There is room for all loads; a shard that has gone needs none.
        let _gone = self.empty.try_send(load);
        self.waker.wake_by_ref();
    }
}

/// Results in one flat buffer.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) bytes: Vec<u8>,
    /// Where each topic and each payload ends.
    pub(crate) ends: Vec<(usize, usize)>,
}

/// Results on their way to the I/O thread.
pub(crate) struct Load {
    pub(crate) results: Results,
    /// How the ids of the results begin, if they have any.
    pub(crate) ids: Option<IdStem>,
    pub(crate) port: Arc<Port>,
}

impl Load {
    fn new(port: &Arc<Port>) -> Self {
        Self { results: Results::default(), ids: None, port: Arc::clone(port) }
    }
}

impl Results {
    fn is_full(&self) -> bool {
        self.ends.len() >= LOAD_MESSAGES_MAX || self.bytes.len() >= LOAD_BYTES_MAX
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Takes out the results, leaving none.
    pub(crate) fn unpack(&mut self) -> impl Iterator<Item = (Bytes, Bytes)> + use<'_> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let mut from = 0;
        self.ends.drain(..).map(move |(topic, payload)| {
            let parts = (bytes.slice(from..topic), bytes.slice(topic..payload));
            from = payload;
            parts
        })
    }
}

impl<T, E, F> SinkSpec<T> for MqttSink<E, F>
where
    E: Encode<T> + Clone + 'static,
    F: Topic<T> + Clone + 'static,
{
    type Writer = MqttWriter<E, F>;

    fn describe(&self) -> String {
        format!("{} {}", self.config, self.topic.describe())
    }

    fn open(&self, cx: &OpenContext) -> Result<Self::Writer, ConnectorError> {
        let name = self.config.to_string();
        self.check()
            .map_err(|cause| ConnectorError::new(&name, "wrong setting").caused_by(cause))?;
        let office = cx.shared.get_or_try_init(cx.operator_id, || self.start(cx, &name))?;
        office.common.wakers().push(cx.waker.clone());
        let (to_shard, empty) = flume::bounded(LOADS_MAX);
        let port =
            Arc::new(Port { done: AtomicU64::new(0), empty: to_shard, waker: cx.waker.clone() });
        for _ in 0..LOADS_MAX {
            port.give_back(Box::new(Load::new(&port)));
        }
        let held = (cx.durability.checkpoints && !self.at_least_once).then(|| {
            let who = StateId::of(&cx.job, &cx.durability.operator).number();
            let notes = cx.durability.pending.iter().map(|(id, note)| (*id, note.to_vec()));
            Held::new(who, self.held_bytes_max, notes)
        });
        let held = held.transpose().map_err(|why| ConnectorError::new(&name, why))?;
        Ok(MqttWriter {
            held,
            name,
            topic: self.topic.clone(),
            encoder: self.encoder.clone(),
            packet_bytes_max: self.config.packet_bytes_max as usize,
            buffer: String::new(),
            load: None,
            empty,
            port,
            written: 0,
            closed: false,
            invalid: Tally::new(dropped(cx, Reason::Topic)),
            too_large: Tally::new(dropped(cx, Reason::TooLarge)),
            to_io: office.to_io.clone(),
            common: Arc::clone(&office.common),
        })
    }
}

/// A counter of drops that logs the first, second, fourth, eighth and so on.
pub(crate) struct Tally {
    counter: Counter,
    count: u64,
}

impl Tally {
    pub(crate) const fn new(counter: Counter) -> Self {
        Self { counter, count: 0 }
    }

    #[cold]
    pub(crate) fn drop(&mut self, who: &str, topic: &str, why: &str) {
        self.counter.increment(1);
        self.count += 1;
        if self.count.is_power_of_two() {
            let topic: String = topic.chars().take(200).collect();
            warn!("{who}: a result for topic {topic:?} was dropped: {why} ({} so far)", self.count);
        }
    }
}

/// The bytes of an MQTT 5 PUBLISH besides topic and payload, at most: header, lengths, packet id,
/// no properties.
pub(crate) const PACKET_OVERHEAD_BYTES: usize = 1 + 4 + 2 + 2 + 1;

/// An open [`MqttSink`] on one shard.
pub struct MqttWriter<E, F> {
    name: String,
    topic: F,
    encoder: E,
    packet_bytes_max: usize,
    buffer: String,
    load: Option<Box<Load>>,
    /// The outbox, where results wait for their epoch.
    held: Option<Held>,
    empty: flume::Receiver<Box<Load>>,
    port: Arc<Port>,
    written: u64,
    closed: bool,
    invalid: Tally,
    too_large: Tally,
    to_io: flume::Sender<Box<Load>>,
    common: Arc<Common>,
}

impl<E, F> MqttWriter<E, F> {
    fn check_failure(&self) -> Result<(), ConnectorError> {
        if self.common.failed.load(Ordering::Acquire) {
            let what = self.common.failure.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(ConnectorError::new(&self.name, what.as_str()));
        }
        Ok(())
    }

    fn send(&mut self) {
        if let Some(load) = self.load.take_if(|load| !load.results.ends.is_empty()) {
            match self.to_io.try_send(load) {
                // The queue holds all loads there are, unless `ready` was not asked.
                Err(flume::TrySendError::Full(load)) => self.load = Some(load),
                // The thread has gone, and has told why.
                Err(flume::TrySendError::Disconnected(_)) | Ok(()) => {}
            }
            self.common.bell.ring();
        }
    }
}

impl<E, F> MqttWriter<E, F> {
    /// Publishes what may be published from the outbox, as far as there are loads.
    fn publish_held(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.arrive(self.port.done.load(Ordering::Acquire));
        let mut published = false;
        while let Some(mut load) = self.load.take().or_else(|| self.empty.try_recv().ok()) {
            let Some(ids) = held.fill(&mut load.results) else {
                self.load = Some(load);
                break;
            };
            load.ids = Some(ids);
            self.written += load.results.ends.len() as u64;
            published = true;
            if let Err(flume::TrySendError::Full(_)) = self.to_io.try_send(load) {
                debug_assert!(false, "the queue holds all loads there are");
            }
        }
        if published {
            self.common.bell.ring();
        }
    }
}

impl<T, E: Encode<T>, F: Topic<T>> Sink<T> for MqttWriter<E, F> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.check_failure()?;
        self.publish_held();
        if let Some(held) = &self.held {
            return Ok(held.has_room());
        }
        if self.load.as_ref().is_some_and(|load| load.results.is_full()) {
            self.send();
        }
        if self.load.is_none() {
            self.load = self.empty.try_recv().ok();
        }
        Ok(self.load.is_some())
    }

    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        let (load, id_bytes) = match &mut self.held {
            Some(held) => (&mut held.open, ID_BYTES_MAX),
            // Written to without asking `ready`: take the load that must be made.
            None => {
                let load = self.load.get_or_insert_with(|| Box::new(Load::new(&self.port)));
                (&mut load.results, 0)
            }
        };
        self.buffer.clear();
        self.topic.write(&value, &mut self.buffer);
        if let Err(why) = check_topic(&self.buffer) {
            self.invalid.drop(&self.name, &self.buffer, why);
            return Ok(());
        }
        let before = load.bytes.len();
        load.bytes.extend_from_slice(self.buffer.as_bytes());
        let topic_end = load.bytes.len();
        self.encoder.encode(&value, &mut load.bytes).map_err(|cause| {
            ConnectorError::new(&self.name, "cannot encode a result").caused_by(cause)
        })?;
        let packet = load.bytes.len() - before + PACKET_OVERHEAD_BYTES + id_bytes;
        if packet > self.packet_bytes_max {
            load.bytes.truncate(before);
            let why = format!(
                "its packet has {packet} bytes, over packet_bytes_max={}",
                self.packet_bytes_max
            );
            self.too_large.drop(&self.name, &self.buffer, &why);
            return Ok(());
        }
        load.ends.push((topic_end, load.bytes.len()));
        self.written += u64::from(self.held.is_none());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.held.is_none() {
            self.send();
        }
        self.check_failure()
    }

    fn seal(&mut self, _epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.publish_held();
        if let Some(held) = &mut self.held {
            held.seal(pending);
        }
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        if let Some(held) = &mut self.held {
            held.commit(epoch);
        }
        self.publish_held();
        self.check_failure()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        match &self.held {
            None => self.send(),
            Some(_) => self.publish_held(),
        }
        self.check_failure()?;
        if self.held.as_ref().is_some_and(|held| !held.is_done())
            || self.port.done.load(Ordering::Acquire) < self.written
        {
            return Ok(false);
        }
        if !self.closed {
            self.closed = true;
            self.common.closed.fetch_add(1, Ordering::AcqRel);
            self.common.bell.ring();
        }
        // The last shard to close sees the connection off; the others need not wait for it.
        Ok(!self.common.all_closed() || self.common.finished.load(Ordering::Acquire))
    }
}

impl<E, F> Drop for MqttWriter<E, F> {
    fn drop(&mut self) {
        if !self.closed {
            self.common.bell.abandon();
        }
    }
}
