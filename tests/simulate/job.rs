//! The jobs of the simulation, drawn from the seed. All read the fleet; most parts read it with duplicates
//! removed, and have results that do not depend on the order in which partitions merge.

use std::fmt::Debug;
use std::time::Duration;

use thalweg_flow::{
    Aggregate, Average, Chain, Count, Flow, Fold, Max, Min, Reduce, Session, Sliding, Stream, Sum,
    Tumbling, Windowed,
};
use thalweg_kernel::DeadLetter;

use super::broker::Message;
use super::faults::Defect;
use super::marks::{Marks, read};
use super::process::{Bursts, HELD, Held, Numbered, OnOne, Paired, Runs, by_hand, cell};
use super::random::Random;
use super::shapes::{raw_columns, shapes};
use super::sinks::{Loose, Shared, Table};
use super::source::Fleet;

/// What the windows of a job compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Count,
    Sum,
    Average,
    Max,
    Min,
    Reduce,
    Fold,
}

/// A job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobPlan {
    pub(crate) partitions: usize,
    /// Partitions appear and end while the job runs.
    pub(crate) discovered: bool,
    pub(crate) disorder_ms: i64,
    pub(crate) marks: Marks,
    /// Some messages are late; only parts that do not mind read them.
    pub(crate) late: bool,
    /// Raw messages, duplicates and all, are windowed in the order of the one partition.
    pub(crate) raw: bool,
    pub(crate) windows: bool,
    pub(crate) of: Of,
    pub(crate) window_ms: i64,
    pub(crate) keys: u32,
    pub(crate) filter: bool,
    pub(crate) chained: bool,
    pub(crate) by_hand: bool,
    pub(crate) bursts: bool,
    pub(crate) merged: bool,
    /// Two streams of one key in one operator; a stream that every shard has.
    pub(crate) paired: bool,
    pub(crate) everywhere: bool,
    pub(crate) sliding: bool,
    pub(crate) sessions: bool,
    pub(crate) once: bool,
    pub(crate) loose: bool,
    pub(crate) letters: bool,
    /// See `shapes`.
    pub(crate) columns: bool,
    pub(crate) dealt: bool,
    pub(crate) only: bool,
    pub(crate) ruled: bool,
    /// Keys with clocks of their own, which go on with every so many records.
    pub(crate) own: Option<u32>,
}

impl JobPlan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let late = random.one_in(3);
        let partitions = if late { 1 } else { 1 + random.below(3) };
        let discovered = random.one_in(3);
        // A partition that appears may be behind those that were there before.
        let on_time = !late && (partitions == 1 || !discovered);
        let mut part = || random.one_in(2);
        let [raw, windows, chained, by_hand] = [(); 4].map(|()| part());
        let [bursts, merged, once, loose, letters, filter] = [(); 6].map(|()| part());
        let [paired, everywhere, sliding, sessions] = [(); 4].map(|()| part());
        let [columns, dealt, only, ruled, own] = [(); 5].map(|()| part());
        let own = own.then(|| random.one_of([1, 3]));
        let marks = [Marks::Bounded, Marks::Periodic, Marks::Punctuated, Marks::Counting(4)];
        let marks = random.one_of(marks);
        // What is late by a strategy that looks at the clock depends on the clock.
        let marks = if late && marks == Marks::Periodic { Marks::Bounded } else { marks };
        Self {
            partitions,
            discovered,
            disorder_ms: 20,
            marks,
            late,
            // Nor is it known while other shards look for partitions, so that event time stands.
            raw: partitions == 1 && !discovered && (raw || late) && marks != Marks::Periodic,
            windows: windows && on_time,
            of: random.one_of([
                Of::Count,
                Of::Sum,
                Of::Average,
                Of::Max,
                Of::Min,
                Of::Reduce,
                Of::Fold,
            ]),
            window_ms: random.one_of([7, 30, 200]),
            keys: random.one_of([2, 5, 50]),
            filter,
            chained: chained && on_time,
            by_hand: by_hand && on_time,
            bursts,
            merged,
            paired,
            everywhere,
            sliding: sliding && on_time,
            sessions: sessions && on_time,
            once: once || !(windows || bursts),
            loose,
            letters,
            columns: columns && on_time,
            dealt,
            only,
            ruled,
            own,
        }
    }

    /// Whether no message is late.
    pub(crate) fn is_on_time(&self) -> bool {
        !self.late && (self.partitions == 1 || !self.discovered)
    }

    /// Whether the filter of the windows lets a message pass.
    pub(crate) fn passes(&self, message: &Message) -> bool {
        !self.filter || message.value % 7 != 6
    }
}

/// The stable name of the source.
pub(crate) const SOURCE: &str = "readings";

/// Windows of windows: 30 ms, then 90 ms over [`SECOND_KEYS`] keys.
pub(crate) const FIRST_MS: i64 = 30;
pub(crate) const SECOND_MS: i64 = 90;
pub(crate) const SECOND_KEYS: u32 = 3;

/// Windows that overlap: 40 ms, every 15 ms.
pub(crate) const SLIDING_MS: i64 = 40;
pub(crate) const SLIDE_MS: i64 = 15;

/// A session ends after a silence of this.
pub(crate) const GAP_MS: i64 = 6;

/// Windows of raw messages; some of those are late.
pub(crate) const RAW_MS: i64 = 25;

/// So long that nothing is ever late.
pub(crate) const EVER_MS: i64 = 10_000_000;

pub(crate) fn ms(ms: i64) -> Tumbling {
    Tumbling::of(Duration::from_millis(ms.unsigned_abs()))
}

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
