//! What contenders without an engine do with a message: what the jobs beside them do.

use std::io;

use hashbrown::HashMap;

use super::WINDOW_MS;
use super::seen::Seen;
use crate::sensors::sums::{Reading, Sum};

/// A job, by hand.
pub enum Work {
    /// Each device's statistics of a second, as [`job`](super::job::job) computes them.
    Averages(Averages),
    /// Each message is passed on as it came, and its age noted.
    Through(Seen),
}

impl Work {
    /// Takes a message, and publishes what comes of it. A reading is decoded by sonic-rs.
    ///
    /// # Errors
    /// If the payload is no reading.
    pub fn message(&mut self, payload: &[u8], mut publish: impl FnMut(&[u8])) -> io::Result<()> {
        match self {
            Self::Averages(averages) => {
                let reading = sonic_rs::from_slice(payload).map_err(io::Error::other)?;
                averages.add(&reading, publish)
            }
            Self::Through(seen) => {
                seen.see(payload);
                publish(payload);
                Ok(())
            }
        }
    }
}

/// The window that is open. When a reading of a later second comes, its rows leave.
#[derive(Default)]
pub struct Averages {
    start: i64,
    sums: HashMap<Box<str>, Sum>,
}

impl Averages {
    fn add(&mut self, reading: &Reading<'_>, publish: impl FnMut(&[u8])) -> io::Result<()> {
        if reading.ts >= self.start + WINDOW_MS {
            self.fire(publish)?;
            self.start = reading.ts - reading.ts.rem_euclid(WINDOW_MS);
        }
        let sum = match self.sums.get_mut(reading.device) {
            Some(sum) => sum,
            None => self.sums.entry(reading.device.into()).or_insert(Sum::NOTHING),
        };
        sum.add(reading.temp);
        Ok(())
    }

    fn fire(&mut self, mut publish: impl FnMut(&[u8])) -> io::Result<()> {
        for (key, sum) in &mut self.sums {
            if sum.count > 0 {
                let row = sum.row(key, self.start, self.start + WINDOW_MS);
                publish(&serde_json::to_vec(&row)?);
                *sum = Sum::NOTHING;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_leave_when_a_reading_of_a_later_second_comes() {
        let mut work = Work::Averages(Averages::default());
        let mut rows: Vec<serde_json::Value> = Vec::new();
        for (ts, temp) in [(1_000, 1.0), (1_999, 3.0), (2_000, 9.0)] {
            let reading = format!(r#"{{"device":"d1","ts":{ts},"temp":{temp}}}"#);
            let publish = |row: &[u8]| rows.push(serde_json::from_slice(row).unwrap());
            work.message(reading.as_bytes(), publish).unwrap();
        }
        let value = serde_json::json!({ "count": 2, "avg": 2.0, "min": 1.0, "max": 3.0 });
        let row = serde_json::json!({ "key": "d1", "start": 1_000, "end": 2_000, "value": value });
        assert_eq!(rows, [row]);
        assert!(work.message(b"rubbish", |_| {}).is_err());
    }
}
