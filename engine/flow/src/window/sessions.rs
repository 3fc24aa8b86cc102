//! The open windows of each key whose windows merge.
//!
//! A window that takes in another one, or grows, keeps its contents where they are: under its *home*, the window with which it
//! began. So the set of a key's windows says of each where it lies now and where its home is (Flink's merging window set).
//! Windows of a key do not overlap, so neither do their homes.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::Key;
use thalweg_kernel::defects::{Defect, seeded};

use super::time_window::TimeWindow;
use crate::state::AtKey;
use crate::state::keyed::Keyed;

/// The bounds of a window and of its home, as they are stored: first and last milliseconds.
type Stored = (i64, i64, i64, i64);

/// The open windows of a key: the earliest one, and the later ones in order. Most keys have one window, so that most sets
/// own no memory of their own. (Measured with a million sets, which ended in 3,900 steps. With an allocation for each
/// set some 300 steps took over a millisecond, since the allocator tidied up. Without, 8 steps did.)
type Set = (Stored, Vec<Stored>);

fn all(set: &Set) -> impl Iterator<Item = Open> {
    [&set.0].into_iter().chain(&set.1).map(Open::read)
}

/// What a set holds outside of itself, in bytes.
pub(super) fn outside_bytes<K>(_key: &K, (_, later): &Set) -> usize {
    later.capacity() * size_of::<Stored>()
}

/// One open window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) window: TimeWindow,
    pub(super) home: TimeWindow,
}

impl Open {
    fn read(&(start, last, home_start, home_last): &Stored) -> Self {
        Self {
            window: TimeWindow { start: start.into(), last: last.into() },
            home: TimeWindow { start: home_start.into(), last: home_last.into() },
        }
    }

    fn write(self) -> Stored {
        let ms = |time: thalweg_kernel::Timestamp| time.as_millis();
        let Self { window, home } = self;
        (ms(window.start), ms(window.last), ms(home.start), ms(home.last))
    }
}

/// What a window has come to that a record brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    /// The window with all that it has joined.
    pub(super) open: Open,
    /// Whether the set has it already, exactly so.
    is_known: bool,
    is_new: bool,
}

impl Joined {
    /// Whether it has joined none that was there.
    pub(super) fn is_new(self) -> bool {
        self.is_new
    }
}

/// See the module: the sets of all keys.
pub(super) struct Sessions<K>(pub(super) Rc<RefCell<Keyed<K, Set>>>);

impl<K: Key> Sessions<K> {
    /// What comes of `window` in the set of a key. `others` gets the windows that become part of it.
    pub(super) fn join(
        &self,
        at: &AtKey<'_, K>,
        window: TimeWindow,
        others: &mut Vec<Open>,
    ) -> Joined {
        let mut sets = self.0.borrow_mut();
        let known = sets.get(at).into_iter().flat_map(all);
        let alone = Open { window, home: window };
        let mut joined = Joined { open: alone, is_known: false, is_new: true };
        for open in known.filter(|open| open.window.meets(window)) {
            let whole = joined.open.window.with(open.window);
            // The first one stays at home, and takes in the others.
            let home = if joined.is_new { open.home } else { joined.open.home };
            if !joined.is_new {
                others.push(open);
            }
            let is_known = joined.is_new && whole == open.window;
            joined = Joined { open: Open { window: whole, home }, is_known, is_new: false };
        }
        joined
    }

    /// Notes what has come of a window: it replaces the windows that became part of it.
    pub(super) fn keep(&self, at: &AtKey<'_, K>, joined: Joined, others: &[Open]) {
        if joined.is_known {
            return;
        }
        let stays = |stored: &Stored| {
            let home = Open::read(stored).home;
            let is_other = others.iter().any(|other| other.home == home);
            home != joined.open.home && (!is_other || seeded(Defect::FlowMergedSessionStays))
        };
        let now = joined.open.write();
        let change = |(first, later): &mut Set| {
            let before = later.capacity();
            later.retain(stays);
            if stays(first) {
                later.push(now);
            } else {
                *first = now;
            }
            if let Some(earliest) = later.iter_mut().min().filter(|earliest| **earliest < *first) {
                std::mem::swap(earliest, first);
            }
            later.sort_unstable();
            (later.capacity() as isize - before as isize) * size_of::<Stored>() as isize
        };
        let mut sets = self.0.borrow_mut();
        let grown = sets.change(at, || (now, Vec::new()), change);
        sets.grow_by(grown);
    }

    /// The open window with this home.
    pub(super) fn at_home(&self, at: &AtKey<'_, K>, home: TimeWindow) -> Option<Open> {
        let mut sets = self.0.borrow_mut();
        all(sets.get(at)?).find(|open| open.home == home)
    }

    /// A window has ended.
    pub(super) fn end(&self, at: &AtKey<'_, K>, home: TimeWindow) {
        let mut sets = self.0.borrow_mut();
        let Some((first, later)) = sets.get_mut(at) else { return };
        let is_another = |stored: &Stored| Open::read(stored).home != home;
        later.retain(is_another);
        if is_another(first) {
            return;
        }
        if later.is_empty() {
            sets.clear(at);
        } else {
            *first = later.remove(0);
        }
    }
}
