//! The supervisor's machine: see the parent module for its states, and for what becomes of an epoch.

use std::collections::VecDeque;
use std::time::Duration;

use thalweg_flow::ShardSnapshot;
use thalweg_kernel::Epoch;
use thalweg_kernel::defects::{Defect, seeded};

use super::coordinator::{Coordinator, Due};
use super::restart::Restarts;
use super::{Complete, Doze, Phase, RestartStrategy};
use crate::config::CheckpointRules;
use crate::error::JobError;

/// How often a store that was full is tried again.
pub const FULL_RETRY: Duration = Duration::from_secs(1);

/// The store does what it has put off when there was no news for this long.
const TIDY_AFTER: Duration = Duration::from_millis(1);

/// What a job's supervision goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The number of shards.
    pub shards: usize,
    /// What the job has stored and when it stores more; none of a job that stores nothing.
    pub stored: Option<Stored>,
    /// What happens when the job fails.
    pub restart: RestartStrategy,
    /// How long a full store is left alone: [`FULL_RETRY`].
    pub full_retry: Duration,
    /// Chance for the delays of restarts.
    pub seed: u64,
}

/// The stored state of a job that starts.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// When checkpoints are taken.
    pub checkpoints: CheckpointRules,
    /// The newest epoch.
    pub newest: Epoch,
    /// A lower bound for the number of the next.
    pub next: Epoch,
}

/// What has happened. `T` stands for a savepoint that somebody has asked for.
pub enum News<T> {
    /// A shard reports.
    Shard(usize, Report),
    /// The shards could not be started: of this life there is none.
    NotStarted(JobError),
    /// An epoch is stored.
    Stored {
        /// Which one.
        epoch: Epoch,
        /// The oldest one that can be restored now.
        oldest: Epoch,
    },
    /// An epoch found no room in the store.
    Full(Complete),
    /// The store has failed.
    StoreFailed(JobError),
    /// The store has done some of what it had put off; whether more is due.
    Tidied(bool),
    /// The job is asked for a phase.
    Wish(Phase),
    /// A savepoint is asked for, of an epoch to come. If the flag says so, the job is to end with that epoch.
    Savepoint(T, bool),
}

/// What a shard reports.
pub enum Report {
    /// It is built. The first report, unless it has failed to be.
    Built,
    /// It hands over its part of the epoch that is open.
    Snapshot(ShardSnapshot),
    /// Its streams have ended but for an epoch.
    AwaitsEpoch,
    /// Its state is short of memory until the next epoch. At most once for each epoch.
    Pressed,
    /// The next epoch would hold anything else of it than the last one that it handed over. At most once for each
    /// epoch, and worth hearing only while the supervision dozes: see [`Doze`].
    Moved,
    /// It has ended, and is gone. The last report.
    Ended(Result<(), JobError>),
}

impl Report {
    /// Whether the supervisor has to hear what this `shard` reports. Notes in `doze` what that says of the shard.
    pub fn passes(&self, doze: &Doze, shard: usize) -> bool {
        match self {
            Self::Moved => doze.moved(shard),
            // What moves from now on is news; and what has ended does not move.
            Self::Snapshot(_) | Self::Ended(_) => {
                doze.rest(shard);
                true
            }
            Self::Built | Self::AwaitsEpoch | Self::Pressed => true,
        }
    }
}

