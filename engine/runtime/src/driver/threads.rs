//! The driver on plain threads. An idle shard waits in `ppoll` for whatever comes first. That is a descriptor of its
//! connectors, its waker, or the time at which it or one of their tasks is due. A turn goes on with the tasks that are due and then
//! steps the shard. A shard that is seldom idle is pinned to its core ([`Berth`]).

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;
use thalweg_kernel::{ConnectorError, Descriptors, Tasks};

use super::affinity::Berth;
use super::{Stepped, Turn};
use crate::driver::kind::DriverKind;
use crate::error::JobError;

/// How late a timed sleep may end, in nanoseconds. The kernel's own default is 50 us, to gather
/// wake-ups; a shard has one timer, and its sources are waiting for it.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// A shard that is never idle looks at its descriptors after this number of turns.
const BUSY_TURNS_MAX: u32 = 8;

/// What a shard of this driver does beside its steps.
pub(super) fn tasks() -> Result<Tasks, JobError> {
    let descriptors = Descriptors::new().map_err(|error| JobError::Driver {
        driver: DriverKind::Threads,
        reason: format!("the system gives no descriptor for waking: {error}"),
    })?;
    Ok(Tasks::new(descriptors))
}

pub(super) fn drive(mut stepped: Stepped, tasks: &Tasks) -> Result<(), ConnectorError> {
    let mut berth = Berth::new(stepped.seat.core);
    if let Err(error) = set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        tracing::debug!(%error, "timers stay as coarse as they are");
    }
    let descriptors = tasks.descriptors();
    // Whoever still holds the signal afterwards holds no descriptor.
    let _in_time = stepped.seat.signal.forgets();
    let mut busy_turns = 0;
    loop {
        // Before the tasks, not behind them: a task that is called after its turn keeps the shard from sleeping.
        let woken = stepped.seat.signal.clear();
        let now = Instant::now();
        berth.works(now);
        let due_at = tasks.step(now);
        let look = || !descriptors.is_empty() && descriptors.wait(Duration::ZERO);
        match stepped.turn(woken, due_at, look)? {
            Turn::Again if busy_turns < BUSY_TURNS_MAX => busy_turns += 1,
            Turn::Again => {
                busy_turns = 0;
                look();
            }
            // A step has given the shard something to do beside.
            Turn::Sleep(_) if tasks.were_added() => {}
            Turn::Sleep(longest) => {
                busy_turns = 0;
                berth.sleeps();
                stepped.seat.signal.sleep(descriptors.waker(), || descriptors.wait(longest));
            }
            Turn::End => return Ok(()),
        }
    }
}
