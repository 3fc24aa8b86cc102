//! How to reach a broker: [`MqttConfig`], from a URL or built by hand.
//!
//! Parsing is pure; [`MqttConfig::check`] also reads the files and the environment that the
//! settings name. The connectors check when they open, so a wrong setting stops a job before it
//! starts. No `Display` or `Debug` here shows a password.

mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thalweg_kernel::options::Declared;
use thalweg_kernel::{ConfigError, choices, options};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) use thalweg_kernel::options::Secret;
pub(crate) use url::expand;

use crate::source::mode::Mode;
use crate::topic;

/// The user name where the configuration names none.
pub const USER_ENV: &str = "THALWEG_MQTT_USER";
/// The password where the configuration names none.
pub const PASSWORD_ENV: &str = "THALWEG_MQTT_PASSWORD";

/// The largest packet MQTT can express.
const PACKET_BYTES_LIMIT: u64 = 268_435_460;

/// The protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, for brokers that know no other.
    V311,
    /// MQTT 5: user properties, reasons for refusals, and a receive window that we choose. Tried first, because the
    /// broker then never sends more than we agreed to hold.
    #[default]
    V5,
}

impl Version {
    /// As the standard is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::V311 => Self::V5,
            Self::V5 => Self::V311,
        }
    }
}

choices! { Version: "5" | "5.0" => Version::V5, "3.1.1" => Version::V311 }

/// How often a message may arrive; for what each means here see the crate's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: may be lost.
    AtMostOnce,
    /// 1: acknowledged when it is safe, repeated otherwise.
    #[default]
    AtLeastOnce,
    /// 2: as 1, and a repetition is always told from news.
    ExactlyOnce,
}

choices! { Qos: "0" => Qos::AtMostOnce, "1" => Qos::AtLeastOnce, "2" => Qos::ExactlyOnce }

options! {
    /// A broker and how to connect to it.
    ///
    /// As a URL it is `mqtt://[user[:password]@]host[:port][?option=value&...]`, or `mqtts://` for TLS: what stands
    /// there are the options below. Values are percent-decoded; a `+` stays a `+`.
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
    pub struct MqttConfig: Default {
        /// The broker's name or address.
        #[absent = "the URL's"]
        #[example = "broker.example.org"]
        pub(crate) host: String = String::new(),
        /// The broker's port.
        #[range(1, 65_535)]
        #[absent = "the URL's, else 1883, with `tls` 8883"]
        #[example = "1884"]
        port: Option<u16>,
        /// Whether the connection is encrypted, and the broker verified: `mqtts://`.
        pub(crate) tls: bool = false,
        /// The protocol's version. With 3.1.1 there are no user properties, no reasons for refusals, and no receive
        /// window of our own.
        #[absent = "5, and 3.1.1 where the broker does not speak 5"]
        pub(crate) version: Option<Version>,
        /// The name of the session. With one the session outlives a restart, and nothing of QoS 1 is lost. Two clients
        /// with one name push each other out, so two connectors of a job are refused.
        #[absent = "a random one"]
        #[example = "gateway-7"]
        pub(crate) client_id: Option<String>,
        /// Whether the broker forgets us when we go.
        #[absent = "`false` with a `client_id`, else `true`"]
        clean_session: Option<bool>,
        /// MQTT 5: how long a session outlives its connection.
        #[unit = "seconds"]
        #[absent = "86400"]
        session_expiry_s: Option<u32>,
        /// A ping is sent at least this often.
        #[unit = "seconds"]
        #[range(5, 65_535)]
        pub(crate) keep_alive_s: u16 = 30,
        /// The quality of service of subscriptions and publishes.
        pub(crate) qos: Qos = Qos::default(),
        /// The most unacknowledged messages in either direction.
        #[alias = "receive_max"]
        #[unit = "messages"]
        #[range(1, 65_535)]
        pub(crate) inflight: u16 = 1024,
        /// The largest packet in either direction. A larger one that comes in is acknowledged, and becomes a dead letter
        /// with its first bytes.
        #[unit = "bytes"]
        #[range(128, PACKET_BYTES_LIMIT)]
        pub(crate) packet_bytes_max: u32 = 1024 * 1024,
        /// The longest wait between two attempts to connect.
        #[range(100, 3_600_000)]
        pub(crate) reconnect_max: Duration = Duration::from_secs(5),
        /// MQTT 5: whether to go to another server where the broker says so. The name and the password go there, too.
        pub(crate) follow_redirects: bool = false,
        /// A source's: when it acknowledges. See [`Mode`].
        #[absent = "`journal` with a state directory, else `none`"]
        pub(crate) durability: Option<Mode>,
        /// Where `online` and `offline` are kept, retained, the latter also as last will.
        #[example = "gateways/7/status"]
        pub(crate) status_topic: Option<String>,
        /// With TLS: PEM file of the authorities that may sign the broker's certificate.
        #[absent = "the system's"]
        pub(crate) ca: Option<PathBuf>,
        /// With TLS: PEM file of our own certificate.
        pub(crate) cert: Option<PathBuf>,
        /// With TLS: PEM file of the key of our own certificate.
        pub(crate) key: Option<PathBuf>,
        /// The user's name.
        #[absent = "the URL's, else that of the variable `THALWEG_MQTT_USER`"]
        user: Option<String>,
        /// The password.
        #[absent = "the URL's, else that of the variable `THALWEG_MQTT_PASSWORD`"]
        password: Option<Secret>,
        /// A file that holds the password; a line break at its end is not part of it.
        password_file: Option<PathBuf>,
        /// A variable that holds the password.
        password_env: Option<String>,
    }
}

