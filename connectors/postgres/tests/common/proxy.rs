//! [`Proxy`]: between the sink and the server, to break connections at a chosen place of the protocol.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to the next `COMMIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Passes,
    /// The connection breaks before it has reached the server.
    Lost,
    /// It is done, and the connection breaks before the answer has come back.
    Unanswered,
    /// The sink's connection breaks; the server gets it only when [`Proxy::release`] is called.
    Late,
}

#[derive(Debug)]
struct Shared {
    fate: Mutex<Fate>,
    /// How many have met a fate other than to pass, and how many late ones may go on.
    counts: Mutex<(u32, u32)>,
    changed: Condvar,
}

/// See the module. It ends with the process.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of the server on port `to`.
    pub fn start(to: u16) -> Self {
        Self::mute(to, 0)
    }

    /// The first `connections` are accepted and never answered.
    pub fn mute(to: u16, connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            fate: Mutex::new(Fate::Passes),
            counts: Mutex::new((0, 0)),
            changed: Condvar::new(),
        });
        let proxy = Self { port, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            let _mute: Vec<_> = listener.incoming().take(connections).collect();
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", to)))
                else {
                    continue;
                };
                let shared = Arc::clone(&shared);
                thread::spawn(move || forward(client, server, &shared));
            }
        });
        proxy
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What happens to the next `COMMIT`; to those after it, nothing.
    pub fn next_commit(&self, fate: Fate) {
        *self.shared.fate.lock().unwrap() = fate;
    }

    /// Waits until `count` commits have met their fates.
    pub fn wait_for(&self, count: u32) {
        let counts = self.shared.counts.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited =
            self.shared.changed.wait_timeout_while(counts, limit, |counts| counts.0 < count);
        assert!(!waited.unwrap().1.timed_out(), "no commit came by");
    }

    /// Lets a late one reach the server.
    pub fn release(&self) {
        self.shared.counts.lock().unwrap().1 += 1;
        self.shared.changed.notify_all();
    }
}

fn met(shared: &Shared) {
    shared.counts.lock().unwrap().0 += 1;
    shared.changed.notify_all();
}

/// Copies both ways, message by message, until one side ends.
fn forward(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    // The last answer may be kept back.
    let mute = Arc::new(Mutex::new(false));
    let back = {
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let (mute, shared) = (Arc::clone(&mute), Arc::clone(shared));
        thread::spawn(move || {
            while let Some(message) = read(&mut from, true) {
                if *mute.lock().unwrap() {
                    if message[0] == b'C' && message.ends_with(b"COMMIT\0") {
                        let _ = to.shutdown(Shutdown::Both);
                        met(&shared);
                        return;
                    }
                } else if to.write_all(&message).is_err() {
                    return;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        })
    };
    let (mut from, mut to) = (client, server);
    let mut begun = false;
    while let Some(message) = read(&mut from, begun) {
        begun = true;
        if message[0] == b'Q' && message.ends_with(b"COMMIT\0") {
            let fate = std::mem::replace(&mut *shared.fate.lock().unwrap(), Fate::Passes);
            match fate {
                Fate::Passes => {}
                Fate::Lost => {
                    let _ = from.shutdown(Shutdown::Both);
                    met(shared);
                    break;
                }
                Fate::Unanswered => *mute.lock().unwrap() = true,
                Fate::Late => {
                    let before = shared.counts.lock().unwrap().1;
                    let _ = from.shutdown(Shutdown::Both);
                    met(shared);
                    let counts = shared.counts.lock().unwrap();
                    drop(shared.changed.wait_while(counts, |counts| counts.1 == before).unwrap());
                }
            }
        }
        if to.write_all(&message).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = back.join();
}

/// One message, with its type if it has one. (The first of a client has none.)
fn read(from: &mut TcpStream, typed: bool) -> Option<Vec<u8>> {
    let mut message = vec![0; if typed { 5 } else { 4 }];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(*message.last_chunk().unwrap()) as usize;
    let head = message.len();
    message.resize(head + length - 4, 0);
    from.read_exact(&mut message[head..]).ok()?;
    Some(message)
}
