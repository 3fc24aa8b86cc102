//! The jobs of the simulation, drawn from the seed. All read the fleet; most parts read it with duplicates
//! removed, and have results that do not depend on the order in which partitions merge.

use std::fmt::Debug;
use std::time::Duration;

use thalweg_flow::{
    Aggregate, Average, Chain, Count, Flow, Fold, Max, Min, Reduce, Session, Sliding, Stream, Sum,
    Windowed,
};
use thalweg_kernel::DeadLetter;

use super::broker::Message;
use super::faults::Defect;
use super::marks::read;
use super::plan::{
    EVER_MS, FIRST_MS, GAP_MS, JobPlan, Of, RAW_MS, SECOND_KEYS, SECOND_MS, SLIDE_MS, SLIDING_MS,
    ms,
};
use super::process::{Bursts, HELD, Held, Numbered, OnOne, Paired, Runs, by_hand, cell};
use super::shapes::{raw_columns, shapes};
use super::sinks::{Loose, Shared, Table};
use super::source::Fleet;

/// Describes the job of `plan`.
pub(crate) fn describe(
    plan: JobPlan,
    fleet: impl Fn() -> Fleet + 'static,
    outlet: &Shared,
    defect: Option<Defect>,
) -> Box<dyn Fn(&Flow)> {
    let (table, loose) = (Table(outlet.clone()), Loose(outlet.clone()));
    Box::new(move |flow| {
        let [raw, all] = read(flow, fleet(), plan.marks, plan.disorder_ms).split();
        raw_parts(plan, raw, &table);
        let once = all
            .key_by(|message| message.device)
            .process(|states| Numbered::new(states, defect))
            .uid("numbered");
        let [once, shaped] = once.split();
        shapes(plan, shaped, &table);
        let [windows, chained, hand, bursts, merged, echo, two, sliding, sessions] = once.split();
        if plan.windows {
            let pairs = windows
                .filter(move |message| plan.passes(message))
                .map(move |message| (message.device % plan.keys, message.value));
            windowed(plan, pairs, &table);
        } else {
            windows.discard();
        }
        if plan.chained {
            chained_windows(chained, &table);
        } else {
            chained.discard();
        }
        if plan.by_hand {
            let (keyed, side, tens) = hand.key_by(cell).side_tag("tens");
            keyed
                .process(|states| by_hand(states, side))
                .uid("by hand")
                .sink_as("by hand rows", table.clone());
            tens.sink_as("tens", table.clone());
        } else {
            hand.discard();
        }
        if plan.bursts {
            bursts
                .key_by(|message| message.device)
                .process(Bursts::new)
                .uid("bursts")
                .sink_as("burst rows", table.clone());
        } else {
            bursts.discard();
        }
        if plan.merged {
            let [odd, even] = merged.split();
            let odd = odd.filter(|message| message.value % 2 == 1).map(|message| (1, message));
            let even = even.filter(|message| message.value % 2 == 0).map(|message| (0, message));
            odd.union(even)
                .key_by(|(which, message)| (*which, message.device))
                .window(ms(EVER_MS))
                .aggregate(Count)
                .uid("merged")
                .map(|row: Windowed<(u32, u32), u64>| (row.key, row.value))
                .sink_as("merged rows", table.clone());
        } else {
            merged.discard();
        }
        two_inputs(plan, two, &table);
        if plan.sliding {
            let size = Duration::from_millis(SLIDING_MS.unsigned_abs());
            let slide = Duration::from_millis(SLIDE_MS.unsigned_abs());
            sliding
                .key_by(|message| message.device)
                .window(Sliding::of(size, slide))
                .aggregate(Sum::of(|message: &Message| message.value))
                .uid("sliding")
                .map(|row| (row.key, row.value))
                .sink_as("sliding rows", table.clone());
        } else {
            sliding.discard();
        }
        if plan.sessions {
            sessions
                .key_by(|message| message.device)
                .window(Session::gap(Duration::from_millis(GAP_MS.unsigned_abs())))
                .aggregate(Sum::of(|message: &Message| message.value))
                .uid("sessions")
                .map(|row| (row.key, row.start.as_millis(), row.value))
                .sink_as("session rows", table.clone());
        } else {
            sessions.discard();
        }
        let [echo, at_once] = echo.map(|message| (message.device, message.sequence)).split();
        if plan.once {
            echo.process(Held::new).uid(HELD.0).sink_as("once", table.clone());
        } else {
            echo.discard();
        }
        if plan.loose {
            at_once.sink_as("at once", loose.clone());
        } else {
            at_once.discard();
        }
        if plan.letters {
            flow.dead_letters()
                .map(|letter: DeadLetter| String::from_utf8_lossy(&letter.payload).into_owned())
                .sink_as("letters", table.clone());
        }
    })
}

