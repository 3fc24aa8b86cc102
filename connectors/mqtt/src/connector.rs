//! What MQTT is as a connector: its description, its options beside those of the broker, and how they become a source
//! or a sink.

use std::time::Duration;

use thalweg_kernel::connector::{
    Connector, Decoder, Encoder, Format, Guarantee, Metadata, Side, SinkConnector, SourceConnector,
};
use thalweg_kernel::options::{Options, Secret, Table};
use thalweg_kernel::{Column, ConfigError, Record, choices, options};

use crate::config::{MqttConfig, expand};
use crate::sink::{MqttSink, OUTBOX_BYTES_MAX, STOP_TIMEOUT, Topic};
use crate::source::{MqttSource, Retained};
use crate::topic::{TOPIC_BYTES_MAX, check_char};

/// What it is.
pub static CONNECTOR: Connector = Connector {
    name: "mqtt",
    about: "Messages of an MQTT broker, 3.1.1 and 5.",
    source: Some(
        Side::new::<(MqttConfig, MqttSourceOptions)>(&[
            (Guarantee::ExactlyOnce, "with QoS 2 and a `client_id`, in a job with a state directory; with QoS 1 with the exceptions that README names"),
            (Guarantee::AtLeastOnce, "with QoS 1 or 2 and a `client_id`, with `durability = \"ack_on_checkpoint\"`"),
            (Guarantee::AtMostOnce, "otherwise"),
        ])
        .with_metadata(&[Metadata {
            name: "{level}",
            doc: "A level of the topic that the filter names in braces: `sensors/{device}/temp` gives `device`.",
        }]),
    ),
    sink: Some(Side::new::<(MqttConfig, MqttSinkOptions)>(&[
        (Guarantee::ExactlyOnce, "in a job with a state directory, for a subscriber that keeps the ids (`thalweg-id`) of recent results"),
        (Guarantee::AtLeastOnce, "with QoS 1 or 2 otherwise, and with `at_least_once`"),
        (Guarantee::AtMostOnce, "with QoS 0"),
    ])),
};

/// The connector, for a registry.
#[derive(Debug)]
pub struct MqttConnector(());

choices! { Retained: "skip" => Retained::Skip, "deliver" => Retained::Deliver }

options! {
    /// What a source is told beside where its broker is.
    #[derive(Clone, Debug)]
    pub struct MqttSourceOptions {
        /// The broker as a URL, whose parts and parameters are the other options.
        #[absent = "`host` names the broker"]
        #[example = "mqtt://127.0.0.1:1883?client_id=gateway-7"]
        url: Option<Secret>,
        /// Topic filters. A level in braces becomes a field of the record, before one of the payload.
        #[example = "[\"sensors/{device}/temp\"]"]
        topics: Vec<String>,
        /// What is done with retained messages, the broker's snapshot that comes with subscribing.
        retained: Retained = Retained::default(),
        /// Whether a message of QoS 1 that the broker sends again, since it had no acknowledgement, counts once. See the
        /// guarantees in README.
        recognise_repeats: bool = true,
    }
}

options! {
    /// What a sink is told beside where its broker is.
    #[derive(Clone, Debug)]
    pub struct MqttSinkOptions {
        /// The broker as a URL, whose parts and parameters are the other options.
        #[absent = "`host` names the broker"]
        #[example = "mqtt://127.0.0.1:1883"]
        url: Option<Secret>,
        /// The topic. The name of a column in braces stands for its value.
        #[example = "averages/{key}"]
        topic: String,
        /// Whether the broker keeps the last result of each topic for later subscribers.
        retain: bool = false,
        /// Whether results are published at once, also in a job with a state directory.
        at_least_once: bool = false,
        /// Results that wait for their epoch or for the broker take at most about this much on a shard.
        #[unit = "bytes"]
        #[range(1_024, u64::MAX)]
        outbox_bytes_max: usize = OUTBOX_BYTES_MAX,
        /// How long the broker may acknowledge nothing once the job is to end, while results are under way; ten times this in
        /// all. Then it ends with an error that counts them. A job with a state directory keeps them for its next start.
        #[range(0, 86_400_000)]
        stop_timeout: Duration = STOP_TIMEOUT,
    }
}

impl SourceConnector for MqttConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = (MqttConfig, MqttSourceOptions);
    type Source<D: Decoder> = MqttSource<D>;

    fn options(table: &Table) -> Result<Self::Options, ConfigError> {
        Options::read(&expand(table)?)
    }

    fn source<D: Decoder>(
        (broker, options): Self::Options,
        decoder: D,
    ) -> Result<MqttSource<D>, ConfigError> {
        let source = MqttSource::new(broker, decoder)
            .retained(options.retained)
            .recognise_repeats(options.recognise_repeats);
        let source = options.topics.into_iter().fold(source, MqttSource::topic);
        source.check().map_err(|error| match &*error.key {
            "topic" => ConfigError { key: "topics".into(), ..error },
            _ => error,
        })?;
        Ok(source)
    }

    fn has_user_properties((broker, _): &Self::Options) -> bool {
        broker.has_user_properties()
    }
}

impl SinkConnector for MqttConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = (MqttConfig, MqttSinkOptions);
    type Sink<T: Record, E: Encoder<T>> = MqttSink<E, TopicOfColumns>;

    fn options(table: &Table) -> Result<Self::Options, ConfigError> {
        Options::read(&expand(table)?)
    }

    fn sink<T: Record, E: Encoder<T>>(
        (broker, options): Self::Options,
        columns: &[Column],
    ) -> Result<MqttSink<E, TopicOfColumns>, ConfigError> {
        broker.check()?;
        let topic = TopicOfColumns::new(&options.topic, columns)?;
        let sink = MqttSink::new(broker, topic, E::of(Format::Json))
            .retain(options.retain)
            .outbox_bytes_max(options.outbox_bytes_max)
            .stop_timeout(options.stop_timeout);
        Ok(if options.at_least_once { sink.at_least_once() } else { sink })
    }
}

