//! Where the work of a connection is done: on the shard, or on a thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use thalweg_kernel::{Descriptors, OpenContext, Task, TaskHandle, TaskStatus, beside, thread_name};

use crate::call::Call;
use crate::reactor::Reactor;

/// How often a step goes on with work that calls itself. More of it is left to the next turn of the shard.
const POLLS_MAX: usize = 8;
/// The longest wait of a thread, which has nothing to do meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Work that was started. If this is dropped the work goes on.
pub struct Work(At);

enum At {
    Shard(TaskHandle),
    /// Has no sender any more once the work is done.
    Thread(flume::Receiver<std::convert::Infallible>),
}

impl Work {
    /// Waits until the work is done and dropped, for `longest` at most; whether it is.
    pub fn finish(&self, longest: Duration) -> bool {
        match &self.0 {
            At::Shard(task) => task.finish(longest),
            At::Thread(ended) => {
                !matches!(ended.recv_timeout(longest), Err(flume::RecvTimeoutError::Timeout))
            }
        }
    }
}

/// Which way a connection's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the job: what comes in [may gather](OpenContext::latency_budget).
    In,
    /// Out of it: what comes in are answers.
    Out,
}

/// Starts the work of a connector that opens on the shard of `cx`: what `work` makes, with its reactor. A thread, where
/// one is needed, is called by the job's name and `role`.
///
/// # Errors
/// If a thread is needed and cannot be started.
pub fn start<F>(
    cx: &OpenContext,
    role: &str,
    direction: Direction,
    work: impl FnOnce(Reactor) -> F + Send + 'static,
) -> io::Result<Work>
where
    F: Future<Output = ()> + Send + 'static,
{
    let gathers = match direction {
        Direction::In => cx.latency_budget,
        Direction::Out => Duration::ZERO,
    };
    match &cx.tasks {
        Some(tasks) => {
            let (polled, due) = Polled::new(tasks.descriptors(), &cx.waker, gathers, work);
            Ok(Work(At::Shard(tasks.add(Box::new(polled), due))))
        }
        None => on_thread(&thread_name(&cx.job, role), gathers, work),
    }
}

fn on_thread<F>(
    name: &str,
    gathers: Duration,
    work: impl FnOnce(Reactor) -> F + Send + 'static,
) -> io::Result<Work>
where
    F: Future<Output = ()> + Send + 'static,
{
    let descriptors = Descriptors::new()?;
    let (ends, ended) = flume::bounded(1);
    let span = tracing::Span::current();
    let run = move || {
        let _told_at_last: flume::Sender<_> = ends;
        let _in_every_line = span.entered();
        Polled::new(&descriptors, descriptors.waker(), gathers, work).0.run(&descriptors);
    };
    beside::spawn(name, run)?;
    Ok(Work(At::Thread(ended)))
}

/// The work, and what calls for it.
struct Polled {
    work: Boxed,
    reactor: Reactor,
    call: Arc<Call>,
    waker: Waker,
}

impl Polled {
    /// Work that waits for `descriptors`, with the flag that calls for it. `to` wakes the thread that does it.
    fn new<F>(
        descriptors: &Descriptors,
        to: &Waker,
        gathers: Duration,
        work: impl FnOnce(Reactor) -> F,
    ) -> (Self, Arc<AtomicBool>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let due = Arc::new(AtomicBool::new(true));
        let reactor = Reactor::new(descriptors.clone(), Arc::clone(&due), gathers);
        let call = Arc::new(Call::new(Arc::clone(&due), to.clone()));
        reactor.begin();
        let work = Box::pin(work(reactor.clone()));
        let waker = Arc::clone(&call).into();
        (Self { work, reactor, call, waker }, due)
    }

    /// Does the work on this thread.
    fn run(mut self, descriptors: &Descriptors) {
        while let TaskStatus::Waiting(until) = self.step() {
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            descriptors.wait(until.map_or(SLEEP_MAX, left));
        }
    }
}

impl Task for Polled {
    fn step(&mut self) -> TaskStatus {
        let mut cx = Context::from_waker(&self.waker);
        self.call.begin();
        for _ in 0..POLLS_MAX {
            self.call.take();
            self.reactor.begin();
            if let Poll::Ready(()) = self.work.as_mut().poll(&mut cx) {
                return TaskStatus::Done;
            }
            if self.call.rest() {
                return TaskStatus::Waiting(self.reactor.next());
            }
        }
        self.call.put_off();
        TaskStatus::Waiting(self.reactor.next())
    }
}
