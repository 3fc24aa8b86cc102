//! TLS: current rustls with the ring provider, verification always on.

use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use thalweg_kernel::ConfigError;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::PostgresConfig;

/// How to shake hands.
pub(crate) fn connector(config: &PostgresConfig) -> Result<MakeRustlsConnect, ConfigError> {
    client_config(config).map(MakeRustlsConnect::new)
}

/// The client's side as configured: reads the files it names.
pub(crate) fn client_config(config: &PostgresConfig) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &config.ca {
        for authority in certificates("sslrootcert", file)? {
            roots.add(authority).map_err(|cause| refuse("sslrootcert", file, &cause))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let allowed = "the PEM file of the authority that signed the server's certificate: \
                           this system has no certificate store";
            return Err(ConfigError::new("sslrootcert", "", allowed));
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| ConfigError::new("url", config, format!("a usable TLS ({cause})")))?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("sslcert", cert)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|cause| refuse("sslkey", key, &cause))?;
    builder.with_client_auth_cert(chain, secret).map_err(|cause| refuse("sslcert", cert, &cause))
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
