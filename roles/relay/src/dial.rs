//! Finds a pool for a miner that waits: pool by pool, address by address.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsStream;

use crate::pools::{Place, Pool};
use crate::routes::Route;
use crate::stream::{Stream, prepare};

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// All attempts together.
    pub(crate) all: Duration,
    /// One pool, while there is another one to try, with all its addresses; or one address while there is another.
    pub(crate) each: Duration,
    /// Of the connection, once it is there.
    pub(crate) idle: Duration,
}

/// Who lacks something here tries again after this.
const LACKING: Duration = Duration::from_millis(100);

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

    /// Whether it is for lack of something here, such as file descriptors, which is no pool's fault.
    fn is_own(&self, is_v4: bool) -> bool {
        let (Self::Name(_, error) | Self::Connect(_, error)) = self else {
            return false;
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => true,
            // No local port is left. Of IPv6 it may also say that there is no IPv6 here.
            Some(Errno::EADDRNOTAVAIL) => is_v4,
            _ => false,
        }
    }
}

/// What became of an attempt.
enum Attempt {
    Connected(Stream),
    Failed(Failure),
    /// Nothing can be said of the pool.
    Lacking(Failure),
}

/// A connection to one of the route's pools, tried in their order; `None` if none could be had in time.
pub(crate) async fn dial(route: &Route, patience: Patience) -> Option<(Stream, Place)> {
    let end = Instant::now() + patience.all;
    loop {
        let (connected, is_lacking) = dial_once(route, patience, end).await;
        if connected.is_some() || !is_lacking || Instant::now() + LACKING >= end {
            return connected;
        }
        sleep(LACKING).await;
    }
}

/// All pools once, and whether something was lacking here.
async fn dial_once(
    route: &Route,
    patience: Patience,
    end: Instant,
) -> (Option<(Stream, Place)>, bool) {
    let pools = route.candidates(Instant::now());
    let (mut left, mut is_lacking) = (pools.len(), false);
    for pool in pools {
        left -= 1;
        let now = Instant::now();
        if now >= end {
            break;
        }
        let until = if left > 0 {
            end.min(now + patience.each)
        } else {
            end
        };
        let place = pool.try_now(now, until - now);
        match attempt(&pool, patience, until).await {
            Attempt::Connected(stream) => {
                pool.connected(now.elapsed());
                return (Some((stream, place)), is_lacking);
            }
            Attempt::Lacking(failure) => {
                tracing::warn!(pool = pool.name(), "this relay lacks something: {failure}");
                is_lacking = true;
            }
            Attempt::Failed(failure) => {
                let text = failure.to_string();
                if pool.failed(Instant::now(), failure.reason(), text.clone()) {
                    tracing::warn!(pool = pool.name(), "pool cannot be had: {text}");
                } else {
                    tracing::debug!(pool = pool.name(), "pool cannot be had: {text}");
                }
            }
        }
    }
    (None, is_lacking)
}

/// One pool, at all its addresses, each of which has its part of the time that is left.
async fn attempt(pool: &Arc<Pool>, patience: Patience, until: Instant) -> Attempt {
    let name = || pool.address().to_owned();
    let addresses = match timeout_at(until, pool.at.addresses()).await {
        Err(_) => return Attempt::Failed(Failure::Timeout(name())),
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => {
            let failure = Failure::Name(name(), error);
            return if failure.is_own(false) {
                Attempt::Lacking(failure)
            } else {
                Attempt::Failed(failure)
            };
        }
    };
    let (mut failed, mut lacking) = (None, None);
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let deadline = part_of(patience, until, left);
        let failure = match timeout_at(deadline, TcpStream::connect(address)).await {
            Err(_) => Failure::Timeout(name()),
            Ok(Err(error)) => Failure::Connect(name(), error),
            Ok(Ok(stream)) => {
                prepare(&stream, patience.idle);
                match timeout_at(deadline, secure(pool, stream)).await {
                    Err(_) => Failure::Timeout(name()),
                    Ok(Err(error)) => Failure::Tls(name(), error),
                    Ok(Ok(stream)) => return Attempt::Connected(stream),
                }
            }
        };
        if failure.is_own(address.is_ipv4()) {
            lacking = Some(failure);
        } else {
            failed = Some(failure);
        }
    }
    match (lacking, failed) {
        // What lacks may have been all that an address lacked.
        (Some(failure), _) => Attempt::Lacking(failure),
        (None, failed) => Attempt::Failed(failed.unwrap_or_else(|| Failure::Timeout(name()))),
    }
}

/// When the next of so many addresses that are left must have answered.
fn part_of(patience: Patience, until: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let part = until.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
    if left > 1 {
        now + part.min(patience.each)
    } else {
        until
    }
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;
    use crate::config::{self, Config};
    use crate::names::Name;
    use crate::pools::Waits;
    use crate::routes::Plan;

    const PATIENCE: Patience = Patience {
        all: Duration::from_secs(30),
        each: Duration::from_secs(5),
        idle: Duration::from_secs(300),
    };

    /// Listens, accepts nothing, and has a full queue, so that who connects waits.
    async fn hanging() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let soon = Duration::from_millis(500);
        while let Ok(connected) = timeout(soon, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        (listener, waiting)
    }

    fn pool(name: &str, addresses: Vec<SocketAddr>) -> Arc<Pool> {
        let waits = Waits {
            first: Duration::from_secs(1),
            last: Duration::from_secs(60),
        };
        let config = config::Pool {
            name: name.into(),
            address: "pool.example:3333".into(),
            ..config::Pool::default()
        };
        let mut pool = Pool::new(&config, waits).unwrap();
        let found = move || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        };
        Arc::get_mut(&mut pool).unwrap().at = Name::looked_up_by("pool.example", found);
        pool
    }

    #[tokio::test]
    async fn a_name_with_many_dead_addresses_takes_no_longer_than_one_attempt() {
        let (dead, _queue) = hanging().await;
        let alive = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let pools = [
            pool("many", vec![dead.local_addr().unwrap(); 6]),
            pool("one", vec![alive.local_addr().unwrap()]),
        ];
        let route = Plan::new(&Config::default(), &pools).route(crate::clients::Origin {
            address: [127, 0, 0, 1].into(),
            port: 0,
        });
        tokio::time::pause();
        let start = Instant::now();
        let (_, place) = dial(&route.unwrap(), PATIENCE).await.unwrap();
        assert_eq!(place.pool.name(), "one");
        let took = start.elapsed();
        assert!(
            took <= PATIENCE.each + Duration::from_millis(100),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let (dead, _queue) = hanging().await;
        let alive = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut addresses = vec![dead.local_addr().unwrap(); 6];
        addresses.push(alive.local_addr().unwrap());
        let pools = [pool("many", addresses)];
        let until = Instant::now() + Duration::from_secs(5);
        tokio::time::pause();
        let attempt = attempt(&pools[0], PATIENCE, until).await;
        assert!(matches!(attempt, Attempt::Connected(_)));
    }
}
