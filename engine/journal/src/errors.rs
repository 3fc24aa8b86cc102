//! What a journal says when it cannot go on: what, where, what to do next. All cold.

use std::io;

use thalweg_kernel::JournalError;

use crate::disk::is_full;
use crate::format::segment_name;

/// A record that was durable and cannot be read.
#[cold]
pub(crate) fn damaged_at(
    name: &str,
    file: &str,
    offset: u64,
    position: u64,
    why: &str,
) -> JournalError {
    JournalError::Damaged(format!(
        "journal {name}: {file} is damaged at byte {offset}, where record {position} begins: {why}. \
         Records before {position} are intact. Restore the file from a copy; or, to give up what it \
         holds, move it and all later segments out of the directory and start the job from a savepoint \
         or afresh. Check the device: it returned something other than what it was given"
    ))
}

#[cold]
pub(crate) fn foreign(name: &str, first: u64, why: &str) -> JournalError {
    JournalError::Damaged(format!(
        "journal {name}: {} is damaged at byte 0, where its header begins, before record {first}: {why}. \
         Restore the file from a copy; or, to give up what it holds, move it and all later segments out \
         of the directory and start the job from a savepoint or afresh",
        segment_name(first)
    ))
}

#[cold]
pub(crate) fn failed(name: &str, what: &str, error: &io::Error) -> JournalError {
    JournalError::Failed(format!(
        "journal {name}: {what} failed: {error}. Nothing after it is acknowledged; restart to go on from \
         what is durable, and check the device if it happens again"
    ))
}

#[cold]
pub(crate) fn no_segment(name: &str) -> JournalError {
    JournalError::Failed(format!("journal {name}: a group was given no segment; this is a bug"))
}

#[cold]
pub(crate) fn full_or_failed(name: &str, what: &str, error: &io::Error) -> JournalError {
    if is_full(error) {
        JournalError::Full(format!(
            "the disk has no room ({what} of journal {name}: {error}). Nothing is lost: what is not \
             acknowledged waits. Free some space, and it goes on by itself"
        ))
    } else {
        failed(name, what, error)
    }
}
