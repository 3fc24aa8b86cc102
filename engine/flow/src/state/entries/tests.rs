//! Entries against a plain map, in front of a store that folds when it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_kernel::{Change, Changes, KeyGroups, StateError, StateInfo, StateKind};
use thalweg_testing::Random;

use super::*;
use crate::checkpoint::{Outgoing, Stateful, Stored};
use crate::state::Ttl;
use crate::state::keyed::AnyKeyed;

type Bytes = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is folded, and up to which epoch.
#[derive(Clone, Default)]
struct Base(Arc<Mutex<(Arc<Bytes>, Epoch)>>);

struct Reader {
    base: Base,
    restored: Option<Epoch>,
    states: Vec<StateInfo>,
}

impl StateReader for Reader {
    fn restored(&self) -> Option<Epoch> {
        self.restored
    }

    fn states(&self) -> &[StateInfo] {
        &self.states
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let base = Arc::clone(&self.base.0.lock().unwrap().0);
        base.range(from.to_vec()..to.to_vec()).try_for_each(|(key, value)| each(key, value))
    }

    fn get(
        &self,
        key: &[u8],
        found: &mut dyn FnMut(&[u8]) -> Result<(), StateError>,
    ) -> Result<bool, StateError> {
        let value = self.base.0.lock().unwrap().0.get(key).cloned();
        value.map_or(Ok(false), |value| found(&value).map(|()| true))
    }

    fn readable(&self) -> Epoch {
        self.base.0.lock().unwrap().1
    }
}

fn apply(base: &mut Bytes, block: &[u8]) {
    for change in Changes::read(block) {
        match change.unwrap() {
            Change::Put { key, value } => _ = base.insert(key.to_vec(), value.to_vec()),
            Change::Delete { key } => _ = base.remove(key),
            Change::DeleteRange { from, to } => {
                base.retain(|key, _| !(from <= key.as_slice() && key.as_slice() < to));
            }
        }
    }
}

/// What there is by key and entry: the value, and the last millisecond.
type Model = BTreeMap<(u8, u16), (u32, i64)>;

struct Rig {
    entries: Entries<u8, u16, u32>,
    checkpoints: Rc<Checkpoints>,
    base: Base,
    /// Stored and not folded.
    blocks: VecDeque<(Epoch, Vec<u8>)>,
    epoch: Epoch,
    model: Model,
    /// As of the newest stored epoch.
    stored: Model,
    now: i64,
    ttl: Option<Ttl>,
    over_limit: Counter,
}

const ENTRIES_MAX: usize = 1_000;
const ALL: Bounds<'static, u16> = (Bound::Unbounded, Bound::Unbounded);

fn info() -> StateInfo {
    StateInfo {
        id: StateId::of("test", "map"),
        operator: "test".into(),
        name: "map".into(),
        kind: StateKind::Map,
        schema: 1,
        types: String::new(),
        layout: None,
    }
}

impl Rig {
    fn new(ttl: Option<Ttl>) -> Self {
        let base = Base::default();
        let checkpoints = Rc::new(Checkpoints::new(true, KeyGroups::default(), 0, usize::MAX));
        let over_limit = Counter::default();
        let entries = Self::open(&base, &checkpoints, ttl, &over_limit, None);
        let (blocks, epoch) = (VecDeque::new(), Epoch::NONE.next());
        let (model, stored) = (Model::new(), Model::new());
        Self { entries, checkpoints, base, blocks, epoch, model, stored, now: 0, ttl, over_limit }
    }

    fn open<K: Key, N: OrderedKey>(
        base: &Base,
        checkpoints: &Rc<Checkpoints>,
        ttl: Option<Ttl>,
        over_limit: &Counter,
        restored: Option<Epoch>,
    ) -> Entries<K, N, u32> {
        let states = vec![info()];
        let reader: Rc<dyn StateReader> = Rc::new(Reader { base: base.clone(), restored, states });
        let own = KeyGroups::default().groups_of(0, 1);
        let mut options = StateOptions::new();
        options.ttl = ttl;
        let over_limit = over_limit.clone();
        let rules = EntryRules { options, entries_max: ENTRIES_MAX, over_limit, whole: None };
        let mut entries = Entries::new(rules, checkpoints, Some(Rc::clone(&reader)), own.clone());
        let stored = Stored { reader: &*reader, groups: own };
        let stored = restored.map(|_| &stored);
        entries.restore(StateId::of("test", "map"), stored).unwrap();
        entries
    }

