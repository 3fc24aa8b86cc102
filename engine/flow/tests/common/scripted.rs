//! Sources that do what a script says, and shards that are stepped by hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::*;

/// Key, time, number.
pub(crate) type Rec = (u32, i64, u64);
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    R(Rec),
    Silence,
    At(i64),
}

/// Partitions that do what a script says; whether they end after it.
#[derive(Clone)]
pub(crate) struct Scripted(pub(crate) Vec<Vec<Act>>, pub(crate) bool);
pub(crate) struct Part(VecDeque<Act>, bool);
impl SourceSpec for Scripted {
    type Item = Rec;
    type Partition = Part;
    fn describe(&self) -> String {
        "scripted".into()
    }
    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }
    fn open(&self, p: &PartitionId, _: &OpenContext) -> Result<Part, ConnectorError> {
        Ok(Part(self.0[p.number().unwrap()].iter().copied().collect(), self.1))
    }
}

impl Source for Part {
    type Item = Rec;
    fn poll(
        &mut self,
        now: Timestamp,
        max: usize,
        out: &mut impl Emit<Rec>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..max {
            if let Some(Act::At(t)) = self.0.front()
                && now < Timestamp::from(*t)
            {
                return Ok(SourceStatus::Waiting(None));
            }
            match self.0.pop_front() {
                Some(Act::At(_)) => {}
                Some(Act::R(r)) => out.record(r, now, &Generated),
                Some(Act::Silence) => return Ok(SourceStatus::Waiting(None)),
                None => {
                    return Ok(if self.1 {
                        SourceStatus::Ended
                    } else {
                        SourceStatus::Waiting(None)
                    });
                }
            }
        }
        Ok(SourceStatus::Ready)
    }
    fn stop(&mut self) {}
}

pub(crate) fn build(n: usize, tuning: Tuning, job: &dyn Fn(&Flow)) -> Vec<Shard> {
    let wakers: Arc<[Waker]> = vec![Waker::noop().clone(); n].into();
    let shared = Arc::<Shared>::default();
    (0..n)
        .map(|shard| {
            let cx = BuildContext {
                shard,
                wakers: wakers.clone(),
                shared: shared.clone(),
                tuning,
                ..BuildContext::single("t")
            };
            Shard::build(job, &cx).unwrap()
        })
        .collect()
}

pub(crate) fn metric(shards: &[Shard], name: &str) -> i64 {
    shards
        .iter()
        .flat_map(|s| s.metrics())
        .filter(|m| m.name == name && m.operator.contains("indow"))
        .map(|m| m.value())
        .sum()
}

pub(crate) fn wm(bound: u64) -> Watermarks<impl EventTime<Rec>> {
    Watermarks::bounded_out_of_orderness(Duration::from_millis(bound))
        .timestamps(|r: &Rec| r.1)
        .without_clock_guard()
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn at(s: u64) -> Now {
    Now { wall: Timestamp::from(s), steady: ms(s) }
}

pub(crate) fn settle(shards: &mut [Shard], now: Now) {
    for _ in 0..100_000 {
        let mut busy = false;
        for s in shards.iter_mut() {
            busy |= s.step(now).unwrap() == Step::Busy;
        }
        if !busy {
            return;
        }
    }
    panic!("busy for ever");
}
