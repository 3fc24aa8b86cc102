//! What expires in the store alone, against a store that has folded everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_kernel::{Change, Changes, KeyGroups, StateInfo, StateKind};

use super::*;
use crate::checkpoint::{Description, Permissions};
use crate::uid::Uid;

type Entries = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// Reads what is there now; scans what was there at some time before, if there is such a thing.
struct Reader(Entries, Option<Entries>);

impl StateReader for Reader {
    fn restored(&self) -> Option<Epoch> {
        None
    }

    fn states(&self) -> &[StateInfo] {
        &[]
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let entries = self.1.as_ref().unwrap_or(&self.0).lock().unwrap();
        let mut range = entries.range(from.to_vec()..to.to_vec());
        range.try_for_each(|(key, value)| each(key, value))
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        self.0.lock().unwrap().get(key).map_or(Ok(false), |value| found(value).map(|()| true))
    }

    fn readable(&self) -> Epoch {
        Epoch::NONE
    }
}

/// A barrier, after which the store has everything.
fn store<V: Durable>(keyed: &mut Keyed<u64, V>, epoch: Epoch, entries: &Entries) {
    let mut out = Outgoing::default();
    keyed.snapshot(epoch, &mut out).unwrap();
    let mut entries = entries.lock().unwrap();
    for change in Changes::read(out.changes.as_bytes()) {
        match change.unwrap() {
            Change::Put { key, value } => _ = entries.insert(key.to_vec(), value.to_vec()),
            Change::Delete { key } => _ = entries.remove(key),
            Change::DeleteRange { .. } => panic!("no ranges"),
        }
    }
}

struct Rig {
    keyed: Keyed<u64, u64>,
    entries: Entries,
    epoch: Epoch,
    /// The watermark, or the time of this machine.
    now: i64,
    domain: TimeDomain,
}

const KEYS: u64 = 5_000;

impl Rig {
    fn new(ttl: Ttl, before: Option<Entries>) -> Self {
        let checkpoints = Rc::new(Checkpoints::new(true, KeyGroups::default(), 0, 0));
        let (entries, domain) = (Entries::default(), ttl.domain);
        let options = StateOptions::new().ttl(ttl);
        let reader: Rc<dyn StateReader> = Rc::new(Reader(Arc::clone(&entries), before));
        let own = KeyGroups::default().groups_of(0, 1);
        let mut keyed = Keyed::new(options, &checkpoints, Some(reader), own, None);
        keyed.restore(StateId::of("last", "value"), None).unwrap();
        Self { keyed, entries, epoch: Epoch::NONE.next(), now: 0, domain }
    }

    fn set(&mut self, key: u64) {
        let now = Timestamp::from(self.now);
        let other = Timestamp::from(7);
        let (reached, processing_time) = match self.domain {
            TimeDomain::EventTime => (now, other),
            TimeDomain::ProcessingTime => (other, now),
        };
        let (hash, time) = (table_hash(&key), now);
        self.keyed.set(&AtKey { key: &key, hash, time, reached, processing_time }, key);
    }

    /// A barrier, after which the store has everything and memory nothing.
    fn store_and_forget(&mut self) {
        store(&mut self.keyed, self.epoch, &self.entries);
        for _ in 0..10 {
            self.keyed.shrink_to(self.epoch, 0);
        }
        self.epoch = self.epoch.next();
    }

    /// Steps, while the machine's clock goes on by less than the time to live.
    fn step(&mut self) {
        for n in 0..20 {
            let clock = Timestamp::from(self.now + n * 100);
            assert!(match self.domain {
                TimeDomain::EventTime => self.keyed.expire(self.now.into(), clock),
                TimeDomain::ProcessingTime => self.keyed.expire(7.into(), clock),
            });
        }
    }
}

/// Goal: what has expired is gone from the store, though nobody asks for it, and nothing else is.
#[test]
fn what_expires_in_the_store_alone_is_deleted_there() {
    let lives = Duration::from_secs(10);
    for ttl in [Ttl::event_time(lives), Ttl::processing_time(lives)] {
        let mut rig = Rig::new(ttl, None);
        (0..KEYS).for_each(|key| rig.set(key));
        rig.store_and_forget();
        assert_eq!(rig.keyed.keys_here(), 0);
        assert_eq!((rig.keyed.holds().keys, rig.entries.lock().unwrap().len()), (5_000, 5_000));
        rig.now = 5_000;
        (0..KEYS).filter(|key| key.is_multiple_of(10)).for_each(|key| rig.set(key));
        rig.step();
        rig.store_and_forget();
        assert_eq!(rig.entries.lock().unwrap().len(), 5_000, "all of them are alive");
        rig.now = 12_000;
        rig.step();
        rig.store_and_forget();
        assert_eq!((rig.keyed.holds().keys, rig.entries.lock().unwrap().len()), (500, 500));
        rig.now = 20_000;
        rig.step();
        rig.store_and_forget();
        assert_eq!((rig.keyed.holds().keys, rig.entries.lock().unwrap().len()), (0, 0));
        rig.set(3);
        rig.store_and_forget();
        assert_eq!((rig.keyed.holds().keys, rig.entries.lock().unwrap().len()), (1, 1));
    }
}

