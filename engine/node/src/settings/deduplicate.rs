//! `[deduplicate]`: where a publisher's number of a reading is found, and what is known of these numbers.

use thalweg_flow::{DEDUPLICATE_WINDOW, Numbers};
use thalweg_kernel::{ConfigError, options};

/// The largest window, in numbers. It takes 128 KiB for each key.
const WINDOW_MAX: u64 = 1 << 20;
/// The largest modulus.
const MODULUS_MAX: u64 = 1 << 48;

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
        #[absent = "`1024`, with a `modulus` at most half of it"]
        window: Option<usize>,
        /// The counter goes round: behind `modulus` - 1 comes 0. A counter of one byte has 256, of two bytes 65536.
        #[range(2, MODULUS_MAX)]
        #[example = "256"]
        modulus: Option<u64>,
        /// Whether a number that has come, in a reading later than all of its key, is that of a counter that began anew.
        /// Otherwise only one that is below the window is. A repetition arrives later than the first, so times of arrival do not tell.
        #[absent = "`true`, unless the time of a reading is that of its arrival"]
        restarts_by_time: Option<bool>,
    }
}

impl Deduplicate {
    /// Checks it for a job whose messages have user properties, or have none. Errors name keys of the section.
    pub(crate) fn check(&self, has_user_properties: bool) -> Result<(), ConfigError> {
        if let (Some(window), Some(modulus)) = (self.window, self.modulus)
            && window as u64 > modulus / 2
        {
            let allowed = format!(
                "1 to {}: with modulus = {modulus}, a number that is further behind may as well be ahead",
                modulus / 2
            );
            return Err(ConfigError::new("window", window, allowed));
        }
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

    /// Fits it to readings that carry their time, or get that of their arrival.
    pub(crate) fn fit(&mut self, has_times: bool) -> Result<(), ConfigError> {
        if self.restarts_by_time == Some(true) && !has_times {
            let allowed = "only false where the time of a reading is that of its arrival: a repetition arrives later, too";
            return Err(ConfigError::new("restarts_by_time", true, allowed));
        }
        self.restarts_by_time.get_or_insert(has_times);
        Ok(())
    }

    /// The number is that of a message which holds several readings under one key: all but the first would be repetitions.
    pub(crate) fn is_of_messages(&self) -> ConfigError {
        let allowed = "a number that each reading has: this one is of a message that holds several under one key. Otherwise a \
                       [fields] key with a part of each reading";
        let (key, from) = match (&self.field, &self.property) {
            (Some(field), _) => ("deduplicate.field", field.as_str()),
            (None, property) => ("deduplicate.property", property.as_deref().unwrap_or_default()),
        };
        ConfigError::new(key, from, allowed)
    }

    /// What is known of the numbers.
    pub(crate) fn numbers(&self) -> Numbers {
        let numbers = Numbers::new()
            .window(self.window.unwrap_or(DEDUPLICATE_WINDOW))
            .restarts_by_time(self.restarts_by_time.unwrap_or_default());
        match self.modulus {
            Some(modulus) => numbers.modulus(modulus),
            None => numbers,
        }
    }
}
