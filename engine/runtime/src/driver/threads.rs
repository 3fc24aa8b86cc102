//! The driver on plain threads: an idle shard parks its thread.

use std::num::NonZeroU64;

use rustix::thread::set_current_timer_slack;
use thalweg_kernel::ConnectorError;

use super::{Stepped, Turn};

/// How late a timed sleep may end, in nanoseconds. The kernel's own default is 50 us, to gather
/// wake-ups; a shard has one timer, and its sources are waiting for it.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

pub(super) fn drive(mut stepped: Stepped) -> Result<(), ConnectorError> {
    stepped.seat.pin();
    if let Err(error) = set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        tracing::debug!(%error, "timers stay as coarse as they are");
    }
    loop {
        match stepped.turn()? {
            Turn::Again => {}
            Turn::Sleep(longest) => stepped.seat.signal.park(longest),
            Turn::End => return Ok(()),
        }
    }
}
