//! Whether io_uring, and glommio on it, work on this machine.
//!
//! Glommio ends the process when an operation is missing, and containers block io_uring by default.
//! So the operations it needs are probed first, with the `io-uring` crate. Then one executor runs on
//! a thread of its own. It must sleep and be woken from another thread within a deadline. Some old
//! kernels hang there.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

use crate::signal::Signal;

/// Far more than a loaded machine needs, and the longest a start can be delayed.
const DEADLINE: Duration = Duration::from_secs(2);

/// Whether glommio works here, and otherwise why not. Probed once in a process.
pub(super) fn io_uring() -> Result<(), String> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    WORKS.get_or_init(|| operations().and_then(|()| sleeps_and_wakes())).clone()
}

/// The operations that glommio demands.
const OPERATIONS: [(&str, u8); 23] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
];

fn operations() -> Result<(), String> {
    let ring = IoUring::new(4).map_err(|error| format!("io_uring cannot be set up: {error}"))?;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| format!("io_uring cannot be probed: {error}"))?;
    match OPERATIONS.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(format!("this kernel's io_uring lacks {name}")),
        None => Ok(()),
    }
}

fn sleeps_and_wakes() -> Result<(), String> {
    let signal = Arc::<Signal>::default();
    let waker = signal.waker();
    let (slept, has_slept) = flume::bounded(1);
    let (woken, was_woken) = flume::bounded(1);
    let trial = move || {
        let executor = match super::glommio::executor().name("probe").make() {
            Ok(executor) => executor,
            Err(error) => return drop(woken.send(Err(error.to_string()))),
        };
        executor.run(async {
            glommio::timer::sleep(Duration::from_millis(1)).await;
            let _ = slept.send(());
            signal.raised().await;
            let _ = woken.send(Ok(()));
        });
    };
    let thread = thread::Builder::new().name("io_uring-probe".into()).spawn(trial);
    let thread = thread.map_err(|error| format!("no thread for the probe: {error}"))?;
    if has_slept.recv_timeout(DEADLINE).is_ok() {
        waker.wake();
    }
    let outcome = was_woken.recv_timeout(DEADLINE);
    outcome.map_err(|_| "glommio neither slept nor woke in time".to_owned())??;
    thread.join().map_err(|_| "glommio panicked".to_owned())
}
