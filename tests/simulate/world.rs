//! A world: one machine with its disks, store and clock, the broker and the fleet outside, and whatever goes
//! wrong with them. It outlives the processes in it (see `life`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use thalweg_flow::{Flow, Now, Storage};
use thalweg_journal::JournalConfig;
use thalweg_journal::sim::{SimDisk, SimJournals};
use thalweg_kernel::{Lineage, Timestamp};
use thalweg_testing::Random;

use super::Options;
use super::broker::{Broker, FleetPlan};
use super::faults::{Fault, Planned, plan};
use super::job::describe;
use super::ledger::{Ledger, Watched};
use super::plan::JobPlan;
use super::sinks::{Outlet, Shared};
use super::source::{Fleet, Outside, SOURCE, journal_name};
use super::store::Store;

/// Of this many seeds one has its state in the engine's own store.
const REAL_STORE_ONE_IN: u64 = 16;

/// Conditions that last for a while: until these moves.
#[derive(Default)]
pub(crate) struct Until {
    store_full: u64,
    disk_full: u64,
    closed: u64,
    unsealed: u64,
    untold: u64,
    unfolded: u64,
}

/// See the module.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) moves: u64,
    pub(crate) now: Now,
    pub(crate) ledger: Ledger,
    pub(crate) store: Store,
    pub(crate) outlet: Shared,
    pub(crate) outside: Rc<Outside>,
    pub(crate) journals: SimJournals,
    /// Of each partition's journal.
    disks: Vec<SimDisk>,
    pub(crate) plan: JobPlan,
    pub(crate) job: Rc<dyn Fn(&Flow)>,
    fleet: FleetPlan,
    faults: Vec<(usize, Planned)>,
    next: usize,
    /// The last moment at which something was amiss.
    pub(crate) amiss: u64,
    until: Until,
    /// How often each disk was told to fail a sync and its process has not ended by that.
    armed: Vec<u32>,
    pub(crate) commit_dies: bool,
    pub(crate) tell_dies: bool,
    /// What is asked of the process from outside.
    pub(crate) asked: Vec<Asked>,
    /// Only shards that said they were busy, were woken, or whose time has come are stepped.
    pub(crate) strict: bool,
    pub(crate) epoch_every: Duration,
    pub(crate) happened: u64,
    pub(crate) last_fault: String,
}