/// Operators with two inputs, and a stream that every shard has.
fn two_inputs<C: Chain<Out = Message>>(plan: JobPlan, messages: Stream<C>, table: &Table) {
    let [odd, even, all] = messages.split();
    if plan.paired {
        let odd = odd.filter(|message| message.value % 2 == 1).key_by(|message| message.device);
        let even = even.filter(|message| message.value % 2 == 0).map(|m| (m.device, m.value));
        odd.connect(even.key_by(|(device, _)| *device))
            .process(Paired::new)
            .uid("paired")
            .sink_as("paired rows", table.clone());
    } else {
        odd.discard();
        even.discard();
    }
    if plan.everywhere {
        all.map(|message| (message.device, message.sequence))
            .broadcast()
            .process(OnOne::new)
            .uid("on one")
            .sink_as("everywhere", table.clone());
    } else {
        all.discard();
    }
}

/// What reads the one partition in its order.
fn raw_parts<C: Chain<Out = Message>>(plan: JobPlan, raw: Stream<C>, table: &Table) {
    if !plan.raw {
        return raw.discard();
    }
    let [windows, runs, columns] = raw.split();
    raw_columns(columns, table);
    let (windows, late) = windows.key_by(|message| message.device).window(ms(RAW_MS)).late_output();
    windows
        .aggregate(Sum::of(|message: &Message| message.value))
        .uid("raw")
        .map(|row| (row.key, row.value))
        .sink_as("raw rows", table.clone());
    late.map(|message| (message.device, message.sequence)).sink_as("late", table.clone());
    runs.key_by(|message| message.device)
        .process(Runs::new)
        .uid("runs")
        .sink_as("run rows", table.clone());
}

fn chained_windows<C: Chain<Out = Message>>(messages: Stream<C>, table: &Table) {
    let [first, second] = messages
        .key_by(|message| message.device)
        .window(ms(FIRST_MS))
        .aggregate(Sum::of(|message: &Message| message.value))
        .uid("first")
        .split();
    first.map(|row| (row.key, row.value)).sink_as("first rows", table.clone());
    second
        .key_by(|row: &Windowed<u32, i64>| row.key % SECOND_KEYS)
        .window(ms(SECOND_MS))
        .aggregate(Max::of(|row: &Windowed<u32, i64>| row.value))
        .uid("second")
        .map(|row| (row.key, row.value))
        .sink_as("second rows", table.clone());
}

/// A key and a value.
pub(crate) type Pair = (u32, i64);

fn windowed<C: Chain<Out = Pair>>(plan: JobPlan, pairs: Stream<C>, table: &Table) {
    match plan.of {
        Of::Count => aggregated(plan, pairs, Count, table),
        Of::Sum => aggregated(plan, pairs, Sum::of(|pair: &Pair| pair.1), table),
        Of::Average => aggregated(plan, pairs, Average::of(|pair: &Pair| pair.1 as f64), table),
        Of::Max => aggregated(plan, pairs, Max::of(|pair: &Pair| pair.1), table),
        Of::Min => aggregated(plan, pairs, Min::of(|pair: &Pair| pair.1), table),
        Of::Reduce => {
            aggregated(plan, pairs, Reduce::by(|a: Pair, b: Pair| (a.0, a.1 + b.1)), table);
        }
        Of::Fold => {
            let add = |squares: &mut i64, pair: Pair| *squares += pair.1 * pair.1;
            let merge = |squares: &mut i64, other: &i64| *squares += other;
            aggregated(plan, pairs, Fold::new(|| 0_i64, add, merge), table);
        }
    }
}

fn aggregated<C, A>(plan: JobPlan, pairs: Stream<C>, aggregate: A, table: &Table)
where
    C: Chain<Out = Pair>,
    A: Aggregate<Pair, Accumulator: Send, Output: Debug>,
{
    pairs
        .key_by(|pair| pair.0)
        .window(ms(plan.window_ms))
        .aggregate(aggregate)
        .uid("windows")
        .map(|row| (row.key, row.value))
        .sink_as("window rows", table.clone());
}
