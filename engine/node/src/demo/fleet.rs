//! A few hundred simulated devices that publish readings over a handful of MQTT connections. Some of
//! them misbehave. There is an exact account of what was sent.
//!
//! ```text
//! {prefix}/d00042/temp   {"ts":1700000000123,"temp":21.53,"humidity":40.1,"status":"ok"}
//! ```
//!
//! - [`generator`] is the content: a pure function from the number of a message to its bytes.
//! - [`class`] names what can be wrong with a message and what an engine must make of it.
//! - One thread sends: it paces the messages and serves all connections.
//!
//! # What the counts mean
//! A message counts as sent when its PUBACK has come, by class, exactly once. When a connection breaks,
//! what it had not acknowledged is published again, which subscribers may see twice; each such repeat
//! counts as [`SentCounts::resent`]. [`Fleet::stop`] ends the sending and waits until nothing is
//! unacknowledged, so that afterwards `sent <= received <= sent + resent` for a QoS 1 subscriber.
//!
//! # Pacing
//! Open loop: message `n` is due `n / rate` seconds after the start, whatever happened before. So
//! there is no drift, and its `ts` says when it was due. A slow broker makes messages wait in memory,
//! up to [`WAITING_MESSAGES_MAX`] per connection. Then the devices fall behind together, and catch up
//! at full speed once they can. A device always uses the same connection, so its messages stay in
//! order unless a connection breaks.

pub mod class;
pub mod generator;
mod line;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rumqttc::{MqttOptions, Transport};
use thalweg_kernel::ConfigError;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

pub use class::{Class, Fate, SentCounts};
pub use generator::{Generator, Message, Plan, Roles, device_name};
use line::Line;

/// Messages that may wait for one connection before the whole fleet pauses.
pub const WAITING_MESSAGES_MAX: usize = 10_000;
/// Granularity of the pacing: what a message's `ts` may be older than its sending, beside the network.
const TICK: Duration = Duration::from_millis(2);
/// Messages made between two looks at the connections, when the fleet catches up.
const BURST_MESSAGES_MAX: u64 = 1_000;
/// How long connections may take to say goodbye when all is acknowledged.
const GOODBYE: Duration = Duration::from_millis(250);
const DEVICES_MAX: u32 = 100_000;
const RATE_MAX: u32 = 1_000_000;
const CONNECTIONS_MAX: u32 = 64;

/// Last touches to the options of a connection: credentials, TLS, keep-alive.
pub type Adjust = Arc<dyn Fn(&mut MqttOptions) + Send + Sync>;

/// What fleet, and where to. [`Default`] is 300 devices at 2,000 messages a second.
#[derive(Clone)]
pub struct FleetConfig {
    /// `mqtt://[user:password@]host[:port]`; `mqtts://` needs an [`adjust`](Self::adjust) that sets
    /// a TLS transport. The broker must accept MQTT 3.1.1. Default `mqtt://127.0.0.1:1883`.
    pub url: String,
    /// First level(s) of the topics. Default `demo`.
    pub prefix: String,
    /// Devices, 16 to 100,000. Default 300.
    pub devices: u32,
    /// Messages per second of all devices together, 1 to 1,000,000. Default 2,000.
    pub rate: u32,
    /// Chooses roles and values. Default 1.
    pub seed: u64,
    /// MQTT connections that the devices share, 1 to 64. Default 4.
    pub connections: u32,
    /// Of 1,000 messages of well-behaved devices, how many are up to 2 s old. Default 50.
    pub out_of_order_permille: u32,
    /// Of 1,000 messages of well-behaved devices, how many are 30 s old. Default 2.
    pub very_late_permille: u32,
    /// When one device falls silent, in milliseconds after the start. Default 4,000.
    pub silent_after_ms: u64,
    /// How long [`Fleet::stop`] waits for outstanding PUBACKs, in milliseconds. Default 10,000.
    pub drain_ms_max: u64,
    /// Applied to the options of each connection. Packet sizes, the window of messages in flight and
    /// the client id are the fleet's own and set afterwards.
    pub adjust: Option<Adjust>,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883".into(),
            prefix: "demo".into(),
            devices: 300,
            rate: 2_000,
            seed: 1,
            connections: 4,
            out_of_order_permille: 50,
            very_late_permille: 2,
            silent_after_ms: 4_000,
            drain_ms_max: 10_000,
            adjust: None,
        }
    }
}

