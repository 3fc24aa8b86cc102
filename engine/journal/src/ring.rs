//! Write and sync in one submission, on io_uring. The one file of this crate with `unsafe` code.
//!
//! The ring is used by one thread, for one pair of operations at a time: a write linked to an
//! `fdatasync`. [`Ring::write_and_sync`] returns only when the kernel has completed both, so neither the
//! buffer nor the file can go while the kernel uses them. Where that cannot be ensured, the process ends.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, Probe, opcode, squeue, types};

use crate::disk::WriteError;

/// Two operations; the kernel rounds up to a power of two.
const ENTRIES: u32 = 2;
const WRITE: u64 = 1;
const SYNC: u64 = 2;

/// A ring for one file operation pair at a time.
pub(crate) struct Ring(IoUring);

impl Ring {
    /// Makes a ring, if the kernel allows it and knows both operations.
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if probe.is_supported(opcode::Write::CODE) && probe.is_supported(opcode::Fsync::CODE) {
            Ok(Self(ring))
        } else {
            Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks write or fsync"))
        }
    }

    /// Writes `bytes` at `offset`, then syncs the file's data. `Ok(n)`: `n` bytes were written. All of them
    /// are durable if `n` is all there were; with fewer, nothing was synced.
    pub(crate) fn write_and_sync(
        &mut self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize, WriteError> {
        let fd = types::Fd(file.as_raw_fd());
        // What a single operation can be told; a longer group is finished by the caller.
        let length = u32::try_from(bytes.len()).unwrap_or(1 << 30);
        let write = opcode::Write::new(fd, bytes.as_ptr(), length)
            .offset(offset)
            .build()
            .flags(squeue::Flags::IO_LINK)
            .user_data(WRITE);
        let sync =
            opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
        {
            let mut queue = self.0.submission();
            // SAFETY: `write` points into `bytes` and both name `file`. This call borrows both, and
            // returns only after `finish` has seen the completions of both operations. So they outlive
            // the kernel's use of them. The kernel only reads from `bytes`.
            let pushed = unsafe { queue.push_multiple(&[write, sync]) };
            // Cannot be: the queue has two places, and the call before has emptied it.
            pushed.map_err(|e| WriteError::Write(io::Error::other(e)))?;
        }
        let (written, synced) = self.finish();
        let written = usize::try_from(written)
            .map_err(|_| WriteError::Write(io::Error::from_raw_os_error(-written)))?;
        if written < bytes.len() {
            // A short write cancels what is linked to it.
            return Ok(written);
        }
        if synced < 0 {
            return Err(WriteError::Sync(io::Error::from_raw_os_error(-synced)));
        }
        Ok(written)
    }

    /// Submits both operations and waits for both; what they returned.
    fn finish(&mut self) -> (i32, i32) {
        let (mut written, mut synced) = (None, None);
        loop {
            if let Err(error) = self.0.submit_and_wait(2)
                && !passes(&error)
            {
                // The kernel may hold on to the buffer, and there is no way to find out: to return
                // would free it. So the process ends.
                tracing::error!(%error, "io_uring failed while a group was being written; the process ends");
                std::process::abort();
            }
            for done in self.0.completion() {
                match done.user_data() {
                    WRITE => written = Some(done.result()),
                    _ => synced = Some(done.result()),
                }
            }
            if let (Some(written), Some(synced)) = (written, synced) {
                return (written, synced);
            }
        }
    }
}

/// Whether waiting was merely interrupted, or the kernel is short of something for the moment.
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_written_is_in_the_file_and_errors_name_their_half() {
        let Ok(mut ring) = Ring::new() else { return };
        let file = tempfile::tempfile().unwrap();
        for round in 0..100_u8 {
            let bytes = vec![round; 5000];
            let offset = u64::from(round) * 5000;
            assert_eq!(ring.write_and_sync(file.as_fd(), &bytes, offset).unwrap(), 5000);
        }
        let mut back = vec![0; 500_000];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 0).unwrap();
        assert!(back.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at / 5000));

        let read_only = std::fs::File::open("/dev/null").unwrap();
        let error = ring.write_and_sync(read_only.as_fd(), b"x", 0).unwrap_err();
        assert!(matches!(&error, WriteError::Write(e) if e.raw_os_error() == Some(9)), "{error:?}");
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let error = ring.write_and_sync(null.as_fd(), b"x", 0).unwrap_err();
        assert!(matches!(error, WriteError::Sync(_)), "{error:?}");
    }

    #[test]
    fn only_what_passes_is_waited_out() {
        use io::ErrorKind::{Interrupted, InvalidInput, ResourceBusy, WouldBlock};
        assert!([Interrupted, ResourceBusy, WouldBlock].map(io::Error::from).iter().all(passes));
        assert!(!passes(&InvalidInput.into()));
    }
}
