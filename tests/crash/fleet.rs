//! The fleet: devices that number their messages, published at QoS 1 or 2 over MQTT 3.1.1 on plain sockets. So it is
//! known of each message whether the broker has promised to deliver it.
//!
//! Publishers misbehave as real ones do. A connection is cut before its acknowledgements are read. Then what was
//! not acknowledged is sent again, in order, or now and then given up for good. So a broker has some messages
//! twice, and some of which nobody knows.
//!
//! Where the source alone is to tell repetitions, no publisher sends anything twice, and connections stay. At QoS 2 a message counts as
//! acknowledged when its exchange is over.
//!
//! A publisher comes back under its name. Its CONNACK tells that the broker has done with the old connection, so
//! that nothing of it arrives later. With [`BEHIND_MAX`] this bounds how far messages can be out of order, however
//! slow the machine is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use thalweg_testing::Random;

use crate::Once;
use crate::ledger::{BEHIND_MAX, DEVICES, Ledger, topic};

/// Publishers, each with its own devices.
const PUBLISHERS: usize = 4;
/// Messages that a publisher sends before it waits for their acknowledgements.
const BATCH_MAX: u64 = 16;
/// The broker answers within this, or the connection counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A connection is tried so often before the run fails.
const CONNECTS_MAX: usize = 100;

/// A fleet that publishes.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

struct Shared {
    port: u16,
    /// Messages a second, all publishers together.
    rate: u64,
    once: Once,
    stop: AtomicBool,
    cuts: AtomicU64,
    turns: Mutex<Turns>,
}

struct Turns {
    ledger: Ledger,
    /// The oldest message that each publisher is busy with; none: `u64::MAX`.
    oldest: [u64; PUBLISHERS],
}

impl Fleet {
    /// Begins to publish.
    pub(crate) fn start(port: u16, rate: u64, once: Once, seed: u64) -> Result<Self> {
        let turns = Turns { ledger: Ledger::default(), oldest: [u64::MAX; PUBLISHERS] };
        let shared = Arc::new(Shared {
            port,
            rate: rate.max(1),
            once,
            stop: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            turns: Mutex::new(turns),
        });
        let mut threads = Vec::new();
        for me in 0..PUBLISHERS {
            let (shared, chance) = (Arc::clone(&shared), Random::of(seed, 100 + me as u64));
            let publisher = Publisher { me, shared, chance, stream: None };
            let thread = thread::Builder::new().name(format!("publisher-{me}"));
            threads.push(thread.spawn(move || publisher.run()).context("cannot start a thread")?);
        }
        Ok(Self { shared, threads })
    }

    /// How many messages were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.turns().ledger.acknowledged()
    }

    /// Ends publishing with the mark; the ledger, and how many connections were cut.
    pub(crate) fn finish(self) -> Result<(Ledger, u64)> {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a publisher panicked"))??;
        }
        let shared = Arc::clone(&self.shared);
        let chance = Random::of(0, 0);
        let mut publisher = Publisher { me: 0, shared, chance, stream: None };
        let mark = self.shared.turns().ledger.begin_mark();
        publisher.deliver(&[mark], false)?;
        let cuts = self.shared.cuts.load(Relaxed);
        Ok((std::mem::take(&mut self.shared.turns().ledger), cuts))
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Publisher {
    me: usize,
    shared: Arc<Shared>,
    chance: Random,
    stream: Option<TcpStream>,
}

