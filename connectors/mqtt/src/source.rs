//! The MQTT source: what a job describes, and its partition on a shard. The connection lives on
//! its own thread, see [`receive`](crate::receive).

use std::fmt;
use std::sync::Arc;
use std::thread;

use thalweg_kernel::{
    ConfigError, ConnectorError, Decode, Emit, Message, OpenContext, Origin, Source, SourceSpec,
    SourceStatus, Timestamp,
};
use tracing::warn;

use crate::bell::Bell;
use crate::chunk::{CHUNKS_MAX, Chunk};
use crate::config::MqttConfig;
use crate::link::Plan;
use crate::receive::{Receive, Setup};
use crate::topic::{Bindings, TopicFilter};
use crate::{random, tls};

/// What to do with retained messages: the broker's stored snapshot, sent on subscribing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retained {
    /// Count them and leave them: a snapshot is not an event. The default.
    #[default]
    Skip,
    /// Deliver them, with [`retained`](thalweg_kernel::Message::retained) set.
    Deliver,
}

/// Reads messages of a broker; `D` makes records of them.
///
/// ```no_run
/// # use thalweg_mqtt::{MqttConfig, MqttSource};
/// # use thalweg_kernel::{Decode, DecodeError, Message};
/// # #[derive(Clone)] struct Text;
/// # impl Decode for Text {
/// #     type Item = String;
/// #     fn decode(&mut self, m: &Message<'_>) -> Result<String, DecodeError> { Ok(m.topic.into()) }
/// # }
/// let config: MqttConfig = "mqtt://localhost?client_id=gateway-7".parse()?;
/// let source = MqttSource::new(config, Text).topic("sensors/{device}/temp");
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MqttSource<D> {
    config: MqttConfig,
    decoder: D,
    topics: Vec<String>,
    retained: Retained,
    on_subscribed: Hook,
}

/// Called from the I/O thread.
#[derive(Clone, Default)]
pub(crate) struct Hook(Option<Arc<dyn Fn() + Send + Sync>>);

impl Hook {
    pub(crate) fn call(&self) {
        if let Some(hook) = &self.0 {
            hook();
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook" } else { "None" })
    }
}

impl<D> MqttSource<D> {
    /// A source that has no topic yet.
    pub fn new(config: MqttConfig, decoder: D) -> Self {
        Self {
            config,
            decoder,
            topics: Vec::new(),
            retained: Retained::default(),
            on_subscribed: Hook::default(),
        }
    }

    /// Calls `hook` each time the broker has confirmed the subscriptions: from then on nothing that
    /// is published is missed. It runs on the I/O thread and must not block.
    #[must_use]
    pub fn on_subscribed(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_subscribed = Hook(Some(Arc::new(hook)));
        self
    }

    /// Subscribes to one more [filter](crate::topic), such as `sensors/{device}/temp`. It is
    /// checked when the source opens, or by [`MqttSource::check`].
    #[must_use]
    pub fn topic(mut self, filter: impl Into<String>) -> Self {
        self.topics.push(filter.into());
        self
    }

    /// What to do with retained messages.
    #[must_use]
    pub fn retained(mut self, retained: Retained) -> Self {
        self.retained = retained;
        self
    }

    /// Checks the broker's settings and the topic filters, and that the files and variables they
    /// name can be read. Opens no connection.
    ///
    /// # Errors
    /// Names the first setting that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.config.check()?;
        self.filters().map(|_| ())
    }

    fn filters(&self) -> Result<Arc<[TopicFilter]>, ConfigError> {
        if self.topics.is_empty() {
            return Err(ConfigError::new(
                "topic",
                "",
                "at least one filter: sensors/{device}/temp",
            ));
        }
        self.topics.iter().map(|filter| TopicFilter::parse(filter)).collect()
    }
}

