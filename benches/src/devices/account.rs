//! What was sent and what came back, window by window.
//!
//! A window is closed once a reading of a later one was sent. Only closed windows count, and the last one that is
//! sent never is. A reading that is in no row was lost: at QoS 0 the broker may drop it. One that is in two rows
//! would be a fault of the engine, and an error here.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::WINDOW_MS;
use crate::quantiles::Durations;

/// A row as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// The first millisecond of its window.
    pub start: i64,
    /// What it sums up.
    pub value: Value,
}

/// The part of a row's value that is looked at.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Value {
    /// The readings in it.
    pub count: u64,
}

/// Rows and readings.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Readings sent, by the start of their window.
    sent: BTreeMap<i64, u64>,
    /// When the reading was due that closes a window, by the window's start, in microseconds since the epoch.
    closing: BTreeMap<i64, i64>,
    /// Rows that came back: when, in microseconds since the epoch.
    rows: Vec<(i64, Row)>,
}

/// What an [`Account`] comes to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Readings sent in all.
    pub sent: u64,
    /// Rows of closed windows.
    pub results: u64,
    /// The sum of their counts.
    pub total: u64,
    /// Readings of closed windows that are in no row.
    pub lost: u64,
    /// Latency at the median, in milliseconds; the first window is not counted.
    pub p50_ms: f64,
    /// Latency that 99 in 100 rows did not exceed.
    pub p99_ms: f64,
    /// Latency that 999 in 1,000 rows did not exceed.
    pub p999_ms: f64,
    /// The longest latency.
    pub max_ms: f64,
}

impl Account {
    /// `count` readings of this time were sent.
    pub fn sent(&mut self, ts: i64, count: u64) {
        *self.sent.entry(ts - ts.rem_euclid(WINDOW_MS)).or_default() += count;
    }

    /// A reading was sent that was due at this time, the first one of its window or not. The rows of the window before
    /// count from the first: no contender can know earlier that the window is complete. Without this call
    /// rows count from the end of their window.
    pub fn sent_when_due(&mut self, due_us: i64) {
        let ts = due_us.div_euclid(1_000);
        self.sent(ts, 1);
        let before = ts - ts.rem_euclid(WINDOW_MS) - WINDOW_MS;
        self.closing.entry(before).or_insert(due_us);
    }

    /// The readings of all windows but the last, which nothing closes.
    pub fn closed(&self) -> u64 {
        self.sent.values().rev().skip(1).sum()
    }

    /// A row came.
    pub fn row(&mut self, at_us: i64, row: Row) {
        self.rows.push((at_us, row));
    }

    /// The figures.
    ///
    /// # Errors
    /// If a row is of a window in which nothing was sent, or rows count more than was sent.
    pub fn close(&self) -> anyhow::Result<Figures> {
        let mut latencies = Durations::new()?;
        let first = self.sent.keys().next().copied().unwrap_or_default();
        let last = self.sent.keys().next_back().copied().unwrap_or_default();
        let mut counted: BTreeMap<i64, u64> = BTreeMap::new();
        let mut results = 0;
        for (at_us, Row { start, value }) in &self.rows {
            ensure!(self.sent.contains_key(start), "a row of {start}, when nothing was sent");
            if *start == last {
                continue;
            }
            results += 1;
            *counted.entry(*start).or_default() += value.count;
            if *start != first {
                let end_us = (start + WINDOW_MS) * 1_000;
                let late_us = (at_us - self.closing.get(start).unwrap_or(&end_us)).max(0);
                latencies.record(std::time::Duration::from_micros(late_us as u64));
            }
        }
        let mut lost = 0;
        for (start, sent) in self.sent.range(..last) {
            let counted = counted.get(start).copied().unwrap_or_default();
            ensure!(counted <= *sent, "{sent} readings at {start}, and {counted} in its rows");
            lost += sent - counted;
        }
        let quantiles = latencies.quantiles();
        let total = counted.values().sum();
        let ms = |us: f64| us.round() / 1_000.0;
        Ok(Figures {
            sent: self.sent.values().sum(),
            results,
            total,
            lost,
            p50_ms: ms(quantiles.p50_us),
            p99_ms: ms(quantiles.p99_us),
            p999_ms: ms(quantiles.p999_us),
            max_ms: ms(quantiles.max_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(rows: &[(i64, i64, u64)]) -> Account {
        let mut account = Account::default();
        for (ts, count) in [(1_500, 2), (1_999, 3), (2_000, 4), (3_010, 1)] {
            account.sent(ts, count);
        }
        for &(at_us, start, count) in rows {
            account.row(at_us, Row { start, value: Value { count } });
        }
        account
    }

    #[test]
    fn closed_windows_count_and_the_first_has_no_latency() {
        let rows = [(2_090_000, 1_000, 4), (2_090_000, 1_000, 1), (3_012_000, 2_000, 3)];
        let result = account(&rows).close().unwrap();
        assert_eq!((result.sent, result.results, result.total, result.lost), (10, 3, 8, 1));
        assert!((result.p50_ms - 12.0).abs() < 0.1 && result.p99_ms < 12.1, "{result:?}");
        let open = account(&[(4_000_000, 3_000, 1)]).close().unwrap();
        assert_eq!((open.results, open.lost), (0, 9));
    }

    #[test]
    fn rows_count_from_when_the_reading_was_due_that_closes_their_window() {
        let mut account = Account::default();
        for due_us in [1_500_000, 2_000_700, 2_900_000, 3_000_400, 3_000_900] {
            account.sent_when_due(due_us);
        }
        account.row(3_000_650, Row { start: 2_000, value: Value { count: 2 } });
        let result = account.close().unwrap();
        assert_eq!((result.sent, result.total, result.lost), (5, 2, 1));
        assert!((result.p50_ms - 0.25).abs() < 0.002, "{result:?}");
    }

    #[test]
    fn what_counts_more_than_was_sent_is_an_error() {
        assert!(account(&[(0, 2_000, 3), (0, 2_000, 2)]).close().is_err());
        assert!(account(&[(0, 5_000, 1)]).close().is_err());
    }
}
