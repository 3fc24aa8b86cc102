//! How to reach a broker: [`MqttConfig`], from a URL or built by hand.
//!
//! Parsing is pure; [`MqttConfig::check`] also reads the files and the environment that the
//! settings name. The connectors check when they open, so a wrong setting stops a job before it
//! starts. No `Display` or `Debug` here shows a password.

mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thalweg_kernel::ConfigError;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::source::mode::Mode;
use crate::topic;

/// The user name where the configuration names none.
pub const USER_ENV: &str = "THALWEG_MQTT_USER";
/// The password where the configuration names none.
pub const PASSWORD_ENV: &str = "THALWEG_MQTT_PASSWORD";

/// The largest packet MQTT can express.
const PACKET_BYTES_LIMIT: u32 = 268_435_460;

/// The protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, for brokers that know no other.
    V311,
    /// MQTT 5: user properties, reasons for refusals, and a receive window that we choose. The
    /// default, because the broker then never sends more than we agreed to hold.
    #[default]
    V5,
}

/// How often a message may arrive; for what each means here see the crate's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: may be lost.
    AtMostOnce,
    /// 1: acknowledged once handed over, repeated otherwise.
    #[default]
    AtLeastOnce,
    /// 2: as 1, and not repeated by a reconnect of this process.
    ExactlyOnce,
}

/// Text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Password {
    Given(Secret),
    File(PathBuf),
    Env(String),
}

/// A broker and how to connect to it.
///
/// | URL parameter | default | meaning |
/// |---|---|---|
/// | `version` | `5` | `5` or `3.1.1` |
/// | `client_id` | random | the name of the session; two clients with one name push each other out, so two connectors of a job are refused |
/// | `clean_session` | `false` with a `client_id`, else `true` | whether the broker forgets us when we go |
/// | `session_expiry_s` | `86400` | MQTT 5: how long a session outlives its connection, in seconds |
/// | `keep_alive_s` | `30` | a ping at least this often, 5 to 65535 seconds |
/// | `qos` | `1` | 0, 1 or 2 |
/// | `inflight` | `1024` | the most unacknowledged messages in either direction, 1 to 65535 |
/// | `durability` | `journal` with a state directory, else `none` | a source's: when it acknowledges, see [`Mode`] |
/// | `packet_bytes_max` | `1048576` | the largest packet in either direction, in bytes |
/// | `status_topic` | none | retained `online` and `offline`, the latter also as last will |
/// | `ca` | the system's | `mqtts`: PEM file of the authorities that may sign the broker's certificate |
/// | `cert`, `key` | none | `mqtts`: PEM files of our own certificate and its key |
/// | `user` | the URL's, else `THALWEG_MQTT_USER` | |
/// | `password`, `password_file`, `password_env` | the URL's, else `THALWEG_MQTT_PASSWORD` | the password, a file that holds it, or a variable that does |
///
/// Values are percent-decoded; a `+` stays a `+`.
///
/// ```
/// # use thalweg_mqtt::MqttConfig;
/// let config: MqttConfig = "mqtt://broker:1884?client_id=gateway-7&qos=1".parse()?;
/// assert_eq!(config.to_string(), "mqtt://broker:1884");
/// let wrong = "mqtt://broker?qos=3".parse::<MqttConfig>().unwrap_err();
/// assert_eq!(wrong.to_string(), r#"qos = "3" is not allowed; allowed: 0, 1 or 2"#);
/// # Ok::<(), thalweg_kernel::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) version: Version,
    pub(crate) client_id: Option<String>,
    clean_session: Option<bool>,
    session_expiry_s: Option<u32>,
    pub(crate) keep_alive_s: u16,
    pub(crate) qos: Qos,
    pub(crate) inflight: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) durability: Option<Mode>,
    pub(crate) status_topic: Option<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    user: Option<String>,
    password: Option<Password>,
}

