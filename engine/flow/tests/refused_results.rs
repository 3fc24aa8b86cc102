#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Results that a sink cannot pass on become dead letters: once, in the epoch of their record, over crashes and on other
//! numbers of shards. None is read again by the sink of the letters.

mod common;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use common::world::{TableSink, TableWriter};
use common::*;
use thalweg_flow::*;
use thalweg_kernel::*;

/// A table that refuses what its function says, at once or when it closes.
#[derive(Clone)]
struct Picky<F> {
    table: TableSink,
    refuses: F,
    late: bool,
}

struct PickyWriter<F> {
    table: TableWriter,
    refuses: F,
    late: bool,
    refused: VecDeque<DeadLetter>,
    closed: bool,
}

impl<T: Debug, F: Fn(&T) -> bool + Clone + 'static> SinkSpec<T> for Picky<F> {
    type Writer = PickyWriter<F>;

    fn describe(&self) -> String {
        "picky".into()
    }

    fn open(&self, cx: &OpenContext) -> Result<PickyWriter<F>, ConnectorError> {
        let table = SinkSpec::<T>::open(&self.table, cx)?;
        let (refuses, late) = (self.refuses.clone(), self.late);
        Ok(PickyWriter { table, refuses, late, refused: VecDeque::new(), closed: false })
    }
}

impl<T: Debug, F: Fn(&T) -> bool> Sink<T> for PickyWriter<F> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        Sink::<T>::ready(&mut self.table)
    }

    fn write(&mut self, time: Timestamp, value: T) -> Result<(), ConnectorError> {
        if (self.refuses)(&value) {
            let letter = DeadLetter::of_result("picky", format!("{value:?}"), time, b"x");
            self.refused.push_back(letter);
            return Ok(());
        }
        self.table.write(time, value)
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        Sink::<T>::flush(&mut self.table)
    }

    fn close(&mut self) -> Result<bool, ConnectorError> {
        self.closed = true;
        Sink::<T>::close(&mut self.table)
    }

    fn refused(&mut self) -> Option<DeadLetter> {
        if self.late && !self.closed { None } else { self.refused.pop_front() }
    }

    fn seal(&mut self, epoch: Epoch, pending: &mut Pending<'_>) -> Result<(), ConnectorError> {
        Sink::<T>::seal(&mut self.table, epoch, pending)
    }

    fn commit(&mut self, epoch: Epoch) -> Result<(), ConnectorError> {
        Sink::<T>::commit(&mut self.table, epoch)
    }
}

/// The last words of a table's rows.
fn words(table: &Table) -> Vec<String> {
    let word = |row: &String| row.rsplit(' ').next().unwrap().trim_matches('"').to_owned();
    let mut words: Vec<_> = table.rows().iter().map(word).collect();
    words.sort();
    words
}

const CRASHES: Crashes = Crashes {
    lives_max: 12,
    moves_max: 40,
    epoch_every_max: 15,
    shards: &[1, 2, 3, 8],
    first_shards: None,
};

/// Method: several partitions, crashes anywhere, 1, 2, 3 and 8 shards in turn; rows and letters are tables whose rows
/// come from commits alone.
#[test]
fn each_refused_result_is_one_letter_over_crashes() {
    let mut crashes = 0;
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let mut partitions = vec![Vec::new(); 1 + random.below(4)];
        let count = 40 + random.below(80);
        for number in 0..count {
            let at = random.below(partitions.len());
            partitions[at].push(number);
        }
        let sorted = |of: &dyn Fn(&u64) -> bool| {
            let mut numbers: Vec<_> = (0..count).filter(of).map(|n| n.to_string()).collect();
            numbers.sort();
            numbers
        };
        let (store, rows, letters) = (Store::default(), Table::default(), Table::default());
        let refuses = |n: &u64| n.is_multiple_of(3);
        let (sink, letter_sink) =
            (Picky { table: rows.sink(), refuses, late: false }, letters.sink());
        let job = move |flow: &Flow| {
            flow.dead_letters().map(|letter| letter.reason).sink_as("letters", letter_sink.clone());
            flow.source(
                Collection::partitioned(partitions.clone()),
                Watermarks::bounded_out_of_orderness(Duration::from_millis(20))
                    .timestamps(|&n: &u64| n as i64)
                    .without_clock_guard(),
            )
            .sink_as("rows", sink.clone());
        };
        crashes += CRASHES.until_done(&mut random, &store, &job);
        assert_eq!(words(&rows), sorted(&|n| !n.is_multiple_of(3)), "seed {seed}");
        assert_eq!(words(&letters), sorted(&|n| n.is_multiple_of(3)), "seed {seed}");
    }
    assert!(crashes > 100, "only {crashes} crashes");
}

/// Runs a job on one shard without checkpoints to its end; the letters that were counted.
fn counted(job: &dyn Fn(&Flow)) -> i64 {
    metric(&run(1, Tuning::default(), job), "numDeadLetters")
}

fn numbers(flow: &Flow) -> Stream<impl Chain<Out = u64> + use<>> {
    let by_value = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
    flow.source(Collection::new(0..10_u64), by_value.without_clock_guard())
}

#[test]
fn what_is_refused_after_the_end_is_counted() {
    let letters = Collected::new();
    let sink = letters.sink();
    let late = Picky { table: Table::default().sink(), refuses: |_: &u64| true, late: true };
    let count = counted(&move |flow| {
        flow.dead_letters().sink(sink.clone());
        numbers(flow).sink(late.clone());
    });
    assert_eq!((count, letters.take().len()), (10, 0));
}

#[test]
fn the_sink_of_the_letters_does_not_read_its_own() {
    let all = Picky { table: Table::default().sink(), refuses: |_: &u64| true, late: false };
    let letters =
        Picky { table: Table::default().sink(), refuses: |_: &DeadLetter| true, late: false };
    let count = counted(&move |flow| {
        flow.dead_letters().sink(letters.clone());
        numbers(flow).sink(all.clone());
    });
    assert_eq!(count, 20);
}
