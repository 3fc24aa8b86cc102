//! Sliding and session windows against a naive computation: in front of an exchange, behind one, and as entries of keyed
//! state. The order of records, the sizes of steps and batches, and the number of shards come from a seed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::windows::{Kind, Record, Row, naive};
use common::*;
use thalweg_flow::*;
use thalweg_kernel::{Collector, Timestamp};

/// Records in time up to `disorder_ms`, in bursts with silences between them.
fn records(r: &mut Random, count: u64, keys: u64, disorder_ms: u64) -> Vec<Record> {
    let mut now = -200;
    (0..count)
        .map(|n| {
            now += if r.below(30) == 0 { r.below(90) } else { r.below(4) } as i64;
            (r.below(keys) as u32, now - r.below(disorder_ms + 1) as i64, n as i64 * 7 % 31 - 9)
        })
        .collect()
}

/// Fires like the default trigger, without being it: so windows are kept in keyed state.
struct AtTheEnd;

impl<T> Trigger<T> for AtTheEnd {
    type State = ();

    fn merge(&mut self, _: &mut (), _: &()) {}
}

/// How windows are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In front of the exchange and behind it.
    Exchanged,
    /// On a stream that is partitioned already.
    Placed,
    /// In keyed state.
    PerKey,
    /// All records are kept and added up at the end.
    Listed,
}

fn watermarks(bound: i64) -> Watermarks<impl EventTime<Rec>> {
    wm(bound as u64)
}

/// Adds up a window's values, and counts them.
fn totals() -> impl Aggregate<Rec, Accumulator = (i64, u64), Output = (i64, u64)> {
    Fold::new(
        || (0, 0),
        |sum: &mut (i64, u64), record: Rec| *sum = (sum.0 + record.2 as i64, sum.1 + 1),
        |sum: &mut (i64, u64), other: &(i64, u64)| *sum = (sum.0 + other.0, sum.1 + other.1),
    )
}

struct AddUp;

impl WindowFunction<u32, Vec<Rec>> for AddUp {
    type Out = Windowed<u32, (i64, u64)>;

    fn fire(
        &mut self,
        key: u32,
        window: TimeWindow,
        records: Vec<Rec>,
        out: &mut impl Collector<Self::Out>,
    ) {
        let value = (records.iter().map(|record| record.2 as i64).sum(), records.len() as u64);
        let (start, end) = (window.start, window.end());
        out.record(window.last, Windowed { key, start, end, value });
    }
}

fn run<W>(
    records: &[Record],
    windows: W,
    way: Way,
    bound: i64,
    shards: usize,
    r: &mut Random,
) -> (Vec<Row>, u64)
where
    W: Assigner + Clone + Attach,
{
    let script = records.iter().map(|&(key, time, value)| Act::Record((key, time, value as u64)));
    let source = Scripted::new([script.collect()]);
    let tuning = Tuning {
        step_records_max: 1 + r.below(40),
        batch_records: 1 + r.below(8),
        lane_batches: 1 + r.below(4),
        step_work_max: 1 + r.below(30),
        ..Tuning::default()
    };
    let (out, late) = (Collected::new(), Collected::new());
    let (sink, late_sink) = (out.sink(), late.sink());
    let lists_late = r.below(2) == 0;
    let mut all = build(shards, tuning, &|flow| {
        let stream = flow.source(source.clone(), watermarks(bound));
        let late_sink = lists_late.then(|| late_sink.clone());
        W::attach(windows.clone(), stream, way, sink.clone(), late_sink);
    });
    let mut done = vec![false; shards];
    for step in 0.. {
        assert!(step < 2_000_000, "stalled");
        let n = r.below(shards);
        if !done[n] {
            done[n] = all[n].step(at(step)).unwrap() == Step::Done;
        }
        if done.iter().all(|done| *done) {
            break;
        }
    }
    let row = |(time, row): (Timestamp, Windowed<u32, (i64, u64)>)| {
        assert_eq!(time.plus_ms(1), row.end);
        (row.start.as_millis(), row.key, row.end.as_millis(), row.value.0, row.value.1)
    };
    let mut rows: Vec<_> = out.take_timed().into_iter().map(row).collect();
    rows.sort_unstable();
    let dropped = metric(&all, "numLateRecordsDropped") as u64;
    assert!(!lists_late || dropped == 0);
    (rows, dropped + late.take().len() as u64)
}

type Sink = CollectedSink<Windowed<u32, (i64, u64)>>;
type LateSink = CollectedSink<Rec>;

/// Attaches windows of one kind to a job, in each way.
trait Attach: Sized {
    fn attach<C: Chain<Out = Rec>>(
        self,
        stream: Stream<C>,
        way: Way,
        sink: Sink,
        late: Option<LateSink>,
    );
}

