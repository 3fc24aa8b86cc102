//! Write and sync in one submission, on io_uring. The one file of this crate with `unsafe` code.
//!
//! A ring is used by one thread at a time, for one group at a time. A group is a write linked to an `fdatasync`, or a write that
//! is durable when it completes.
//!
//! - [`Ring`] waits. [`Ring::write_and_sync`] returns only when the kernel has completed both, so neither the
//!   buffer nor the file can go while the kernel uses them.
//! - [`SubmitRing`] does not wait. It owns the buffer and the file until the kernel has completed both, and its end
//!   waits for that. One completion tells of the pair: that of a write that succeeded is left out.
//!
//! Where it cannot be ensured that the kernel has let go of the buffer, the process ends.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use crate::disk::{Completion, WriteError};

/// Two operations; the kernel rounds up to a power of two.
const ENTRIES: u32 = 2;
const WRITE: u64 = 0;
const SYNC: u64 = 1;
/// The write is as durable as behind an `fdatasync` when it completes (`linux/fs.h`).
const RWF_DSYNC: i32 = 2;

/// A ring, if the kernel allows it and knows both operations.
fn new_ring() -> io::Result<IoUring> {
    let ring = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Write::CODE) && probe.is_supported(opcode::Fsync::CODE) {
        Ok(ring)
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring lacks write or fsync"))
    }
}

/// A write of `bytes` at `offset`, and a sync that follows it. `tag` is in what tells of them.
fn pair(
    file: RawFd,
    bytes: &[u8],
    offset: u64,
    flags: squeue::Flags,
    tag: u64,
) -> [squeue::Entry; 2] {
    let fd = types::Fd(file);
    // What a single operation can be told; a longer group is finished by the caller.
    let length = u32::try_from(bytes.len()).unwrap_or(1 << 30);
    let write = opcode::Write::new(fd, bytes.as_ptr(), length).offset(offset).build();
    let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
    let linked = squeue::Flags::IO_LINK | flags;
    [write.flags(linked).user_data(tag | WRITE), sync.user_data(tag | SYNC)]
}

/// A write of `bytes` at `offset` that is durable when it completes.
fn through(file: RawFd, bytes: &[u8], offset: u64, tag: u64) -> squeue::Entry {
    // A longer group is finished by the caller. What is left are whole blocks.
    let length = u32::try_from(bytes.len()).unwrap_or(1 << 30);
    let write = opcode::Write::new(types::Fd(file), bytes.as_ptr(), length).offset(offset);
    write.rw_flags(RWF_DSYNC).build().user_data(tag | WRITE)
}

/// There is no way to find out whether the kernel holds on to a buffer, and to return would free it. So the process ends.
#[cold]
fn give_up(error: &dyn std::fmt::Display) -> ! {
    tracing::error!(%error, "io_uring failed while a group was being written; the process ends");
    std::process::abort();
}

/// A ring for one file operation pair at a time.
pub(crate) struct Ring(IoUring);

impl Ring {
    /// Makes a ring, if the kernel allows it and knows both operations.
    pub(crate) fn new() -> io::Result<Self> {
        new_ring().map(Self)
    }

    /// Writes `bytes` at `offset`, then syncs the file's data. `Ok(n)`: `n` bytes were written. All of them
    /// are durable if `n` is all there were; with fewer, nothing was synced.
    pub(crate) fn write_and_sync(
        &mut self,
        file: BorrowedFd<'_>,
        bytes: &[u8],
        offset: u64,
    ) -> Result<usize, WriteError> {
        let pair = pair(file.as_raw_fd(), bytes, offset, squeue::Flags::empty(), 0);
        {
            let mut queue = self.0.submission();
            // SAFETY: the write points into `bytes` and both name `file`. This call borrows both, and
            // returns only after `finish` has seen the completions of both operations. So they outlive
            // the kernel's use of them. The kernel only reads from `bytes`.
            let pushed = unsafe { queue.push_multiple(&pair) };
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
                give_up(&error);
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

/// How a group is written.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// All bytes, and then the file's data are synced.
    WriteThenSync,
    /// The bytes of this range, past the page cache ([`Direct`](crate::direct::Direct)): durable when they are written.
    Through(Range<usize>),
}

/// A ring for one group at a time, which goes on beside its owner.
pub(crate) struct SubmitRing {
    uring: IoUring,
    /// The ring's own, to wait for.
    descriptor: Arc<OwnedFd>,
    flight: Option<Flight>,
    /// Counts groups: each is told apart from those before.
    groups: u64,
    /// The kernel did not take a group, which is in the queue still.
    stuck: bool,
}

/// What the kernel may use.
struct Flight {
    file: Arc<File>,
    bytes: Vec<u8>,
    /// The number of bytes to write.
    size: usize,
}

impl SubmitRing {
    /// Makes a ring, if the kernel allows it, knows both operations, and can leave out what need not be told.
    pub(crate) fn new() -> io::Result<Self> {
        let uring = new_ring()?;
        if !uring.params().is_feature_skip_cqe_on_success() {
            let what = "io_uring tells of each operation that succeeds";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        // SAFETY: `uring` is there until the end of this function, and owns this open descriptor.
        let descriptor = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) };
        let descriptor = Arc::new(descriptor.try_clone_to_owned()?);
        Ok(Self { uring, descriptor, flight: None, groups: 0, stuck: false })
    }

    /// Becomes readable when a group is complete.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.descriptor)
    }

