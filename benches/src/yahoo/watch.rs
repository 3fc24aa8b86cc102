//! A sink that shows each record to an observer, for what must be known the moment it arrives.

use thalweg::kernel::{ConnectorError, OpenContext, Sink, SinkSpec, Timestamp};

/// Looks at what reaches a sink. Each shard has a clone of its own, which hands in what it has seen
/// when it is dropped, so that looking takes no lock.
pub trait Observe<T>: Clone + 'static {
    /// Sees one record.
    fn see(&mut self, value: T);
}

/// The sink of an observer.
#[derive(Clone, Debug)]
pub struct Watched<O>(pub O);

impl<T, O: Observe<T>> SinkSpec<T> for Watched<O> {
    type Writer = Watching<O>;

    fn describe(&self) -> String {
        "observer".into()
    }

    fn open(&self, _cx: &OpenContext) -> Result<Watching<O>, ConnectorError> {
        Ok(Watching(self.0.clone()))
    }
}

/// One shard's instance of a [`Watched`].
#[derive(Debug)]
pub struct Watching<O>(O);

impl<T, O: Observe<T>> Sink<T> for Watching<O> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }

    #[inline]
    fn write(&mut self, _time: Timestamp, value: T) -> Result<(), ConnectorError> {
        self.0.see(value);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}