    fn lives(&self) -> i64 {
        self.ttl.map_or(i64::MAX, |ttl| self.now + ttl.lives_ms)
    }

    fn renews(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.refresh == Refresh::OnReadAndWrite)
    }

    /// The entries of a key that have not expired.
    fn alive(&self, key: u8, bounds: Bounds<'_, u16>) -> Vec<(u16, u32)> {
        let range = self.model.range((key, 0)..=(key, u16::MAX));
        let entries = range.map(|(&(_, entry), &(value, until))| (entry, value, until));
        let alive = entries.filter(|(entry, _, until)| {
            *until >= self.now && std::ops::RangeBounds::contains(&bounds, entry)
        });
        alive.map(|(entry, value, _)| (entry, value)).collect()
    }

    fn renew(&mut self, key: u8, entries: &[(u16, u32)]) {
        let lives = self.lives();
        if self.renews() {
            for (entry, _) in entries {
                self.model.get_mut(&(key, *entry)).unwrap().1 = lives;
            }
        }
    }

    fn snapshot(&mut self) -> usize {
        let mut out = Outgoing::default();
        self.entries.snapshot(self.epoch, &mut out).unwrap();
        let block = out.changes.as_bytes().to_vec();
        let bytes = block.len();
        self.blocks.push_back((self.epoch, block));
        self.epoch = self.epoch.next();
        self.stored = self.model.clone();
        assert_eq!(self.entries.tally.dirty, 0);
        bytes
    }

    fn fold(&mut self, epochs: usize) {
        for (epoch, block) in self.blocks.drain(..epochs.min(self.blocks.len())) {
            let mut base = self.base.0.lock().unwrap();
            apply(Arc::make_mut(&mut base.0), &block);
            base.1 = epoch;
        }
    }

    /// The shard is told what can be read.
    fn told(&self) {
        self.checkpoints.committed(self.base.0.lock().unwrap().1);
    }

    fn restart(&mut self) {
        self.restart_in(usize::MAX);
    }

    /// Restarts where state may take this much memory.
    fn restart_in(&mut self, memory_bytes_max: usize) {
        self.fold(usize::MAX);
        let groups = KeyGroups::default();
        self.checkpoints = Rc::new(Checkpoints::new(true, groups, 0, memory_bytes_max));
        self.told();
        let restored = self.base.0.lock().unwrap().1;
        let restored = Some(restored).filter(|epoch| *epoch > Epoch::NONE);
        self.entries =
            Self::open(&self.base, &self.checkpoints, self.ttl, &self.over_limit, restored);
        self.model = self.stored.clone();
    }

    /// Drops from memory what can be.
    fn forget(&mut self) {
        for _ in 0..4 {
            self.entries.barren.1 = 0;
            self.entries.shrink_to(self.checkpoints.readable(), 0);
        }
    }

    fn check_tally(&mut self) {
        let bodies = self.entries.groups.iter().map(|group| &group.body);
        let (mut here, mut len, mut tally) = (0, 0, Tally::default());
        for body in bodies {
            here += body.range(ALL, Timestamp::MIN).count();
            len += body.len();
            let of_body = body.count();
            assert_eq!(body.cold(), of_body.cold);
            tally.here += of_body.here;
            tally.dirty += of_body.dirty;
            tally.cold += of_body.cold;
            tally.gone += of_body.gone;
        }
        assert_eq!(tally, self.entries.tally);
        assert_eq!((here, here + tally.cold), (tally.here, len));
        self.checkpoints.check().unwrap();
    }
}

