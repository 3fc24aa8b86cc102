#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Partitions that appear, grow, end and go away while a job runs, on 1, 2, 3 and 8 shards and through crashes.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::partition::SOURCE_PARTITIONS_MAX;
use thalweg_kernel::*;

/// A partition's number, and its time.
type Reading = (u32, i64);

/// Partitions as they are outside: what each has so far, and whether it is to be read to its end now.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Outside>>);

#[derive(Default)]
struct Outside {
    parts: BTreeMap<PartitionId, Part>,
    gone: BTreeSet<PartitionId>,
    /// No more will appear or grow.
    complete: bool,
    /// A look finds everything at once only after this many looks.
    looks_before: usize,
    /// How often it was opened, and from where.
    opened: Vec<(PartitionId, u64)>,
    /// For each of these openings, the epoch that it goes on from.
    restored: Vec<Option<Epoch>>,
    /// With each look, these readings more of a partition.
    script: Vec<(PartitionId, Vec<Reading>)>,
}

#[derive(Clone, Default)]
struct Part {
    readings: Vec<Reading>,
    /// It does not end when it has been read.
    goes_on: bool,
}

impl Shelf {
    fn put(&self, id: &str, readings: &[Reading], goes_on: bool) {
        let parts = &mut self.0.lock().unwrap().parts;
        let part = parts.entry(PartitionId::new(id)).or_default();
        part.readings.extend_from_slice(readings);
        part.goes_on = goes_on;
    }

    fn take_away(&self, id: &str) {
        let mut outside = self.0.lock().unwrap();
        let id = PartitionId::new(id);
        outside.parts.remove(&id);
        outside.gone.insert(id);
    }
}

/// What a shard has told of: how much each partition had then.
struct Looking(Shelf, BTreeMap<PartitionId, usize>, usize);

impl Discover for Looking {
    fn discover(
        &mut self,
        _: Timestamp,
        _: usize,
        news: &mut Vec<PartitionNews>,
    ) -> Result<Discovery, ConnectorError> {
        let Self(shelf, told, looks) = self;
        let outside = &mut *shelf.0.lock().unwrap();
        *looks += 1;
        if *looks <= outside.looks_before {
            return Ok(Discovery::Listing);
        }
        if let Some((id, readings)) = outside.script.pop() {
            outside.parts.entry(id).or_default().readings.extend(readings);
        }
        for id in &outside.gone {
            if told.remove(id).is_some() {
                news.push(PartitionNews::Gone(id.clone()));
            }
        }
        for (id, part) in &outside.parts {
            if told.insert(id.clone(), part.readings.len()) != Some(part.readings.len()) {
                news.push(PartitionNews::Found(id.clone()));
            }
        }
        let ended = outside.complete && outside.script.is_empty();
        Ok(if ended { Discovery::Ended } else { Discovery::Listed(Some(Duration::from_millis(1))) })
    }
}

struct Reads(Shelf, PartitionId, u64, bool);

impl SourceSpec for Shelf {
    type Item = Reading;
    type Partition = Reads;

    fn describe(&self) -> String {
        "shelf".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::Discovered
    }

    fn open(&self, id: &PartitionId, cx: &OpenContext) -> Result<Reads, ConnectorError> {
        let position = cx.durability.position.as_deref();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let mut outside = self.0.lock().unwrap();
        outside.opened.push((id.clone(), next));
        outside.restored.push(cx.durability.restored);
        drop(outside);
        Ok(Reads(self.clone(), id.clone(), next, false))
    }

    fn discover(
        &self,
        known: &[KnownPartition],
        _: &OpenContext,
    ) -> Result<Box<dyn Discover>, ConnectorError> {
        // Those that have ended are told of again, now and then: they are found to have ended.
        let known = known.iter().filter(|known| known.ended && known.position[0] % 2 == 0);
        let told = known.map(|known| {
            let read = u64::from_le_bytes(known.position.as_ref().try_into().unwrap());
            (known.id.clone(), read as usize)
        });
        Ok(Box::new(Looking(self.clone(), told.collect(), 0)))
    }
}

