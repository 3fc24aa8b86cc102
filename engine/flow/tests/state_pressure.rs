#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! State that changes faster than it is stored: sources wait for epochs that nobody but a full shard asks for, and
//! what a shard holds stays bounded.

#[allow(dead_code, reason = "lives with crashes are for other tests")]
mod common;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use common::Random;
use common::world::{Store, Table};
use thalweg_flow::{
    BuildContext, Collection, Context, Flow, Now, Process, Shard, Step, Tuning, ValueState,
    Watermarks,
};
use thalweg_kernel::{Collector, Epoch, Shared};

const KEYS: u64 = 300;
const VALUE_BYTES: usize = 1_024;
const PENDING_BYTES: usize = 10 * VALUE_BYTES;

/// Adds one to every word of a value, and says which they were.
struct Add {
    words: ValueState<u64, Vec<u64>>,
}

impl Process<u64, u64> for Add {
    type Out = (u64, u64);

    fn record(
        &mut self,
        key: u64,
        cx: &mut Context<'_, u64>,
        out: &mut impl Collector<(u64, u64)>,
    ) {
        let before = self.words.with(cx, |words| words.map_or(0, |words| words[VALUE_BYTES / 9]));
        self.words.set(cx, vec![before + 1; VALUE_BYTES / 8]);
        out.record(cx.time(), (key, before));
    }
}

fn job(table: &Table) -> impl Fn(&Flow) + use<> {
    let sink = table.sink();
    move |flow| {
        let keys = (0..KEYS).chain((0..KEYS).rev()).collect::<Vec<_>>();
        let watermarks = Watermarks::monotonous().timestamps(|&key: &u64| key as i64);
        flow.source(Collection::new(keys), watermarks)
            .key_by(|&key| key)
            .process(|states| Add { words: states.value("words") })
            .sink_as("said", sink.clone());
    }
}

#[test]
fn a_full_shard_makes_sources_wait_and_gets_the_epochs_that_it_needs() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let (store, table, shared) = (Store::default(), Table::default(), Arc::<Shared>::default());
        let count = 1 + random.below(3);
        let tuning = Tuning {
            step_records_max: 4,
            batch_records: 2,
            lane_batches: 2,
            state_memory_bytes_max: random.below(2) * 2 * PENDING_BYTES,
            state_pending_bytes_max: PENDING_BYTES,
            ..Tuning::default()
        };
        let build = |shard| {
            let cx = BuildContext {
                shard,
                wakers: vec![Waker::noop().clone(); count].into(),
                shared: Arc::clone(&shared),
                tuning,
                storage: Some(store.storage()),
                ..BuildContext::single("pressure")
            };
            Shard::build(&job(&table), &cx).unwrap()
        };
        let mut shards: Vec<_> = (0..count).map(build).collect();
        let mut done = vec![false; count];
        let (mut begun, mut told) = (vec![Epoch::NONE; count], vec![Epoch::NONE; count]);
        let (mut open, mut snapshots) = (None, Vec::new());
        let (mut longest, mut waited_ms, mut now) = (0, 0, Now::default());
        for _ in 0..200_000 {
            if done.iter().all(|&done| done) {
                break;
            }
            let living = || shards.iter().zip(&done).filter(|(_, done)| !**done).map(|it| it.0);
            if open.is_none()
                && (living().any(Shard::wants_epoch) || living().all(Shard::awaits_epoch))
            {
                open = Some(store.epoch().next());
            }
            let at = random.below(count);
            if done[at] {
                continue;
            }
            now.steady += Duration::from_millis(1);
            let shard = &mut shards[at];
            if told[at] < store.epoch() && random.one_in(3) {
                told[at] = store.epoch();
                shard.committed(store.epoch(), store.epoch()).unwrap();
            }
            if let Some(epoch) = open.filter(|&epoch| begun[at] < epoch)
                && random.one_in(10)
            {
                begun[at] = epoch;
                shard.begin(epoch);
            }
            done[at] = shard.step(now).unwrap() == Step::Done;
            if let Some(snapshot) = shard.snapshot().unwrap() {
                longest = longest.max(snapshot.changes.len());
                snapshots.push(snapshot);
            }
            let handed_over = |at| snapshots.iter().any(|it| it.shard == at);
            if let Some(epoch) = open
                && (0..count).all(|at| done[at] || handed_over(at))
                && !snapshots.is_empty()
            {
                store.commit(epoch, &snapshots);
                snapshots.clear();
                open = None;
            }
        }
        assert!(done.iter().all(|&done| done), "seed {seed}: it comes to no end");
        let row = |key, before| format!("{key} {:?}", (key, before));
        let mut expected: Vec<_> = (0..KEYS).flat_map(|key| [row(key, 0), row(key, 1)]).collect();
        expected.sort();
        assert!(table.rows() == expected, "seed {seed}: not each key twice, in order");
        for shard in &shards {
            let time = |metric: &&thalweg_flow::Metric| {
                metric.name == "accumulateStateBackPressuredTimeMs"
            };
            waited_ms += shard.metrics().iter().find(time).unwrap().value();
        }
        assert!(waited_ms > 0, "seed {seed}: nobody had to wait");
        // What was on its way when the sources began to wait comes on top: a step of the source, and the lanes.
        let on_its_way = (4 + 2 * (2 + 2)) * VALUE_BYTES;
        let bound = (PENDING_BYTES + on_its_way) * 11 / 10;
        assert!(longest <= bound, "seed {seed}: a block of {longest} bytes, bound {bound}");
    }
}
