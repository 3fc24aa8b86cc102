//! Holds what the sink has against the ledger. Knows nothing of how it came about.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{DEVICES, Fate, Ledger, WINDOW_MS, device_name};
use crate::sinks::Results;
use crate::standings::Standing;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Readings and sums that must be there and are not.
    pub(crate) lost: u64,
    /// Readings and sums that are there once more than they may.
    pub(crate) repeated: u64,
    /// Those that differ from what was published, or that nobody published.
    pub(crate) wrong: u64,
    /// All of that, in words.
    pub(crate) violations: Vec<String>,
}

impl Verdict {
    fn say(&mut self, text: String) {
        self.violations.push(text);
    }
}

/// Compares, exactly.
pub(crate) fn judge(ledger: &Ledger, results: &Results) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.wrong += results.faults.len() as u64;
    verdict.violations.extend(results.faults.iter().cloned());
    let mut found: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let published: BTreeMap<_, _> = ledger
        .messages()
        .iter()
        .map(|message| ((device_name(message.device), message.sequence), message))
        .collect();
    for reading in &results.readings {
        let key = (reading.device.as_str(), reading.sequence);
        *found.entry(key).or_default() += 1;
        match published.get(&(reading.device.to_string(), reading.sequence)) {
            None => {
                verdict.wrong += 1;
                verdict.say(format!("{reading:?} was never published"));
            }
            Some(message) => {
                if (message.time_ms, message.value) != (reading.time_ms, reading.value) {
                    verdict.wrong += 1;
                    verdict.say(format!("{reading:?} was published as {message:?}"));
                }
            }
        }
    }
    let mut sums: BTreeMap<(String, i64), (u64, i64)> = BTreeMap::new();
    let mut standings: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    for message in ledger.messages() {
        let device = device_name(message.device);
        let times = found.get(&(device.as_str(), message.sequence)).copied().unwrap_or_default();
        if times == 0 && message.fate == Fate::Acknowledged {
            verdict.lost += 1;
            verdict.say(format!("lost: {device} {message:?}"));
        }
        if times > 1 {
            verdict.repeated += times - 1;
            verdict.say(format!("{times} times: {device} {message:?}"));
        }
        // What was lost counts as it should have; what nobody knows counts if it is there, in all sinks or in none.
        if times == 0 && message.fate == Fate::Unknown {
            continue;
        }
        let standing = standings.entry(device.clone()).or_default();
        *standing = (standing.0 + 1, standing.1 + message.value);
        // The window of the mark stays open.
        if message.device != DEVICES {
            let start = message.time_ms - message.time_ms.rem_euclid(WINDOW_MS);
            let sum = sums.entry((device, start)).or_default();
            *sum = (sum.0 + 1, sum.1 + message.value);
        }
    }
    judge_sums(&sums, results, &mut verdict);
    judge_standings(&standings, results, &mut verdict);
    verdict
}

/// The table of the changelog is what all changes come to, and no row of earlier is left.
fn judge_standings(
    expected: &BTreeMap<String, (u64, i64)>,
    results: &Results,
    verdict: &mut Verdict,
) {
    let rows =
        expected.iter().filter_map(|(device, &(count, sum))| Standing::of(device, count, sum));
    let right: BTreeSet<_> = rows.collect();
    let mut found: BTreeMap<_, u64> = BTreeMap::new();
    results.standings.iter().for_each(|row| *found.entry(row).or_default() += 1);
    for (row, &times) in &found {
        if !right.contains(*row) {
            verdict.wrong += 1;
            verdict.say(format!("{row:?} is not what the changes of its device come to"));
        } else if times > 1 {
            verdict.repeated += times - 1;
            verdict.say(format!("{times} times: {row:?}"));
        }
    }
    for row in right.iter().filter(|row| !found.contains_key(row)) {
        verdict.lost += 1;
        verdict.say(format!("lost: {row:?}"));
    }
}

fn judge_sums(
    expected: &BTreeMap<(String, i64), (u64, i64)>,
    results: &Results,
    verdict: &mut Verdict,
) {
    let mut found: BTreeMap<(String, i64), u64> = BTreeMap::new();
    for row in &results.sums {
        let key = (row.device.clone(), row.start_ms);
        let right = expected.get(&key);
        if right != Some(&(row.count, row.sum)) {
            verdict.wrong += 1;
            verdict.say(format!("{row:?}, and it should be {right:?} (count, sum)"));
        }
        *found.entry(key).or_default() += 1;
    }
    for (key, sum) in expected {
        match found.get(key).copied().unwrap_or_default() {
            0 => {
                verdict.lost += 1;
                verdict.say(format!("lost: the sum {sum:?} (count, sum) of {key:?}"));
            }
            1 => {}
            times => {
                verdict.repeated += times - 1;
                verdict.say(format!("{times} times: the sum of {key:?}"));
            }
        }
    }
}

