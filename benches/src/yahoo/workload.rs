//! The workload, to the last bit: see the [module above](super) for its definition in words.

use std::time::Duration;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use thalweg_testing::mix;

/// The event time of event 0, in milliseconds since the epoch.
pub const T0_MS: i64 = 1_700_000_000_000;
/// The window of the benchmark.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Events in each millisecond of event time, where no rate is given.
pub const EVENTS_PER_MS: u64 = 1_000;
/// How many ads there are; each campaign has ten of them.
pub const ADS: usize = 1_000;
/// How many campaigns there are.
pub const CAMPAIGNS: usize = 100;

/// What a user did with an ad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// Saw it: the only one that counts.
    View,
    /// Clicked on it.
    Click,
    /// Bought.
    Purchase,
}

/// One event, with the fields of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who.
    pub user_id: u64,
    /// Where.
    pub page_id: u64,
    /// Which ad.
    pub ad_id: u64,
    /// One of five.
    pub ad_type: u8,
    /// What happened.
    pub event_type: EventType,
    /// When, in milliseconds since the epoch.
    pub event_time: i64,
}

/// What the job keeps of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Which ad.
    pub ad_id: u64,
    /// When, in milliseconds since the epoch.
    pub event_time: i64,
}

/// A view whose ad has been looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignView {
    /// Which campaign.
    pub campaign_id: u64,
    /// When, in milliseconds since the epoch.
    pub event_time: i64,
}

/// The ads and their campaigns. They are constants, so that a compiler need not load what is not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ads;

static IDS: [u64; ADS] = ids(0xAD00_0000);
static CAMPAIGN_IDS: [u64; CAMPAIGNS] = ids(0xCA00_0000);

const fn ids<const N: usize>(from: u64) -> [u64; N] {
    let mut ids = [0; N];
    let mut i = 0;
    while i < N {
        ids[i] = mix(from + i as u64);
        i += 1;
    }
    ids
}

impl Ads {
    /// Event `i`, at this event time.
    #[inline(always)]
    pub fn event(&self, i: u64, event_time: i64) -> Event {
        let h = mix(i);
        Event {
            user_id: h,
            page_id: h.rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15,
            ad_id: IDS[(((h >> 16 & 0xffff_ffff) * ADS as u64) >> 32) as usize],
            ad_type: ((h & 0xff) % 5) as u8,
            event_type: match ((h >> 8 & 0xff) * 3) >> 8 {
                0 => EventType::View,
                1 => EventType::Click,
                _ => EventType::Purchase,
            },
            event_time,
        }
    }

    /// The events of slice `part` of `parts`: every `parts`-th one from `part` on. Event time never
    /// falls within a slice, and each slice covers all of it.
    pub fn slice(&self, part: usize, parts: usize, events: u64) -> Slice {
        Slice { ads: *self, next: part as u64, stride: parts.max(1) as u64, events }
    }

    /// The ids of the ads.
    pub fn ids(&self) -> &'static [u64; ADS] {
        &IDS
    }

    /// The ids of the campaigns.
    pub fn campaigns(&self) -> &'static [u64; CAMPAIGNS] {
        &CAMPAIGN_IDS
    }

    /// The table that the job looks ads up in: from an ad's id to its campaign's id.
    pub fn campaign_of_ad(&self) -> HashMap<u64, u64> {
        let ads = IDS.iter().enumerate();
        ads.map(|(i, &ad)| (ad, CAMPAIGN_IDS[i / (ADS / CAMPAIGNS)])).collect()
    }
}

/// The event time of event `i` where no rate is given.
#[inline(always)]
pub const fn event_time(i: u64) -> i64 {
    T0_MS + (i / EVENTS_PER_MS) as i64
}

/// The event times at this rate.
pub fn event_times(rate: u64) -> impl Fn(u64) -> i64 {
    move |i| T0_MS + (u128::from(i) * 1_000 / u128::from(rate.max(1))) as i64
}

/// The events of a slice, in order: see [`Ads::slice`].
#[derive(Clone, Debug)]
pub struct Slice {
    ads: Ads,
    next: u64,
    stride: u64,
    events: u64,
}

impl Slice {
    /// The number of the next event.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Goes on at an event that was once the next one.
    pub fn skip_to(&mut self, position: u64) {
        self.next = position;
    }

    /// Whether no event is left.
    pub fn is_empty(&self) -> bool {
        self.next >= self.events
    }

