//! The events as JSON, in the original's form; from memory, decoding included.
//!
//! ```json
//! {"user_id":"e220a8397b1dcdaf","page_id":"…","ad_id":"…","ad_type":"banner","event_type":"view","event_time":"1700000000000","ip_address":"1.2.3.4"}
//! ```
//! `user_id`, `page_id` and `ad_id` are 16 hex digits, `event_time` is a decimal string. All lines are written
//! before the clock starts, one block for each core, so **the memory is that of the block**. That is about 180
//! bytes for each event, 350 MiB for two million.
//!
//! Both engines find the lines' ends, decode the three fields that the job reads, and look the ad up by
//! its text. Thalweg decodes with its own `Json` into owned short strings, as a job does; the hand loop
//! borrows them with [`sonic_rs`].

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, anyhow, bail};
use hashbrown::HashMap;
use serde::{Deserialize, Deserializer, de::Error};
use thalweg::flow::Flow;
use thalweg::kernel::{
    ConnectorError, Decode, Emit, Message, OpenContext, PartitionId, Partitions, Source,
    SourceSpec, SourceStatus, Timestamp,
};
use thalweg::prelude::*;

use super::line::metered;
use super::peers::handloop::{Counters, campaign_indices};
use super::spec::Spec;
use super::workload::{Ads, Answer, Event, EventType};
use crate::report::{Meter, Spent};

const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];

/// Appends an event, without an end of line. `more` follows its last field: other fields, each with a
/// comma before it.
pub fn write_event(event: &Event, more: &str, out: &mut String) {
    let event_type = match event.event_type {
        EventType::View => "view",
        EventType::Click => "click",
        EventType::Purchase => "purchase",
    };
    // Writing to a String does not fail.
    let _written = write!(
        out,
        r#"{{"user_id":"{:016x}","page_id":"{:016x}","ad_id":"{}","ad_type":"{}","event_type":"{event_type}","event_time":"{}","ip_address":"1.2.3.4"{more}}}"#,
        event.user_id,
        event.page_id,
        ad_text(event.ad_id),
        AD_TYPES[usize::from(event.ad_type) % AD_TYPES.len()],
        event.event_time,
    );
}

/// An ad's id as it stands in the events.
fn ad_text(ad: u64) -> String {
    format!("{ad:016x}")
}

/// The campaigns of ads as they stand in the events.
pub fn campaign_of_ad() -> HashMap<Str, u64> {
    let by_number = Ads.campaign_of_ad();
    by_number.into_iter().map(|(ad, campaign)| (Str::from(ad_text(ad)), campaign)).collect()
}

/// A number that is written as a string.
pub fn decimal<'de, D: Deserializer<'de>, N: std::str::FromStr>(from: D) -> Result<N, D::Error> {
    let text = Str::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format_args!("{text:?} is not a decimal number")))
}

/// What the job reads of an event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AdEvent {
    /// Which ad.
    pub ad_id: Str,
    /// What happened.
    pub event_type: EventType,
    /// When, in milliseconds since the epoch.
    #[serde(deserialize_with = "decimal")]
    pub event_time: i64,
}

/// The lines of each partition.
fn blocks(partitions: usize, events: u64) -> anyhow::Result<Vec<Arc<String>>> {
    let ads = Ads;
    let writing = (0..partitions).map(|partition| {
        thread::spawn(move || {
            let mut block = String::new();
            for event in ads.slice(partition, partitions, events) {
                write_event(&event, "", &mut block);
                block.push('\n');
            }
            Arc::new(block)
        })
    });
    let writing: Vec<_> = writing.collect();
    let blocks: Result<_, _> = writing.into_iter().map(|block| block.join()).collect();
    blocks.map_err(|_| anyhow!("a thread that writes the events panicked"))
}

/// A source over blocks of lines in memory.
#[derive(Clone)]
struct Lines(Arc<[Arc<String>]>);

impl SourceSpec for Lines {
    type Item = AdEvent;
    type Partition = Reading;

    fn describe(&self) -> String {
        "JSON lines in memory".into()
    }

    fn partitions(&self) -> Partitions {
        Partitions::numbered(self.0.len())
    }

    fn open(&self, partition: &PartitionId, _cx: &OpenContext) -> Result<Reading, ConnectorError> {
        let partition = partition.number().unwrap_or_default();
        Ok(Reading { block: Arc::clone(&self.0[partition]), at: 0, decoder: Json::new() })
    }
}

/// An open partition of [`Lines`].
struct Reading {
    block: Arc<String>,
    at: usize,
    decoder: Json<AdEvent>,
}

impl Source for Reading {
    type Item = AdEvent;

