//! Makes a connection to a pool: TCP, Noise, set-up, extensions.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::listener::keep_alive;
use stratum_core::extensions_sv2::{
    EXTENSION_TYPE_EXTENSIONS_NEGOTIATION, EXTENSION_TYPE_WORKER_HASHRATE_TRACKING,
};
use sv2_connection::{AuthorityPublicKey, Connection, Options};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::connection::Established;
use super::{Plan, Record, UpstreamError};

/// A cable that was cut is noticed after about a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// How long a pool may think about extensions. Spent once on one that ignores the question.
const NEGOTIATION_PATIENCE: Duration = Duration::from_secs(5);

/// How long a pool is not asked again that did not answer: it may be another version by then.
const SILENCE: Duration = Duration::from_secs(3600);

/// What a pool is asked for where miners share channels.
const WANTED: [u16; 2] = [
    EXTENSION_TYPE_EXTENSIONS_NEGOTIATION,
    EXTENSION_TYPE_WORKER_HASHRATE_TRACKING,
];

/// When a pool last would not say which extensions it speaks. Locked for a connection that is made.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<Option<Instant>>);

impl Silence {
    fn lasts(&self) -> bool {
        self.lock().is_some_and(|since| since.elapsed() < SILENCE)
    }

    fn begins(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Host name or address, and port.
    pub address: String,
    /// The key that signs the pool's certificate; without it, whoever answers is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_public_key: Option<AuthorityPublicKey>,
}

impl Upstream {
    /// The two parts of the address.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    }

    /// Where a `Reconnect` of this pool leads to (SV2 3.6.5): what it leaves empty stays as it is.
    ///
    /// Only the key says that the other address is the same pool's; without one, nobody is sent elsewhere.
    pub(super) fn redirected(&self, new_host: &str, new_port: u16) -> Self {
        let Some((host, port)) = self.host_and_port() else {
            return self.clone();
        };
        if self.authority_public_key.is_none() {
            return self.clone();
        }
        let port = if new_port == 0 { port } else { new_port };
        let address = match new_host {
            "" => format!("{host}:{port}"),
            // An IPv6 address.
            new_host if new_host.contains(':') && !new_host.starts_with('[') => {
                format!("[{new_host}]:{port}")
            }
            new_host => format!("{new_host}:{port}"),
        };
        Self {
            address,
            ..self.clone()
        }
    }
}

/// A connection to this pool on which channels can be opened; `place` is where it is now.
pub(super) async fn dial(
    record: &Record,
    place: &Upstream,
    plan: &Plan,
) -> Result<Established, UpstreamError> {
    let mut connection = connect(place, plan).await?;
    // Without shared channels, each miner's name is its channel's.
    if !plan.aggregate || record.silence.lasts() {
        return Ok(Established::new(connection, false, plan, record));
    }
    let patience = plan.connect_patience.min(NEGOTIATION_PATIENCE);
    // Who hangs up once may have been about to restart.
    let mut may_hang_up = true;
    loop {
        let error = match sv2_connection::negotiate(&mut connection, &WANTED, patience).await {
            Ok(spoken) => {
                let worker_names = spoken.contains(&EXTENSION_TYPE_WORKER_HASHRATE_TRACKING);
                return Ok(Established::new(connection, worker_names, plan, record));
            }
            Err(error @ sv2_connection::Error::ExtensionRequired(_)) => return Err(error.into()),
            Err(error) => error,
        };
        if !matches!(error, sv2_connection::Error::NegotiationTimeout) {
            // A pool that cannot be reached now either was cut off, and says nothing about extensions by that.
            connection = connect(place, plan).await?;
            if std::mem::take(&mut may_hang_up) {
                continue;
            }
        }
        tracing::info!(
            upstream = %place.address, %error,
            "the upstream does not say which extensions it speaks, and is not asked again for an hour; the pool cannot tell workers apart"
        );
        record.silence.begins();
        return Ok(Established::new(connection, false, plan, record));
    }
}

async fn connect(upstream: &Upstream, plan: &Plan) -> Result<Connection, UpstreamError> {
    let patience = plan.connect_patience;
    let stream = call(&upstream.address, patience).await?;
    let options = Options {
        handshake_timeout: patience,
        ..Options::default()
    };
    let mut connection =
        sv2_connection::connect(stream, upstream.authority_public_key, options).await?;
    set_up(&mut connection, upstream, patience).await?;
    Ok(connection)
}

async fn call(address: &str, patience: Duration) -> Result<TcpStream, UpstreamError> {
    let stream = timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| UpstreamError::ConnectTimeout)?
        .map_err(sv2_connection::Error::from)?;
    // Without it the connection works all the same.
    let _ = keep_alive(&stream, KEEPALIVE_AFTER);
    Ok(stream)
}

async fn set_up(
    connection: &mut Connection,
    upstream: &Upstream,
    patience: Duration,
) -> Result<(), UpstreamError> {
    // No flag: extended channels are opened, and a job that does not allow version rolling is mined without.
    const FLAGS: u32 = 0;
    let (host, port) = upstream.host_and_port().unwrap_or_default();
    let firmware = concat!("hashpool-translator/", env!("CARGO_PKG_VERSION"));
    let request = sv2_connection::mining_setup(FLAGS, host, port, firmware)?;
    sv2_connection::setup(connection, request, patience).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use sv2_connection::{Authority, AuthoritySecretKey};

    use super::*;

    #[tokio::test]
    async fn a_pool_whose_machine_is_gone_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = call(&address, Duration::from_secs(60)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_said_nothing_of_extensions_is_asked_again_after_an_hour() {
        let silence = Silence::default();
        assert!(!silence.lasts());
        silence.begins();
        assert!(silence.lasts());
        tokio::time::advance(SILENCE).await;
        assert!(!silence.lasts());
    }

    #[test]
    fn a_pool_sends_elsewhere_only_those_who_know_its_key() {
        let mut pool = Upstream {
            address: "pool.example:34254".into(),
            authority_public_key: None,
        };
        assert_eq!(pool.redirected("evil.example", 1), pool);
        let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
        pool.authority_public_key = Some(authority.public());
        for (host, port, address) in [
            ("", 0, "pool.example:34254"),
            ("", 7, "pool.example:7"),
            ("other.example", 0, "other.example:34254"),
            ("2001:db8::1", 7, "[2001:db8::1]:7"),
            ("[2001:db8::1]", 7, "[2001:db8::1]:7"),
        ] {
            let other = pool.redirected(host, port);
            assert_eq!(other.address, address);
            assert_eq!(other.authority_public_key, pool.authority_public_key);
        }
    }
}
