//! One measured run, in this process, and the answer that it must give.

use anyhow::bail;

use super::line::{Line, metered};
use super::peers::handloop::Views;
use super::peers::timely::Counting;
use super::plan::{PLAN, Plan};
use super::spec::{Engine, Mode, Spec};
use super::workload::{Answer, event_time, event_times, naive, published};
use super::{job, json, mqtt, peers, rate, source};
use crate::report::{Meter, Spent};

impl Spec {
    /// The right answer, where it is known beforehand: the published one for the published sizes, a
    /// naive count for others. Through a broker it depends on when the events were sent.
    pub fn expected(&self) -> Answer {
        match self.rate {
            Some(rate) => naive(self.events, event_times(rate), self.window_ms),
            None => published(self.events, self.window_ms)
                .unwrap_or_else(|| naive(self.events, event_time, self.window_ms)),
        }
    }

    /// Does it, in this process.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&self) -> anyhow::Result<Line> {
        let Self { engine, mode, cores, events, window_ms, .. } = *self;
        let (answer, spent) = match (engine, mode, self.rate) {
            (Engine::Thalweg, Mode::Mqtt, Some(_)) => return mqtt::run(self),
            (Engine::Thalweg, Mode::Memory, Some(_)) => return rate::run(self),
            (Engine::Thalweg, Mode::Memory, None) => self.thalweg()?,
            (Engine::Plan, Mode::Memory, None) => self.plan()?,
            (Engine::Thalweg, Mode::Json, None) => json::thalweg(self)?,
            (Engine::Handloop, Mode::Json, None) => json::handloop(cores, events, window_ms)?,
            (Engine::Handloop, Mode::Memory, None) => {
                metered(|| peers::handloop::run(Views::Branched, cores, events, window_ms))?
            }
            (Engine::HandloopGathered, Mode::Memory, None) => {
                metered(|| peers::handloop::run(Views::Gathered, cores, events, window_ms))?
            }
            (Engine::Timely, Mode::Memory, None) => {
                let counting = Counting::BehindTheExchange;
                metered(|| peers::timely::run(counting, cores, events, window_ms))?
            }
            (Engine::TimelyLocal, Mode::Memory, None) => {
                metered(|| peers::timely::run(Counting::OnBothSides, cores, events, window_ms))?
            }
            (Engine::Renoir, Mode::Memory, None) => {
                metered(|| peers::renoir::run(cores, events, window_ms))?
            }
            _ => bail!("{} does not do mode {} at a rate", engine.name(), mode.name()),
        };
        self.line(&answer, spent)
    }

    fn plan(&self) -> anyhow::Result<(Answer, Spent)> {
        let source = source::Generator { events: self.events, partitions: self.cores };
        let (job, rows) = Plan::read(PLAN)?.job(source, self.window());
        let (config, _state) = self.config()?;
        let meter = Meter::start();
        job.run_with(&config)?;
        let spent = meter.stop();
        let mut answer = Answer::default();
        for row in rows.take() {
            answer.add(row.key as u64, row.start.as_millis(), self.window_ms, row.value);
        }
        Ok((answer, spent))
    }

    fn thalweg(&self) -> anyhow::Result<(Answer, Spent)> {
        let source = source::Generator { events: self.events, partitions: self.cores };
        let (job, rows) = job::job(source, self.window());
        let (config, _state) = self.config()?;
        let meter = Meter::start();
        job.run_with(&config)?;
        let spent = meter.stop();
        let mut answer = Answer::default();
        for row in rows.take() {
            answer.add(row.key, row.start.as_millis(), self.window_ms, row.value);
        }
        Ok((answer, spent))
    }
}
