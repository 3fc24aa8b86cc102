//! The driver on glommio: one executor on the shard's pinned thread, with one task that steps the
//! shard. An idle shard sleeps in io_uring until its signal's waker or a timer fires.
//!
//! The shard's task is alone on its executor, so it never yields while it is busy. It polls its own
//! lanes and needs nothing from the reactor. It must not yield. An executor whose preemption timer
//! fires between its poll and its run queue finds nothing run, and goes to sleep with the task still
//! queued. (With a timer of 200 us a loaded machine hung within seconds.) So that timer is set
//! beyond reach.
//!
//! One long-lived task and no task of glommio's per record: its wakers count references in 16 bits.
//! Nothing is ever spawned on its blocking pool, which shares the shard's core.
//!
//! # Limits
//! Each life of a shard leaves one eventfd open. Glommio 0.9 frees a task without dropping the task's header, which
//! holds the executor's notifier, and `run` always makes a task. A process that starts very many jobs, or one job
//! very often, should take the driver `threads`. Otherwise its limit of open files should be raised.

use std::time::Duration;

use futures_lite::future::or;
use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement};

use super::{Stepped, Turn, affinity};
use crate::driver::kind::DriverKind;
use crate::error::JobError;

/// Never: see above.
const PREEMPT_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The engine does no file I/O through glommio's registered buffers: the least it takes.
const IO_MEMORY_BYTES: usize = 64 * 1024;

pub(super) fn executor() -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT_EVERY)
}

pub(super) fn drive(mut stepped: Stepped) -> Result<(), JobError> {
    let executor = executor().name("shard").make().map_err(|error| JobError::Driver {
        driver: DriverKind::Glommio,
        reason: format!("{error}; use the driver `threads` instead"),
    })?;
    if let Some(core) = stepped.seat.core {
        affinity::pin(core);
    }
    executor.run(async move {
        // A task whose last waker goes after its executor is never freed.
        let _in_time = stepped.seat.signal.forgets();
        loop {
            let woken = stepped.seat.signal.clear();
            match stepped.turn(woken, None, || false)? {
                Turn::Again => {}
                Turn::Sleep(longest) => {
                    or(stepped.seat.signal.raised(), async {
                        sleep(longest).await;
                    })
                    .await;
                }
                Turn::End => return Ok(()),
            }
        }
    })
}
