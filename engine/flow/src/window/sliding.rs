//! Sliding windows: fixed size, aligned to the epoch, each some way behind the one before.

use std::fmt;
use std::time::Duration;

use thalweg_kernel::Timestamp;
use thalweg_kernel::time::millis;

use super::assigner::{Aligned, Assigner, Slices};
use super::slicing::Slicing;
use super::time_window::TimeWindow;

/// Windows of one size, of which one begins every slide, so that they overlap: a record is in each window that
/// contains its time. They are aligned to the Unix epoch, whatever the first record's time.
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_flow::*;
/// # let out = Collected::new();
/// # let sink = out.sink();
/// # let job = move |flow: &Flow| {
/// # let readings = flow.source(
/// #     Collection::new([("a", 500), ("a", 1_500), ("a", 2_500)]),
/// #     Watermarks::monotonous().timestamps(|&(_, time)| time),
/// # );
/// let (size, slide) = (Duration::from_secs(2), Duration::from_secs(1));
/// readings
///     .key_by(|&(device, _)| device)
///     .window(Sliding::of(size, slide))
///     .aggregate(Count)
/// # .sink(sink.clone());
/// # };
/// # let mut shard = Shard::build(&job, &BuildContext::single("sliding")).unwrap();
/// # while shard.step(Now::default()).unwrap() != Step::Done {}
/// # let rows: Vec<_> = out.take().into_iter().map(|w| (w.end.as_millis(), w.value)).collect();
/// # assert_eq!(rows, [(1_000, 1), (2_000, 2), (3_000, 2), (4_000, 1)]);
/// ```
///
/// # Cost
/// A record is added once, to a slice that its windows share. An operator merges each slice of a key about twice,
/// however many windows share it. Rows are another matter: each key yields one for every slide, as long as any window has
/// a record of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    size_ms: i64,
    slide_ms: i64,
    offset_ms: i64,
}

impl Sliding {
    /// Windows of `size`, one of which begins every `slide`. Both are at least one millisecond, and the slide is at
    /// most the size: a job with others does not start. What is beyond whole milliseconds is cut off.
    pub fn of(size: Duration, slide: Duration) -> Self {
        Self { size_ms: millis(size), slide_ms: millis(slide), offset_ms: 0 }
    }

    /// Moves the alignment by `offset`: one window begins there, seen from the Unix epoch.
    #[must_use]
    pub fn offset(mut self, offset: Duration) -> Self {
        self.offset_ms = millis(offset).checked_rem(self.slide_ms).unwrap_or(0);
        self
    }
}

impl Assigner for Sliding {
    type Layout = Slices;

    fn assign(&self, time: Timestamp, window: &mut impl FnMut(TimeWindow)) {
        self.slicing().assign(time, window);
    }

    fn problem(&self) -> Option<String> {
        let Self { size_ms, slide_ms, .. } = *self;
        if size_ms == 0 || slide_ms == 0 {
            return Some("allowed: sizes and slides of 1 ms or more".into());
        }
        (slide_ms > size_ms).then(|| {
            "with a slide of more than the size, records between two windows would be in neither; filter them out, and \
             take windows of one size"
                .into()
        })
    }
}

impl Aligned for Sliding {
    fn slicing(&self) -> Slicing {
        Slicing::new(self.size_ms, self.slide_ms, self.offset_ms)
    }
}

impl fmt::Display for Sliding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        write!(f, "Sliding window of {:?} every {:?}", of(self.size_ms), of(self.slide_ms))
    }
}
