//! A shard's side: obeys what the job orders, steps the shard, and reports.
//!
//! Orders are a value that grows: the newest epoch that has begun, the phase, the newest epoch that is stored. A
//! follower remembers how far it has obeyed. So orders can be read at any time and as often as wanted; those that
//! were replaced before anybody looked are not missed.

use std::time::Duration;

use thalweg_flow::{Now, Shard, Step};
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{ConnectorError, Epoch};

use super::{Phase, Report};

/// A shard of a suspended job waits at most this long, once the last epoch is stored, for its sinks to show that epoch's results.
pub const SETTLE_MAX: Duration = Duration::from_secs(5);

/// What the shards of a job are told. Every part only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// The newest epoch that is to begin.
    pub begun: Epoch,
    /// What they are asked to do. Where the job is suspended, the phase is told before its last epoch begins.
    pub phase: Phase,
    /// The newest epoch that is stored.
    pub stored: Epoch,
    /// The oldest epoch that can be restored.
    pub oldest: Epoch,
    /// The epoch to end with: no epoch has this number unless the job is suspended.
    pub last: Epoch,
}

impl Orders {
    /// Those of a life that begins.
    pub const FIRST: Self = Self {
        begun: Epoch::NONE,
        phase: Phase::Running,
        stored: Epoch::NONE,
        oldest: Epoch::NONE,
        last: Epoch::new(u64::MAX),
    };
}

/// See the module.
#[derive(Debug)]
pub struct Follower {
    phase: Phase,
    begun: Epoch,
    stored: Epoch,
    /// What it has reported since `begun`.
    awaits_epoch: bool,
    pressed: bool,
    /// What it has reported since it handed over last. (A life begins with an epoch in any case.)
    moved: bool,
    settling: Settling,
}

/// How far a shard is with its last epoch.
#[derive(Debug)]
enum Settling {
    /// That is not stored yet.
    NotYet,
    /// That is stored, and sinks show its results.
    Begun,
    /// At this steady time the shard ends, whatever can be seen.
    Until(Duration),
    /// The shard has ended in front of its sinks.
    GivenUp,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            phase: Phase::Running,
            begun: Epoch::NONE,
            stored: Epoch::NONE,
            awaits_epoch: false,
            pressed: false,
            moved: true,
            settling: Settling::NotYet,
        }
    }
}

impl Follower {
    /// Whether anything in `orders` is new.
    pub fn has_to(&self, orders: &Orders) -> bool {
        orders.phase > self.phase || orders.begun > self.begun || orders.stored > self.stored
    }

    /// Passes on to `shard` what is new in `orders`. Whether the shard ends by that at once.
    ///
    /// # Errors
    /// If a sink or source of the shard fails at what was stored.
    #[inline]
    pub fn obey(&mut self, orders: &Orders, shard: &mut Shard) -> Result<bool, ConnectorError> {
        if orders.phase > self.phase {
            self.phase = orders.phase;
            match self.phase {
                Phase::Running => {}
                Phase::Suspending => shard.hold(),
                Phase::Draining => shard.stop(),
                Phase::Aborting => return Ok(true),
            }
        }
        if orders.begun > self.begun {
            self.begun = orders.begun;
            (self.awaits_epoch, self.pressed) = (false, false);
            shard.begin(self.begun);
        }
        if orders.stored > self.stored {
            self.stored = orders.stored;
            shard.committed(orders.stored, orders.oldest)?;
            if orders.stored >= orders.last {
                self.settling = Settling::Begun;
            }
        }
        Ok(false)
    }

    /// Steps `shard`, and reports what the supervisor must know. The shard has ended with [`Step::Done`].
    ///
    /// # Errors
    /// If the shard fails.
    #[inline]
    pub fn step(
        &mut self,
        shard: &mut Shard,
        now: Now,
        mut report: impl FnMut(Report),
    ) -> Result<Step, ConnectorError> {
        let step = shard.step(now)?;
        if self.begun > Epoch::NONE
            && let Some(snapshot) = shard.snapshot()?
        {
            self.moved = false;
            report(Report::Snapshot(snapshot));
        }
        if !self.moved && shard.has_moved() {
            self.moved = true;
            report(Report::Moved);
        }
        if !self.pressed && shard.wants_epoch() {
            self.pressed = true;
            report(Report::Pressed);
        }
        if step != Step::Busy && !self.awaits_epoch && shard.awaits_epoch() {
            self.awaits_epoch = true;
            report(Report::AwaitsEpoch);
        }
        self.settle(shard, now.steady, step)
    }

    /// What a step comes to once the last epoch is stored: sinks may still be about to show its results.
    fn settle(
        &mut self,
        shard: &mut Shard,
        steady: Duration,
        step: Step,
    ) -> Result<Step, ConnectorError> {
        let until = match self.settling {
            Settling::Begun => steady + SETTLE_MAX,
            Settling::Until(until) => until,
            Settling::NotYet | Settling::GivenUp => return Ok(step),
        };
        if step == Step::Done || shard.settled()? || seeded(Defect::RuntimeEndsUnsettled) {
            return Ok(Step::Done);
        }
        if steady >= until {
            self.settling = Settling::GivenUp;
            return Ok(Step::Done);
        }
        self.settling = Settling::Until(until);
        Ok(match step {
            Step::Idle(at) => Step::Idle(Some(at.map_or(until, |at| at.min(until)))),
            busy => busy,
        })
    }

    /// Whether the shard has ended although sinks had results to show. The next start commits these again.
    pub fn has_given_up(&self) -> bool {
        matches!(self.settling, Settling::GivenUp)
    }

    /// The newest epochs that the shard knows to have begun, and to be stored.
    pub fn knows(&self) -> (Epoch, Epoch) {
        (self.begun, self.stored)
    }
}
