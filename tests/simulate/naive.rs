//! What a job must have said, computed naively from what was published and, for what reads duplicates too,
//! from what the journal was given.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::broker::Message;
use super::ledger::Ledger;
use super::marks::{Counting, Naive};
use super::plan::{
    EVER_MS, FIRST_MS, JobPlan, Of, RAW_MS, SECOND_KEYS, SECOND_MS, SLIDE_MS, SLIDING_MS,
};
use super::process::{RUN_MS, by_hand_row};
use super::sessions;
use super::shapes::{OWN_MS, SHAPE_MS, column_key, ends_rule, is_kept, makes_rule};
use super::source::{SOURCE, journal_name};

/// The rows of each transactional sink, in order, and those of the sink that is at-least-once.
pub(crate) struct Expected {
    pub(crate) exact: BTreeMap<&'static str, Vec<String>>,
    pub(crate) at_once: Vec<String>,
    /// For each device, sum and count: see `Bursts`.
    pub(crate) totals: BTreeMap<u32, (i64, u64)>,
}

fn row(time: i64, value: impl Debug) -> String {
    format!("{time} {value:?}")
}

/// Values by key and window of this many milliseconds.
fn panes<'a, K: Ord>(
    messages: impl Iterator<Item = &'a Message>,
    window_ms: i64,
    key: impl Fn(&Message) -> K,
) -> BTreeMap<(K, i64), Vec<i64>> {
    let mut panes = BTreeMap::<_, Vec<i64>>::new();
    for message in messages {
        let start = message.time / window_ms * window_ms;
        panes.entry((key(message), start)).or_default().push(message.value);
    }
    panes
}

