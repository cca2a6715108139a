//! Finds a pool for a miner that waits: pool by pool, address by address.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsStream;

use crate::pools::{Place, Pool};
use crate::routes::Route;
use crate::stream::{Stream, prepare};

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// All attempts together.
    pub(crate) all: Duration,
    /// One, while there is something else to try.
    pub(crate) each: Duration,
    /// Of the connection, once it is there.
    pub(crate) idle: Duration,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}: name not found: {1}")]
    Name(String, io::Error),
    #[error("{0}: no connection in time")]
    Timeout(String),
    #[error("{0}: {1}")]
    Connect(String, io::Error),
    #[error("{0}: TLS: {1}")]
    Tls(String, io::Error),
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::Name(..) => "name-not-found",
            Self::Timeout(_) => "connect-timeout",
            Self::Connect(_, error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connect-refused"
            }
            Self::Connect(..) => "connect-failed",
            Self::Tls(..) => "tls",
        }
    }
}

/// A connection to one of the route's pools, tried in their order; `None` if none could be had in time.
pub(crate) async fn dial(route: &Route, patience: Patience) -> Option<(Stream, Place)> {
    let start = Instant::now();
    let end = start + patience.all;
    let pools = route.candidates(start);
    let mut left = pools.len();
    for pool in pools {
        left -= 1;
        let now = Instant::now();
        if now >= end {
            break;
        }
        let place = pool.try_now(now);
        match attempt(&pool, patience, end, left > 0).await {
            Ok(stream) => {
                pool.connected(now.elapsed());
                return Some((stream, place));
            }
            Err(failure) => {
                let text = failure.to_string();
                if pool.failed(Instant::now(), failure.reason(), text.clone()) {
                    tracing::warn!(pool = pool.name(), "pool cannot be had: {text}");
                } else {
                    tracing::debug!(pool = pool.name(), "pool cannot be had: {text}");
                }
            }
        }
    }
    None
}

/// One pool, at all its addresses.
async fn attempt(
    pool: &Arc<Pool>,
    patience: Patience,
    end: Instant,
    is_more: bool,
) -> Result<Stream, Failure> {
    let name = || pool.address().to_owned();
    let until = |is_more: bool| {
        let each = Instant::now() + patience.each;
        if is_more { each.min(end) } else { end }
    };
    let addresses = timeout_at(until(is_more), pool.at.addresses())
        .await
        .map_err(|_| Failure::Timeout(name()))?
        .map_err(|error| Failure::Name(name(), error))?;
    let mut last = Failure::Timeout(name());
    for (at, address) in addresses.iter().enumerate() {
        let is_more = is_more || at + 1 < addresses.len();
        let deadline = until(is_more);
        last = match timeout_at(deadline, TcpStream::connect(address)).await {
            Err(_) => Failure::Timeout(name()),
            Ok(Err(error)) => Failure::Connect(name(), error),
            Ok(Ok(stream)) => {
                prepare(&stream, patience.idle);
                match timeout_at(deadline, secure(pool, stream)).await {
                    Err(_) => Failure::Timeout(name()),
                    Ok(Err(error)) => Failure::Tls(name(), error),
                    Ok(Ok(stream)) => return Ok(stream),
                }
            }
        };
    }
    Err(last)
}

async fn secure(pool: &Pool, stream: TcpStream) -> io::Result<Stream> {
    match &pool.tls {
        None => Ok(Stream::Plain(stream)),
        Some((tls, name)) => {
            let stream = tls.connect(name.clone(), stream).await?;
            Ok(Stream::Tls(Box::new(TlsStream::from(stream))))
        }
    }
}
