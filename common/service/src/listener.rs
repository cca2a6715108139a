//! A listening socket that takes no more connections than it may.
//!
//! A permit is held before each accept, so that at the limit new connections wait in the kernel's queue instead of being
//! taken and dropped. The only lock is the table of addresses, taken at accept and at close, never while data flows.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

/// Connections that the kernel may hold for us; the system's own maximum (`somaxconn`) caps it.
const BACKLOG: u32 = 4096;

/// How long to wait when the process or the system has no file descriptor left. Long enough not to spin, short enough
/// that a miner does not notice.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How many connections a listener takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Connections at a time from one IPv4 address or one IPv6 /64 network. Further ones are closed.
    pub connections_per_address: usize,
    /// New connections per second, with bursts of one second's worth. Further ones wait in the kernel's queue.
    /// No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 10_000,
            new_connections_per_second: None,
        }
    }
}

impl Limits {
    /// Refuses limits under which nobody could ever connect.
    ///
    /// # Errors
    /// [`Error::ZeroLimit`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        let zero = |key| Err(Error::ZeroLimit { key });
        if self.connections == 0 {
            return zero("connections");
        }
        if self.connections_per_address == 0 {
            return zero("connections_per_address");
        }
        if self.new_connections_per_second == Some(0) {
            return zero("new_connections_per_second");
        }
        Ok(())
    }
}

/// Why a listener could not be opened; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process, or another role, has this port.
    #[error(
        "{address} is already in use by another process; stop that one or configure another listen address"
    )]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system refuses the address for another reason.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A limit of zero would let nobody in.
    #[error("the limit \"{key}\" is 0, which would let nobody connect; use 1 or more")]
    ZeroLimit {
        /// The key of [`Limits`].
        key: &'static str,
    },
}

/// A TCP listener with [`Limits`].
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
    slots: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    pace: Option<Pace>,
    counters: Arc<Counters>,
    exhausted: bool,
}

