//! Threads that go on beside a shard's.
//!
//! A shard's thread is [pinned](pin) to a core of its own while it has much to do. A thread that it starts would inherit that one
//! core, and compete with the shard for it. Threads that are started [here](spawn) may run wherever the shard might have run before
//! it was pinned.

use std::cell::Cell;
use std::io;
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

thread_local! {
    /// Where this thread might have run before it was pinned.
    static CORES: Cell<Option<CpuSet>> = const { Cell::new(None) };
}

/// Has this thread run on `core` only.
///
/// # Errors
/// If the system refuses that.
pub fn pin(core: usize) -> io::Result<()> {
    if CORES.get().is_none() {
        CORES.set(Some(sched_getaffinity(None)?));
    }
    let mut one = CpuSet::new();
    one.set(core);
    Ok(sched_setaffinity(None, &one)?)
}

/// Has this thread run wherever it might have run before it was [pinned](pin).
///
/// # Errors
/// If the system refuses that.
pub fn loosen() -> io::Result<()> {
    match CORES.get() {
        Some(cores) => Ok(sched_setaffinity(None, &cores)?),
        None => Ok(()),
    }
}

/// Starts a thread that runs on any core that this one may use, or might have used before it was [pinned](pin).
///
/// # Errors
/// If the system gives no thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let cores = CORES.get();
    Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(cores) = cores {
            // Refused, it runs where the shard does: slower, and right.
            let _refused = sched_setaffinity(None, &cores);
        }
        run()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pinned_thread_starts_runs_where_it_might_have_run() {
        let before = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&core| before.is_set(core)).unwrap();
        let pinned = spawn("pinned", move || {
            pin(first).unwrap();
            pin(first).unwrap();
            let beside = spawn("beside", || sched_getaffinity(None).unwrap()).unwrap();
            let child = std::thread::spawn(|| sched_getaffinity(None).unwrap());
            let own = sched_getaffinity(None).unwrap();
            loosen().unwrap();
            let loose = sched_getaffinity(None).unwrap();
            (own, beside.join().unwrap(), child.join().unwrap(), loose)
        });
        let (own, beside, child, loose) = pinned.unwrap().join().unwrap();
        assert_eq!((own.count(), own.is_set(first)), (1, true));
        assert!(beside == before && child == own && loose == before);
    }
}
