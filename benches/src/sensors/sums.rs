//! What the loops written by hand read, sum up and write: what the jobs beside them do.

use serde::{Deserialize, Serialize};

/// A reading, as far as it is looked at.
#[derive(Deserialize)]
pub(crate) struct Reading<'a> {
    pub(crate) device: &'a str,
    pub(crate) ts: i64,
    pub(crate) temp: f64,
}

/// A row as the job writes it.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: &'a str,
    start: i64,
    end: i64,
    value: Value,
}

#[derive(Serialize)]
struct Value {
    count: u64,
    avg: f64,
    min: f64,
    max: f64,
}

/// The readings of a device in a window, summed up.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Sum {
    /// Of no reading.
    pub(crate) const NOTHING: Self =
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    #[inline(always)]
    pub(crate) fn add(&mut self, temp: f64) {
        self.count += 1;
        self.sum += temp;
        self.min = self.min.min(temp);
        self.max = self.max.max(temp);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The row of this device in the window from `start` to before `end`.
    pub(crate) fn row<'a>(&self, key: &'a str, start: i64, end: i64) -> Row<'a> {
        let Self { count, sum, min, max } = *self;
        Row { key, start, end, value: Value { count, avg: sum / count as f64, min, max } }
    }
}
