//! How old messages are where they are seen. The first field of a message says when it was due. So
//! whoever receives it can tell, in any process of this machine.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::now_us;
use crate::latency::publisher::number_behind;
use crate::quantiles::{Durations, Quantiles};

const FIELD: &[u8] = br#"{"due_us":"#;

/// Appends the JSON object `fields`, with the time at which it was due in front.
pub fn write_due(due_us: i64, fields: &[u8], out: &mut Vec<u8>) {
    out.extend(FIELD);
    // A vector takes everything.
    let _written = write!(out, "{due_us},");
    out.extend(&fields[1..]);
}

/// The ages that one thread sees. They are handed in when this is dropped, so that noting one takes no lock.
pub struct Seen {
    /// When the first message was due that is noted; unknown until the first message comes.
    from_us: Option<i64>,
    warm_up: Duration,
    ages: Durations,
    all: Ages,
}

/// Where all threads hand in what they have seen.
#[derive(Clone)]
pub struct Ages(Arc<Mutex<Durations>>);

impl Ages {
    /// None yet.
    ///
    /// # Errors
    /// As [`Durations::new`].
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Durations::new()?))))
    }

    /// The figures of what was handed in; none if nothing was.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!all.is_empty()).then(|| all.quantiles())
    }
}

impl Seen {
    /// Notes nothing of the first messages, which are due within `warm_up`.
    ///
    /// # Errors
    /// As [`Durations::new`].
    pub fn new(warm_up: Duration, all: &Ages) -> anyhow::Result<Self> {
        Ok(Self { from_us: None, warm_up, ages: Durations::new()?, all: all.clone() })
    }

    /// A message is seen now.
    #[inline]
    pub fn see(&mut self, payload: &[u8]) {
        if let Some(due_us) = number_behind(FIELD, payload) {
            self.note(due_us as i64, now_us());
        }
    }

    fn note(&mut self, due_us: i64, now_us: i64) {
        let warm_up_us = self.warm_up.as_micros() as i64;
        if due_us >= *self.from_us.get_or_insert(due_us + warm_up_us) {
            self.ages.record(Duration::from_micros((now_us - due_us).max(0) as u64));
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).add(&self.ages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_when_it_was_due_and_stays_an_object() {
        let mut out = Vec::new();
        write_due(1_700_000_000_000_001, br#"{"device":"d1"}"#, &mut out);
        assert_eq!(number_behind(FIELD, &out), Some(1_700_000_000_000_001));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["device"], "d1");
    }

    #[test]
    fn ages_are_noted_after_the_warm_up_and_handed_in_at_the_end() {
        let all = Ages::new().unwrap();
        let mut seen = Seen::new(Duration::from_micros(10), &all).unwrap();
        for (due_us, age) in [(100, 900), (109, 900), (110, 7), (111, 7)] {
            seen.note(due_us, due_us + age);
        }
        assert_eq!(all.quantiles(), None);
        drop(seen);
        let quantiles = all.quantiles().unwrap();
        assert!((quantiles.max_us - 7.0).abs() < 0.1, "{quantiles:?}");
    }
}
