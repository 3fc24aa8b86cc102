//! The supervision by itself: what it decides about scripted news, and that no order of news leads it astray.

use std::time::Duration;

use thalweg_flow::ShardSnapshot;
use thalweg_kernel::Epoch;
use thalweg_testing::Random;

use super::*;
use crate::config::CheckpointRules;
use crate::error::JobError;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A supervision, its clock, and what it has decided as words.
struct Play {
    machine: Supervision<u32>,
    now: u64,
    complete: Option<Complete>,
}

impl Play {
    fn new(shards: usize, newest: u64, restart: RestartStrategy) -> Self {
        let interval = ms(100);
        let checkpoints = CheckpointRules { interval, timeout: ms(500), ..Default::default() };
        let (newest, next) = (Epoch::new(newest), Epoch::new(newest + 1));
        let stored = Some(Stored { checkpoints, newest, next });
        let rules = Rules { shards, stored, restart, full_retry: FULL_RETRY, seed: 1 };
        Self { machine: Supervision::new(rules, ms(0)), now: 0, complete: None }
    }

    /// The same after all shards are built.
    fn built(shards: usize) -> Self {
        let delay = ms(10);
        let strategy = RestartStrategy::FixedDelay { delay, restarts_max: 1 };
        let mut play = Self::new(shards, 0, strategy);
        play.is("start");
        (0..shards).for_each(|shard| play.report(shard, Report::Built));
        play.is("started");
        play
    }

    /// What is decided from now on until nothing more is.
    fn is(&mut self, expected: &str) {
        let mut words = Vec::new();
        while let Some(decision) = self.machine.next(ms(self.now)) {
            words.push(match decision {
                Decision::Start(again) => if again { "restart" } else { "start" }.to_owned(),
                Decision::Started(again) => if again { "restarted" } else { "started" }.to_owned(),
                Decision::Enter(phase) => format!("{phase:?}"),
                Decision::Begin { epoch, last } => {
                    format!("begin {epoch}{}", if last { " last" } else { "" })
                }
                Decision::Doze => "doze".to_owned(),
                Decision::Late(epoch) => format!("late {epoch}"),
                Decision::Store(complete) => {
                    let text = format!("store {}", complete.epoch);
                    self.complete = Some(complete);
                    text
                }
                Decision::Save(savepoint, epoch) => format!("save {savepoint}={epoch}"),
                Decision::Announce(epoch) => format!("announce {epoch}"),
                Decision::Tidy => "tidy".to_owned(),
                Decision::Rest(delay) => format!("rest {}", delay.as_millis()),
                Decision::End(Ok(())) => "end".to_owned(),
                Decision::End(Err(error)) => format!("end by {error}"),
            });
        }
        assert_eq!(words.join(", "), expected, "at {} ms", self.now);
    }

    fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }

    fn take(&mut self, news: News<u32>) {
        self.machine.take(news, ms(self.now));
    }

    fn report(&mut self, shard: usize, report: Report) {
        self.take(News::Shard(shard, report));
    }

    fn hand_over(&mut self, epoch: u64, shard: usize) {
        self.hand_over_what(epoch, shard, true);
    }

    fn hand_over_what(&mut self, epoch: u64, shard: usize, moved: bool) {
        let epoch = Epoch::new(epoch);
        let (changes, states, crowded) = (vec![0], [].into(), false);
        let snapshot = ShardSnapshot { epoch, shard, changes, states, crowded, moved };
        self.report(shard, Report::Snapshot(snapshot));
    }

    fn stored(&mut self, epoch: u64) {
        self.stored_after(epoch, epoch);
    }

    /// An epoch is stored, and `oldest` can be restored, too.
    fn stored_after(&mut self, oldest: u64, epoch: u64) {
        let (epoch, oldest) = (Epoch::new(epoch), Epoch::new(oldest));
        self.take(News::Stored { epoch, oldest });
    }

    /// The supervisor has asked, and this shard had moved.
    fn has_moved(&mut self, shard: usize) {
        let asked = self.machine.next(ms(self.now));
        assert!(matches!(asked, Some(Decision::Doze)), "at {} ms", self.now);
        self.report(shard, Report::Moved);
    }

    fn panic(&mut self, shard: usize) {
        let message = "as the test wants it".to_owned();
        self.report(shard, Report::Ended(Err(JobError::Panicked { shard, message })));
    }
}