    /// Has `bytes` written at `offset` as `order` says. Gives them back if the kernel takes nothing, now and from then on.
    pub(crate) fn submit(
        &mut self,
        file: &Arc<File>,
        bytes: Vec<u8>,
        offset: u64,
        order: &Order,
    ) -> Result<(), Vec<u8>> {
        if self.stuck || self.flight.is_some() {
            return Err(bytes);
        }
        self.groups += 1;
        let tag = self.groups << 1;
        let fd = file.as_raw_fd();
        let flight = self.flight.insert(Flight { file: Arc::clone(file), size: 0, bytes });
        let entries: &[squeue::Entry] = match order {
            Order::WriteThenSync => {
                flight.size = flight.bytes.len();
                &pair(fd, &flight.bytes, offset, squeue::Flags::SKIP_SUCCESS, tag)
            }
            Order::Through(range) => {
                let bytes = &flight.bytes[range.clone()];
                flight.size = bytes.len();
                &[through(fd, bytes, offset, tag)]
            }
        };
        debug_assert!(flight.size > 0);
        // SAFETY: the write points into what `flight.bytes` has allocated, and all operations name `flight.file`. Nobody
        // touches either, and neither goes before `complete` has seen the completion of the group, or the kernel has taken
        // nothing of it. `drop` waits for the former. The latter is seen below; nothing is submitted on this ring then, so
        // the kernel never looks at the entries. A ring that is leaked keeps both.
        let pushed = unsafe { self.uring.submission().push_multiple(entries) };
        // Cannot fail to be pushed: the queue has two places, and the kernel has taken what was in it.
        let is_pushed = pushed.is_ok();
        let submitted = pushed.map_err(io::Error::other).and_then(|()| self.uring.submit());
        let left = self.uring.submission().len();
        if left == 0 && is_pushed {
            return Ok(());
        }
        if 0 < left && left < entries.len() {
            // The other half goes on alone.
            give_up(&format_args!("the kernel took a half of a pair: {submitted:?}"));
        }
        tracing::warn!(
            ?submitted,
            "io_uring takes no group: the journal's thread writes them all from now on"
        );
        self.stuck = true;
        Err(self.flight.take().map(|flight| flight.bytes).unwrap_or_default())
    }

    /// What became of the group that was submitted, with its file. `None` if there is none, or if it is not complete: only
    /// where it need not `wait`.
    pub(crate) fn complete(&mut self, wait: bool) -> Option<(Arc<File>, Completion)> {
        self.flight.as_ref()?;
        let done = loop {
            // Of a pair whose write failed nothing else is told; another kernel might, of its sync.
            let of_this = |done: &cqueue::Entry| done.user_data() >> 1 == self.groups;
            if let Some(done) = self.uring.completion().find(of_this) {
                break done;
            }
            if !wait {
                return None;
            }
            if let Err(error) = self.uring.submit_and_wait(1)
                && !passes(&error)
            {
                give_up(&error);
            }
        };
        let Flight { file, bytes, size } = self.flight.take()?;
        let error = || io::Error::from_raw_os_error(-done.result());
        let written = match (done.user_data() & 1, usize::try_from(done.result())) {
            (WRITE, Ok(part)) => Ok(part),
            // Nothing was synced: the group can be written again.
            (_, Err(_)) if is_put_off(&error()) => Ok(0),
            (WRITE, Err(_)) => Err(WriteError::Write(error())),
            // It was begun only when all was written.
            (_, Ok(_)) => Ok(size),
            (_, Err(_)) => Err(WriteError::Sync(error())),
        };
        Some((file, Completion { bytes, written }))
    }
}

