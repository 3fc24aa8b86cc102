//! Results that are dropped, counted and named.

use metrics::Counter;
use tracing::warn;

/// A counter of drops that logs the first, second, fourth, eighth and so on.
pub(crate) struct Drops {
    counter: Counter,
    count: u64,
}

impl Drops {
    pub(crate) const fn new(counter: Counter) -> Self {
        Self { counter, count: 0 }
    }

    #[cold]
    pub(crate) fn drop(&mut self, who: &str, topic: &str, why: &str) {
        self.counter.increment(1);
        self.count += 1;
        if self.count.is_power_of_two() {
            let topic: String = topic.chars().take(200).collect();
            warn!("{who}: a result for topic {topic:?} was dropped: {why} ({} so far)", self.count);
        }
    }
}
