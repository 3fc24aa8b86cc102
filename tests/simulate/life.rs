//! One life of the simulated process: shards are built from what is stored and stepped until they end, or
//! until something ends them. What the driver, the supervisor and its coordinator do around the steps is done
//! here move by move, in the same order, so that a crash can fall between any two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use thalweg_flow::{BuildContext, Shard, ShardSnapshot, Step, Tuning};
use thalweg_kernel::time::millis;
use thalweg_kernel::{ConnectorError, Epoch, Shared};

use super::world::{Ended, World};

/// A job that is to stop comes to its end within so many moves without faults.
const STOPPING_MOVES_MAX: u64 = 20_000;

/// After the last fault all is published, durable and acknowledged within so many moves.
const CALM_MOVES_MAX: u64 = 200_000;

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

struct Member {
    /// `None` when it has ended.
    shard: Option<Shard>,
    signal: Arc<Signal>,
    last: Step,
    begun: Epoch,
    told: Epoch,
    held: bool,
    stopped: bool,
}

impl Member {
    fn can_move(&self, steady: Duration) -> bool {
        self.shard.is_some()
            && match self.last {
                Step::Done => false,
                Step::Busy => true,
                Step::Idle(at) => {
                    self.signal.0.load(Ordering::Relaxed) || at.is_some_and(|at| at <= steady)
                }
            }
    }
}

