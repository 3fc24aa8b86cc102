//! `[deduplicate]`: where a publisher's number of a reading is found, and how many of them are remembered.

use thalweg_flow::DEDUPLICATE_WINDOW;
use thalweg_kernel::{ConfigError, options};

/// The largest window, in numbers. It takes 128 KiB for each key.
const WINDOW_MAX: u64 = 1 << 20;

options! {
    /// How repetitions are told from news.
    #[derive(Clone, Debug)]
    pub(crate) struct Deduplicate {
        /// The field of the payload that holds the number.
        pub(crate) field: Option<String>,
        /// The MQTT 5 user property that does.
        pub(crate) property: Option<String>,
        /// How many numbers below a key's highest are remembered.
        #[unit = "numbers"]
        #[range(1, WINDOW_MAX)]
        pub(crate) window: usize = DEDUPLICATE_WINDOW,
    }
}

impl Deduplicate {
    /// Checks it for a job whose messages have user properties, or have none. Errors name keys of the section.
    pub(crate) fn check(&self, has_user_properties: bool) -> Result<(), ConfigError> {
        match (&self.field, &self.property) {
            (Some(field), None) if field.is_empty() => {
                Err(ConfigError::new("field", "", "the name of a field"))
            }
            (None, Some(name)) if !has_user_properties => {
                let allowed = "only with source.mqtt and version=5; otherwise `field`";
                Err(ConfigError::new("property", name, allowed))
            }
            (Some(_), None) | (None, Some(_)) => Ok(()),
            (Some(field), Some(_)) => {
                Err(ConfigError::new("field", field, "either `field` or `property`"))
            }
            (None, None) => Err(ConfigError::missing("field", "either `field` or `property`")),
        }
    }
}
