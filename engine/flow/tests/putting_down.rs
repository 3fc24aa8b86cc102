//! Work that does not fit into a step: it is put down and gone on with, and nobody can tell from the results.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_flow::*;
use thalweg_kernel::{Collector, ConnectorError, Mark, OpenContext, Sink, SinkSpec, Timestamp};

use self::common::*;

/// Key, time.
type Record = (u32, i64);

/// Sets as many timers as its key says for each record, some of them for one time. It says what it sees of timers and of
/// records.
struct Alarms {
    seen: ValueState<u32, u64>,
}

impl Process<u32, Record> for Alarms {
    type Out = String;

    fn record(
        &mut self,
        record: Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<String>,
    ) {
        let seen = self.seen.update(cx, |seen| {
            *seen += 1;
            *seen
        });
        out.record(cx.time(), format!("{record:?} as {seen}"));
        (0..i64::from(record.0)).for_each(|n| cx.event_timer(cx.time().plus_ms(3 + n / 2 * 5)));
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<String>) {
        let seen = self.seen.update(cx, |seen| {
            *seen += 1;
            *seen
        });
        out.record(cx.time(), format!("timer of {} at {} as {seen}", cx.key(), cx.time()));
        // What is set at the end of time is there for a stream that goes on, and fires when it ends once more.
        if cx.time().as_millis() % 3 == 0 && cx.watermark() < Timestamp::MAX {
            cx.event_timer(cx.time().plus_ms(4));
        }
    }
}

/// Records of each key stay in order of their times, with leaps.
fn records(seed: u64) -> Vec<Record> {
    let (mut random, mut time) = (Random::new(seed), 0);
    (0..60)
        .map(|_| {
            time += if random.one_in(8) { 100 } else { random.below(6) as i64 };
            (random.below(6) as u32, time)
        })
        .collect()
}

/// Marks and records in the order in which they leave an operator.
struct Log(Rc<RefCell<Vec<String>>>);

impl Operator<String> for Log {
    type Out = String;

    fn record(&mut self, time: Timestamp, value: String, out: &mut impl Collector<String>) {
        self.0.borrow_mut().push(value.clone());
        out.record(time, value);
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<String>) {
        self.0.borrow_mut().push(format!("{mark:?}"));
        out.mark(mark);
    }
}

/// What passes behind the timers of a job on one shard, whose keys may have clocks of their own.
fn log_of(seed: u64, own_clocks: bool, tuning: Tuning) -> Vec<String> {
    let (log, source) = (Rc::<RefCell<_>>::default(), Collection::new(records(seed)));
    let kept = Rc::clone(&log);
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        let keyed = flow
            .source(source.clone(), watermarks.without_clock_guard())
            .key_by(|record: &Record| record.0);
        let keyed = match own_clocks {
            true => keyed.clock_per_key(Watermarks::monotonous()),
            false => keyed,
        };
        keyed
            .process(|states| Alarms { seen: states.value("seen") })
            .then("Log", Log(Rc::clone(&kept)))
            .discard();
    };
    run(1, tuning, &job);
    log.take()
}

/// Goal: whatever fits into a step, the same records and marks leave an operator in the same order.
/// Method: a job whose timers all fit, against jobs that put them down, with steps and batches of other sizes.
#[test]
fn nobody_can_tell_that_work_was_put_down() {
    for (seed, own_clocks) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let all = |step_records_max, step_work_max, state_cache_bytes| {
            let tuning = Tuning { step_records_max, step_work_max, ..Tuning::default() };
            log_of(seed, own_clocks, Tuning { state_cache_bytes, ..tuning })
        };
        let expected = all(1_024, usize::MAX, usize::MAX);
        assert!(expected.iter().any(|line| line.starts_with("timer")));
        for (records, work, cache) in [(1_024, 1, 0), (1_024, 2, 1 << 20), (7, 3, 0), (60, 40, 0)] {
            let what = format!("seed {seed}, {records} {work}, clocks per key: {own_clocks}");
            assert_eq!(all(records, work, cache), expected, "{what}");
        }
    }
}

