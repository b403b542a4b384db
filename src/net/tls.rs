//! The certificate of the API port, which can be replaced while the server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The settings that errors name.
const CERT: &str = "server.tls.cert";
const KEY: &str = "server.tls.key";

/// A certificate and its key, from two files.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why the files cannot be used. The display names setting and file.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {reason} (file {file:?})")]
pub struct Error {
    setting: &'static str,
    file: PathBuf,
    reason: String,
}

impl Tls {
    /// Reads the certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// When one cannot be read, holds nothing of the kind, or they do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Tls, Error> {
        Ok(Tls {
            current: RwLock::new(read(cert, key)?),
            cert: cert.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the files again, for the connections that come from now on.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was in use stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        let config = read(&self.cert, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(current.clone())
    }
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let error = |setting, file: &Path, reason: String| Error {
        setting,
        file: file.to_owned(),
        reason,
    };
    let cert_error = |reason| error(CERT, cert, reason);
    let key_error = |reason| error(KEY, key, reason);

    let text = std::fs::read(cert).map_err(|e| cert_error(format!("cannot be read: {e}")))?;
    let chain: Result<Vec<CertificateDer<'static>>, pem::Error> =
        CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|e| cert_error(format!("is not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(cert_error("holds no certificate in PEM".to_owned()));
    }
    let text = std::fs::read(key).map_err(|e| key_error(format!("cannot be read: {e}")))?;
    let private_key = PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            key_error("holds no private key in PEM that is not encrypted".to_owned())
        }
        e => key_error(format!("is not PEM: {e}")),
    })?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| cert_error(e.to_string()))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                key_error(format!("does not belong to the certificate in {cert:?}"))
            }
            rustls::Error::InvalidCertificate(e) => {
                cert_error(format!("holds a certificate that is not valid: {e}"))
            }
            e => key_error(format!("cannot be used: {e}")),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
