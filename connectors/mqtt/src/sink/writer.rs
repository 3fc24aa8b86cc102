//! A sink on one shard encodes results. It hands them to the connection at once or, in a job with checkpoints,
//! when their epoch exists.
//!
//! Of a changelog's update whose topic stays only the second half is published. Without an outbox the first one may
//! have gone before the second comes: then the topic is empty for a moment.

use std::sync::Arc;
use std::time::Duration;

use thalweg_io::Work;
use thalweg_kernel::{
    ConnectorError, DeadLetter, Epoch, OpenContext, Pending, RowKind, Sink, Timestamp,
};

use crate::config::MqttConfig;
use crate::metrics::{DropReason, dropped};
use crate::sink::batches::{Port, ResultBatch};
use crate::sink::drops::Drops;
use crate::sink::outbox::{Filled, ID_BYTES_MAX, Outbox};
use crate::sink::publication::Publication;
use crate::sink::shared::Common;
use crate::topic::check_topic;

/// The bytes of an MQTT 5 PUBLISH besides topic and payload, at most: header, lengths, packet id,
/// no properties.
pub(crate) const PACKET_OVERHEAD_BYTES: usize = 1 + 4 + 2 + 2 + 1;

/// How long a sink that is closed waits for the work of its connection.
const CLOSE_MS_MAX: u64 = 1_000;

/// A shard's end of the sink's connection.
pub(crate) struct Connection {
    pub(crate) to_io: flume::Sender<Box<ResultBatch>>,
    pub(crate) common: Arc<Common>,
    /// The work of the connection, if it is this shard's.
    pub(crate) work: Option<Work>,
}

/// An open [`MqttSink`](crate::MqttSink) on one shard.
pub struct MqttWriter<P> {
    name: String,
    publication: P,
    packet_bytes_max: usize,
    buffer: String,
    batch: Option<Box<ResultBatch>>,
    /// The last result of the open batch is an update-before.
    before: bool,
    /// The outbox, where results wait for their epoch.
    outbox: Option<Outbox>,
    empty: flume::Receiver<Box<ResultBatch>>,
    port: Arc<Port>,
    written: u64,
    closed: bool,
    invalid: Drops,
    too_large: Drops,
    empty_row: Drops,
    to_io: flume::Sender<Box<ResultBatch>>,
    common: Arc<Common>,
    /// That of the connection, if it is this shard's.
    work: Option<Work>,
}

impl<P> MqttWriter<P> {
    /// The writer of a shard, which joins the others of the sink.
    pub(crate) fn new(
        cx: &OpenContext,
        config: &MqttConfig,
        publication: P,
        outbox: Option<Outbox>,
        connection: Connection,
    ) -> Self {
        let Connection { to_io, common, work } = connection;
        common.join(&cx.waker, outbox.iter().flat_map(Outbox::epochs));
        let (port, empty) = Port::open(&cx.waker);
        Self {
            name: config.to_string(),
            publication,
            packet_bytes_max: config.packet_bytes_max as usize,
            buffer: String::new(),
            batch: None,
            before: false,
            outbox,
            empty,
            port,
            written: 0,
            closed: false,
            invalid: Drops::new(dropped(cx, DropReason::Topic)),
            too_large: Drops::new(dropped(cx, DropReason::TooLarge)),
            empty_row: Drops::new(dropped(cx, DropReason::Empty)),
            to_io,
            common,
            work,
        }
    }

    fn check_failure(&self) -> Result<(), ConnectorError> {
        match self.common.failure() {
            None => Ok(()),
            Some(mut what) => {
                let waiting = self.outbox.as_ref().map_or(0, Outbox::waiting);
                if waiting > 0 {
                    what += &format!(". {waiting} more wait in the outbox of this shard");
                }
                Err(ConnectorError::new(&self.name, what))
            }
        }
    }

    fn send(&mut self) {
        self.before = false;
        if let Some(mut batch) = self.batch.take_if(|batch| !batch.results.ends.is_empty()) {
            batch.port = Some(Arc::clone(&self.port));
            match self.to_io.try_send(batch) {
                // The queue holds all batches there are, unless `ready` was not asked.
                Err(flume::TrySendError::Full(batch)) => self.batch = Some(batch),
                // The thread has gone, and has told why.
                Err(flume::TrySendError::Disconnected(_)) | Ok(()) => {}
            }
            self.common.signal.raise();
        }
    }

    /// Publishes what may be published from the outbox, as far as there are batches.
    fn publish_outbox(&mut self) {
        let Some(outbox) = &mut self.outbox else { return };
        outbox.arrive(self.port.arrived());
        let mut published = false;
        while let Some(mut batch) = self.batch.take().or_else(|| self.empty.try_recv().ok()) {
            let filled = outbox.fill(&mut batch.results, self.common.upto());
            let Some(Filled { ids, is_left, left }) = filled else {
                self.batch = Some(batch);
                break;
            };
            batch.ids = Some(ids);
            batch.unchecked = is_left;
            batch.port = Some(Arc::clone(&self.port));
            self.written += batch.results.ends.len() as u64;
            published = true;
            if let Err(flume::TrySendError::Full(_)) = self.to_io.try_send(batch) {
                debug_assert!(false, "the queue holds all batches there are");
            }
            if let Some(epoch) = left {
                self.common.sent(epoch);
            }
        }
        if published {
            self.common.signal.raise();
        }
    }
}

