//! Brokers for tests, on loopback: a private [`Mosquitto`] process that can be killed and started
//! again, and an embedded [`Rumqttd`] for machines without mosquitto. Feature `testing`.
//!
//! A test that needs mosquitto begins with
//!
//! ```no_run
//! # use thalweg_mqtt::testing::Mosquitto;
//! let Some(broker) = Mosquitto::start() else { return };
//! ```
//!
//! which prints why it is skipped where mosquitto is not installed, and panics there if
//! `THALWEG_REQUIRE_MOSQUITTO=1`.

// A helper of tests panics with a clear text, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::MqttConfig;

const READY_S_MAX: u64 = 10;

/// A free port of 127.0.0.1, which no other process that asks here is given while this one lives. It is below those
/// that the kernel gives to connections, one of which could take it before a broker does.
pub fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = (10_000 + crate::random() % 20_000) as u16;
        // A name, not a file: it goes with the process.
        let name = SocketAddr::from_abstract_name(format!("thalweg-port-{port}")).expect("a name");
        if let Ok(claim) = UnixListener::bind_addr(&name)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            claims.push(claim);
            return port;
        }
    }
}

fn wait_until_open(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(READY_S_MAX);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "no broker on port {port} within {READY_S_MAX} s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How to start a private mosquitto.
#[derive(Clone, Debug, Default)]
pub struct MosquittoOptions {
    persistence: bool,
    quiet: bool,
    lines: String,
    files: Vec<(String, String)>,
    passwords: Vec<(String, String)>,
}

impl MosquittoOptions {
    /// Logs nothing: for measuring. [`Mosquitto::log`] is then of no use.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Keeps sessions and queues on disk: what [`Mosquitto::save`] has written survives
    /// [`Mosquitto::kill`].
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.persistence = true;
        self
    }

    /// One more line of `mosquitto.conf`. `{dir}` stands for the broker's directory.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// A file in the broker's directory.
    #[must_use]
    pub fn file(mut self, name: &str, contents: impl Into<String>) -> Self {
        self.files.push((name.to_owned(), contents.into()));
        self
    }

    /// A user; with the first, anonymous clients are refused.
    #[must_use]
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.passwords.push((user.to_owned(), password.to_owned()));
        self
    }

    /// Starts it; `None` where mosquitto is not installed.
    pub fn start(self) -> Option<Mosquitto> {
        Mosquitto::start_with(self)
    }
}

/// A private mosquitto on a free port. Killed when dropped.
#[derive(Debug)]
pub struct Mosquitto {
    port: u16,
    dir: tempfile::TempDir,
    quiet: bool,
    child: Option<Child>,
}

impl Mosquitto {
    /// What can be set.
    pub fn options() -> MosquittoOptions {
        MosquittoOptions::default()
    }

    /// An open broker without persistence.
    pub fn start() -> Option<Self> {
        Self::options().start()
    }