macro_rules! at {
    ($rig:ident, $key:expr, $at:ident => $do:expr) => {{
        let (key, now): (u8, _) = ($key, Timestamp::from($rig.now));
        let hash = table_hash(&key);
        let $at = &AtKey { key: &key, hash, time: now, reached: now, processing_time: now };
        $do
    }};
}

/// One of: few keys with few entries, one with many.
fn pick(random: &mut Random) -> (u8, u16) {
    match random.below(3) {
        0 => (0, random.below(ENTRIES_MAX + 50) as u16),
        1 => (1 + random.below(3) as u8, random.below(90) as u16),
        _ => (10 + random.below(60) as u8, random.below(4) as u16),
    }
}

fn step(rig: &mut Rig, random: &mut Random) {
    let (key, entry) = pick(random);
    let lives = rig.lives();
    let (a, b) = (entry, entry.saturating_add(random.below(120) as u16));
    let bounds = match random.below(4) {
        0 => (Bound::Included(&a), Bound::Excluded(&b)),
        1 => (Bound::Excluded(&a), Bound::Included(&b)),
        2 => (Bound::Unbounded, Bound::Included(&b)),
        _ => (Bound::Included(&a), Bound::Unbounded),
    };
    match random.below(23) {
        0..7 => {
            let value = random.below(1 << 20) as u32;
            let room = rig.alive(key, ALL).len() < ENTRIES_MAX
                || rig.alive(key, ALL).iter().any(|(other, _)| *other == entry);
            // What has expired in the store alone may keep others out.
            let put = at!(rig, key, at => rig.entries.put(at, entry, value));
            assert!(!put || room);
            assert!(put || !room || rig.ttl.is_some());
            if put {
                rig.model.insert((key, entry), (value, lives));
            }
        }
        7..9 => {
            let before = rig.alive(key, ALL).into_iter().find(|(other, _)| *other == entry);
            let changed = at!(rig, key, at => {
                rig.entries.change(at, entry, || 7, |value| {
                    *value += 1;
                    *value
                })
            });
            if let Some(changed) = changed {
                assert_eq!(changed, before.map_or(7, |(_, value)| value) + 1);
                rig.model.insert((key, entry), (changed, lives));
            }
        }
        9..11 => {
            let expected = rig.alive(key, ALL).into_iter().find(|(other, _)| *other == entry);
            let found = at!(rig, key, at => rig.entries.with(at, &entry, |value| value.copied()));
            assert_eq!(found, expected.map(|(_, value)| value));
            rig.renew(key, expected.as_slice());
        }
        11..13 => {
            let expected = rig.alive(key, ALL).into_iter().find(|(other, _)| *other == entry);
            let taken = at!(rig, key, at => rig.entries.remove(at, &entry));
            assert_eq!(taken, expected.map(|(_, value)| value));
            rig.model.remove(&(key, entry));
        }
        13 => {
            let expected = rig.alive(key, bounds);
            let found: Vec<_> = at!(rig, key, at => {
                rig.entries.range(at, bounds).map(|(entry, value)| (*entry, *value)).collect()
            });
            assert_eq!(found, expected);
            rig.renew(key, &expected);
        }
        14 => {
            let mut expected = rig.alive(key, bounds);
            expected.reverse();
            let found: Vec<_> = at!(rig, key, at => {
                rig.entries.range(at, bounds).rev().map(|(entry, value)| (*entry, *value)).collect()
            });
            assert_eq!(found, expected);
            rig.renew(key, &expected);
        }
        15 => {
            let alive = rig.alive(key, bounds);
            let first = at!(rig, key, at => rig.entries.first(at, bounds, |e, v| (*e, *v)));
            assert_eq!(first, alive.first().copied());
            rig.renew(key, first.as_slice());
            let last = at!(rig, key, at => rig.entries.last(at, bounds, |e, v| (*e, *v)));
            assert_eq!(last, alive.last().copied());
            rig.renew(key, last.as_slice());
        }
        16 => {
            at!(rig, key, at => rig.entries.remove_range(at, bounds));
            let bounds = (bounds.0.cloned(), bounds.1.cloned());
            let gone = |entry: &u16| std::ops::RangeBounds::contains(&bounds, entry);
            rig.model.retain(|(other, entry), _| *other != key || !gone(entry));
        }
        17 => {
            let odd = random.below(5) as u16 + 1;
            let kept = |entry: &u16| !(entry / odd).is_multiple_of(3);
            at!(rig, key, at => rig.entries.retain(at, |entry, _| kept(entry)));
            rig.model.retain(|(other, entry), _| *other != key || kept(entry));
        }
        18 if random.below(3) == 0 => {
            at!(rig, key, at => rig.entries.clear(at));
            rig.model.retain(|(other, _), _| *other != key);
        }
        19 => {
            let last = rig.model.range((key, 0)..=(key, u16::MAX)).next_back();
            let last = last.map(|(&(_, entry), _)| entry);
            let alive = rig.alive(key, ALL).len();
            if last.is_none_or(|last| last < 2_000) && alive < ENTRIES_MAX && rig.ttl.is_none() {
                let mut seen = None;
                let added = at!(rig, key, at => {
                    rig.entries.append(at, 5, |last| {
                        seen = last.copied();
                        last.map_or(0, |last| last + 1)
                    })
                });
                assert!(added && seen >= last);
                rig.model.insert((key, seen.map_or(0, |last| last + 1)), (5, lives));
            }
        }
        20 => {
            rig.snapshot();
            if random.below(3) == 0 {
                rig.fold(random.below(3));
                rig.told();
            }
        }
        21 => {
            rig.fold(random.below(4));
            if random.below(2) == 0 {
                rig.told();
                rig.forget();
            }
        }
        22 => {
            if rig.ttl.is_some() {
                rig.now += random.below(8) as i64;
                let now = Timestamp::from(rig.now);
                // The sweep goes by the machine's clock.
                rig.entries.expire(now, Timestamp::from(random.below(1_i64 << 40)));
            } else if random.below(20) == 0 {
                rig.restart();
            } else {
                let len = at!(rig, key, at => rig.entries.len(at));
                assert_eq!(len, rig.alive(key, ALL).len());
            }
        }
        _ => {}
    }
}