impl Source for Reads {
    type Item = Reading;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<Reading>,
    ) -> Result<SourceStatus, ConnectorError> {
        let Self(shelf, id, next, stopping) = self;
        let part = shelf.0.lock().unwrap().parts.get(id).cloned().unwrap_or_default();
        let rest = part.readings.get(*next as usize..).unwrap_or_default();
        if *stopping {
            return Ok(SourceStatus::Ended);
        }
        rest.iter().take(records_max).for_each(|&reading| out.record(reading, now, &Generated));
        *next += rest.len().min(records_max) as u64;
        Ok(match (rest.len() > records_max, part.goes_on) {
            (true, _) => SourceStatus::Ready,
            (false, true) => SourceStatus::Waiting(None),
            (false, false) => SourceStatus::Ended,
        })
    }

    fn stop(&mut self) {
        self.3 = true;
    }

    fn snapshot(&mut self, _: Epoch, position: &mut Vec<u8>) {
        position.extend_from_slice(&self.2.to_le_bytes());
    }
}

fn watermarks(disorder_ms: u64) -> Watermarks<impl EventTime<Reading>> {
    Watermarks::bounded_out_of_orderness(Duration::from_millis(disorder_ms))
        .idle_after(Duration::from_millis(20))
        .timestamps(|&(_, time): &Reading| time)
        .without_clock_guard()
}

/// Gives each reading once, and counts them in windows in which nothing is ever late.
fn job(shelf: &Shelf, table: &Table) -> impl Fn(&Flow) + use<> {
    let (shelf, sink) = (shelf.clone(), table.sink());
    move |flow| {
        let [echo, windows] = flow.source_as("shelf", shelf.clone(), watermarks(0)).split();
        echo.sink_as("echo", sink.clone());
        windows
            .key_by(|&(part, _)| part % 7)
            .window(Tumbling::of(Duration::from_secs(100_000)))
            .aggregate(Count)
            .map(|row| (row.key, row.value))
            .sink_as("counts", sink.clone());
    }
}

/// Goal: each reading counts once, whenever its partition appears, grows or ends, and wherever the job crashes.
/// Method: partitions are given by a script that goes on from life to life, on other numbers of shards.
#[test]
fn partitions_that_appear_are_read_once_through_crashes_and_on_any_number_of_shards() {
    let mut crashes = 0;
    for seed in 0..60 {
        for first_shards in [1, 2, 3, 8] {
            let mut random = Random::new(seed);
            let shelf = Shelf::default();
            let parts = 1 + random.below(12);
            let mut script = Vec::new();
            let mut expected = BTreeMap::<u32, Vec<i64>>::new();
            for _ in 0..parts * 2 {
                let part = random.below(parts) as u32;
                let readings = expected.entry(part).or_default();
                let from = readings.len();
                let mut time = readings.last().copied().unwrap_or(random.below(500) as i64);
                for _ in 0..random.below(60) {
                    time += random.below(9) as i64;
                    readings.push(time);
                }
                let more = readings[from..].iter().map(|&time| (part, time)).collect();
                let named = part.is_multiple_of(2);
                let id = if named { format!("part {part}") } else { part.to_string() };
                script.push((PartitionId::new(id), more));
            }
            script.reverse();
            {
                let mut outside = shelf.0.lock().unwrap();
                (outside.script, outside.complete) = (script, true);
                outside.looks_before = random.below(3);
            }
            let (store, table) = (Store::default(), Table::default());
            let job = job(&shelf, &table);
            let crashing = Crashes {
                lives_max: 6,
                moves_max: 80,
                epoch_every_max: 24,
                first_shards: Some(first_shards),
                ..Crashes::default()
            };
            crashes += crashing.until_done(&mut random, &store, &job);
            let mut counts = BTreeMap::<u32, usize>::new();
            let mut rows = Vec::new();
            for (part, times) in &expected {
                if !times.is_empty() {
                    *counts.entry(part % 7).or_default() += times.len();
                }
                rows.extend(
                    times.iter().map(|time| format!("{} ({part}, {time})", Timestamp::from(*time))),
                );
            }
            rows.extend(counts.iter().map(|(key, count)| format!("99999999 ({key}, {count})")));
            rows.sort();
            let found = table.rows();
            let lost: Vec<_> = rows.iter().filter(|row| !found.contains(row)).collect();
            assert!(lost.is_empty(), "seed {seed}, {first_shards} shards: lost {lost:?}");
            assert_eq!(found.len(), rows.len(), "seed {seed}, {first_shards} shards: repeated");
            assert!(found == rows, "seed {seed}, {first_shards} shards");
        }
    }
    assert!(crashes > 300, "only {crashes} crashes");
}

/// Counts in windows of 100 ms, and gives what is late.
fn windows(shelf: &Shelf, table: &Table) -> impl Fn(&Flow) + use<> {
    let (shelf, sink) = (shelf.clone(), table.sink());
    move |flow| {
        let (windows, late) = flow
            .source_as("shelf", shelf.clone(), watermarks(0))
            .key_by(|_| 0_u32)
            .window(Tumbling::of(Duration::from_millis(100)))
            .late_output();
        windows.aggregate(Count).map(|row| row.value).sink_as("counts", sink.clone());
        late.map(|(part, _)| format!("late {part}")).sink_as("late", sink.clone());
    }
}

