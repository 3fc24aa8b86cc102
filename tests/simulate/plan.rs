//! What a job of the simulation is made of, drawn from the seed, and the sizes of its windows.

use std::time::Duration;

use thalweg_flow::Tumbling;
use thalweg_testing::Random;

use super::broker::Message;
use super::marks::Marks;

/// What the windows of a job compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Count,
    Sum,
    Average,
    Max,
    Min,
    Reduce,
    Fold,
}

/// A job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobPlan {
    pub(crate) partitions: usize,
    /// Partitions appear and end while the job runs.
    pub(crate) discovered: bool,
    pub(crate) disorder_ms: i64,
    pub(crate) marks: Marks,
    /// Some messages are late; only parts that do not mind read them.
    pub(crate) late: bool,
    /// Raw messages, duplicates and all, are windowed in the order of the one partition.
    pub(crate) raw: bool,
    pub(crate) windows: bool,
    pub(crate) of: Of,
    pub(crate) window_ms: i64,
    pub(crate) keys: u32,
    pub(crate) filter: bool,
    pub(crate) chained: bool,
    pub(crate) by_hand: bool,
    pub(crate) bursts: bool,
    pub(crate) merged: bool,
    /// Two streams of one key in one operator; a stream that every shard has.
    pub(crate) paired: bool,
    pub(crate) everywhere: bool,
    pub(crate) sliding: bool,
    pub(crate) sessions: bool,
    pub(crate) once: bool,
    pub(crate) loose: bool,
    pub(crate) letters: bool,
    /// See `shapes`.
    pub(crate) columns: bool,
    pub(crate) dealt: bool,
    pub(crate) only: bool,
    pub(crate) ruled: bool,
    /// Keys with clocks of their own, which go on with every this many records.
    pub(crate) own: Option<u32>,
}

impl JobPlan {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let late = random.one_in(3);
        let partitions = if late { 1 } else { 1 + random.below(3) };
        let discovered = random.one_in(3);
        // A partition that appears may be behind those that were there before.
        let on_time = !late && (partitions == 1 || !discovered);
        let mut part = || random.one_in(2);
        let [raw, windows, chained, by_hand] = [(); 4].map(|()| part());
        let [bursts, merged, once, loose, letters, filter] = [(); 6].map(|()| part());
        let [paired, everywhere, sliding, sessions] = [(); 4].map(|()| part());
        let [columns, dealt, only, ruled, own] = [(); 5].map(|()| part());
        let own = own.then(|| random.one_of([1, 3]));
        let marks = [Marks::Bounded, Marks::Periodic, Marks::Punctuated, Marks::Counting(4)];
        let marks = random.one_of(marks);
        // What is late by a strategy that looks at the clock depends on the clock.
        let marks = if late && marks == Marks::Periodic { Marks::Bounded } else { marks };
        let drawn = Self {
            partitions,
            discovered,
            disorder_ms: 20,
            marks,
            late,
            raw: raw || late,
            windows: windows && on_time,
            of: random.one_of([
                Of::Count,
                Of::Sum,
                Of::Average,
                Of::Max,
                Of::Min,
                Of::Reduce,
                Of::Fold,
            ]),
            window_ms: random.one_of([7, 30, 200]),
            keys: random.one_of([2, 5, 50]),
            filter,
            chained: chained && on_time,
            by_hand: by_hand && on_time,
            bursts,
            merged,
            paired,
            everywhere,
            sliding: sliding && on_time,
            sessions: sessions && on_time,
            once: once || !(windows || bursts),
            loose,
            letters,
            columns: columns && on_time,
            dealt,
            only,
            ruled,
            own,
        };
        Self { raw: drawn.raw && drawn.is_in_order(), ..drawn }
    }

    /// Whether the order of the journal says how far the watermark is at each record. While other shards look for
    /// partitions, event time stands.
    pub(crate) fn is_in_order(&self) -> bool {
        self.partitions == 1 && !self.discovered && self.marks != Marks::Periodic
    }

    /// Whether no message is late.
    pub(crate) fn is_on_time(&self) -> bool {
        !self.late && (self.partitions == 1 || !self.discovered)
    }

    /// Whether the filter of the windows lets a message pass.
    pub(crate) fn passes(&self, message: &Message) -> bool {
        !self.filter || message.value % 7 != 6
    }
}

/// Windows of windows: 30 ms, then 90 ms over [`SECOND_KEYS`] keys.
pub(crate) const FIRST_MS: i64 = 30;
pub(crate) const SECOND_MS: i64 = 90;
pub(crate) const SECOND_KEYS: u32 = 3;

/// Windows that overlap: 40 ms, every 15 ms.
pub(crate) const SLIDING_MS: i64 = 40;
pub(crate) const SLIDE_MS: i64 = 15;

/// A session ends after a silence of this.
pub(crate) const GAP_MS: i64 = 6;

/// Windows of raw messages; some of those are late.
pub(crate) const RAW_MS: i64 = 25;

/// So long that nothing is ever late.
pub(crate) const EVER_MS: i64 = 10_000_000;

pub(crate) fn ms(ms: i64) -> Tumbling {
    Tumbling::of(Duration::from_millis(ms.unsigned_abs()))
}