/// The rows of each sink that must at least be there in the end.
pub(crate) fn expected_rows(ledger: &Ledger) -> (usize, usize) {
    let acknowledged = ledger.messages().iter().filter(|m| m.fate == Fate::Acknowledged);
    let windows = acknowledged.clone().filter(|m| m.device != DEVICES);
    let windows: std::collections::BTreeSet<_> =
        windows.map(|m| (m.device, m.time_ms.div_euclid(WINDOW_MS))).collect();
    (acknowledged.count(), windows.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Reading;
    use crate::sinks::SumRow;

    /// Three messages of a device, the last one not acknowledged, and what a right job makes of them.
    fn case() -> (Ledger, Results) {
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            ledger.begin(0);
        }
        (0..2).for_each(|number| ledger.acknowledge(number));
        let messages = &ledger.messages()[..2];
        let reading = |m: &crate::ledger::Published| Reading {
            device: "d00".into(),
            sequence: m.sequence,
            time_ms: m.time_ms,
            value: m.value,
        };
        let sum = SumRow {
            device: "d00".into(),
            start_ms: messages[0].time_ms,
            count: 2,
            sum: messages.iter().map(|m| m.value).sum(),
        };
        let readings = messages.iter().map(reading).collect();
        let standings = Standing::of("d00", 2, sum.sum).into_iter().collect();
        let results = Results { readings, sums: vec![sum], standings, ..Results::default() };
        (ledger, results)
    }

    #[track_caller]
    fn check(change: impl FnOnce(&Ledger, &mut Results), lost: u64, repeated: u64, wrong: u64) {
        let (ledger, mut results) = case();
        change(&ledger, &mut results);
        let verdict = judge(&ledger, &results);
        assert_eq!(
            (verdict.lost, verdict.repeated, verdict.wrong),
            (lost, repeated, wrong),
            "{verdict:?}"
        );
        assert_eq!(verdict.violations.is_empty(), lost + repeated + wrong == 0);
    }

    #[test]
    fn what_is_right_passes() {
        check(|_, _| {}, 0, 0, 0);
        assert_eq!(expected_rows(&case().0), (2, 1));
    }

    #[test]
    fn what_nobody_knows_may_be_there_in_both_sinks() {
        let both = |ledger: &Ledger, results: &mut Results| {
            let (m, first) = (ledger.messages()[2], results.readings[0].clone());
            let Reading { device, .. } = first;
            let (sequence, time_ms, value) = (m.sequence, m.time_ms, m.value);
            results.readings.push(Reading { device, sequence, time_ms, value });
            results.sums[0].count += 1;
            results.sums[0].sum += m.value;
            results.standings[0] = Standing::of("d00", 3, results.sums[0].sum).unwrap();
        };
        check(both, 0, 0, 0);
        let one = |ledger: &Ledger, results: &mut Results| {
            both(ledger, results);
            results.sums[0].count -= 1;
        };
        check(one, 0, 0, 1);
    }

    #[test]
    fn every_kind_of_loss_and_repetition_is_seen() {
        check(|_, r| drop(r.readings.remove(0)), 1, 0, 0);
        check(|_, r| r.readings.push(r.readings[0].clone()), 0, 1, 0);
        check(|_, r| r.readings[0].value += 1, 0, 0, 1);
        check(|_, r| r.readings[0].sequence = 9, 1, 0, 1);
        check(|_, r| r.sums.clear(), 1, 0, 0);
        check(|_, r| r.sums.push(r.sums[0].clone()), 0, 1, 0);
        check(|_, r| r.sums[0].sum += 1, 0, 0, 1);
        check(|_, r| r.faults.push("an id with two payloads".into()), 0, 0, 1);
        check(|_, r| r.standings.clear(), 1, 0, 0);
        check(|_, r| r.standings.push(r.standings[0].clone()), 0, 1, 0);
        check(|_, r| r.standings.push(Standing { grade: 9, ..r.standings[0].clone() }), 0, 0, 1);
    }
}
