//! One life of the simulated process. The engine's own machines (`thalweg_runtime::protocol`) decide for the job's
//! supervisor and its shards. What the supervisor's thread and the drivers would do about it is done here, move by move.
//! So a crash can fall between any two moves.

use std::collections::VecDeque;
use std::mem::take;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use thalweg_flow::{BuildContext, Shard, ShardSnapshot, Step, Storage, Tuning};
use thalweg_kernel::time::millis;
use thalweg_kernel::{ConnectorError, Epoch, KeyGroups, Shared};
use thalweg_runtime::protocol::{
    Complete, Decision, Doze, Follower, News, Orders, Phase, Report, RestartStrategy, Rules,
    Stored, Supervision,
};
use thalweg_runtime::{CheckpointRules, JobError};

use super::world::{Asked, Ended, World};

/// A job that is to stop comes to its end within this many moves without faults. The moves that its last pieces of work
/// take come on top: see [`Life::stopping_moves_max`].
const STOPPING_MOVES_MAX: u64 = 20_000;

/// A message is part of at most this many timers, windows and sessions of a job, which all fire when it stops. At the smallest
/// bound on work a step does one of them.
const PIECES_OF_A_MESSAGE: u64 = 20;

/// The windows of a job have at most this many slices of time for each message. (Messages are two milliseconds apart on
/// average. So all windows together, of 7 ms and slices of 5 ms among them, have about one.)
const SLICES_OF_A_MESSAGE: u64 = 2;

/// A shard is stepped with one move in three, about: in 8 of 20.
const MOVES_A_STEP: u64 = 3;

/// After the last fault all is published, durable and acknowledged within this many moves.
const CALM_MOVES_MAX: u64 = 200_000;

/// Beyond what a simulation lasts.
const NEVER: Duration = Duration::from_secs(1 << 20);

#[derive(Default)]
struct Signal(AtomicBool);

impl Signal {
    fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.raise();
    }
}

/// What a shard's thread would have.
enum Seat {
    /// It is to be built.
    Empty(Box<BuildContext>),
    Taken(Box<Shard>),
    /// It has ended.
    Left,
}

struct Member {
    seat: Seat,
    follower: Follower,
    signal: Arc<Signal>,
    last: Step,
}

impl Member {
    fn is_here(&self) -> bool {
        !matches!(self.seat, Seat::Left)
    }

    fn can_move(&self, steady: Duration) -> bool {
        match (&self.seat, self.last) {
            (Seat::Left, _) | (Seat::Taken(_), Step::Done) => false,
            (Seat::Empty(_), _) | (_, Step::Busy) => true,
            (_, Step::Idle(at)) => {
                self.signal.0.load(Ordering::Relaxed) || at.is_some_and(|at| at <= steady)
            }
        }
    }
}

/// A savepoint that was asked for: the newest epoch that had begun then, and how often the job had been started by
/// then. (An epoch that was not stored has its number once more after a restart.)
struct Savepoint {
    begun: Epoch,
    starts: u64,
}

/// See the module.
pub(crate) struct Life<'a> {
    world: &'a mut World,
    shards: usize,
    tuning: Tuning,
    supervision: Supervision<Savepoint>,
    /// What the supervisor has not heard yet.
    news: VecDeque<News<Savepoint>>,
    /// What the shards are told.
    orders: Orders,
    /// Whether they have moved.
    doze: Doze,
    members: Vec<Member>,
    /// How often the job was started.
    starts: u64,
    /// The job is to end with all it was given.
    stop: bool,
}

impl<'a> Life<'a> {
    /// Lives a life from its beginning to its end.
    pub(crate) fn live(world: &'a mut World) -> Ended {
        // A process that cannot start is tried again after a while.
        world.moves += 1;
        world.recover();
        if world.is_off() {
            world.bury(Ended::Power);
        }
        let mut life = Life::new(world);
        let ended = life.go_on();
        let Life { world, members, .. } = life;
        world.trace(|| format!("the process ends: {ended:?}"));
        // A process that is killed closes nothing; one that ends in good order does.
        if matches!(ended, Ended::Crashed | Ended::Power) {
            world.bury(ended);
            drop(members);
        } else {
            drop(members);
            world.bury(ended);
        }
        ended
    }