    fn start_with(options: MosquittoOptions) -> Option<Self> {
        if binary().is_none() {
            let required =
                std::env::var("THALWEG_REQUIRE_MOSQUITTO").is_ok_and(|value| value == "1");
            assert!(!required, "mosquitto is not installed, and THALWEG_REQUIRE_MOSQUITTO=1");
            // Not `eprintln`, which the test harness hides.
            let line = "skipped: needs mosquitto (apt-get install mosquitto mosquitto-clients)";
            let _seen = writeln!(std::io::stderr(), "{line}");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().to_str().expect("a UTF-8 path").to_owned();
        for (name, contents) in &options.files {
            fs::write(dir.path().join(name), contents).expect("a broker file");
        }
        let port = free_port();
        let mut conf =
            format!("listener {port} 127.0.0.1\nmax_queued_messages 0\nset_tcp_nodelay true\n");
        // Started by root, mosquitto would become a user that cannot read the directory.
        conf.push_str(&format!("user {}\n", user()));
        conf.push_str(&options.lines.replace("{dir}", &path));
        if options.persistence {
            conf.push_str(&format!(
                "persistence true\npersistence_location {path}/\nautosave_interval 0\n"
            ));
        }
        if options.quiet {
            conf.push_str("log_type none\n");
        }
        if options.passwords.is_empty() {
            conf.push_str("allow_anonymous true\n");
        } else {
            let file = dir.path().join("passwords");
            fs::write(&file, "").expect("a password file");
            for (user, password) in &options.passwords {
                let made = Command::new("mosquitto_passwd")
                    .args(["-b", file.to_str().expect("UTF-8"), user, password])
                    .status();
                assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd failed");
            }
            conf.push_str(&format!("allow_anonymous false\npassword_file {path}/passwords\n"));
        }
        fs::write(dir.path().join("mosquitto.conf"), conf).expect("a configuration");
        let mut broker = Self { port, dir, quiet: options.quiet, child: None };
        broker.restart();
        Some(broker)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory with its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How to reach it.
    pub fn config(&self) -> MqttConfig {
        MqttConfig::new("127.0.0.1").port(self.port)
    }

    /// Has a persistent broker write its state to disk, and waits until it has.
    pub fn save(&self) {
        let child = self.child.as_ref().expect("a running broker");
        let before = self.log().matches("Saving in-memory database").count();
        let sent = Command::new("kill").args(["-USR1", &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -USR1 failed");
        let deadline = Instant::now() + Duration::from_secs(READY_S_MAX);
        while self.log().matches("Saving in-memory database").count() == before {
            assert!(Instant::now() < deadline, "mosquitto did not save its state");
            thread::sleep(Duration::from_millis(5));
        }
        // It logs before it writes, and answers a new connection only after it has written.
        self.probe();
    }

    /// Waits until it answers, hence has done what it was doing.
    fn probe(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00";
        stream.write_all(connect).expect("CONNECT");
        let _read = stream.read(&mut [0; 4]).expect("CONNACK");
    }

    /// Ends it at once, as a power cut would: `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }

    /// Ends it in good order: a persistent broker saves its state first.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            let sent = Command::new("kill").arg(child.id().to_string()).status();
            assert!(sent.is_ok_and(|status| status.success()), "kill failed");
            child.wait().expect("it ends");
        }
    }

    /// Starts it (again) on its port, and waits until it listens.
    pub fn restart(&mut self) {
        self.kill();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("a log file");
        let child = Command::new(binary().expect("found before"))
            .args((!self.quiet).then_some("-v"))
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto starts");
        self.child = Some(child);
        wait_until_open(self.port);
    }

    /// What it has logged so far, verbosely: one line per packet.
    pub fn log(&self) -> String {
        // It may cut a long topic within a character.
        let log = fs::read(self.dir.path().join("log")).expect("the broker's log");
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the broker's log\n{}", self.log());
        }
    }
}

/// The broker, if it and its clients are installed. `MOSQUITTO` may name another binary.
fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("MOSQUITTO") {
        return Some(PathBuf::from(named)).filter(|file| file.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
            .map(|dir| dir.join(name))
            .find(|file| file.exists())
    };
    find("mosquitto_pub").and_then(|_| find("mosquitto"))
}

fn user() -> String {
    std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "root".to_owned())
}

/// An embedded rumqttd. It cannot be stopped: it lives as long as the process.
///
/// It differs from mosquitto where brokers fail: it has no persistence, repeats messages without
/// DUP and under new packet ids, and knows no retained-as-published. Good for load and for
/// machines without mosquitto, not for crash tests.
#[derive(Clone, Copy, Debug)]
pub struct Rumqttd {
    port_v4: u16,
    port_v5: u16,
}

impl Rumqttd {
    /// Starts one for each protocol version on a free port each.
    pub fn start() -> Self {
        let broker = Self { port_v4: free_port(), port_v5: free_port() };
        let config = rumqttd::Config {
            id: 0,
            router: rumqttd::RouterConfig {
                max_connections: 100,
                max_outgoing_packet_count: 200,
                max_segment_size: 100 * 1024 * 1024,
                max_segment_count: 10,
                ..rumqttd::RouterConfig::default()
            },
            v4: Some(HashMap::from([("v4".to_owned(), server(broker.port_v4))])),
            v5: Some(HashMap::from([("v5".to_owned(), server(broker.port_v5))])),
            ws: None,
            cluster: None,
            console: None,
            bridge: None,
            prometheus: None,
            metrics: None,
        };
        thread::Builder::new()
            .name("rumqttd".to_owned())
            .spawn(move || rumqttd::Broker::new(config).start().expect("rumqttd runs"))
            .expect("a thread");
        wait_until_open(broker.port_v4);
        wait_until_open(broker.port_v5);
        broker
    }

    /// How to reach it with this version.
    pub fn config(&self, version: crate::Version) -> MqttConfig {
        let port = match version {
            crate::Version::V311 => self.port_v4,
            crate::Version::V5 => self.port_v5,
        };
        MqttConfig::new("127.0.0.1").port(port).version(version)
    }
}

fn server(port: u16) -> rumqttd::ServerSettings {
    rumqttd::ServerSettings {
        name: format!("port-{port}"),
        listen: ([127, 0, 0, 1], port).into(),
        tls: None,
        next_connection_delay_ms: 1,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 1024 * 1024,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    }
}
