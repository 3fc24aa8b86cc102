//! A broker as a URL: `mqtt://[user[:password]@]host[:port][?option=value&...]`. What stands in it are options under
//! other names, so it is taken apart into a table of them, and read as one.

use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use thalweg_kernel::ConfigError;
use thalweg_kernel::options::{Options, Origin, Raw, Table, Value, unencoded};
use url::Url;

use super::MqttConfig;

const SCHEMES: &str = "mqtt://host[:port] or mqtts://host[:port]";

impl FromStr for MqttConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let pairs = taken_apart(text)?;
        let pairs = pairs.iter().map(|(key, text)| (key.as_str(), text.clone()));
        let config = Self::read(&Table::of_pairs("", &Origin::Here, pairs)?)?;
        config.check_values()?;
        Ok(config)
    }
}

/// The table with the options of its `url` beside the others.
pub(crate) fn expand(table: &Table) -> Result<Table, ConfigError> {
    let mut table = table.clone();
    let Some(Value { raw, origin }) = table.remove("url") else { return Ok(table) };
    let wrong = |error: ConfigError| error.at(origin.place()).within(table.path());
    let Some(text) = raw.as_text() else {
        return Err(wrong(ConfigError::new("url", "***", SCHEMES)));
    };
    let pairs = taken_apart(text).map_err(wrong)?;
    for (key, text) in pairs {
        table.insert(&key, Value { raw: Raw::Written(text), origin: origin.clone() })?;
    }
    Ok(table)
}

/// The options that a URL holds, by their keys.
fn taken_apart(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let wrong = |allowed: &str| ConfigError::new("url", redact(text), allowed);
    let hint = unencoded(text);
    let url = Url::parse(text).map_err(|cause| match &hint {
        Some(hint) => wrong(hint),
        None => wrong(&format!("{SCHEMES} ({cause})")),
    })?;
    let tls = match url.scheme() {
        "mqtt" => false,
        "mqtts" => true,
        _ => return Err(wrong(SCHEMES)),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong(SCHEMES))?;
    if !matches!(url.path(), "" | "/") {
        return Err(wrong(
            hint.as_deref().unwrap_or("no path; topics are given apart from the broker"),
        ));
    }
    if url.fragment().is_some() {
        return Err(wrong(hint.as_deref().unwrap_or("no '#' part; write a '#' in a value as %23")));
    }
    let mut pairs = vec![("host".to_owned(), host.to_owned()), ("tls".to_owned(), tls.to_string())];
    let mut pair = |key: &str, value: String| pairs.push((key.to_owned(), value));
    if let Some(port) = url.port() {
        pair("port", port.to_string());
    }
    if !url.username().is_empty() {
        pair("user", decode("user", url.username())?);
    }
    if let Some(password) = url.password() {
        pair("password", decode("password", password)?);
    }
    for written in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = written.split_once('=').unwrap_or((written, ""));
        pair(key, decode(key, value)?);
    }
    Ok(pairs)
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
