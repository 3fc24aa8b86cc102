//! The client's side of TLS, for all connectors: current rustls with the ring provider. Verification is always on,
//! and mistakes are told by the name that the connector gives to the file.

use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use thalweg_kernel::ConfigError;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A file, and what the connector's configuration calls it.
pub type Named<'a> = (&'static str, Option<&'a Path>);

/// Reads the files that a configuration names, all of them PEM. One holds the authorities that may have signed the
/// certificate of `peer` ("broker"); without it the system's authorities count. For a peer that asks for them
/// there are our own certificate, with its chain, and its key. One of those two alone is as none.
///
/// # Errors
/// A file that cannot be read, or does not hold what it is to; a system without authorities.
pub fn client_config(
    peer: &str,
    ca: Named<'_>,
    cert: Named<'_>,
    key: Named<'_>,
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| ConfigError::new("url", peer, format!("a usable TLS ({cause})")))?
        .with_root_certificates(roots(peer, ca)?);
    let ((cert_name, Some(cert)), (key_name, Some(key))) = (cert, key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(cert_name, cert)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|cause| refuse(key_name, key, &cause))?;
    builder.with_client_auth_cert(chain, secret).map_err(|cause| refuse(cert_name, cert, &cause))
}

fn roots(peer: &str, (name, file): Named<'_>) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let cause = found.errors.first().map(|cause| format!(" ({cause})")).unwrap_or_default();
            let allowed = format!(
                "the PEM file of the authority that signed the {peer}'s certificate: this system has no \
                 certificate store{cause}"
            );
            return Err(ConfigError::missing(name, allowed));
        }
        return Ok(roots);
    };
    for authority in certificates(name, file)? {
        roots.add(authority).map_err(|cause| refuse(name, file, &cause))?;
    }
    Ok(roots)
}

fn certificates(name: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let open = File::open(file).map_err(|cause| refuse(name, file, &cause))?;
    let found: Vec<_> = CertificateDer::pem_reader_iter(BufReader::new(open))
        .collect::<Result<_, _>>()
        .map_err(|cause| refuse(name, file, &cause))?;
    if found.is_empty() {
        return Err(refuse(name, file, &"it holds no certificate"));
    }
    Ok(found)
}

fn refuse(name: &str, file: &Path, cause: &dyn Display) -> ConfigError {
    ConfigError::new(name, file.display(), format!("a PEM file ({cause})"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::path::PathBuf;

    use rcgen::generate_simple_self_signed;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, contents: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::write(&path, contents).unwrap();
            path
        };
        let (one, other) = (
            generate_simple_self_signed(["a".to_owned()]).unwrap(),
            generate_simple_self_signed(["b".to_owned()]).unwrap(),
        );
        let cert = file("cert.pem", &one.cert.pem());
        let key = file("key.pem", &one.signing_key.serialize_pem());
        let wrong_key = file("other.pem", &other.signing_key.serialize_pem());
        let (empty, missing) = (file("empty.pem", ""), dir.path().join("missing.pem"));
        let open = |ca: &Path, own: Option<(&Path, &Path)>| {
            let (cert, key) = own.unzip();
            client_config("broker", ("ca", Some(ca)), ("cert", cert), ("key", key))
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(open(&cert, None), Ok(()));
        assert_eq!(open(&cert, Some((&cert, &key))), Ok(()));
        for (result, name, why) in [
            (open(&empty, None), "ca = ", "it holds no certificate"),
            (open(&missing, None), "ca = ", "No such file"),
            (open(&cert, Some((&empty, &key))), "cert = ", "it holds no certificate"),
            (open(&cert, Some((&cert, &missing))), "key = ", "a PEM file"),
            (open(&cert, Some((&cert, &wrong_key))), "cert = ", "a PEM file"),
        ] {
            let error = result.unwrap_err();
            assert!(error.starts_with(name) && error.contains(why), "{error}");
        }
    }
}