const PANIC: &str = "shard 0 panicked: as the test wants it";

#[test]
fn an_epoch_is_begun_stored_and_announced_and_then_the_store_tidies() {
    let mut play = Play::built(2);
    assert_eq!(play.machine.due_at(), Some(ms(100)));
    play.at(99).is("");
    play.at(100).is("begin 1");
    play.hand_over(1, 1);
    play.at(101).is("");
    play.hand_over(1, 0);
    play.is("store 1");
    play.stored(1);
    play.is("announce 1");
    assert_eq!(play.machine.due_at(), Some(ms(102)));
    play.at(102).is("tidy");
    play.take(News::Tidied(true));
    play.at(103).is("tidy");
    play.take(News::Tidied(false));
    play.at(199).is("");
    play.at(200).has_moved(1);
    play.is("begin 2");
}

/// Goal: a job in which nothing changes has its last change stored and then nothing more, and wakes up for nothing.
#[test]
fn what_has_not_moved_is_not_stored_and_wakes_nobody() {
    let mut play = Play::built(2);
    play.at(100).is("begin 1");
    (0..2).for_each(|shard| play.hand_over(1, shard));
    play.is("store 1");
    play.stored(1);
    play.is("announce 1");
    // Heard before anybody has asked: whoever has moved says so when it is asked.
    play.report(0, Report::Moved);
    play.at(200).is("doze, tidy");
    play.take(News::Tidied(false));
    assert_eq!(play.machine.due_at(), None);
    play.at(90_000).is("");
    play.report(1, Report::Moved);
    play.report(0, Report::Moved);
    assert_eq!(play.machine.due_at(), Some(ms(200)));
    play.is("begin 2");
    (0..2).for_each(|shard| play.hand_over(2, shard));
    play.is("store 2");
    play.stored(2);
    play.is("announce 2");
    // Whoever waits for an epoch gets one, and so does state that is short of memory.
    play.at(90_050).is("tidy");
    play.take(News::Tidied(false));
    play.at(90_100).is("doze");
    play.take(News::Savepoint(7, false));
    play.is("begin 3");
    (0..2).for_each(|shard| play.hand_over(3, shard));
    play.is("store 3");
    play.stored(3);
    play.is("save 7=3, announce 3");
    play.at(90_300).is("doze, tidy");
    play.report(0, Report::Pressed);
    play.is("begin 4");
}

/// Goal: where older epochs are kept, journals are trimmed up to the last change before the job sleeps.
#[test]
fn a_job_sleeps_when_each_epoch_that_can_be_restored_holds_the_last_change() {
    let mut play = Play::built(1);
    let store = |play: &mut Play, oldest, epoch, moved| {
        play.hand_over_what(epoch, 0, moved);
        play.is(&format!("store {epoch}"));
        play.stored_after(oldest, epoch);
        play.is(&format!("announce {epoch}"));
        play.take(News::Tidied(false));
    };
    play.at(100).is("begin 1");
    store(&mut play, 1, 1, true);
    play.at(200).has_moved(0);
    play.is("begin 2");
    store(&mut play, 1, 2, true);
    play.at(300).is("doze, begin 3");
    store(&mut play, 2, 3, false);
    play.at(400).is("doze");
    assert_eq!(play.machine.due_at(), None);
    // And once more after the next change.
    play.report(0, Report::Moved);
    play.at(500).is("begin 4");
    store(&mut play, 3, 4, true);
    play.at(600).is("doze, begin 5");
    store(&mut play, 4, 5, false);
    play.at(700).is("doze");
    assert_eq!(play.machine.due_at(), None);
    // An epoch that began as one with nothing new holds what came in before its barrier.
    play.report(0, Report::Moved);
    play.is("begin 6");
    store(&mut play, 5, 6, true);
    play.at(900).is("doze, begin 7");
    store(&mut play, 6, 7, true);
    play.at(1_000).is("doze, begin 8");
    store(&mut play, 7, 8, false);
    play.at(1_100).is("doze");
    assert_eq!(play.machine.due_at(), None);
}

