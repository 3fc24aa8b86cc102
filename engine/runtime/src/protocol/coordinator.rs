//! When epochs begin, and when they are complete: the decisions, without clock, threads or storage.
//!
//! One epoch is open at a time. It is complete when every shard that has not ended has handed over its
//! snapshot. The next one begins when it is stored, and its interval and the pause have passed. It begins at
//! once where somebody waits for it: a savepoint, a job that is to be suspended, or shards whose streams have
//! all ended. Where state is short of memory it does not wait for the interval, but for the pause.
//!
//! An epoch that would hold nothing new does not begin. When it would be due, and no shard is known to have moved, the
//! coordinator *dozes* until one says that it has. While an epoch can be restored that is older than the last change,
//! epochs go on nevertheless. Journals keep what that epoch needs, and a full one takes nothing in that would be a change.
//! So when a job sleeps, each epoch that can be restored holds all.
//!
//! An epoch that is not complete in time counts as failed, which the job may tolerate. It is not given
//! up: its barriers are on their way, and behind them nothing could overtake. It is stored when
//! they have arrived.

use std::sync::Arc;
use std::time::Duration;

use thalweg_flow::ShardSnapshot;
use thalweg_kernel::defects::{Defect, seeded};
use thalweg_kernel::{Epoch, StateInfo};

use crate::config::CheckpointRules;

/// Between two epochs that memory is short for, at least: the store folds meanwhile.
const PRESSED_PAUSE_MIN: Duration = Duration::from_millis(10);

/// See the module. Times are steady.
pub(super) struct Coordinator {
    rules: CheckpointRules,
    shards: Vec<ShardProgress>,
    next: Epoch,
    /// The epoch after which none begins.
    last: Option<Epoch>,
    open: Option<Open>,
    /// An epoch is complete and not stored yet.
    storing: bool,
    begin_at: Duration,
    wanted: bool,
    /// State is short of memory; the next epoch that begins because of that begins then at the earliest.
    pressed: bool,
    pressed_from: Duration,
    /// A shard has moved since the last epoch, as far as is known.
    moved: bool,
    /// Shards tell when they move.
    dozing: bool,
    /// The last epoch that may hold anything new, and the oldest that can be restored.
    changed: Epoch,
    oldest: Epoch,
    failures: u32,
}

#[derive(Clone, Copy, Default)]
struct ShardProgress {
    ended: bool,
    awaits_epoch: bool,
}

struct Open {
    epoch: Epoch,
    begun: Duration,
    late: bool,
    snapshots: Vec<Option<ShardSnapshot>>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Tell every shard to begin this epoch.
    Begin(Epoch),
    /// Have the shards tell when they move, and if they have moved already.
    Doze,
    /// The epoch is not complete in time. `failures` in a row were not, which the rules tolerate or not.
    Late { epoch: Epoch, failures: u32, tolerated: bool },
}

/// An epoch to be stored.
#[derive(Debug)]
pub struct Complete {
    /// Which one.
    pub epoch: Epoch,
    /// When it has begun, in steady time.
    pub begun: Duration,
    /// What has changed, in the order of shards, as the bytes of [`Changes`](thalweg_kernel::Changes).
    pub blocks: Vec<Vec<u8>>,
    /// All states of the job.
    pub states: Arc<[StateInfo]>,
    /// State takes more memory than it may.
    pub crowded: bool,
}

impl Complete {
    /// How many bytes have changed.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl Coordinator {
    /// For a life that begins `now` with `shards` shards, whose first epoch has the number `next`.
    pub(super) fn new(rules: CheckpointRules, shards: usize, next: Epoch, now: Duration) -> Self {
        Self {
            rules,
            shards: vec![ShardProgress::default(); shards],
            next,
            last: None,
            open: None,
            storing: false,
            begin_at: now.saturating_add(rules.interval),
            wanted: false,
            pressed: false,
            pressed_from: now,
            // What was restored is not always what is stored.
            moved: true,
            dozing: false,
            changed: Epoch::NONE,
            oldest: Epoch::NONE,
            failures: 0,
        }
    }