/// Goal: a scan that shows what was there when the job began deletes nothing that was written since.
#[test]
fn what_a_scan_shows_is_asked_for_again() {
    let before = Entries::default();
    let mut rig = Rig::new(Ttl::event_time(Duration::from_secs(1)), Some(Arc::clone(&before)));
    (0..100).for_each(|key| rig.set(key));
    rig.store_and_forget();
    let stored = rig.entries.lock().unwrap().clone();
    *before.lock().unwrap() = stored;
    rig.now = 5_000;
    (0..50).for_each(|key| rig.set(key));
    rig.store_and_forget();
    rig.step();
    rig.store_and_forget();
    assert_eq!((rig.keyed.holds().keys, rig.entries.lock().unwrap().len()), (50, 50));
}

/// A state of texts as it is at the beginning, in a job that goes on from `entries`.
fn texts(entries: &Entries, checkpoints: &Rc<Checkpoints>) -> Keyed<u64, String> {
    let reader: Rc<dyn StateReader> = Rc::new(Reader(Arc::clone(entries), None));
    let own = KeyGroups::default().groups_of(0, 1);
    let stored = Stored { reader: &*reader, groups: own.clone() };
    let (options, reader) = (StateOptions::new(), Some(Rc::clone(&reader)));
    let mut keyed = Keyed::new(options, checkpoints, reader, own, None);
    keyed.restore(StateId::of("texts", "value"), Some(&stored)).unwrap();
    keyed
}

fn text_at(key: &u64) -> AtKey<'_, u64> {
    let now = Timestamp::from(0);
    AtKey { key, hash: table_hash(key), time: now, reached: now, processing_time: now }
}

/// Goal: a job that goes on knows what values hold outside of the table, in memory or not. Deletes do not change what
/// it knows.
#[test]
fn what_values_hold_is_known_after_a_restart_and_whatever_is_deleted() {
    const BYTES: usize = 10_000;
    let entries = Entries::default();
    let checkpoints = |memory| Rc::new(Checkpoints::new(true, KeyGroups::default(), 0, memory));
    let about = |keyed: &Keyed<u64, String>, keys: usize| {
        let held = keyed.holds();
        assert_eq!(held.keys, keys);
        assert!(held.bytes.abs_diff(keys * BYTES) < keys * BYTES / 10, "{held:?}");
    };
    let mut keyed = texts(&entries, &checkpoints(usize::MAX));
    let mut epoch = Epoch::NONE.next().next();
    (0..1_000).for_each(|key| keyed.set(&text_at(&key), "x".repeat(BYTES)));
    store(&mut keyed, epoch, &entries);
    about(&keyed, 1_000);
    // One comes, a hundred go.
    for round in 0..5 {
        (round * 100..(round + 1) * 100).for_each(|key| _ = keyed.clear(&text_at(&key)));
        keyed.set(&text_at(&(round + 5_000)), "y".repeat(BYTES));
        epoch = epoch.next();
        store(&mut keyed, epoch, &entries);
    }
    about(&keyed, 505);
    about(&texts(&entries, &checkpoints(usize::MAX)), 505);
}

/// Goal: reading a value begins its life anew only where its options say so. That holds in both domains of time, and in
/// the store.
#[test]
fn reading_begins_a_life_anew_where_the_options_say_so() {
    let lives = Duration::from_millis(1_000);
    for ttl in [Ttl::event_time(lives), Ttl::processing_time(lives)] {
        for refresh in [Refresh::OnWrite, Refresh::OnReadAndWrite] {
            let renews = refresh == Refresh::OnReadAndWrite;
            let mut rig = Rig::new(ttl.refresh(refresh), None);
            let at = |rig: &Rig, now: i64| {
                rig.keyed.options.ttl.map(|ttl| match ttl.domain {
                    TimeDomain::EventTime => (Timestamp::from(now), Timestamp::from(7)),
                    TimeDomain::ProcessingTime => (Timestamp::from(7), Timestamp::from(now)),
                })
            };
            let get = |rig: &mut Rig, key: u64, now: i64| {
                let (reached, processing_time) = at(rig, now).unwrap();
                let (hash, time) = (table_hash(&key), reached);
                let at = AtKey { key: &key, hash, time, reached, processing_time };
                rig.keyed.get(&at).copied()
            };
            (0..2).for_each(|key| rig.set(key));
            rig.store_and_forget();
            assert_eq!(get(&mut rig, 0, 900), Some(0));
            // To ask whether there is anything is no reading.
            let (reached, processing_time) = at(&rig, 900).unwrap();
            let (key, hash, time) = (1, table_hash(&1_u64), reached);
            assert!(rig.keyed.has(&AtKey { key: &key, hash, time, reached, processing_time }));
            assert_eq!(get(&mut rig, 1, 1_001), None);
            // What was renewed is stored, so it lives on when it comes back from there.
            rig.store_and_forget();
            rig.store_and_forget();
            assert_eq!(get(&mut rig, 0, 1_900), renews.then_some(0), "{ttl:?} {refresh:?}");
            assert_eq!(get(&mut rig, 0, 2_900), renews.then_some(0), "{ttl:?} {refresh:?}");
            assert_eq!(get(&mut rig, 0, 3_901), None);
        }
    }
}

