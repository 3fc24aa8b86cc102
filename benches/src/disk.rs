//! The disk's own noise: how long it takes to make one small write durable, with nothing of ours around it. What a
//! checkpoint takes is judged against this.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::quantiles::Durations;

/// A block of most file systems.
const BLOCK: [u8; 4_096] = [b'x'; 4_096];
/// The file's length in blocks.
const BLOCKS: u64 = 256;
/// Between two syncs, as a program's own work would be.
const PAUSE: Duration = Duration::from_millis(2);

/// Writes blocks into a file of `dir` for the given time, and syncs each.
///
/// # Errors
/// If the file cannot be written.
pub fn syncs(dir: &Path, time: Duration) -> anyhow::Result<Durations> {
    let path = dir.join("disk-noise");
    let write = || -> anyhow::Result<Durations> {
        let file = File::create(&path)?;
        // The blocks are there, so that a sync has no more to do than to write one.
        (0..BLOCKS).try_for_each(|at| file.write_all_at(&BLOCK, at * BLOCK.len() as u64))?;
        file.sync_all()?;
        let mut took = Durations::new()?;
        let begun = Instant::now();
        for at in (0..BLOCKS).cycle() {
            file.write_all_at(&BLOCK, at * BLOCK.len() as u64)?;
            let written = Instant::now();
            file.sync_data()?;
            took.record(written.elapsed());
            if begun.elapsed() >= time {
                break;
            }
            thread::sleep(PAUSE);
        }
        Ok(took)
    };
    let took = write().with_context(|| format!("cannot measure syncs in {}", path.display()));
    // It may never have come to be.
    let _removed = std::fs::remove_file(&path);
    took
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_take_time_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let took = syncs(dir.path(), Duration::ZERO).unwrap();
        assert!(took.len() == 1 && took.quantiles().max_us > 0.0);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