impl MqttConfig {
    /// A broker without TLS, on port 1883 unless [`port`](Self::port) says otherwise.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), ..Self::default() }
    }

    /// A broker behind TLS, on port 8883 unless [`port`](Self::port) says otherwise.
    pub fn tls(host: impl Into<String>) -> Self {
        Self { tls: true, ..Self::new(host) }
    }

    /// The broker's port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The protocol version. Without it 5 is tried, and 3.1.1 where the broker does not speak 5.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = Some(version);
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

    /// The longest wait between two attempts to connect.
    #[must_use]
    pub fn reconnect_max(mut self, longest: Duration) -> Self {
        self.reconnect_max = longest;
        self
    }

    /// MQTT 5: whether to go to another server where the broker says so. The name and the password go there, too.
    #[must_use]
    pub fn follow_redirects(mut self, follow: bool) -> Self {
        self.follow_redirects = follow;
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
    pub fn credentials(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let password = Some(Secret(password.into()));
        Self { user: Some(user.into()), password, password_file: None, password_env: None, ..self }
    }

    /// The user name, with the password from elsewhere.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The file that holds the password; a line break at its end is not part of it.
    #[must_use]
    pub fn password_file(self, file: impl Into<PathBuf>) -> Self {
        Self { password: None, password_file: Some(file.into()), password_env: None, ..self }
    }

    /// The environment variable that holds the password.
    #[must_use]
    pub fn password_env(self, name: impl Into<String>) -> Self {
        Self { password: None, password_file: None, password_env: Some(name.into()), ..self }
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
        let server = server_name(&self.host)
            .ok_or_else(|| ConfigError::new("host", &self.host, "a host name or IP address"))?;
        let tls = thalweg_tls::client_config(
            "broker",
            ("ca", self.ca.as_deref()),
            ("cert", self.cert.as_deref()),
            ("key", self.key.as_deref()),
        )?;
        Ok((tls, server))
    }

    /// Whether messages may have user properties: MQTT 3.1.1 knows none.
    pub fn has_user_properties(&self) -> bool {
        self.version != Some(Version::V311)
    }

    /// The broker's port, given or not.
    pub(crate) fn tcp_port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 8883 } else { 1883 })
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
            let needed = "the broker's name or address, or a URL: mqtt://broker:1883";
            return Err(ConfigError::missing("host", needed));
        }
        self.check_ranges()?;
        match &self.client_id {
            Some(id)
                if id.is_empty()
                    || id.len() > 65_535
                    || id.chars().any(|char| topic::check_char(char).is_err()) =>
            {
                return wrong(
                    "client_id",
                    &id.escape_debug(),
                    "1 to 65535 bytes without control characters, or none for a random one",
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
            let allowed = if self.version == Some(Version::V311) {
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
            (Some(_), None) => {
                let needed = "the PEM file of the key that belongs to `cert`";
                return Err(ConfigError::missing("key", needed));
            }
            (None, Some(_)) => {
                let needed = "the PEM file of the certificate that `key` belongs to";
                return Err(ConfigError::missing("cert", needed));
            }
            _ => {}
        }
        let passwords = [
            ("password", self.password.is_some()),
            ("password_file", self.password_file.is_some()),
            ("password_env", self.password_env.is_some()),
        ];
        let mut given = passwords.into_iter().filter(|(_, given)| *given);
        match (given.next(), given.next()) {
            (Some((one, _)), Some((other, _))) => {
                wrong(other, &"***", &format!("one password; there is {one}, too"))
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
        let given = if let Some(file) = &self.password_file {
            let text = std::fs::read_to_string(file).map_err(|cause| {
                let allowed = format!("a readable UTF-8 file that holds the password ({cause})");
                ConfigError::new("password_file", file.display(), allowed)
            })?;
            Some(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
        } else if let Some(name) = &self.password_env {
            Some(env(name).map(Secret).ok_or_else(|| {
                ConfigError::new("password_env", name, "a set environment variable")
            })?)
        } else {
            self.password.clone()
        };
        let is_given = given.is_some();
        let password = given.or_else(|| env(PASSWORD_ENV).map(Secret));
        let user = self.user.clone().or_else(|| env(USER_ENV));
        match (user, password) {
            (None, None) => Ok(None),
            (Some(user), password) => Ok(Some((user, password.unwrap_or(Secret(String::new()))))),
            (None, Some(_)) if !is_given => Ok(None),
            (None, Some(_)) => {
                Err(ConfigError::new("password", "***", "only together with a user"))
            }
        }
    }
}

/// The name that the certificate of `host` must have.
pub(crate) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned()).ok()
}

impl fmt::Display for MqttConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.tcp_port())
    }
}

#[cfg(test)]
mod tests;