impl<T, P: Publication<T>> Sink<T> for MqttWriter<P> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.check_failure()?;
        self.publish_outbox();
        if let Some(outbox) = &self.outbox {
            return Ok(outbox.has_room());
        }
        if self.batch.as_ref().is_some_and(|batch| batch.results.is_full()) {
            self.send();
        }
        if self.batch.is_none() {
            self.batch = self.empty.try_recv().ok();
        }
        Ok(self.batch.is_some())
    }

    fn awaits_epoch(&self) -> bool {
        self.outbox.is_some()
    }

    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        let direct = self.outbox.is_none();
        let (batch, id_bytes) = match &mut self.outbox {
            Some(outbox) => (&mut outbox.open, ID_BYTES_MAX),
            // Written to without asking `ready`: take the batch that must be made.
            None => {
                let batch = self.batch.get_or_insert_default();
                (&mut batch.results, 0)
            }
        };
        self.buffer.clear();
        self.publication.topic(&value, &mut self.buffer);
        if let Err(why) = check_topic(&self.buffer) {
            let mut payload = Vec::new();
            // Where that cannot be expressed, there is none.
            let _ = self.publication.payload(&value, &mut payload);
            self.invalid.drop(&self.name, &self.port, &self.buffer, &payload, &why);
            return Ok(());
        }
        let kind = self.publication.kind(&value);
        if std::mem::take(&mut self.before)
            && kind.puts()
            && batch.last_topic() == self.buffer.as_bytes()
        {
            batch.pop();
            self.written -= u64::from(direct);
        }
        let before = batch.bytes.len();
        batch.bytes.extend_from_slice(self.buffer.as_bytes());
        let topic_end = batch.bytes.len();
        if kind.puts() {
            self.publication.payload(&value, &mut batch.bytes).map_err(|cause| {
                ConnectorError::new(&self.name, "cannot encode a result").caused_by(cause)
            })?;
            if P::KEEPS_ROWS && batch.bytes.len() == topic_end {
                batch.bytes.truncate(before);
                let why = "its payload is empty, which would take the row of its topic away";
                self.empty_row.drop(&self.name, &self.port, &self.buffer, b"", why);
                return Ok(());
            }
        }
        let packet = batch.bytes.len() - before + PACKET_OVERHEAD_BYTES + id_bytes;
        if packet > self.packet_bytes_max {
            let why = format!(
                "its packet has {packet} bytes, over packet_bytes_max={}",
                self.packet_bytes_max
            );
            let payload = &batch.bytes[topic_end..];
            self.too_large.drop(&self.name, &self.port, &self.buffer, payload, &why);
            batch.bytes.truncate(before);
            return Ok(());
        }
        batch.ends.push((topic_end, batch.bytes.len()));
        self.before = kind == RowKind::UpdateBefore;
        self.written += u64::from(direct);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.outbox.is_none() {
            self.send();
        }
        self.check_failure()
    }

    fn refused(&mut self) -> Option<DeadLetter> {
        self.port.refused.pop()
    }

    fn has_news(&self) -> bool {
        self.outbox.as_ref().is_some_and(Outbox::has_arrived)
    }

    fn seal(&mut self, _epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        self.publish_outbox();
        self.before = false;
        if let Some(outbox) = &mut self.outbox {
            outbox.seal(pending);
        }
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        if let Some(outbox) = &mut self.outbox {
            outbox.commit(epoch);
        }
        self.publish_outbox();
        self.check_failure()
    }

    fn stop(&mut self) {
        self.common.stop();
    }

    fn settled(&mut self) -> Result<bool, ConnectorError> {
        self.publish_outbox();
        self.check_failure()?;
        let is_out = self.outbox.as_ref().is_none_or(Outbox::is_done);
        Ok(is_out && self.port.arrived() >= self.written)
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.common.close_begins();
        match &self.outbox {
            None => self.send(),
            Some(_) => self.publish_outbox(),
        }
        self.check_failure()?;
        if self.outbox.as_ref().is_some_and(|outbox| !outbox.is_done())
            || self.port.arrived() < self.written
        {
            return Ok(false);
        }
        if !self.closed {
            self.closed = true;
            self.common.close_one();
        }
        // The shard of the connection sees it off; the others need not wait for it.
        Ok(self.work.is_none() || self.common.is_finished())
    }
}

impl<P> Drop for MqttWriter<P> {
    fn drop(&mut self) {
        if !self.closed {
            self.common.signal.abandon();
        }
        if let Some(work) = &self.work {
            // One that is slow to end ends without us.
            let _ended = work.finish(Duration::from_millis(CLOSE_MS_MAX));
        }
    }
}
