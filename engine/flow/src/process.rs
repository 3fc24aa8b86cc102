//! Process functions: user code with state, timers and side outputs. There is one trait, [`Process`], and one
//! [`Context`]; what a function can reach depends on the stream that it is put on.
//!
//! | stream | state | called with |
//! |---|---|---|
//! | with keys | per key, and timers per key; [lists](crate::OperatorStates) per instance | records, on the shard that owns their key; timers; watermarks; the clock |
//! | without | lists per instance | records, on the shard where they are; watermarks; the clock |
//!
//! # With keys
//! Records of a key come in the order each sender had them. A timer fires for its key as if it were a record. An
//! event-time timer fires when the watermark reaches it, before the watermark goes on. A processing-time timer fires
//! when this machine's clock reaches it. (Where each key has a [clock](crate::KeyedStream::clock_per_key), that clock
//! fires the key's event timers.) Timers that are due together fire in order of their times, and timers of one
//! millisecond in no particular order. A timer that is registered twice fires once. When the stream ends, all event-time
//! timers fire that are set by then, and processing-time timers that are not due do not. A function that is built of
//! parts gives each part a [space of timers](crate::States::timers), so that the parts' timers do not collide.
//!
//! With [`process_keyed`](crate::KeyedStream::process_keyed) what the function emits keeps the key, and the stream stays
//! partitioned.
//!
//! # Without
//! Records come in the order of the stream on the shard. There are no timers. Instead the function is told of every
//! watermark, may look at the clock with every step, and finds in its lists what is due. The last
//! watermark is the end of time; it comes when the stream ends.
//!
//! # Failing
//! What may fail, a function does in [`Context::attempt`]: a closure with `?` in it. Its error, or a panic, fails the call; what
//! becomes of the record is in [`failure`].

mod broadcast;
mod connected;
mod context;
pub(crate) mod failure;
mod function;
mod keep_key;
pub(crate) mod keyed;
mod on_error;
mod side;
mod silence;
pub(crate) mod timers;
mod unkeyed;

pub use self::broadcast::LeftOf;
pub use self::connected::{Both, CoProcess, OfBoth, OneOf};
pub use self::context::{Context, NoKey};
pub use self::failure::{FunctionError, OnError};
pub use self::function::Process;
pub use self::keep_key::KeepKey;
pub(crate) use self::keep_key::ProcessedKeyed;
pub use self::keyed::KeyedProcessing;
pub use self::side::Tagged;
pub use self::timers::{Fired, TIMERS_MAX, TimerSpace};
pub use self::unkeyed::Processing;
