//! A broker as a URL: `mqtt://[user[:password]@]host[:port][?option=value&...]`. What stands in it are options under
//! other names, so it is taken apart into a table of them, and read as one.

use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use thalweg_kernel::ConfigError;
use thalweg_kernel::options::{Options, Origin, Table};
use url::Url;

use super::MqttConfig;

const SCHEMES: &str = "mqtt://host[:port] or mqtts://host[:port]";

impl FromStr for MqttConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let config = Self::read(&taken_apart(text, "", &Origin::Here)?)?;
        config.check_values()?;
        Ok(config)
    }
}

/// The options of a URL that was written there, below the keys `path`.
fn taken_apart(text: &str, path: &str, origin: &Origin) -> Result<Table, ConfigError> {
    let wrong = |allowed: &str| ConfigError::new("url", redact(text), allowed);
    let url = Url::parse(text).map_err(|cause| wrong(&format!("{SCHEMES} ({cause})")))?;
    let tls = match url.scheme() {
        "mqtt" => false,
        "mqtts" => true,
        _ => return Err(wrong(SCHEMES)),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong(SCHEMES))?;
    if !matches!(url.path(), "" | "/") {
        return Err(wrong("no path; topics are given apart from the broker"));
    }
    if url.fragment().is_some() {
        return Err(wrong("no '#' part; write a '#' in a value as %23"));
    }
    let mut pairs = vec![("host", host.to_owned()), ("tls", tls.to_string())];
    pairs.extend(url.port().map(|port| ("port", port.to_string())));
    if !url.username().is_empty() {
        pairs.push(("user", decode("user", url.username())?));
    }
    if let Some(password) = url.password() {
        pairs.push(("password", decode("password", password)?));
    }
    for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((key, decode(key, value)?));
    }
    Table::of_pairs(path, origin, pairs)
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
