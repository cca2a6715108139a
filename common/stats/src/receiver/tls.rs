//! TLS for senders.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::{Error, TlsConfig};

const CERTIFICATE: &str = "tls.certificate_file";
const KEY: &str = "tls.key_file";

impl TlsConfig {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let (key, problem) = match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => (KEY, "names no file, and the certificate needs its key"),
            (None, Some(_)) => (
                CERTIFICATE,
                "names no file, and the key needs its certificate",
            ),
            _ => return Ok(()),
        };
        Err(wrong(key, problem.to_owned()))
    }

    /// What lets senders in over TLS, if they are to come that way.
    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, Error> {
        let (Some(certificate_file), Some(key_file)) = (&self.certificate_file, &self.key_file)
        else {
            return Ok(None);
        };
        let certificates = CertificateDer::pem_file_iter(certificate_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(CERTIFICATE, certificate_file, &error))?;
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|error| unreadable(KEY, key_file, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(certificates, key)
            })
            .map_err(|error| unreadable(CERTIFICATE, certificate_file, &error))?;
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

fn unreadable(key: &'static str, file: &Path, error: &dyn std::fmt::Display) -> Error {
    wrong(key, format!("{}: {error}", file.display()))
}

fn wrong(key: &'static str, problem: String) -> Error {
    Error::Config { key, problem }
}
