//! A private PostgreSQL [`Server`] for tests, on a free port of 127.0.0.1, that can be killed and started
//! again. And a [`Client`] to look into it. Feature `testing`.
//!
//! A test begins with
//!
//! ```no_run
//! # use thalweg_postgres::testing::Server;
//! let Some(server) = Server::start() else { return };
//! ```
//!
//! which prints why it is skipped where PostgreSQL is not installed, and panics there if
//! `THALWEG_REQUIRE_POSTGRES=1`. Programs are looked for on the path and in Debian's `/usr/lib/postgresql`.
//! PostgreSQL refuses to be root's: started by root, it runs as the user `postgres`, or `nobody`.

// A helper of tests panics with a clear text, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// On a busy machine a start takes seconds.
const READY_S_MAX: u64 = 60;

/// The server that the tests of a process share, as long as one has it.
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// A private server with its data in a temporary directory. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    dir: tempfile::TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Starts one that does not wait for the disk; `None` where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&["fsync = off", "synchronous_commit = off", "full_page_writes = off"])
    }

    /// Starts one that keeps what it has committed, also when it is killed.
    pub fn durable() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The one of this process, which it starts if it does not run: see [`start`](Self::start).
    pub fn shared() -> Option<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// Starts one with more lines of `postgresql.conf`; `{dir}` stands for the server's directory.
    pub fn start_with(lines: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            let required =
                std::env::var("THALWEG_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
            assert!(!required, "PostgreSQL is not installed, and THALWEG_REQUIRE_POSTGRES=1");
            // Not `eprintln`, which the test harness hides.
            let line = "skipped: needs PostgreSQL (apt-get install postgresql)";
            let _seen = writeln!(std::io::stderr(), "{line}");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("thalweg-postgres-").tempdir();
        let dir = dir.expect("a temporary directory");
        let user = user();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).expect("a directory of the server's user");
        }
        let mut server = Self { port: 0, dir, programs, user, child: Mutex::new(None) };
        let made = server
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--no-instructions", "--locale=C", "--wal-segsize=1"])
            .stdout(Stdio::null())
            .status()
            .expect("initdb runs");
        assert!(made.success(), "initdb failed");
        // Only now, for nobody keeps it for us.
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("its address").port()
        };
        server.port = port;
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
             max_connections = 60\nshared_buffers = 16MB\nmin_wal_size = 2MB\nmax_wal_size = 64MB\n\
             autovacuum = off\nlogging_collector = off\nlog_checkpoints = off\n"
        );
        let path = server.dir.path().to_str().expect("a UTF-8 path");
        for line in lines {
            conf.push_str(&line.replace("{dir}", path));
            conf.push('\n');
        }
        fs::write(server.data().join("postgresql.conf"), conf).expect("a configuration");
        server.restart();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of PostgreSQL's programs, for our data directory.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).current_dir("/");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into its directory, for the server alone to read.
    pub fn put(&self, name: &str, contents: &str) {
        use std::os::unix::fs::PermissionsExt;

        let path = self.dir.path().join(name);
        fs::write(&path, contents).expect("a file for the server");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid)).expect("its owner");
        }
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a database; its URL.
    pub fn database(&self, name: &str) -> String {
        let sql = format!("CREATE DATABASE \"{name}\"");
        Client::connect(&self.url("postgres")).query(&sql);
        self.url(name)
    }

    /// Ends it and all its processes at once: `kill -9`.
    pub fn kill(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut child) = child else { return };
        // They are asked for first: an orphan has another parent.
        let id = child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let _gone = child.kill();
        let _status = child.wait();
        for pid in children.unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Starts it (again) on the same port, and waits until it answers.
    pub fn restart(&self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(READY_S_MAX);
        loop {
            let log = File::options().create(true).append(true).open(self.dir.path().join("log"));
            let log = log.expect("a log file");
            let mut child = self
                .command("postgres")
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("a start");
            while child.try_wait().expect("a status").is_none() {
                if Client::try_connect(&self.url("postgres")).is_some() {
                    *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
                    return;
                }
                if Instant::now() >= deadline {
                    let _gone = child.kill();
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            // The processes of the life before may still hold its memory.
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where PostgreSQL's programs are; the newest, if there are several.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    places.into_iter().find(|place| ["initdb", "postgres"].iter().all(|p| place.join(p).is_file()))
}

/// The user and group to run as, if we are root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("a list of users");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user other than root"))
}

/// A connection of a test.
#[derive(Debug)]
pub struct Client {
    client: tokio_postgres::Client,
    runtime: Runtime,
}

impl Client {
    /// Connects to the database at `url`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn connect(url: &str) -> Self {
        Self::try_connect(url).unwrap_or_else(|| panic!("cannot connect to {url}"))
    }

    fn try_connect(url: &str) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connected = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        });
        Some(Self { client: connected?, runtime })
    }

    /// Runs statements; the rows as text, NULL as `None`.
    ///
    /// # Errors
    /// Those of the server.
    pub fn try_query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect()
        };
        Ok(rows.map(text).collect())
    }

    /// As [`try_query`](Self::try_query).
    ///
    /// # Panics
    /// On an error.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The first column of the rows, as integers; nothing while the table is not there.
    ///
    /// # Panics
    /// On another error.
    pub fn integers(&self, sql: &str) -> Vec<i64> {
        match self.try_query(sql) {
            Ok(rows) => rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect(),
            Err(error) if error.code().is_some_and(|code| code.code() == "42P01") => Vec::new(),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}
