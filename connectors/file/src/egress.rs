//! One output, written by one thread, for all shards of a sink.
//!
//! A shard appends whole lines to a chunk of its own. Full chunks, and what a batch left when it is flushed, go
//! into a queue. Chunks come back to the shards when they are written, so in steady state nothing is allocated.
//!
//! # Bounds
//! A sink is ready while fewer than [`QUEUED_BYTES_MAX`] bytes wait. A batch that was begun
//! may be finished, so the queue exceeds that by at most one batch per shard. Nothing that
//! was flushed waits for a further call of the shard: an output at low rates is never late.
//!
//! # Wake-ups
//! A shard that finds the queue full leaves its waker and *then* looks again. The thread makes room and *then*
//! looks for wakers, under the lock that both use. So one of the two always sees the other.
//!
//! # Failure
//! The first error is kept for every shard to report. Chunks that come after it are
//! dropped: the job ends with the error.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;

use thalweg_kernel::{ConnectorError, OpenContext, thread_name};

/// A chunk is sent on when it has this size, or when its shard flushes.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// With this much waiting to be written a sink is not ready.
pub(crate) const QUEUED_BYTES_MAX: usize = 16 * CHUNK_BYTES;
/// Written chunks that are kept for use again.
const CHUNKS_SPARE_MAX: usize = 32;

/// Where bytes end up. Called by one thread only.
pub(crate) trait Output {
    /// Writes whole lines, so that they can be seen.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;
    /// Makes what was written survive a power cut, where that means anything.
    fn sync(&mut self) -> io::Result<()>;
}

enum Job {
    Write(Vec<u8>),
    /// Sync, say so, and wake the shard.
    Close(Arc<AtomicBool>, Waker),
}

/// The end that all shards share.
pub(crate) struct Egress {
    name: String,
    jobs: flume::Sender<Job>,
    spare: flume::Receiver<Vec<u8>>,
    common: Arc<Common>,
    /// The first line of the output, once it has one.
    header: Mutex<Option<Vec<u8>>>,
}

/// What the shards and the thread share.
#[derive(Default)]
struct Common {
    queued_bytes: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
    failure: OnceLock<Arc<io::Error>>,
}

impl Common {
    fn wake_all(&self) {
        let waiting = std::mem::take(&mut *locked(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }

    #[cold]
    fn fail(&self, error: io::Error) {
        // Only the first one tells what happened.
        let _ = self.failure.set(Arc::new(error));
        self.wake_all();
    }
}

/// What is behind the lock is never left half-changed, so a panic elsewhere does not matter.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Egress {
    /// Starts the thread, which begins with `open`. `name` is the sink's, for errors;
    /// `header` is a first line that the output already has.
    pub(crate) fn start<O: Output>(
        cx: &OpenContext,
        name: String,
        header: Option<Vec<u8>>,
        open: impl FnOnce() -> io::Result<O> + Send + 'static,
    ) -> Result<Self, ConnectorError> {
        // Unbounded as a channel; `queued_bytes` is its bound.
        let (jobs, inbox) = flume::unbounded();
        let (give_back, spare) = flume::bounded(CHUNKS_SPARE_MAX);
        let common = Arc::new(Common::default());
        let theirs = Arc::clone(&common);
        let run = move || {
            let gone = Gone(&theirs);
            match open() {
                Ok(output) => write_all(output, &inbox, &give_back, &theirs),
                Err(error) => theirs.fail(error),
            }
            // Answers those who still send, until all shards are gone.
            inbox.iter().for_each(|job| settle(job, &theirs));
            drop(gone);
        };
        let span = tracing::Span::current();
        thread::Builder::new()
            .name(thread_name(&cx.job, &format!("out{}", cx.operator_id)))
            .spawn(move || span.in_scope(run))
            .map_err(|e| ConnectorError::new(&name, "cannot start its I/O thread").caused_by(e))?;
        Ok(Self { name, jobs, spare, common, header: Mutex::new(header) })
    }

    fn failure(&self) -> Result<(), ConnectorError> {
        match self.common.failure.get() {
            None => Ok(()),
            Some(error) => Err(self.failed(error)),
        }
    }

    #[cold]
    fn failed(&self, error: &Arc<io::Error>) -> ConnectorError {
        let what = match error.kind() {
            io::ErrorKind::BrokenPipe => "nobody reads the output any more",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "cannot write: make room, then start the job again"
            }
            _ => "cannot write",
        };
        ConnectorError::new(&self.name, what).caused_by(Arc::clone(error))
    }

    fn send(&self, job: Job) -> Result<(), ConnectorError> {
        if let Job::Write(chunk) = &job {
            self.common.queued_bytes.fetch_add(chunk.len(), SeqCst);
        }
        // The thread answers as long as there are shards, unless it panicked; it says so then.
        self.jobs.send(job).or_else(|_| self.failure())
    }
}

