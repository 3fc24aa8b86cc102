//! `[deduplicate]`: where a publisher's number of a reading is found, and how many of them are remembered.

use serde::Deserialize;
use thalweg_flow::DEDUPLICATE_WINDOW;
use thalweg_kernel::ConfigError;
use thalweg_mqtt::MqttConfig;

use super::within;

/// The largest window, in numbers. It takes 128 KiB for each key.
const WINDOW_MAX: usize = 1 << 20;

/// How repetitions are told from news.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deduplicate {
    /// The field of the payload that holds the number.
    pub(crate) field: Option<String>,
    /// The MQTT 5 user property that does.
    pub(crate) property: Option<String>,
    /// So many numbers below a key's highest are remembered.
    #[serde(default = "default_window")]
    pub(crate) window: usize,
}

fn default_window() -> usize {
    DEDUPLICATE_WINDOW
}

impl Deduplicate {
    /// Checks it for a job that reads from `broker`, or from files.
    pub(crate) fn check(&self, broker: Option<&MqttConfig>) -> Result<(), ConfigError> {
        let wrong = |key: &str, value: &str, allowed: &str| {
            Err(within("deduplicate", ConfigError::new(key, value, allowed)))
        };
        match (&self.field, &self.property) {
            (Some(field), None) if field.is_empty() => wrong("field", "", "the name of a field"),
            (Some(_), None) => Ok(()),
            (None, Some(name)) if broker.is_none_or(|broker| !broker.has_user_properties()) => {
                wrong("property", name, "only with source.mqtt and version=5; otherwise `field`")
            }
            (None, Some(_)) => Ok(()),
            _ => wrong("field", "", "either `field` or `property`"),
        }?;
        if !(1..=WINDOW_MAX).contains(&self.window) {
            let allowed = format!("1 to {WINDOW_MAX} numbers");
            return wrong("window", &self.window.to_string(), &allowed);
        }
        Ok(())
    }
}