/// See the module.
pub(crate) struct Life<'a> {
    world: &'a mut World,
    members: Vec<Member>,
    next: Epoch,
    /// An epoch that was begun, and what has been handed over of it.
    open: Option<(Epoch, Vec<ShardSnapshot>)>,
    /// An epoch that is complete and not stored.
    complete: Option<(Epoch, Vec<ShardSnapshot>)>,
    /// The epoch to end with.
    last: Option<Epoch>,
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
        let mut life = Life {
            next: Epoch::NONE,
            world,
            members: Vec::new(),
            open: None,
            complete: None,
            last: None,
            stop: false,
        };
        let ended = match life.build() {
            Ok(()) => life.go_on(),
            Err(error) => Err(error),
        };
        let ended = ended.unwrap_or_else(|error| life.failed(&error));
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

    fn build(&mut self) -> Result<(), ConnectorError> {
        let random = &mut self.world.random;
        let count = 1 + random.below(4);
        let step_records_max = random.one_of([1, 7, 40, 1_024]);
        let batch_records = random.one_of([1, 5, 20, 256]);
        let lane_batches = random.one_of([1, 2, 16]);
        // Often so little that nearly every key is read from storage, or that sources wait for nearly every epoch.
        let memory = [(0, 1 << 25), (20_000, 500), (usize::MAX, 1 << 25)];
        let (state_memory_bytes_max, state_pending_bytes_max) = random.one_of(memory);
        let tuning = Tuning {
            step_records_max,
            batch_records,
            lane_batches,
            state_memory_bytes_max,
            state_pending_bytes_max,
            // No draws of their own, so that seeds keep what they mean.
            step_work_max: if batch_records == 256 { 2_048 } else { 1 + lane_batches },
            state_cache_bytes: if lane_batches == 2 { 1 << 19 } else { 0 },
        };
        let storage = self.world.storage();
        let newest = self.world.store.newest();
        self.next = newest.next();
        self.world.trace(|| format!("a process with {count} shards goes on from epoch {newest}"));
        let signals: Vec<_> = (0..count).map(|_| Arc::<Signal>::default()).collect();
        let wakers: Arc<[Waker]> =
            signals.iter().map(|signal| Waker::from(Arc::clone(signal))).collect();
        let shared = Arc::<Shared>::default();
        for (shard, signal) in signals.into_iter().enumerate() {
            let cx = BuildContext {
                shard,
                wakers: Arc::clone(&wakers),
                shared: Arc::clone(&shared),
                tuning,
                storage: Some(storage.clone()),
                ..BuildContext::single("simulated")
            };
            let built = Shard::build(&*self.world.job, &cx)?;
            self.members.push(Member {
                shard: Some(built),
                signal,
                last: Step::Busy,
                begun: Epoch::NONE,
                told: Epoch::NONE,
                held: false,
                stopped: false,
            });
        }
        Ok(())
    }

    /// A shard has failed, or could not be built: how the process ends by that.
    fn failed(&mut self, error: &ConnectorError) -> Ended {
        let world = &mut *self.world;
        world.trace(|| format!("failed: {error}"));
        if world.is_off() {
            return Ended::Power;
        }
        if world.may_fail(&error.to_string()) {
            return Ended::Crashed;
        }
        world.ledger.violation(format!("the job fails for no reason: {error}"));
        Ended::Crashed
    }

    fn go_on(&mut self) -> Result<Ended, ConnectorError> {
        loop {
            let world = &mut *self.world;
            if world.ledger.is_violated() {
                return Ok(Ended::Done);
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
                return Ok(Ended::Power);
            }
            if let Some(ended) = world.misfortune() {
                return Ok(ended);
            }
            let calm_max = if self.stop { STOPPING_MOVES_MAX } else { CALM_MOVES_MAX };
            if world.moves > world.amiss + calm_max {
                self.stalled(calm_max);
                return Ok(Ended::Done);
            }
            if let Some(ended) = self.turn()? {
                return Ok(ended);
            }
        }
    }

    fn turn(&mut self) -> Result<Option<Ended>, ConnectorError> {
        match self.world.random.below(20) {
            0..=5 => self.world.outside_moves(),
            6 => {
                let intakes = self.world.outside.intakes.borrow();
                for intake in intakes.iter().flatten() {
                    intake.borrow_mut().acknowledge()?;
                }
            }
            7 => self.world.fold(),
            8 | 9 => return self.coordinate(),
            10 => return self.tell(),
            _ => return self.step(),
        }
        Ok(None)
    }

    /// Begins and stores epochs.
    fn coordinate(&mut self) -> Result<Option<Ended>, ConnectorError> {
        let world = &mut *self.world;
        if !self.stop && self.last.is_none() && world.is_over() {
            world.trace(|| "all is published and acknowledged: the job is to stop".to_owned());
            self.stop = true;
            world.amiss = world.amiss.max(world.moves);
        }
        if let Some((epoch, snapshots)) = &self.complete {
            if world.store_is_full() {
                return Ok(None);
            }
            let dies = std::mem::take(&mut world.commit_dies);
            if dies && world.random.one_in(2) {
                return Ok(Some(Ended::Crashed));
            }
            world.store.commit(*epoch, snapshots, dies);
            world.trace(|| format!("epoch {epoch} is stored"));
            self.complete = None;
            return Ok(dies.then_some(Ended::Crashed));
        }
        if self.open.is_none() {
            let living = || self.members.iter().filter_map(|member| member.shard.as_ref());
            let awaited = living().all(Shard::awaits_epoch);
            let wanted = world.suspend && self.last.is_none() && !self.stop;
            let pressed = living().any(Shard::wants_epoch);
            if awaited || wanted || pressed || world.random.one_in(world.epoch_every) {
                let epoch = self.next;
                self.next = epoch.next();
                self.open = Some((epoch, Vec::new()));
                world.trace(|| format!("epoch {epoch} begins"));
                if wanted {
                    self.last = Some(epoch);
                }
            }
        }
        Ok(None)
    }

    /// Tells one shard what it does not know yet, in the order of the real driver.
    fn tell(&mut self) -> Result<Option<Ended>, ConnectorError> {
        let world = &mut *self.world;
        let at = world.random.below(self.members.len());
        let (newest, oldest) = (world.store.newest(), world.store.oldest());
        let open = self.open.as_ref().map(|(epoch, _)| *epoch);
        let member = &mut self.members[at];
        let Some(shard) = &mut member.shard else { return Ok(None) };
        if self.stop && !member.stopped {
            member.stopped = true;
            shard.stop();
            member.signal.raise();
        }
        if let Some(epoch) = open.filter(|epoch| member.begun < *epoch) {
            if self.last == Some(epoch) && !member.held {
                member.held = true;
                shard.hold();
            }
            member.begun = epoch;
            shard.begin(epoch);
            member.signal.raise();
        }
        if newest > member.told && !world.tells_late() {
            member.told = newest;
            shard.committed(newest, oldest)?;
            member.signal.raise();
            if self.last.is_some_and(|last| last <= newest) {
                member.shard = None;
            }
            let behind =
                self.members.iter().any(|member| member.shard.is_some() && member.told < newest);
            if world.tell_dies && behind {
                return Ok(Some(Ended::Crashed));
            }
            if self.last.is_some() && self.members.iter().all(|member| member.shard.is_none()) {
                return Ok(Some(Ended::Left));
            }
        }
        Ok(None)
    }

    /// Steps a shard, and takes what it hands over.
    fn step(&mut self) -> Result<Option<Ended>, ConnectorError> {
        let world = &mut *self.world;
        let steady = world.now.steady;
        let can_move: Vec<_> = (0..self.members.len())
            .filter(|&at| {
                let member = &self.members[at];
                if world.strict { member.can_move(steady) } else { member.shard.is_some() }
            })
            .collect();
        if can_move.is_empty() {
            return Ok(None);
        }
        let member = &mut self.members[can_move[world.random.below(can_move.len())]];
        let Some(shard) = &mut member.shard else { return Ok(None) };
        member.signal.0.store(false, Ordering::Relaxed);
        member.last = shard.step(world.now)?;
        let snapshot = shard.snapshot()?;
        if member.last == Step::Done {
            member.shard = None;
        }
        if let (Some(snapshot), Some((_, snapshots))) = (snapshot, &mut self.open) {
            snapshots.push(snapshot);
        }
        self.complete_open();
        let over = self.members.iter().all(|member| member.shard.is_none());
        Ok(over.then_some(Ended::Done))
    }

    /// An epoch is complete when every shard that has not ended has handed over.
    fn complete_open(&mut self) {
        let Some((_, snapshots)) = &self.open else { return };
        let handed_over = |at| snapshots.iter().any(|snapshot| snapshot.shard == at);
        let mut members = self.members.iter().enumerate();
        if members.all(|(at, member)| member.shard.is_none() || handed_over(at))
            && let Some((epoch, mut snapshots)) = self.open.take()
            && !snapshots.is_empty()
        {
            snapshots.sort_by_key(|snapshot| snapshot.shard);
            self.complete = Some((epoch, snapshots));
        }
    }

    fn stalled(&mut self, moves: u64) {
        let members = self.members.iter().map(|member| {
            format!(
                "{:?} begun {} told {} awaits {:?}",
                member.last,
                member.begun,
                member.told,
                member.shard.as_ref().map(Shard::awaits_epoch)
            )
        });
        let members: Vec<_> = members.collect();
        let open = self.open.as_ref().map(|(epoch, snapshots)| (epoch.number(), snapshots.len()));
        self.world.ledger.violation(format!(
            "no end after {moves} moves without faults: open {open:?}, stop {}, shards {members:?}",
            self.stop
        ));
    }
}
