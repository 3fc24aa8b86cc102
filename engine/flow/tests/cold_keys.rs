//! Keys that memory has dropped give way before those that it has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/scripted.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod scripted;
#[path = "common/world.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod world;

use scripted::*;
use thalweg_flow::*;
use thalweg_kernel::Collector;
use world::Store;

/// Emits each record with what its key was last told.
struct Last(ValueState<u32, u64>);

impl Process<u32, Rec> for Last {
    type Out = (u32, Option<u64>);

    fn record(
        &mut self,
        record: Rec,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Self::Out>,
    ) {
        out.record(cx.time(), (record.0, self.0.get(cx)));
        self.0.set(cx, record.2);
    }
}

fn run(shard: &mut Shard, ms: u64) {
    for _ in 0..50 {
        shard.step(at(ms)).unwrap();
    }
}

fn epoch(shard: &mut Shard, store: &Store, ms: u64) {
    let epoch = store.epoch().next();
    shard.begin(epoch);
    run(shard, ms);
    store.commit(epoch, &[shard.snapshot().unwrap().unwrap()]);
    shard.committed(epoch, epoch).unwrap();
}

/// Goal: where others have taken all memory, new keys are taken in and not refused, and the oldest give way. Method: ten
/// keys of ten that nothing in memory is left of, then one of them and others.
#[test]
fn cold_keys_give_way_to_new_ones() {
    for state_memory_bytes_max in [0, 500] {
        let (store, out) = (Store::default(), Collected::new());
        let numbered = |key, n: u64| Act::R((key, n as i64, n));
        let mut acts: Vec<_> = (0..10).map(|n| numbered(n as u32, n)).collect();
        acts.extend([Act::At(100), numbered(3, 100)]);
        acts.extend((101..110).map(|n| numbered(n as u32, n)));
        acts.extend([Act::At(200), numbered(3, 200)]);
        acts.extend((201..1_200).map(|n| numbered(n as u32, n)));
        let (sink, source) = (out.sink(), Scripted(vec![acts], false));
        let job = |flow: &Flow| {
            flow.source(source.clone(), wm(0))
                .key_by(|record: &Rec| record.0)
                .keys_max(10, Overflow::EvictLeastRecentlyUsed)
                .process(|states| Last(states.value("last")))
                .sink(sink.clone());
        };
        let tuning = Tuning { state_memory_bytes_max, ..Tuning::default() };
        let storage = Some(store.storage());
        let cx = BuildContext { storage, tuning, ..BuildContext::single("cold") };
        let mut shard = Shard::build(&job, &cx).unwrap();
        for ms in [0, 100, 200] {
            run(&mut shard, ms);
            (0..3).for_each(|_| epoch(&mut shard, &store, ms));
        }
        let metric = |name| {
            let metrics = shard.metrics().iter().filter(|metric| metric.name == name);
            metrics.map(Metric::value).sum::<i64>()
        };
        assert_eq!((metric("numDeadLetters"), metric("numKeysEvicted")), (0, 9 + 999));
        let known: Vec<_> = out.take().into_iter().filter(|(key, _)| *key == 3).collect();
        assert_eq!(
            known,
            [(3, None), (3, Some(3)), (3, Some(100))],
            "{state_memory_bytes_max} bytes"
        );
    }
}
