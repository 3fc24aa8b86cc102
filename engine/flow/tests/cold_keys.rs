//! Keys that memory has dropped give way before those that it has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::Collector;

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

/// Goal: where others have taken all memory, new keys are taken in and not refused, and the oldest give way. Method: ten
/// keys of ten that nothing in memory is left of, then one of them and others.
#[test]
fn cold_keys_give_way_to_new_ones() {
    for state_memory_bytes_max in [0, 500] {
        let (store, out) = (Store::default(), Collected::new());
        let numbered = |key, n: u64| Act::Record((key, n as i64, n));
        let mut acts: Vec<_> = (0..10).map(|n| numbered(n as u32, n)).collect();
        acts.extend([Act::Until(100), numbered(3, 100)]);
        acts.extend((101..110).map(|n| numbered(n as u32, n)));
        acts.extend([Act::Until(200), numbered(3, 200)]);
        acts.extend((201..1_200).map(|n| numbered(n as u32, n)));
        let (sink, source) = (out.sink(), Scripted::without_end([acts]));
        let job = |flow: &Flow| {
            flow.source(source.clone(), wm(0))
                .key_by(|record: &Rec| record.0)
                .keys_max(10, Overflow::EvictLeastRecentlyUsed)
                .process(|states| Last(states.value("last")))
                .sink(sink.clone());
        };
        let tuning = Tuning { state_memory_bytes_max, ..Tuning::default() };
        let mut shard = try_build(1, tuning, Some(store.storage()), &job).unwrap();
        for ms in [0, 100, 200] {
            step_all(&mut shard, at(ms));
            (0..3).for_each(|_| drop(epoch(&mut shard, &store, at(ms))));
        }
        let counted = ["numDeadLetters", "numKeysEvicted"].map(|name| metric(&shard, name));
        assert_eq!(counted, [0, 9 + 999]);
        let known: Vec<_> = out.take().into_iter().filter(|(key, _)| *key == 3).collect();
        assert_eq!(
            known,
            [(3, None), (3, Some(3)), (3, Some(100))],
            "{state_memory_bytes_max} bytes"
        );
    }
}
