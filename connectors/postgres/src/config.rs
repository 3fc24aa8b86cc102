//! [`PostgresConfig`]: where the server is, from a URL and [`PostgresServerOptions`].
//!
//! `postgres://user:password@host:port/database?key=value&...`. No `Display` or `Debug` here shows a password.
//!
//! Parameters of the URL are the options of [`PostgresServerOptions`], and these, as libpq has them:
//!
//! | parameter | default | |
//! |---|---|---|
//! | `connect_timeout` | 5 s | for each address; four times that for each host until the server has let us in |
//! | `keepalives_idle` | 15 s | with `keepalives_interval` (5 s) and `keepalives_retries` (3): how soon a host that vanished is noticed |
//! | `tcp_user_timeout` | 30 s | the same while data is under way, in milliseconds |
//!
//! and `options`, `application_name`, `channel_binding`, `target_session_attrs`, `hostaddr`, `keepalives`,
//! `load_balance_hosts`, `sslnegotiation`. User and password that the URL does not name are those of the
//! variables `THALWEG_POSTGRES_USER` and `THALWEG_POSTGRES_PASSWORD`. Without those the user is that of the
//! process.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thalweg_kernel::options::{Declared, Options, Origin, Raw, Secret, Table, Value, unencoded};
use thalweg_kernel::{ConfigError, choices, options};
use tokio_postgres::config::{Host, SslMode};
use tokio_rustls::rustls::ClientConfig;
use url::form_urlencoded;

/// The user where the URL names none.
pub const USER_ENV: &str = "THALWEG_POSTGRES_USER";
/// The password where the URL names none.
pub const PASSWORD_ENV: &str = "THALWEG_POSTGRES_PASSWORD";

const CONNECT_S_MAX: u64 = 5;
/// A host may have several addresses, of which the first do not answer.
const ATTEMPTS_PER_HOST: u32 = 4;
const KEEPALIVE_IDLE_S: u64 = 15;
const KEEPALIVE_INTERVAL_S: u64 = 5;
const KEEPALIVE_RETRIES: u32 = 3;
const UNANSWERED_S_MAX: u64 = 30;

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslChoice {
    /// It is not.
    Disable,
    /// It is, and the server's certificate and name are verified.
    Require,
}

choices! {
    SslChoice: "disable" => SslChoice::Disable, "require" | "verify-ca" | "verify-full" => SslChoice::Require
}

options! {
    /// Where a server is, and how to get there.
    #[derive(Clone, Debug)]
    pub struct PostgresServerOptions {
        /// The database as a URL. Parameters of the URL are the options here, and the ones that libpq has.
        #[example = "postgres://thalweg@127.0.0.1/plant"]
        url: Secret,
        /// Whether the connection is encrypted, and the server's certificate and name verified.
        #[absent = "`disable` for this machine, `require` for others"]
        sslmode: Option<SslChoice>,
        /// PEM file of the authority that signed the server's certificate.
        #[absent = "the system's"]
        sslrootcert: Option<PathBuf>,
        /// PEM file of our own certificate.
        sslcert: Option<PathBuf>,
        /// PEM file of the key of our own certificate.
        sslkey: Option<PathBuf>,
        /// A file that holds the password; a line break at its end is not part of it.
        #[absent = "the URL's password, else that of the variable `THALWEG_POSTGRES_PASSWORD`"]
        password_file: Option<PathBuf>,
    }
}

/// Where a PostgreSQL database is, and how to get there; see the [module](self).
#[derive(Clone)]
pub struct PostgresConfig {
    server: tokio_postgres::Config,
    encrypted: Option<bool>,
    password_file: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl FromStr for PostgresConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        let table = Table::of_pairs("", &Origin::Here, [("url", url.to_owned())])?;
        Self::new(PostgresServerOptions::read(&expand(&table)?)?)
    }
}