/// What is to be done, in the order in which it was decided.
pub enum Decision<T> {
    /// Start the shards, with what the newest epoch holds. The flag says whether the job was started before.
    Start(bool),
    /// All shards are built. The flag says whether they were before.
    Started(bool),
    /// Order a phase.
    Enter(Phase),
    /// Order an epoch to begin; if `last`, shards end with it.
    Begin {
        /// Which one.
        epoch: Epoch,
        /// Whether the job ends with it.
        last: bool,
    },
    /// Have the shards report when they move, until the next epoch begins; and tell at once if one has moved already.
    Doze,
    /// Count a checkpoint that is not complete in time.
    Late(Epoch),
    /// Store an epoch, and tell: [`News::Stored`], [`News::Full`] or [`News::StoreFailed`].
    Store(Complete),
    /// Write this epoch, the newest, as a savepoint.
    Save(T, Epoch),
    /// Tell the shards that this epoch is stored.
    Announce(Epoch),
    /// Let the store do what it has put off, and tell: [`News::Tidied`] or [`News::StoreFailed`].
    Tidy,
    /// The life is over, by [`Supervision::error`]. The next one is to begin after this time.
    Rest(Duration),
    /// The job is over.
    End(Result<(), JobError>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Building,
    Running,
    Failing,
    /// Until this time.
    Resting(Duration),
    Over,
}

impl State {
    fn leads_to(self, next: Self) -> bool {
        use State::{Building, Failing, Over, Resting, Running};
        match self {
            Building => matches!(next, Running | Failing),
            Running => matches!(next, Failing | Over),
            Failing => matches!(next, Resting(_) | Over),
            Resting(_) => matches!(next, Building | Over),
            Over => false,
        }
    }
}

/// See the module. Times are steady.
pub struct Supervision<T> {
    rules: Rules,
    restarts: Restarts,
    state: State,
    /// Of this life: shards that are being built, and that have not ended.
    building: usize,
    living: usize,
    /// Decides about epochs while the life has not failed.
    coordinator: Option<Coordinator>,
    /// The first error of this life, or of the one before the rest.
    error: Option<JobError>,
    wish: Phase,
    was_built: bool,
    /// The newest epoch that is stored.
    newest: Epoch,
    /// Savepoints that wait for an epoch from this one on.
    savepoints: Vec<(Epoch, T)>,
    /// An epoch that found no room, and when to try again.
    full: Option<(Complete, Duration)>,
    untidy: bool,
    /// When there was news last.
    told: Duration,
    decisions: VecDeque<Decision<T>>,
}

impl<T> Supervision<T> {
    /// The supervision of a job that starts `now`.
    pub fn new(rules: Rules, now: Duration) -> Self {
        let restarts = Restarts::new(rules.restart, rules.stored.is_some());
        let newest = rules.stored.map_or(Epoch::NONE, |stored| stored.newest);
        let mut new = Self {
            rules,
            restarts,
            state: State::Building,
            building: 0,
            living: 0,
            coordinator: None,
            error: None,
            wish: Phase::Running,
            was_built: false,
            newest,
            savepoints: Vec::new(),
            full: None,
            untidy: false,
            told: now,
            decisions: VecDeque::new(),
        };
        new.begin_life(now);
        new
    }

    /// What is to be done now, if anything. To be asked again until there is nothing more.
    pub fn next(&mut self, now: Duration) -> Option<Decision<T>> {
        if self.decisions.is_empty() {
            self.decide(now);
        }
        self.decisions.pop_front()
    }

    /// When there will be something to do without news, if there is nothing now.
    pub fn due_at(&self) -> Option<Duration> {
        match self.state {
            State::Over => None,
            State::Resting(until) => Some(until),
            State::Building | State::Running | State::Failing => {
                let epoch_at = self.coordinator().and_then(Coordinator::due_at);
                let full_at = self.full.as_ref().map(|&(_, at)| at);
                let tidy_at = self.untidy.then(|| self.told + TIDY_AFTER);
                [epoch_at, full_at, tidy_at].into_iter().flatten().min()
            }
        }
    }

    /// What the last life has failed with, or this one has so far.
    pub fn error(&self) -> Option<&JobError> {
        self.error.as_ref()
    }

    /// What the job is asked for.
    pub fn wish(&self) -> Phase {
        self.wish
    }