fn run(shards: &mut [Shard], ms: u64) {
    step_all(shards, at(ms));
}

fn epoch(shards: &mut [Shard], store: &Store, ms: u64) {
    common::epoch(shards, store, at(ms));
}

#[test]
fn a_partition_that_appears_holds_time_where_it_is_and_turns_nothing_back() {
    for count in [1, 2, 3, 8] {
        let (shelf, store, table): (Shelf, Store, Table) = Default::default();
        let mut shards = build_from(&store, count, &windows(&shelf, &table));
        shelf.put("a", &[(1, 10), (1, 1_010)], true);
        run(&mut shards, 0);
        epoch(&mut shards, &store, 1);
        assert_eq!(table.rows(), ["99 1"], "{count} shards");
        let time = |shards: &[Shard]| {
            let metrics = shards.iter().flat_map(Shard::metrics);
            let metrics = metrics.filter(|metric| metric.name == "currentOutputWatermark");
            metrics.map(Metric::value).max()
        };
        assert_eq!(time(&shards), Some(1_009), "{count} shards");
        // What it has behind the watermark is late; for what it has beyond, time waits.
        shelf.put("b", &[(2, 50), (2, 1_020)], true);
        run(&mut shards, 2);
        assert!(time(&shards) >= Some(1_009), "{count} shards: time went back");
        shelf.put("a", &[(1, 3_000)], true);
        run(&mut shards, 3);
        shelf.put("b", &[(2, 1_030)], true);
        run(&mut shards, 4);
        epoch(&mut shards, &store, 5);
        assert_eq!(table.rows(), ["50 \"late 2\"", "99 1"], "{count} shards");
        // It falls silent, and time goes on without it.
        run(&mut shards, 20);
        shelf.put("a", &[(1, 4_000)], true);
        run(&mut shards, 30);
        epoch(&mut shards, &store, 31);
        let rows = ["1099 3", "3099 1", "50 \"late 2\"", "99 1"];
        assert_eq!(table.rows(), rows, "{count} shards");
    }
}

#[test]
fn a_partition_that_the_job_resumes_holds_time_back_until_it_is_found() {
    for count in [1, 2, 3, 8] {
        let (shelf, store, table): (Shelf, Store, Table) = Default::default();
        let job = windows(&shelf, &table);
        let mut shards = build_from(&store, 1, &job);
        shelf.put("a", &[(1, 110)], true);
        shelf.put("b", &[(2, 120)], true);
        run(&mut shards, 0);
        epoch(&mut shards, &store, 1);
        let a = shelf.0.lock().unwrap().parts.remove(&PartitionId::new("a")).unwrap();
        shelf.put("b", &[(2, 1_000)], true);
        let mut shards = build_from(&store, count, &job);
        run(&mut shards, 0);
        epoch(&mut shards, &store, 1);
        assert_eq!(table.rows(), [""; 0], "{count} shards");
        shelf.0.lock().unwrap().parts.insert(PartitionId::new("a"), a);
        shelf.put("a", &[(1, 130), (1, 1_000)], true);
        run(&mut shards, 2);
        epoch(&mut shards, &store, 3);
        assert_eq!(table.rows(), ["199 3"], "{count} shards");
    }
}