impl Listener {
    /// Opens the socket. Port 0 takes a free one; see [`Listener::local_addr`].
    ///
    /// # Errors
    /// [`Error`], naming the address.
    pub fn bind(address: SocketAddr, limits: &Limits) -> Result<Self, Error> {
        limits.validate()?;
        let (inner, local) = open(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse { address },
            _ => Error::Bind { address, source },
        })?;
        Ok(Self {
            inner,
            local,
            slots: Arc::new(Semaphore::new(
                limits.connections.min(Semaphore::MAX_PERMITS),
            )),
            addresses: Arc::new(Addresses {
                limit: limits.connections_per_address,
                present: Mutex::default(),
            }),
            pace: limits.new_connections_per_second.map(Pace::new),
            counters: Arc::default(),
            exhausted: false,
        })
    }

    /// The address it really listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What happened here so far; lives on after the listener.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The next connection that the limits allow, with `TCP_NODELAY` set.
    ///
    /// It never fails: a lack of file descriptors is waited out, a refused connection is counted and skipped. Dropping the
    /// future loses no connection.
    pub async fn accept(&mut self) -> Accepted {
        let slot = self.slot().await;
        loop {
            if let Some(pace) = &mut self.pace {
                pace.ready(&self.counters).await;
            }
            let (stream, peer) = match self.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(&error).await;
                    continue;
                }
            };
            self.exhausted = false;
            if let Some(pace) = &mut self.pace {
                pace.spend();
            }
            let Some(place) = Addresses::enter(&self.addresses, peer.ip()) else {
                count(&self.counters.refused_per_address);
                tracing::debug!(%peer, "connection refused: too many from this address");
                continue;
            };
            // Only a connection that is already gone refuses this; its first read will say so.
            let _ = stream.set_nodelay(true);
            count(&self.counters.accepted);
            return Accepted {
                stream,
                peer,
                permit: Permit {
                    _slot: slot,
                    _place: place,
                },
            };
        }
    }

    async fn slot(&self) -> OwnedSemaphorePermit {
        let free = Arc::clone(&self.slots).try_acquire_owned();
        if let Ok(slot) = free {
            return slot;
        }
        count(&self.counters.waited_for_slot);
        match Arc::clone(&self.slots).acquire_owned().await {
            Ok(slot) => slot,
            // The semaphore lives as long as `self` and is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    async fn accept_failed(&mut self, error: &io::Error) {
        count(&self.counters.accept_errors);
        match error.kind() {
            // The peer went away while it was queued: nobody to wait for.
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted => {}
            // EMFILE, ENFILE, ENOBUFS, ENOMEM and whatever else the system comes up with: accepting at once would spin.
            _ => {
                if !self.exhausted {
                    tracing::warn!(
                        address = %self.local, %error,
                        "cannot accept connections for now; the limit of open files may be too low"
                    );
                }
                self.exhausted = true;
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, with `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// Who called.
    pub peer: SocketAddr,
    /// Hold it as long as the connection lives.
    pub permit: Permit,
}

/// One connection's share of the limits; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    _slot: OwnedSemaphorePermit,
    _place: Place,
}

/// What a listener did, by reason. Values only grow.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused_per_address: AtomicU64,
    waited_for_slot: AtomicU64,
    waited_for_pace: AtomicU64,
    accept_errors: AtomicU64,
}

impl Counters {
    /// All values as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            accepted: read(&self.accepted),
            refused_per_address: read(&self.refused_per_address),
            waited_for_slot: read(&self.waited_for_slot),
            waited_for_pace: read(&self.waited_for_pace),
            accept_errors: read(&self.accept_errors),
        }
    }
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// Connections handed to the role.
    pub accepted: u64,
    /// Connections closed because their address had its limit.
    pub refused_per_address: u64,
    /// Times that accepting paused at the limit of connections.
    pub waited_for_slot: u64,
    /// Times that accepting paused at the limit of new connections per second.
    pub waited_for_pace: u64,
    /// Errors of the system's accept, such as a lack of file descriptors.
    pub accept_errors: u64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn open(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for the connections of the last process to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// How many connections each address has. Bounded by the limit of connections: an address without one has no entry.
#[derive(Debug)]
struct Addresses {
    limit: usize,
    present: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    fn enter(this: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let key = network(address);
        let mut present = this.lock();
        let connections = present.entry(key).or_default();
        if *connections >= this.limit {
            return None;
        }
        *connections += 1;
        drop(present);
        Some(Place {
            key,
            addresses: Arc::clone(this),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // The map is whole whenever the lock is free: no code that can panic runs between two changes.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Place {
    key: IpAddr,
    addresses: Arc<Addresses>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.addresses.lock();
        if let Some(connections) = present.get_mut(&self.key) {
            *connections -= 1;
            if *connections == 0 {
                present.remove(&self.key);
            }
        }
    }
}

/// What counts as one address. A home or a server gets a whole IPv6 /64, so that single addresses would limit nobody.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// A bucket of one second's worth of connections that refills evenly.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again, or was; the fuller, the further in the past.
    full_at: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(1),
            full_at: Instant::now(),
        }
    }

    async fn ready(&self, counters: &Counters) {
        let Some(at) = (self.full_at + self.interval).checked_sub(self.burst) else {
            return;
        };
        if at > Instant::now() {
            count(&counters.waited_for_pace);
            sleep_until(at).await;
        }
    }

    fn spend(&mut self) {
        self.full_at = self.full_at.max(Instant::now()) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn listener(limits: &Limits) -> Listener {
        Listener::bind(ANY, limits).unwrap()
    }

    async fn call(listener: &Listener) -> TcpStream {
        TcpStream::connect(listener.local_addr()).await.unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = listener(&Limits::default());
        let error = Listener::bind(first.local_addr(), &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&first.local_addr().to_string()), "{text}");
    }

    #[tokio::test]
    async fn a_limit_of_zero_is_refused() {
        let limits = Limits {
            connections_per_address: 0,
            ..Limits::default()
        };
        let text = Listener::bind(ANY, &limits).unwrap_err().to_string();
        assert!(text.contains("connections_per_address"), "{text}");
    }

    #[tokio::test]
    async fn an_accepted_connection_has_no_delay() {
        let mut listener = listener(&Limits::default());
        let _peer = call(&listener).await;
        assert!(listener.accept().await.stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn at_the_limit_the_next_connection_waits_for_one_to_end() {
        let mut listener = listener(&Limits {
            connections: 1,
            ..Limits::default()
        });
        let _first = call(&listener).await;
        let second = call(&listener).await;
        let held = listener.accept().await;
        let counters = listener.counters();
        {
            let mut waiting = std::pin::pin!(listener.accept());
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("accepted above the limit"),
                () = tokio::task::yield_now() => {}
            }
            drop(held);
            assert_eq!(waiting.await.peer, second.local_addr().unwrap());
        }
        assert_eq!(counters.snapshot().waited_for_slot, 1);
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place() {
        let mut listener = listener(&Limits {
            connections_per_address: 1,
            ..Limits::default()
        });
        let _first = call(&listener).await;
        let held = listener.accept().await;
        let refused = call(&listener).await;
        let counters = listener.counters();
        let other = tokio::spawn(async move { listener.accept().await });
        // The refused connection is closed, and only it.
        let mut byte = [0];
        refused.readable().await.unwrap();
        assert!(matches!(refused.try_read(&mut byte), Ok(0) | Err(_)));
        assert_eq!(counters.snapshot().refused_per_address, 1);
        assert_eq!(counters.snapshot().accepted, 1);
        drop(held);
        other.abort();
    }

    #[tokio::test]
    async fn an_address_without_a_connection_is_forgotten() {
        let addresses = Arc::new(Addresses {
            limit: 2,
            present: Mutex::default(),
        });
        let places: Vec<_> = (0..4)
            .map(|_| Addresses::enter(&addresses, IpAddr::V4(Ipv4Addr::LOCALHOST)))
            .collect();
        assert_eq!(places.iter().flatten().count(), 2);
        drop(places);
        assert!(addresses.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_a_mapped_ipv4_as_itself() {
        let ip = |text: &str| network(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2:3::4"), ip("2001:db8:1:2:ffff::1"));
        assert_ne!(ip("2001:db8:1:2::"), ip("2001:db8:1:3::"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_lets_a_second_of_burst_through_and_then_one_at_a_time() {
        let counters = Counters::default();
        let mut pace = Pace::new(10);
        let start = Instant::now();
        for _ in 0..30 {
            pace.ready(&counters).await;
            pace.spend();
        }
        let took = start.elapsed();
        assert!((1_900..=2_100).contains(&took.as_millis()), "{took:?}");
    }
}
