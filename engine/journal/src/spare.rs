//! The file of zeros that becomes the next segment. It is made ahead, beside the thread that writes groups.

use thalweg_kernel::JournalError;

use crate::disk::Disk;
use crate::errors::{failed, full_or_failed};

/// Its name.
pub(crate) const SPARE: &str = "spare";

/// A file of zeros that becomes a segment.
#[derive(Debug)]
pub(crate) struct Spare<F> {
    pub(crate) file: F,
    pub(crate) size: u64,
}

/// What preparing a spare takes.
pub(crate) struct SpareOrder {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) zero_fill: bool,
}

impl SpareOrder {
    pub(crate) fn fill<D: Disk>(&self, disk: &mut D) -> Result<Spare<D::File>, JournalError> {
        prepare(disk, &self.name, self.size, self.zero_fill)
    }
}

/// Makes it.
pub(crate) fn prepare<D: Disk>(
    disk: &mut D,
    name: &str,
    size: u64,
    fill: bool,
) -> Result<Spare<D::File>, JournalError> {
    let made = disk.create(SPARE).and_then(|file| {
        disk.allocate(&file, 0, size, fill)?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            // So only the renaming is open when it is renamed. Were an older spare's name still
            // undecided, a crash could give that spare the segment's name.
            disk.sync_dir().map_err(|e| failed(name, "syncing its directory", &e))?;
            Ok(Spare { file, size })
        }
        Err(error) => {
            // What it took is given back; if even that fails, the next attempt takes its place.
            let _ = disk.remove(SPARE);
            Err(full_or_failed(name, "making room for a segment", &error))
        }
    }
}