#[test]
fn what_is_gone_is_forgotten_and_what_was_lost_is_counted() {
    let (shelf, store, table): (Shelf, Store, Table) = Default::default();
    let job = windows(&shelf, &table);
    let mut shards = build_from(&store, 2, &job);
    shelf.put("read", &[(1, 110)], false);
    shelf.put("half", &[(2, 120)], true);
    run(&mut shards, 0);
    epoch(&mut shards, &store, 1);
    epoch(&mut shards, &store, 2);
    shelf.take_away("read");
    run(&mut shards, 3);
    epoch(&mut shards, &store, 4);
    // Another of the name is read from its beginning.
    shelf.0.lock().unwrap().gone.clear();
    shelf.put("read", &[(1, 130)], false);
    run(&mut shards, 5);
    epoch(&mut shards, &store, 6);
    let opened = shelf.0.lock().unwrap().opened.clone();
    let read: Vec<_> = opened.iter().filter(|(id, _)| id.as_str() == "read").collect();
    assert_eq!(read.iter().map(|(_, from)| *from).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(metric(&shards, "numPartitionsLost"), 0);

    let (lost, mut shards) = (PartitionId::new("half"), build_from(&store, 3, &job));
    struct Knows(PartitionId);
    impl Discover for Knows {
        fn discover(
            &mut self,
            _: Timestamp,
            _: usize,
            news: &mut Vec<PartitionNews>,
        ) -> Result<Discovery, ConnectorError> {
            news.push(PartitionNews::Gone(self.0.clone()));
            Ok(Discovery::Listed(None))
        }
    }
    drop(shards);
    struct Without(Shelf, PartitionId);
    impl SourceSpec for Without {
        type Item = Reading;
        type Partition = Reads;
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn partitions(&self) -> Partitions {
            Partitions::Discovered
        }
        fn open(&self, id: &PartitionId, cx: &OpenContext) -> Result<Reads, ConnectorError> {
            self.0.open(id, cx)
        }
        fn discover(
            &self,
            _: &[KnownPartition],
            _: &OpenContext,
        ) -> Result<Box<dyn Discover>, ConnectorError> {
            Ok(Box::new(Knows(self.1.clone())))
        }
    }
    let again = move |flow: &Flow| {
        let spec = Without(shelf.clone(), lost.clone());
        let (windows, late) = flow
            .source_as("shelf", spec, watermarks(0))
            .key_by(|_| 0_u32)
            .window(Tumbling::of(Duration::from_millis(100)))
            .late_output();
        windows.aggregate(Count).map(|row| row.value).sink_as("counts", table.sink());
        late.map(|(part, _)| format!("late {part}")).sink_as("late", table.sink());
    };
    shards = build_from(&store, 3, &again);
    run(&mut shards, 0);
    assert_eq!(metric(&shards, "numPartitionsLost"), 1);
}

#[test]
fn without_checkpoints_a_partition_that_grows_is_read_on() {
    let (shelf, table): (Shelf, Table) = Default::default();
    let rows = Collected::new();
    let (source, sink) = (shelf.clone(), rows.sink());
    let job = move |flow: &Flow| {
        flow.source(source.clone(), watermarks(0)).sink(sink.clone());
    };
    let mut shard = build(1, Tuning::default(), &job);
    shelf.put("a", &[(1, 10)], false);
    run(&mut shard, 0);
    shelf.put("a", &[(1, 20)], false);
    run(&mut shard, 5);
    assert_eq!(rows.take(), [(1, 10), (1, 20)]);
    assert_eq!(shelf.0.lock().unwrap().opened.len(), 2);
    shard[0].stop();
    run_to_end(&mut shard, at(6));
    assert_eq!(table.rows(), [""; 0]);
}

#[test]
fn more_partitions_than_a_shard_may_know_end_the_job_in_words() {
    let shelf = Shelf::default();
    (0..=SOURCE_PARTITIONS_MAX).for_each(|n| shelf.put(&n.to_string(), &[], false));
    let source = shelf.clone();
    let job = move |flow: &Flow| flow.source(source.clone(), watermarks(0)).discard();
    let mut shard = build(1, Tuning::default(), &job);
    let error = shard[0].step(at(0)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("65536 partitions"), "{error}");
    let twice = Collection::partitioned(vec![vec![1]; SOURCE_PARTITIONS_MAX + 1]);
    let job = move |flow: &Flow| flow.source(twice.clone(), Watermarks::monotonous()).discard();
    let error = refusal(&job);
    assert!(error.contains("65537 partitions; 65536 are allowed"), "{error}");
}

/// Goal: a partition that is opened while the job runs goes on from the newest epoch that exists then, and not from the
/// job's first.
#[test]
fn a_partition_goes_on_from_what_is_durable_when_it_is_opened() {
    let (shelf, store, table): (Shelf, Store, Table) = Default::default();
    let mut shards = build_from(&store, 1, &windows(&shelf, &table));
    shelf.put("a", &[(1, 10)], false);
    run(&mut shards, 0);
    epoch(&mut shards, &store, 1);
    epoch(&mut shards, &store, 2);
    // It had ended, and was closed.
    shelf.put("a", &[(1, 20)], false);
    run(&mut shards, 3);
    epoch(&mut shards, &store, 4);
    drop(shards);
    shelf.put("a", &[(1, 30)], true);
    let mut shards = build_from(&store, 1, &windows(&shelf, &table));
    run(&mut shards, 5);
    let outside = shelf.0.lock().unwrap();
    assert_eq!(outside.opened.iter().map(|(_, from)| *from).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(outside.restored, [None, Some(Epoch::new(2)), Some(Epoch::new(3))]);
}
