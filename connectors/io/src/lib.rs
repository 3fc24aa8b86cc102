//! What connectors with a connection share: where its work is done, its sockets and its timers.
//!
//! The work of a connection is one future. [`start`] gives it to the shard that opens the connector. Where the shard's
//! driver can wait for descriptors, the shard itself goes on with it ([`Tasks`](thalweg_kernel::Tasks)). No thread, no queue
//! and no hop stands between the socket and the operators. Elsewhere the work has a thread, which waits in the same way. The
//! work cannot tell the two apart.
//!
//! The future sees the world through its [`Reactor`]: it may wait for a [socket](Tcp), for a [time](Reactor::sleep), and for
//! whoever calls its waker. All of it is polled again whenever one of these comes. That suits what connectors have, a few
//! things at a time; it is no general runtime.

mod call;
mod reactor;
mod resolve;
mod sync;
mod tcp;
mod work;

pub use reactor::{Elapsed, Reactor, Sleep};
pub use tcp::Tcp;
pub use work::{Direction, Work, start};
