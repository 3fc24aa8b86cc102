//! The MQTT source: what a job describes. Its partition on a shard is in module `partition`, its
//! connection on a thread of its own in module `receive`.

pub(crate) mod acks;
pub(crate) mod chunk;
pub(crate) mod copies;
pub(crate) mod known;
pub(crate) mod mode;
pub(crate) mod partition;
pub(crate) mod progress;
pub(crate) mod property;
pub(crate) mod receive;
pub mod record;
mod repeats;
mod replay;

use std::fmt;
use std::sync::Arc;

use thalweg_kernel::{ConfigError, ConnectorError, Decode, OpenContext, PartitionId, SourceSpec};
use tracing::warn;

use crate::config::MqttConfig;
use crate::io_signal::IoSignal;
use crate::link::Plan;
use crate::link::dialer::Dialer;
use crate::source::chunk::CHUNKS_MAX;
use crate::source::mode::{Mode, Start};
use crate::source::partition::{MqttPartition, Parts, read_position};
use crate::source::progress::Progress;
use crate::source::receive::{Receive, Setup};
use crate::source::replay::Place;
use crate::topic::TopicFilter;
use crate::{client_ids, random_id};

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
    recognise_repeats: bool,
    durability: Option<Mode>,
    start_from: Start,
    on_subscribed: Hook,
}

/// Called from the connection's work.
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
        let config_mode = config.durability;
        Self {
            config,
            decoder,
            topics: Vec::new(),
            retained: Retained::default(),
            recognise_repeats: true,
            durability: config_mode,
            start_from: Start::default(),
            on_subscribed: Hook::default(),
        }
    }

    /// Calls `hook` each time the broker has confirmed the subscriptions: from then on nothing that
    /// is published is missed. It runs on the shard and must not block.
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

    /// Whether a message of QoS 1 that the broker sends again counts once; it does unless this says otherwise. It is recognised by
    /// its packet id, DUP, and equal topic and payload. So a broker that gives an id again at once may lose an equal message
    /// of it with a lost connection. With QoS 2 a message counts once in any case.
    #[must_use]
    pub fn recognise_repeats(mut self, recognise: bool) -> Self {
        self.recognise_repeats = recognise;
        self
    }

    /// When messages are acknowledged, whatever the broker's URL says. Without either: [`Mode::Journal`] in a
    /// job with a state directory, otherwise [`Mode::None`].
    #[must_use]
    pub fn durability(mut self, mode: Mode) -> Self {
        self.durability = Some(mode);
        self
    }

    /// Where to begin in the journal, in a job that resumes from no checkpoint. So a new rule can be tried on
    /// yesterday's data, and go live without a gap.
    #[must_use]
    pub fn start_from(mut self, start: Start) -> Self {
        self.start_from = start;
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

    /// The mode in this job.
    fn mode(&self, cx: &OpenContext) -> Result<Mode, ConfigError> {
        let has_journals = cx.durability.journals.is_some();
        let mode = match self.durability {
            Some(mode) => mode,
            None if has_journals => Mode::Journal,
            None => Mode::None,
        };
        let allowed = match mode {
            Mode::Journal if !has_journals => {
                "none, or ack_on_checkpoint; a journal needs the job to have a directory for its state"
            }
            Mode::AckOnCheckpoint if !cx.durability.checkpoints => {
                "none, or journal; this job takes no checkpoints, so nothing would ever be acknowledged"
            }
            _ if mode != Mode::Journal && self.start_from != Start::Resume => {
                "journal, where start_from is given: only a journal can be read again"
            }
            _ => return Ok(mode),
        };
        Err(ConfigError::new("durability", mode, allowed))
    }

    fn filters(&self) -> Result<Arc<[TopicFilter]>, ConfigError> {
        if self.topics.is_empty() {
            return Err(ConfigError::missing(
                "topic",
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
        partition: &PartitionId,
        cx: &OpenContext,
    ) -> Result<MqttPartition<D>, ConnectorError> {
        let name = self.config.to_string();
        let wrong =
            |cause: ConfigError| ConnectorError::new(&name, "wrong setting").caused_by(cause);
        self.check().map_err(wrong)?;
        if let Some(id) = &self.config.client_id {
            client_ids::claim(cx, &self.config, id).map_err(wrong)?;
        }
        let filters = self.filters().map_err(wrong)?;
        let mode = self.mode(cx).map_err(wrong)?;
        let stored = cx.durability.position.as_deref().unwrap_or_default();
        let position =
            read_position(stored).map_err(|what| ConnectorError::new(&name, what).lasting())?;
        let place = match (mode, &cx.durability.journals) {
            (Mode::Journal, Some(journals)) => Some(Place {
                journals: Arc::clone(journals),
                name: format!("{}-{partition}", cx.durability.operator),
                position,
                start: self.start_from,
                tasks: cx.tasks.clone(),
            }),
            _ => None,
        };
        if let (None, Some(position)) = (&place, position) {
            warn!(
                "{name}: the job kept a journal until its last checkpoint, and durability = \"{mode}\" reads \
                 none: what was acknowledged after position {position} is not processed. Start it once \
                 with durability = \"journal\" to have it"
            );
        }
        let config = self.config.clone();
        let plan = Arc::new(Plan {
            client_id: config.client_id.clone().unwrap_or_else(random_id),
            clean: config.is_clean(),
            login: config.login().map_err(wrong)?,
            tls: config.tls.then(|| Dialer::new(&config)).transpose().map_err(wrong)?,
            needs_properties: self.decoder.needs_headers(),
            gives_ids: false,
            config,
        });
        // One more than the chunks, for the end: sending never waits.
        let (to_shard, from_io) = flume::bounded(CHUNKS_MAX + 1);
        let (to_io, from_shard) = flume::bounded(CHUNKS_MAX);
        let signal = Arc::new(IoSignal::default());
        let progress = Arc::new(Progress::new());
        let setup = Setup {
            plan,
            filters: Arc::clone(&filters),
            skip_retained: self.retained == Retained::Skip,
            recognise_repeats: self.recognise_repeats,
            on_subscribed: self.on_subscribed.clone(),
            to_shard,
            from_shard,
            signal: Arc::clone(&signal),
            progress: Arc::clone(&progress),
            mode,
            place,
            cx: OpenContext { tasks: None, shared: Arc::default(), ..cx.clone() },
        };
        let run = move |reactor| Receive::run(setup, reactor);
        let work =
            thalweg_io::start(cx, &format!("in{}", cx.operator_id), thalweg_io::Direction::In, run)
                .map_err(|cause| {
                    ConnectorError::new(&name, "cannot start a thread for its connection")
                        .caused_by(cause)
                })?;
        let restored = cx.durability.restored.zip(position);
        let decoder = self.decoder.clone();
        let parts = Parts {
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
        };
        Ok(MqttPartition::new(decoder, parts))
    }
}