    /// The next epoch is wanted as soon as possible; its number.
    pub(super) fn want(&mut self) -> Epoch {
        self.wanted = true;
        self.next
    }

    /// One more epoch is wanted, after which none begins; its number. The first call decides.
    pub(super) fn want_last(&mut self) -> Epoch {
        let last = self.last.unwrap_or_else(|| self.want());
        self.last = Some(last);
        last
    }

    /// The epoch after which none begins, once that is decided.
    pub(super) fn last(&self) -> Option<Epoch> {
        self.last
    }

    fn is_closed(&self) -> bool {
        self.last.is_some_and(|last| last < self.next) && !seeded(Defect::RuntimeBeginsAfterLast)
    }

    /// State of a shard is short of memory: the next epoch need not wait for its interval.
    pub(super) fn press(&mut self) {
        self.pressed = true;
    }

    /// A shard has moved. Before shards were asked that is nothing new: they answer when they are.
    pub(super) fn moved(&mut self) {
        self.moved |= self.dozing;
    }

    /// A shard's streams have ended but for an epoch.
    pub(super) fn awaits_epoch(&mut self, shard: usize) {
        self.shards[shard].awaits_epoch = true;
    }

    /// A shard has ended. The epoch that is complete by that, if one is.
    pub(super) fn ended(&mut self, shard: usize) -> Option<Complete> {
        self.shards[shard].ended = true;
        self.complete()
    }