impl<D: Decode + Clone + 'static> SourceSpec for MqttSource<D>
where
    D::Item: 'static,
{
    type Item = D::Item;
    type Partition = MqttPartition<D>;

    fn describe(&self) -> String {
        format!("{} {}", self.config, self.topics.join(" "))
    }

    fn open(
        &self,
        _partition: usize,
        cx: &OpenContext,
    ) -> Result<MqttPartition<D>, ConnectorError> {
        let name = self.config.to_string();
        let wrong =
            |cause: ConfigError| ConnectorError::new(&name, "wrong setting").caused_by(cause);
        self.check().map_err(wrong)?;
        let filters = self.filters().map_err(wrong)?;
        let config = self.config.clone();
        let plan = Plan {
            client_id: config
                .client_id
                .clone()
                .unwrap_or_else(|| format!("thalweg-{:08x}", random() as u32)),
            clean: config.is_clean(),
            login: config.login().map_err(wrong)?,
            tls: config.tls.then(|| tls::client_config(&config)).transpose().map_err(wrong)?,
            config,
        };
        // One more than the chunks, for the end: sending never waits.
        let (to_shard, from_io) = flume::bounded(CHUNKS_MAX + 1);
        let (to_io, from_shard) = flume::bounded(CHUNKS_MAX);
        let bell = Arc::new(Bell::default());
        let setup = Setup {
            plan,
            filters: Arc::clone(&filters),
            skip_retained: self.retained == Retained::Skip,
            on_subscribed: self.on_subscribed.clone(),
            to_shard,
            from_shard,
            bell: Arc::clone(&bell),
            cx: cx.clone(),
        };
        thread::Builder::new()
            .name(format!("mqtt-in-{}", cx.operator_id))
            .spawn(move || Receive::run(setup))
            .map_err(|cause| {
                ConnectorError::new(&name, "cannot start the I/O thread").caused_by(cause)
            })?;
        Ok(MqttPartition {
            name,
            decoder: self.decoder.clone(),
            filters,
            from_io,
            to_io,
            bell,
            current: None,
            ended: false,
            told_unmatched: false,
        })
    }
}

/// What the I/O thread tells the shard.
pub(crate) enum ToShard {
    Chunk(Chunk),
    Failed(String),
    Ended,
}

/// An open [`MqttSource`].
pub struct MqttPartition<D> {
    name: String,
    decoder: D,
    filters: Arc<[TopicFilter]>,
    from_io: flume::Receiver<ToShard>,
    to_io: flume::Sender<Chunk>,
    bell: Arc<Bell>,
    /// The chunk being read, and the next message in it.
    current: Option<(Chunk, usize)>,
    ended: bool,
    told_unmatched: bool,
}

impl<D: Decode> MqttPartition<D> {
    /// Emits messages of `chunk` from `next` on; says where it stopped.
    fn emit(
        &mut self,
        chunk: &mut Chunk,
        mut next: usize,
        left: &mut usize,
        out: &mut impl Emit<D::Item>,
    ) -> usize {
        let mut unmatched = 0;
        // Lives as long as the borrow of the chunk: one small allocation per chunk, none per message.
        let mut bindings: Bindings<'_> = Vec::new();
        while *left > 0
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
            *left -= 1;
            let message = Message { bindings: &bindings, ..plain };
            match self.decoder.decode(&message) {
                Ok(value) => out.record(value, message.received, &message),
                Err(error) => out.dead_letter(message.dead_letter(error)),
            }
        }
        chunk.unmatched += unmatched;
        next
    }

    /// Hands a read chunk back, which is what acknowledges its messages. If the thread has gone,
    /// its connection has too, and the broker will send them again.
    fn hand_over(&self, chunk: Chunk) {
        let news = chunk.is_news();
        let _gone = self.to_io.try_send(chunk);
        // Otherwise the thread finds it when it needs it: a wake-up per chunk would cost more than
        // the chunk.
        if news || self.bell.wanted() || self.bell.stopped() {
            self.bell.ring();
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
        let mut left = records_max;
        loop {
            if let Some((mut chunk, next)) = self.current.take() {
                let next = self.emit(&mut chunk, next, &mut left, out);
                if next < chunk.len() {
                    self.current = Some((chunk, next));
                    return Ok(SourceStatus::Ready);
                }
                self.hand_over(chunk);
            }
            match self.from_io.try_recv() {
                Ok(ToShard::Chunk(chunk)) => self.current = Some((chunk, 0)),
                Ok(ToShard::Failed(what)) => return Err(ConnectorError::new(&self.name, what)),
                Ok(ToShard::Ended) => {
                    self.ended = true;
                    return Ok(SourceStatus::Ended);
                }
                Err(flume::TryRecvError::Empty) => return Ok(SourceStatus::Waiting(None)),
                Err(flume::TryRecvError::Disconnected) => {
                    let what = "the I/O thread ended unexpectedly; its panic message is in the log";
                    return Err(ConnectorError::new(&self.name, what));
                }
            }
        }
    }

    fn stop(&mut self) {
        self.bell.stop();
    }
}

impl<D> Drop for MqttPartition<D> {
    fn drop(&mut self) {
        if !self.ended {
            self.bell.abandon();
        }
    }
}

#[cold]
fn tell_unmatched(name: &str, topic: &str) {
    warn!(
        "{name}: messages come in that no topic filter of this source matches, the first on \
         {topic:?}; they are counted and left out. The session probably still holds a subscription \
         of an earlier job: give another client_id, or connect once with clean_session=true"
    );
}