impl FleetConfig {
    /// Checks every setting but the URL. [`Fleet::start`] does so too.
    ///
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u32, low: u32, high: u32| {
            let fits = (low..=high).contains(&value);
            fits.then_some(())
                .ok_or_else(|| ConfigError::new(key, value, format!("{low} to {high}")))
        };
        within("fleet.devices", self.devices, generator::DEVICES_MIN, DEVICES_MAX)?;
        within("fleet.rate", self.rate, 1, RATE_MAX)?;
        within("fleet.connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("fleet.out_of_order_permille", self.out_of_order_permille, 0, 1_000)?;
        within("fleet.very_late_permille", self.very_late_permille, 0, 1_000)?;
        let prefix = &self.prefix;
        if prefix.is_empty() || prefix.starts_with('$') || prefix.contains(['+', '#', '\0']) {
            let allowed = "a topic without wildcards that does not start with $";
            return Err(ConfigError::new("fleet.prefix", prefix, allowed));
        }
        Ok(())
    }
}

/// Why a fleet did not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The thread or its reactor could not be made.
    #[error("the fleet's thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
    /// The broker did not acknowledge everything in time.
    #[error(
        "{missing} of {made} messages were not acknowledged by {url} within {waited_ms} ms \
         after the fleet stopped{}; is the broker running and reachable?",
        last_error.as_ref().map(|error| format!(" (last error: {error})")).unwrap_or_default()
    )]
    Unacknowledged {
        /// Messages without a PUBACK.
        missing: u64,
        /// Messages made in all.
        made: u64,
        /// The broker, without credentials.
        url: String,
        /// How long it was given, in milliseconds.
        waited_ms: u64,
        /// What the connections said last, if one broke.
        last_error: Option<String>,
    },
    /// The fleet's thread panicked: a bug of ours.
    #[error("the fleet's thread died; please report this as a bug")]
    Died,
}

/// A running fleet. Dropping it stops it at once, without waiting for PUBACKs.
pub struct Fleet {
    generator: Generator,
    sending: Arc<Sending>,
    url: String,
    drain_ms_max: u64,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts sending. A broker that is away is waited for; [`Fleet::last_error`] tells.
    ///
    /// # Errors
    /// A wrong setting, or a machine that has no thread left.
    pub fn start(config: FleetConfig) -> Result<Self, FleetError> {
        config.check()?;
        let broker = Address::parse(&config.url)?;
        let options = options(&config, &broker)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let generator = Generator::new(Plan {
            seed: config.seed,
            prefix: config.prefix,
            devices: config.devices,
            rate: config.rate,
            start_ms: now.as_millis() as u64,
            out_of_order_permille: config.out_of_order_permille,
            very_late_permille: config.very_late_permille,
            silent_after_ms: config.silent_after_ms,
        });
        let sending = Arc::new(Sending::default());
        let thread = thread::Builder::new().name("demo-fleet".into()).spawn({
            let (generator, sending) = (generator.clone(), Arc::clone(&sending));
            let drain = Duration::from_millis(config.drain_ms_max);
            move || run(&runtime, &generator, options, &sending, drain)
        })?;
        Ok(Self {
            generator,
            sending,
            url: broker.without_credentials(),
            drain_ms_max: config.drain_ms_max,
            thread: Some(thread),
        })
    }

    /// What has been acknowledged so far.
    #[must_use]
    pub fn sent(&self) -> SentCounts {
        self.sending.sent()
    }

