//! The job, as any user of Thalweg would write it.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use thalweg::flow::Flow;
use thalweg::kernel::{SinkSpec, SourceSpec};
use thalweg::prelude::*;

use super::workload::{Ads, CampaignView, Event, EventType, View};

/// The views of each campaign in each window: from `source` to `sink`.
pub fn count_views<S, K>(flow: &Flow, source: S, window: Duration, sink: K)
where
    S: SourceSpec<Item = Event>,
    K: SinkSpec<Windowed<u64, u64>>,
{
    let campaigns: HashMap<u64, u64> = Ads.campaign_of_ad();
    // The events are of the year 2023, or of a schedule that may run ahead of the clock.
    let watermarks =
        Watermarks::monotonous().timestamps(|event: &Event| event.event_time).without_clock_guard();
    flow.source(source, watermarks)
        .filter(|event| event.event_type == EventType::View)
        .map(|event| View { ad_id: event.ad_id, event_time: event.event_time })
        .map(move |view| CampaignView {
            campaign_id: campaigns[&view.ad_id],
            event_time: view.event_time,
        })
        .key_by(|view| view.campaign_id)
        .window(Tumbling::of(window))
        .aggregate(Count)
        .sink(sink);
}

/// The job over `source`, and where its rows are gathered.
pub fn job<S>(source: S, window: Duration) -> (Job, Collected<Windowed<u64, u64>>)
where
    S: SourceSpec<Item = Event> + Clone + Send + Sync + 'static,
{
    let rows = Collected::new();
    let sink = rows.sink();
    let source = Arc::new(source);
    let describe = move |flow: &Flow| {
        count_views(flow, S::clone(&source), window, sink.clone());
    };
    (Job::new("yahoo", describe), rows)
}
