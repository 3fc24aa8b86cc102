//! What the longest step is measured with, in time (`benches/longest.rs`) and in bytes (`bounded_steps.rs`).

use std::time::Duration;

use thalweg_flow::{Context, Process};
use thalweg_kernel::{Collector, Timestamp};

/// Key and time.
pub(crate) type Record = (u64, i64);

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// The time at which all timers are due, and long after all windows have closed.
pub(crate) const ALL_DUE: Timestamp = Timestamp::from_millis(1_000_000_000);

/// Sets one timer for each key, all for one time.
pub(crate) struct Alarm;

impl Process<u64, Record> for Alarm {
    type Out = u64;

    fn record(&mut self, _: Record, cx: &mut Context<'_, u64>, _: &mut impl Collector<u64>) {
        cx.event_timer(ALL_DUE);
    }

    fn timer(&mut self, cx: &mut Context<'_, u64>, out: &mut impl Collector<u64>) {
        out.record(cx.time(), *cx.key());
    }
}