/// The table with those parameters of its `url` that are options here beside the others.
pub(crate) fn expand(table: &Table) -> Result<Table, ConfigError> {
    let mut table = table.clone();
    let Some(Value { raw, origin }) = table.remove("url") else { return Ok(table) };
    let Some((base, query)) = raw.as_text().and_then(|url| url.split_once('?')) else {
        table.insert("url", Value { raw, origin })?;
        return Ok(table);
    };
    let mut theirs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { continue };
        if name != "url" && PostgresServerOptions::OPTIONS.iter().any(|info| info.key == name) {
            let raw = Raw::Written(value.into_owned());
            table.insert(&name, Value { raw, origin: origin.clone() })?;
        } else {
            theirs.push(pair);
        }
    }
    let raw = Raw::Written(format!("{base}?{}", theirs.join("&")));
    table.insert("url", Value { raw, origin })?;
    Ok(table)
}

impl PostgresConfig {
    /// The server of these options.
    ///
    /// # Errors
    /// If the URL will not do.
    pub fn new(options: PostgresServerOptions) -> Result<Self, ConfigError> {
        const FORM: &str = "postgres://user@host/database";
        let PostgresServerOptions { url: Secret(url), sslmode, .. } = &options;
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            // What it is instead may hold a password.
            return Err(ConfigError::new("url", "***", FORM));
        }
        let server = url.parse::<tokio_postgres::Config>().map_err(|error| {
            if let Some(hint) = unencoded(url) {
                return ConfigError::new("url", "***", hint);
            }
            let why = std::error::Error::source(&error).map(ToString::to_string);
            let allowed = format!("{FORM} ({})", why.unwrap_or_else(|| error.to_string()));
            ConfigError::new("url", "***", allowed)
        })?;
        Ok(Self {
            server,
            encrypted: sslmode.map(|mode| mode == SslChoice::Require),
            password_file: options.password_file,
            ca: options.sslrootcert,
            cert: options.sslcert,
            key: options.sslkey,
        })
    }

    /// Checks what can be checked without connecting; reads the files it names.
    ///
    /// # Errors
    /// Names the first setting that will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let complete = self.complete()?;
        if complete.get_dbname().is_none_or(str::is_empty) {
            let allowed = "a database's name after the host: postgres://user@host/database";
            return Err(ConfigError::new("url", self, allowed));
        }
        if self.cert.is_some() != self.key.is_some() {
            let (key, other) =
                if self.cert.is_some() { ("sslkey", "sslcert") } else { ("sslcert", "sslkey") };
            return Err(ConfigError::missing(key, format!("the PEM file that belongs to {other}")));
        }
        if self.is_encrypted() { self.tls().map(drop) } else { Ok(()) }
    }

    /// Whether every host is this machine.
    fn is_local(&self) -> bool {
        self.server.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
            && self.server.get_hosts().iter().all(|host| match host {
                Host::Unix(_) => true,
                Host::Tcp(name) => matches!(&**name, "localhost" | "127.0.0.1" | "::1"),
            })
    }

    /// Whether the connection is encrypted, and the server verified.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted.unwrap_or_else(|| !self.is_local())
    }

    /// The client's side of TLS as configured: reads the files it names.
    pub(crate) fn tls(&self) -> Result<ClientConfig, ConfigError> {
        thalweg_tls::client_config(
            "server",
            ("sslrootcert", self.ca.as_deref()),
            ("sslcert", self.cert.as_deref()),
            ("sslkey", self.key.as_deref()),
        )
    }

    /// With password and limits.
    pub(crate) fn complete(&self) -> Result<tokio_postgres::Config, ConfigError> {
        let mut server = self.server.clone();
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if server.get_user().is_none()
            && let Some(user) = env(USER_ENV)
        {
            server.user(user);
        }
        if let Some(file) = &self.password_file {
            let password = std::fs::read_to_string(file).map_err(|cause| {
                let allowed = format!("a readable UTF-8 file that holds the password ({cause})");
                ConfigError::new("password_file", file.display(), allowed)
            })?;
            server.password(password.trim_end_matches(['\n', '\r']));
        } else if server.get_password().is_none()
            && let Some(password) = env(PASSWORD_ENV)
        {
            server.password(password);
        }
        let encrypted = self.is_encrypted();
        server.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        // What the URL says goes before; libpq's own defaults wait for hours.
        let theirs = tokio_postgres::Config::new();
        if server.get_connect_timeout().is_none() {
            server.connect_timeout(Duration::from_secs(CONNECT_S_MAX));
        }
        if server.get_keepalives_idle() == theirs.get_keepalives_idle() {
            server.keepalives_idle(Duration::from_secs(KEEPALIVE_IDLE_S));
        }
        if server.get_keepalives_interval().is_none() {
            server.keepalives_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S));
        }
        if server.get_keepalives_retries().is_none() {
            server.keepalives_retries(KEEPALIVE_RETRIES);
        }
        if server.get_tcp_user_timeout().is_none() {
            server.tcp_user_timeout(Duration::from_secs(UNANSWERED_S_MAX));
        }
        if server.get_application_name().is_none() {
            server.application_name("thalweg");
        }
        Ok(server)
    }

    /// How long all of it may take: connections, encryption, and the password. The limit of `server` is one on
    /// connections alone, and whatever has a port may accept them and then say nothing.
    pub(crate) fn login_max(&self, server: &tokio_postgres::Config) -> Duration {
        let once = server.get_connect_timeout().copied();
        let hosts = self.server.get_hosts().len().max(self.server.get_hostaddrs().len()).max(1);
        once.unwrap_or(Duration::from_secs(CONNECT_S_MAX)) * ATTEMPTS_PER_HOST * hosts as u32
    }
}

