//! The simulator runs whole jobs on one thread. Clocks are virtual, disks lose and tear, a broker delivers again, and
//! processes end at any step. All chance comes from a seed.
//!
//! | module | what it is |
//! |---|---|
//! | `world` | a machine and what goes wrong with it; outlives the processes on it |
//! | `life` | one process: its shards, and what its supervisor and drivers do about what the engine decides |
//! | `broker` | devices that publish at QoS 1, and the broker with its sessions |
//! | `source` | the protocol of a source with a journal, without sockets |
//! | `sinks` | a transactional sink, and one that is at-least-once |
//! | `store` | keeps whole epochs; folds them early or late: in memory, or in the engine's own store on a real disk |
//! | `plan`, `job`, `process`, `shapes`, `marks` | the jobs: operators of the engine, through its public interface |
//! | `ledger` | what was durable, acknowledged, trimmed; what must not have happened |
//! | `naive`, `sessions`, `check` | what the results must be, and whether they are |
//! | `faults` | what goes wrong, and when; deliberate defects |
//! | `shrink` | the same failure with less |
//!
//! Real are the operators, states, timers, barriers and lanes of the engine, and its journal down to the bytes on a
//! simulated disk. Real is all that its supervisor and shards decide about epochs, ends and restarts. Written for the
//! simulation are the store, the source, the sinks, and the loop that acts on those decisions. One seed in sixteen has
//! the engine's store.
//!
//! # What is checked
//! - acknowledged means durable; acknowledgements come in order, and on the connection that delivered;
//! - what was durable is there after any crash, unchanged; a journal is trimmed only below the position of the
//!   oldest epoch that can be restored;
//! - a sink commits after its epoch exists, and the same when it commits again;
//! - in the end, rows are those of a naive program: none lost, none repeated; of the at-least-once sink, none
//!   lost and none that it must not have;
//! - a savepoint is of an epoch that began after it was asked for;
//! - a job fails only when something has failed under it; once nothing does any more it comes to its end;
//! - a job that has ended has no timer, no window, nothing held back and no state of its process functions left, and has nothing
//!   more to say when it is started again.

mod broker;
mod check;
mod faults;
mod job;
mod ledger;
mod life;
mod marks;
mod naive;
mod plan;
mod process;
mod sessions;
mod shapes;
mod shrink;
mod sinks;
mod source;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::check::check;
pub use self::faults::{Choice, Chosen, Defect, Fault};
use self::life::Life;
pub use self::shrink::{Shrunk, shrink};
use self::world::{Ended, World};

/// How seeds are run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The number of messages; by default the seed says how many.
    pub messages: Option<usize>,
    /// Which faults of a seed's list happen.
    pub faults: Chosen,
    /// Kinds of faults that do not happen in any case.
    pub without: Vec<Fault>,
    /// A deliberate defect.
    pub defect: Option<Defect>,
    /// Tells what happens on standard error.
    pub trace: bool,
}

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Processes that ended in any way but the last.
    pub lives: u64,
    /// Epochs that were stored.
    pub epochs: u64,
    /// Distinct messages.
    pub messages: u64,
    /// Rows that were committed.
    pub rows: u64,
    /// Moves.
    pub moves: u64,
    /// The fault that came last.
    pub last_fault: String,
    /// What must not have happened, and did.
    pub violations: Vec<String>,
}

/// Runs one seed.
pub fn simulate(seed: u64, options: &Options) -> Report {
    let mut world = World::new(seed, options);
    let mut lives = 0;
    let run = catch_unwind(AssertUnwindSafe(|| run(&mut world, &mut lives)));
    if let Err(panic) = run {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        world.ledger.violation(format!("panic: {}", text.unwrap_or_default()));
    }
    let messages = world.outside.broker.try_borrow().map_or(0, |broker| broker.published().len());
    Report {
        seed,
        faults: world.happened,
        lives,
        epochs: world.store.newest().number(),
        messages: messages as u64,
        rows: world.outlet.try_borrow().map_or(0, |outlet| outlet.count() as u64),
        moves: world.moves,
        last_fault: world.last_fault.clone(),
        violations: world.ledger.violations(),
    }
}

fn run(world: &mut World, lives: &mut u64) {
    while Life::live(world) != Ended::Done && !world.ledger.is_violated() {
        *lives += 1;
    }
    check(world);
    if !world.ledger.is_violated() && world.random.one_in(2) {
        world.trace(|| "the job has ended, and is started again".to_owned());
        while Life::live(world) != Ended::Done && !world.ledger.is_violated() {}
        check(world);
    }
}
