//! A sink on one shard: encodes results, and hands them to the I/O thread at once or, in a job with checkpoints,
//! when their epoch exists.

use std::sync::Arc;

use thalweg_kernel::{ConnectorError, Encode, Epoch, OpenContext, Pending, Sink, Timestamp};

use crate::config::MqttConfig;
use crate::held::{Held, ID_BYTES_MAX};
use crate::loads::{Load, Port};
use crate::meters::{Drop as Reason, dropped};
use crate::office::{Common, Office};
use crate::sink::Topic;
use crate::tally::Tally;
use crate::topic::check_topic;

/// The bytes of an MQTT 5 PUBLISH besides topic and payload, at most: header, lengths, packet id,
/// no properties.
pub(crate) const PACKET_OVERHEAD_BYTES: usize = 1 + 4 + 2 + 2 + 1;

/// An open [`MqttSink`](crate::MqttSink) on one shard.
pub struct MqttWriter<E, F> {
    name: String,
    topic: F,
    encoder: E,
    packet_bytes_max: usize,
    buffer: String,
    load: Option<Box<Load>>,
    /// The outbox, where results wait for their epoch.
    held: Option<Held>,
    empty: flume::Receiver<Box<Load>>,
    port: Arc<Port>,
    written: u64,
    closed: bool,
    invalid: Tally,
    too_large: Tally,
    to_io: flume::Sender<Box<Load>>,
    common: Arc<Common>,
}

impl<E, F> MqttWriter<E, F> {
    /// The writer of a shard, which joins the others in the office.
    pub(crate) fn new(
        cx: &OpenContext,
        config: &MqttConfig,
        (topic, encoder): (F, E),
        held: Option<Held>,
        office: &Office,
    ) -> Self {
        office.common.join(&cx.waker);
        let (port, empty) = Port::open(&cx.waker);
        Self {
            name: config.to_string(),
            topic,
            encoder,
            packet_bytes_max: config.packet_bytes_max as usize,
            buffer: String::new(),
            load: None,
            held,
            empty,
            port,
            written: 0,
            closed: false,
            invalid: Tally::new(dropped(cx, Reason::Topic)),
            too_large: Tally::new(dropped(cx, Reason::TooLarge)),
            to_io: office.to_io.clone(),
            common: Arc::clone(&office.common),
        }
    }

    fn check_failure(&self) -> Result<(), ConnectorError> {
        match self.common.failure() {
            None => Ok(()),
            Some(what) => Err(ConnectorError::new(&self.name, what)),
        }
    }

    fn send(&mut self) {
        if let Some(load) = self.load.take_if(|load| !load.results.ends.is_empty()) {
            match self.to_io.try_send(load) {
                // The queue holds all loads there are, unless `ready` was not asked.
                Err(flume::TrySendError::Full(load)) => self.load = Some(load),
                // The thread has gone, and has told why.
                Err(flume::TrySendError::Disconnected(_)) | Ok(()) => {}
            }
            self.common.bell.ring();
        }
    }

    /// Publishes what may be published from the outbox, as far as there are loads.
    fn publish_held(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.arrive(self.port.arrived());
        let mut published = false;
        while let Some(mut load) = self.load.take().or_else(|| self.empty.try_recv().ok()) {
            let Some(ids) = held.fill(&mut load.results) else {
                self.load = Some(load);
                break;
            };
            load.ids = Some(ids);
            self.written += load.results.ends.len() as u64;
            published = true;
            if let Err(flume::TrySendError::Full(_)) = self.to_io.try_send(load) {
                debug_assert!(false, "the queue holds all loads there are");
            }
        }
        if published {
            self.common.bell.ring();
        }
    }
}

impl<T, E: Encode<T>, F: Topic<T>> Sink<T> for MqttWriter<E, F> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.check_failure()?;
        self.publish_held();
        if let Some(held) = &self.held {
            return Ok(held.has_room());
        }
        if self.load.as_ref().is_some_and(|load| load.results.is_full()) {
            self.send();
        }
        if self.load.is_none() {
            self.load = self.empty.try_recv().ok();
        }
        Ok(self.load.is_some())
    }

    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        let (load, id_bytes) = match &mut self.held {
            Some(held) => (&mut held.open, ID_BYTES_MAX),
            // Written to without asking `ready`: take the load that must be made.
            None => {
                let load = self.load.get_or_insert_with(|| Box::new(Load::new(&self.port)));
                (&mut load.results, 0)
            }
        };
        self.buffer.clear();
        self.topic.write(&value, &mut self.buffer);
        if let Err(why) = check_topic(&self.buffer) {
            self.invalid.drop(&self.name, &self.buffer, why);
            return Ok(());
        }
        let before = load.bytes.len();
        load.bytes.extend_from_slice(self.buffer.as_bytes());
        let topic_end = load.bytes.len();
        self.encoder.encode(&value, &mut load.bytes).map_err(|cause| {
            ConnectorError::new(&self.name, "cannot encode a result").caused_by(cause)
        })?;
        let packet = load.bytes.len() - before + PACKET_OVERHEAD_BYTES + id_bytes;
        if packet > self.packet_bytes_max {
            load.bytes.truncate(before);
            let why = format!(
                "its packet has {packet} bytes, over packet_bytes_max={}",
                self.packet_bytes_max
            );
            self.too_large.drop(&self.name, &self.buffer, &why);
            return Ok(());
        }
        load.ends.push((topic_end, load.bytes.len()));
        self.written += u64::from(self.held.is_none());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.held.is_none() {
            self.send();
        }
        self.check_failure()
    }

    fn seal(&mut self, _epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.publish_held();
        if let Some(held) = &mut self.held {
            held.seal(pending);
        }
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        if let Some(held) = &mut self.held {
            held.commit(epoch);
        }
        self.publish_held();
        self.check_failure()
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        match &self.held {
            None => self.send(),
            Some(_) => self.publish_held(),
        }
        self.check_failure()?;
        if self.held.as_ref().is_some_and(|held| !held.is_done())
            || self.port.arrived() < self.written
        {
            return Ok(false);
        }
        if !self.closed {
            self.closed = true;
            self.common.close_one();
        }
        // The last shard to close sees the connection off; the others need not wait for it.
        Ok(!self.common.all_closed() || self.common.is_finished())
    }
}

impl<E, F> Drop for MqttWriter<E, F> {
    fn drop(&mut self) {
        if !self.closed {
            self.common.bell.abandon();
        }
    }
}
