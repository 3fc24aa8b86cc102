//! Tells of messages that the broker sent again and that count once: soon after the first, then at most every minute.

use std::time::{Duration, Instant};

use thalweg_io::Reactor;
use tracing::info;

/// What comes again after a lost connection comes within this.
const SOON: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(60);

/// What was recognised and not told.
#[derive(Default)]
pub(crate) struct Repeats {
    count: u64,
    /// The topic of the newest one.
    topic: String,
    tell_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Repeats {
    /// One more, at `now`.
    #[cold]
    pub(crate) fn note(&mut self, now: Instant, topic: &[u8]) {
        self.count += 1;
        self.topic.clear();
        self.topic.push_str(&String::from_utf8_lossy(topic));
        let soon = now + SOON;
        self.tell_at.get_or_insert(self.not_before.map_or(soon, |before| before.max(soon)));
    }

    /// Tells, if it is time. To be asked at each turn.
    #[inline]
    pub(crate) fn tell(&mut self, who: &str, reactor: &Reactor) {
        if let Some(at) = self.tell_at
            && reactor.poll_until(at).is_ready()
        {
            self.tell_now(who, reactor.now());
        }
    }

    #[cold]
    fn tell_now(&mut self, who: &str, now: Instant) {
        let (count, topic) = (std::mem::take(&mut self.count), &self.topic);
        let messages = if count == 1 { "message" } else { "messages" };
        info!(
            "{who}: repeated={count} {messages} that the broker sent again count once, the newest on {topic:?}"
        );
        self.tell_at = None;
        self.not_before = Some(now + EVERY);
    }
}