    /// What is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<Due> {
        if let Some(open) = &mut self.open {
            if open.late || now < open.begun.saturating_add(self.rules.timeout) {
                return None;
            }
            open.late = true;
            self.failures += 1;
            let (epoch, failures) = (open.epoch, self.failures);
            let tolerated = failures <= self.rules.failures_max;
            return Some(Due::Late { epoch, failures, tolerated });
        }
        let mut running = self.shards.iter().filter(|shard| !shard.ended).peekable();
        running.peek()?;
        let at_once = self.wanted || running.all(|shard| shard.awaits_epoch);
        if self.storing || self.is_closed() || !at_once && now < self.begin_from() {
            return None;
        }
        let epoch = self.next;
        if at_once || self.moved || self.pressed || seeded(Defect::RuntimeStoresNothingNew) {
            self.changed = epoch;
        } else if !self.dozing {
            self.dozing = true;
            return Some(Due::Doze);
        } else if self.sleeps() {
            return None;
        }
        let snapshots = self.shards.iter().map(|_| None).collect();
        self.open = Some(Open { epoch, begun: now, late: false, snapshots });
        self.next = epoch.next();
        (self.wanted, self.pressed) = (false, false);
        (self.moved, self.dozing) = (false, false);
        self.shards.iter_mut().for_each(|shard| shard.awaits_epoch = false);
        Some(Due::Begin(epoch))
    }

    /// When something will be due if nothing happens before.
    pub(super) fn due_at(&self) -> Option<Duration> {
        match &self.open {
            Some(open) if open.late => None,
            Some(open) => Some(open.begun.saturating_add(self.rules.timeout)),
            None if self.storing || self.is_closed() || self.sleeps() => None,
            None => Some(self.begin_from()),
        }
    }

    /// Whether nothing will be due by time alone.
    fn sleeps(&self) -> bool {
        let holds_all = self.oldest >= self.changed || seeded(Defect::RuntimeKeepsOldEpochs);
        self.dozing && !self.moved && !self.pressed && holds_all
    }

    fn begin_from(&self) -> Duration {
        if self.pressed { self.begin_at.min(self.pressed_from) } else { self.begin_at }
    }

    /// A shard hands over. The epoch that is complete by that, if one is.
    pub(super) fn hand_over(&mut self, snapshot: ShardSnapshot) -> Option<Complete> {
        let open = self.open.as_mut().filter(|open| open.epoch == snapshot.epoch)?;
        let shard = snapshot.shard;
        if snapshot.moved {
            // Perhaps after this epoch had begun as one that holds nothing new.
            self.changed = snapshot.epoch;
        }
        open.snapshots[shard] = Some(snapshot);
        self.complete()
    }

    fn complete(&mut self) -> Option<Complete> {
        let open = self.open.as_ref()?;
        let mut shards = open.snapshots.iter().zip(&self.shards);
        let partial = seeded(Defect::RuntimePartialEpoch);
        if !shards.all(|(snapshot, shard)| snapshot.is_some() || shard.ended || partial) {
            return None;
        }
        let Open { epoch, begun, snapshots, .. } = self.open.take()?;
        self.begin_at = begun.saturating_add(self.rules.interval);
        let snapshots: Vec<_> = snapshots.into_iter().flatten().collect();
        let states = Arc::clone(&snapshots.first()?.states);
        self.storing = true;
        let crowded = snapshots.iter().any(|snapshot| snapshot.crowded);
        let blocks = snapshots.into_iter().map(|snapshot| snapshot.changes).collect();
        Some(Complete { epoch, begun, blocks, states, crowded })
    }

    /// The complete epoch has been stored; `oldest` is the oldest one that can be restored.
    pub(super) fn stored(&mut self, oldest: Epoch, now: Duration) {
        self.storing = false;
        self.oldest = oldest;
        self.failures = 0;
        self.begin_at = self.begin_at.max(now.saturating_add(self.rules.pause_min));
        self.pressed_from = now.saturating_add(self.rules.pause_min.max(PRESSED_PAUSE_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn rules() -> CheckpointRules {
        CheckpointRules {
            interval: MS(100),
            pause_min: MS(30),
            timeout: MS(1_000),
            failures_max: 0,
        }
    }

    fn snapshot(epoch: u64, shard: usize) -> ShardSnapshot {
        let (epoch, changes) = (Epoch::new(epoch), vec![shard as u8]);
        let (crowded, moved) = (false, true);
        ShardSnapshot { epoch, shard, changes, states: [].into(), crowded, moved }
    }

    /// The epoch is stored, and the only one that can be restored.
    fn stored(coordinator: &mut Coordinator, epoch: u64, now: Duration) {
        coordinator.stored(Epoch::new(epoch), now);
    }

    /// An epoch is due, and a shard has moved; the next one.
    fn due_after_a_move(coordinator: &mut Coordinator, now: Duration) -> Option<Due> {
        assert_eq!(coordinator.due(now), Some(Due::Doze));
        coordinator.moved();
        coordinator.due(now)
    }

    #[test]
    fn epochs_follow_each_other_by_interval_and_pause() {
        let mut coordinator = Coordinator::new(rules(), 2, Epoch::new(5), MS(0));
        assert_eq!((coordinator.due(MS(99)), coordinator.due_at()), (None, Some(MS(100))));
        assert_eq!(coordinator.due(MS(100)), Some(Due::Begin(Epoch::new(5))));
        assert_eq!(coordinator.due(MS(300)), None, "one at a time");
        assert!(coordinator.hand_over(snapshot(5, 1)).is_none());
        let complete = coordinator.hand_over(snapshot(5, 0)).unwrap();
        assert_eq!((complete.epoch, complete.blocks), (Epoch::new(5), vec![vec![0], vec![1]]));
        assert_eq!((coordinator.due(MS(310)), coordinator.due_at()), (None, None), "not stored");
        stored(&mut coordinator, 5, MS(320));
        assert_eq!((coordinator.due(MS(349)), coordinator.due_at()), (None, Some(MS(350))));
        let begins = due_after_a_move(&mut coordinator, MS(350));
        assert_eq!(begins, Some(Due::Begin(Epoch::new(6))));
    }

    #[test]
    fn who_waits_gets_an_epoch_that_begins_after_that() {
        let mut coordinator = Coordinator::new(rules(), 1, Epoch::new(1), MS(0));
        assert_eq!(coordinator.want(), Epoch::new(1));
        assert_eq!(coordinator.due(MS(1)), Some(Due::Begin(Epoch::new(1))));
        assert_eq!(coordinator.want(), Epoch::new(2));
        coordinator.hand_over(snapshot(1, 0)).unwrap();
        stored(&mut coordinator, 1, MS(2));
        assert_eq!(coordinator.due(MS(2)), Some(Due::Begin(Epoch::new(2))));
    }

    #[test]
    fn after_the_last_epoch_none_begins() {
        let mut coordinator = Coordinator::new(rules(), 1, Epoch::new(1), MS(0));
        coordinator.due(MS(100)).unwrap();
        assert_eq!(
            (coordinator.want_last(), coordinator.want_last()),
            (Epoch::new(2), Epoch::new(2))
        );
        coordinator.hand_over(snapshot(1, 0)).unwrap();
        stored(&mut coordinator, 1, MS(110));
        assert_eq!(coordinator.due(MS(110)), Some(Due::Begin(Epoch::new(2))));
        coordinator.hand_over(snapshot(2, 0)).unwrap();
        stored(&mut coordinator, 2, MS(120));
        coordinator.press();
        assert_eq!((coordinator.due(MS(900)), coordinator.due_at()), (None, None));
    }

    #[test]
    fn short_memory_waits_for_the_pause_alone_and_presses_for_one_epoch() {
        let mut coordinator = Coordinator::new(rules(), 1, Epoch::new(1), MS(0));
        coordinator.press();
        assert_eq!(coordinator.due_at(), Some(MS(0)));
        assert_eq!(coordinator.due(MS(1)), Some(Due::Begin(Epoch::new(1))));
        coordinator.press();
        assert_eq!(coordinator.due(MS(2)), None, "one at a time");
        coordinator.hand_over(snapshot(1, 0)).unwrap();
        assert_eq!(coordinator.due(MS(3)), None, "not stored");
        stored(&mut coordinator, 1, MS(4));
        assert_eq!((coordinator.due(MS(33)), coordinator.due_at()), (None, Some(MS(34))));
        assert_eq!(coordinator.due(MS(34)), Some(Due::Begin(Epoch::new(2))));
        coordinator.hand_over(snapshot(2, 0)).unwrap();
        stored(&mut coordinator, 2, MS(36));
        assert_eq!((coordinator.due(MS(80)), coordinator.due_at()), (None, Some(MS(134))));
    }

    #[test]
    fn the_end_of_all_streams_does_not_wait_for_the_interval() {
        let mut coordinator = Coordinator::new(rules(), 3, Epoch::new(1), MS(0));
        coordinator.awaits_epoch(0);
        assert!(coordinator.ended(1).is_none());
        assert_eq!(coordinator.due(MS(1)), None, "shard 2 still runs");
        coordinator.awaits_epoch(2);
        assert_eq!(coordinator.due(MS(1)), Some(Due::Begin(Epoch::new(1))));
        assert!(coordinator.hand_over(snapshot(1, 0)).is_none());
        assert!(coordinator.ended(2).is_some(), "whoever has ended has nothing to hand over");
    }

    #[test]
    fn an_epoch_that_is_late_counts_once_and_is_stored_all_the_same() {
        let mut coordinator = Coordinator::new(rules(), 1, Epoch::new(1), MS(0));
        coordinator.due(MS(100)).unwrap();
        let (epoch, failures, tolerated) = (Epoch::new(1), 1, false);
        assert_eq!(coordinator.due(MS(1_100)), Some(Due::Late { epoch, failures, tolerated }));
        assert_eq!(coordinator.due(MS(1_200)), None);
        assert!(coordinator.hand_over(snapshot(1, 0)).is_some());
    }
}