fn live(seed: u64, ttl: Option<Ttl>) {
    let (mut rig, mut random) = (Rig::new(ttl), Random::new(seed));
    // Sometimes a large map from the beginning.
    if random.below(2) == 0 {
        for entry in 0..ENTRIES_MAX as u16 {
            at!(rig, 0, at => rig.entries.put(at, entry, 1));
            rig.model.insert((0, entry), (1, rig.lives()));
        }
    }
    for n in 0..1_500 {
        step(&mut rig, &mut random);
        if n % 8 == 0 {
            rig.check_tally();
        }
    }
    // All of it, from memory and from the store.
    for restart in [false, true] {
        if restart {
            rig.snapshot();
            rig.restart();
        }
        for key in 0..80 {
            let found: Vec<_> =
                at!(rig, key, at => rig.entries.range(at, ALL).map(|(e, v)| (*e, *v)).collect());
            let expected = rig.alive(key, ALL);
            assert_eq!(found, expected, "key {key}");
            rig.renew(key, &expected);
        }
    }
}

/// Goal: entries are those of a plain map, whatever leaves memory, comes back, expires and is restored.
#[test]
fn entries_are_those_of_a_plain_map() {
    for seed in 0..40 {
        live(seed, None);
    }
}

/// Goal: entries are those of a plain map also where they expire after they were written, or written or read.
#[test]
fn entries_expire_one_by_one() {
    for seed in 0..20 {
        let ttl = Ttl::event_time(Duration::from_millis(30));
        live(seed, Some(ttl));
        live(seed, Some(ttl.refresh(Refresh::OnReadAndWrite)));
    }
}