#[test]
fn what_finds_no_room_is_tried_again_and_nothing_begins_before() {
    let mut play = Play::built(1);
    play.at(100).is("begin 1");
    play.hand_over(1, 0);
    for tries in 0..3 {
        play.at(200 + 1_000 * tries).is("store 1");
        let complete = play.complete.take().unwrap();
        play.take(News::Full(complete));
        play.at(1_199 + 1_000 * tries).is("");
    }
    play.at(3_200).is("store 1");
    play.stored(1);
    play.is("announce 1, doze");
    play.report(0, Report::Moved);
    play.is("begin 2");
}

#[test]
fn a_savepoint_is_of_an_epoch_that_begins_after_it_was_asked_for() {
    let mut play = Play::built(1);
    play.take(News::Savepoint(7, false));
    play.at(1).is("begin 1");
    play.take(News::Savepoint(8, false));
    play.hand_over(1, 0);
    play.is("store 1");
    play.stored(1);
    play.is("save 7=1, announce 1, begin 2");
    play.hand_over(2, 0);
    play.is("store 2");
    play.stored(2);
    play.is("save 8=2, announce 2");
}

#[test]
fn a_job_is_suspended_with_an_epoch_that_begins_after_nothing_more_is_taken_in() {
    let mut play = Play::built(1);
    play.at(100).is("begin 1");
    play.take(News::Savepoint(7, true));
    play.is("Suspending");
    play.hand_over(1, 0);
    play.is("store 1");
    play.stored(1);
    play.is("announce 1, begin 2 last");
    play.hand_over(2, 0);
    play.is("store 2");
    play.stored(2);
    play.is("save 7=2, announce 2");
    play.report(0, Report::Ended(Ok(())));
    play.is("end");
    play.take(News::Wish(Phase::Aborting));
    play.is("");
    assert_eq!(play.machine.due_at(), None);
}

#[test]
fn a_job_that_fails_rests_and_goes_on_from_the_newest_epoch() {
    let mut play = Play::built(2);
    play.at(100).is("begin 1");
    play.hand_over(1, 0);
    play.hand_over(1, 1);
    play.is("store 1");
    play.stored(1);
    play.is("announce 1");
    play.at(200).has_moved(1);
    play.is("begin 2");
    play.panic(0);
    play.is("Aborting");
    // The epoch that was open is not to be, though the other shard may hand over.
    play.hand_over(2, 1);
    play.at(201).is("tidy");
    play.report(1, Report::Ended(Ok(())));
    play.is("rest 10");
    assert_eq!(play.machine.due_at(), Some(ms(211)));
    play.at(210).is("");
    play.at(211).is("restart, announce 1");
    (0..2).for_each(|shard| play.report(shard, Report::Built));
    play.is("restarted");
    play.at(311).is("begin 2");
    // No more than one restart is allowed.
    play.panic(0);
    play.report(1, Report::Ended(Ok(())));
    play.is(&format!("Aborting, end by {PANIC}"));
}

#[test]
fn what_was_complete_before_a_failure_is_stored_all_the_same() {
    let mut play = Play::built(2);
    play.at(100).is("begin 1");
    play.hand_over(1, 0);
    play.hand_over(1, 1);
    play.panic(0);
    play.is("store 1, Aborting");
    play.stored(1);
    play.is("announce 1");
}

#[test]
fn whoever_ends_a_job_that_rests_or_is_asked_to_end_gets_its_error() {
    let mut play = Play::built(1);
    play.panic(0);
    play.is("Aborting, rest 10");
    play.take(News::Savepoint(7, false));
    play.take(News::Wish(Phase::Draining));
    play.is(&format!("end by {PANIC}"));
    let mut play = Play::built(1);
    play.take(News::Wish(Phase::Draining));
    play.is("Draining");
    play.panic(0);
    play.is(&format!("Aborting, end by {PANIC}"));
}

#[test]
fn what_is_not_built_ends_the_job_if_it_never_was() {
    let mut play = Play::new(2, 3, RestartStrategy::exponential());
    play.is("start, announce 3");
    play.report(1, Report::Built);
    play.panic(0);
    play.report(1, Report::Ended(Ok(())));
    play.is(&format!("Aborting, end by {PANIC}"));
    let mut play = Play::new(2, 0, RestartStrategy::exponential());
    play.is("start");
    play.take(News::NotStarted(JobError::Storage("gone".into())));
    play.is("Aborting, end by stored state: gone");
}

