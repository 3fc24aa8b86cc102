//! What a shard has noticed of time, for the log: who moves it, whose clock is ahead, and what was late because of that.
//!
//! # Idea
//! A record that is late is counted, and a count does not say whose clock made it late. So the operators that decide keep the
//! newest example of each kind, in a place of fixed size. They move a key or a name there, and neither format nor log. Whoever
//! publishes the shard's numbers takes the examples, at most once a second, and tells of them.

use std::cell::RefCell;
use std::rc::Rc;

use thalweg_kernel::{Str, Timestamp};

/// A record that was late, and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateRecord {
    /// Its key, for a person.
    pub key: String,
    /// Its event time.
    pub time: Timestamp,
    /// How far time had come.
    pub watermark: Timestamp,
}

/// Who has moved the time of a source last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeMover {
    /// Who sent the record; `None` if the clock moved time on while nothing came.
    pub who: Option<Str>,
    /// The record's event time, or where the clock has moved time to.
    pub time: Timestamp,
}

/// A record whose time was ahead of this machine's clock, and that was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AheadRecord {
    /// Who sent it.
    pub who: Str,
    /// How far ahead it was, in milliseconds.
    pub by_ms: i64,
}

/// What was noticed since this was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeNotices {
    /// The newest late record.
    pub late: Option<LateRecord>,
    /// Who has moved time last, if anybody is named.
    pub mover: Option<TimeMover>,
    /// The newest record that was ahead.
    pub ahead: Option<AheadRecord>,
}

/// Where a source notes whose records they are.
#[derive(Default)]
pub(crate) struct SourceNotices {
    mover: RefCell<Option<TimeMover>>,
    ahead: RefCell<Option<AheadRecord>>,
}

impl SourceNotices {
    #[inline]
    pub(crate) fn moves(&self, who: Option<Str>, time: Timestamp) {
        *self.mover.borrow_mut() = Some(TimeMover { who, time });
    }

    pub(crate) fn is_ahead(&self, who: Str, by_ms: i64) {
        *self.ahead.borrow_mut() = Some(AheadRecord { who, by_ms });
    }
}

/// Takes the newest late record of an operator.
type TakeLate = Box<dyn Fn() -> Option<LateRecord>>;

/// All that notice anything on a shard.
#[derive(Default)]
pub(crate) struct Notices {
    sources: RefCell<Vec<Rc<SourceNotices>>>,
    late: RefCell<Vec<TakeLate>>,
}

impl Notices {
    /// One more source.
    pub(crate) fn source(&self) -> Rc<SourceNotices> {
        let source = Rc::<SourceNotices>::default();
        self.sources.borrow_mut().push(Rc::clone(&source));
        source
    }

    /// One more operator that drops what is late.
    pub(crate) fn drops_late(&self, take: impl Fn() -> Option<LateRecord> + 'static) {
        self.late.borrow_mut().push(Box::new(take));
    }

    pub(crate) fn take(&self) -> TimeNotices {
        let sources = self.sources.borrow();
        let movers = sources.iter().filter_map(|source| source.mover.borrow().clone());
        let ahead = sources.iter().filter_map(|source| source.ahead.borrow_mut().take());
        let late = self.late.borrow();
        let late = late.iter().filter_map(|take| take());
        TimeNotices {
            late: late.max_by_key(|late| late.time),
            mover: movers.max_by_key(|mover| mover.time),
            ahead: ahead.max_by_key(|ahead| ahead.by_ms),
        }
    }
}