/// The kernel may use the buffer until the group is complete.
impl Drop for SubmitRing {
    fn drop(&mut self) {
        self.complete(true);
    }
}

/// Whether an operation was not begun, or not gone on with, for want of something that the kernel has at other times.
fn is_put_off(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let put_off = [Errno::INTR, Errno::AGAIN, Errno::NOMEM, Errno::CANCELED];
    put_off.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
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

    /// Waits for the descriptor, as a shard does, and then for nothing more.
    fn complete(ring: &mut SubmitRing) -> Completion {
        let descriptors = thalweg_kernel::Descriptors::new().unwrap();
        let watch = descriptors.watch(ring.descriptor(), &Arc::default());
        watch.used_up(thalweg_kernel::Readiness::Read);
        watch.want(thalweg_kernel::Readiness::Read);
        let long = std::time::Duration::from_secs(20);
        assert!(descriptors.wait(long), "its descriptor becomes readable");
        let (_, completion) = ring.complete(false).expect("one completion tells of the pair");
        assert!(ring.uring.completion().next().is_none() && ring.complete(true).is_none());
        completion
    }

    #[test]
    fn what_was_submitted_is_in_the_file_and_errors_name_their_half() {
        let Ok(mut ring) = SubmitRing::new() else { return };
        let file = Arc::new(tempfile::tempfile().unwrap());
        for round in 0..100_u8 {
            let offset = u64::from(round) * 5000;
            ring.submit(&file, vec![round; 5000], offset, &Order::WriteThenSync).unwrap();
            assert_eq!(
                ring.submit(&file, vec![1], 0, &Order::WriteThenSync),
                Err(vec![1]),
                "one at a time"
            );
            let Completion { bytes, written } = complete(&mut ring);
            assert_eq!((bytes, written.unwrap()), (vec![round; 5000], 5000));
        }
        let mut back = vec![0; 500_000];
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut back, 0).unwrap();
        assert!(back.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at / 5000));

        let read_only = Arc::new(File::open("/dev/null").unwrap());
        ring.submit(&read_only, vec![1], 0, &Order::WriteThenSync).unwrap();
        let error = complete(&mut ring).written.unwrap_err();
        assert!(matches!(&error, WriteError::Write(e) if e.raw_os_error() == Some(9)), "{error:?}");
        let null = Arc::new(File::options().write(true).open("/dev/null").unwrap());
        ring.submit(&null, vec![1], 0, &Order::WriteThenSync).unwrap();
        let error = complete(&mut ring).written.unwrap_err();
        assert!(matches!(error, WriteError::Sync(_)), "{error:?}");
    }

    /// Goal: what follows a write that is cut short is not synced, and the next pair is told apart from it.
    #[test]
    fn a_short_write_is_told_and_what_follows_it_goes_on() {
        let Ok(mut ring) = SubmitRing::new() else { return };
        // A pipe takes as much as it has room for.
        let (reader, writer) = io::pipe().unwrap();
        let pipe = Arc::new(File::from(OwnedFd::from(writer)));
        rustix::fs::fcntl_setfl(&*pipe, rustix::fs::OFlags::NONBLOCK).unwrap();
        ring.submit(&pipe, vec![7; 1 << 20], 0, &Order::WriteThenSync).unwrap();
        let written = complete(&mut ring).written.unwrap();
        assert!(0 < written && written < 1 << 20, "{written}");
        drop(reader);
        let file = Arc::new(tempfile::tempfile().unwrap());
        ring.submit(&file, vec![1; 10], 0, &Order::WriteThenSync).unwrap();
        assert_eq!(complete(&mut ring).written.unwrap(), 10);
    }

    #[test]
    fn its_end_waits_for_what_was_submitted() {
        let Ok(mut ring) = SubmitRing::new() else { return };
        let file = Arc::new(tempfile::tempfile().unwrap());
        ring.submit(&file, vec![9; 1 << 20], 0, &Order::WriteThenSync).unwrap();
        drop(ring);
        assert_eq!((file.metadata().unwrap().len(), Arc::strong_count(&file)), (1 << 20, 1));
    }

    #[test]
    fn only_what_passes_is_waited_out() {
        use io::ErrorKind::{Interrupted, InvalidInput, ResourceBusy, WouldBlock};
        assert!([Interrupted, ResourceBusy, WouldBlock].map(io::Error::from).iter().all(passes));
        assert!(!passes(&InvalidInput.into()));
    }
}
