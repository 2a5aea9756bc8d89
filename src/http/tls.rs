//! TLS: certificates and key, which can be reloaded while the service runs.

use crate::types::strip_bom_bytes;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The certificates of the service with their key.
#[derive(Debug)]
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Certificates {
    /// Reads PEM files: the certificate chain, the service's own first, and its key. An error names the file.
    ///
    /// # Errors
    /// A message that names the file which cannot be read or is invalid.
    pub fn read(cert: &Path, key: &Path) -> Result<Arc<Self>, String> {
        let current = ArcSwap::from_pointee(load_certified_key(cert, key)?);
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), current }))
    }

    /// Reads the files again. If they are invalid, the active certificates stay.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(load_certified_key(&self.cert, &self.key)?));
        Ok(())
    }

    /// Returns the configuration of the server: TLS 1.2 and 1.3 with the cipher suites of rustls.
    ///
    /// # Errors
    /// The crypto library has no cipher suites for these versions.
    pub fn server_config(self: Arc<Self>) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Reads a PEM file without its byte-order mark, which would hide the first block.
fn read_pem(file: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(strip_bom_bytes(pem))
}

fn load_certified_key(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let error_at = |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read_pem(cert)?).collect();
    let chain = chain.map_err(|error| error_at(cert, &error))?;
    if chain.is_empty() {
        return Err(error_at(cert, &"there is no certificate in it"));
    }
    let private_key =
        PrivateKeyDer::from_pem_slice(&read_pem(key)?).map_err(|error| error_at(key, &error))?;
    let certified = CertifiedKey::from_der(chain, private_key, &aws_lc_rs::default_provider());
    certified.map_err(|error| error_at(key, &error))
}
