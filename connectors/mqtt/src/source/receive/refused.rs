//! Filters that the broker refuses at a reconnect: the others go on, and these are asked for again from time to time.

use super::*;

/// A filter is asked for again after this many times `reconnect_max`: a minute unless that is set.
const ASK_AFTER: u32 = 12;
/// What goes on is told again after this time, in seconds.
const TELL_AGAIN_S: u64 = 60;

/// The filters that are refused.
#[derive(Default)]
pub(super) struct Refused {
    filters: Vec<Filter>,
    /// Which of them has been asked for again, and is not answered.
    asked: Option<usize>,
    ask_at: Option<Instant>,
    told_at: Option<Instant>,
}

struct Filter {
    subscription: String,
    identifier: Option<u32>,
    why: String,
}

impl Refused {
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether the next answer is about one of them.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    #[cold]
    pub(super) fn note(&mut self, subscription: &str, identifier: Option<u32>, why: &str) {
        let (subscription, why) = (subscription.to_owned(), why.to_owned());
        self.filters.push(Filter { subscription, identifier, why });
    }

    /// All are asked for with the next connection.
    pub(super) fn disconnected(&mut self) {
        *self = Self { told_at: self.told_at, ..Self::default() };
    }
}

impl Receive {
    /// Asks again when it is time.
    pub(super) fn ask_refused_again(&mut self) {
        if let Some(at) = self.refused.ask_at
            && self.stop == Stop::No
            && self.reactor.poll_until(at).is_ready()
        {
            self.refused.ask_at = None;
            self.ask_refused(0);
        }
    }

    fn ask_refused(&mut self, at: usize) {
        let Some(filter) = self.refused.filters.get(at) else {
            self.refused.asked = None;
            return self.tell_refused();
        };
        self.refused.asked = Some(at);
        let filters = std::iter::once(&*filter.subscription);
        self.link.subscribe(filters, self.setup.plan.config.qos, filter.identifier);
    }

    /// The broker has answered for one that was refused before.
    #[cold]
    pub(super) fn subscribed_again(&mut self, grants: &[Result<Qos, String>]) {
        let Some(at) = self.refused.asked.filter(|at| *at < self.refused.filters.len()) else {
            return;
        };
        match grants.first() {
            Some(Ok(_)) => {
                let filter = self.refused.filters.remove(at);
                info!("{}: subscribed to {} again", self.who, filter.subscription);
                self.ask_refused(at);
            }
            Some(Err(why)) => {
                self.refused.filters[at].why.clone_from(why);
                self.ask_refused(at + 1);
            }
            None => self.ask_refused(at + 1),
        }
    }

    /// Says what is refused, once a minute, and when it is asked for again.
    pub(super) fn tell_refused(&mut self) {
        if self.refused.is_empty() {
            return;
        }
        let (now, again) = (self.reactor.now(), Duration::from_secs(TELL_AGAIN_S));
        self.refused.ask_at = Some(now + self.setup.plan.config.reconnect_max * ASK_AFTER);
        if self.refused.told_at.is_none_or(|at| now.saturating_duration_since(at) >= again) {
            self.refused.told_at = Some(now);
            for Filter { subscription, why, .. } in &self.refused.filters {
                error!(
                    "{}: the subscription to {subscription:?} is refused now: {why}; the others go on, and this one is asked for \
                     again. Check that this user may read it",
                    self.who
                );
            }
        }
    }
}
