//! Per-shard numbers: plain cells that only their shard touches, read about once a second by the
//! driver, which publishes them. Names are Flink's.

use std::cell::Cell;
use std::rc::Rc;

use thalweg_kernel::{Str, Timestamp};

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric of one operator on one shard.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Flink's name for it: `numRecordsIn`, `currentInputWatermark`.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// The operator's name.
    pub operator: Str,
    /// The operator's number in the job graph.
    pub operator_id: u32,
    /// One more label, such as the cause of a dead letter.
    pub label: Option<(&'static str, &'static str)>,
    value: Rc<Cell<i64>>,
}

impl Metric {
    /// Its value now. Watermarks are in milliseconds since the epoch.
    pub fn value(&self) -> i64 {
        self.value.get()
    }
}

/// The metrics of one shard.
#[derive(Default)]
pub(crate) struct Registry(Vec<Metric>);

impl Registry {
    pub(crate) fn register(
        &mut self,
        name: &'static str,
        kind: MetricKind,
        operator: (u32, Str),
        label: Option<(&'static str, &'static str)>,
        value: Rc<Cell<i64>>,
    ) {
        let (operator_id, operator) = operator;
        self.0.push(Metric { name, kind, operator_id, operator, label, value });
    }

    /// The operator has got another name while it was being described.
    pub(crate) fn rename(&mut self, operator_id: u32, name: &str) {
        let of_it = self.0.iter_mut().filter(|metric| metric.operator_id == operator_id);
        of_it.for_each(|metric| metric.operator = name.into());
    }

    pub(crate) fn into_metrics(self) -> Vec<Metric> {
        self.0
    }
}

/// A number that only grows. Adding to it writes one cell.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(crate) Rc<Cell<i64>>);

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: usize) {
        self.0.set(self.0.get() + n as i64);
    }
}

/// A number that goes up and down. Setting it writes one cell.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(crate) Rc<Cell<i64>>);

impl Gauge {
    /// It is `value` from now on.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }
}

/// A watermark that is watched from outside.
#[derive(Clone, Debug)]
pub(crate) struct WatermarkGauge(pub(crate) Rc<Cell<i64>>);

impl Default for WatermarkGauge {
    /// Before all time.
    fn default() -> Self {
        Self(Rc::new(Cell::new(i64::MIN)))
    }
}

impl WatermarkGauge {
    pub(crate) fn set(&self, watermark: Timestamp) {
        self.0.set(watermark.as_millis());
    }
}
