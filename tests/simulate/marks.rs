//! The watermark strategies of simulated jobs: each kind of generator that the engine has, and one of the simulation's own
//! that keeps something.

use std::time::Duration;

use thalweg_flow::{Boxed, Flow, Stream, WatermarkGenerator, Watermarks};
use thalweg_kernel::Timestamp;

use super::broker::Message;
use super::source::{Fleet, SOURCE};

/// How the watermarks of the source follow from its records. With each of them a record is late only if it is further
/// behind the latest one than the disorder of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// Behind every record.
    Bounded,
    /// Behind every record, passed on once in [`EVERY`].
    Periodic,
    /// Behind records that [say so](speaks).
    Punctuated,
    /// Behind every this many records: see [`Counting`].
    Counting(u32),
}

/// The interval of [`Marks::Periodic`].
const EVERY: Duration = Duration::from_millis(4);

/// Whether a watermark follows a record, where they are punctuated.
fn speaks(message: &Message) -> bool {
    message.value % 5 == 0
}

/// Says how far time has come with each `every`th record, and keeps the count and the latest time until then. One that
/// forgets either has other watermarks after a restart.
#[derive(Clone, Debug)]
pub(crate) struct Counting {
    every: u32,
    behind_ms: i64,
    seen: u32,
    latest: i64,
}

impl Counting {
    pub(crate) fn new(every: u32, behind_ms: i64) -> Self {
        Self { every, behind_ms, seen: 0, latest: i64::MIN / 2 }
    }

    /// Takes a record's time; the watermark behind it.
    pub(crate) fn take(&mut self, time: i64) -> Option<i64> {
        (self.seen, self.latest) = (self.seen + 1, self.latest.max(time));
        self.seen.is_multiple_of(self.every).then(|| self.latest - self.behind_ms - 1)
    }
}

impl WatermarkGenerator<Message> for Counting {
    fn record(&mut self, _: &Message, time: Timestamp) -> Option<Timestamp> {
        self.take(time.as_millis()).map(Timestamp::from)
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.extend(self.seen.to_le_bytes());
        out.extend(self.latest.to_le_bytes());
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), String> {
        let (seen, latest) = saved.split_first_chunk().ok_or("it is too short")?;
        let latest = latest.try_into().map_err(|_| "it has no latest time of eight bytes")?;
        (self.seen, self.latest) = (u32::from_le_bytes(*seen), i64::from_le_bytes(latest));
        Ok(())
    }
}

/// The watermarks of one partition as a naive program has them, record by record.
pub(crate) struct Naive {
    marks: Marks,
    disorder_ms: i64,
    counting: Counting,
}

impl Naive {
    pub(crate) fn new(marks: Marks, disorder_ms: i64) -> Self {
        let every = if let Marks::Counting(every) = marks { every } else { 1 };
        Self { marks, disorder_ms, counting: Counting::new(every, disorder_ms) }
    }

    /// The watermark behind a record.
    pub(crate) fn behind(&mut self, message: &Message) -> Option<i64> {
        let behind = message.time - self.disorder_ms - 1;
        match self.marks {
            Marks::Bounded | Marks::Periodic => Some(behind),
            Marks::Punctuated => speaks(message).then_some(behind),
            Marks::Counting(_) => self.counting.take(message.time),
        }
    }
}

/// The stream of a job's source.
pub(crate) fn read(
    flow: &Flow,
    fleet: Fleet,
    marks: Marks,
    disorder_ms: i64,
) -> Stream<Boxed<Message>> {
    let time = |message: &Message| message.time;
    let disorder = Duration::from_millis(disorder_ms.unsigned_abs());
    let bounded = Watermarks::bounded_out_of_orderness(disorder).without_clock_guard();
    match marks {
        Marks::Bounded => flow.source_as(SOURCE, fleet, bounded.timestamps(time)).boxed(),
        Marks::Periodic => {
            flow.source_as(SOURCE, fleet, bounded.every(EVERY).timestamps(time)).boxed()
        }
        Marks::Punctuated => {
            let punctuated = Watermarks::punctuated(move |message: &Message, time: Timestamp| {
                speaks(message).then(|| time.minus_ms(disorder_ms + 1))
            });
            let punctuated = punctuated.without_clock_guard().timestamps(time);
            flow.source_as(SOURCE, fleet, punctuated).boxed()
        }
        Marks::Counting(every) => {
            let counting = Watermarks::generated_by(Counting::new(every, disorder_ms));
            flow.source_as(SOURCE, fleet, counting.without_clock_guard().timestamps(time)).boxed()
        }
    }
}
