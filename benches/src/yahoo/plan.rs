//! The job put together at run time from a description in data, as a planner of SQL would: steps behind pointers,
//! rows as columns. What a step does to a chunk is compiled. Which steps there are, in which order, and which
//! columns they read, is in the [`Plan`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hashbrown::HashMap;
use serde::Deserialize;
use thalweg::flow::{Boxed, Chunk, CollectedSink, ColumnStream, DataType, Fields, Flow};
use thalweg::prelude::*;

use super::source::Generator;
use super::workload::{Ads, Event};

/// The benchmark's own.
pub const PLAN: &str = r#"{
    "columns": ["event_type", "ad_id"],
    "steps": [
        { "keep": { "column": "event_type", "equals": 0 } },
        { "look_up": { "column": "ad_id", "in": "campaign_of_ad", "as": "campaign_id" } }
    ],
    "count_by": "campaign_id"
}"#;

/// What a job does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The fields of an event that are read.
    columns: Vec<String>,
    /// What becomes of them, in order.
    steps: Vec<Step>,
    /// The column by which rows are counted in each window.
    count_by: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    /// Keeps rows with this value in a column.
    Keep { column: String, equals: i64 },
    /// Replaces all columns by one: what a table has for the value of a column.
    LookUp {
        column: String,
        #[serde(rename = "in")]
        table: String,
        #[serde(rename = "as")]
        name: String,
    },
}

/// Adds a field of an event by its name.
fn field(fields: Fields<Event>, name: &str) -> anyhow::Result<Fields<Event>> {
    Ok(match name {
        "user_id" => fields.int(name, |event| event.user_id as i64),
        "page_id" => fields.int(name, |event| event.page_id as i64),
        "ad_id" => fields.int(name, |event| event.ad_id as i64),
        "ad_type" => fields.int(name, |event| i64::from(event.ad_type)),
        "event_type" => fields.int(name, |event| event.event_type as i64),
        "event_time" => fields.int(name, |event| event.event_time),
        _ => bail!("an event has no field {name:?}"),
    })
}

/// A stream of chunks of which only the columns are known.
type Chunks = ColumnStream<Boxed<Chunk>>;

fn column_of(chunks: &Chunks, name: &str) -> anyhow::Result<usize> {
    let found = chunks.columns().iter().position(|(known, _)| known == name);
    found.with_context(|| format!("there is no column {name:?} at this step"))
}

impl Step {
    fn attach(&self, chunks: Chunks) -> anyhow::Result<Chunks> {
        Ok(match self {
            Self::Keep { column, equals } => {
                let (column, equals) = (column_of(&chunks, column)?, *equals);
                chunks.keep(move |chunk, rows| keep_equal(chunk, column, equals, rows)).boxed()
            }
            Self::LookUp { column, table, name } => {
                ensure!(table == "campaign_of_ad", "there is no table {table:?}");
                let column = column_of(&chunks, column)?;
                let signed = |(ad, campaign): (u64, u64)| (ad as i64, campaign as i64);
                let table: HashMap<i64, i64> =
                    Ads.campaign_of_ad().into_iter().map(signed).collect();
                let look_up = move |chunk: &Chunk, out: &mut [thalweg::flow::Column]| {
                    let values = chunk.columns()[column].ints();
                    out[0].extend_ints(values.iter().map(|value| table[value]));
                };
                chunks.project(&[(name, DataType::Int)], look_up).boxed()
            }
        })
    }
}

/// Without a branch that no processor could guess.
fn keep_equal(chunk: &Chunk, column: usize, equals: i64, rows: &mut Vec<u32>) {
    let values = chunk.columns()[column].ints();
    rows.resize(values.len(), 0);
    let mut kept = 0;
    for (row, &value) in values.iter().enumerate() {
        rows[kept] = row as u32;
        kept += usize::from(value == equals);
    }
    rows.truncate(kept);
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// If it is not one.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("this is no plan")
    }

    /// Puts the plan's operators together. Its last step is compiled for the type of the key.
    fn assemble(
        &self,
        flow: &Flow,
        source: Generator,
        window: Duration,
        sink: CollectedSink<Windowed<i64, u64>>,
    ) -> anyhow::Result<()> {
        let watermarks = Watermarks::monotonous()
            .timestamps(|event: &Event| event.event_time)
            .without_clock_guard();
        let fields = self.columns.iter().try_fold(Fields::new(), |all, name| field(all, name))?;
        let mut chunks = flow.source(source, watermarks).to_columns(fields).boxed();
        for step in &self.steps {
            chunks = step.attach(chunks)?;
        }
        column_of(&chunks, &self.count_by)?;
        let rows = chunks.exchange_by::<i64>(&self.count_by).to_keyed(|_, _| ());
        rows.window(Tumbling::of(window)).aggregate(Count).sink(sink);
        Ok(())
    }

    /// The job over a generator, and where its rows are gathered.
    pub fn job(self, source: Generator, window: Duration) -> (Job, Collected<Windowed<i64, u64>>) {
        let rows = Collected::new();
        let (sink, plan) = (rows.sink(), Arc::new(self));
        let describe = move |flow: &Flow| {
            if let Err(error) = plan.assemble(flow, source.clone(), window, sink.clone()) {
                flow.fail(thalweg::kernel::ConnectorError::new("plan", format!("{error:#}")));
            }
        };
        (Job::new("yahoo", describe), rows)
    }
}