    fn new(world: &'a mut World) -> Self {
        let random = &mut world.random;
        let shards = 1 + random.below(4);
        let lane_batches = random.one_of([1, 2, 16]);
        // Often so little that nearly every key is read from storage, or that sources wait for nearly every epoch.
        let memory = [(0, 1 << 25), (20_000, 500), (usize::MAX, 1 << 25)];
        let (state_memory_bytes_max, state_pending_bytes_max) = random.one_of(memory);
        let tuning = Tuning {
            latency_budget: Duration::ZERO,
            step_records_max: random.one_of([1, 7, 40, 1_024]),
            batch_records: random.one_of([1, 5, 20, 256]),
            lane_batches,
            state_memory_bytes_max,
            state_pending_bytes_max,
            step_work_max: random.one_of([1, 3, 17, 2_048]),
            state_cache_bytes: random.one_of([0, 1 << 19]),
            // No draw of its own, so that seeds keep what they mean. Mostly what nobody sends on is never sent.
            watermark_delay_max: if lane_batches == 2 {
                Duration::from_millis(3)
            } else {
                Duration::MAX
            },
        };
        let ms = Duration::from_millis;
        let delay = ms(random.below(20) as u64);
        let restarts_max = random.one_of([0, 2, u32::MAX]);
        let (timeout, failures_max) =
            random.one_of([(NEVER, 0), (ms(100), u32::MAX), (ms(2_000), 0)]);
        let checkpoints = CheckpointRules {
            interval: world.epoch_every,
            pause_min: ms(random.one_of([0, 0, 5])),
            timeout,
            failures_max,
        };
        let (newest, next) = (world.store.newest(), world.store.next());
        let rules = Rules {
            shards,
            stored: Some(Stored { checkpoints, newest, next }),
            restart: RestartStrategy::FixedDelay { delay, restarts_max },
            full_retry: ms(random.one_of([1, 10, 50])),
            seed: random.next_u64(),
        };
        let supervision = Supervision::new(rules, world.now.steady);
        world.trace(|| format!("a process with {shards} shards goes on from epoch {newest}"));
        Life {
            world,
            shards,
            tuning,
            supervision,
            news: VecDeque::new(),
            orders: Orders::FIRST,
            doze: Doze::new(shards),
            members: Vec::new(),
            starts: 0,
            stop: false,
        }
    }