#[test]
fn an_epoch_that_is_too_late_fails_the_job_once() {
    let mut play = Play::built(1);
    play.at(100).is("begin 1");
    play.at(599).is("");
    play.at(600).is("late 1, Aborting");
    play.report(0, Report::Ended(Ok(())));
    play.is("rest 10");
    let error = play.machine.error().map(JobError::to_string).unwrap();
    assert!(error.contains("checkpoint 1 was not complete in time"), "{error}");
}

#[test]
fn an_abort_is_an_error_and_a_job_without_state_is_drained_where_it_was_to_be_suspended() {
    let mut play = Play::built(1);
    play.take(News::Wish(Phase::Aborting));
    play.is("Aborting");
    play.report(0, Report::Ended(Ok(())));
    play.is(&format!("end by {}", JobError::Aborted));
    let (shards, restart) = (1, RestartStrategy::Auto);
    let rules = Rules { shards, stored: None, restart, full_retry: FULL_RETRY, seed: 1 };
    let machine = Supervision::new(rules, ms(0));
    let mut play = Play { machine, now: 0, complete: None };
    play.report(0, Report::Built);
    play.take(News::Wish(Phase::Suspending));
    play.is("start, started, Draining");
    play.panic(0);
    play.is(&format!("Aborting, end by {PANIC}"));
}

/// Goal: whatever comes in whatever order, an epoch is announced only after it was stored, and stored only after
/// every shard that lived handed over. A job that all shards have left ends or begins again. Method: shards, store
/// and handle that do at each turn one thing that they may, by chance.
#[test]
fn no_order_of_news_leads_it_astray() {
    for seed in 0..3_000 {
        walk(seed);
    }
}

#[derive(Clone, Copy, Default)]
struct Side {
    built: bool,
    gone: bool,
    handed: u64,
    /// Since it handed over last.
    moved: bool,
}