/// Goal: what is put down is neither lost nor repeated by barriers, crashes and another number of shards.
/// Method: lives of a job that crashes anywhere, with little work in a step, against one that does not.
#[test]
fn work_that_was_put_down_survives_crashes() {
    for seed in 0..30 {
        let table = Table::default();
        let job = |sink: &Table| {
            let (source, sink) = (Collection::new(records(seed)), sink.sink());
            move |flow: &Flow| {
                let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
                flow.source(source.clone(), watermarks.without_clock_guard())
                    .key_by(|record: &Record| record.0)
                    .process(|states| Alarms { seen: states.value("seen") })
                    .sink(sink.clone());
            }
        };
        let (random, calm) = (&mut Random::new(seed), Table::default());
        let crashing = Crashes { lives_max: 6, epoch_every_max: 40, ..Crashes::default() };
        crashing.until_done(random, &Store::default(), &job(&table));
        undisturbed(&Store::default(), &job(&calm));
        let (rows, expected) = (table.rows(), calm.rows());
        let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).collect();
        assert!(rows == expected, "seed {seed}: without {missing:?}");
    }
}

/// Sets this many timers for each record of key 0, and counts them when they fire.
struct Many(u32, Arc<Mutex<u32>>);

impl Process<u32, Record> for Many {
    type Out = u32;

    fn record(&mut self, record: Record, cx: &mut Context<'_, u32>, _: &mut impl Collector<u32>) {
        if record.0 == 0 {
            (0..i64::from(self.0)).for_each(|n| cx.event_timer(cx.time().plus_ms(1 + n)));
        }
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<u32>) {
        *self.1.lock().unwrap() += 1;
        out.record(cx.time(), *cx.key());
    }
}

/// Goal: while one pipeline of a shard works off what a watermark has made due, another one goes on.
#[test]
fn others_go_on_meanwhile() {
    let (fired, passed) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (fired_in, passed_in) = (Arc::clone(&fired), Arc::clone(&passed));
    let job = move |flow: &Flow| {
        let watermarks = || {
            Watermarks::monotonous().timestamps(|record: &Record| record.1).without_clock_guard()
        };
        let fired = Arc::clone(&fired_in);
        flow.source(Collection::new([(0, 0), (1, 1_000_000)]), watermarks())
            .key_by(|record: &Record| record.0)
            .process(|_| Many(1_000, fired))
            .discard();
        let passed = Arc::clone(&passed_in);
        flow.source(Collection::new((0..1_000).map(|n| (n, 0)).collect::<Vec<_>>()), watermarks())
            .inspect(move |_, _| *passed.lock().unwrap() += 1)
            .discard();
    };
    let tuning = Tuning { step_records_max: 1, step_work_max: 10, ..Tuning::default() };
    let mut shards = build(1, tuning, &job);
    let mut before = (0, 0);
    while shards[0].step(Now::default()).unwrap() != Step::Done {
        let (fires, passes) = (*fired.lock().unwrap(), *passed.lock().unwrap());
        assert!(fires - before.0 <= 10, "{} timers in one step", fires - before.0);
        assert!(before.1 >= 1_000 || passes > before.1, "the other pipeline stands still");
        before = (fires, passes);
    }
    assert_eq!(before.0.max(*fired.lock().unwrap()), 1_000);
}

/// Goal: a source that is held, or stopped, has what it emitted worked off, and its end comes last.
#[test]
fn what_was_put_down_ends_before_its_stream() {
    let fired = Arc::new(Mutex::new(0));
    let count = Arc::clone(&fired);
    let (out, ended) = (Collected::new(), Rc::new(RefCell::new(Vec::new())));
    let (sink, log) = (out.sink(), Rc::clone(&ended));
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        let count = Arc::clone(&count);
        flow.source(Collection::new([(0, 0)]), watermarks.without_clock_guard())
            .key_by(|record: &Record| record.0)
            .process(|_| Many(100, count))
            .map(|key| key.to_string())
            .then("Log", Log(Rc::clone(&log)))
            .sink(sink.clone());
    };
    let tuning = Tuning { step_work_max: 7, ..Tuning::default() };
    let shard = &mut build(1, tuning, &job)[0];
    let now = Now { steady: Duration::from_secs(1), ..Now::default() };
    assert_eq!(shard.step(now).unwrap(), Step::Busy);
    shard.hold();
    let mut steps = 0;
    while shard.step(now).unwrap() != Step::Done {
        steps += 1;
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!((*fired.lock().unwrap(), out.take().len()), (100, 100));
    assert_eq!(ended.borrow().last().map(String::as_str), Some("End"));
}

/// Passes records on, and says something about their key in every step.
struct Ticks;

impl Process<u32, Record> for Ticks {
    type Out = Record;

    fn record(
        &mut self,
        record: Record,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Record>,
    ) {
        out.record(cx.time(), record);
        cx.processing_timer(cx.processing_time());
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Record>) {
        out.record(cx.time(), (1, 0));
        cx.processing_timer(cx.processing_time());
    }
}

