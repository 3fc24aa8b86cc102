//! In steady state a record costs no allocation: not in a chain, not in an exchange, not in a window.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use common::build;
use thalweg_flow::*;
use thalweg_kernel::{
    ConnectorError, Emit, Generated, OpenContext, PartitionId, Source, SourceSpec, SourceStatus,
    Str, Timestamp,
};

/// Readings of a thousand devices, a hundred in each millisecond of event time, without end.
#[derive(Clone)]
struct Readings {
    next: i64,
    names: Arc<[Str]>,
}

impl SourceSpec for Readings {
    type Item = (Str, i64, f64);
    type Partition = Self;

    fn describe(&self) -> String {
        "readings".into()
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<Self, ConnectorError> {
        Ok(self.clone())
    }
}

impl Source for Readings {
    type Item = (Str, i64, f64);

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Self::Item>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..records_max {
            let n = self.next;
            self.next += 1;
            let device = self.names[n as usize * 7 % self.names.len()].clone();
            out.record((device, n / 100, n as f64), now, &Generated);
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {}
}

#[test]
fn the_steady_state_allocates_nothing() {
    let names: Arc<[Str]> = (0..1_000).map(|n| Str::from(format!("d{n:05}"))).collect();
    for shards in [1, 2] {
        let names = Arc::clone(&names);
        let job = move |flow: &Flow| {
            flow.source(
                Readings { next: 0, names: Arc::clone(&names) },
                Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
                    .timestamps(|&(_, ts, _): &(Str, i64, f64)| ts)
                    .without_clock_guard(),
            )
            .filter(|(_, _, temp)| *temp >= 0.0)
            .map(|(device, ts, temp)| (device, ts, temp * 1.8 + 32.0))
            .key_by(|(device, _, _)| device.clone())
            .window(Tumbling::of(Duration::from_millis(50)))
            .aggregate(Average::of(|&(_, _, temp): &(Str, i64, f64)| temp))
            .discard();
        };
        let mut built = build(shards, Tuning::default(), &job);
        let mut run = |steps: usize| {
            for _ in 0..steps {
                for shard in &mut built {
                    shard.step(Now::default()).unwrap();
                }
            }
        };
        run(300);
        let steady = measure(|| run(1_000));
        assert_eq!(steady.count_total, 0, "for a million records on {shards} shards: {steady:?}");
    }
}
