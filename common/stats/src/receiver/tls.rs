//! TLS for senders.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::server::Acceptor;
use service::tls::{self, Certificate};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

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
        Err(Error::Config {
            key,
            problem: problem.to_owned(),
        })
    }

    /// What lets senders in over TLS, if they are to come that way.
    pub(super) fn door(&self) -> Result<Option<Arc<Door>>, Error> {
        let (Some(certificate_file), Some(key_file)) = (&self.certificate_file, &self.key_file)
        else {
            return Ok(None);
        };
        let loaded = Certificate::load(certificate_file, key_file).map_err(wrong)?;
        let cores = std::thread::available_parallelism();
        let half = cores.map_or(1, |cores| cores.get().div_ceil(2));
        Ok(Some(Arc::new(Door {
            certificate: Arc::new(loaded),
            turns: Semaphore::new(half),
        })))
    }
}

/// Lets senders in over TLS, with the certificate that was loaded last.
#[derive(Debug)]
pub(super) struct Door {
    certificate: Arc<Certificate>,
    /// Handshakes that are computed at a time: half of the cores are left for those who are in, whatever comes to the door.
    turns: Semaphore,
}

impl Door {
    pub(super) fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(&self.certificate)
    }

    /// The handshake. Whoever waits for the other side keeps nobody waiting.
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let said = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let mut rest = pin!(said.into_stream(self.certificate.current()));
        // To sign, and to agree on a key, is what costs; all of it is done before the first wait.
        let first = {
            let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
            poll_fn(|cx| Poll::Ready(rest.as_mut().poll(cx))).await
        };
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => rest.await,
        }
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