/// Hosts and database.
impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.server.get_ports();
        for (place, host) in self.server.get_hosts().iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
            if let Some(port) = ports.get(place).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.server.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresConfig({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> PostgresConfig {
        url.parse().unwrap()
    }

    #[test]
    fn a_url_says_where_and_how() {
        let config = parse("postgresql://u:hunter2@db.example.org:5433/plant?connect_timeout=2");
        assert_eq!(config.to_string(), "db.example.org:5433/plant");
        let complete = config.complete().unwrap();
        assert_eq!(complete.get_user(), Some("u"));
        assert_eq!(complete.get_password(), Some(&b"hunter2"[..]));
        assert_eq!(complete.get_connect_timeout(), Some(&Duration::from_secs(2)));
        assert_eq!(complete.get_keepalives_idle(), Duration::from_secs(15));
        assert!(!format!("{config} {config:?}").contains("hunter2"));
    }

    #[test]
    fn other_machines_are_spoken_to_encrypted() {
        assert!(parse("postgres://u@db.example.org/d").is_encrypted());
        assert!(!parse("postgres://u@db.example.org/d?sslmode=disable").is_encrypted());
        for local in ["localhost", "127.0.0.1", "%2Frun%2Fpostgresql"] {
            assert!(!parse(&format!("postgres://u@{local}/d")).is_encrypted(), "{local}");
            assert!(parse(&format!("postgres://u@{local}/d?sslmode=verify-full")).is_encrypted());
        }
        assert!(parse("postgres://u@localhost,db.example.org/d").is_encrypted());
    }

    #[test]
    fn each_mistake_says_what_is_allowed_and_no_password() {
        let cases = [
            ("mysql://u:hunter2@h/d", "postgres://user@host/database"),
            ("u:hunter2@h/d", "postgres://user@host/database"),
            ("postgres://u:hunter2@h:x/d", "postgres://user@host/database"),
            ("postgres://u:hunter2@h/d?sslmode=prefer", "disable or require"),
            ("postgres://u:hunter2@h/d?colour=red", "postgres://user@host/database"),
            ("postgres://u:hunter2@localhost", "a database's name"),
            ("postgres://u@localhost/d?sslcert=a", "sslkey is missing"),
            ("postgres://u@localhost/d?password_file=/no/such", "password_file = \"/no/such\""),
            ("postgres://u@h/d?sslrootcert=/no/such", "sslrootcert = \"/no/such\""),
        ];
        for (url, expected) in cases {
            let error = url.parse::<PostgresConfig>().and_then(|config| config.check());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_password_file_loses_its_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let config = parse(&format!("postgres://u@h/d?password_file={}", file.path().display()));
        assert_eq!(config.complete().unwrap().get_password(), Some(&b"hunter2"[..]));
    }
}
