//! [`Log`]: a whole journal on one thread, stepped by its caller. The simulator runs this one. The threaded writer
//! has these two parts, with a thread between them.

use thalweg_kernel::{JournalError, Timestamp};

use crate::config::JournalConfig;
use crate::disk::Disk;
use crate::gather::{Gather, Group};
use crate::segments::{Recovery, Segments};

/// A journal, stepped: records are taken at any time; a group is begun (written), later completed
/// (synced). Between the two more records gather.
#[derive(Debug)]
pub struct Log<D: Disk> {
    segments: Segments<D>,
    gather: Gather,
    /// The group that was begun, and whether it has been written.
    flight: Option<(Group, bool)>,
    buffer: Vec<u8>,
    failed: Option<JournalError>,
}

impl<D: Disk> Log<D> {
    /// Opens the journal called `name` on its disk, or creates it. `tag` is a random number, for a journal
    /// that is new.
    ///
    /// # Errors
    /// If it cannot be opened, or is damaged anywhere but at its torn end.
    pub fn open(
        disk: D,
        name: &str,
        config: &JournalConfig,
        tag: u64,
    ) -> Result<Self, JournalError> {
        let segments = Segments::open(disk, name, config, tag, 0)?;
        let gather = Gather::new(segments.end(), segments.tag(), segments.plan(), config);
        Ok(Self { segments, gather, flight: None, buffer: Vec::new(), failed: None })
    }

    /// What opening found.
    pub fn recovery(&self) -> Recovery {
        self.segments.recovery
    }

    /// The position of the oldest record that is kept.
    pub fn first(&self) -> u64 {
        self.segments.first()
    }

    /// The position behind the last record taken.
    pub fn end(&self) -> u64 {
        self.gather.end()
    }

    /// Records below this position are durable.
    ///
    /// # Errors
    /// After a failure, for ever.
    pub fn durable(&self) -> Result<u64, JournalError> {
        self.failed.clone().map_or(Ok(self.segments.end()), Err)
    }

    /// Takes a record for the next group; its number.
    ///
    /// # Errors
    /// `Full` where it has to wait; others are final.
    pub fn append(&mut self, received: Timestamp, record: &[&[u8]]) -> Result<u64, JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.gather.append(received, record)
    }

    /// Whether there is a group to begin or to complete.
    pub fn has_work(&self) -> bool {
        self.failed.is_none() && (self.flight.is_some() || !self.gather.is_empty())
    }

    /// Writes the next group, if none is under way; whether one is now written and waits to be completed.
    ///
    /// # Errors
    /// `Full` where the disk is: the group is kept, call again later. Others are final.
    pub fn begin_group(&mut self) -> Result<bool, JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.flight.is_none() {
            let group = self.gather.take(std::mem::take(&mut self.buffer));
            self.flight = group.map(|group| (group, false));
        }
        let Some((group, written)) = &mut self.flight else { return Ok(false) };
        if !*written {
            let result = self.segments.write(group);
            *written = result.is_ok();
            self.watch(result)?;
        }
        Ok(true)
    }

    /// Syncs the group that was begun, whose records are durable then; whether there was one.
    ///
    /// # Errors
    /// Final.
    pub fn complete_group(&mut self) -> Result<bool, JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some((group, _)) = self.flight.take_if(|(_, written)| *written) else {
            return Ok(false);
        };
        let result = self.segments.sync(&group);
        self.buffer = group.bytes;
        self.watch(result)?;
        Ok(true)
    }

    /// Removes the segments that lie entirely below `position`, as far as they are durable.
    ///
    /// # Errors
    /// Final.
    pub fn trim(&mut self, position: u64) -> Result<(), JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let freed = self.segments.trim(position);
        let freed = self.watch(freed)?;
        self.gather.freed(freed);
        Ok(())
    }

    /// Prepares the next segment ahead, if it is time and the cap allows it.
    ///
    /// # Errors
    /// `Full` where the disk is, which does no harm yet. Others are final.
    pub fn prepare(&mut self) -> Result<(), JournalError> {
        if self.failed.is_none() && self.segments.wants_spare() && self.gather.plan().may_prepare()
        {
            let order = self.segments.spare_order();
            let spare = order.fill(&mut self.segments.disk);
            let spare = self.watch(spare)?;
            self.segments.give_spare(spare);
        }
        Ok(())
    }

    /// Remembers a final error.
    fn watch<T>(&mut self, result: Result<T, JournalError>) -> Result<T, JournalError> {
        if let Err(error) = &result
            && !matches!(error, JournalError::Full(_) | JournalError::Busy(_))
        {
            self.failed = Some(error.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    #[test]
    fn the_next_segment_is_prepared_when_the_last_one_is_half_full_and_the_cap_allows_it() {
        let config = JournalConfig {
            segment_bytes: 4096,
            cap_bytes: 8192,
            group_bytes_max: 4000,
            record_bytes_max: 4000,
            ..JournalConfig::default()
        };
        let disk = SimDisk::new(1);
        let mut log = Log::open(disk.clone(), "in", &config, 7).unwrap();
        let is_prepared = || disk.content("spare").is_some();
        let write = |log: &mut Log<SimDisk>, bytes: usize| {
            log.append(Timestamp::default(), &[&vec![7; bytes]]).unwrap();
            while log.has_work() {
                log.begin_group().unwrap();
                log.complete_group().unwrap();
            }
        };
        log.prepare().unwrap();
        assert!(is_prepared(), "the first one");
        write(&mut log, 1_000);
        log.prepare().unwrap();
        assert!(!is_prepared(), "1,536 bytes of 4,096");
        write(&mut log, 1_000);
        log.prepare().unwrap();
        assert!(is_prepared());
        write(&mut log, 3_000);
        log.prepare().unwrap();
        assert!(!is_prepared(), "the cap is reached");
    }
}