/// What is asked of a process, or of one of its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Suspend,
    Savepoint,
    /// To be suspended with a savepoint.
    LastSavepoint,
    Panic,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All streams have ended.
    Done,
    /// The process is gone; the machine is not.
    Crashed,
    /// The power has gone.
    Power,
    /// The job has ended in good order, to be started again: in another process, or in this one.
    Left,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let ledger = Ledger::default();
        let defect = options.defect;
        let mut draw = Random::of(seed, 1);
        let plan_of_job = JobPlan::draw(&mut draw);
        let fleet = FleetPlan {
            partitions: plan_of_job.partitions,
            devices: 1 + draw.below(12),
            messages: options.messages.unwrap_or(50 + draw.below(350)),
            disorder_ms: plan_of_job.disorder_ms as usize,
            beyond_ms: if plan_of_job.late { 60 } else { 0 },
            poison_one_in: draw.one_of([10, 50, 1_000_000]),
            window: draw.one_of([1, 5, 20]),
        };
        let config = JournalConfig {
            segment_bytes: 4_096 * (1 + draw.below(4) as u64),
            cap_bytes: 4_096 * draw.one_of([16, 32, 256]),
            group_bytes_max: draw.one_of([512, 2_048, 8_192]),
            record_bytes_max: 256,
            ..JournalConfig::default()
        };
        let journals = match SimJournals::new(seed, config) {
            Ok(journals) => journals,
            Err(error) => panic!("{error}"),
        };
        let disk = |partition| journals.disk(&journal_name(SOURCE, partition));
        let disks = (0..fleet.partitions).map(disk).collect();
        let real = seed % REAL_STORE_ONE_IN == 7;
        let store = Store::new(ledger.clone(), draw.below(4) as u64, defect, real);
        let outlet = Outlet::new(ledger.clone(), store.clone(), defect);
        let outlet = Rc::new(RefCell::new(outlet));
        let broker = Broker::new(fleet, Random::of(seed, 2), ledger.clone());
        let outside = Rc::new(Outside {
            broker: RefCell::new(broker),
            intakes: RefCell::new(vec![None; fleet.partitions]),
            ledger: ledger.clone(),
            defect,
            discovered: plan_of_job.discovered,
            random: RefCell::new(Random::of(seed, 5)),
            read: RefCell::new(vec![false; fleet.partitions]),
            gone: RefCell::new(vec![false; fleet.partitions]),
        });
        let (out, partitions) = (Rc::clone(&outside), fleet.partitions);
        let source = move || Fleet { outside: Rc::clone(&out), partitions };
        let job = describe(plan_of_job, source, &outlet, defect);
        let faults = plan(&mut Random::of(seed, 3)).into_iter().enumerate();
        let faults = faults.filter(|(place, planned)| {
            options.faults.includes(*place, planned.fault)
                && !options.without.contains(&planned.fault)
        });
        let random = Random::of(seed, 4);
        let wall = Timestamp::from_millis(1_735_689_600_000);
        Self {
            options: options.clone(),
            random,
            moves: 0,
            now: Now { wall, steady: Duration::ZERO },
            ledger,
            store,
            outlet,
            outside,
            journals,
            disks,
            plan: plan_of_job,
            job: job.into(),
            fleet,
            faults: faults.collect(),
            next: 0,
            amiss: 0,
            until: Until::default(),
            armed: vec![0; fleet.partitions],
            commit_dies: false,
            tell_dies: false,
            asked: Vec::new(),
            strict: draw.one_in(2),
            epoch_every: Duration::from_millis(draw.one_of([2, 10, 60])),
            happened: 0,
            last_fault: "none".to_owned(),
        }
    }

    /// How many messages are published.
    pub(crate) fn messages(&self) -> u64 {
        self.fleet.messages as u64
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            eprintln!("{:>7} {}", self.moves, what());
        }
    }

    /// What is stored, for a process that starts.
    pub(crate) fn storage(&self) -> Storage {
        let journals = Watched { inner: self.journals.clone(), ledger: self.ledger.clone() };
        Storage {
            reader: self.store.open(),
            journals: Some(std::sync::Arc::new(journals)),
            lineage: Lineage::default(),
            allowed: Default::default(),
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.disks.iter().any(SimDisk::is_off)
    }

    /// Whether there is a reason for the process to fail like this: a sink that was told to, or a disk. (A
    /// journal cannot be opened on a full one.)
    pub(crate) fn may_fail(&mut self, error: &str) -> bool {
        if self.until.disk_full > 0 || self.outlet.borrow().died {
            return true;
        }
        // A sync that was told to fail does so once at most.
        let mut armed = self.armed.iter_mut().enumerate();
        let failed = armed.find(|(partition, armed)| {
            **armed > 0
                && error.contains(&journal_name(SOURCE, *partition))
                && error.contains("sync")
        });
        failed.map(|(_, armed)| *armed -= 1).is_some()
    }

    pub(crate) fn store_is_full(&self) -> bool {
        self.moves < self.until.store_full
    }

    pub(crate) fn tells_late(&self) -> bool {
        self.moves < self.until.untold
    }

    /// Whether all that was to be published has been through, and what was to go wrong has.
    pub(crate) fn is_over(&self) -> bool {
        self.next == self.faults.len()
            && self.outside.broker.borrow().is_drained()
            // A partition that is not found yet when the job is to stop is not read any more.
            && (!self.plan.discovered || self.until.disk_full == 0 && self.outside.is_read())
    }

    /// Nothing fails any more that would have a job which is to stop begin anew: it would stop before it has found its
    /// partitions again.
    pub(crate) fn calm_down(&mut self) {
        if self.plan.discovered {
            self.disks.iter().for_each(|disk| disk.sync_fails_in(u64::MAX));
        }
    }

    /// Something outside moves.
    pub(crate) fn outside_moves(&mut self) {
        let random = &mut self.random;
        let mut broker = self.outside.broker.borrow_mut();
        match random.below(8) {
            0 | 1 => {
                // The fleet publishes over all the time in which faults happen, now and then in bursts.
                let horizon = self.faults.last().map_or(500, |(_, last)| last.at).max(1);
                let due = self.fleet.messages as u64 * self.moves / horizon;
                let burst = random.below(30) as u64;
                for _ in 0..1 + random.below(8) {
                    let so_far = broker.published().len() + broker.poison().len();
                    if (so_far as u64) <= due + burst {
                        broker.publish();
                    }
                }
            }
            2 => (0..4).for_each(|_| broker.acknowledge_devices()),
            3..=5 => {
                for _ in 0..1 + random.below(6) {
                    broker.deliver(random.below(self.fleet.partitions));
                }
            }
            _ => {
                drop(broker);
                self.journals.step();
            }
        }
    }

    /// The store does some of what it has put off; whether there is more.
    pub(crate) fn fold(&mut self) -> bool {
        self.moves < self.until.unfolded || self.store.fold(1)
    }

    /// A shard is gone, and with it its sources.
    pub(crate) fn part(&mut self) {
        for (partition, intake) in self.outside.intakes.borrow_mut().iter_mut().enumerate() {
            if intake.take_if(|intake| Rc::strong_count(intake) == 1).is_some() {
                self.outside.broker.borrow_mut().disconnect(partition);
            }
        }
    }

    /// What has lasted long enough ends.
    pub(crate) fn recover(&mut self) {
        let ends = |until: &mut u64| {
            *until > 0 && *until <= self.moves && {
                *until = 0;
                true
            }
        };
        if ends(&mut self.until.closed) {
            self.outlet.borrow_mut().closed = false;
            self.outlet.borrow_mut().wake();
        }
        if ends(&mut self.until.unsealed) {
            self.outlet.borrow_mut().unsealed = false;
            self.outlet.borrow_mut().wake();
        }
        if ends(&mut self.until.disk_full) {
            for disk in &self.disks {
                disk.set_budget(None);
                disk.refuse_writes(0);
            }
        }
    }

    /// Lets the faults happen that are due; how the process ends by that, if it does.
    pub(crate) fn misfortune(&mut self) -> Option<Ended> {
        while let Some((place, planned)) = self.faults.get(self.next).copied()
            && planned.at <= self.moves
        {
            self.next += 1;
            self.happened += 1;
            self.last_fault = format!("{place}:{} at move {}", planned.fault, self.moves);
            self.trace(|| format!("fault {place}:{}, {}", planned.fault, planned.fault.what()));
            if let Some(ended) = self.happens(planned.fault, planned.size) {
                return Some(ended);
            }
        }
        None
    }

    fn happens(&mut self, fault: Fault, size: usize) -> Option<Ended> {
        let until = self.moves + 10 + size as u64 / 2;
        self.amiss = self.amiss.max(until);
        let partition = size % self.fleet.partitions;
        match fault {
            Fault::Crash => return Some(Ended::Crashed),
            Fault::Power => return Some(Ended::Power),
            Fault::Failure => self.asked.push(Asked::Panic),
            Fault::Savepoint => self.asked.push(Asked::Savepoint),
            Fault::Torn => self.disks[partition].power_fails_in(size as u64 % 12),
            Fault::Sync => {
                self.armed[partition] += 1;
                self.disks[partition].sync_fails_in(size as u64 % 5);
            }
            Fault::DiskFull => {
                self.until.disk_full = until;
                let disk = &self.disks[partition];
                if size.is_multiple_of(2) {
                    disk.set_budget(Some(disk.used_bytes()));
                } else {
                    disk.refuse_writes(1 + size as u64 % 7);
                }
            }
            Fault::StoreFull => self.until.store_full = until,
            Fault::CommitCrash => self.commit_dies = true,
            Fault::TellCrash => self.tell_dies = true,
            Fault::SinkCrash => self.outlet.borrow_mut().dies_after = Some(size % 4),
            Fault::LateTell => self.until.untold = until,
            Fault::Broker => {
                let mut broker = self.outside.broker.borrow_mut();
                (0..self.fleet.partitions).for_each(|partition| broker.reconnect(partition));
                broker.devices_reconnect();
            }
            Fault::Link => self.outside.broker.borrow_mut().reconnect(partition),
            Fault::Devices => self.outside.broker.borrow_mut().devices_reconnect(),
            Fault::SlowSink => {
                self.until.closed = until;
                self.outlet.borrow_mut().closed = true;
            }
            Fault::SlowSeal => {
                self.until.unsealed = until;
                self.outlet.borrow_mut().unsealed = true;
            }
            Fault::LateFold => self.until.unfolded = until,
            Fault::EarlyFold => drop(self.store.fold(usize::MAX)),
            Fault::Clock => {
                let by = [1, -1, 60, -60, 3_600_000, -3_600_000][size % 6] * (1 + size as i64 / 6);
                self.now.wall = self.now.wall.plus_ms(by);
            }
            Fault::Suspend if size.is_multiple_of(2) => self.asked.push(Asked::Suspend),
            Fault::Suspend => self.asked.push(Asked::LastSavepoint),
        }
        None
    }

    /// A process has ended: what was in its memory is gone.
    pub(crate) fn bury(&mut self, ended: Ended) {
        match ended {
            Ended::Crashed => self.journals.kill(),
            Ended::Power => {
                self.journals.crash();
                self.armed.fill(0);
            }
            Ended::Done | Ended::Left => {}
        }
        let intakes = std::mem::take(&mut *self.outside.intakes.borrow_mut());
        drop(intakes);
        self.outside.read.borrow_mut().fill(false);
        *self.outside.intakes.borrow_mut() = vec![None; self.fleet.partitions];
        let mut broker = self.outside.broker.borrow_mut();
        (0..self.fleet.partitions).for_each(|partition| broker.disconnect(partition));
        let mut outlet = self.outlet.borrow_mut();
        (outlet.dies_after, outlet.died) = (None, false);
        (self.commit_dies, self.tell_dies) = (false, false);
        self.asked.clear();
        self.amiss = self.amiss.max(self.moves);
    }
}