impl MqttConfig {
    /// A broker without TLS, on port 1883 unless [`port`](Self::port) says otherwise.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 1883,
            tls: false,
            version: Version::default(),
            client_id: None,
            clean_session: None,
            session_expiry_s: None,
            keep_alive_s: 30,
            qos: Qos::default(),
            inflight: 1024,
            packet_bytes_max: 1024 * 1024,
            durability: None,
            status_topic: None,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password: None,
        }
    }

    /// A broker behind TLS, on port 8883 unless [`port`](Self::port) says otherwise.
    pub fn tls(host: impl Into<String>) -> Self {
        Self { tls: true, port: 8883, ..Self::new(host) }
    }

    /// The broker's port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The protocol version.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The name of the session. With it the session outlives the connection, so that the broker
    /// keeps what arrives meanwhile (QoS 1 and 2).
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Whether the broker forgets the session when the connection ends.
    #[must_use]
    pub fn clean_session(mut self, clean: bool) -> Self {
        self.clean_session = Some(clean);
        self
    }

    /// MQTT 5: how long the session outlives its connection, in seconds; `u32::MAX` for ever.
    #[must_use]
    pub fn session_expiry_s(mut self, seconds: u32) -> Self {
        self.session_expiry_s = Some(seconds);
        self
    }

    /// A ping at least this often, 5 to 65535 seconds.
    #[must_use]
    pub fn keep_alive_s(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    /// The quality of service of subscriptions and publishes.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// The most unacknowledged messages in either direction. Brokers have a limit of their own:
    /// mosquitto's `max_inflight_messages` is 20 unless set.
    #[must_use]
    pub fn inflight(mut self, messages: u16) -> Self {
        self.inflight = messages;
        self
    }

    /// The largest packet in either direction, in bytes.
    #[must_use]
    pub fn packet_bytes_max(mut self, bytes: u32) -> Self {
        self.packet_bytes_max = bytes;
        self
    }

    /// When a source acknowledges. A sink has no use for it.
    #[must_use]
    pub fn durability(mut self, mode: Mode) -> Self {
        self.durability = Some(mode);
        self
    }

    /// Where `online` and `offline` are kept, retained. Give it to one connector only.
    #[must_use]
    pub fn status_topic(mut self, topic: impl Into<String>) -> Self {
        self.status_topic = Some(topic.into());
        self
    }

    /// PEM file of the authorities that may sign the broker's certificate, instead of the
    /// system's.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// PEM files of our own certificate and its key.
    #[must_use]
    pub fn client_cert(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert = Some(cert.into());
        self.key = Some(key.into());
        self
    }

    /// User name and password.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self.password = Some(Password::Given(Secret(password.into())));
        self
    }

    /// The user name, with the password from elsewhere.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The file that holds the password; a line break at its end is not part of it.
    #[must_use]
    pub fn password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(file.into()));
        self
    }

    /// The environment variable that holds the password.
    #[must_use]
    pub fn password_env(mut self, name: impl Into<String>) -> Self {
        self.password = Some(Password::Env(name.into()));
        self
    }

    /// Checks every setting, and that the files and variables it names can be read.
    ///
    /// # Errors
    /// Names the first setting that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_values()?;
        self.login()?;
        if self.tls {
            self.tls_client()?;
        }
        Ok(())
    }

    /// TLS as configured, and the name that the broker's certificate must have. Reads the files it names.
    pub(crate) fn tls_client(&self) -> Result<(ClientConfig, ServerName<'static>), ConfigError> {
        let name = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(name)
            .map_err(|_| ConfigError::new("host", &self.host, "a host name or IP address"))?;
        let tls = thalweg_tls::client_config(
            "broker",
            ("ca", self.ca.as_deref()),
            ("cert", self.cert.as_deref()),
            ("key", self.key.as_deref()),
        )?;
        Ok((tls, server))
    }

    /// Whether messages have user properties: MQTT 3.1.1 knows none.
    pub fn has_user_properties(&self) -> bool {
        self.version == Version::V5
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_secs(u64::from(self.keep_alive_s))
    }

    /// Whether the broker forgets us when the connection ends.
    pub(crate) fn is_clean(&self) -> bool {
        self.clean_session.unwrap_or(self.client_id.is_none())
    }

    /// MQTT 5: the session's life after its connection, in seconds.
    pub(crate) fn expiry_s(&self) -> u32 {
        if self.is_clean() { 0 } else { self.session_expiry_s.unwrap_or(86_400) }
    }

    /// The checks that need neither files nor environment.
    fn check_values(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, value: &dyn fmt::Display, allowed: &str| {
            Err(ConfigError::new(key, value, allowed))
        };
        if self.host.is_empty() {
            return wrong("host", &"", "a host name or address: mqtt://broker:1883");
        }
        if self.port == 0 {
            return wrong("port", &0, "1 to 65535");
        }
        if self.keep_alive_s < 5 {
            return wrong("keep_alive_s", &self.keep_alive_s, "5 to 65535 seconds");
        }
        if self.inflight == 0 {
            return wrong("inflight", &0, "1 to 65535 messages");
        }
        if !(128..=PACKET_BYTES_LIMIT).contains(&self.packet_bytes_max) {
            let allowed = format!("128 to {PACKET_BYTES_LIMIT} bytes");
            return wrong("packet_bytes_max", &self.packet_bytes_max, &allowed);
        }
        match &self.client_id {
            Some(id) if id.is_empty() || id.len() > 65_535 || id.contains('\0') => {
                return wrong(
                    "client_id",
                    id,
                    "1 to 65535 bytes without NUL, or none for a random one",
                );
            }
            None if !self.is_clean() => {
                let allowed = "true without a client_id: the broker finds a session by its \
                               client_id, so give one to keep it";
                return wrong("clean_session", &"false", allowed);
            }
            _ => {}
        }
        if let Some(seconds) = self.session_expiry_s {
            let allowed = if self.version == Version::V311 {
                "only with version=5; a 3.1.1 broker decides by itself how long it keeps a session"
            } else if self.is_clean() {
                "only with clean_session=false and a client_id"
            } else if seconds == 0 {
                "1 to 4294967295 seconds (the last: for ever); or clean_session=true"
            } else {
                ""
            };
            if !allowed.is_empty() {
                return wrong("session_expiry_s", &seconds, allowed);
            }
        }
        if let Some(status) = &self.status_topic {
            topic::check_topic(status)
                .or_else(|reason| wrong("status_topic", status, &format!("a topic: {reason}")))?;
        }
        for (name, file) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            if let (Some(file), false) = (file, self.tls) {
                return wrong(name, &file.display(), "only with mqtts://");
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => wrong("key", &"", "the PEM file of the key that belongs to cert="),
            (None, Some(_)) => {
                wrong("cert", &"", "the PEM file of the certificate that key= belongs to")
            }
            _ => Ok(()),
        }
    }

    /// User name and password, or none.
    pub(crate) fn login(&self) -> Result<Option<(String, Secret)>, ConfigError> {
        self.login_from(|name| std::env::var(name).ok())
    }

    fn login_from(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(String, Secret)>, ConfigError> {
        let password = match &self.password {
            Some(Password::Given(secret)) => Some(secret.clone()),
            Some(Password::File(file)) => {
                let text = std::fs::read_to_string(file).map_err(|cause| {
                    let allowed =
                        format!("a readable UTF-8 file that holds the password ({cause})");
                    ConfigError::new("password_file", file.display(), allowed)
                })?;
                Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            Some(Password::Env(name)) => Some(env(name).map(Secret).ok_or_else(|| {
                ConfigError::new("password_env", name, "a set environment variable")
            })?),
            None => env(PASSWORD_ENV).map(Secret),
        };
        let user = self.user.clone().or_else(|| env(USER_ENV));
        match (user, password) {
            (None, None) => Ok(None),
            (Some(user), password) => Ok(Some((user, password.unwrap_or(Secret(String::new()))))),
            (None, Some(_)) if self.password.is_none() => Ok(None),
            (None, Some(_)) => {
                Err(ConfigError::new("password", "***", "only together with a user"))
            }
        }
    }
}

impl fmt::Display for MqttConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests;
