//! TLS to miners and to pools.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use service::http::Address;
use service::tls::{self, Certificate};
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::config::{Config, Pool, Tls};

/// Reads all files that are named, and keeps nothing.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    if let Address::At(_) = config.tls.listen_address {
        for (key, file) in [
            ("tls.certificate_file", &config.tls.certificate_file),
            ("tls.key_file", &config.tls.key_file),
        ] {
            if file.as_os_str().is_empty() {
                let problem = "names no file, and TLS needs one".to_owned();
                return Err(Error::Config { key, problem });
            }
        }
        Certificate::check(&config.tls.certificate_file, &config.tls.key_file).map_err(wrong)?;
    }
    config
        .pools
        .iter()
        .try_for_each(|pool| to_pool(pool).map(drop))
}

/// The certificate that miners are shown, if they can come over TLS.
pub(crate) fn to_miners(config: &Tls) -> Result<Option<Arc<Certificate>>, Error> {
    if config.listen_address == Address::Off {
        return Ok(None);
    }
    let certificate = Certificate::load(&config.certificate_file, &config.key_file);
    certificate.map(Arc::new).map(Some).map_err(wrong)
}

/// How a pool proves that it has the configured name, if it is spoken to over TLS.
pub(crate) fn to_pool(pool: &Pool) -> Result<Option<(TlsConnector, ServerName<'static>)>, Error> {
    let Some((host, _)) = pool.host_and_port().filter(|_| pool.tls) else {
        return Ok(None);
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| refused("pools.address", format!("{host:?} is no name for TLS")))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(pool.ca_file.as_deref())?);
    if roots.is_empty() {
        let problem = "there is no certificate that the pool's could be checked with";
        return Err(refused("pools.ca_file", problem.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("pools.tls", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some((TlsConnector::from(Arc::new(config)), name)))
}

fn authorities(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let Some(file) = file else {
        return Ok(rustls_native_certs::load_native_certs().certs);
    };
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refused("pools.ca_file", format!("{}: {error}", file.display())))
}

fn wrong(error: tls::Error) -> Error {
    let key = match error.which {
        tls::File::Certificate => "tls.certificate_file",
        tls::File::Key => "tls.key_file",
    };
    refused(key, error.to_string())
}

fn refused(key: &'static str, problem: String) -> Error {
    Error::Config { key, problem }
}
