//! A sink that counts records and forgets them: for measuring what stands in front of it, and as the smallest example
//! of a connector.
//!
//! Each shard counts for itself and adds its count to the common one after each batch, so a record costs an addition.
//! The sink promises nothing to a reader: there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thalweg_kernel::connector::{Connector, Encoder, Guarantee, Side, SinkConnector};
use thalweg_kernel::{
    Column, ConfigError, ConnectorError, OpenContext, Record, Sink, SinkSpec, Timestamp,
};

/// What it is.
pub static CONNECTOR: Connector = Connector {
    name: "blackhole",
    about: "Counts records and forgets them.",
    source: None,
    sink: Some(Side::new::<()>(&[(Guarantee::ExactlyOnce, "always: nothing can be seen")])),
};

/// The connector, for a registry.
#[derive(Debug)]
pub struct BlackholeConnector(());

impl SinkConnector for BlackholeConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = ();
    type Sink<T: Record, E: Encoder<T>> = BlackholeSink;

    fn sink<T: Record, E: Encoder<T>>((): (), _: &[Column]) -> Result<BlackholeSink, ConfigError> {
        Ok(BlackholeSink::new())
    }
}

/// Counts records and forgets them.
///
/// ```
/// # use thalweg_blackhole::BlackholeSink;
/// let sink = BlackholeSink::new();
/// // A job ends a stream in `sink.clone()`; meanwhile and afterwards:
/// assert_eq!(sink.records(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct BlackholeSink {
    records: Arc<AtomicU64>,
}

impl BlackholeSink {
    /// The sink. Its clones count together.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records have come, in whole batches.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

impl<T> SinkSpec<T> for BlackholeSink {
    type Writer = BlackholeWriter;

    fn describe(&self) -> String {
        "blackhole".into()
    }

    fn open(&self, _: &OpenContext) -> Result<BlackholeWriter, ConnectorError> {
        Ok(BlackholeWriter { records: Arc::clone(&self.records), batch: 0 })
    }
}

/// A [`BlackholeSink`] on one shard.
#[derive(Debug)]
pub struct BlackholeWriter {
    records: Arc<AtomicU64>,
    /// Not yet counted.
    batch: u64,
}

impl<T> Sink<T> for BlackholeWriter {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn write(&mut self, _: Timestamp, _: T) -> Result<(), ConnectorError> {
        self.batch += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.records.fetch_add(std::mem::take(&mut self.batch), Ordering::Relaxed);
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Sink::<T>::flush(self)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_together() {
        let sink = BlackholeSink::new();
        let mut writers: Vec<_> = (0..2)
            .map(|_| BlackholeWriter { records: Arc::clone(&sink.records), batch: 0 })
            .collect();
        for (records, writer) in writers.iter_mut().enumerate() {
            (0..=records).for_each(|_| writer.write(Timestamp::default(), "x").unwrap());
            assert!(Sink::<&str>::close(writer).unwrap());
        }
        assert_eq!(sink.records(), 3);
    }
}
