//! Which acknowledgements go when, against a journal that does as it is told.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::*;
use crate::source::known::KNOWN_MAX;

/// A journal whose disk is moved by hand.
#[derive(Clone, Default)]
struct ByHand(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: Vec<Vec<u8>>,
    durable: u64,
    trimmed: u64,
    refuse: Option<JournalError>,
    failed: Option<JournalError>,
}

impl ByHand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl JournalWriter for ByHand {
    fn end(&self) -> u64 {
        self.state().records.len() as u64
    }

    fn append(&mut self, _received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        let mut state = self.state();
        if let Some(error) = &state.refuse {
            return Err(error.clone());
        }
        state.records.push(record.concat());
        Ok(state.records.len() as u64 - 1)
    }

    fn flush(&mut self) {}

    fn durable(&self) -> Result<u64, JournalError> {
        let state = self.state();
        state.failed.clone().map_or(Ok(state.durable), Err)
    }

    fn trim(&mut self, position: u64) {
        self.state().trimmed = position;
    }
}

fn delivery(packet_id: u16, qos: Qos) -> Delivery {
    Delivery {
        topic: Bytes::from_static(b"a"),
        payload: Bytes::from_static(b"x"),
        qos,
        packet_id,
        dup: false,
        subscriptions: Vec::new(),
        is_copy: false,
        retained: false,
        is_cut: false,
        left_out: 0,
        user_properties: Vec::new(),
    }
}

fn take(ledger: &mut Ledger, packet_id: u16, qos: Qos) -> Taken {
    let taken = ledger.take(&delivery(packet_id, qos), Timestamp::default()).unwrap();
    if !matches!(taken, Taken::NoRoom(_)) {
        ledger.owe(packet_id, qos);
    }
    taken
}

fn settle(ledger: &mut Ledger) -> Vec<u16> {
    let mut ids = Vec::new();
    let count = ledger.settle(|id, _| ids.push(id)).unwrap();
    assert_eq!(count, ids.len() as u64);
    ids
}

fn with_journal() -> (Ledger, ByHand, Arc<Progress>) {
    with_journal_of(None)
}

fn with_journal_of_ids() -> (Ledger, ByHand, Arc<Progress>) {
    with_journal_of(Some(Qos::AtLeastOnce))
}

fn with_journal_of(keeps_ids: Option<Qos>) -> (Ledger, ByHand, Arc<Progress>) {
    let (journal, progress) = (ByHand::default(), Arc::new(Progress::new()));
    let keeper = Keeper::new(Box::new(journal.clone()), keeps_ids);
    let keeping = Keeping::Journal(Box::new(keeper));
    (Ledger::new(keeping, Arc::clone(&progress), Waker::noop().clone()), journal, progress)
}

#[test]
fn only_what_is_durable_is_acknowledged_and_in_receive_order() {
    let (mut ledger, journal, progress) = with_journal();
    for id in [7, 3, 9] {
        take(&mut ledger, id, Qos::AtLeastOnce);
    }
    assert_eq!(take(&mut ledger, 0, Qos::AtMostOnce), Taken::Yes(4), "kept, never acknowledged");
    // A repetition: needs no record, and must not overtake.
    ledger.owe(1, Qos::ExactlyOnce);
    assert!(settle(&mut ledger).is_empty() && !ledger.is_clear());
    journal.state().durable = 2;
    assert_eq!(settle(&mut ledger), [7, 3]);
    assert_eq!((progress.is_durable(2), progress.is_durable(3)), (Ok(true), Ok(false)));
    journal.state().durable = 3;
    assert_eq!(settle(&mut ledger), [9]);
    journal.state().durable = 4;
    assert_eq!(settle(&mut ledger), [1]);
    assert!(ledger.is_clear());
    assert_eq!(journal.state().records.len(), 4);
}

#[test]
fn what_was_owed_on_a_connection_ends_with_it() {
    let (mut ledger, journal, _) = with_journal();
    take(&mut ledger, 1, Qos::AtLeastOnce);
    take(&mut ledger, 2, Qos::AtLeastOnce);
    assert_eq!(ledger.disconnected(), 2);
    take(&mut ledger, 1, Qos::AtLeastOnce);
    journal.state().durable = 2;
    assert!(settle(&mut ledger).is_empty(), "the ids of the old connection are another's now");
    journal.state().durable = 3;
    assert_eq!(settle(&mut ledger), [1]);
}