/// Goal: a barrier costs the entries that have changed; a range or all of a key goes as one change.
#[test]
fn one_entry_of_a_hundred_thousand_costs_few_bytes() {
    let mut rig = Rig::new(None);
    rig.entries.rules.entries_max = usize::MAX;
    (0..60_000).for_each(|entry| at!(rig, 1, at => _ = rig.entries.put(at, entry, 9)));
    assert!(rig.snapshot() > 60_000 * 20);
    assert_eq!(rig.snapshot(), 0);
    at!(rig, 1, at => rig.entries.put(at, 30_000, 10));
    let bytes = rig.snapshot();
    assert!(bytes <= 64, "{bytes} bytes");
    at!(rig, 1, at => rig.entries.remove_range(at, (Bound::Included(&100), Bound::Excluded(&50_000))));
    let bytes = rig.snapshot();
    assert!(bytes <= 64, "{bytes} bytes");
    at!(rig, 1, at => rig.entries.retain(at, |entry, _| *entry < 40 || *entry > 50_100));
    let bytes = rig.snapshot();
    assert!(bytes <= 64, "{bytes} bytes");
    at!(rig, 1, at => rig.entries.clear(at));
    let bytes = rig.snapshot();
    assert!(bytes <= 64, "{bytes} bytes");
    rig.restart();
    assert_eq!(at!(rig, 1, at => rig.entries.len(at)), 0);
    assert!(rig.base.0.lock().unwrap().0.is_empty());
}

/// Goal: what came and went between two barriers is not written.
#[test]
fn what_came_and_went_is_not_written() {
    let mut rig = Rig::new(None);
    for key in 0..50 {
        (0..90).for_each(|entry| at!(rig, key, at => _ = rig.entries.put(at, entry, 9)));
        at!(rig, key, at => rig.entries.clear(at));
    }
    assert_eq!(rig.snapshot(), 0);
    assert_eq!((rig.entries.groups.len(), rig.entries.tally), (0, Tally::default()));
}

/// Goal: keys of which nothing is left take no memory once the store has forgotten them, too.
#[test]
fn keys_of_which_nothing_is_left_are_forgotten() {
    let mut rig = Rig::new(None);
    for key in 0..50 {
        (0..90).for_each(|entry| at!(rig, key, at => _ = rig.entries.put(at, entry, 9)));
    }
    rig.snapshot();
    (0..25).for_each(|key| at!(rig, key, at => _ = rig.entries.clear(at)));
    for key in 25..50 {
        (0..90).for_each(|entry| at!(rig, key, at => _ = rig.entries.remove(at, &entry)));
    }
    rig.snapshot();
    assert_eq!(rig.entries.groups.len(), 50, "the store does not know yet");
    for _ in 0..2 {
        rig.fold(10);
        rig.told();
        rig.snapshot();
    }
    assert_eq!(rig.entries.groups.len(), 0);
    assert_eq!(rig.entries.holds().keys, 0);
}

/// Goal: what is read at a restart may leave memory in the middle of a key, small or large, and all of it is found.
#[test]
fn all_entries_of_a_key_survive_a_restart_in_no_memory() {
    // Looked at after 4,096 entries: in the middle of a small key, and of the one that is large.
    for large in [None, Some(0), Some(100), Some(239)] {
        let mut rig = Rig::new(None);
        rig.entries.rules.entries_max = usize::MAX;
        let entries = |key| if large == Some(key) { 9_001 } else { 18 };
        for key in 0..240 {
            (0..entries(key))
                .for_each(|entry| at!(rig, key, at => _ = rig.entries.put(at, entry, 9)));
        }
        rig.snapshot();
        rig.restart_in(0);
        rig.check_tally();
        assert!(rig.entries.tally.here < 4_096, "{} are here", rig.entries.tally.here);
        for key in 0..240 {
            let entry = entries(key) / 2;
            at!(rig, key, at => _ = rig.entries.put(at, entry, 10));
            let len = at!(rig, key, at => rig.entries.len(at));
            assert_eq!(len, usize::from(entries(key)), "key {key}");
            let found: Vec<_> =
                at!(rig, key, at => rig.entries.range(at, ALL).map(|(e, v)| (*e, *v)).collect());
            let expected = (0..entries(key)).map(|e| (e, if e == entry { 10 } else { 9 }));
            assert!(found.into_iter().eq(expected), "key {key}");
        }
        rig.check_tally();
    }
}

