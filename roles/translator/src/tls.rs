//! The port for TLS: what it is configured with, its certificate, and how that is replaced while miners are connected.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use serde::{Deserialize, Serialize};
use service::http::Address;
use service::reload;
use sv2_connection::Gate;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::miner::{End, Tls};

/// SV1 over TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Where SV1 miners connect over TLS; "off" for nowhere.
    pub listen_address: Address,
    /// PEM: the certificate and those that lead to an authority.
    pub certificate_file: PathBuf,
    /// PEM: the certificate's private key.
    pub key_file: PathBuf,
    /// Handshakes that are computed at a time; 0 is half as many as there are processor cores.
    pub handshakes_at_a_time: usize,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            listen_address: Address::Off,
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            handshakes_at_a_time: 0,
        }
    }
}

impl TlsConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.listen_address == Address::Off {
            return Ok(());
        }
        for (key, file) in [(CERTIFICATE, &self.certificate_file), (KEY, &self.key_file)] {
            if file.as_os_str().is_empty() {
                let problem = "names no file, and TLS needs one".to_owned();
                return Err(Error::Config { key, problem });
            }
        }
        load(self).map(drop)
    }

    /// Half of the cores are left for shares, whatever comes to the door.
    fn handshakes_at_a_time(&self) -> usize {
        if self.handshakes_at_a_time > 0 {
            return self.handshakes_at_a_time;
        }
        std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
    }
}

const CERTIFICATE: &str = "tls.certificate_file";
const KEY: &str = "tls.key_file";

/// Lets miners in over TLS, with the certificate that was loaded last.
#[derive(Debug)]
pub(crate) struct Door {
    config: TlsConfig,
    current: watch::Sender<Arc<ServerConfig>>,
    gate: Gate,
}

impl Door {
    /// Loads the certificate and its key.
    pub(crate) fn open(config: &TlsConfig) -> Result<Arc<Self>, Error> {
        let current = watch::Sender::new(load(config)?);
        warn_if_exposed(&config.key_file);
        Ok(Arc::new(Self {
            current,
            gate: Gate::new(config.handshakes_at_a_time()),
            config: config.clone(),
        }))
    }

    /// Loads the files again. Where they are no certificate with its key, the one before stays.
    fn reload(&self) -> Result<(), Error> {
        let file = self.config.certificate_file.display();
        match load(&self.config) {
            Ok(loaded) => {
                self.current.send_replace(loaded);
                warn_if_exposed(&self.config.key_file);
                tracing::info!(%file, "TLS certificate loaded");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "TLS certificate not loaded; the one before stays");
                Err(error)
            }
        }
    }

    /// Handshakes that had to wait for others, since the start.
    pub(crate) fn waited(&self) -> u64 {
        self.gate.waited()
    }

    /// The handshake with a miner that has just connected, and what the miner said with the end of it.
    pub(crate) async fn handshake(&self, stream: &TcpStream) -> Result<(Box<Tls>, Vec<u8>), End> {
        let config = Arc::clone(&self.current.borrow());
        Tls::accept(stream, config, &self.gate).await
    }
}

/// Reads the files again that can change while a translator runs: the certificate and its key.
#[derive(Debug, Clone)]
pub struct Reloader(pub(crate) Option<Arc<Door>>);

impl Reloader {
    /// Does so at once. Connections that are there go on as they are.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file, logged; what was read before stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        self.0.as_ref().map_or(Ok(()), |door| door.reload())
    }

    /// Does so at every SIGHUP, until `shutdown`.
    pub(crate) fn run(
        self,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
        let mut hangup = reload::on_hangup().map_err(Error::Signal)?;
        Ok(async move {
            loop {
                tokio::select! {
                    () = hangup.next() => {}
                    () = shutdown.cancelled() => return,
                }
                let reloader = self.clone();
                // A disk may be slow. What went wrong is in the log.
                let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
            }
        })
    }
}

fn load(config: &TlsConfig) -> Result<Arc<ServerConfig>, Error> {
    let certificates = certificates(&config.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file)
        .map_err(|error| wrong(KEY, &config.key_file, unreadable(&error, "private key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(CERTIFICATE, &config.certificate_file, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "is not the key of the certificate in {}",
                    config.certificate_file.display()
                ),
                error => error.to_string(),
            };
            wrong(KEY, &config.key_file, problem)
        })?;
    // A miner connects for days. What would be kept for it to come back cheaper is a lock that all handshakes share.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(CERTIFICATE, file, unreadable(&error, "certificate")))?;
    if certificates.is_empty() {
        let problem = unreadable(&pem::Error::NoItemsFound, "certificate");
        return Err(wrong(CERTIFICATE, file, problem));
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

fn wrong(key: &'static str, file: &Path, problem: String) -> Error {
    Error::Config {
        key,
        problem: format!("{}: {problem}", file.display()),
    }
}

/// Whoever reads the key can be this server for its miners.
fn warn_if_exposed(file: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let exposed = fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o007 != 0);
    if exposed {
        tracing::warn!(file = %file.display(), "every user of this machine can read or change the TLS key; use chmod 600");
    }
}
