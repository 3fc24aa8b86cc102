//! The peer: a loop on a raw socket that publishes equal results. One thread, one connection. A message is worked on
//! where it was received, and the results of one read leave in one write. At QoS 1 it acknowledges at once. No second
//! attempt, no limits, no metrics; a bad payload ends it.

use std::io;

use super::wire::{PacketIds, Wire, publish};
use super::work::Work;
use super::{READINGS, RESULTS};

/// A connected loop.
pub struct Hand {
    wire: Wire,
    qos: u8,
}

impl Hand {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// If the broker is not there or refuses.
    pub fn connect(host: &str, port: u16, qos: u8) -> io::Result<Self> {
        let mut wire = Wire::connect(host, port, "thalweg-bench-hand")?;
        wire.subscribe(&format!("{READINGS}+"), qos)?;
        Ok(Self { wire, qos })
    }

    /// Ends [`run`](Self::run) from another thread.
    ///
    /// # Errors
    /// If there is no further file descriptor.
    pub fn stopper(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        self.wire.stopper()
    }

    /// The loop; returns how many messages came.
    ///
    /// # Errors
    /// If the connection breaks or a payload is no reading.
    pub fn run(mut self, mut work: Work) -> io::Result<u64> {
        let (mut ids, mut results) = (PacketIds::new(self.qos), Vec::new());
        let mut messages = 0;
        while self.wire.read(|_topic, payload| {
            messages += 1;
            work.message(payload, |result| publish(RESULTS, ids.take(), result, &mut results))
        })? {
            if !results.is_empty() {
                self.wire.write(&mut results)?;
            }
        }
        Ok(messages)
    }
}