/// `found` are the rows of session windows: see [`sessions`].
pub(crate) fn expected(
    plan: JobPlan,
    published: &[Message],
    ledger: &Ledger,
    found: &[String],
) -> Expected {
    let mut exact = BTreeMap::<&'static str, Vec<String>>::new();
    let mut give = |sink, rows: Vec<String>| {
        exact.insert(sink, rows);
    };
    let records: Vec<Vec<u8>> = (0..plan.partitions)
        .flat_map(|partition| ledger.records(&journal_name(SOURCE, partition)))
        .collect();
    if plan.raw {
        let raw: Vec<_> = records.iter().filter_map(|bytes| Message::decode(bytes)).collect();
        let (on_time, late, runs) = in_order(plan, &raw);
        let sums = panes(on_time.iter(), RAW_MS, |message| message.device);
        let sums = sums.iter().map(|((device, start), values)| {
            row(start + RAW_MS - 1, (device, values.iter().sum::<i64>()))
        });
        give("raw rows", sums.collect());
        let late_row = |message: &&Message| row(message.time, (message.device, message.sequence));
        give("late", late.iter().map(|message| late_row(&message)).collect());
        give("run rows", runs);
        let kept = |message: &&Message| is_kept(message.value);
        let sums = panes(on_time.iter().filter(kept), RAW_MS, |message| message.device);
        let sums = sums.iter().map(|((device, start), values)| {
            row(start + RAW_MS - 1, (device, values.iter().sum::<i64>()))
        });
        give("raw column rows", sums.collect());
        give("late columns", late.iter().filter(kept).map(|message| late_row(&message)).collect());
    }
    if plan.windows {
        let passing = published.iter().filter(|message| plan.passes(message));
        let panes = panes(passing, plan.window_ms, |message| message.device % plan.keys);
        let rows = panes.iter().map(|((key, start), values)| {
            window_row(plan.of, *key, start + plan.window_ms - 1, values)
        });
        give("window rows", rows.collect());
    }
    if plan.chained {
        let first = panes(published.iter(), FIRST_MS, |message| message.device);
        let mut second = BTreeMap::<(u32, i64), i64>::new();
        let mut rows = Vec::new();
        for ((device, start), values) in first {
            let (time, sum) = (start + FIRST_MS - 1, values.iter().sum::<i64>());
            rows.push(row(time, (device, sum)));
            let most = second.entry((device % SECOND_KEYS, time / SECOND_MS)).or_insert(sum);
            *most = sum.max(*most);
        }
        give("first rows", rows);
        let second = second
            .iter()
            .map(|((key, window), most)| row((window + 1) * SECOND_MS - 1, (key, Some(most))));
        give("second rows", second.collect());
    }
    if plan.by_hand {
        let cells = panes(published.iter(), 50, |message| message.device);
        let rows = cells.into_iter().map(|((device, start), mut values)| {
            values.sort_unstable();
            let mut thirds = BTreeMap::<u8, u32>::new();
            values.iter().for_each(|value| *thirds.entry(*value as u8 % 3).or_default() += 1);
            let thirds: Vec<_> = thirds.into_iter().collect();
            let (sum, count) = (values.iter().sum(), values.len() as u64);
            let cell = (device, start / 50);
            row(start + 50, by_hand_row(cell, &values, &thirds, Some(sum), Some(count)))
        });
        give("by hand rows", rows.collect());
        let tens = published.iter().filter(|message| message.value % 10 == 0);
        let tens = tens.map(|message| row(message.time, (message.device, message.sequence)));
        give("tens", tens.collect());
    }
    if plan.merged {
        let counts = panes(published.iter(), EVER_MS, |message| {
            ((message.value % 2) as u32, message.device)
        });
        let counts = counts
            .iter()
            .map(|((key, start), values)| row(start + EVER_MS - 1, (key, values.len() as u64)));
        give("merged rows", counts.collect());
    }
    if plan.paired {
        let mut pairs = BTreeMap::<u32, [(i64, u64); 2]>::new();
        for message in published {
            let (sum, count) =
                &mut pairs.entry(message.device).or_default()[usize::from(message.value % 2 == 0)];
            (*sum, *count) = (*sum + message.value, *count + 1);
        }
        let rows = pairs.iter().map(|(device, [odd, even])| row(0, (device, odd, even)));
        give("paired rows", rows.collect());
    }
    if plan.sliding {
        let mut windows = BTreeMap::<(u32, i64), i64>::new();
        for message in published {
            let newest = message.time.div_euclid(SLIDE_MS) * SLIDE_MS;
            let starts = (0..).map(|back| newest - back * SLIDE_MS);
            for start in starts.take_while(|start| start + SLIDING_MS > message.time) {
                *windows.entry((message.device, start)).or_default() += message.value;
            }
        }
        let rows =
            windows.iter().map(|((device, start), sum)| row(start + SLIDING_MS - 1, (device, sum)));
        give("sliding rows", rows.collect());
    }
    if plan.sessions {
        let reached = sessions::reached(plan, ledger);
        give("session rows", sessions::rows(plan, published, &reached, found));
    }
    shapes(plan, published, &mut give);
    let echo: Vec<_> = published
        .iter()
        .map(|message| row(message.time, (message.device, message.sequence)))
        .collect();
    if plan.once {
        give("once", echo.clone());
    }
    if plan.everywhere {
        give("everywhere", echo.clone());
    }
    if plan.dealt {
        give("dealt", echo.clone());
    }
    if plan.letters {
        let letters = records.iter().filter(|bytes| Message::decode(bytes).is_none());
        let letters = letters.map(|bytes| row(0, String::from_utf8_lossy(bytes)));
        give("letters", letters.collect());
    }
    exact.values_mut().for_each(|rows| rows.sort());
    let mut totals = BTreeMap::<u32, (i64, u64)>::new();
    for message in published.iter().filter(|_| plan.bursts) {
        let (sum, count) = totals.entry(message.device).or_default();
        *sum += message.value;
        *count += 1;
    }
    let at_once = if plan.loose { echo } else { Vec::new() };
    Expected { exact, at_once, totals }
}