/// Goal: of keys that come and go for ever those of a few barriers are remembered, however many they are.
#[test]
fn keys_that_come_and_go_do_not_pile_up() {
    const KEYS: u32 = 10_000;
    let rig = Rig::new(None);
    let mut entries: Entries<u32, u16, u32> =
        Rig::open(&rig.base, &rig.checkpoints, None, &rig.over_limit, None);
    let mut epoch = Epoch::NONE;
    for round in 0..8 {
        for to_come in [true, false] {
            for key in round * KEYS..(round + 1) * KEYS {
                let (now, hash) = (Timestamp::from(0), table_hash(&key));
                let at = &AtKey { key: &key, hash, time: now, reached: now, processing_time: now };
                if to_come {
                    entries.put(at, 1, 1);
                } else {
                    entries.clear(at);
                }
            }
            epoch = epoch.next();
            entries.snapshot(epoch, &mut Outgoing::default()).unwrap();
            rig.checkpoints.committed(epoch);
        }
        let (keys, waiting) = (entries.holds().keys, entries.waiting.len());
        assert!(keys <= 2 * KEYS as usize && waiting <= keys, "{keys} {waiting} in round {round}");
    }
}

/// The entries of a store whose state is of this kind, which release 0.1 may have stored in one piece for each key.
fn open_older(base: &Base, kind: StateKind, part_bytes: usize) -> Entries<u8, u16, u32> {
    let restored = Some(base.0.lock().unwrap().1);
    let states = vec![StateInfo { kind, ..info() }];
    let reader: Rc<dyn StateReader> = Rc::new(Reader { base: base.clone(), restored, states });
    let own = KeyGroups::default().groups_of(0, 1);
    let checkpoints = Rc::new(Checkpoints::new(true, KeyGroups::default(), 0, usize::MAX));
    let whole = Whole { read: Vec::<(u16, u32)>::read, types: String::new() };
    let (options, over_limit) = (StateOptions::new(), Counter::default());
    let rules = EntryRules { options, entries_max: ENTRIES_MAX, over_limit, whole: Some(whole) };
    let mut entries = Entries::new(rules, &checkpoints, Some(Rc::clone(&reader)), own.clone());
    entries.part_bytes = part_bytes;
    let stored = Stored { reader: &*reader, groups: own };
    entries.restore(StateId::of("test", "map"), Some(&stored)).unwrap();
    entries
}

