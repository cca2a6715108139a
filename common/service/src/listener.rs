//! A listening socket that takes no more connections than it may.
//!
//! A permit is held before each accept, so that at the limit new connections wait in the kernel's queue instead of being
//! taken and dropped. The only lock is the table of addresses, taken at accept and at close, never while data flows.

mod admission;
mod control;
mod counters;
mod entrance;
mod pace;
mod proxy;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::admission::{Addresses, Door, Place, Slots};
use self::counters::count;
use self::entrance::{Entrance, KEEPALIVE_AFTER};
use self::pace::Pace;

pub use self::admission::Permit;
pub use self::control::Control;
pub use self::counters::{Counters, Snapshot};
pub use self::entrance::keep_alive;
pub use self::proxy::{Mode, Network, ProxyProtocol};

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
        /// The key of [`Limits`] or [`ProxyProtocol`].
        key: &'static str,
    },
    /// A PROXY header is required, and nobody may send one.
    #[error(
        "proxy_protocol: \"trusted_networks\" is empty, which would let nobody connect; name the load balancers' network"
    )]
    NobodyTrusted,
}

/// Why a connection that came through a load balancer was not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The load balancer did not say who calls.
    #[error("no valid PROXY header: {0}")]
    Header(#[from] io::Error),
    /// The caller has as many connections as one address may.
    #[error("too many connections from {0}")]
    PerAddress(SocketAddr),
}

/// A TCP listener with [`Limits`]: one socket or several that share them.
#[derive(Debug)]
pub struct Listener {
    /// In the order in which they were opened; at least one.
    entrances: Vec<Entrance>,
    /// Which entrance is asked first, so that none goes short when several are busy.
    turn: usize,
    slots: Arc<Slots>,
    addresses: Arc<Addresses>,
    pace: Option<Pace>,
    /// How many connections may come in a second, if that has changed.
    per_second: watch::Receiver<Option<u32>>,
    control: Control,
    counters: Arc<Counters>,
    proxy: Option<Arc<ProxyProtocol>>,
    exhausted: bool,
}

impl Listener {
    /// Opens the socket. Port 0 takes a free one; see [`Listener::local_addr`].
    ///
    /// # Errors
    /// [`Error`], naming the address.
    pub fn bind(address: SocketAddr, limits: &Limits) -> Result<Self, Error> {
        limits.validate()?;
        let slots = Slots::new(limits);
        let addresses = Arc::new(Addresses {
            limit: limits.connections_per_address.into(),
            present: Mutex::default(),
        });
        let control = Control {
            slots: Arc::clone(&slots),
            addresses: Arc::clone(&addresses),
            per_second: watch::Sender::new(limits.new_connections_per_second),
        };
        Ok(Self {
            entrances: vec![Entrance::open(address)?],
            turn: 0,
            addresses,
            per_second: control.per_second.subscribe(),
            control,
            pace: limits.new_connections_per_second.map(Pace::new),
            counters: Arc::clone(slots.counters()),
            slots,
            proxy: None,
            exhausted: false,
        })
    }

    /// Has connections come through load balancers that say who calls, if `proxy` wants that. Every connection has to go
    /// through [`Accepted::identify`] then.
    ///
    /// # Errors
    /// As [`ProxyProtocol::validate`].
    pub fn behind(mut self, proxy: ProxyProtocol) -> Result<Self, Error> {
        proxy.validate()?;
        self.proxy = (proxy.mode != Mode::Off).then(|| Arc::new(proxy));
        Ok(self)
    }

    /// Opens a further socket under the same limits; [`Accepted::entrance`] says which one a connection came through.
    ///
    /// # Errors
    /// [`Error`], naming the address.
    pub fn also(mut self, address: SocketAddr) -> Result<Self, Error> {
        self.entrances.push(Entrance::open(address)?);
        Ok(self)
    }

