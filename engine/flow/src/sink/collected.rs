//! A sink that gathers results in memory: for tests, examples and bounded jobs.

use std::sync::{Arc, Mutex, PoisonError};

use thalweg_kernel::{ConnectorError, OpenContext, Sink, SinkSpec, Timestamp};

/// Results gathered from all shards, in the order they arrived. Clones share them.
///
/// It grows with the results: meant for streams that end.
#[derive(Debug)]
pub struct Collected<T>(Arc<Mutex<Vec<(Timestamp, T)>>>);

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Collected<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sink to end a stream in.
    pub fn sink(&self) -> CollectedSink<T> {
        CollectedSink(self.clone())
    }

    /// Takes what has arrived so far.
    pub fn take(&self) -> Vec<T> {
        self.take_timed().into_iter().map(|(_, value)| value).collect()
    }

    /// Takes what has arrived so far, with the event times.
    pub fn take_timed(&self) -> Vec<(Timestamp, T)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The sink of a [`Collected`].
#[derive(Debug)]
pub struct CollectedSink<T>(Collected<T>);

impl<T> Clone for CollectedSink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> SinkSpec<T> for CollectedSink<T> {
    type Writer = CollectedWriter<T>;

    fn describe(&self) -> String {
        "collected".into()
    }

    fn open(&self, _cx: &OpenContext) -> Result<Self::Writer, ConnectorError> {
        Ok(CollectedWriter { all: self.0.clone(), batch: Vec::new() })
    }
}

/// One shard's instance of a [`CollectedSink`]: locks once per batch.
#[derive(Debug)]
pub struct CollectedWriter<T> {
    all: Collected<T>,
    batch: Vec<(Timestamp, T)>,
}

impl<T> Sink<T> for CollectedWriter<T> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError> {
        self.batch.push((time, value));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.batch);
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.flush()?;
        Ok(true)
    }
}
