//! The changelog that goes into the third sink: where each device stands, as a table whose rows come, change, move
//! to another key and go.

use serde::{Deserialize, Serialize};
use thalweg::flow::{Context, Process, ValueState};
use thalweg::kernel::{Changed, Collector};
use thalweg::prelude::*;

use crate::reading::Reading;

/// A row of the table, whose key is device and grade.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) struct Standing {
    pub(crate) device: Str,
    pub(crate) grade: u64,
    pub(crate) count: u64,
    pub(crate) sum: i64,
}

impl Standing {
    /// The row of a device with `count` readings that come to this sum. Every fifth reading takes it away.
    pub(crate) fn of(device: &str, count: u64, sum: i64) -> Option<Self> {
        // Of three readings in a row, two have one grade.
        let grade = count / 2 % 3;
        (!count.is_multiple_of(5)).then(|| Self { device: device.into(), grade, count, sum })
    }
}

/// Tells how the row of a device changes with each reading.
pub(crate) struct Standings {
    pub(crate) sums: ValueState<Str, (u64, i64)>,
}

impl Process<Str, Reading> for Standings {
    type Out = Changed<Standing>;

    fn record(
        &mut self,
        reading: Reading,
        cx: &mut Context<'_, Str>,
        out: &mut impl Collector<Changed<Standing>>,
    ) {
        let (before, after) = self.sums.update(cx, |(count, sum)| {
            let before = (*count, *sum);
            (*count, *sum) = (*count + 1, *sum + reading.value);
            (before, (*count, *sum))
        });
        let row = |(count, sum)| Standing::of(&reading.device, count, sum);
        let changes = match (row(before), row(after)) {
            (Some(before), Some(after)) => Changed::update(before, after).map(Some),
            (before, after) => [before.map(Changed::delete), after.map(Changed::insert)],
        };
        changes.into_iter().flatten().for_each(|change| out.record(cx.time(), change));
    }
}
