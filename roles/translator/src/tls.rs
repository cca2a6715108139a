//! The port for TLS: what it is configured with, its certificate, and how that is replaced while miners are connected.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use service::http::Address;
use service::tls::{self, Certificate};
use sv2_connection::Gate;
use tokio::net::TcpStream;
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
        Certificate::check(&self.certificate_file, &self.key_file).map_err(wrong)
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
    certificate: Arc<Certificate>,
    gate: Gate,
}

impl Door {
    /// Loads the certificate and its key.
    pub(crate) fn open(config: &TlsConfig) -> Result<Arc<Self>, Error> {
        let loaded = Certificate::load(&config.certificate_file, &config.key_file);
        Ok(Arc::new(Self {
            certificate: Arc::new(loaded.map_err(wrong)?),
            gate: Gate::new(config.handshakes_at_a_time()),
        }))
    }

    /// Handshakes that had to wait for others, since the start.
    pub(crate) fn waited(&self) -> u64 {
        self.gate.waited()
    }

    /// The handshake with a miner that has just connected, and what the miner said with the end of it.
    pub(crate) async fn handshake(&self, stream: &TcpStream) -> Result<(Box<Tls>, Vec<u8>), End> {
        Tls::accept(stream, self.certificate.current(), &self.gate).await
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
        let Some(door) = &self.0 else { return Ok(()) };
        door.certificate.reload().map_err(wrong)
    }

    /// Does so at every SIGHUP, until `shutdown`.
    pub(crate) fn run(
        self,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
        let certificate = self.0.map(|door| Arc::clone(&door.certificate));
        tls::reload_on_hangup(certificate, shutdown).map_err(Error::Signal)
    }
}

fn wrong(error: tls::Error) -> Error {
    let key = match error.which {
        tls::File::Certificate => CERTIFICATE,
        tls::File::Key => KEY,
    };
    Error::Config {
        key,
        problem: error.to_string(),
    }
}
