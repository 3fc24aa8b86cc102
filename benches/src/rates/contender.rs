//! A contender in a process of its own.

use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use thalweg::format::RawMessage;
use thalweg::kernel::Encode;
use thalweg::kernel::format::EncodeError;
use thalweg::mqtt::Qos;
use thalweg::prelude::*;

use super::WARM_UP;
use super::cost::{Cost, obey};
use super::order::{Contender, Order, Task};
use crate::broker::{Broker, Choice};
use crate::devices::hand::Hand;
use crate::devices::job::{self, Hook};
use crate::devices::seen::{Ages, Seen};
use crate::devices::work::{Averages, Work};
use crate::devices::{READINGS, RESULTS};
use crate::latency::bare::Bare;
use crate::latency::publisher::qos_of;
use crate::quantiles::Quantiles;

/// What a contender says in the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What its process has cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// How old messages were when it saw them, in the job `through`.
    pub seen: Option<Quantiles>,
    /// The driver of a job: what `auto` has become.
    pub driver: Option<String>,
}

/// Is the contender of `order` until told to end, and prints its [`Report`].
///
/// # Errors
/// If it fails.
pub fn run(order: &Order, contender: &Contender) -> anyhow::Result<()> {
    let (host, port) = order.broker.clone();
    let broker = Broker::start(&Choice::At(host, port))?;
    let ages = Ages::new()?;
    let (driver, cost) = match contender {
        Contender::Handloop => (None, handloop(order, &broker, work(order, &ages)?)?),
        Contender::Rumqttc => (None, rumqttc(order, &broker, work(order, &ages)?)?),
        Contender::Thalweg { driver, budget } => {
            let (driver, cost) = thalweg(order, driver, *budget, &broker, &ages)?;
            (Some(driver.to_string()), cost)
        }
    };
    let report = Report { cost, seen: ages.quantiles(), driver };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn work(order: &Order, ages: &Ages) -> anyhow::Result<Work> {
    Ok(match order.cell.task {
        Task::Averages => Work::Averages(Averages::default()),
        Task::Through => Work::Through(Seen::new(WARM_UP, ages)?),
    })
}

fn handloop(order: &Order, broker: &Broker, work: Work) -> anyhow::Result<Cost> {
    let hand = Hand::connect(&broker.host, broker.port, order.cell.state.qos())?;
    let stop = hand.stopper()?;
    let looping = thread::Builder::new().name("loop".into()).spawn(move || hand.run(work))?;
    let cost = obey()?;
    stop();
    looping.join().map_err(|_| anyhow!("the loop panicked"))??;
    Ok(cost)
}

fn rumqttc(order: &Order, broker: &Broker, mut work: Work) -> anyhow::Result<Cost> {
    let qos = qos_of(order.cell.state.qos());
    let bare =
        Bare::listen(broker, "rates", &format!("{READINGS}+"), qos, move |client, payload| {
            work.message(payload, |result| {
                // A client that does not keep up has no room. Its result is lost, and the sender counts it.
                let _room = client.try_publish(RESULTS, qos, false, result.to_vec());
            })
            .context("the bare client received rubbish")
        })?;
    let cost = obey()?;
    bare.stop()?;
    Ok(cost)
}

fn thalweg(
    order: &Order,
    driver: &str,
    budget: Duration,
    broker: &Broker,
    ages: &Ages,
) -> anyhow::Result<(DriverKind, Cost)> {
    let cell = order.cell;
    let dir = tempfile::tempdir_in(&order.state_dir).context("no place for state")?;
    let state = cell.state.interval(cell.task).map(|interval| {
        let mut state = StateConfig::new(StateDirectory::new(dir.path()).backend());
        state.checkpoints.interval = interval;
        state
    });
    let driver = driver.parse()?;
    let mut config = RuntimeConfig { shards: order.shards, driver, state, ..Default::default() };
    config.tuning.latency_budget = budget;
    let qos = if cell.state.qos() == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
    let broker = broker.config().qos(qos);
    let job = |hook: Hook| match cell.task {
        Task::Averages => job::job(&broker, move || hook.call()),
        Task::Through => through(&broker, ages, hook),
    };
    job::run(&config, job, obey)
}

/// Passes each message on as it came, and notes its age.
fn through(broker: &MqttConfig, ages: &Ages, hook: Hook) -> Job {
    let (broker, ages) = (broker.clone(), ages.clone());
    Job::new("through", move |flow| {
        let hook = hook.clone();
        let messages = MqttSource::new(broker.clone(), Raw::new())
            .topic(format!("{READINGS}+"))
            .on_subscribed(move || hook.call());
        // It never fails: see there.
        let mut seen = Seen::new(WARM_UP, &ages).ok();
        flow.source(messages, Watermarks::monotonous())
            .inspect(move |_time, message| {
                if let Some(seen) = &mut seen {
                    seen.see(&message.payload);
                }
            })
            .sink(MqttSink::new(broker.clone(), RESULTS, Payload));
    })
}

/// Encodes a message as its payload.
#[derive(Clone, Copy, Debug)]
struct Payload;

impl Encode<RawMessage> for Payload {
    #[inline]
    fn encode(&mut self, message: &RawMessage, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&message.payload);
        Ok(())
    }
}