fn walk(seed: u64) {
    let mut chance = Random::new(seed);
    let shards = 1 + chance.below(3);
    let delay = ms(5);
    let mut play = Play::new(shards, 0, RestartStrategy::FixedDelay { delay, restarts_max: 2 });
    let (mut sides, mut lives) = (vec![], 0);
    let (mut begun, mut stored, mut announced) = (0, 0, 0);
    let (mut phase, mut last, mut dozing) = (Phase::Running, u64::MAX, false);
    for turn in 0..2_000 {
        play.now += chance.below(20);
        while let Some(decision) = play.machine.next(ms(play.now)) {
            match decision {
                Decision::Start(again) => {
                    assert!(sides.iter().all(|side: &Side| side.gone), "{seed}: two lives at once");
                    assert_eq!(again, lives > 0, "{seed}");
                    (sides, phase, last) =
                        (vec![Side::default(); shards], Phase::Running, u64::MAX);
                    (begun, announced, lives, dozing) = (stored, 0, lives + 1, false);
                }
                Decision::Enter(next) => {
                    assert!(next > phase, "{seed}: from {phase:?} to {next:?}");
                    phase = next;
                }
                Decision::Begin { epoch, last: ends } => {
                    assert_eq!(epoch.number(), stored + 1, "{seed}: two epochs at once");
                    assert!(!ends || phase >= Phase::Suspending, "{seed}: still taking in");
                    (begun, dozing) = (epoch.number(), false);
                    last = if ends { begun } else { last };
                }
                Decision::Store(complete) => {
                    let epoch = complete.epoch.number();
                    let has = |side: &Side| side.gone || side.handed >= epoch;
                    assert!(sides.iter().all(has), "{seed}: {epoch} is stored in part");
                    let full = chance.below(4) == 0;
                    if !full {
                        assert_eq!(epoch, stored + 1, "{seed}");
                        stored = epoch;
                    }
                    let epoch = Epoch::new(epoch);
                    let oldest = Epoch::new(stored.saturating_sub(chance.below(3)).max(1));
                    play.take(match full {
                        true => News::Full(complete),
                        false => News::Stored { epoch, oldest },
                    });
                }
                Decision::Doze => {
                    assert!(!dozing && begun == stored, "{seed}: dozes in the middle of {begun}");
                    dozing = true;
                    let moved = sides.iter().position(|side| side.moved && !side.gone);
                    moved.into_iter().for_each(|at| play.report(at, Report::Moved));
                }
                Decision::Save(asked, epoch) => {
                    assert_eq!(epoch.number(), stored, "{seed}");
                    let holds_all = u64::from(asked) < stored || stored == last;
                    assert!(holds_all, "{seed}: a savepoint of what came before");
                }
                Decision::Announce(epoch) => {
                    assert_eq!(epoch.number(), stored, "{seed}: announced and not stored");
                    assert!(stored > announced, "{seed}: announced twice");
                    announced = stored;
                }
                Decision::Tidy => play.take(News::Tidied(chance.below(2) == 0)),
                Decision::Rest(_) => assert!(sides.iter().all(|side| side.gone), "{seed}"),
                Decision::End(_) => {
                    assert!(sides.iter().all(|side| side.gone), "{seed}: ends without its shards");
                    return;
                }
                Decision::Started(_) | Decision::Late(_) => {}
            }
        }
        match chance.below(60) {
            0 => play.take(News::Savepoint(begun as u32, chance.below(4) == 0)),
            1 => play.panic_any(&mut sides, &mut chance),
            2 if turn > 600 => play.take(News::Wish(Phase::Suspending)),
            3 if turn > 600 => play.take(News::Wish(Phase::Draining)),
            4 if turn > 1_000 => play.take(News::Wish(Phase::Aborting)),
            _ if sides.is_empty() => {}
            what => {
                let at = chance.below(sides.len());
                let side = &mut sides[at];
                let ends = match phase {
                    Phase::Aborting => true,
                    Phase::Draining => what == 5,
                    Phase::Running | Phase::Suspending => announced >= last,
                };
                if side.gone {
                } else if !side.built {
                    side.built = true;
                    play.report(at, Report::Built);
                } else if ends && (side.handed == begun || phase == Phase::Aborting) {
                    side.gone = true;
                    play.report(at, Report::Ended(Ok(())));
                } else if side.handed < begun && begun > stored {
                    (side.handed, side.moved) = (begun, false);
                    play.hand_over(begun, at);
                } else if what == 6 {
                    play.report(at, Report::Pressed);
                } else if what < 20 {
                    let told = dozing && !side.moved;
                    side.moved = true;
                    if told {
                        play.report(at, Report::Moved);
                    }
                }
            }
        }
    }
    panic!("{seed}: no end, in {phase:?} with epoch {begun}, {stored} stored");
}

impl Play {
    fn panic_any(&mut self, sides: &mut [Side], chance: &mut Random) {
        let Some(bound) = std::num::NonZeroU64::new(sides.len() as u64) else { return };
        let at = chance.below(bound.get()) as usize;
        if !sides[at].gone {
            sides[at].gone = true;
            self.panic(at);
        }
    }
}

/// A shard runs as soon as it is built: it may fail while another is still being built.
#[test]
fn a_failure_before_the_last_shard_is_built_is_not_one_of_the_start() {
    let strategy = RestartStrategy::FixedDelay { delay: ms(10), restarts_max: 1 };
    let mut play = Play::new(2, 0, strategy);
    play.is("start");
    play.report(0, Report::Built);
    play.panic(0);
    play.is("Aborting");
    play.report(1, Report::Built);
    play.is("started");
    play.report(1, Report::Ended(Ok(())));
    play.is("rest 10");
    play.at(10).is("restart");
    // In a later life it is only told once all run.
    play.report(0, Report::Built);
    play.panic(0);
    play.report(1, Report::Built);
    play.is("Aborting");
    play.report(1, Report::Ended(Ok(())));
    play.is(&format!("end by {PANIC}"));
}

#[test]
fn a_shard_that_cannot_be_built_ends_the_start() {
    let strategy = RestartStrategy::FixedDelay { delay: ms(10), restarts_max: 1 };
    let mut play = Play::new(2, 0, strategy);
    play.is("start");
    play.panic(0);
    play.report(1, Report::Built);
    play.report(1, Report::Ended(Ok(())));
    play.is(&format!("Aborting, end by {PANIC}"));
}
