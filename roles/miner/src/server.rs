//! The server: what its address says, and how a connection to it is made, plain or over TLS.

use std::{io, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{Config, Error};

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
    tls: bool,
}

impl Address {
    /// Reads `host:port`, alone or behind `stratum+tcp://`, `stratum+ssl://` or `stratum+tls://`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("stratum+tcp", text));
        let tls = match scheme {
            "stratum+tcp" => false,
            "stratum+ssl" | "stratum+tls" => true,
            _ => return None,
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = port.parse().ok().filter(|&port| port != 0)?;
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

/// How to reach the server.
pub(crate) struct Server {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Server {
    /// Loads what is needed to know the server by.
    pub(crate) fn new(address: Address, config: &Config) -> Result<Self, Error> {
        let tls = address
            .tls
            .then(|| {
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|error| Error::config("address", error))?;
                Ok((TlsConnector::from(Arc::new(tls_config(config)?)), name))
            })
            .transpose()?;
        Ok(Self { address, tls })
    }

    /// Connects within the time for it, with small messages not held back.
    pub(crate) async fn dial(&self, within: Duration) -> io::Result<Halves> {
        timeout(within, self.connect())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn connect(&self) -> io::Result<Halves> {
        let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(reader), Box::new(writer))
            }
        })
    }
}

/// Both directions of a connection.
pub(crate) type Halves = (
    Box<dyn AsyncRead + Send + Unpin>,
    Box<dyn AsyncWrite + Send + Unpin>,
);

fn tls_config(config: &Config) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("address", error))?;
    Ok(if config.tls_insecure {
        tracing::warn!("tls_insecure: whoever answers is taken for the server");
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots(config.tls_ca_file.as_deref())?)
            .with_no_client_auth()
    })
}

/// Whom to trust: the authorities in the file, or those that the system trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let wrong = |problem: String| {
                Error::config("tls_ca_file", format!("{}: {problem}", file.display()))
            };
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                roots
                    .add(certificate)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("holds no certificate in PEM form".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

/// Trusts anybody, as most mining firmware does. What is said stays hidden from those who only listen.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_its_scheme() {
        let read = |text: &str| {
            let address = Address::parse(text)?;
            Some((address.host, address.port, address.tls))
        };
        let found = |host: &str, tls| Some((host.to_owned(), 3333, tls));
        assert_eq!(read("pool.example:3333"), found("pool.example", false));
        assert_eq!(
            read("stratum+tcp://10.0.0.1:3333"),
            found("10.0.0.1", false)
        );
        assert_eq!(read("stratum+ssl://a.b:3333/"), found("a.b", true));
        assert_eq!(read("stratum+tls://[::1]:3333"), found("::1", true));
        assert_eq!(read("[::1]:3333"), found("::1", false));
        for wrong in [
            "",
            "pool.example",
            ":3333",
            "pool.example:0",
            "pool.example:99999",
            "http://pool.example:3333",
            "stratum+ssl://",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