    fn go_on(&mut self) -> Ended {
        let stopping_moves_max = self.stopping_moves_max();
        loop {
            let (world, stop) = (&mut *self.world, self.stop);
            if world.ledger.is_violated() {
                return Ended::Done;
            }
            world.moves += 1;
            if world.random.one_in(3) {
                let by = Duration::from_millis(world.random.below(3) as u64);
                world.now.steady += by;
                world.now.wall = world.now.wall.plus_ms(millis(by));
            }
            world.recover();
            // Before the next misfortune, which might be another power cut, and hide this one.
            if world.is_off() {
                return Ended::Power;
            }
            if let Some(ended) = world.misfortune() {
                return ended;
            }
            let calm_max = if stop { stopping_moves_max } else { CALM_MOVES_MAX };
            if world.moves > world.amiss + calm_max {
                self.stalled(calm_max);
                return Ended::Done;
            }
            self.ask();
            let ended = match self.world.random.below(20) {
                0..=5 => {
                    self.world.outside_moves();
                    None
                }
                6 => self.acknowledge(),
                7..=9 => self.supervise(),
                10 | 11 => self.obey(),
                _ => self.step(),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// How many moves a job may need to stop: what is due then, by what a step does of it, of shards that take turns.
    fn stopping_moves_max(&self) -> u64 {
        let pieces = PIECES_OF_A_MESSAGE * self.shards as u64;
        // A slice that is in the store is read group by group: a unit of work for each, on the shard that has the group.
        let is_stored = self.tuning.state_memory_bytes_max < usize::MAX;
        let groups = if is_stored { u64::from(KeyGroups::default().count()) } else { 0 };
        let work = self.world.messages() * (pieces + SLICES_OF_A_MESSAGE * groups);
        STOPPING_MOVES_MAX + work.div_ceil(self.tuning.step_work_max as u64) * MOVES_A_STEP
    }

    /// What is asked of the job from outside reaches its supervisor, or a shard panics.
    fn ask(&mut self) {
        for asked in take(&mut self.world.asked) {
            match asked {
                // A job that is to stop does not end before it has said all.
                Asked::Suspend | Asked::LastSavepoint if self.stop => {}
                Asked::Suspend => self.news.push_back(News::Wish(Phase::Suspending)),
                Asked::Savepoint | Asked::LastSavepoint => {
                    let last = asked == Asked::LastSavepoint;
                    let savepoint = Savepoint { begun: self.orders.begun, starts: self.starts };
                    self.news.push_back(News::Savepoint(savepoint, last));
                }
                Asked::Panic => {
                    let shard = self.world.random.below(self.members.len().max(1));
                    let member = self.members.get(shard);
                    if member.is_some_and(|member| matches!(member.seat, Seat::Taken(_))) {
                        let message = "as the seed wants it".to_owned();
                        self.leave(shard, Err(JobError::Panicked { shard, message }));
                    }
                }
            }
        }
        let world = &mut *self.world;
        if !self.stop && self.supervision.wish() == Phase::Running && world.is_over() {
            world.trace(|| "all is published and acknowledged: the job is to stop".to_owned());
            self.stop = true;
            world.calm_down();
            world.amiss = world.amiss.max(world.moves);
            self.news.push_back(News::Wish(Phase::Draining));
        }
    }

    /// What sources' own threads do.
    fn acknowledge(&mut self) -> Option<Ended> {
        let intakes = self.world.outside.intakes.borrow();
        let intakes: Vec<_> = intakes.iter().flatten().map(Rc::clone).collect();
        for intake in intakes {
            // Its shard fails by that when it polls the source next.
            let _failed = intake.borrow_mut().acknowledge();
        }
        None
    }

    /// The supervisor acts on one decision, or hears one piece of news.
    fn supervise(&mut self) -> Option<Ended> {
        let steady = self.world.now.steady;
        if let Some(decision) = self.supervision.next(steady) {
            return self.act(decision);
        }
        if let Some(news) = self.news.pop_front() {
            self.supervision.take(news, steady);
        }
        None
    }

    fn act(&mut self, decision: Decision<Savepoint>) -> Option<Ended> {
        let world = &mut *self.world;
        match decision {
            Decision::Start(_) => self.start(),
            Decision::Started(again) => world.trace(|| format!("built; again: {again}")),
            Decision::Enter(phase) => {
                world.trace(|| format!("{phase:?}"));
                self.orders.phase = phase;
                self.wake();
            }
            Decision::Begin { epoch, last } => {
                world.trace(|| format!("epoch {epoch} begins; the last: {last}"));
                self.doze.end();
                self.orders.begun = epoch;
                if last {
                    self.orders.last = epoch;
                }
                self.wake();
            }
            Decision::Doze => {
                world.trace(|| "the supervisor dozes".to_owned());
                if let Some(shard) = self.doze.begin() {
                    self.supervision.take(News::Shard(shard, Report::Moved), world.now.steady);
                }
            }
            Decision::Late(epoch) => world.trace(|| format!("epoch {epoch} is late")),
            Decision::Store(complete) => return self.store(complete),
            Decision::Save(Savepoint { begun, starts }, epoch) => {
                // Before the last epoch begins nothing more is taken in.
                let is_later = epoch > begun || starts < self.starts;
                let holds_all = is_later || epoch == self.orders.last;
                if !holds_all || epoch != world.store.newest() {
                    let newest = world.store.newest();
                    world.ledger.violation(format!(
                        "a savepoint asked for in epoch {begun} is written of {epoch}; the newest is {newest}"
                    ));
                }
            }
            Decision::Announce(epoch) => {
                let oldest = world.store.oldest();
                (self.orders.stored, self.orders.oldest) = (epoch, oldest);
                self.wake();
            }
            Decision::Tidy => {
                let more = world.fold();
                self.supervision.take(News::Tidied(more), world.now.steady);
            }
            Decision::Rest(delay) => {
                world.trace(|| format!("the job is started again in {delay:?}"));
                self.members.clear();
                world.bury(Ended::Left);
            }
            Decision::End(ended) => {
                // Also where the job was asked to drain after that: it ends with its last epoch.
                let suspended = self.orders.last != Orders::FIRST.last;
                return Some(match ended {
                    Ok(()) if suspended => Ended::Left,
                    Ok(()) => Ended::Done,
                    // Why it may was looked at when it failed. What is in memory is lost.
                    Err(error) => {
                        world.trace(|| format!("the job ends: {error}"));
                        Ended::Crashed
                    }
                });
            }
        }
        None
    }

    fn wake(&self) {
        self.members.iter().for_each(|member| member.signal.raise());
    }

    /// Begins a life of the job.
    fn start(&mut self) {
        let storage: Storage = self.world.storage();
        let signals: Vec<_> = (0..self.shards).map(|_| Arc::<Signal>::default()).collect();
        let wakers: Arc<[Waker]> =
            signals.iter().map(|signal| Waker::from(Arc::clone(signal))).collect();
        let shared = Arc::<Shared>::default();
        (self.orders, self.doze) = (Orders::FIRST, Doze::new(self.shards));
        self.starts += 1;
        let member = |(shard, signal)| Member {
            seat: Seat::Empty(Box::new(BuildContext {
                shard,
                wakers: Arc::clone(&wakers),
                shared: Arc::clone(&shared),
                tuning: self.tuning,
                storage: Some(storage.clone()),
                ..BuildContext::single("simulated")
            })),
            follower: Follower::default(),
            signal,
            last: Step::Busy,
        };
        self.members = signals.into_iter().enumerate().map(member).collect();
    }

    /// Stores an epoch, unless there is no room, or the process is gone before or after that.
    fn store(&mut self, complete: Complete) -> Option<Ended> {
        let world = &mut *self.world;
        if world.store_is_full() {
            self.supervision.take(News::Full(complete), world.now.steady);
            return None;
        }
        let dies = take(&mut world.commit_dies);
        if dies && world.random.one_in(2) {
            return Some(Ended::Crashed);
        }
        let epoch = complete.epoch;
        world.store.commit(complete, dies);
        world.trace(|| format!("epoch {epoch} is stored"));
        let oldest = world.store.oldest();
        self.supervision.take(News::Stored { epoch, oldest }, world.now.steady);
        dies.then_some(Ended::Crashed)
    }

    /// A shard reads its orders.
    fn obey(&mut self) -> Option<Ended> {
        let at = self.world.random.below(self.members.len().max(1));
        let Member { seat: Seat::Taken(shard), follower, signal, .. } = self.members.get_mut(at)?
        else {
            return None;
        };
        let (mut orders, knew) = (self.orders, follower.knows().1);
        if self.world.tells_late() {
            orders.stored = knew;
        }
        if !follower.has_to(&orders) {
            return None;
        }
        let ends = follower.obey(&orders, shard);
        // A driver steps the shard with the next move; nobody else is to wake it by chance.
        signal.raise();
        let told = follower.knows().1;
        match ends {
            Ok(false) => {}
            Ok(true) => self.leave(at, Ok(())),
            Err(error) => return self.failed(at, error),
        }
        let behind =
            |member: &Member| member.is_here() && member.follower.knows().1 < self.orders.stored;
        let dies = self.world.tell_dies && told > knew && self.members.iter().any(behind);
        dies.then_some(Ended::Crashed)
    }

    /// Builds a shard, or steps it, and the supervisor will hear what it reports.
    fn step(&mut self) -> Option<Ended> {
        let world = &mut *self.world;
        let steady = world.now.steady;
        let can_move: Vec<_> = (0..self.members.len())
            .filter(|&at| {
                let member = &self.members[at];
                if world.strict { member.can_move(steady) } else { member.is_here() }
            })
            .collect();
        if can_move.is_empty() {
            return None;
        }
        let at = can_move[world.random.below(can_move.len())];
        let Member { seat, follower, signal, .. } = &mut self.members[at];
        let stepped = match seat {
            Seat::Left => return None,
            Seat::Empty(cx) => match Shard::build(&*world.job, cx) {
                Ok(shard) => {
                    *seat = Seat::Taken(Box::new(shard));
                    self.report(at, Report::Built);
                    return None;
                }
                Err(error) => Err(error),
            },
            Seat::Taken(shard) => {
                signal.0.store(false, Ordering::Relaxed);
                let mut reports = Vec::new();
                let stepped = follower.step(shard, world.now, |report| reports.push(report));
                reports.into_iter().for_each(|report| self.report(at, report));
                stepped
            }
        };
        match stepped {
            Ok(step) => self.members[at].last = step,
            Err(error) => return self.failed(at, error),
        }
        if self.members[at].last == Step::Done {
            self.leave(at, Ok(()));
        }
        None
    }

    /// The supervisor will hear what a shard reports.
    fn report(&mut self, at: usize, report: Report) {
        if let Report::Snapshot(snapshot) = &report {
            self.look_at_unmoved(snapshot);
        }
        if report.passes(&self.doze, at) {
            self.news.push_back(News::Shard(at, report));
        }
    }

    /// A shard that has not moved must hand over nothing new: a job that sleeps would not have stored that.
    fn look_at_unmoved(&self, snapshot: &ShardSnapshot) {
        if let Some(change) = (!snapshot.moved).then(|| self.world.store.news(snapshot)).flatten() {
            let (epoch, shard) = (snapshot.epoch, snapshot.shard);
            let what = format!("shard {shard} has not moved, and hands over {change} in {epoch}");
            self.world.ledger.violation(what);
        }
    }

    /// A shard ends.
    fn leave(&mut self, at: usize, ended: Result<(), JobError>) {
        self.members[at].seat = Seat::Left;
        self.world.part();
        self.report(at, Report::Ended(ended));
    }

    /// A shard has failed, or could not be built: whether there is a reason, and how the process ends by that.
    fn failed(&mut self, at: usize, error: ConnectorError) -> Option<Ended> {
        let world = &mut *self.world;
        world.trace(|| format!("shard {at} fails: {error}"));
        if world.is_off() {
            return Some(Ended::Power);
        }
        if world.outlet.borrow().died {
            return Some(Ended::Crashed);
        }
        if !world.may_fail(&error.to_string()) {
            world.ledger.violation(format!("the job fails for no reason: {error}"));
        }
        self.leave(at, Err(error.into()));
        None
    }

    fn stalled(&mut self, moves: u64) {
        let members = self.members.iter().map(|member| {
            let (begun, told) = member.follower.knows();
            let awaits = match &member.seat {
                Seat::Taken(shard) => Some(shard.awaits_epoch()),
                Seat::Empty(_) | Seat::Left => None,
            };
            format!("{:?} begun {begun} told {told} awaits {awaits:?}", member.last)
        });
        let members: Vec<_> = members.collect();
        self.world.ledger.violation(format!(
            "no end after {moves} moves without faults: {:?}, stop {}, news {}, shards {members:?}",
            self.orders,
            self.stop,
            self.news.len()
        ));
    }
}
