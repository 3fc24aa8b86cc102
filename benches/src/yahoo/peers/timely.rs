//! [timely dataflow](https://docs.rs/timely): epochs of 10 ms of event time; counts are kept for each
//! window and emitted when the frontier has passed it. [`Counting`] says where: as its examples do it, or also in
//! front of the exchange, as Thalweg does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::anyhow;
use hashbrown::HashMap;
use timely::Config;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::dataflow::operators::vec::{Filter, Map};
use timely::dataflow::operators::{Capability, Input, Inspect, Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, StreamVec};

use crate::yahoo::workload::{Ads, Answer, CampaignView, Event, EventType, T0_MS, View};

/// Event time in each epoch.
const EPOCH_MS: i64 = 10;

/// How far a worker may run ahead of the slowest one. Channels between workers have no bound of their
/// own.
const AHEAD_EPOCHS: u64 = 100;

/// How long a worker that is ahead parks before it looks again.
const PARKED_MAX: Duration = Duration::from_millis(1);

fn epoch(event_time: i64) -> u64 {
    ((event_time - T0_MS) / EPOCH_MS) as u64
}

/// Where the views of a window are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// By the worker that has the campaign: every view passes the exchange.
    BehindTheExchange,
    /// Each worker counts what it has read. The worker that has the campaign adds the counts up: one for each
    /// campaign, window and worker passes the exchange.
    OnBothSides,
}

/// Runs it.
///
/// # Errors
/// If the workers cannot be started, or one panics.
pub fn run(
    counting: Counting,
    cores: usize,
    events: u64,
    window_ms: i64,
) -> anyhow::Result<Answer> {
    let config = if cores == 1 { Config::thread() } else { Config::process(cores) };
    let workers = timely::execute(config, move |worker| {
        let ads = Ads;
        let campaigns = ads.campaign_of_ad();
        let answer = Rc::new(RefCell::new(Answer::default()));
        let rows = Rc::clone(&answer);
        let mut input = InputHandle::<u64, _>::new();
        let probe = ProbeHandle::new();
        worker.dataflow(|scope| {
            let views = scope
                .input_from(&mut input)
                .filter(|event: &Event| event.event_type == EventType::View)
                .map(|event| View { ad_id: event.ad_id, event_time: event.event_time })
                .map(move |view| CampaignView {
                    campaign_id: campaigns[&view.ad_id],
                    event_time: view.event_time,
                });
            // A campaign's id is a hash already.
            let counts = match counting {
                Counting::BehindTheExchange => {
                    let to_owner = Exchange::new(|view: &CampaignView| view.campaign_id);
                    counted(views, to_owner, "CountViews", window_ms, one)
                }
                Counting::OnBothSides => {
                    let sums = counted(views, Pipeline, "CountOwnViews", window_ms, one);
                    let to_owner = Exchange::new(|sum: &Count| sum.0);
                    counted(sums, to_owner, "AddCounts", window_ms, |sum| sum)
                }
            };
            counts
                .inspect(move |&(campaign, start, count)| {
                    rows.borrow_mut().add(campaign, start, window_ms, count);
                })
                .probe_with(&probe);
        });

        for event in ads.slice(worker.index(), worker.peers(), events) {
            let now = epoch(event.event_time);
            if now > *input.time() {
                input.advance_to(now);
                worker.step();
                while probe.less_than(&now.saturating_sub(AHEAD_EPOCHS)) {
                    // Not a mere step: on a busy machine the one waited for needs the core.
                    worker.step_or_park(Some(PARKED_MAX));
                }
            }
            input.send(event);
        }
        input.close();
        while worker.step_or_park(None) {}
        *answer.borrow()
    });
    let mut answer = Answer::default();
    for part in workers.map_err(|error| anyhow!("timely does not start: {error}"))?.join() {
        answer.merge(&part.map_err(|error| anyhow!("a timely worker failed: {error}"))?);
    }
    Ok(answer)
}

/// A campaign, a time in a window, and how often it was seen there.
type Count = (u64, i64, u64);

fn one(view: CampaignView) -> Count {
    (view.campaign_id, view.event_time, 1)
}

/// What `count` says of the records, added up for each campaign and window. A sum leaves when the frontier has passed
/// its window, whose start is its time.
fn counted<'scope, R: 'static, P: ParallelizationContract<u64, Vec<R>>>(
    records: StreamVec<'scope, u64, R>,
    pact: P,
    name: &str,
    window_ms: i64,
    count: impl Fn(R) -> Count + 'static,
) -> StreamVec<'scope, u64, Count> {
    records.unary_frontier(pact, name, move |_capability, _info| {
        let mut windows = BTreeMap::<i64, Window>::new();
        move |(input, frontier), output| {
            input.for_each_time(|time, batches| {
                for record in batches.flat_map(|batch| batch.drain(..)) {
                    let (campaign, event_time, count) = count(record);
                    let start = event_time - event_time.rem_euclid(window_ms);
                    // Held for the window's last epoch only, so that the probe
                    // behind shows how far every worker has come.
                    let window = windows.entry(start).or_insert_with(|| Window {
                        held: time.delayed(&epoch(start + window_ms - 1), output.output_index()),
                        counts: HashMap::new(),
                    });
                    *window.counts.entry(campaign).or_default() += count;
                }
            });
            while let Some(window) = windows.first_entry()
                && !frontier.less_equal(&epoch(window.key() + window_ms - 1))
            {
                let (start, window) = window.remove_entry();
                let mut session = output.session(&window.held);
                for (campaign, count) in window.counts {
                    session.give((campaign, start, count));
                }
            }
        }
    })
}

/// The counts of one window, and the right to emit them.
struct Window {
    held: Capability<u64>,
    counts: HashMap<u64, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yahoo::workload::{event_time, naive};

    #[test]
    fn counts_as_the_naive_way_does_in_windows_shorter_and_longer_than_an_epoch() {
        for (cores, events, window_ms) in [(1, 50_123, 7), (2, 50_123, 20), (2, 1_200_000, 10_000)]
        {
            for counting in [Counting::BehindTheExchange, Counting::OnBothSides] {
                let answer = run(counting, cores, events, window_ms).unwrap();
                let expected = naive(events, event_time, window_ms);
                assert_eq!(answer, expected, "{counting:?} {cores} {window_ms}");
            }
        }
    }
}
