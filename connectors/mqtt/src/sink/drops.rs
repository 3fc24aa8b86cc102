//! Results that are dropped, counted and named, and become dead letters.

use std::time::SystemTime;

use metrics::Counter;
use thalweg_kernel::{DeadLetter, Timestamp};
use tracing::warn;

use crate::sink::batches::Port;

/// A counter of drops that logs the first, second, fourth, eighth and so on.
pub(crate) struct Drops {
    counter: Counter,
    count: u64,
}

impl Drops {
    pub(crate) const fn new(counter: Counter) -> Self {
        Self { counter, count: 0 }
    }

    /// Drops a result of the sink that `who` names, on the shard of `port`.
    #[cold]
    pub(crate) fn drop(&mut self, who: &str, port: &Port, topic: &str, payload: &[u8], why: &str) {
        self.counter.increment(1);
        self.count += 1;
        let topic: String = topic.chars().take(200).collect();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let reason = format!("topic {topic:?}: {why}");
        port.refused.push(DeadLetter::of_result(who, reason, now, payload));
        if self.count.is_power_of_two() {
            warn!("{who}: a result for topic {topic:?} was dropped: {why} ({} so far)", self.count);
        }
    }
}
