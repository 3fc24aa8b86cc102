//! What session windows must come to.
//!
//! A record whose time is exactly [`GAP_MS`] after the last one joins a session, if the session is still open then. Nothing
//! else about sessions depends on the order of records. For each record is ahead of the watermark: the fleet is out of
//! order by no more than watermarks allow. Once a session has ended, the watermark is at its last millisecond or later. So
//! what comes then and is not late begins after the session, a gap later at least.
//!
//! Where a record is a gap later, the watermark says whether the session before it has ended. It has if the watermark is one
//! millisecond behind the record. In one partition, which is there from the start on, the order of the journal tells that.
//! Otherwise the operator's watermark may be farther behind: another partition, a clock, or a search for partitions holds it
//! back. Then both outcomes are right, and the rows say which one it was. A session that no watermark of the record's own
//! partition can have ended is still open in any case.

use std::collections::BTreeMap;

use super::broker::Message;
use super::ledger::Ledger;
use super::marks::Naive;
use super::plan::{GAP_MS, JobPlan};
use super::source::{SOURCE, journal_name};

/// The farthest that the operator's watermark can be when a message first comes: by its device and its sequence.
pub(crate) type Reached = BTreeMap<(u32, u64), i64>;

/// What the journals say of it.
pub(crate) fn reached(plan: JobPlan, ledger: &Ledger) -> Reached {
    let mut reached = Reached::new();
    for partition in 0..plan.partitions {
        let (mut marks, mut watermark) = (Naive::new(plan.marks, plan.disorder_ms), i64::MIN);
        let records = ledger.records(&journal_name(SOURCE, partition));
        for message in records.iter().filter_map(|bytes| Message::decode(bytes)) {
            reached.entry((message.device, message.sequence)).or_insert(watermark);
            watermark = watermark.max(marks.behind(&message).unwrap_or(i64::MIN));
        }
    }
    reached
}

/// Sums of what each device has said without a longer silence, in any order. `found` are the rows of the job.
pub(crate) fn rows(
    plan: JobPlan,
    published: &[Message],
    reached: &Reached,
    found: &[String],
) -> Vec<String> {
    let mut devices = BTreeMap::<u32, BTreeMap<i64, Moment>>::new();
    for message in published {
        let Message { device, sequence, time, value } = *message;
        let watermark = reached.get(&(device, sequence)).copied().unwrap_or(i64::MIN);
        let moment = devices.entry(device).or_default().entry(time);
        let moment = moment.or_insert(Moment { time, sum: 0, watermark });
        moment.sum += value;
        moment.watermark = moment.watermark.min(watermark);
    }
    let mut rows = Vec::new();
    for (device, said) in devices {
        let ends_at = |time: i64| format!("{} ({device}, ", time + GAP_MS - 1);
        let goes_on = |before: &Moment, next: &Moment| {
            let may_have_ended = next.watermark == next.time - 1;
            let has_ended = || {
                plan.is_in_order() || found.iter().any(|row| row.starts_with(&ends_at(before.time)))
            };
            match next.time - before.time {
                GAP_MS => !(may_have_ended && has_ended()),
                silence => silence < GAP_MS,
            }
        };
        let said: Vec<_> = said.into_values().collect();
        for session in said.chunk_by(goes_on) {
            let (start, last) = (session[0].time, session[session.len() - 1].time);
            let sum = session.iter().map(|moment| moment.sum).sum::<i64>();
            rows.push(format!("{}{start}, {sum})", ends_at(last)));
        }
    }
    rows
}

/// What a device has said at one time.
struct Moment {
    time: i64,
    sum: i64,
    /// The farthest that the watermark can be when the first message of this time comes.
    watermark: i64,
}

#[cfg(test)]
mod tests {
    use thalweg_testing::Random;

    use super::super::marks::Marks;
    use super::*;

    /// A device's messages at these times, each with the value 1 and with the watermark that it finds.
    fn of(plan: JobPlan, said: &[(i64, i64)], found: &[&str]) -> Vec<String> {
        let sequences = 1..=said.len() as u64;
        let all: Vec<_> = sequences
            .clone()
            .zip(said)
            .map(|(sequence, &(time, _))| Message { device: 7, sequence, time, value: 1 })
            .collect();
        let reached = sequences.zip(said).map(|(sequence, said)| ((7, sequence), said.1)).collect();
        let found: Vec<_> = found.iter().map(|row| (*row).to_owned()).collect();
        rows(plan, &all, &reached, &found)
    }

    fn plan(partitions: usize) -> JobPlan {
        let drawn = JobPlan::draw(&mut Random::new(1));
        JobPlan { partitions, discovered: false, marks: Marks::Bounded, ..drawn }
    }

    const ONE: [&str; 1] = ["21 (7, 10, 2)"];
    const TWO: [&str; 2] = ["15 (7, 10, 1)", "21 (7, 16, 1)"];

    #[test]
    fn a_record_a_gap_later_is_apart_only_where_the_session_has_ended() {
        assert_eq!(of(plan(1), &[(10, 0), (16, 14)], &TWO), ONE);
        assert_eq!(of(plan(1), &[(10, 0), (16, 15)], &ONE), TWO);
        // The first record of a time decides. What is less than a gap later always joins, and what is more never does.
        assert_eq!(of(plan(1), &[(10, 0), (16, 14), (16, 15)], &[]), ["21 (7, 10, 3)"]);
        assert_eq!(of(plan(1), &[(10, 0), (12, 5), (16, 15)], &[]), ["21 (7, 10, 3)"]);
        assert_eq!(of(plan(1), &[(10, 0), (17, 0)], &[]), ["15 (7, 10, 1)", "22 (7, 17, 1)"]);
    }

    #[test]
    fn only_where_the_watermark_may_be_behind_do_the_rows_tell() {
        for (found, expected) in [(&ONE[..], &ONE[..]), (&TWO, &TWO), (&[], &ONE)] {
            assert_eq!(of(plan(2), &[(10, 0), (16, 15)], found), expected);
            assert_eq!(of(plan(2), &[(10, 0), (16, 14)], found), ONE);
            assert_eq!(of(plan(1), &[(10, 0), (16, 15)], found), TWO);
        }
    }
}