    fn poll(
        &mut self,
        now: Timestamp,
        records_max: usize,
        out: &mut impl Emit<AdEvent>,
    ) -> Result<SourceStatus, ConnectorError> {
        for _ in 0..records_max {
            let rest = &self.block.as_bytes()[self.at..];
            let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(SourceStatus::Ended) };
            let message = Message::new("memory", &rest[..end], now);
            match self.decoder.decode(&message) {
                Ok(event) => out.record(event, now, &message),
                Err(error) => {
                    out.dead_letter(thalweg::kernel::Origin::dead_letter(&message, error))
                }
            }
            self.at += end + 1;
        }
        Ok(SourceStatus::Ready)
    }

    fn stop(&mut self) {
        self.at = self.block.len();
    }
}

/// Runs the job on Thalweg.
///
/// # Errors
/// If it fails, or refuses an event.
pub fn thalweg(spec: &Spec) -> anyhow::Result<(Answer, Spent)> {
    let lines = Lines(blocks(spec.cores, spec.events)?.into());
    let (rows, window) = (Collected::new(), spec.window());
    let shared = Mutex::new((lines, rows.sink()));
    let job = Job::new("yahoo", move |flow: &Flow| {
        let (lines, sink) = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let campaigns = campaign_of_ad();
        let watermarks = Watermarks::monotonous()
            .timestamps(|event: &AdEvent| event.event_time)
            .without_clock_guard();
        flow.source(lines, watermarks)
            .filter(|event| event.event_type == EventType::View)
            .map(|event| (event.ad_id, event.event_time))
            .map(move |(ad_id, event_time)| (campaigns[&ad_id], event_time))
            .key_by(|&(campaign_id, _)| campaign_id)
            .window(Tumbling::of(window))
            .aggregate(Count)
            .sink(sink);
    });
    let (config, _state) = spec.config()?;
    let meter = Meter::start();
    let metrics = job.run_with(&config)?;
    let spent = meter.stop();
    let refused = metrics.dead_letters();
    if !refused.is_empty() {
        bail!("events did not decode: {refused:?}");
    }
    let mut answer = Answer::default();
    for row in rows.take() {
        answer.add(row.key, row.start.as_millis(), spec.window_ms, row.value);
    }
    Ok((answer, spent))
}

/// What the hand loop reads of an event: nothing is copied.
#[derive(Deserialize)]
struct Borrowed<'a> {
    ad_id: &'a str,
    event_type: &'a str,
    event_time: &'a str,
}

/// Runs the hand loop.
///
/// # Errors
/// If an event does not decode, or a thread panics.
pub fn handloop(cores: usize, events: u64, window_ms: i64) -> anyhow::Result<(Answer, Spent)> {
    let blocks = blocks(cores, events)?;
    metered(|| {
        let ads = Ads;
        let count = |block: Arc<String>| {
            let campaigns = campaign_indices(&ads, ad_text);
            thread::spawn(move || -> anyhow::Result<Counters> {
                let mut counters = Counters::new(window_ms);
                let bytes = block.as_bytes();
                let mut at = 0;
                while let Some(end) = memchr::memchr(b'\n', &bytes[at..]) {
                    let event: Borrowed<'_> = sonic_rs::from_slice(&bytes[at..at + end])?;
                    at += end + 1;
                    if event.event_type == "view" {
                        let &campaign = campaigns.get(event.ad_id).context("an unknown ad")?;
                        counters.view(campaign, event.event_time.parse()?);
                    }
                }
                Ok(counters)
            })
        };
        let counting: Vec<_> = blocks.into_iter().map(count).collect();
        let counted: anyhow::Result<Vec<_>> = counting
            .into_iter()
            .map(|part| part.join().map_err(|_| anyhow!("a thread of the hand loop panicked"))?)
            .collect();
        Ok(Counters::answer(counted?, &ads))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_the_original_has_it_and_read_back() {
        let event = Ads.event(0, 1_700_000_000_000);
        let mut text = String::new();
        write_event(&event, r#","due_us":"1""#, &mut text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["user_id"], "e220a8397b1dcdaf");
        assert_eq!(value["event_time"], "1700000000000");
        assert_eq!(value["ip_address"], "1.2.3.4");
        assert_eq!(value["due_us"], "1");
        assert_eq!(value.as_object().unwrap().len(), 8);
        assert!(AD_TYPES.contains(&value["ad_type"].as_str().unwrap()));

        let message = Message::new("t", text.as_bytes(), Timestamp::default());
        let read = Json::<AdEvent>::new().decode(&message).unwrap();
        assert_eq!(read.ad_id, ad_text(event.ad_id));
        assert_eq!((read.event_type, read.event_time), (event.event_type, event.event_time));
        assert!(campaign_of_ad().contains_key(&read.ad_id));
    }

    #[test]
    fn a_time_that_is_no_number_is_refused() {
        let text = br#"{"ad_id":"a","event_type":"view","event_time":"soon"}"#;
        let message = Message::new("t", text, Timestamp::default());
        let refused = Json::<AdEvent>::new().decode(&message).unwrap_err();
        assert!(refused.reason.contains("soon"), "{refused}");
    }
}
