//! A connection over TLS, and errors that say which certificate is wrong.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thalweg_io::{Reactor, Tcp};
use thalweg_kernel::ConfigError;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

use crate::config::{MqttConfig, server_name};
use crate::link::Trouble;

/// How long a connection and its handshake may take.
const DIAL_MS_MAX: u64 = 10_000;

/// Connects to a broker over TLS.
pub(crate) struct Dialer {
    connector: TlsConnector,
}

/// Why there is no connection.
pub(crate) struct Failed {
    pub(crate) trouble: Trouble,
    /// The other side may speak no TLS.
    pub(crate) is_no_tls: bool,
}

impl Dialer {
    /// As configured: reads the files it names.
    pub(crate) fn new(config: &MqttConfig) -> Result<Self, ConfigError> {
        let (tls, _) = config.tls_client()?;
        Ok(Self { connector: TlsConnector::from(Arc::new(tls)) })
    }

    /// Connects and shakes hands.
    pub(crate) async fn dial(
        &self,
        reactor: &Reactor,
        host: &str,
        port: u16,
    ) -> Result<TlsStream<Tcp>, Failed> {
        let plainly = |trouble| Failed { trouble, is_no_tls: false };
        let Some(server) = server_name(host) else {
            let what = format!("{host} is no name that a certificate can have");
            return Err(plainly(Trouble::weather("TLS", what)));
        };
        let limit = Duration::from_millis(DIAL_MS_MAX);
        let dial = async {
            let tcp = Tcp::connect(reactor, host, port)
                .await
                .map_err(|cause| plainly(explain(&cause, "connect")))?;
            self.connector.connect(server, tcp).await.map_err(|cause| Failed {
                is_no_tls: is_no_tls(&cause),
                trouble: explain(&cause, "connect"),
            })
        };
        match reactor.timeout(limit, dial).await {
            Ok(dialed) => dialed,
            Err(_) => Err(plainly(Trouble::weather("timeout", "no TLS connection within 10 s"))),
        }
    }
}

/// Whether this is what one meets who shakes hands with somebody that speaks no TLS.
fn is_no_tls(cause: &io::Error) -> bool {
    let ends = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
    ends.contains(&cause.kind()) || matches!(tls_error(cause), Some(Error::InvalidMessage(_)))
}

fn tls_error(cause: &io::Error) -> Option<&Error> {
    cause.get_ref()?.downcast_ref::<Error>()
}

/// What a person can do about it, and whether trying again can help. What is not TLS's is weather of this class.
pub(crate) fn explain(cause: &io::Error, class: &'static str) -> Trouble {
    use AlertDescription as Alert;
    use CertificateError as Cert;

    let Some(tls) = tls_error(cause) else {
        return Trouble::weather(class, cause);
    };
    match tls {
        // A gateway without a clock battery boots in 1970: the time may mend this.
        Error::InvalidCertificate(
            Cert::Expired | Cert::ExpiredContext { .. } | Cert::NotValidYet | Cert::NotValidYetContext { .. },
        ) => Trouble::weather(
            "certificate time",
            format!("{tls}; renew the broker's certificate, or set this machine's clock"),
        ),
        // A bad signature is what another authority of that name looks like.
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