/// [`Many`], which nothing may reach once its stream has ended.
struct UntilTheEnd(Many, bool);

impl Process<u32, Record> for UntilTheEnd {
    type Out = u32;

    fn record(&mut self, record: Record, cx: &mut Context<'_, u32>, out: &mut impl Collector<u32>) {
        assert!(!self.1, "a record behind the end");
        self.0.record(record, cx, out);
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<u32>) {
        self.0.timer(cx, out);
    }

    fn close(&mut self, _: &mut Context<'_, NoKey>, _: &mut impl Collector<u32>) {
        self.1 = true;
    }
}

/// Goal: an operator whose end waited behind the work of the next one says nothing in the step in which the end leaves.
#[test]
fn nothing_follows_an_end_that_was_put_aside() {
    let fired = Arc::new(Mutex::new(0));
    let count = Arc::clone(&fired);
    let job = move |flow: &Flow| {
        let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
        let many = Many(100, Arc::clone(&count));
        flow.source(Collection::new([(0, 0)]), watermarks.without_clock_guard())
            .key_by(|record: &Record| record.0)
            .process_keyed(|_| Ticks)
            .process(|_| UntilTheEnd(many, false))
            .discard();
    };
    let tuning = Tuning { step_work_max: 7, ..Tuning::default() };
    run(1, tuning, &job);
    assert_eq!(*fired.lock().unwrap(), 100);
}

/// A sink with little room. Its rows may have to wait for their epoch.
#[derive(Clone)]
struct Narrow {
    rows: Arc<Mutex<Vec<u32>>>,
    holds: bool,
}

const NARROW_ROWS: usize = 10;

impl SinkSpec<u32> for Narrow {
    type Writer = Self;

    fn describe(&self) -> String {
        "narrow".into()
    }

    fn open(&self, _: &OpenContext) -> Result<Self, ConnectorError> {
        Ok(self.clone())
    }
}

impl Sink<u32> for Narrow {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Ok(self.rows.lock().unwrap().len() < NARROW_ROWS)
    }

    fn awaits_epoch(&self) -> bool {
        self.holds
    }

    fn write(&mut self, _: Timestamp, row: u32) -> Result<(), ConnectorError> {
        self.rows.lock().unwrap().push(row);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        Ok(true)
    }
}

/// Goal: what a watermark has made due waits for room in a sink, and so does a barrier that comes meanwhile. Where only the
/// epoch of the barrier makes room, all goes on.
#[test]
fn a_barrier_waits_behind_work_for_which_a_sink_has_no_room() {
    const TIMERS: u32 = 1_000;
    const WORK_MAX: usize = 7;
    for holds in [false, true] {
        let (rows, store) = (Arc::new(Mutex::new(Vec::new())), Store::default());
        let sink = Narrow { rows: Arc::clone(&rows), holds };
        let job = move |flow: &Flow| {
            let watermarks = Watermarks::monotonous().timestamps(|record: &Record| record.1);
            flow.source(
                Collection::new([(0, 0), (1, 1_000_000)]),
                watermarks.without_clock_guard(),
            )
            .key_by(|record: &Record| record.0)
            .process(|_| Many(TIMERS, Arc::default()))
            .sink(sink.clone());
        };
        let tuning = Tuning { step_work_max: WORK_MAX, ..Tuning::default() };
        let storage = Some(store.storage());
        let cx = BuildContext { tuning, storage, ..BuildContext::single("narrow") };
        let mut shard = Shard::build(&job, &cx).unwrap();
        while rows.lock().unwrap().is_empty() {
            shard.step(Now::default()).unwrap();
        }
        let (epoch, mut taken, mut snapshot) = (store.epoch().next(), 0, None);
        shard.begin(epoch);
        for step in 0..4 * TIMERS {
            shard.step(Now::default()).unwrap();
            snapshot = shard.snapshot().unwrap();
            if snapshot.is_some() {
                break;
            }
            let mut rows = rows.lock().unwrap();
            let rows_max = if holds { TIMERS as usize } else { NARROW_ROWS + WORK_MAX };
            assert!(rows.len() <= rows_max, "{} rows in a sink that is full", rows.len());
            // Nobody takes a row from it for a while.
            if !holds && step > TIMERS {
                taken += rows.drain(..).len();
            }
        }
        assert!(snapshot.is_some(), "the barrier waits for ever");
        assert_eq!(taken + rows.lock().unwrap().len(), TIMERS as usize);
    }
}
