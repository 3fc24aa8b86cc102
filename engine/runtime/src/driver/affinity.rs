//! The cores that threads run on. Cores are numbered as Linux numbers them, from 0.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thalweg_kernel::{ConfigError, beside};

/// Reads a list of cores: `0,2` or `0-3,6`. None may be named twice.
///
/// # Errors
/// If the text is no such list. Whether the cores are there is checked with the rest of the configuration.
pub fn cores(text: &str) -> Result<Vec<usize>, ConfigError> {
    let wrong =
        || ConfigError::new("cores", text, "numbers of cores and ranges of them: 0,2 or 0-3,6");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        let named = first..=last;
        let twice = cores.iter().any(|core| named.contains(core));
        if twice || named.is_empty() || last >= CpuSet::MAX_CPU {
            return Err(wrong());
        }
        cores.extend(named);
    }
    Ok(cores)
}

/// The cores that this thread may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Whether a job may run on `cores`.
pub(crate) fn check(cores: &[usize]) -> Result<(), ConfigError> {
    if cores.is_empty() {
        return Ok(());
    }
    let allowed = allowed();
    match cores
        .iter()
        .enumerate()
        .find(|(at, core)| !allowed.contains(core) || cores[..*at].contains(core))
    {
        None => Ok(()),
        Some((_, core)) => {
            let list: Vec<_> = allowed.iter().map(usize::to_string).collect();
            let what = format!("each once, of the cores this process may use: {}", list.join(","));
            Err(ConfigError::new("cores", core, what))
        }
    }
}

/// The core of each shard, of `cores` or else of those that this thread may use; none if there are fewer than `shards`.
pub(super) fn of_each_shard(cores: &[usize], shards: usize) -> Vec<usize> {
    let cores = if cores.is_empty() { allowed() } else { cores.to_vec() };
    if shards <= cores.len() { cores } else { Vec::new() }
}

/// Lets this thread, and those that it starts from now on, run on `cores` only; on no core in particular if there are
/// none.
pub(crate) fn confine(cores: &[usize]) {
    if cores.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(?cores, %error, "cannot confine a thread to its cores");
    }
}

/// Lets this thread run on `core` only. Threads that it starts by [`beside`] are not bound to it.
pub(super) fn pin(core: usize) {
    if let Err(error) = beside::pin(core) {
        tracing::warn!(core, %error, "cannot pin a thread to its core");
    }
}

/// A shard is pinned when it has gone on for this long without a sleep.
const PINNED_AFTER: Duration = Duration::from_millis(10);

/// Pins this thread to its core while it has much to do, and leaves it loose while it sleeps often.
///
/// A thread that works all the time keeps its caches, and its core to itself. One that sleeps between messages has cold caches
/// anyway. It is woken sooner where there is room just now, than on a core that the broker is using.
pub(super) struct Berth {
    core: Option<usize>,
    is_pinned: bool,
    /// When the last sleep ended.
    awake_since: Option<Instant>,
}

impl Berth {
    /// Of a thread that is not pinned yet, and never will be without a `core`.
    pub(super) const fn new(core: Option<usize>) -> Self {
        Self { core, is_pinned: false, awake_since: None }
    }

    /// The thread goes on.
    #[inline]
    pub(super) fn works(&mut self, now: Instant) {
        let since = *self.awake_since.get_or_insert(now);
        if !self.is_pinned && now.saturating_duration_since(since) >= PINNED_AFTER {
            self.is_pinned = true;
            if let Some(core) = self.core {
                pin(core);
            }
        }
    }

    /// The thread is about to sleep.
    #[inline]
    pub(super) fn sleeps(&mut self) {
        self.awake_since = None;
        if std::mem::take(&mut self.is_pinned)
            && let Err(error) = beside::loosen()
        {
            tracing::warn!(%error, "a thread stays on its core while it sleeps");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(cores("0,2").unwrap(), [0, 2]);
        assert_eq!(cores("5, 0-3").unwrap(), [5, 0, 1, 2, 3]);
        for wrong in ["", "a", "0,", "3-1", "-1", "0,0", "0-2,1", "0-4000000000", "1.5"] {
            let error = cores(wrong).unwrap_err().to_string();
            assert!(error.contains("0-3,6"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_thread_that_works_is_pinned_until_it_sleeps() {
        let all = allowed();
        let first = all[0];
        let berth = move || {
            let (mut berth, start) = (Berth::new(Some(first)), Instant::now());
            berth.works(start);
            berth.works(start + PINNED_AFTER / 2);
            let fresh = allowed();
            berth.sleeps();
            berth.works(start + PINNED_AFTER);
            let slept = allowed();
            berth.works(start + PINNED_AFTER * 2);
            let busy = allowed();
            berth.sleeps();
            (fresh, slept, busy, allowed())
        };
        let seen = std::thread::spawn(berth).join().unwrap();
        assert_eq!(seen, (all.clone(), all.clone(), vec![first], all));
    }

    #[test]
    fn cores_that_are_not_there_are_refused_and_named() {
        let mine = allowed();
        assert!(check(&mine).is_ok() && check(&[]).is_ok());
        let absent = (0..CpuSet::MAX_CPU).find(|core| !mine.contains(core)).unwrap();
        let error = check(&[mine[0], absent]).unwrap_err().to_string();
        assert!(error.contains(&absent.to_string()) && error.contains("may use"), "{error}");
        assert!(check(&[mine[0], mine[0]]).is_err());
    }
}
