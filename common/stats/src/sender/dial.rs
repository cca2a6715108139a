//! The way to the service: TCP, or TLS over it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::wrong;
use super::conversation::Fault;
use super::{Config, Error};

/// How long a connection may take to be made, with its TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes connections to one service.
#[derive(Clone)]
pub(super) struct Dialler {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection, whichever way it goes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dialler {
    /// None if there is to be no service.
    pub(super) fn new(config: &Config) -> Result<Option<Self>, Error> {
        let Some((host, port)) = config.host_and_port()? else {
            return Ok(None);
        };
        let tls = if config.tls {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| wrong("stats.address", format!("{host:?} is no name for TLS")))?;
            Some((connector(config.ca_file.as_deref())?, name))
        } else {
            None
        };
        Ok(Some(Self { host, port, tls }))
    }

    pub(super) async fn dial(self) -> Result<Box<dyn Stream>, Fault> {
        timeout(PATIENCE, self.connect())
            .await
            .map_err(|_| Fault::ConnectTimeout)?
    }

    async fn connect(self) -> Result<Box<dyn Stream>, Fault> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        stream.set_nodelay(true)?;
        match self.tls {
            None => Ok(Box::new(stream)),
            Some((tls, name)) => Ok(Box::new(tls.connect(name, stream).await?)),
        }
    }
}

impl fmt::Display for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The service has to prove that it has the configured name.
fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    let certificates = match ca_file {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong("stats.ca_file", format!("{}: {error}", path.display())))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        let problem = "there is no certificate that the service's could be checked with";
        return Err(wrong("stats.ca_file", problem.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("stats.tls", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