/// The rows of the parts in `shapes`.
fn shapes(plan: JobPlan, published: &[Message], give: &mut impl FnMut(&'static str, Vec<String>)) {
    if plan.columns {
        let kept = published.iter().filter(|message| is_kept(message.value));
        let sums = panes(kept, SHAPE_MS, |message| column_key(message.device));
        let rows = sums.iter().map(|((key, start), values)| {
            row(start + SHAPE_MS - 1, (key, 2 * values.iter().sum::<i64>()))
        });
        give("column rows", rows.collect());
    }
    if plan.dealt && plan.is_on_time() {
        let sums = panes(published.iter(), SHAPE_MS, |message| message.device);
        let rows = sums.iter().map(|((device, start), values)| {
            row(start + SHAPE_MS - 1, (device, values.iter().sum::<i64>()))
        });
        give("dealt rows", rows.collect());
    }
    if plan.only {
        give("only rows", (1..=published.len()).map(|number| row(0, number)).collect());
    }
    if plan.ruled {
        let mut rules = BTreeMap::<u32, (i64, u64)>::new();
        let mut said = BTreeMap::<u32, (i64, u64)>::new();
        for message in published {
            let (sum, count) = said.entry(message.device).or_default();
            (*sum, *count) = (*sum + message.value, *count + 1);
            if makes_rule(message) && ends_rule(message) {
                rules.remove(&message.device);
            } else if makes_rule(message) {
                rules.insert(message.device, (message.value, message.sequence));
            }
        }
        let rules: Vec<_> = rules.into_iter().collect();
        give(
            "ruled rows",
            said.iter().map(|(device, said)| row(0, (device, said, &rules))).collect(),
        );
    }
    if let Some(every) = plan.own {
        let (mut clocks, mut sums) = (BTreeMap::new(), BTreeMap::<(u32, i64), i64>::new());
        let mut rows = Vec::new();
        for &Message { device, sequence, time, value } in published {
            let clock = clocks.entry(device).or_insert((Counting::new(every, OWN_MS), i64::MIN));
            let start = time / SHAPE_MS * SHAPE_MS;
            if start + SHAPE_MS - 1 <= clock.1 {
                let late = Err::<(i64, i64), _>((sequence, value));
                rows.push(row(time, (device, late)));
            } else {
                *sums.entry((device, start)).or_default() += value;
            }
            clock.1 = clock.1.max(clock.0.take(time).unwrap_or(i64::MIN));
        }
        rows.extend(sums.iter().map(|((device, start), sum)| {
            row(start + SHAPE_MS - 1, (device, Ok::<_, (u64, i64)>((start, sum))))
        }));
        give("own rows", rows);
    }
}

/// Follows one partition record by record: what is on time, what is late, and the rows of `Runs`.
fn in_order(plan: JobPlan, raw: &[Message]) -> (Vec<Message>, Vec<Message>, Vec<String>) {
    let (mut on_time, mut late, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut watermark = i64::MIN;
    let mut marks = Naive::new(plan.marks, plan.disorder_ms);
    let mut runs = BTreeMap::<u32, (u64, i64)>::new();
    for message in raw {
        let Message { device, sequence, time, .. } = *message;
        let last = (time / RAW_MS + 1) * RAW_MS - 1;
        if last <= watermark {
            late.push(*message);
        } else {
            on_time.push(*message);
        }
        let run = runs.get(&device).filter(|(_, until)| *until >= watermark);
        let run = run.map_or(1, |(run, _)| run + 1);
        runs.insert(device, (run, watermark.max(time).saturating_add(RUN_MS)));
        rows.push(row(time, (device, sequence, run)));
        watermark = watermark.max(marks.behind(message).unwrap_or(i64::MIN));
    }
    (on_time, late, rows)
}

fn window_row(of: Of, key: u32, time: i64, values: &[i64]) -> String {
    let sum = values.iter().sum::<i64>();
    match of {
        Of::Count => row(time, (key, values.len() as u64)),
        Of::Sum => row(time, (key, sum)),
        Of::Average => row(time, (key, sum as f64 / values.len() as f64)),
        Of::Max => row(time, (key, values.iter().max())),
        Of::Min => row(time, (key, values.iter().min())),
        Of::Reduce => row(time, (key, Some((key, sum)))),
        Of::Fold => row(time, (key, values.iter().map(|value| value * value).sum::<i64>())),
    }
}
