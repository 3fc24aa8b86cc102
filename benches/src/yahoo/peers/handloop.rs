//! No engine: a loop on each core over its slice. The ad is looked up in a hash map as the job asks, with dense
//! counters behind it. [`Views`] says how the loop drops what is no view.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::thread;

use anyhow::anyhow;
use hashbrown::HashMap;

use crate::yahoo::workload::{ADS, Ads, Answer, CAMPAIGNS, EventType, Slice};

/// The counts of each campaign, by the beginning of the window.
#[derive(Debug)]
pub struct Counters {
    window_ms: i64,
    windows: BTreeMap<i64, [u64; CAMPAIGNS]>,
    /// The window that is being counted, out of the tree.
    open: [u64; CAMPAIGNS],
    open_from: i64,
    open_until: i64,
}

impl Counters {
    /// For windows of `window_ms` milliseconds.
    pub fn new(window_ms: i64) -> Self {
        let (open_from, open_until) = (i64::MAX, i64::MIN);
        let (windows, open) = (BTreeMap::new(), [0; CAMPAIGNS]);
        Self { window_ms, windows, open, open_from, open_until }
    }

    /// Counts a view.
    #[inline]
    pub fn view(&mut self, campaign: usize, time: i64) {
        if time >= self.open_until || time < self.open_from {
            self.turn(time);
        }
        self.open[campaign] += 1;
    }

    #[cold]
    fn turn(&mut self, time: i64) {
        self.put_back();
        self.open_from = time - time.rem_euclid(self.window_ms);
        self.open_until = self.open_from + self.window_ms;
    }

    fn put_back(&mut self) {
        let open = std::mem::replace(&mut self.open, [0; CAMPAIGNS]);
        if open.iter().any(|&count| count > 0) {
            add(self.windows.entry(self.open_from).or_insert([0; CAMPAIGNS]), &open);
        }
    }

    /// Joins the counters of all slices, and makes rows of them.
    pub fn answer(slices: impl IntoIterator<Item = Self>, ads: &Ads) -> Answer {
        let mut all = BTreeMap::<i64, [u64; CAMPAIGNS]>::new();
        let mut window_ms = 1;
        for mut slice in slices {
            slice.put_back();
            window_ms = slice.window_ms;
            for (start, counts) in slice.windows {
                add(all.entry(start).or_insert([0; CAMPAIGNS]), &counts);
            }
        }
        let mut answer = Answer::default();
        for (start, counts) in all {
            for (&campaign, count) in ads.campaigns().iter().zip(counts) {
                if count > 0 {
                    answer.add(campaign, start, window_ms, count);
                }
            }
        }
        answer
    }
}

fn add(into: &mut [u64; CAMPAIGNS], counts: &[u64; CAMPAIGNS]) {
    for (sum, count) in into.iter_mut().zip(counts) {
        *sum += count;
    }
}

/// From an ad, under any name, to the index of its campaign.
pub fn campaign_indices<K: Eq + Hash>(ads: &Ads, name: impl Fn(u64) -> K) -> HashMap<K, usize> {
    let all = ads.ids().iter().enumerate();
    all.map(|(i, &ad)| (name(ad), i / (ADS / CAMPAIGNS))).collect()
}

/// How the loop tells views from other events. A third are views, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// By a branch for each event, which no processor can guess.
    Branched,
    /// Each event is written behind the last view, and stays if it is one: no branch.
    Gathered,
}

/// How many events are looked at before their views are counted, where views are gathered.
const GATHERED_EVENTS: usize = 1_024;

/// Runs it.
///
/// # Errors
/// If a thread panics.
pub fn run(views: Views, cores: usize, events: u64, window_ms: i64) -> anyhow::Result<Answer> {
    let ads = Ads;
    let slices: Vec<_> = (0..cores)
        .map(|core| {
            thread::spawn(move || {
                let campaigns = campaign_indices(&ads, |ad| ad);
                let mut counters = Counters::new(window_ms);
                let mut count = |ad_id: u64, event_time: i64| {
                    if let Some(&campaign) = campaigns.get(&ad_id) {
                        counters.view(campaign, event_time);
                    }
                };
                let slice = ads.slice(core, cores, events);
                match views {
                    Views::Branched => branched(slice, &mut count),
                    Views::Gathered => gathered(slice, &mut count),
                }
                counters
            })
        })
        .collect();
    let counted: Result<Vec<_>, _> = slices.into_iter().map(|slice| slice.join()).collect();
    let counted = counted.map_err(|_| anyhow!("a thread of the hand loop panicked"))?;
    Ok(Counters::answer(counted, &ads))
}

fn branched(slice: Slice, count: &mut impl FnMut(u64, i64)) {
    for event in slice {
        if event.event_type == EventType::View {
            count(event.ad_id, event.event_time);
        }
    }
}

fn gathered(mut slice: Slice, count: &mut impl FnMut(u64, i64)) {
    let mut views = [(0, 0); GATHERED_EVENTS];
    while !slice.is_empty() {
        let mut len = 0;
        for event in slice.take_up_to(GATHERED_EVENTS) {
            views[len] = (event.ad_id, event.event_time);
            len += usize::from(event.event_type == EventType::View);
        }
        views[..len].iter().for_each(|&(ad_id, event_time)| count(ad_id, event_time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yahoo::workload::{event_time, naive};

    #[test]
    fn counts_as_the_naive_way_does_in_windows_of_any_size() {
        for (cores, window_ms) in [(1, 10_000), (2, 7), (3, 1)] {
            for views in [Views::Branched, Views::Gathered] {
                let answer = run(views, cores, 50_123, window_ms).unwrap();
                let expected = naive(50_123, event_time, window_ms);
                assert_eq!(answer, expected, "{views:?} {cores} {window_ms}");
            }
        }
    }
}
