//! What sums that grow with their records may take, in front of the exchange (`local.rs`).
//!
//! Nobody weighs each record. Some sums are written to see how large they are. The largest records among them say how many
//! records may be held.

use thalweg_kernel::{Durable, StateWriter};

/// Of sums that grow, one is weighed with each of this many records, if it holds at most as many itself.
const WEIGHED_EVERY: usize = 64;
/// A sum that grows is weighed whenever its records have doubled, from this many on.
const WEIGHED_FROM: u64 = 8;

/// See the module.
pub(super) struct Growing {
    bytes_max: usize,
    /// How many records the sums hold, and may hold.
    held: usize,
    held_max: usize,
    writer: StateWriter,
    scratch: Vec<u8>,
}

impl Growing {
    /// No sums, which may come to about `bytes_max` bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        let (writer, scratch) = (StateWriter::default(), Vec::new());
        Self { bytes_max, held: 0, held_max: bytes_max, writer, scratch }
    }

    /// Counts a record of at least `record_bytes` bytes, which `sum` has taken in: now a sum of `records` records. Returns
    /// whether there is no room for more.
    pub(super) fn fills<A: Durable>(&mut self, record_bytes: usize, sum: &A, records: u64) -> bool {
        let often = self.held.is_multiple_of(WEIGHED_EVERY) && records <= WEIGHED_EVERY as u64;
        let doubled = records >= WEIGHED_FROM && records.is_power_of_two();
        if often || doubled {
            // The largest sum so far decides.
            self.held_max = self.held_max.min(self.weigh(record_bytes, sum, records));
        }
        self.held += 1;
        self.held >= self.held_max
    }

    /// How many records may be held, if all are like those of `sum`.
    #[cold]
    fn weigh<A: Durable>(&mut self, record_bytes: usize, sum: &A, records: u64) -> usize {
        self.scratch.clear();
        // What cannot be written is too large by far.
        let bytes = match self.writer.write(std::mem::take(&mut self.scratch), sum) {
            Ok(written) => {
                self.scratch = written;
                self.scratch.len()
            }
            Err(_) => self.bytes_max,
        };
        let each = (bytes / records.max(1) as usize).max(record_bytes).max(1);
        (self.bytes_max / each).max(1)
    }

    /// Sums of `records` records have left. Those that are left are small, or few.
    pub(super) fn has_sent(&mut self, records: usize) {
        self.held = self.held.saturating_sub(records);
        self.held_max = self.bytes_max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bound in bytes holds for one sum that swells and for many that stay small.
    #[test]
    fn sums_are_full_near_the_bound_in_bytes() {
        let bytes_max = 64 * 1_024;
        let record = [7_u8; 100];
        // One sum of all records, and one for each record.
        for is_one in [true, false] {
            let (mut growing, mut sum, mut records) = (Growing::new(bytes_max), Vec::new(), 0);
            loop {
                if !is_one {
                    sum.clear();
                }
                sum.extend_from_slice(&record);
                records += 1;
                let in_sum = sum.len() / record.len();
                if growing.fills(1, &sum, in_sum as u64) {
                    break;
                }
            }
            let bytes = records * record.len();
            assert!((bytes_max * 3 / 4..=bytes_max).contains(&bytes), "{is_one} {bytes}");
            // What has left makes room for as many again.
            growing.has_sent(records);
            assert_eq!((growing.held, growing.held_max), (0, bytes_max));
        }
    }
}