impl Publisher {
    fn run(mut self) -> Result<()> {
        let begun = Instant::now();
        let mut sent = 0_u64;
        while !self.shared.stop.load(Relaxed) {
            let count = 1 + self.chance.below(BATCH_MAX);
            let due = begun
                + Duration::from_micros(sent * 1_000_000 * PUBLISHERS as u64 / self.shared.rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let Some(batch) = self.take(count) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            sent += count;
            self.deliver(&batch, self.shared.once == Once::Numbers)?;
            self.shared.turns().oldest[self.me] = u64::MAX;
        }
        Ok(())
    }

    /// The next messages of this publisher's devices, if the others are not too far behind.
    fn take(&mut self, count: u64) -> Option<Vec<u64>> {
        let mut turns = self.shared.turns();
        let next = turns.ledger.len();
        let oldest = turns.oldest.iter().copied().min().unwrap_or(u64::MAX);
        if next.saturating_sub(oldest.min(next)) + count > BEHIND_MAX {
            return None;
        }
        turns.oldest[self.me] = next;
        let devices = (DEVICES / PUBLISHERS) as u64;
        let mut batch = Vec::new();
        for _ in 0..count {
            let device = self.me + PUBLISHERS * self.chance.below(devices) as usize;
            batch.push(turns.ledger.begin(device));
        }
        Some(batch)
    }

    /// Publishes until all of them are acknowledged, or given up.
    fn deliver(&mut self, batch: &[u64], may_fail: bool) -> Result<()> {
        let mut open: Vec<(u16, u64)> = (1..).zip(batch.iter().copied()).collect();
        let mut again = false;
        while !open.is_empty() {
            let cut = may_fail && self.chance.one_in(60);
            let done = self.attempt(&mut open, again, cut);
            if done.is_err() {
                self.shared.cuts.fetch_add(1, Relaxed);
                self.connect()?;
                again = true;
                if may_fail && self.chance.one_in(4) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends what is open and reads the answers; `cut` breaks the connection off somewhere in between.
    fn attempt(&mut self, open: &mut Vec<(u16, u64)>, again: bool, cut: bool) -> io::Result<()> {
        let mut packets = Vec::new();
        {
            let turns = self.shared.turns();
            for &(id, number) in open.iter() {
                let message = &turns.ledger.messages()[number as usize];
                let first = self.first_byte(again);
                publish(&topic(message.device), &message.payload(), id, first, &mut packets);
            }
        }
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let broken = || io::Error::other("cut");
        if cut && self.chance.one_in(2) {
            // Within a packet, most likely.
            let half = self.chance.below(packets.len());
            stream.write_all(&packets[..half])?;
            return Err(broken());
        }
        stream.write_all(&packets)?;
        let answers = if cut { self.chance.below(open.len()) } else { open.len() };
        let until = open.len() - answers;
        while open.len() > until {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            let [kind, length, high, low] = answer;
            if [kind, length] == [0x50, 2] {
                stream.write_all(&[0x62, 2, high, low])?;
                continue;
            }
            let id = u16::from_be_bytes([answer[2], answer[3]]);
            let Some(at) = open.iter().position(|&(known, _)| known == id) else {
                return Err(io::Error::other(format!("not a PUBACK of ours: {answer:02x?}")));
            };
            if ![[0x40, 2], [0x70, 2]].contains(&[kind, length]) {
                return Err(io::Error::other(format!("not a PUBACK or PUBCOMP: {answer:02x?}")));
            }
            let (_, number) = open.remove(at);
            self.shared.turns().ledger.acknowledge(number);
        }
        if cut { Err(broken()) } else { Ok(()) }
    }

    /// Of a PUBLISH.
    fn first_byte(&self, again: bool) -> u8 {
        let qos = if self.shared.once == Once::Qos2 { 0x34 } else { 0x32 };
        if again { qos | 8 } else { qos }
    }

    fn connect(&mut self) -> Result<()> {
        self.stream = None;
        let mut last = None;
        for _ in 0..CONNECTS_MAX {
            match connect(self.shared.port, &format!("publisher-{}", self.me)) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            thread::sleep(Duration::from_millis(20));
        }
        let error = last.unwrap_or_else(|| io::Error::other("never tried"));
        Err(error).context("the broker is not to be reached")
    }
}

fn connect(port: u16, name: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut packet = vec![0x10, 12 + name.len() as u8];
    packet.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x00\x00");
    packet.push(name.len() as u8);
    packet.extend_from_slice(name.as_bytes());
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer == [0x20, 2, 0, 0] {
        Ok(stream)
    } else {
        Err(io::Error::other(format!("not a CONNACK: {answer:02x?}")))
    }
}

/// Appends a PUBLISH with an id.
fn publish(topic: &str, payload: &str, id: u16, first: u8, out: &mut Vec<u8>) {
    let length = 2 + topic.len() + 2 + payload.len();
    out.push(first);
    // Two bytes of length are always enough here, and one too few often.
    out.extend_from_slice(&[(length % 128) as u8 | 0x80, (length / 128) as u8]);
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload.as_bytes());
}
