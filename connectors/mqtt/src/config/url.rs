//! A broker as a URL: `mqtt://[user[:password]@]host[:port][?parameter=value&...]`.

use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use thalweg_kernel::ConfigError;
use url::Url;

use super::{MqttConfig, Password, Qos, Secret, Version};

const SCHEMES: &str = "mqtt://host[:port] or mqtts://host[:port]";
const PARAMETERS: &str = "version, client_id, clean_session, session_expiry_s, keep_alive_s, qos, \
                          inflight, packet_bytes_max, durability, status_topic, ca, cert, key, \
                          user, password, password_file, password_env";

impl FromStr for MqttConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |allowed: &str| ConfigError::new("url", redact(text), allowed);
        let url = Url::parse(text).map_err(|cause| wrong(&format!("{SCHEMES} ({cause})")))?;
        let mut config = match (url.scheme(), url.host_str()) {
            ("mqtt", Some(host)) if !host.is_empty() => Self::new(host),
            ("mqtts", Some(host)) if !host.is_empty() => Self::tls(host),
            _ => return Err(wrong(SCHEMES)),
        };
        if let Some(port) = url.port() {
            config.port = port;
        }
        if !matches!(url.path(), "" | "/") {
            return Err(wrong("no path; topics are given apart from the broker"));
        }
        if url.fragment().is_some() {
            return Err(wrong("no '#' part; write a '#' in a value as %23"));
        }
        if !url.username().is_empty() {
            config.user = Some(decode("user", url.username())?);
        }
        if let Some(password) = url.password() {
            config.password = Some(Password::Given(Secret(decode("password", password)?)));
        }
        for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            config.set(key, &decode(key, value)?)?;
        }
        config.check_values()?;
        Ok(config)
    }
}

impl MqttConfig {
    fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "version" => {
                self.version = match value {
                    "5" | "5.0" => Version::V5,
                    "3.1.1" => Version::V311,
                    _ => return Err(ConfigError::new(key, value, "5 or 3.1.1")),
                }
            }
            "qos" => {
                self.qos = match value {
                    "0" => Qos::AtMostOnce,
                    "1" => Qos::AtLeastOnce,
                    "2" => Qos::ExactlyOnce,
                    _ => return Err(ConfigError::new(key, value, "0, 1 or 2")),
                }
            }
            "client_id" => self.client_id = Some(value.to_owned()),
            "clean_session" => self.clean_session = Some(number(key, value, "true or false")?),
            "session_expiry_s" => {
                self.session_expiry_s = Some(number(key, value, "1 to 4294967295 seconds")?);
            }
            "keep_alive_s" => self.keep_alive_s = number(key, value, "5 to 65535 seconds")?,
            "inflight" | "receive_max" => {
                self.inflight = number(key, value, "1 to 65535 messages")?
            }
            "packet_bytes_max" => {
                self.packet_bytes_max = number(key, value, "128 to 268435460 bytes")?;
            }
            "durability" => self.durability = Some(value.parse()?),
            "status_topic" => self.status_topic = Some(value.to_owned()),
            "ca" => self.ca = Some(value.into()),
            "cert" => self.cert = Some(value.into()),
            "key" => self.key = Some(value.into()),
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(Password::Given(Secret(value.to_owned()))),
            "password_file" => self.password = Some(Password::File(value.into())),
            "password_env" => self.password = Some(Password::Env(value.to_owned())),
            _ => return Err(ConfigError::new("url parameter", key, PARAMETERS)),
        }
        Ok(())
    }
}

fn number<T: FromStr>(key: &str, value: &str, allowed: &str) -> Result<T, ConfigError> {
    value.parse().map_err(|_| ConfigError::new(key, value, allowed))
}

fn decode(key: &str, value: &str) -> Result<String, ConfigError> {
    let shown: &dyn Display = if key == "password" { &"***" } else { &value };
    percent_decode_str(value)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| ConfigError::new(key, shown, "percent-encoded UTF-8"))
}

/// The text of a URL that may be too broken to parse, without anything that may be a password.
fn redact(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at(start);
    let rest = rest.rfind('@').map_or(rest.to_owned(), |at| format!("***{}", &rest[at..]));
    let Some(at) = rest.find("password=") else { return format!("{scheme}{rest}") };
    format!("{scheme}{}password=***", &rest[..at])
}