macro_rules! finish {
    ($windowed:expr, $way:expr, $sink:expr, $late:expr) => {{
        let windowed = $windowed;
        let windowed = match $late {
            None => windowed,
            Some(sink) => {
                let (windowed, late) = windowed.late_output();
                late.sink(sink);
                windowed
            }
        };
        match $way {
            Way::Listed => windowed.process(AddUp).sink($sink),
            Way::PerKey => windowed.trigger(AtTheEnd).aggregate(totals()).sink($sink),
            Way::Exchanged | Way::Placed => windowed.aggregate(totals()).sink($sink),
        }
    }};
}

macro_rules! attach {
    ($($windows:ty),*) => {$(
        impl Attach for $windows {
            fn attach<C: Chain<Out = Rec>>(
                self,
                stream: Stream<C>,
                way: Way,
                sink: Sink,
                late: Option<LateSink>,
            ) {
                let keyed = stream.key_by(|record| record.0);
                if way == Way::Placed {
                    // Each is news, so nothing is dropped: it is for a stream that is partitioned.
                    let number = std::cell::Cell::new(0);
                    let placed = keyed.deduplicate(move |_| {
                        number.set(number.get() + 1);
                        number.get()
                    });
                    return finish!(placed.window(self), way, sink, late);
                }
                finish!(keyed.window(self), way, sink, late);
            }
        }
    )*};
}
attach!(Tumbling, Sliding, Session);

fn check(seeds: std::ops::Range<u64>, ways: &[Way], shards: &[usize]) {
    let mut wrong = Vec::new();
    for seed in seeds {
        let mut r = Random::new(seed * 7_919 + 13);
        let bound = [0, 3, 20, 200][r.below(4)];
        let disorder = [0, 10, 60][r.below(3)];
        let keys = [1, 3, 40, 400][r.below(4)];
        let size = 1 + r.below(40) as i64;
        let slide = 1 + r.below(size as u64) as i64;
        let kind = match r.below(4) {
            0 => Kind::Tumbling(size, r.below(50) as i64),
            1 | 2 => Kind::Sliding(size, slide, r.below(50) as i64),
            _ => Kind::Session(1 + r.below(30) as i64),
        };
        let count = r.below(900);
        let records = records(&mut r, count, keys, disorder);
        let (rows, late) = naive(kind, &records, bound);
        for (n, &way) in ways.iter().enumerate() {
            // Seed by seed each way meets each number of shards.
            let shards = shards[(seed as usize + n) % shards.len()];
            let ms = |n: i64| ms(n as u64);
            let found = match kind {
                Kind::Tumbling(size, offset) => {
                    let windows = Tumbling::of(ms(size)).offset(ms(offset));
                    run(&records, windows, way, bound, shards, &mut r)
                }
                Kind::Sliding(size, slide, offset) => {
                    let windows = Sliding::of(ms(size), ms(slide)).offset(ms(offset));
                    run(&records, windows, way, bound, shards, &mut r)
                }
                Kind::Session(gap) => {
                    run(&records, Session::gap(ms(gap)), way, bound, shards, &mut r)
                }
            };
            if found != (rows.clone(), late) {
                let missing = rows.iter().find(|row| !found.0.contains(row));
                let extra = found.0.iter().find(|row| !rows.contains(row));
                let late = (late, found.1);
                wrong.push(format!(
                    "{seed} {kind:?} {way:?} {shards}: {missing:?} {extra:?} late {late:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn windows_equal_a_naive_computation_on_one_shard() {
    check(0..300, &[Way::Exchanged, Way::Placed, Way::PerKey, Way::Listed], &[1]);
}

#[test]
fn windows_equal_a_naive_computation_on_several_shards() {
    check(300..460, &[Way::Exchanged, Way::Placed, Way::PerKey, Way::Listed], &[2, 3, 8]);
}

#[test]
fn rows_of_other_windows_are_refused_before_the_job_starts() {
    fn source(flow: &Flow) -> Stream<impl Chain<Out = (u32, i64)>> {
        let times = Watermarks::monotonous().timestamps(|&(_, time): &(u32, i64)| time);
        flow.source(Collection::new([(1, 1)]), times)
    }
    let error = refusal(&|flow| {
        let windows = Sliding::of(ms(10), ms(20));
        source(flow).key_by(|r| r.0).window(windows).aggregate(Count).discard();
    });
    assert!(error.contains("10ms every 20ms") && error.contains("in neither"), "{error}");
    let error = refusal(&|flow| {
        let windows = Sliding::of(ms(3_600_000), ms(7));
        source(flow).key_by(|r| r.0).window(windows).aggregate(Count).discard();
    });
    assert!(error.contains("slices of time") && error.contains("windows_max"), "{error}");
    let error = refusal(&|flow| {
        let windows = Session::gap(std::time::Duration::from_nanos(7));
        source(flow).key_by(|r| r.0).window(windows).aggregate(Count).discard();
    });
    assert!(error.contains("gaps of 1 ms or more"), "{error}");
}
