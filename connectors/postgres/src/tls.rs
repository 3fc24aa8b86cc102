//! TLS as libpq names its files.

use thalweg_kernel::ConfigError;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::ClientConfig;

use crate::config::PostgresConfig;

/// How to shake hands.
pub(crate) fn connector(config: &PostgresConfig) -> Result<MakeRustlsConnect, ConfigError> {
    client_config(config).map(MakeRustlsConnect::new)
}

/// The client's side as configured: reads the files it names.
pub(crate) fn client_config(config: &PostgresConfig) -> Result<ClientConfig, ConfigError> {
    thalweg_tls::client_config(
        "server",
        ("sslrootcert", config.ca.as_deref()),
        ("sslcert", config.cert.as_deref()),
        ("sslkey", config.key.as_deref()),
    )
}