/// A topic in which columns of the record stand: `averages/{key}`.
#[derive(Clone, Debug)]
pub struct TopicOfColumns {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The value of the column at this place.
    Column(usize),
}

impl TopicOfColumns {
    /// A topic for records with these columns. One that would refuse every record is a mistake; one that some values
    /// make impossible is not.
    ///
    /// # Errors
    /// If it is no topic, or names a column that is not there.
    pub fn new(text: &str, columns: &[Column]) -> Result<Self, ConfigError> {
        let wrong = || {
            let names: Vec<_> =
                columns.iter().map(|column| format!("{{{}}}", column.name)).collect();
            let allowed = format!(
                "1 to {TOPIC_BYTES_MAX} bytes without wildcards; {} stand for the record's values",
                names.join(", ")
            );
            ConfigError::new("topic", text, allowed)
        };
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or_else(wrong)?;
            let place = columns.iter().position(|column| column.name == name).ok_or_else(wrong)?;
            parts.extend([Part::Text(before.to_owned()), Part::Column(place)]);
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        let plain = |part: &Part| match part {
            Part::Text(text) => {
                !text.contains(['+', '#', '}']) && text.chars().all(|it| check_char(it).is_ok())
            }
            Part::Column(_) => true,
        };
        if parts.is_empty() || text.len() > TOPIC_BYTES_MAX || !parts.iter().all(plain) {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl<T: Record> Topic<T> for TopicOfColumns {
    fn write(&self, value: &T, out: &mut String) {
        use std::fmt::Write;

        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Column(place) => {
                    let _infallible = write!(out, "{}", value.field(*place));
                }
            }
        }
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::options::{Origin, Raw, Value};
    use thalweg_kernel::{Field, FieldKind, Str};

    use super::*;

    #[derive(serde::Serialize)]
    struct Row(Str, u64);

    impl Record for Row {
        fn field(&self, place: usize) -> Field<'_> {
            match place {
                0 => Field::Text(&self.0),
                1 => Field::Unsigned(self.1),
                _ => Field::Null,
            }
        }
    }

    fn columns() -> Vec<Column> {
        let column =
            |name: &str, kind| Column { name: name.into(), column: name.into(), kind, key: false };
        vec![column("key", FieldKind::Text), column("count", FieldKind::Unsigned)]
    }

    #[test]
    fn columns_stand_in_a_topic() {
        for (text, expected) in [("a", "a"), ("{key}", "d/1"), ("x/{key}/{count}/y", "x/d/1/7/y")] {
            let topic = TopicOfColumns::new(text, &columns()).unwrap();
            let mut out = String::new();
            topic.write(&Row("d/1".into(), 7), &mut out);
            assert_eq!((&*out, Topic::<Row>::describe(&topic)), (expected, text.to_owned()));
        }
        for text in
            ["", "a/#", "+", "a/\u{7}", "a/{kee}", "a/{key", "a/key}", "\0", &"x".repeat(65_536)]
        {
            let error = TopicOfColumns::new(text, &columns()).unwrap_err().to_string();
            assert!(error.contains("without wildcards; {key}, {count} stand for"), "{error}");
        }
    }

    fn table(pairs: &[(&'static str, &str)]) -> Table {
        let pairs = pairs.iter().map(|(key, text)| (*key, (*text).to_owned()));
        Table::of_pairs("source.mqtt", &Origin::Variable("V".into()), pairs).unwrap()
    }

    #[test]
    fn a_url_and_keys_are_the_same_options() {
        let read = |pairs: &[(&'static str, &str)]| MqttConnector::source_options(&table(pairs));
        let (one, _) =
            read(&[("url", "mqtt://h:1?qos=2"), ("client_id", "g"), ("topics", "a;b")]).unwrap();
        let (other, options) = read(&[
            ("host", "h"),
            ("port", "1"),
            ("qos", "2"),
            ("client_id", "g"),
            ("topics", "a;b"),
        ])
        .unwrap();
        assert_eq!((one, options.topics.len()), (other, 2));
        for (pairs, expected) in [
            (
                vec![("url", "mqtt://h?qos=2"), ("qos", "1")],
                "variable V: source.mqtt.qos is given twice",
            ),
            (
                vec![("url", "h")],
                "variable V: source.mqtt.url = \"h\" is not allowed; allowed: mqtt://host[:port]",
            ),
            (
                vec![("url", "mqtt://h?quos=2")],
                "source.mqtt.quos is not known; known: host, port, ",
            ),
            (vec![("url", "mqtt://u:hunter2@h/x")], "source.mqtt.url = \"mqtt://***@h/x\""),
            (vec![("url", "mqtt://h")], "source.mqtt.topics is missing; needed: a list"),
        ] {
            let error = read(&pairs).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        let list = Value { raw: Raw::List(Vec::new()), origin: Origin::Here };
        let mut table = Table::default();
        table.insert("url", list).unwrap();
        assert!(MqttConnector::source_options(&table).is_err());
    }

    impl MqttConnector {
        fn source_options(table: &Table) -> Result<(MqttConfig, MqttSourceOptions), ConfigError> {
            <Self as SourceConnector>::options(table)
        }
    }
}
