//! Tells of readings that are dropped since their numbers have come before, for all shards: the first at once, others once a
//! minute. When most of what a key sends is dropped, that is a warning: its numbers are not what the job takes them for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thalweg_flow::{JUDGED, Repetition};
use thalweg_kernel::Str;
use tracing::{info, warn};

const EVERY: Duration = Duration::from_secs(60);

/// What was dropped. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repetitions(Arc<Mutex<[Untold; 2]>>);

/// What is told once a minute.
#[derive(Debug, Default)]
struct Untold {
    count: u64,
    told: Option<Instant>,
}

impl Untold {
    /// One more; the number to be told now, if it is time.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl Repetitions {
    /// Called where a reading is dropped, and where most of them are.
    pub(crate) fn tell(&self, key: &Str, what: Repetition) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [dropped, mostly] = &mut *untold;
        match what {
            Repetition::Dropped(number) => {
                if let Some(count) = dropped.count(Instant::now()) {
                    info!(
                        "repeated={count} readings were dropped, since their numbers have come before ([deduplicate]); the newest \
                         is number {number} of {key:?}"
                    );
                }
            }
            Repetition::Mostly(most) => {
                if let Some(count) = mostly.count(Instant::now()) {
                    let others = if count > 1 {
                        format!(" (and {} more times)", count - 1)
                    } else {
                        String::new()
                    };
                    warn!(
                        "{most} of the last {JUDGED} readings of {key:?} were dropped as repetitions{others}: does its counter go \
                         round ([deduplicate] modulus), begin anew, or count something else than readings?"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute() {
        let (mut untold, begun) = (Untold::default(), Instant::now());
        assert_eq!(untold.count(begun), Some(1));
        for second in 1..60 {
            assert_eq!(untold.count(begun + Duration::from_secs(second)), None);
        }
        assert_eq!(untold.count(begun + EVERY), Some(60));
        assert_eq!(untold.count(begun + EVERY), None);
    }
}
