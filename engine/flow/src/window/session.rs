//! Session windows: a key's records without a long silence between them.

use std::fmt;
use std::time::Duration;

use thalweg_kernel::{Timestamp, time::millis};

use super::assigner::{Assigner, PerKey};
use super::time_window::TimeWindow;
use super::trigger::OnWatermark;

/// Windows of a key's own: a session begins with a record, and ends when none has come for a gap, in event time. Its
/// last millisecond is the one before the gap after its last record ends.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new([("a", 1_000), ("a", 2_500), ("b", 3_000), ("a", 9_000)]),
/// #     Watermarks::monotonous().timestamps(|&(_, time)| time),
/// # );
/// readings
///     .key_by(|&(device, _)| device)
///     .window(Session::gap(Duration::from_secs(2)))
///     .aggregate(Count)
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("session")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # let rows = out.take().into_iter().map(|w| (w.key, w.start.as_millis(), w.end.as_millis(), w.value));
/// # let rows: Vec<_> = rows.collect();
/// # assert_eq!(rows, [("a", 1_000, 4_500, 2), ("b", 3_000, 5_000, 1), ("a", 9_000, 11_000, 1)]);
/// ```
///
/// # Lateness
/// A record that joins two sessions makes them one. A record is late if the watermark has passed the session that it
/// would be in. So an old record that would be late alone counts if it belongs to a session that still goes on.
///
/// # Exactly a gap later
/// A record whose time is exactly a gap after the last one joins a session as well, if the session is still open then.
/// (As in Flink.) So the order of records may decide, even where none is late. A gap one millisecond longer or
/// shorter than the interval of a device's records avoids that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    gap_ms: i64,
}

impl Session {
    /// Sessions that end after a silence of `gap`, which is at least one millisecond: a job with a shorter one does not
    /// start. What is beyond whole milliseconds is cut off.
    pub fn gap(gap: Duration) -> Self {
        Self { gap_ms: millis(gap) }
    }
}

impl Assigner for Session {
    type Layout = PerKey<OnWatermark>;

    const MERGES: bool = true;

    fn assign(&self, time: Timestamp, window: &mut impl FnMut(TimeWindow)) {
        // Of a record that is alone.
        window(TimeWindow { start: time, last: time.plus_ms(self.gap_ms - 1) });
    }

    fn problem(&self) -> Option<String> {
        (self.gap_ms == 0).then(|| "allowed: gaps of 1 ms or more".into())
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = Duration::from_millis(self.gap_ms.unsigned_abs());
        write!(f, "Session window with a gap of {gap:?}")
    }
}
