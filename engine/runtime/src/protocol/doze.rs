//! How the supervisor of a job that has nothing new sleeps without a time: the first shard that moves tells it.
//!
//! A shard says by a flag of its own whether it has moved since it handed over last. While the supervisor is awake nobody
//! is told, so under load there is no report more. It reads the flags when the next epoch is due. If nothing is known to
//! be new then, the supervisor says that it dozes, and looks at the flags after that. A shard sets its flag, and then
//! looks whether the supervisor dozes. Both sides use sequentially consistent operations, so one of them always sees the
//! other.

use std::sync::atomic::Ordering::SeqCst;

use thalweg_kernel::defects::{Defect, seeded};

use crate::sync::AtomicBool;

/// See the module. Of one life of a job.
#[derive(Debug)]
pub struct Doze {
    dozing: AtomicBool,
    /// Of each shard: it has moved since it handed over last.
    moved: Box<[AtomicBool]>,
}

impl Doze {
    /// For this many shards.
    pub fn new(shards: usize) -> Self {
        let moved = (0..shards).map(|_| AtomicBool::new(false)).collect();
        Self { dozing: AtomicBool::new(false), moved }
    }

    /// A shard has moved: whether the supervisor has to be told.
    pub fn moved(&self, shard: usize) -> bool {
        self.moved[shard].store(true, SeqCst);
        self.dozing.load(SeqCst) && !seeded(Defect::RuntimeSleepsOverChange)
    }

    /// A shard has handed over all that has moved.
    pub fn rest(&self, shard: usize) {
        self.moved[shard].store(false, SeqCst);
    }

    /// The supervisor dozes from now on, unless a shard has moved already: which one.
    pub fn begin(&self) -> Option<usize> {
        self.dozing.store(true, SeqCst);
        let moved = self.moved.iter().position(|moved| moved.load(SeqCst));
        moved.filter(|_| !seeded(Defect::RuntimeDozesUnasked))
    }

    /// The supervisor is awake.
    pub fn end(&self) {
        self.dozing.store(false, SeqCst);
    }
}