#[test]
fn no_room_takes_nothing_and_owes_nothing() {
    let (mut ledger, journal, _) = with_journal();
    journal.state().refuse = Some(JournalError::Full("at its cap".into()));
    assert_eq!(take(&mut ledger, 1, Qos::AtLeastOnce), Taken::NoRoom("at its cap".into()));
    assert!(settle(&mut ledger).is_empty() && ledger.is_clear());
    journal.state().refuse = Some(JournalError::TooLarge("too large".into()));
    assert_eq!(take(&mut ledger, 2, Qos::AtLeastOnce), Taken::Refused(0, "too large".into()));
    assert_eq!(settle(&mut ledger), [2], "it never will be taken: the broker is to forget it");
    journal.state().refuse = None;
    assert_eq!(take(&mut ledger, 1, Qos::AtLeastOnce), Taken::Yes(1));
}

#[test]
fn after_a_failure_nothing_is_acknowledged() {
    let (mut ledger, journal, progress) = with_journal();
    take(&mut ledger, 1, Qos::AtLeastOnce);
    let failed = JournalError::Failed("fdatasync: I/O error".into());
    *journal.state() = State { durable: 1, failed: Some(failed.clone()), ..State::default() };
    assert_eq!(ledger.settle(|_, _| panic!("an acknowledgement")), Err(failed.clone().into()));
    assert!(!ledger.is_clear());
    assert_eq!(progress.is_durable(1), Ok(false));
    journal.state().refuse = Some(failed.clone());
    assert_eq!(
        ledger.take(&delivery(2, Qos::AtLeastOnce), Timestamp::default()),
        Err(failed.into())
    );
}

#[test]
fn the_journal_is_trimmed_to_what_was_released_once() {
    let (mut ledger, journal, progress) = with_journal();
    settle(&mut ledger);
    assert_eq!(journal.state().trimmed, 0);
    progress.release(5);
    progress.release(3);
    settle(&mut ledger);
    assert_eq!(std::mem::take(&mut journal.state().trimmed), 5);
    settle(&mut ledger);
    assert_eq!(journal.state().trimmed, 0);
}

/// Goal: a start can tell what may come again from the last records, by number and by bytes. A full journal needs the room.
#[test]
fn with_packet_ids_the_last_records_stay_while_there_is_room() {
    let (mut ledger, journal, progress) = with_journal_of_ids();
    let most = u64::from(KNOWN_MAX);
    (0..most + 10)
        .for_each(|_| assert!(matches!(take(&mut ledger, 1, Qos::AtLeastOnce), Taken::Yes(_))));
    for (released, trimmed) in [(5, 5), (most, 10)] {
        progress.release(released);
        settle(&mut ledger);
        assert_eq!(journal.state().trimmed, trimmed);
    }
    // A disk that is behind has room.
    journal.state().refuse = Some(JournalError::Busy("a group waits".into()));
    assert!(matches!(take(&mut ledger, 1, Qos::AtLeastOnce), Taken::NoRoom(_)));
    assert_eq!(ledger.release(7, Timestamp::default()), Ok(None));
    progress.release(most + 1);
    settle(&mut ledger);
    assert_eq!(journal.state().trimmed, 10, "the latest stay");
    journal.state().refuse = Some(JournalError::Full("at its cap".into()));
    assert!(matches!(take(&mut ledger, 1, Qos::AtLeastOnce), Taken::NoRoom(_)));
    assert_eq!(journal.state().trimmed, most + 1, "what no checkpoint needs");
    progress.release(most + 4);
    settle(&mut ledger);
    assert_eq!(journal.state().trimmed, most + 4, "and what the next one sets free");

    let mut latest = Latest::new(Qos::AtLeastOnce);
    assert_eq!(latest.first(100), 0);
    for position in 0..100 {
        latest.appended(position, PART_BYTES);
    }
    assert_eq!(latest.first(100), 100 - (KEPT_BYTES_MAX / PART_BYTES) as u64);
    let of_qos_2 = Latest::new(Qos::ExactlyOnce).first(200_000);
    assert_eq!(of_qos_2, 200_000 - 131_070, "a message and a release of each id");
}