/// A store that nothing is folded into, of a job that goes on from this epoch.
struct Resumed(Entries, Epoch, Vec<StateInfo>);

impl StateReader for Resumed {
    fn restored(&self) -> Option<Epoch> {
        Some(self.1)
    }

    fn states(&self) -> &[StateInfo] {
        &self.2
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        Reader(Arc::clone(&self.0), None).scan(from, to, each)
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        Reader(Arc::clone(&self.0), None).get(key, found)
    }

    fn readable(&self) -> Epoch {
        self.1
    }
}

/// Goal: what a state that begins anew writes stays in memory until the store can read it. What it removes is not
/// looked for in what was stored before.
#[test]
fn what_begins_anew_is_not_looked_for_in_what_was_before() {
    let describe = Description::of::<u64, u64>(0, "value", StateKind::Keyed);
    let id = StateId::of("last", "value");
    let before = StateInfo {
        id,
        operator: "last".into(),
        name: "value".into(),
        kind: StateKind::Keyed,
        schema: 1,
        types: "u64 -> i64".into(),
        layout: Some(Description::of::<u64, i64>(0, "value", StateKind::Keyed).layout),
    };
    // The store has another value of each key.
    let (entries, groups) = (Entries::default(), KeyGroups::default());
    for key in 0..2_u64 {
        let mut stored = Vec::new();
        id.begin_key(groups.group_of(key.key_hash()), &mut stored);
        key.write_key(&mut stored);
        let value = StateWriter::default().write(i64::MAX.to_le_bytes().to_vec(), &-1_i64);
        entries.lock().unwrap().insert(stored, value.unwrap());
    }
    let resumed = || Resumed(Arc::clone(&entries), Epoch::new(100), vec![before.clone()]);
    let checkpoints = Rc::new(Checkpoints::new(true, groups, 0, 0));
    let (own, reader) = (groups.groups_of(0, 1), Rc::new(resumed()));
    let keyed = Keyed::new(StateOptions::new(), &checkpoints, Some(reader), own, None);
    let keyed = Rc::new(RefCell::new(keyed));
    checkpoints.register(describe, Some(Rc::clone(&keyed) as _));
    let uids = [Uid { name: "last".into(), given: true, settled: true }];
    let begin_anew = vec!["last/value".to_owned()];
    let allowed = Permissions { begin_anew, ..Permissions::default() };
    checkpoints.complete(&uids, Some((&resumed(), &allowed)), 1).unwrap();
    let get = |key: u64| keyed.borrow_mut().get(&text_at(&key)).copied();
    assert_eq!([0, 1].map(get), [None, None]);
    (0..2).for_each(|key: u64| keyed.borrow_mut().set(&text_at(&key), 7));
    for epoch in 101..104 {
        checkpoints.take(&*keyed, Epoch::new(epoch));
        (0..9).for_each(|_| checkpoints.committed(Epoch::new(100)));
        if epoch == 102 {
            keyed.borrow_mut().clear(&text_at(&1));
        }
        assert_eq!([0, 1].map(get), [Some(7), Some(7).filter(|_| epoch < 102)], "{epoch}");
    }
    checkpoints.check().unwrap();
}

/// Goal: a search that ends early says so, and the next one goes on; one in vain ends.
#[test]
fn a_long_search_for_what_can_leave_memory_is_told_from_one_in_vain() {
    const MANY: u64 = 200_000;
    let mut rig = Rig::new(Ttl::event_time(Duration::from_secs(1)), None);
    (0..MANY).for_each(|key| rig.set(key));
    store(&mut rig.keyed, rig.epoch, &rig.entries);
    let mut calls = 1;
    while !rig.keyed.shrink_to(Epoch::NONE, 0) {
        calls += 1;
        assert!(calls < 20, "it is in vain");
    }
    assert_eq!(rig.keyed.keys_here(), MANY as usize, "none can be read yet");
    assert!(!rig.keyed.shrink_to(rig.epoch, 0), "there are more");
    while !rig.keyed.shrink_to(rig.epoch, 0) {}
    assert_eq!(rig.keyed.keys_here(), 0);
}
