//! `[fields]`: where in a payload the fields of a reading lie, and how payloads are written. The page `docs/payloads.md`
//! shows what devices send.

use thalweg_format::Shape;
use thalweg_format::shape::{Path, Payload, ShapeError, TimeUnit};
use thalweg_kernel::{ConfigError, options};

options! {
    /// Where the fields of a reading are found.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Fields {
        /// How payloads are written: `json`, `text`, `senml` or `influx`.
        pub(crate) format: Payload = Payload::Json,
        /// What results are grouped by: a path, or a text with paths in braces.
        #[absent = "device"]
        #[example = "{site}/{device}"]
        pub(crate) key: Option<String>,
        /// The path of what is averaged: a number.
        #[absent = "value"]
        #[example = "ENERGY.Power"]
        pub(crate) value: Option<String>,
        /// Several instead of one: each has results of its own, under the key `KEY/NAME`.
        #[absent = "none"]
        #[example = "[\"AM2301.Temperature\", \"hum = AM2301.Humidity\"]"]
        pub(crate) values: Option<Vec<String>>,
        /// The path of the event time, or `arrival`.
        #[absent = "ts"]
        pub(crate) time: Option<String>,
        /// What a time counts that is a number: `s`, `ms`, `us`, `ns`, or `auto`, which goes by its size.
        #[absent = "ms"]
        pub(crate) time_unit: Option<TimeUnit>,
        /// The zone of a time as text that names none: an offset, or a name such as `Europe/Berlin`.
        #[example = "Europe/Berlin"]
        pub(crate) time_zone: String = "UTC".into(),
        /// A reading without a time has that of its arrival, and is no dead letter.
        pub(crate) or_arrival: bool = false,
        /// What may stand behind a number.
        #[absent = "none"]
        #[example = "[\"°C\", \"%\"]"]
        pub(crate) units: Option<Vec<String>>,
        /// Texts such as ON and OFF are the numbers 1 and 0.
        pub(crate) on_off: bool = false,
        /// A message without a value is left out, and is no dead letter.
        pub(crate) skip_missing: bool = false,
    }
}

impl Fields {
    fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(match self.format {
            Payload::Senml => "n",
            Payload::Json | Payload::Text | Payload::Influx => "device",
        })
    }

    fn value(&self) -> &str {
        self.value.as_deref().unwrap_or(match self.format {
            Payload::Text => "$",
            Payload::Senml => "v",
            Payload::Json | Payload::Influx => "value",
        })
    }

    fn time(&self) -> &str {
        self.time.as_deref().unwrap_or(match self.format {
            Payload::Json => "ts",
            Payload::Text => "arrival",
            Payload::Senml => "t",
            Payload::Influx => "_time",
        })
    }

    /// Whether all readings carry their time.
    pub(crate) fn has_times(&self) -> bool {
        self.time() != "arrival" && !self.or_arrival
    }

    /// The shape of payloads: the fields `key`, `time` and, where `number` says where it is found, `number`. Behind them come
    /// `value`, or `measurement` and `value`.
    ///
    /// # Errors
    /// Names the key of the section that will not do.
    pub(crate) fn shape(&self, number: Option<&str>) -> Result<Shape, ConfigError> {
        let blame = |key: &'static str| {
            move |error: ShapeError| ConfigError::new(key, error.from, error.allowed)
        };
        if let (Some(value), Some(_)) = (&self.value, &self.values) {
            return Err(ConfigError::new("value", value, "either `value` or `values`"));
        }
        if self.values.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::new("values", "[]", "at least one path"));
        }
        let mut shape = Shape::new(self.format)
            .units(self.units.iter().flatten().map(String::as_str))
            .on_off(self.on_off)
            .skips_missing(self.skip_missing)
            .or_arrival(self.or_arrival)
            .zone(&self.time_zone)
            .map_err(blame("time_zone"))?;
        if let Some(unit) = self.time_unit {
            shape = shape.unit(unit);
        }
        shape = shape.text("key", self.key()).map_err(blame("key"))?;
        shape = shape.time("time", self.time()).map_err(blame("time"))?;
        if let Some(number) = number {
            shape = shape.whole("number", number).map_err(blame("deduplicate.field"))?;
        }
        match &self.values {
            Some(values) => shape
                .measurements("measurement", "value", values.iter().map(String::as_str))
                .map_err(blame("values")),
            None => shape.number("value", self.value()).map_err(blame("value")),
        }
    }

    /// The names of key, value and time, and that of the number. None if payloads are no flat objects, which can be read without
    /// a detour.
    pub(crate) fn flat_names(&self, number: Option<&str>) -> Option<([String; 3], Option<String>)> {
        let name = |text: &str| {
            let is_path = !text.starts_with('=') && !text.contains('{');
            let path: Path = text.parse().ok().filter(|_| is_path)?;
            path.as_key().map(str::to_owned)
        };
        let is_plain = self.format == Payload::Json
            && self.values.is_none()
            && !matches!(self.time_unit, Some(unit) if unit != TimeUnit::Milliseconds)
            && self.has_times();
        let names = [name(self.key())?, name(self.value())?, name(self.time())?];
        let number = match number {
            Some(number) => Some(name(number)?),
            None => None,
        };
        let all: Vec<_> = names.iter().chain(&number).collect();
        let differ = all.iter().enumerate().all(|(place, one)| !all[..place].contains(one));
        (is_plain && differ).then_some((names, number))
    }
}
