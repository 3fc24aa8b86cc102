//! TLS: current rustls with the ring provider, verification always on.
//!
//! rumqttc 0.25.1 can speak TLS itself, but that feature depends on rustls-webpki 0.102, which has
//! advisories, and gives no way to hand in a connected stream. It does know Unix sockets. So its
//! TLS feature stays off; we dial and shake hands ourselves with tokio-rustls, and a task on the
//! same I/O thread copies between the TLS stream and a Unix socket that rumqttc connects to. That
//! socket is in the abstract namespace (no file), its name is random, and only a peer with our own
//! process id is let in. Besides keeping the old library out, this gives us errors that say which
//! certificate is wrong. The price is one more copy of each byte.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_kernel::ConfigError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
};

use crate::config::MqttConfig;
use crate::link::Trouble;
use crate::random;

/// How long a connection and its handshake may take.
const DIAL_MS_MAX: u64 = 10_000;
/// How long to look for the reason of a failed write.
const ALERT_MS_MAX: u64 = 50;
/// How long the last bytes may take when the connection is closed.
const CLOSE_MS_MAX: u64 = 1_000;

/// The client's side of TLS as configured: reads the files it names.
pub(crate) fn client_config(config: &MqttConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    server_name(config)?;
    let roots = match &config.ca {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates("ca", file)? {
                roots.add(authority).map_err(|cause| refuse("ca", file, &cause))?;
            }
            roots
        }
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| ConfigError::new("url", config, format!("a usable TLS ({cause})")))?
        .with_root_certificates(roots);
    let tls = match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("cert", cert)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|cause| refuse("key", key, &cause))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|cause| refuse("cert", cert, &cause))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(tls))
}

fn system_roots() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map(|cause| format!(" ({cause})")).unwrap_or_default();
        let allowed = format!(
            "the PEM file of the authority that signed the broker's certificate: this system \
             has no certificate store{cause}"
        );
        return Err(ConfigError::new("ca", "", allowed));
    }
    Ok(roots)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let open = File::open(file).map_err(|cause| refuse(key, file, &cause))?;
    let found: Vec<_> = CertificateDer::pem_reader_iter(BufReader::new(open))
        .collect::<Result<_, _>>()
        .map_err(|cause| refuse(key, file, &cause))?;
    if found.is_empty() {
        return Err(refuse(key, file, &"it holds no certificate"));
    }
    Ok(found)
}

fn refuse(key: &str, file: &Path, cause: &dyn Display) -> ConfigError {
    ConfigError::new(key, file.display(), format!("a PEM file ({cause})"))
}

fn server_name(config: &MqttConfig) -> Result<ServerName<'static>, ConfigError> {
    let name = config.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(name)
        .map_err(|_| ConfigError::new("host", &config.host, "a host name or IP address"))
}

/// The way from rumqttc's Unix socket to the broker.
pub(crate) struct Bridge {
    connector: TlsConnector,
    server: ServerName<'static>,
    address: String,
    listener: Arc<UnixListener>,
    /// The path for rumqttc: abstract, hence the leading NUL.
    pub(crate) path: String,
    copy: Option<JoinHandle<io::Result<()>>>,
}

impl Bridge {
    /// Must be called within the I/O thread's runtime.
    pub(crate) fn new(config: &MqttConfig, tls: Arc<ClientConfig>) -> Result<Self, String> {
        let path = format!("\0thalweg-mqtt-{:016x}{:016x}", random(), random());
        Ok(Self {
            connector: TlsConnector::from(tls),
            server: server_name(config).map_err(|cause| cause.to_string())?,
            address: format!("{}:{}", config.host, config.port),
            listener: Arc::new(
                UnixListener::bind(&path)
                    .map_err(|cause| format!("no Unix socket for TLS: {cause}"))?,
            ),
            path,
            copy: None,
        })
    }

