//! A search through stored entries that goes on where it ended, in pieces of a bounded size.

use thalweg_kernel::{StateError, StateReader, Timestamp};

/// The stored key where a search goes on; empty at the beginning.
#[derive(Default)]
pub(super) struct Cursor(Vec<u8>);

impl Cursor {
    /// Shows `each` at most `entries_max` entries of the range, from where the last call ended, until `each` has seen
    /// enough. Begins anew behind the last one.
    pub(super) fn walk(
        &mut self,
        reader: &dyn StateReader,
        (first, end): (Vec<u8>, Vec<u8>),
        entries_max: usize,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        let from = std::mem::take(&mut self.0);
        let from = if from.is_empty() { first } else { from };
        let (mut seen, mut enough) = (0, false);
        let scanned = reader.scan(&from, &end, &mut |stored, value| {
            if enough || seen == entries_max {
                self.0 = stored.to_vec();
                // Nothing has failed: this ends the scan.
                return Err(StateError::Other(String::new()));
            }
            seen += 1;
            enough = each(stored, value)?;
            Ok(())
        });
        if self.0.is_empty() { scanned } else { Ok(()) }
    }
}

/// A search that is taken up from time to time, by this machine's clock.
#[derive(Default)]
pub(super) struct Sweep {
    pub(super) cursor: Cursor,
    /// When it was taken up last.
    at: Timestamp,
}

impl Sweep {
    /// Whether it is to be taken up now, `every_ms` after the last time.
    pub(super) fn is_due(&mut self, now: Timestamp, every_ms: u64) -> bool {
        let due = now.as_millis().abs_diff(self.at.as_millis()) >= every_ms;
        if due {
            self.at = now;
        }
        due
    }
}
