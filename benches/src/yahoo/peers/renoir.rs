//! [renoir](https://docs.rs/renoir): an iterator for each core, a watermark every 10 ms of event time.
//!
//! Two things to know when reading its figures. It aligns a key's windows to the key's first event and not to the
//! epoch, so a count may fall into the neighbouring row. It drops without a word a key's records that are older
//! than its first one. With two cores that one may come from the faster of them. Its rows do not name their
//! window either: they are numbered here in the order in which each key's come. So its total is near (two in a
//! thousand are let pass) and its checksum may differ, and both are reported as they are.

use anyhow::Context;
use hashbrown::HashMap;
use renoir::operator::window::EventTimeWindow;
use renoir::{RuntimeConfig, StreamContext};

use crate::yahoo::workload::{Ads, Answer, CampaignView, EventType, T0_MS, View};

/// Event time between two watermarks.
const WATERMARK_MS: i64 = 10;

/// Runs it.
///
/// # Errors
/// If it does not start, or ends without a result.
pub fn run(cores: usize, events: u64, window_ms: i64) -> anyhow::Result<Answer> {
    let config = RuntimeConfig::local(cores as u64).context("renoir refuses this many cores")?;
    let context = StreamContext::new(config);
    let ads = Ads;
    let campaigns = ads.campaign_of_ad();
    let mut watermark = i64::MIN;
    let rows = context
        .stream_par_iter(move |id: u64, instances: u64| {
            ads.slice(id as usize, instances as usize, events)
        })
        .filter(|event| event.event_type == EventType::View)
        .map(|event| View { ad_id: event.ad_id, event_time: event.event_time })
        .map(move |view| CampaignView {
            campaign_id: campaigns[&view.ad_id],
            event_time: view.event_time,
        })
        .add_timestamps(
            |view| view.event_time,
            move |_view, &time| {
                let due = time >= watermark.saturating_add(WATERMARK_MS);
                due.then(|| {
                    watermark = time;
                    time
                })
            },
        )
        .group_by(|view| view.campaign_id)
        .window(EventTimeWindow::tumbling(window_ms))
        .count()
        .collect_vec();
    context.execute_blocking();

    let mut answer = Answer::default();
    let mut starts = HashMap::<u64, i64>::new();
    for (campaign, count) in rows.get().context("renoir ended without a result")? {
        let start = starts.entry(campaign).or_insert(T0_MS);
        answer.add(campaign, *start, window_ms, count as u64);
        *start += window_ms;
    }
    Ok(answer)
}
