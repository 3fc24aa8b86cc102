//! The ends of streams: sinks as terminals of pipelines.

pub(crate) mod collected;

use thalweg_kernel::{Collector, ConnectorError, Mark, Sink, Timestamp};

use crate::counters::Counter;
use crate::pipeline::Terminal;

/// A connector's sink at the end of a pipeline.
pub(crate) struct SinkTerminal<W> {
    writer: W,
    records_in: Counter,
    written: usize,
    /// A failed write; reported by the flush that follows.
    failed: Option<ConnectorError>,
}

impl<W> SinkTerminal<W> {
    pub(crate) fn new(writer: W, records_in: Counter) -> Self {
        Self { writer, records_in, written: 0, failed: None }
    }
}

impl<T, W: Sink<T>> Collector<T> for SinkTerminal<W> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        if self.failed.is_some() {
            return;
        }
        match self.writer.write(time, value) {
            Ok(()) => self.written += 1,
            Err(error) => self.failed = Some(error),
        }
    }

    fn mark(&mut self, _mark: Mark) {}
}

impl<T, W: Sink<T> + 'static> Terminal<T> for SinkTerminal<W> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.writer.ready()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.written > 0 {
            self.records_in.add(std::mem::take(&mut self.written));
            self.writer.flush()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        self.writer.close()
    }
}

/// The end of a stream that is run for its effects.
pub(crate) struct Discard {
    records_in: Counter,
}

impl Discard {
    pub(crate) fn new(records_in: Counter) -> Self {
        Self { records_in }
    }
}

impl<T> Collector<T> for Discard {
    #[inline]
    fn record(&mut self, _time: Timestamp, _value: T) {
        self.records_in.add(1);
    }

    fn mark(&mut self, _mark: Mark) {}
}

impl<T: 'static> Terminal<T> for Discard {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}
