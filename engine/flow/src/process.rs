//! Process functions: user code with state, timers and side outputs.
//!
//! | | state | called with |
//! |---|---|---|
//! | [`KeyedProcess`] | per key, and timers per key | records, on the shard that owns their key; timers |
//! | [`Process`] | per instance: [lists](crate::OperatorStates) | records, on the shard where they are; watermarks; the clock |
//!
//! # With keys
//! Records of a key come in the order each sender had them. A timer fires for its key as if it were a
//! record: an event-time timer when the watermark reaches it, before the watermark goes on; a
//! processing-time timer when this machine's clock does. Timers that are due together fire in order of
//! their times, those of one millisecond in no particular order. The same timer registered twice is one. When
//! its stream ends, all event-time timers fire that are set by then; processing-time timers that are not due do not.
//!
//! With [`process_keyed`](crate::KeyedStream::process_keyed) what the function emits keeps the key, and the stream stays
//! partitioned.
//!
//! # Without
//! Records come in the order of the stream on the shard. There are no timers: the function is told of every
//! watermark and may look at the clock with every step, and what is due it sees in its lists. The last
//! watermark is the end of time; it comes when the stream ends.

mod connected;
mod context;
pub(crate) mod failure;
mod keep_key;
pub(crate) mod keyed;
pub(crate) mod side;
pub(crate) mod timers;
mod unkeyed;

pub use self::connected::{Both, CoProcess, KeyedCoProcess, OfBoth, OneOf};
pub use self::context::Context;
pub use self::failure::{FunctionError, OnError};
pub use self::keep_key::KeepKey;
pub(crate) use self::keep_key::ProcessedKeyed;
pub use self::keyed::{KeyedProcess, KeyedProcessing};
pub use self::side::{SideTag, Tagged};
pub use self::timers::TIMERS_MAX;
pub use self::unkeyed::{Process, ProcessContext, Processing};