    /// Messages made but not acknowledged yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        // In this order: a message counts as made before it can count as sent.
        let sent = self.sending.sent().total();
        self.sending.made.load(Ordering::Acquire).saturating_sub(sent)
    }

    /// Which devices misbehave, and which overheat.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.generator.roles()
    }

    /// What it says; its plan has the start time.
    #[must_use]
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// The last trouble that a connection had, if any had one.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.sending.last_error()
    }

    /// Stops sending, waits until the broker has acknowledged everything, and gives the final counts.
    ///
    /// # Errors
    /// [`FleetError::Unacknowledged`] if PUBACKs are missing after `drain_ms_max`.
    pub fn stop(mut self) -> Result<SentCounts, FleetError> {
        self.sending.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| FleetError::Died)?;
        }
        let sent = self.sending.sent();
        let made = self.sending.made.load(Ordering::Acquire);
        match made - sent.total() {
            0 => Ok(sent),
            missing => Err(FleetError::Unacknowledged {
                missing,
                made,
                url: self.url.clone(),
                waited_ms: self.drain_ms_max,
                last_error: self.sending.last_error(),
            }),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.sending.stop.store(true, Ordering::Release);
        self.sending.abort.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the sending thread and the handle share.
#[derive(Default)]
struct Sending {
    made: AtomicU64,
    sent: [AtomicU64; Class::COUNT],
    resent: AtomicU64,
    stop: AtomicBool,
    abort: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Sending {
    fn sent(&self) -> SentCounts {
        SentCounts {
            by_class: std::array::from_fn(|class| self.sent[class].load(Ordering::Acquire)),
            resent: self.resent.load(Ordering::Acquire),
        }
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// The sending thread: paces, drains, says goodbye.
fn run(
    runtime: &Runtime,
    generator: &Generator,
    options: Vec<MqttOptions>,
    sending: &Arc<Sending>,
    drain: Duration,
) {
    let local = LocalSet::new();
    let lines: Vec<_> = options
        .into_iter()
        .map(|options| Rc::new(Line::new(options, Arc::clone(sending))))
        .collect();
    let serving: Vec<_> =
        lines.iter().map(|line| local.spawn_local(Rc::clone(line).serve())).collect();
    local.block_on(runtime, async {
        pace(generator, &lines, sending).await;
        let deadline = Instant::now() + drain;
        let settled = || lines.iter().all(|line| line.is_empty());
        while !settled() && !sending.abort.load(Ordering::Acquire) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lines.iter().for_each(|line| line.goodbye());
        let _ = tokio::time::timeout(GOODBYE, async {
            for task in serving {
                let _ = task.await;
            }
        })
        .await;
    });
}

async fn pace(generator: &Generator, lines: &[Rc<Line>], sending: &Sending) {
    let start = Instant::now();
    let mut next = 0;
    while !sending.stop.load(Ordering::Acquire) {
        let due = generator.due(start.elapsed().as_millis() as u64);
        let until = due.min(next + BURST_MESSAGES_MAX);
        while next < until && lines.iter().all(|line| line.has_room()) {
            let message = generator.message(next);
            next += 1;
            sending.made.fetch_add(1, Ordering::AcqRel);
            lines[message.device as usize % lines.len()].push(message);
        }
        if until < due {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Options for each connection. A new client id every time, and a clean session: what was not
/// acknowledged is ours to repeat, not the session's.
fn options(config: &FleetConfig, broker: &Address) -> Result<Vec<MqttOptions>, ConfigError> {
    static FLEETS: AtomicU64 = AtomicU64::new(0);
    let fleet = FLEETS.fetch_add(1, Ordering::Relaxed);
    (0..config.connections)
        .map(|nth| {
            let id = format!("thalweg-fleet-{}-{fleet}-{nth}", std::process::id());
            let mut options = MqttOptions::new(id, &broker.host, broker.port);
            options.set_keep_alive(Duration::from_secs(30));
            if let Some((user, password)) = &broker.credentials {
                options.set_credentials(user, password);
            }
            if let Some(adjust) = &config.adjust {
                adjust(&mut options);
            }
            if broker.tls && matches!(options.transport(), Transport::Tcp) {
                let allowed = "mqtt://HOST:PORT, or mqtts:// together with TLS settings";
                return Err(ConfigError::new("fleet.url", broker.without_credentials(), allowed));
            }
            line::claim(&mut options);
            Ok(options)
        })
        .collect()
}

/// A broker's URL in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    tls: bool,
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
}

impl Address {
    fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = || {
            // Whatever stands before an @ may be a password.
            let shown = match (url.split_once("://"), url.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
                (None, Some((_, host))) => format!("***@{host}"),
                _ => url.to_owned(),
            };
            ConfigError::new("fleet.url", shown, "mqtt://[user:password@]host[:port], or mqtts://")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, host) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((credentials, host)) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                (Some((user.to_owned(), password.to_owned())), host)
            }
        };
        // The colons of an IPv6 address stand within brackets.
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)
            }
            _ => (host, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty() || host.contains(['/', '?', ' ']) {
            return Err(wrong());
        }
        Ok(Self { tls, host: host.to_owned(), port, credentials })
    }

    fn without_credentials(&self) -> String {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests;
