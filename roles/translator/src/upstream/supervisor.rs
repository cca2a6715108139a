//! Keeps one upstream connection alive: connects, and connects again, for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use sv2_connection::{AuthorityPublicKey, Connection, Options};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Link;
use super::connection::Established;
use super::router::UpstreamError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that lived this long was a good one: the next attempt does not wait as after failures.
const GOOD_LIFETIME: Duration = Duration::from_secs(30);

/// A cable that was cut is noticed after about a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

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
}

/// How connections are made; the same for all of them.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are tried.
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) queue: usize,
    pub(crate) first_wait: Duration,
    pub(crate) last_wait: Duration,
    /// Numbers for jobs, process-wide.
    pub(crate) job_ids: Arc<AtomicU64>,
    /// Numbers for connections.
    pub(crate) link_ids: AtomicU64,
}

/// What is known about one connection, for the status.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    connections: AtomicU64,
    now: Mutex<SlotNow>,
}

#[derive(Debug, Default, Clone)]
struct SlotNow {
    address: Option<String>,
    last_error: Option<String>,
}

impl SlotState {
    /// The upstream it is connected to, the last error, and how often it has connected.
    pub(crate) fn read(&self) -> (Option<String>, Option<String>, u64) {
        let SlotNow {
            address,
            last_error,
        } = self
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        (
            address,
            last_error,
            self.connections.load(Ordering::Relaxed),
        )
    }

    fn set(&self, address: Option<String>, error: Option<String>) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.address = address;
        now.last_error = error.or_else(|| now.last_error.take());
    }
}

/// Keeps a connection until `shutdown`, and publishes it while it lives.
pub(crate) async fn supervise(
    plan: Arc<Plan>,
    links: watch::Sender<Option<Link>>,
    state: Arc<SlotState>,
    shutdown: CancellationToken,
) {
    let mut failures = 0;
    loop {
        for upstream in &plan.upstreams {
            let started = Instant::now();
            let end = tokio::select! {
                end = connect(upstream, &plan) => end,
                () = shutdown.cancelled() => return,
            };
            let established = match end {
                Ok(established) => established,
                Err(error) => {
                    tracing::warn!(upstream = %upstream.address, %error, "cannot connect to the upstream");
                    state.set(None, Some(error.to_string()));
                    continue;
                }
            };
            tracing::info!(upstream = %upstream.address, "connected to the upstream");
            state.connections.fetch_add(1, Ordering::Relaxed);
            state.set(Some(upstream.address.clone()), None);
            links.send_replace(Some(established.link()));
            let end = established.run(&shutdown).await;
            links.send_replace(None);
            if shutdown.is_cancelled() {
                return;
            }
            let reason = end.err().map_or_else(
                || "the connection was closed".to_owned(),
                |error| error.to_string(),
            );
            tracing::warn!(upstream = %upstream.address, %reason, "lost the upstream; miners stay connected");
            state.set(None, Some(reason));
            if started.elapsed() >= GOOD_LIFETIME {
                failures = 0;
                // Back to the first in the order, which may be healthy.
                break;
            }
            // One that lets go of us at once must not hide the ones behind it.
        }
        tokio::select! {
            () = sleep(wait(&plan, failures)) => {}
            () = shutdown.cancelled() => return,
        }
        failures += 1;
    }
}

/// Doubles with each failure, and is spread so that connections lost together do not come back together.
fn wait(plan: &Plan, failures: u32) -> Duration {
    let longest = plan
        .first_wait
        .saturating_mul(1 << failures.min(20))
        .min(plan.last_wait);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

async fn connect(upstream: &Upstream, plan: &Plan) -> Result<Established, UpstreamError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&upstream.address))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))
        .and_then(|result| result)
        .map_err(sv2_connection::Error::from)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    // Without it the connection works all the same.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let mut connection =
        sv2_connection::connect(stream, upstream.authority_public_key, Options::default()).await?;
    set_up(&mut connection, upstream).await?;
    let id = plan.link_ids.fetch_add(1, Ordering::Relaxed);
    Ok(Established::new(
        connection,
        id,
        plan.queue,
        Arc::clone(&plan.job_ids),
    ))
}

async fn set_up(connection: &mut Connection, upstream: &Upstream) -> Result<(), UpstreamError> {
    // No flag: extended channels are opened, and a job that does not allow version rolling is mined without.
    const FLAGS: u32 = 0;
    let (host, port) = upstream.host_and_port().unwrap_or_default();
    let firmware = concat!("hashpool-translator/", env!("CARGO_PKG_VERSION"));
    let request = sv2_connection::mining_setup(FLAGS, host, port, firmware)?;
    sv2_connection::setup(connection, request, SETUP_TIMEOUT).await?;
    Ok(())
}
