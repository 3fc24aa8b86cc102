//! The source as a shard polls it: rates, ends, positions.

use serde::Deserialize;
use thalweg_format::Json;
use thalweg_kernel::DeadLetter;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    device: String,
    value: f64,
    ts: i64,
}

#[derive(Default)]
struct Out {
    rows: Vec<Row>,
    dead: Vec<DeadLetter>,
}

impl Emit<Row> for Out {
    fn record(&mut self, value: Row, _: Timestamp, _: &impl Origin) {
        self.rows.push(value);
    }

    fn dead_letter(&mut self, letter: DeadLetter) {
        self.dead.push(letter);
    }
}

type Partition = DatagenPartition<Json<Row>>;

fn open(options: &DatagenOptions, partition: usize, position: &[u8]) -> Result<Partition, String> {
    let source =
        DatagenSource::new(options, Json::<Row>::new()).map_err(|error| error.to_string())?;
    let (next, begun) = match position {
        [] => (partition as u64, None),
        stored => {
            let (next, begun) = source.resume(stored).map_err(|error| error.to_string())?;
            (next, Some(begun))
        }
    };
    Ok(DatagenPartition { spec: source, next, begun, stopped: false })
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn poll(partition: &mut Partition, now_ms: i64, rows_max: usize, out: &mut Out) -> SourceStatus {
    partition.poll(at(now_ms), rows_max, out).unwrap()
}

fn all(options: &DatagenOptions, partition: usize) -> Vec<Row> {
    let (mut source, mut out) = (open(options, partition, &[]).unwrap(), Out::default());
    while poll(&mut source, 0, 7, &mut out) != SourceStatus::Ended {}
    out.rows
}

fn some(rows: u64) -> DatagenOptions {
    DatagenOptions { number_of_rows: Some(rows), ..DatagenOptions::default() }
}

#[test]
fn the_rows_are_the_same_dealt_out_over_any_number_of_partitions() {
    let whole = all(&some(100), 0);
    assert_eq!(whole.len(), 100);
    for partitions in [2, 3, 8] {
        let options = DatagenOptions { partitions, ..some(100) };
        let parts: Vec<Vec<Row>> =
            (0..partitions as usize).map(|part| all(&options, part)).collect();
        for (row, expected) in whole.iter().enumerate() {
            let (part, place) = (row % partitions as usize, row / partitions as usize);
            assert_eq!(&parts[part][place], expected);
        }
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 100);
    }
}

/// Goal: a job that is restored sees each row once, with the times of the first run.
#[test]
fn a_stored_position_goes_on_where_it_was() {
    let mut out = Out::default();
    let mut source = open(&some(100), 0, &[]).unwrap();
    let mut position = Vec::new();
    source.snapshot(Epoch::new(1), &mut position);
    assert!(position.is_empty(), "nothing was read yet");
    for life in 0..11 {
        // Another clock each time: it must not matter.
        poll(&mut source, 5_000 * life, 10, &mut out);
        position.clear();
        source.snapshot(Epoch::new(1), &mut position);
        assert_eq!(position.len(), POSITION_BYTES);
        poll(&mut source, 5_000 * life, 3, &mut Out::default());
        source = open(&some(100), 0, &position).unwrap();
    }
    assert_eq!(out.rows, all(&some(100), 0));
}

#[test]
fn a_position_that_does_not_fit_is_refused_in_words() {
    let mut source = open(&some(9), 0, &[]).unwrap();
    let mut position = Vec::new();
    poll(&mut source, 0, 1, &mut Out::default());
    source.snapshot(Epoch::new(1), &mut position);
    let other = DatagenOptions { partitions: 2, ..some(9) };
    let error = open(&other, 0, &position).unwrap_err();
    assert!(error.contains("had 1 partitions") && error.contains("now 2"), "{error}");
    for wrong in [&position[1..], &[&[9], &position[1..]].concat(), &[&position[..], &[0]].concat()]
    {
        let error = open(&some(9), 0, wrong).unwrap_err();
        assert!(error.contains("newer release, or is damaged"), "{error}");
    }
}

#[test]
fn a_rate_is_kept_in_steps_of_the_clock() {
    let options = DatagenOptions { rows_per_second: Some(2_000), ..DatagenOptions::default() };
    let (mut source, mut out) = (open(&options, 0, &[]).unwrap(), Out::default());
    let ms = |ms| SourceStatus::Waiting(Some(Duration::from_millis(ms)));
    assert_eq!(poll(&mut source, 0, 1_000, &mut out), ms(1));
    assert_eq!(poll(&mut source, 10, 1_000, &mut out), ms(1));
    assert_eq!(out.rows.len(), 20);
    assert_eq!(poll(&mut source, 20, 5, &mut out), SourceStatus::Ready);
    assert_eq!(out.rows.len(), 25);
    assert_eq!(poll(&mut source, 20, 1_000, &mut out), ms(1));
    assert_eq!(out.rows.len(), 40);
    // Half a millisecond from row to row.
    assert_eq!(out.rows[39].ts - out.rows[0].ts, 19);
    // An hour of standing still is not made up for, but for a second.
    while poll(&mut source, 3_600_000, 1_000, &mut out) == SourceStatus::Ready {}
    assert_eq!(out.rows.len(), 2_040);
    // A clock that is set back is counted from anew.
    assert_eq!(poll(&mut source, 100, 1_000, &mut out), ms(1));
    poll(&mut source, 110, 1_000, &mut out);
    assert_eq!(out.rows.len(), 2_060);
}

#[test]
fn a_slow_rate_is_waited_for() {
    let options =
        DatagenOptions { rows_per_second: Some(1), partitions: 2, ..DatagenOptions::default() };
    let (mut source, mut out) = (open(&options, 1, &[]).unwrap(), Out::default());
    assert_eq!(
        poll(&mut source, 0, 9, &mut out),
        SourceStatus::Waiting(Some(Duration::from_secs(1)))
    );
    poll(&mut source, 1_000, 9, &mut out);
    assert_eq!(out.rows.len(), 1);
    let next = poll(&mut source, 1_000, 9, &mut out);
    assert_eq!(next, SourceStatus::Waiting(Some(Duration::from_secs(2))));
}

#[test]
fn a_stop_ends_it_and_what_does_not_decode_is_a_dead_letter() {
    let mut source = open(&DatagenOptions::default(), 0, &[]).unwrap();
    let mut out = Out::default();
    assert_eq!(poll(&mut source, 0, 5, &mut out), SourceStatus::Ready);
    source.stop();
    assert_eq!(poll(&mut source, 0, 5, &mut out), SourceStatus::Ended);
    let fields = Named(vec![("other".into(), fields::usual().0[0].1.clone())]);
    let mut source = open(&DatagenOptions { fields, ..some(3) }, 0, &[]).unwrap();
    while poll(&mut source, 0, 5, &mut out) != SourceStatus::Ended {}
    assert_eq!((out.rows.len(), out.dead.len()), (5, 3));
}

#[test]
fn rows_that_are_made_have_no_user_properties() {
    assert!(!DatagenConnector::has_user_properties(&DatagenOptions::default()));
    assert!(DatagenConnector::paths(&DatagenOptions::default()).is_empty());
}
