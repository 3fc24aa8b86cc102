//! [`Common`]: what the shards and the one thread behind a sink share.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use thalweg_kernel::ConnectorError;

use crate::trouble::Trouble;

/// What the thread has done for one instance of a sink, for that to read.
pub trait Port: Send + Sync + 'static {
    /// Wakes the instance's shard.
    fn waker(&self) -> &Waker;
}

/// See the [module](self).
pub struct Common<P> {
    name: String,
    failure: OnceLock<Trouble>,
    gone: AtomicBool,
    ports: Mutex<Vec<Arc<P>>>,
}

impl<P: Port> Common<P> {
    /// For the sink of this name: kind and address, for errors.
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            failure: OnceLock::new(),
            gone: AtomicBool::new(false),
            ports: Mutex::new(Vec::new()),
        })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error of this sink.
    #[cold]
    pub fn error(&self, what: impl Into<String>) -> ConnectorError {
        ConnectorError::new(&self.name, what)
    }

    /// Whether the sink can go on.
    ///
    /// # Errors
    /// If the thread has failed: why.
    pub fn check(&self) -> Result<(), ConnectorError> {
        self.failure.get().map_or(Ok(()), |why| Err(why.error(&self.name)))
    }

    /// The instances that have opened. Never left half-changed, so a panic elsewhere does not matter.
    pub fn ports(&self) -> MutexGuard<'_, Vec<Arc<P>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance opens.
    pub fn enter(&self, port: P) -> Arc<P> {
        let port = Arc::new(port);
        self.ports().push(Arc::clone(&port));
        port
    }

    /// An instance goes without having closed: the job has ended, and may be started again.
    pub fn leave(&self) {
        self.gone.store(true, SeqCst);
    }

    /// Whether one has.
    pub fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    /// The thread has failed for good: all shards are told why.
    #[cold]
    pub fn fail(&self, why: Trouble) {
        // Only the first one tells what happened.
        let _ = self.failure.set(why);
        self.ports().iter().for_each(|port| port.waker().wake_by_ref());
    }
}
