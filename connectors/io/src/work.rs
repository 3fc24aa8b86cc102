//! Where the work of a connection is done: on the shard, or on a thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use thalweg_kernel::{Descriptors, OpenContext, Task, TaskHandle, TaskStatus, Tasks, thread_name};

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

/// Starts the work of a connector that opens on the shard of `cx`: what `work` makes, with its reactor. A thread, where
/// one is needed, is called by the job's name and `role`.
///
/// # Errors
/// If a thread is needed and cannot be started.
pub fn start<F>(
    cx: &OpenContext,
    role: &str,
    work: impl FnOnce(Reactor) -> F + Send + 'static,
) -> io::Result<Work>
where
    F: Future<Output = ()> + Send + 'static,
{
    match &cx.tasks {
        Some(tasks) => Ok(Work(At::Shard(on_shard(tasks, &cx.waker, work)))),
        None => on_thread(&thread_name(&cx.job, role), work),
    }
}

fn on_shard<F>(tasks: &Tasks, shard: &Waker, work: impl FnOnce(Reactor) -> F) -> TaskHandle
where
    F: Future<Output = ()> + Send + 'static,
{
    let due = Arc::new(AtomicBool::new(true));
    let reactor = Reactor::new(tasks.descriptors().clone(), Arc::clone(&due));
    let call = Arc::new(Call::of_shard(Arc::clone(&due), shard.clone()));
    reactor.begin();
    let work = Polled {
        work: Box::pin(work(reactor.clone())),
        reactor,
        call: Arc::clone(&call),
        waker: call.into(),
    };
    tasks.add(Box::new(work), due)
}

fn on_thread<F>(name: &str, work: impl FnOnce(Reactor) -> F + Send + 'static) -> io::Result<Work>
where
    F: Future<Output = ()> + Send + 'static,
{
    let descriptors = Descriptors::new()?;
    let (ends, ended) = flume::bounded(1);
    let span = tracing::Span::current();
    let run = move || {
        let _told_at_last: flume::Sender<_> = ends;
        let _in_every_line = span.entered();
        let due = Arc::new(AtomicBool::new(true));
        let reactor = Reactor::new(descriptors.clone(), Arc::clone(&due));
        let call = Arc::new(Call::of_thread(due, descriptors.waker().clone()));
        reactor.begin();
        let work = Box::pin(work(reactor.clone()));
        let waker = Arc::clone(&call).into();
        Polled { work, reactor, call, waker }.run(&descriptors);
    };
    thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(Work(At::Thread(ended)))
}

/// The work, and what calls for it.
struct Polled {
    work: Boxed,
    reactor: Reactor,
    call: Arc<Call>,
    waker: Waker,
}

impl Task for Polled {
    fn step(&mut self) -> TaskStatus {
        let mut cx = Context::from_waker(&self.waker);
        for _ in 0..POLLS_MAX {
            self.reactor.begin();
            if let Poll::Ready(()) = self.work.as_mut().poll(&mut cx) {
                return TaskStatus::Done;
            }
            if !self.call.take() {
                return TaskStatus::Waiting(self.reactor.next());
            }
        }
        self.waker.wake_by_ref();
        TaskStatus::Waiting(self.reactor.next())
    }
}

impl Polled {
    /// Does the work on this thread.
    fn run(mut self, descriptors: &Descriptors) {
        self.call.take();
        while let TaskStatus::Waiting(until) = self.step() {
            self.call.sleep(|| {
                let left = |at: Instant| at.saturating_duration_since(Instant::now());
                descriptors.wait(until.map_or(SLEEP_MAX, left));
            });
            self.call.take();
        }
    }
}