    /// Takes the next `events` events, or as many as are left.
    #[inline(always)]
    pub fn take_up_to(&mut self, events: usize) -> impl Iterator<Item = Event> {
        let (from, stride) = (self.next, self.stride);
        let left = self.events.saturating_sub(from).div_ceil(stride);
        let taken = left.min(events as u64);
        self.next = from + taken * stride;
        let ads = &self.ads;
        let mut i = from;
        (0..taken).map(move |_| {
            let event = ads.event(i, event_time(i));
            i += stride;
            event
        })
    }
}

impl Iterator for Slice {
    type Item = Event;

    #[inline(always)]
    fn next(&mut self) -> Option<Event> {
        let i = self.next;
        if i >= self.events {
            return None;
        }
        self.next += self.stride;
        Some(self.ads.event(i, event_time(i)))
    }
}

/// What a run has counted, in three numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How many rows there were: campaigns with views, over all windows.
    pub results: u64,
    /// The views in all rows.
    pub total: u64,
    /// The sum of a hash of each row.
    pub checksum: u64,
}

impl Answer {
    /// Adds a row: the count of a campaign in the window that begins at `start_ms`.
    pub fn add(&mut self, campaign_id: u64, start_ms: i64, window_ms: i64, count: u64) {
        let w = ((start_ms - T0_MS) / window_ms) as u64;
        self.results += 1;
        self.total += count;
        self.checksum = self.checksum.wrapping_add(mix(campaign_id ^ (w << 32) ^ count));
    }

    /// Adds the rows of another part of this run.
    pub fn merge(&mut self, other: &Self) {
        self.results += other.results;
        self.total += other.total;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }

    /// The checksum as it is printed.
    pub fn checksum_hex(&self) -> String {
        format!("{:016x}", self.checksum)
    }
}

/// The published answers, for 20 and for 100 million events in windows of 10 s.
pub fn published(events: u64, window_ms: i64) -> Option<Answer> {
    let (results, total, checksum) = match (events, window_ms) {
        (20_000_000, 10_000) => (200, 6_722_491, 0xf305_0c93_a80e_b353),
        (100_000_000, 10_000) => (1_000, 33_596_818, 0x8a6a_36a6_477e_e357),
        _ => return None,
    };
    Some(Answer { results, total, checksum })
}

/// The answer by the simplest means, for any size and any event times.
pub fn naive(events: u64, event_time: impl Fn(u64) -> i64, window_ms: i64) -> Answer {
    let ads = Ads;
    let campaigns = ads.campaign_of_ad();
    let mut counts = HashMap::<(u64, i64), u64>::new();
    for i in 0..events {
        let event = ads.event(i, event_time(i));
        if event.event_type == EventType::View {
            let start = event.event_time - event.event_time.rem_euclid(window_ms);
            *counts.entry((campaigns[&event.ad_id], start)).or_default() += 1;
        }
    }
    let mut answer = Answer::default();
    for ((campaign, start), count) in counts {
        answer.add(campaign, start, window_ms, count);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_definition() {
        // The first output of SplitMix64 with seed 0, as its author publishes it.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        let ads = Ads;
        let event = ads.event(7, event_time(7));
        assert_eq!(event.page_id, event.user_id.rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15);
        assert_eq!(event.event_time, T0_MS);
        assert_eq!(event_time(1_000), T0_MS + 1);
        let campaigns = ads.campaign_of_ad();
        assert_eq!(campaigns.len(), ADS);
        assert_eq!(campaigns[&mix(999 + 0xAD00_0000)], mix(99 + 0xCA00_0000));
    }

    #[test]
    fn slices_are_all_events_once_in_order_of_time() {
        let ads = Ads;
        let mut all: Vec<Event> = (0..3).flat_map(|part| ads.slice(part, 3, 10_000)).collect();
        assert!(all.chunks(3_334).next().unwrap().is_sorted_by_key(|event| event.event_time));
        let mut whole: Vec<Event> = ads.slice(0, 1, 10_000).collect();
        assert_eq!(all.len(), 10_000);
        all.sort_by_key(|event| event.user_id);
        whole.sort_by_key(|event| event.user_id);
        assert_eq!(all, whole);
    }

    #[test]
    fn a_third_are_views() {
        let answer = naive(300_000, event_time, 100);
        assert_eq!(answer.results, 300);
        assert!((99_000..103_000).contains(&answer.total), "{answer:?}");
    }

    #[test]
    #[ignore = "20 million events: run it with --release"]
    fn the_naive_count_is_the_published_one() {
        assert_eq!(Some(naive(20_000_000, event_time, 10_000)), published(20_000_000, 10_000));
    }
}
