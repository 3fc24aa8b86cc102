//! A message holds several records, and each of its dead letters says which of them it is about. A message of thousands has
//! few letters.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;
use thalweg_kernel::*;

/// A source of messages; a record is a time, or `None` if it cannot be read.
#[derive(Clone)]
struct Messages(Vec<Vec<Option<i64>>>);

impl SourceSpec for Messages {
    type Item = i64;
    type Partition = Self;

    fn describe(&self) -> String {
        "messages".into()
    }

    fn open(&self, _: &PartitionId, _: &OpenContext) -> Result<Self, ConnectorError> {
        Ok(self.clone())
    }
}

impl Source for Messages {
    type Item = i64;

    fn poll(
        &mut self,
        now: Timestamp,
        _: usize,
        out: &mut impl Emit<i64>,
    ) -> Result<SourceStatus, ConnectorError> {
        for records in self.0.drain(..) {
            let payload = format!("{records:?}");
            let message = Message::new("topic", payload.as_bytes(), now);
            out.begin_message();
            for record in records {
                match record {
                    Some(time) => out.record(time, now, &message),
                    None => {
                        let error = DecodeError::new(Cause::MissingField, "missing", None);
                        out.refused(error, &message);
                    }
                }
            }
            out.end_message();
        }
        Ok(SourceStatus::Ended)
    }

    fn stop(&mut self) {
        self.0.clear();
    }
}

/// The letters of messages, with how many were counted.
fn letters(messages: Vec<Vec<Option<i64>>>) -> (Vec<DeadLetter>, i64) {
    let (out, source) = (Collected::<DeadLetter>::new(), Messages(messages));
    let sink = out.clone();
    let job = move |flow: &Flow| {
        flow.dead_letters().sink(sink.sink());
        let watermarks = Watermarks::monotonous().timestamps(|&time: &i64| time);
        flow.source(source.clone(), watermarks).discard();
    };
    let shards = run(1, Tuning::default(), &job);
    (out.take(), metric(&shards, "numDeadLetters"))
}

/// Goal: whoever sends a letter again knows what else its message holds.
#[test]
fn a_letter_says_which_record_of_its_message_it_is() {
    let ahead = Some(1_000_000_000);
    let (letters, counted) = letters(vec![
        vec![Some(1), None, Some(2), ahead],
        vec![None],
        vec![Some(3)],
        vec![None, None],
    ]);
    let records: Vec<_> = letters.iter().map(|letter| (letter.record, letter.cause)).collect();
    let (missing, ahead) = (Cause::MissingField, Cause::ClockAhead);
    let expected = [
        (Some((2, 4)), missing),
        (Some((4, 4)), ahead),
        (None, missing),
        (Some((1, 2)), missing),
        (Some((2, 2)), missing),
    ];
    assert_eq!((records.as_slice(), counted), (&expected[..], 5));
}

/// Goal: one message of ten thousand records that cannot be read leaves few letters, and all are counted.
#[test]
fn a_message_of_thousands_has_few_letters_that_share_its_payload() {
    let (letters, counted) = letters(vec![vec![None; 10_000]]);
    assert_eq!((letters.len(), counted), (17, 10_000));
    assert_eq!(letters[15].reason, "missing");
    assert_eq!(letters[16].reason, "missing; and 9983 more records of this message were refused");
    assert_eq!(letters[16].record, Some((17, 10_000)));
    let payloads = letters.iter().map(|letter| letter.payload.as_ptr());
    assert!(payloads.clone().all(|at| Some(at) == payloads.clone().next()), "one for all");
}