#[test]
fn a_released_id_is_completed_when_that_is_durable() {
    let (mut ledger, journal, _) = with_journal_of_ids();
    take(&mut ledger, 1, Qos::ExactlyOnce);
    assert_eq!(ledger.release(7, Timestamp::default()), Ok(Some(false)));
    take(&mut ledger, 2, Qos::ExactlyOnce);
    journal.state().durable = 3;
    let mut answers = Vec::new();
    assert_eq!(ledger.settle(|id, answer| answers.push((id, answer))), Ok(2), "messages");
    let ack = Answer::Ack(Qos::ExactlyOnce);
    assert_eq!(answers, [(1, ack), (7, Answer::Complete), (2, ack)]);
    assert_eq!(journal.state().records[1], released(7));
    journal.state().refuse = Some(JournalError::Full("at its cap".into()));
    assert_eq!(
        (ledger.release(8, Timestamp::default()), ledger.begin_session(Timestamp::default())),
        (Ok(None), Ok(None))
    );
    journal.state().refuse = None;
    assert_eq!(ledger.begin_session(Timestamp::default()), Ok(Some(4)));

    let (mut ledger, journal, _) = with_journal();
    assert_eq!(
        (ledger.release(7, Timestamp::default()), ledger.begin_session(Timestamp::default())),
        (Ok(Some(true)), Ok(Some(0)))
    );
    assert!(journal.state().records.is_empty());
}

#[test]
fn by_checkpoint_only_what_was_released_is_acknowledged() {
    let progress = Arc::new(Progress::new());
    let keeping = Keeping::Checkpoint { taken: 0 };
    let mut ledger = Ledger::new(keeping, Arc::clone(&progress), Waker::noop().clone());
    // Skipped before anything was taken: nothing to wait for.
    ledger.owe(50, Qos::AtLeastOnce);
    assert_eq!(settle(&mut ledger), [50]);
    for id in 1..=4 {
        assert_eq!(take(&mut ledger, id, Qos::AtLeastOnce), Taken::Yes(u64::from(id)));
    }
    ledger.owe(51, Qos::AtLeastOnce);
    assert!(settle(&mut ledger).is_empty());
    progress.release(3);
    assert_eq!(settle(&mut ledger), [1, 2, 3]);
    progress.release(4);
    assert_eq!(settle(&mut ledger), [4, 51]);
    assert!(ledger.is_clear());
}

#[test]
fn no_more_is_owed_than_there_are_packet_ids() {
    let (mut ledger, journal, _) = with_journal();
    for id in 1..=u16::MAX {
        assert!(!ledger.is_crowded());
        take(&mut ledger, id, Qos::AtLeastOnce);
    }
    assert!(ledger.is_crowded());
    journal.state().durable = 1;
    assert_eq!(settle(&mut ledger), [1]);
    assert!(!ledger.is_crowded());
}

/// Goal: what is not taken, as a repetition or a retained message that is skipped, is acknowledged although nothing that comes after it is.
#[test]
fn what_is_owed_for_something_that_is_done_already_is_due_at_once() {
    let (mut ledger, journal, _) = with_journal();
    take(&mut ledger, 1, Qos::AtLeastOnce);
    assert!(!ledger.is_due(), "the journal will tell");
    ledger.owe(2, Qos::AtLeastOnce);
    assert!(!ledger.is_due(), "it is behind the first");
    journal.state().durable = 1;
    assert_eq!(settle(&mut ledger), [1, 2]);
    ledger.owe(3, Qos::ExactlyOnce);
    assert!(ledger.is_due() && !ledger.is_due());
    assert_eq!(settle(&mut ledger), [3]);

    let progress = Arc::new(Progress::new());
    let keeping = Keeping::Checkpoint { taken: 0 };
    let mut ledger = Ledger::new(keeping, Arc::clone(&progress), Waker::noop().clone());
    take(&mut ledger, 1, Qos::AtLeastOnce);
    assert!(!ledger.is_due());
    progress.release(1);
    assert_eq!(settle(&mut ledger), [1]);
    ledger.owe(1, Qos::AtLeastOnce);
    assert!(ledger.is_due());
}