/// Goal: what release 0.1 stored in one piece for each key is written anew in parts. Changes in between are in them, and
/// so it is where the job restarts in between.
#[test]
fn keys_in_one_piece_are_written_anew_some_at_a_time() {
    const KEYS: u8 = 60;
    const ENTRIES: u16 = 50;
    const PART_BYTES: usize = 5_000;
    let (base, of) = (Base::default(), (StateId::of("test", "map"), KeyGroups::default()));
    let (mut model, mut writer) = (BTreeMap::new(), StateWriter::default());
    // The last one is a list without items.
    for key in 0..=KEYS {
        let entries = if key < KEYS { ENTRIES } else { 0 };
        let entries: Vec<_> = (0..entries).map(|entry| (entry, u32::from(key))).collect();
        model.extend(entries.iter().map(|&(entry, value)| ((key, entry), value)));
        let mut stored = Vec::new();
        cold::write_key::<u8, u16>(of, &key, None, &mut stored);
        let value = writer.write(i64::MAX.to_le_bytes().to_vec(), &entries).unwrap();
        let mut base = base.0.lock().unwrap();
        Arc::make_mut(&mut base.0).insert(stored, value);
        base.1 = Epoch::new(1);
    }
    let in_one_piece = |base: &Base| {
        let is = |stored: &&Vec<u8>| stored.len() == StateId::PREFIX_BYTES + size_of::<u8>();
        base.0.lock().unwrap().0.keys().filter(is).count()
    };
    let (mut random, mut restarts, mut kind) = (Random::new(7), 0, StateKind::Keyed);
    let mut entries = open_older(&base, kind, PART_BYTES);
    // States of one shard share what a block may have of them.
    let mut out = Outgoing::default();
    let [mut one, mut other] = [(); 2].map(|()| open_older(&base, kind, PART_BYTES));
    one.snapshot(Epoch::new(2), &mut out).unwrap();
    other.snapshot(Epoch::new(2), &mut out).unwrap();
    assert!(one.pieces < other.pieces && other.pieces == usize::from(KEYS), "{}", other.pieces);
    let mut one_more = true;
    while in_one_piece(&base) > 0 || std::mem::take(&mut one_more) {
        for _ in 0..3 {
            let (key, entry) = (random.below(KEYS), random.below(60_u16));
            let (now, hash) = (Timestamp::from(0), table_hash(&key));
            let at = &AtKey { key: &key, hash, time: now, reached: now, processing_time: now };
            match random.below(4) {
                0 => {
                    entries.clear(at);
                    model.retain(|(other, _), _| *other != key);
                }
                1 => {
                    let removed = entries.remove(at, &entry);
                    assert_eq!(removed, model.remove(&(key, entry)));
                }
                _ => {
                    entries.put(at, entry, 99);
                    model.insert((key, entry), 99);
                }
            }
        }
        let (mut out, before) = (Outgoing::default(), in_one_piece(&base));
        {
            let mut base = base.0.lock().unwrap();
            base.1 = base.1.next();
            entries.snapshot(base.1, &mut out).unwrap();
            apply(Arc::make_mut(&mut base.0), out.changes.as_bytes());
        }
        let written = before - in_one_piece(&base);
        assert!(written > 0 || before == 0, "nothing was written anew");
        let bytes = out.changes.as_bytes().len();
        assert!(bytes < 4 * PART_BYTES, "a block of {bytes} bytes");
        kind = StateKind::Map;
        if random.below(2) == 0 {
            restarts += 1;
            entries = open_older(&base, kind, PART_BYTES);
        }
        for key in 0..KEYS {
            let (now, hash) = (Timestamp::from(0), table_hash(&key));
            let at = &AtKey { key: &key, hash, time: now, reached: now, processing_time: now };
            let found: Vec<_> =
                entries.range(at, ALL).map(|(&entry, &value)| (entry, value)).collect();
            let expected = model.range((key, 0)..=(key, u16::MAX));
            let expected: Vec<_> = expected.map(|(&(_, entry), &value)| (entry, value)).collect();
            assert_eq!(found, expected, "key {key}");
        }
    }
    assert!(restarts > 3, "{restarts} restarts");
    assert_eq!((entries.pieces, entries.tally.dirty), (0, 0));
}

/// Goal: what was removed is in the account until the store does not show it any more, and is removed in any order in time.
#[test]
fn what_was_removed_counts_until_the_store_has_forgotten_it() {
    const ENTRIES: u32 = 100_000;
    let rig = Rig::new(None);
    let mut entries: Entries<u32, u32, u32> =
        Rig::open(&rig.base, &rig.checkpoints, None, &rig.over_limit, None);
    entries.rules.entries_max = usize::MAX;
    let (now, key) = (Timestamp::from(0), 1);
    let at =
        &AtKey { key: &key, hash: table_hash(&key), time: now, reached: now, processing_time: now };
    (0..ENTRIES).for_each(|entry| _ = entries.put(at, entry, 1));
    let to_epoch = |entries: &mut Entries<u32, u32, u32>, epoch: u64| {
        entries.snapshot(Epoch::new(epoch), &mut Outgoing::default()).unwrap();
        rig.checkpoints.committed(Epoch::new(epoch));
    };
    to_epoch(&mut entries, 1);
    (0..ENTRIES).rev().for_each(|entry| _ = entries.remove(at, &entry));
    let bytes = entries.takes().bytes;
    assert!(bytes >= ENTRIES as usize * size_of::<(u32, Option<Epoch>)>(), "{bytes} bytes");
    assert_eq!(entries.takes().changed / ENTRIES as usize, entries.entry_bytes());
    to_epoch(&mut entries, 2);
    to_epoch(&mut entries, 3);
    assert_eq!(entries.takes().bytes, 0, "epoch 2 can be read");
}