/// Should the thread panic, nobody waits for it in vain.
struct Gone<'a>(&'a Common);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(io::Error::other("the I/O thread panicked"));
        }
    }
}

fn write_all(
    mut output: impl Output,
    inbox: &flume::Receiver<Job>,
    give_back: &flume::Sender<Vec<u8>>,
    common: &Common,
) {
    let mut dirty = true;
    for job in inbox {
        let (result, answer) = match job {
            Job::Write(mut chunk) => {
                dirty = true;
                let result = output.write(&chunk);
                common.queued_bytes.fetch_sub(chunk.len(), SeqCst);
                common.wake_all();
                chunk.clear();
                // One huge record must not occupy its memory for ever.
                if chunk.capacity() <= 4 * CHUNK_BYTES {
                    let _ = give_back.try_send(chunk);
                }
                (result, None)
            }
            Job::Close(done, waker) => {
                let result = if dirty { output.sync() } else { Ok(()) };
                dirty = false;
                (result, Some((done, waker)))
            }
        };
        let failed = result.is_err();
        if let Err(error) = result {
            common.fail(error);
        }
        if let Some((done, waker)) = answer {
            done.store(!failed, SeqCst);
            waker.wake();
        }
        if failed {
            return;
        }
    }
}

/// After a failure: lets nobody wait.
fn settle(job: Job, common: &Common) {
    match job {
        Job::Write(chunk) => _ = common.queued_bytes.fetch_sub(chunk.len(), SeqCst),
        Job::Close(_, waker) => waker.wake(),
    }
}

/// A shard's way in.
pub(crate) struct Outlet {
    egress: Arc<Egress>,
    waker: Waker,
    chunk: Vec<u8>,
    closed: Option<Arc<AtomicBool>>,
}

impl Outlet {
    pub(crate) fn new(egress: Arc<Egress>, waker: Waker) -> Self {
        Self { egress, waker, chunk: Vec::new(), closed: None }
    }

    /// See [`thalweg_kernel::Sink::ready`].
    pub(crate) fn ready(&mut self) -> Result<bool, ConnectorError> {
        let common = &self.egress.common;
        self.egress.failure()?;
        let room = || common.queued_bytes.load(SeqCst) < QUEUED_BYTES_MAX;
        if room() {
            return Ok(true);
        }
        {
            let mut waiting = locked(&common.waiting);
            // Asked again before it was woken, it need not be there twice.
            if !waiting.iter().any(|waker| waker.will_wake(&self.waker)) {
                waiting.push(self.waker.clone());
            }
        }
        self.egress.failure()?;
        Ok(room())
    }

    /// Where the next line is to be appended, without its line feed.
    pub(crate) fn line(&mut self) -> &mut Vec<u8> {
        &mut self.chunk
    }

    /// Ends the line.
    #[inline]
    pub(crate) fn end_line(&mut self) -> Result<(), ConnectorError> {
        self.chunk.push(b'\n');
        if self.chunk.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Gives the output its first line, unless it has it: all shards must agree on it.
    /// To be called before this shard's first line is sent.
    pub(crate) fn header(&mut self, header: &[u8]) -> Result<(), ConnectorError> {
        if header.is_empty() {
            return Ok(());
        }
        // Held while sending, so that no other shard's line comes before.
        let mut first = locked(&self.egress.header);
        match &*first {
            Some(first) if first == header => Ok(()),
            Some(first) => Err(ConnectorError::new(
                &self.egress.name,
                format!(
                    "its columns are `{}`, but this record has `{}`: write to another file",
                    String::from_utf8_lossy(first),
                    String::from_utf8_lossy(header)
                ),
            )),
            None => {
                *first = Some(header.to_vec());
                self.egress.send(Job::Write([header, b"\n"].concat()))
            }
        }
    }

    /// Sends on what was written, without waiting.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectorError> {
        self.egress.failure()?;
        if self.chunk.is_empty() {
            return Ok(());
        }
        let next = self.egress.spare.try_recv().unwrap_or_default();
        let chunk = std::mem::replace(&mut self.chunk, next);
        self.egress.send(Job::Write(chunk))
    }

    /// See [`thalweg_kernel::Sink::close`].
    pub(crate) fn close(&mut self) -> Result<bool, ConnectorError> {
        self.flush()?;
        let closed = match &self.closed {
            Some(closed) => closed,
            None => {
                let closed = self.closed.insert(Arc::default());
                self.egress.send(Job::Close(Arc::clone(closed), self.waker.clone()))?;
                closed
            }
        };
        let done = closed.load(SeqCst);
        // A failure is noted before it is answered, so whoever sees no answer sees the failure.
        self.egress.failure().map(|()| done)
    }

    /// An error of this sink.
    #[cold]
    pub(crate) fn error(
        &self,
        what: &str,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> ConnectorError {
        ConnectorError::new(&self.egress.name, what).caused_by(cause)
    }
}
