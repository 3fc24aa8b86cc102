//! A journal without real files, for simulators. [`SimDisk`] loses, tears and refuses as a seed tells it.
//! [`SimJournals`] are a job's journals on such disks, stepped by their owner.

mod disk;
mod journals;

pub use disk::{SimDisk, SimFile};
pub use journals::SimJournals;
