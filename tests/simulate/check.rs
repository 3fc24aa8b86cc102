//! Whether a job that has ended has said what it must have, and left nothing behind.

use std::collections::BTreeMap;

use thalweg_kernel::StateKind;

use super::naive::{Expected, expected};
use super::process::HELD;
use super::shapes::{ONLY, OWN, RULED};
use super::sinks::Outlet;
use super::world::World;

/// Compares what a job has said with what a naive program says.
pub(crate) fn check(world: &World) {
    if world.ledger.is_violated() {
        return;
    }
    let outlet = world.outlet.borrow();
    let broker = world.outside.broker.borrow();
    let sessions = outlet.rows("session rows");
    let expected = expected(world.plan, broker.published(), &world.ledger, &sessions);
    for (sink, rows) in &expected.exact {
        compare(world, sink, &outlet.rows(sink), rows);
    }
    // Shown at once, a row may come twice, but not be missing or made up.
    let mut due = expected.at_once.clone();
    due.sort();
    let shown: Vec<_> = outlet.loose().keys().cloned().collect();
    compare(world, "at once", &shown, &due);
    compare_totals(world, &outlet, &expected);
    let (passed, rows) = (world.store.sum(HELD.0, HELD.1), outlet.rows("once").len() as u64);
    if world.plan.once && passed != rows {
        world.ledger.violation(format!("held: {passed} were passed on, and there are {rows} rows"));
    }
    look_for_leaks(world);
    look_for_positions(world);
}

/// Of partitions that are discovered, those that are gone have no position, and all others have one.
fn look_for_positions(world: &World) {
    let there = (0..world.plan.partitions).filter(|&partition| world.outside.is_there(partition));
    let (there, stored) = (there.count(), world.store.left(&[StateKind::Source]));
    let stored = stored.iter().map(|(_, _, entries)| entries).sum::<usize>();
    if world.plan.discovered && stored != there {
        world
            .ledger
            .violation(format!("{there} partitions are there, and {stored} have a position"));
    }
}

fn compare(world: &World, sink: &str, rows: &[String], expected: &[String]) {
    let (lost, more) = (missing(rows, expected), missing(expected, rows));
    if !lost.is_empty() || !more.is_empty() {
        world.ledger.violation(format!(
            "{sink}: lost {} {}; repeated or wrong {} {}",
            lost.len(),
            some(&lost),
            more.len(),
            some(&more)
        ));
    }
}

/// How bursts are divided depends on the clock; what they add up to does not.
fn compare_totals(world: &World, outlet: &Outlet, expected: &Expected) {
    let mut totals = BTreeMap::<u32, (i64, u64)>::new();
    for row in outlet.rows("burst rows") {
        let numbers = row.split(|c: char| !c.is_ascii_digit() && c != '-');
        let numbers: Vec<i64> = numbers.filter_map(|number| number.parse().ok()).collect();
        let [_time, device, sum, count] = numbers[..] else {
            world.ledger.violation(format!("a burst that cannot be read: {row}"));
            continue;
        };
        let total = totals.entry(device as u32).or_default();
        *total = (total.0 + sum, total.1 + count as u64);
    }
    if totals != expected.totals {
        world.ledger.violation(format!(
            "burst rows: totals are {totals:?}, and should be {:?}",
            expected.totals
        ));
    }
}

fn look_for_leaks(world: &World) {
    let kinds = [StateKind::Keyed, StateKind::Timers, StateKind::Windows, StateKind::Operator];
    for (operator, state, entries) in world.store.left(&kinds) {
        // Who must know devices for good; and windows keep how far they have fired, for each of four shards.
        let known = ["numbered", "runs"].contains(&operator.as_str())
            || state == "windows" && entries <= 4
            || [HELD, ONLY, RULED, OWN].contains(&(operator.as_str(), state.as_str()));
        if !known {
            world.ledger.violation(format!(
                "the job has ended, and {operator} has {entries} entries left in {state:?}"
            ));
        }
    }
}

/// Those of `rows` that `from` has not, or has less often; both are in order.
fn missing(from: &[String], rows: &[String]) -> Vec<String> {
    let mut from = from.iter().peekable();
    let mut missing = Vec::new();
    for row in rows {
        while from.next_if(|other| *other < row).is_some() {}
        if from.next_if_eq(&row).is_none() {
            missing.push(row.clone());
        }
    }
    missing
}

fn some(rows: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    let more = if rows.len() > SHOWN_MAX { ", .." } else { "" };
    format!("[{}{more}]", rows[..rows.len().min(SHOWN_MAX)].join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_as_often_as_it_is() {
        let rows = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(missing(&rows("a b b d"), &rows("a b c d")), ["c"]);
        assert_eq!(missing(&rows("a b c d"), &rows("a b b d")), ["b"]);
        assert_eq!(missing(&rows("a"), &rows("a a a")), ["a", "a"]);
    }
}
