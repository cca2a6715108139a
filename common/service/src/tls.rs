//! A server's certificate, and how it is replaced while peers are connected.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reload;

/// What is wrong with the files; the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct Error {
    /// Which of them.
    pub which: File,
    /// Where it is.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// The certificate with those that lead to an authority.
    Certificate,
    /// The certificate's private key.
    Key,
}

/// A certificate with its key, as it was loaded last.
#[derive(Debug)]
pub struct Certificate {
    certificate_file: PathBuf,
    key_file: PathBuf,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Certificate {
    /// Loads it from two files in PEM form.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, Error> {
        let current = watch::Sender::new(load(certificate_file, key_file)?);
        warn_if_exposed(key_file);
        Ok(Self {
            certificate_file: certificate_file.to_owned(),
            key_file: key_file.to_owned(),
            current,
        })
    }

    /// Whether the files are a certificate and its key.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn check(certificate_file: &Path, key_file: &Path) -> Result<(), Error> {
        load(certificate_file, key_file).map(drop)
    }

    /// For a new connection.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }

    /// Loads the files again. Connections that are there go on as they are.
    ///
    /// # Errors
    /// [`Error`], logged; what was loaded before stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        let file = self.certificate_file.display();
        match load(&self.certificate_file, &self.key_file) {
            Ok(loaded) => {
                self.current.send_replace(loaded);
                warn_if_exposed(&self.key_file);
                tracing::info!(%file, "TLS certificate loaded");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "TLS certificate not loaded; the one before stays");
                Err(error)
            }
        }
    }
}

/// Has the certificate loaded again at every SIGHUP, until `shutdown`. Without a certificate, SIGHUP is heard and does nothing.
///
/// # Errors
/// The system's error if a handler cannot be installed.
pub fn reload_on_hangup(
    certificate: Option<Arc<Certificate>>,
    shutdown: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut hangup = reload::on_hangup()?;
    Ok(async move {
        loop {
            tokio::select! {
                () = hangup.next() => {}
                () = shutdown.cancelled() => return,
            }
            if let Some(certificate) = certificate.clone() {
                // A disk may be slow. What went wrong is in the log.
                let _ = tokio::task::spawn_blocking(move || certificate.reload()).await;
            }
        }
    })
}

fn load(certificate_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, Error> {
    let certificates = certificates(certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| wrong(File::Key, key_file, unreadable(&error, "private key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(File::Certificate, certificate_file, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "is not the key of the certificate in {}",
                    certificate_file.display()
                ),
                error => error.to_string(),
            };
            wrong(File::Key, key_file, problem)
        })?;
    // A miner connects for days. What would be kept for it to come back cheaper is a lock that all handshakes share.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(File::Certificate, file, unreadable(&error, "certificate")))?;
    if certificates.is_empty() {
        let problem = unreadable(&pem::Error::NoItemsFound, "certificate");
        return Err(wrong(File::Certificate, file, problem));
    }
    Ok(certificates)
}

fn unreadable(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("holds no {what} in PEM form"),
        error => format!("is no {what} in PEM form: {error}"),
    }
}

fn wrong(which: File, file: &Path, problem: String) -> Error {
    Error {
        which,
        file: file.to_owned(),
        problem,
    }
}

/// Whoever reads the key can be this server for its peers.
fn warn_if_exposed(file: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let exposed = fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o007 != 0);
    if exposed {
        tracing::warn!(file = %file.display(), "every user of this machine can read or change the TLS key; use chmod 600");
    }
}