    /// The address it really listens on; of several, the first.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.entrances[0].local
    }

    /// The addresses of all sockets, in the order in which they were opened.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.entrances.iter().map(|entrance| entrance.local)
    }

    /// What happened here so far; lives on after the listener.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Changes its limits while it runs.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Closes all sockets: whoever calls is refused by the system. Limits and counters stay.
    pub fn close(&mut self) {
        for entrance in &mut self.entrances {
            entrance.inner = None;
        }
    }

    /// Opens the sockets again that were closed, at the same addresses.
    ///
    /// # Errors
    /// [`Error`], naming the address that cannot be had; all are closed then, so that nobody is taken whom nobody serves.
    pub fn reopen(&mut self) -> Result<(), Error> {
        let reopened = self.entrances.iter_mut().try_for_each(|entrance| {
            if entrance.inner.is_none() {
                *entrance = Entrance::open(entrance.local)?;
            }
            Ok(())
        });
        if reopened.is_err() {
            self.close();
        }
        reopened
    }

    /// The next connection that the limits allow, with `TCP_NODELAY` and keep-alive set.
    ///
    /// It never fails: nobody comes to one that is closed, a lack of file descriptors is waited out, a refused
    /// connection is counted and skipped. Dropping the future loses no connection.
    pub async fn accept(&mut self) -> Accepted {
        let slots = Arc::clone(&self.slots);
        let vacancy = slots.vacancy().await;
        loop {
            // The sender lives in `control`.
            if self.per_second.has_changed().unwrap_or(false) {
                self.pace = self.per_second.borrow_and_update().map(Pace::new);
            }
            if let Some(pace) = &mut self.pace {
                pace.ready(&self.counters).await;
            }
            let (entrance, accepted) = poll_fn(|cx| self.poll_entrances(cx)).await;
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(entrance, &error).await;
                    continue;
                }
            };
            self.exhausted = false;
            if let Some(pace) = &mut self.pace {
                pace.spend();
            }
            let place = match &self.proxy {
                Some(proxy) if !proxy.trusts(peer.ip()) => {
                    count(&self.counters.refused_untrusted);
                    tracing::debug!(%peer, "connection refused: not from a trusted load balancer");
                    continue;
                }
                Some(proxy) => Place::Unknown(Arc::new(Door {
                    proxy: Arc::clone(proxy),
                    addresses: Arc::clone(&self.addresses),
                    counters: Arc::clone(&self.counters),
                })),
                None => {
                    let Some(place) = Addresses::enter(&self.addresses, peer.ip()) else {
                        count(&self.counters.refused_per_address);
                        tracing::debug!(%peer, "connection refused: too many from this address");
                        continue;
                    };
                    Place::Taken(place)
                }
            };
            // Only a connection that is already gone refuses these; its first read will say so.
            let _ = stream.set_nodelay(true);
            let _ = keep_alive(&stream, KEEPALIVE_AFTER);
            count(&self.counters.accepted);
            return Accepted {
                stream,
                peer,
                entrance,
                permit: Permit {
                    _slot: slots.take(vacancy),
                    place,
                },
            };
        }
    }

    /// The next connection of any entrance.
    fn poll_entrances(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(usize, io::Result<(TcpStream, SocketAddr)>)> {
        let count = self.entrances.len();
        for offset in 0..count {
            let entrance = (self.turn + offset) % count;
            if let Some(inner) = &self.entrances[entrance].inner
                && let Poll::Ready(accepted) = inner.poll_accept(cx)
            {
                self.turn = entrance + 1;
                return Poll::Ready((entrance, accepted));
            }
        }
        Poll::Pending
    }

    async fn accept_failed(&mut self, entrance: usize, error: &io::Error) {
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
                        address = %self.entrances[entrance].local, %error,
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
    /// Which of the listener's sockets was called: 0 is that of [`Listener::bind`], 1 the first of [`Listener::also`].
    pub entrance: usize,
    /// Hold it as long as the connection lives.
    pub permit: Permit,
}

impl Accepted {
    /// Reads who calls, where a load balancer says so; from then on `peer` is the caller, and the limit of an address is the
    /// caller's. To be called by the connection's own task, because it waits for the peer.
    ///
    /// # Errors
    /// [`Refused`], counted; the connection is closed.
    pub async fn identify(mut self) -> Result<Self, Refused> {
        let Place::Unknown(door) = &self.permit.place else {
            return Ok(self);
        };
        let door = Arc::clone(door);
        let patience = Duration::from_secs(door.proxy.header_timeout_seconds.into());
        // The buffer is on the heap only as long as it is needed, and in no connection's future.
        let header = Box::pin(proxy::read(&mut self.stream));
        let header = timeout(patience, header)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let caller = header.map_err(|error| {
            count(&door.counters.refused_proxy_header);
            Refused::Header(error)
        })?;
        self.permit.place = match caller {
            Some(caller) => {
                let place = Addresses::enter(&door.addresses, caller.ip()).ok_or_else(|| {
                    count(&door.counters.refused_per_address);
                    Refused::PerAddress(caller)
                })?;
                self.peer = caller;
                Place::Taken(place)
            }
            None => Place::Free,
        };
        Ok(self)
    }
}