    /// Takes news of `now`.
    pub fn take(&mut self, news: News<T>, now: Duration) {
        self.told = now;
        match news {
            News::Shard(shard, report) => self.report(shard, report),
            News::NotStarted(error) => {
                (self.building, self.living) = (0, 0);
                self.fail(error);
            }
            News::Stored { epoch, oldest } => self.stored(epoch, oldest, now),
            News::Full(complete) if !seeded(Defect::RuntimeGivesUpFullEpoch) => {
                self.full = Some((complete, now.saturating_add(self.rules.full_retry)));
            }
            News::Full(_) => {}
            News::StoreFailed(error) => self.fail(error),
            News::Tidied(more) => self.untidy = more,
            News::Wish(phase) => self.wish_for(phase),
            News::Savepoint(savepoint, last) => self.save(savepoint, last),
        }
    }

    fn report(&mut self, shard: usize, report: Report) {
        match report {
            Report::Built => {
                self.building = self.building.saturating_sub(1);
                if self.building == 0 {
                    self.all_built();
                }
            }
            Report::Snapshot(snapshot) => {
                let complete = self.coordinator.as_mut().and_then(|c| c.hand_over(snapshot));
                self.complete(complete);
            }
            Report::AwaitsEpoch => {
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.awaits_epoch(shard);
                }
            }
            Report::Pressed => {
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.press();
                }
            }
            Report::Moved => {
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.moved();
                }
            }
            Report::Ended(ended) => {
                self.living = self.living.saturating_sub(1);
                match ended {
                    Err(error) => self.fail(error),
                    Ok(()) => {
                        let complete = self.coordinator.as_mut().and_then(|c| c.ended(shard));
                        self.complete(complete);
                    }
                }
            }
        }
    }

    /// A shard runs as soon as it is built, and may have failed before the last one was. The start has succeeded
    /// nevertheless: that failure is the life's, and the restart strategy's.
    fn all_built(&mut self) {
        match self.state {
            State::Building => self.enter(State::Running),
            State::Failing if !self.was_built => {}
            State::Running | State::Failing | State::Resting(_) | State::Over => return,
        }
        self.decisions.push_back(Decision::Started(self.was_built));
        self.was_built = true;
    }

    fn complete(&mut self, complete: Option<Complete>) {
        let Some(complete) = complete else { return };
        if seeded(Defect::RuntimeCommitsEarly) {
            self.decisions.push_back(Decision::Announce(complete.epoch));
        }
        self.decisions.push_back(Decision::Store(complete));
    }

    fn stored(&mut self, epoch: Epoch, oldest: Epoch, now: Duration) {
        self.newest = epoch;
        self.untidy = true;
        let due = |from: Epoch| from <= epoch || seeded(Defect::RuntimeOldSavepoint);
        for (_, savepoint) in self.savepoints.extract_if(.., |(from, _)| due(*from)) {
            self.decisions.push_back(Decision::Save(savepoint, epoch));
        }
        self.decisions.push_back(Decision::Announce(epoch));
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.stored(oldest, now);
        }
    }

    fn wish_for(&mut self, phase: Phase) {
        // Without stored state there is nothing to go on from later.
        let stateless = phase == Phase::Suspending && self.rules.stored.is_none();
        let phase = if stateless { Phase::Draining } else { phase };
        if phase <= self.wish || self.state == State::Over {
            return;
        }
        self.wish = phase;
        match self.state {
            State::Resting(_) => return self.over(),
            State::Building | State::Running => self.decisions.push_back(Decision::Enter(phase)),
            State::Failing if seeded(Defect::RuntimeLowersPhase) => {
                self.decisions.push_back(Decision::Enter(phase));
            }
            // The shards have been ordered to do more than that.
            State::Failing | State::Over => {}
        }
        if phase == Phase::Suspending
            && let Some(coordinator) = &mut self.coordinator
        {
            coordinator.want_last();
        }
    }

    /// A savepoint that is not to be had is dropped, by which whoever waits for it learns that.
    fn save(&mut self, savepoint: T, last: bool) {
        if last {
            // First of all nothing more is taken in.
            self.wish_for(Phase::Suspending);
        }
        if let Some(coordinator) = &mut self.coordinator {
            // Since the last epoch was decided nothing is taken in: it holds all, begun or not.
            let epoch = coordinator.last().unwrap_or_else(|| coordinator.want());
            self.savepoints.push((epoch, savepoint));
        }
    }

    fn fail(&mut self, error: JobError) {
        self.error.get_or_insert(error);
        self.coordinator = None;
        if let State::Building | State::Running = self.state {
            self.enter(State::Failing);
            self.decisions.push_back(Decision::Enter(Phase::Aborting));
        }
    }

    /// Nothing is left to be done: looks what has become due.
    fn decide(&mut self, now: Duration) {
        match self.state {
            State::Over => return,
            State::Resting(until) if now < until => return,
            State::Resting(_) => return self.begin_life(now),
            State::Building | State::Running | State::Failing if self.living == 0 => {
                return self.end_life(now);
            }
            State::Building | State::Running | State::Failing => {}
        }
        if let Some((complete, _)) = self.full.take_if(|(_, at)| *at <= now) {
            return self.decisions.push_back(Decision::Store(complete));
        }
        if self.state == State::Running
            && let Some(coordinator) = &mut self.coordinator
        {
            match coordinator.due(now) {
                Some(Due::Begin(epoch)) => {
                    let last = coordinator.last() == Some(epoch);
                    return self.decisions.push_back(Decision::Begin { epoch, last });
                }
                Some(Due::Doze) => return self.decisions.push_back(Decision::Doze),
                Some(Due::Late { epoch, failures, tolerated }) => {
                    self.decisions.push_back(Decision::Late(epoch));
                    if !tolerated {
                        self.fail(JobError::Checkpoint { epoch, failures });
                    }
                    return;
                }
                None => {}
            }
        }
        if self.untidy && now >= self.told + TIDY_AFTER {
            self.untidy = false;
            self.decisions.push_back(Decision::Tidy);
        }
    }

    /// Decides about epochs once all shards are built.
    fn coordinator(&self) -> Option<&Coordinator> {
        self.coordinator.as_ref().filter(|_| self.state == State::Running)
    }

    fn begin_life(&mut self, now: Duration) {
        if self.state != State::Building {
            self.enter(State::Building);
        }
        let shards = self.rules.shards;
        (self.building, self.living, self.error) = (shards, shards, None);
        self.coordinator = self.rules.stored.map(|stored| {
            let next = stored.next.max(self.newest.next());
            Coordinator::new(stored.checkpoints, shards, next, now)
        });
        self.decisions.push_back(Decision::Start(self.was_built));
        if self.newest > Epoch::NONE {
            // Sources and sinks learn what exists, as they would have from the life before.
            self.decisions.push_back(Decision::Announce(self.newest));
        }
    }

    /// Every shard has ended, and with them what waited in this life.
    fn end_life(&mut self, now: Duration) {
        self.savepoints.clear();
        (self.full, self.coordinator) = (None, None);
        let may_go_on = self.wish == Phase::Running && self.was_built;
        let delay = match &self.error {
            Some(error) if may_go_on && error.may_be_mended() => {
                let chance = self.chance();
                self.restarts.failed(now, chance)
            }
            _ => None,
        };
        match delay {
            Some(delay) => {
                self.enter(State::Resting(now.saturating_add(delay)));
                self.decisions.push_back(Decision::Rest(delay));
            }
            None => self.over(),
        }
    }

    fn over(&mut self) {
        let aborted = || (self.wish == Phase::Aborting).then_some(JobError::Aborted);
        let ended = self.error.take().or_else(aborted).map_or(Ok(()), Err);
        self.enter(State::Over);
        self.decisions.push_back(Decision::End(ended));
    }

    fn enter(&mut self, state: State) {
        debug_assert!(self.state.leads_to(state), "from {:?} to {state:?}", self.state);
        self.state = state;
    }

    /// From 0 to 1, another one each time.
    fn chance(&mut self) -> f64 {
        // Knuth's MMIX: enough to keep restarts of many gateways apart.
        let next = self.rules.seed.wrapping_mul(6_364_136_223_846_793_005);
        self.rules.seed = next.wrapping_add(1_442_695_040_888_963_407);
        (self.rules.seed >> 11) as f64 / (1_u64 << 53) as f64
    }
}
