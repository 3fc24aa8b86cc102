//! What the scenarios share: a shard's part played by hand, a decoder and an encoder as small as
//! can be, and the mosquitto command-line clients.
#![allow(dead_code)]

pub(crate) mod hand;
pub(crate) mod peer;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use thalweg_kernel::format::EncodeError;
use thalweg_kernel::{
    Cause, ConnectorError, DeadLetter, Decode, DecodeError, Emit, Encode, Message, OpenContext,
    Origin, PartitionId, Shared, Sink, SinkSpec, Source, SourceSpec, SourceStatus, Timestamp,
};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttPartition, MqttSource};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn context() -> OpenContext {
    OpenContext {
        job: "test".into(),
        operator: "mqtt".into(),
        operator_id: 1,
        shard: 0,
        shards: 1,
        instances: 1,
        waker: Waker::from(Arc::new(Unpark(thread::current()))),
        tasks: None,
        latency_budget: std::time::Duration::ZERO,
        shared: Arc::new(Shared::default()),
        durability: thalweg_kernel::Durability::default(),
    }
}

/// One line: `topic payload`, then bindings, user properties and `retained` where there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line;

impl Decode for Line {
    type Item = String;

    fn decode(&mut self, message: &Message<'_>) -> Result<String, DecodeError> {
        let payload = str::from_utf8(message.payload).map_err(|error| {
            DecodeError::new(Cause::InvalidUtf8, "payload", Some(error.valid_up_to()))
        })?;
        let mut line = format!("{} {payload}", message.topic);
        for (name, value) in message.bindings {
            line += &format!(" {name}={value}");
        }
        for header in message.headers {
            let (name, value) = (&header.name, header.text()?);
            line += &format!(" {name}:{value}");
        }
        if message.retained {
            line += " retained";
        }
        Ok(line)
    }
}

/// The text itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text;

impl Encode<String> for Text {
    fn encode(&mut self, value: &String, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lines: Vec<String>,
    pub(crate) received: Vec<Timestamp>,
    pub(crate) dead: Vec<DeadLetter>,
}

impl Emit<String> for Seen {
    fn record(&mut self, value: String, received: Timestamp, _origin: &impl Origin) {
        self.lines.push(value);
        self.received.push(received);
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.dead.push(letter);
    }
}

/// A shard parks until it is woken. One that has slept this long was forgotten.
const SLEEP_MAX: Duration = Duration::from_secs(4);

/// Sleeps until woken or `end`; true if nobody woke us for [`SLEEP_MAX`].
fn oversleep(end: Option<Instant>) -> bool {
    let start = Instant::now();
    let left = end.map_or(SLEEP_MAX, |end| end.saturating_duration_since(start).min(SLEEP_MAX));
    thread::park_timeout(left);
    start.elapsed() >= SLEEP_MAX
}

/// A shard with nothing but a source.
pub(crate) struct Shard {
    pub(crate) source: MqttPartition<Line>,
    pub(crate) seen: Seen,
    pub(crate) records_max: usize,
}

impl Shard {
    pub(crate) fn open(spec: &MqttSource<Line>) -> Self {
        Self::open_in(spec, &context())
    }

    pub(crate) fn open_in(spec: &MqttSource<Line>, cx: &OpenContext) -> Self {
        let source = spec.open(&PartitionId::numbered(0), cx).expect("the source opens");
        Self { source, seen: Seen::default(), records_max: 64 }
    }

    /// Polls until `enough`, the source has ended, or patience has.
    pub(crate) fn run(
        &mut self,
        enough: impl FnMut(&Seen) -> bool,
    ) -> Result<SourceStatus, ConnectorError> {
        self.run_before(enough, None)
    }

    fn run_before(
        &mut self,
        mut enough: impl FnMut(&Seen) -> bool,
        end: Option<Instant>,
    ) -> Result<SourceStatus, ConnectorError> {
        let deadline = Instant::now() + PATIENCE;
        let mut overslept = false;
        loop {
            let before = self.seen.lines.len();
            let status =
                self.source.poll(Timestamp::default(), self.records_max, &mut self.seen)?;
            let progress = self.seen.lines.len() > before || status == SourceStatus::Ended;
            assert!(!(overslept && progress), "a lost wake-up");
            if status == SourceStatus::Ended
                || enough(&self.seen)
                || end.is_some_and(|end| Instant::now() >= end)
            {
                return Ok(status);
            }
            let count = self.seen.lines.len();
            assert!(Instant::now() < deadline, "patience ended with {count} records");
            overslept = status != SourceStatus::Ready && oversleep(end);
        }
    }

    pub(crate) fn run_until(&mut self, count: usize) {
        self.run(|seen| seen.lines.len() >= count).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Whatever comes within this time.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.run_before(|_| false, Some(end)).unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn stop(&mut self) {
        self.source.stop();
        let status = self.run(|_| false).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status, SourceStatus::Ended);
    }

    pub(crate) fn fail(&mut self) -> String {
        self.run(|_| false).expect_err("the source fails").to_string()
    }
}

/// Publishes with mosquitto's own client; one message per line.
pub(crate) fn publish(broker: &Mosquitto, topic: &str, qos: u8, lines: &str) {
    publish_with(broker, &["-t", topic, "-q", &qos.to_string(), "-l"], lines);
}

pub(crate) fn publish_with(broker: &Mosquitto, args: &[&str], lines: &str) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub");
    child.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("mosquitto_pub ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

/// Waits until the broker has logged this.
pub(crate) fn wait_for_log(broker: &Mosquitto, text: &str, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while broker.log().matches(text).count() < count {
        assert!(Instant::now() < deadline, "the broker never logged {text:?} {count} times");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is so; the connection's thread does it.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The source, with its subscription in force.
pub(crate) fn subscribed(broker: &Mosquitto, config: MqttConfig, filter: &str) -> Shard {
    let before = broker.log().matches("Sending SUBACK").count();
    let shard = Shard::open(&MqttSource::new(config, Line).topic(filter));
    wait_for_log(broker, "Sending SUBACK", before + 1);
    shard
}

/// A writer and what it takes to drive it.
pub(crate) struct Writer<W>(pub(crate) W);

impl<W: Sink<String>> Writer<W> {
    pub(crate) fn open<S: SinkSpec<String, Writer = W>>(spec: &S) -> Self {
        Self(spec.open(&context()).expect("the sink opens"))
    }

    pub(crate) fn write(&mut self, values: impl IntoIterator<Item = String>) {
        let deadline = Instant::now() + PATIENCE;
        for value in values {
            let mut overslept = false;
            while !self.0.ready().unwrap_or_else(|error| panic!("{error}")) {
                assert!(Instant::now() < deadline, "the sink never became ready");
                overslept = oversleep(None);
            }
            assert!(!overslept, "a lost wake-up");
            self.0.write(Timestamp::default(), value).expect("write");
        }
        self.0.flush().expect("flush");
    }

    pub(crate) fn close_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut overslept = false;
        while !self.0.close().unwrap_or_else(|error| panic!("{error}")) {
            if Instant::now() >= end {
                return false;
            }
            overslept = oversleep(Some(end));
        }
        assert!(!overslept, "a lost wake-up");
        true
    }
}