/// Goal: a search for what can leave memory goes round a small table few times, and finds all of it.
#[test]
fn a_search_in_vain_goes_round_few_times() {
    let mut rig = Rig::new(None);
    for key in 0..3 {
        (0..900).for_each(|entry| at!(rig, key, at => _ = rig.entries.put(at, entry, 9)));
    }
    rig.snapshot();
    rig.entries.shrink_to(Epoch::NONE, 0);
    let buckets = rig.entries.groups.buckets();
    let walked = rig.entries.barren.1;
    assert!(walked <= 3 * buckets, "{walked} of {buckets} buckets");
    assert_eq!(rig.entries.tally.here, 2_700, "none can be read yet");
    rig.fold(1);
    rig.told();
    rig.entries.shrink_to(rig.checkpoints.readable(), 0);
    assert_eq!((rig.entries.tally.here, rig.entries.tally.cold), (0, 2_700));
}

/// Goal: what is added behind all others is behind those that memory has dropped, too, where the last ones have just
/// expired.
#[test]
fn what_is_added_after_the_last_ones_have_expired_is_behind_all_others() {
    let mut rig = Rig::new(Some(Ttl::event_time(Duration::from_millis(30))));
    // Two chunks: few entries that live on, and many that do not.
    (0..228).for_each(|entry| at!(rig, 1, at => _ = rig.entries.put(at, entry, 9)));
    (10..128).for_each(|other| at!(rig, 1, at => _ = rig.entries.remove(at, &other)));
    rig.now = 20;
    (0..10).for_each(|entry| at!(rig, 1, at => _ = rig.entries.put(at, entry, 9)));
    rig.snapshot();
    rig.fold(1);
    rig.told();
    rig.forget();
    assert_eq!((rig.entries.tally.here, rig.entries.tally.cold), (0, 110));
    (rig.now, rig.entries.rules.entries_max) = (35, 110);
    let mut behind = None;
    let added = at!(rig, 1, at => rig.entries.append(at, 5, |last| {
        behind = last.copied();
        last.map_or(0, |last| last + 1)
    }));
    assert!(added && behind >= Some(9), "it is behind {behind:?}");
    let found: Vec<_> =
        at!(rig, 1, at => rig.entries.range(at, ALL).map(|(_, value)| *value).collect());
    assert_eq!(found, [[9; 10].as_slice(), &[5]].concat());
    rig.check_tally();
}

/// Goal: of a large map single entries leave memory and come back; one that has changed stays until it is stored.
#[test]
fn a_large_map_leaves_memory_but_for_what_has_changed() {
    let mut rig = Rig::new(None);
    (0..900).for_each(|entry| at!(rig, 1, at => _ = rig.entries.put(at, entry, 9)));
    rig.snapshot();
    rig.fold(1);
    rig.told();
    (0..900).step_by(90).for_each(|entry| at!(rig, 1, at => _ = rig.entries.put(at, entry, 10)));
    rig.forget();
    assert_eq!((rig.entries.tally.here, rig.entries.tally.cold), (10, 890));
    rig.snapshot();
    rig.forget();
    assert_eq!(rig.entries.tally.here, 10, "they cannot be read yet");
    let get = |rig: &mut Rig, entry| at!(rig, 1, at => rig.entries.with(at, &entry, |value| value.copied()));
    assert_eq!(
        (get(&mut rig, 91), get(&mut rig, 90), get(&mut rig, 901)),
        (Some(9), Some(10), None)
    );
    assert_eq!(rig.entries.tally.here, 11, "one came back");
    rig.fold(1);
    rig.told();
    rig.forget();
    assert_eq!((rig.entries.tally.here, rig.entries.tally.cold), (0, 900));
    assert_eq!(at!(rig, 1, at => rig.entries.len(at)), 900);
    assert_eq!(rig.entries.tally.here, 0, "a count needs no entries");
    assert_eq!(rig.entries.holds().keys, 1);
}
