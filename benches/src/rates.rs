//! What a message costs at the rates that gateways have, and how late it is: a row for each rate and contender. A second
//! mode asks what a process costs that nobody publishes to.
//!
//! | module | what it is |
//! |---|---|
//! | [`options`] | the command line of both |
//! | [`order`] | what a process of its own is told to do |
//! | [`series`] | the rounds, in which contenders take turns |
//! | [`load`] | the devices: paced messages in, and the results that come back |
//! | [`contender`] | a process for a contender |
//! | [`cost`] | what `/proc` says of it |
//! | [`syscalls`] | its system calls, counted by strace or perf in runs of their own |
//! | [`idle`] | the second mode |
//! | [`bars`], [`table`] | what it should come to, and the report |
//!
//! **Contenders**, each in a process of its own: a loop on a raw socket, a bare rumqttc client, and Thalweg on each
//! driver. They take turns within a round, and each round another one begins. So a ratio compares neighbours in time: it is the
//! median of the ratios of the rounds.
//!
//! **Jobs.** `averages` is that of [`devices`](crate::devices). Its results count from when the reading was due that closes
//! their window. `through` passes each message on as it came. A message says when it was due. So its
//! age is known where the contender *sees* it, and again when it is *back* at the sender.
//!
//! **State.** `none` is QoS 0. `journal` is QoS 1 with a state directory. Thalweg acknowledges what its journal has
//! synced. It publishes results with their checkpoint: every second, for `through` every 10 ms. The loop and
//! the bare client acknowledge at once.
//!
//! **Pace.** Messages are due at even intervals. The sender sleeps until the next one is due, spins never, and sends
//! all that are due by then. Ages count from when a message was due, so a sender that is late is in the figures of
//! all contenders alike. The report says how late it was.
//!
//! **Cost** is that of the contender's process alone: from a second after the first message until the last result is
//! back, or given up. CPU time is that of all threads to the nanosecond, and so are context switches, voluntary or not. A
//! message that is lost was sent nevertheless, and counts.

pub mod bars;
pub mod contender;
pub mod cost;
pub mod idle;
pub mod load;
pub mod options;
pub mod order;
pub mod series;
pub mod syscalls;
pub mod table;

use std::time::Duration;

/// Messages that are due so soon after the first one count for nothing.
pub const WARM_UP: Duration = Duration::from_secs(1);
