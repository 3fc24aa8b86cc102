//! The peer: a loop on a raw socket that gives equal rows. One thread, one connection. A reading is decoded by
//! sonic-rs where it was received. When one of the next second comes, the rows of the last leave in one write. No
//! second attempt, no limits, no metrics; a bad payload ends it.

use std::io::{self, Write};
use std::net::TcpStream;

use hashbrown::HashMap;

use super::wire::{Wire, publish};
use super::{READINGS, RESULTS, WINDOW_MS};
use crate::sensors::sums::{Reading, Sum};

/// A connected loop.
pub struct Hand(Wire);

impl Hand {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// If the broker is not there or refuses.
    pub fn connect(host: &str, port: u16) -> io::Result<Self> {
        let mut wire = Wire::connect(host, port, "thalweg-bench-hand")?;
        wire.subscribe(&format!("{READINGS}+"))?;
        Ok(Self(wire))
    }

    /// Ends [`run`](Self::run) from another thread.
    ///
    /// # Errors
    /// If there is no further file descriptor.
    pub fn stopper(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        self.0.stopper()
    }

    /// The loop; returns how many readings came.
    ///
    /// # Errors
    /// If the connection breaks or a payload is no reading.
    pub fn run(mut self) -> io::Result<u64> {
        let mut out = self.0.writer()?;
        let mut window = Window { start: 0, sums: HashMap::new(), packets: Vec::new() };
        let mut readings = 0;
        while self.0.read(|_topic, payload| {
            readings += 1;
            let reading = sonic_rs::from_slice(payload).map_err(io::Error::other)?;
            window.add(&reading, &mut out)
        })? {}
        Ok(readings)
    }
}

struct Window {
    start: i64,
    sums: HashMap<Box<str>, Sum>,
    packets: Vec<u8>,
}

impl Window {
    fn add(&mut self, reading: &Reading<'_>, out: &mut TcpStream) -> io::Result<()> {
        if reading.ts >= self.start + WINDOW_MS {
            self.publish(out)?;
            self.start = reading.ts - reading.ts.rem_euclid(WINDOW_MS);
        }
        let sum = match self.sums.get_mut(reading.device) {
            Some(sum) => sum,
            None => self.sums.entry(reading.device.into()).or_insert(Sum::NOTHING),
        };
        sum.add(reading.temp);
        Ok(())
    }

    fn publish(&mut self, out: &mut TcpStream) -> io::Result<()> {
        self.packets.clear();
        for (key, sum) in &mut self.sums {
            if sum.count > 0 {
                let row = sum.row(key, self.start, self.start + WINDOW_MS);
                publish(RESULTS, &serde_json::to_vec(&row)?, &mut self.packets);
                *sum = Sum::NOTHING;
            }
        }
        out.write_all(&self.packets)
    }
}
