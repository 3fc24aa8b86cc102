//! The program as a process: started, watched, signalled, and what it left behind.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thalweg_mqtt::testing::Mosquitto;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without the variables of whoever runs the tests.
pub(crate) fn thalweg(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THALWEG_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// Its standard output, if it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert_no_panic(&self.err);
        self.out
    }

    /// Its standard error, if it ended with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_no_panic(&self.err);
        self.err
    }
}

#[track_caller]
fn assert_no_panic(err: &str) {
    assert!(!err.contains("panicked"), "{err}");
}

/// A running process. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    out: Output,
    err: Output,
}

struct Output(Arc<Mutex<Vec<u8>>>, Option<JoinHandle<()>>);

impl Output {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let thread = stream.map(|mut stream| {
            let text = Arc::clone(&text);
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    text.lock().unwrap().extend_from_slice(&bytes[..count]);
                }
            })
        });
        Self(text, thread)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn whole(&mut self) -> String {
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
        self.text()
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
        Self { child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn err(&self) -> String {
        self.err.text()
    }

    /// Waits until it has said this, on either stream.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.out.text().contains(text) && !self.err.text().contains(text) {
            let ended = self.child.try_wait().unwrap();
            let (out, err) = (self.out.text(), self.err.text());
            assert!(ended.is_none(), "ended without {text:?}:\n{out}\n{err}");
            assert!(Instant::now() < deadline, "never said {text:?}:\n{out}\n{err}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends `INT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let err = self.err.text();
            assert!(Instant::now() < deadline, "still running after {PATIENCE:?}:\n{err}");
            thread::sleep(Duration::from_millis(5));
        };
        Outcome { code: status.code(), out: self.out.whole(), err: self.err.whole() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Outcome {
    Program::start(&mut thalweg(args)).finish()
}

/// Writes a file and returns its path as an argument.
pub(crate) fn file(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The client has acknowledged `count` messages, hence the program has them.
pub(crate) fn wait_for_acks(broker: &Mosquitto, client: &str, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let acks = || {
        let log = broker.log();
        log.lines().filter(|l| l.contains("Received PUBACK from") && l.contains(client)).count()
    };
    while acks() < count {
        assert!(Instant::now() < deadline, "{client}: {} of {count} acknowledged", acks());
        thread::sleep(Duration::from_millis(10));
    }
}
