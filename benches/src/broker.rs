//! The broker that a measurement goes through: one that is given, a private Mosquitto, or the one
//! that is embedded in this process.
//!
//! The embedded broker shares the process and does not disable Nagle's algorithm, so its figures
//! are not comparable with Mosquitto's. It serves machines without Mosquitto, and tests.

use std::fmt;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use thalweg::demo;
use thalweg::mqtt::MqttConfig;

/// How long a broker of our own may take to answer.
const READY_MAX: Duration = Duration::from_secs(5);

/// Which broker to use.
#[derive(Clone, Debug, Default)]
pub enum Choice {
    /// A private Mosquitto where it is installed, the embedded one elsewhere.
    #[default]
    Auto,
    /// The one in this process.
    Embedded,
    /// One that is running: host and port.
    At(String, u16),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "embedded" => return Ok(Self::Embedded),
            _ => {}
        }
        let wrong =
            || format!("{text:?} is not allowed; allowed: auto, embedded, mqtt://HOST[:PORT]");
        let address = text.strip_prefix("mqtt://").ok_or_else(wrong)?;
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (address, 1883),
        };
        if host.is_empty() || host.contains(['/', '?', '@']) {
            return Err(wrong());
        }
        Ok(Self::At(host.to_owned(), port))
    }
}

/// A broker that answers on an MQTT 5 listener.
pub struct Broker {
    /// Where it listens.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    name: String,
    /// Held for as long as it is used.
    _process: Option<Mosquitto>,
}

impl Broker {
    /// Starts the broker, unless it is one that runs already.
    ///
    /// # Errors
    /// If it does not start, or does not answer within five seconds.
    pub fn start(choice: &Choice) -> anyhow::Result<Self> {
        match choice {
            Choice::At(host, port) => Ok(Self::at(host, *port, "the given one".into(), None)),
            Choice::Embedded => Self::embedded("embedded rumqttd, as asked"),
            Choice::Auto => match Mosquitto::start()? {
                Some(process) => {
                    let name = format!("{}, private, TCP_NODELAY", process.version);
                    Ok(Self::at("127.0.0.1", process.port, name, Some(process)))
                }
                None => Self::embedded(
                    "embedded rumqttd; mosquitto is not installed (apt-get install mosquitto)",
                ),
            },
        }
    }

    fn embedded(name: &str) -> anyhow::Result<Self> {
        // It cannot be stopped: its threads end with the process.
        let port = demo::broker::Broker::start()?.address_v5().port();
        Ok(Self::at("127.0.0.1", port, name.to_owned(), None))
    }

    fn at(host: &str, port: u16, name: String, process: Option<Mosquitto>) -> Self {
        Self { host: host.to_owned(), port, name, _process: process }
    }

    /// How Thalweg reaches it.
    pub fn config(&self) -> MqttConfig {
        MqttConfig::new(&self.host).port(self.port)
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}", self.name, self.host, self.port)
    }
}

/// A private Mosquitto on loopback; killed when dropped.
struct Mosquitto {
    child: Child,
    port: u16,
    version: String,
    _dir: TempDir,
}

impl Mosquitto {
    /// `None` where it is not installed.
    fn start() -> anyhow::Result<Option<Self>> {
        let program = Path::new("/usr/sbin/mosquitto");
        let program = if program.exists() { program } else { Path::new("mosquitto") };
        let version = match Command::new(program).arg("-h").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            output => output.context("cannot run mosquitto")?,
        };
        let version = String::from_utf8_lossy(&version.stdout);
        let version = version.lines().next().unwrap_or("mosquitto").replace(" version", "");

        let dir = tempfile::tempdir().context("no temporary directory")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Started by root it would become a user that need not exist.
        let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             max_queued_messages 0\nuser {user}\nlog_type error\n"
        );
        let file = dir.path().join("mosquitto.conf");
        std::fs::write(&file, settings).context("cannot write its configuration")?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start mosquitto")?;
        let mut broker = Self { child, port, version, _dir: dir };
        broker.wait()?;
        Ok(Some(broker))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("mosquitto ended at once ({status}); name a running one with --broker");
            }
            if Instant::now() > deadline {
                bail!("mosquitto did not answer on port {} within {READY_MAX:?}", self.port);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_mistakes_named() {
        let read = |text: &str| match text.parse() {
            Ok(Choice::At(host, port)) => format!("{host} {port}"),
            Ok(choice) => format!("{choice:?}"),
            Err(error) => error,
        };
        assert_eq!(read("mqtt://gateway"), "gateway 1883");
        assert_eq!(read("mqtt://127.0.0.1:1884"), "127.0.0.1 1884");
        assert_eq!(read("auto"), "Auto");
        for wrong in ["gateway:1883", "mqtt://", "mqtt://a:b", "mqtt://u:p@h:1", "mqtt://h/x:1"] {
            assert!(read(wrong).contains("mqtt://HOST[:PORT]"), "{wrong}: {}", read(wrong));
        }
    }
}
