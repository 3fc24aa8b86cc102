//! What windows come to, computed naively: one record after the other, with a watermark behind each.

use std::collections::BTreeMap;

/// Key, time, value.
pub(crate) type Record = (u32, i64, i64);

/// First millisecond, key, the one after the last millisecond, sum of values, number of records.
pub(crate) type Row = (i64, u32, i64, i64, u64);

/// Windows of one kind, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tumbling(i64, i64),
    Sliding(i64, i64, i64),
    Session(i64),
}

#[derive(Clone, Copy, Default)]
struct Content {
    sum: i64,
    count: u64,
}

/// The rows, and how many records were late; `bound_ms` is the allowed disorder.
pub(crate) fn naive(kind: Kind, records: &[Record], bound_ms: i64) -> (Vec<Row>, u64) {
    // By key, first and last millisecond. What has ended stays here.
    let mut windows = BTreeMap::<(u32, i64, i64), Content>::new();
    let (mut late, mut watermark) = (0, i64::MIN);
    for &(key, time, value) in records {
        let mut counts = false;
        match kind {
            Kind::Tumbling(size, offset) => {
                counts = aligned(&mut windows, (size, size, offset), (key, time, value), watermark);
            }
            Kind::Sliding(size, slide, offset) => {
                counts =
                    aligned(&mut windows, (size, slide, offset), (key, time, value), watermark);
            }
            Kind::Session(gap) => {
                let (mut start, mut last) = (time, time + gap - 1);
                let mut content = Content { sum: value, count: 1 };
                let open = windows.range((key, i64::MIN, i64::MIN)..=(key, i64::MAX, i64::MAX));
                let joins: Vec<_> = open
                    .map(|(&window, _)| window)
                    .filter(|&(_, _, end)| end > watermark)
                    .filter(|&(_, from, to)| from <= last + 1 && start <= to + 1)
                    .collect();
                for window in joins {
                    let other = windows.remove(&window).unwrap();
                    (start, last) = (start.min(window.1), last.max(window.2));
                    content.sum += other.sum;
                    content.count += other.count;
                }
                if last > watermark {
                    counts = true;
                    windows.insert((key, start, last), content);
                }
            }
        }
        late += u64::from(!counts);
        watermark = watermark.max(time - bound_ms - 1);
    }
    let row = |((key, start, last), Content { sum, count })| (start, key, last + 1, sum, count);
    let mut rows: Vec<_> = windows.into_iter().map(row).collect();
    rows.sort_unstable();
    (rows, late)
}

fn aligned(
    windows: &mut BTreeMap<(u32, i64, i64), Content>,
    (size, slide, offset): (i64, i64, i64),
    (key, time, value): Record,
    watermark: i64,
) -> bool {
    let mut counts = false;
    let mut start = (time - offset).div_euclid(slide) * slide + offset;
    while start + size > time {
        let last = start + size - 1;
        if last > watermark {
            let content = windows.entry((key, start, last)).or_default();
            (content.sum, content.count) = (content.sum + value, content.count + 1);
            counts = true;
        }
        start -= slide;
    }
    counts
}