    /// Connects to the broker and gets ready for rumqttc to connect to us.
    pub(crate) async fn open(&mut self) -> Result<(), Trouble> {
        self.abort();
        let limit = Duration::from_millis(DIAL_MS_MAX);
        let stream = match tokio::time::timeout(limit, self.dial()).await {
            Ok(dialed) => dialed.map_err(|cause| explain(&cause))?,
            Err(_) => return Err(Trouble::weather("timeout", "no TLS connection within 10 s")),
        };
        self.copy = Some(tokio::spawn(copy(Arc::clone(&self.listener), stream)));
        Ok(())
    }

    async fn dial(&self) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        self.connector.connect(self.server.clone(), tcp).await
    }

    /// Why the copying ended, where TLS was the reason.
    pub(crate) async fn trouble(&mut self) -> Option<Trouble> {
        let copy = self.copy.as_mut()?;
        // rumqttc sees the end of its socket a moment before the copying task has returned.
        let ended = tokio::time::timeout(Duration::from_millis(100), copy).await.ok()?;
        self.copy = None;
        let cause = ended.ok()?.err()?;
        tls_error(&cause).is_some().then(|| explain(&cause))
    }

    /// Waits until what rumqttc wrote last has been sent.
    pub(crate) async fn drain(&mut self) {
        if let Some(copy) = self.copy.take() {
            let _ended = tokio::time::timeout(Duration::from_millis(CLOSE_MS_MAX), copy).await;
        }
    }

    fn abort(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.abort();
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.abort();
    }
}

async fn copy(listener: Arc<UnixListener>, mut broker: TlsStream<TcpStream>) -> io::Result<()> {
    let mut client = accept_self(&listener).await?;
    let copied = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
    let _closed = broker.shutdown().await;
    match copied {
        // With TLS 1.3 a broker refuses our certificate after the handshake, so its alert may wait
        // unread while our write to the closed connection fails.
        Err(cause) if tls_error(&cause).is_none() => {
            let limit = Duration::from_millis(ALERT_MS_MAX);
            match tokio::time::timeout(limit, broker.read(&mut [0; 64])).await {
                Ok(Err(alert)) => Err(alert),
                _ => Err(cause),
            }
        }
        copied => copied.map(|_| ()),
    }
}

/// Accepts the connection of our own process and no other's.
async fn accept_self(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        if stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok())
            == Some(std::process::id())
        {
            return Ok(stream);
        }
    }
}

fn tls_error(cause: &io::Error) -> Option<&Error> {
    cause.get_ref()?.downcast_ref::<Error>()
}

/// What a person can do about it, and whether trying again can help.
fn explain(cause: &io::Error) -> Trouble {
    use AlertDescription as Alert;
    use CertificateError as Cert;

    let Some(tls) = tls_error(cause) else {
        return Trouble::weather("connect", cause);
    };
    match tls {
        // A gateway without a clock battery boots in 1970: the time may mend this.
        Error::InvalidCertificate(
            Cert::Expired | Cert::ExpiredContext { .. } | Cert::NotValidYet | Cert::NotValidYetContext { .. },
        ) => Trouble::weather(
            "certificate time",
            format!("{tls}; renew the broker's certificate, or set this machine's clock"),
        ),
        // A bad signature is what another authority with the same name looks like.
        Error::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature) => Trouble::Fatal(format!(
            "the broker's certificate is not signed by an authority that we trust ({tls}): name \
             the right one with ca="
        )),
        Error::InvalidCertificate(Cert::NotValidForName | Cert::NotValidForNameContext { .. }) => {
            Trouble::Fatal(format!(
                "the broker's certificate is for another host ({tls}): use the name it was \
                 issued for"
            ))
        }
        Error::InvalidCertificate(_) => {
            Trouble::Fatal(format!("the broker's certificate is not acceptable: {tls}"))
        }
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            // Signed by another authority with the name of the broker's.
            | Alert::DecryptError
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::AccessDenied,
        ) => Trouble::Fatal(format!(
            "the broker refused our certificate ({tls}): give one that it accepts with cert= and \
             key="
        )),
        _ => Trouble::weather("TLS", tls),
    }
}
