//! The relay: passes Stratum V1 through unmodified, and measures it.
//!
//! The `hashpool` binary and the tests run it with [`run`]. Every byte of a miner reaches its pool, and every byte of the
//! pool its miner, whatever it is; a parser watches a copy. It never changes, adds or drops a byte, but for one line: what a
//! miner is told that a route's allow-list does not name.

mod admin;
pub mod billing;
pub mod clients;
mod config;
mod connection;
mod connections;
mod dial;
mod environment;
mod guard;
mod metrics;
mod names;
pub mod pattern;
mod pools;
mod pump;
mod routes;
mod stream;
mod telling;
mod tls;
pub mod totals;
pub mod watcher;

pub use admin::Config as AdminConfig;
pub use config::{Config, Pool, Route, Tls};
pub use connections::ConnectionSnapshot;
pub use environment::ShortNames;
pub use pools::PoolSnapshot;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use service::http;
use service::listener::{Limits, Listener};
use service::tls::Certificate;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use billing::{Books, Usage};
use clients::UNKNOWN;
use connections::{Connections, Sums};
use dial::Patience;
use pools::Waits;
use routes::Plan;
use telling::Telling;
use totals::Totals;
use watcher::LineLimits;

/// Why a relay could not start; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that makes no sense.
    #[error("{key}: {problem}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The ports or the limits.
    #[error(transparent)]
    Listen(#[from] service::listener::Error),
    /// The system gives no handler for SIGHUP.
    #[error("cannot watch for SIGHUP: {0}")]
    Signal(#[source] io::Error),
    /// The port of the admin API.
    #[error("admin.listen_address: {0}")]
    Admin(#[source] service::listener::Error),
    /// The port for HTTP.
    #[error("http_address: {0}")]
    Http(#[source] service::listener::Error),
    /// What is kept for bills.
    #[error(transparent)]
    Billing(#[from] billing::Error),
    /// What is to be told to a stats service, or how.
    #[error(transparent)]
    Stats(#[from] stats::sender::Error),
    /// Two metrics of one name; the programmer's to mend.
    #[error("metrics: {0}")]
    Metrics(#[from] service::http::prometheus::Error),
}

/// A relay whose ports are open.
#[derive(Debug)]
pub struct Relay {
    listener: Listener,
    http: http::Server,
    admin: Option<http::Server>,
    shared: Arc<Shared>,
    /// What each client used, if that is kept.
    books: Option<Books>,
    stats: stats::sender::Config,
    drain: Duration,
}

/// What all connections have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connections: Connections,
    /// Swapped whole; connections keep the one that they began with.
    plan: RwLock<Arc<Plan>>,
    /// What the plan was made of. Taken before the plan is changed.
    config: Mutex<Config>,
    pools: Vec<Arc<pools::Pool>>,
    /// For miners that come over TLS.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// By the listener's entrances; the last is that for TLS, if there is one.
    pub(crate) ports: Vec<u16>,
    pub(crate) patience: Patience,
    pub(crate) idle_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) line_limits: LineLimits,
    limits: service::listener::Control,
    listener: Arc<service::listener::Counters>,
    /// No new connections from then on.
    draining: CancellationToken,
}

impl Shared {
    pub(crate) fn plan(&self) -> Arc<Plan> {
        // Whole whenever the lock is free: it is only ever replaced.
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens the ports and relays until `shutdown`, and then for as long as connections are let drain.
///
/// # Errors
/// See [`Error`]; nothing that a miner or a pool does ends it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Relay::bind(config).await?.run(shutdown).await
}

impl Relay {
    /// Checks the configuration and opens the ports; nobody is served yet.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn bind(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let mut listener = Listener::bind(config.listen_address, &config.limits)?
            .behind(config.proxy_protocol.clone())?;
        for address in &config.also_listen {
            listener = listener.also(*address)?;
        }
        if let http::Address::At(address) = config.tls.listen_address {
            listener = listener.also(address)?;
        }
        let waits = Waits {
            first: Duration::from_millis(config.pool_retry_first_ms),
            last: Duration::from_secs(config.pool_retry_last_seconds),
        };
        let pools = config
            .pools
            .iter()
            .map(|pool| pools::Pool::new(pool, waits))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared {
            connections: Connections::new(config.stats.is_on()),
            plan: RwLock::new(Arc::new(Plan::new(&config, &pools))),
            pools,
            certificate: tls::to_miners(&config.tls)?,
            ports: listener
                .local_addrs()
                .map(|address| address.port())
                .collect(),
            patience: Patience {
                all: Duration::from_secs(config.connect_timeout_seconds),
                each: Duration::from_secs(config.attempt_timeout_seconds),
                idle: config.idle_timeout(),
            },
            idle_timeout: config.idle_timeout(),
            handshake_timeout: Duration::from_secs(config.tls.handshake_timeout_seconds),
            line_limits: config.line_limits(),
            limits: listener.control(),
            config: Mutex::new(config.clone()),
            listener: listener.counters(),
            draining: CancellationToken::new(),
        });
        let handle = Handle(Arc::clone(&shared));
        let counted = handle.clone();
        let books = Books::open(&config.storage, move || usage(&counted)).await?;
        let condition = books.as_ref().map(Books::condition);
        let admin = match admin::router(&config.admin, handle.clone())? {
            Some(router) => {
                let endpoints = metrics::endpoints(&handle, condition.clone())?;
                let port = http::Port::open(config.admin.listen_address).map_err(Error::Admin)?;
                Some(http::Server::with_pages(port, endpoints, router))
            }
            None => None,
        };
        let endpoints = metrics::endpoints(&handle, condition)?;
        Ok(Self {
            http: http::Server::bind(config.http_address, endpoints).map_err(Error::Http)?,
            listener,
            admin,
            shared,
            books,
            stats: config.stats,
            drain: Duration::from_secs(config.drain_seconds),
        })
    }

    /// Where miners connect.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// All addresses where miners connect: the first, the further ones, and last the one for TLS, if there is one.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.listener.local_addrs()
    }

    /// Where it answers over HTTP, if it does.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.local_addr()
    }

    /// A handle, to be kept while the relay runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Relays until `shutdown` or [`Handle::drain`], and then for as long as connections are let drain.
    ///
    /// # Errors
    /// [`Error::Signal`]; whatever miners and pools do costs a connection at most.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let ended = CancellationToken::new();
        let _end = ended.clone().drop_guard();
        let certificate = self.shared.certificate.clone();
        let certificate_is_there = certificate.is_some();
        tokio::spawn(
            service::tls::reload_on_hangup(certificate, ended.clone()).map_err(Error::Signal)?,
        );
        let stop_telling = CancellationToken::new();
        let source = Arc::new(Telling::new(&self, certificate_is_there));
        let telling = stats::sender::start(&self.stats, "relay", source, stop_telling.clone())?;
        let http = tokio::spawn(self.http.run(ended.clone()));
        let admin = self.admin;
        let admin = admin.map(|server| tokio::spawn(server.run(ended.clone())));
        for address in self.listener.local_addrs() {
            tracing::info!(%address, "listening for SV1 miners");
        }
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let draining = self.shared.draining.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
                () = draining.cancelled() => break,
            };
            let shared = Arc::clone(&self.shared);
            tracker.spawn(connection::serve(accepted, shared, stop.child_token()));
        }
        self.listener.close();
        draining.cancel();
        tracker.close();
        if !tracker.is_empty() {
            let (connections, seconds) = (tracker.len(), self.drain.as_secs());
            tracing::info!(
                connections,
                seconds,
                "no new connections; waiting for those that are there"
            );
        }
        let _ = timeout(self.drain, tracker.wait()).await;
        stop.cancel();
        tracker.wait().await;
        stop_telling.cancel();
        if let Some(books) = self.books {
            books.close(LAST_COMMIT).await;
        }
        if let Some(telling) = telling {
            telling.ended().await;
        }
        ended.cancel();
        let _ = http.await;
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        Ok(())
    }
}

/// What is billed of what was counted.
fn usage(handle: &Handle) -> BTreeMap<String, Usage> {
    let totals = handle.totals().into_iter();
    totals
        .map(|(client, totals)| {
            let usage = Usage {
                bytes_sent: totals.bytes_sent,
                bytes_received: totals.bytes_received,
                submits: totals.submits,
                accepted: totals.accepted,
                rejected: totals.rejected(),
                work: totals.work,
                connection_ms: totals.connection_ms,
            };
            (client, usage)
        })
        .collect()
}

/// How long the end waits for a database to take what was counted last.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// What others may ask of a relay that runs, and of its counts after its end.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

/// A relay as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Whether new connections are taken.
    pub listening: bool,
    /// Connections that there are.
    pub active: usize,
    /// The pools in their order.
    pub pools: Vec<PoolSnapshot>,
    /// The counts of each client.
    pub clients: BTreeMap<String, Totals>,
    /// All connections.
    pub connections: Vec<ConnectionSnapshot>,
    /// What happened at the door.
    pub listener: service::listener::Snapshot,
}

impl Handle {
    /// The counts of each client since this process began, of connections that are and that were.
    ///
    /// What it promises to whoever bills by it: each value of a client only grows from one call to the next, and no
    /// connection is counted twice or left out between its life and its end. A connection belongs to one client for good.
    /// Before it is known to which, its counts are in no client's; they come to the client all at once when it is, and at
    /// its end to [`UNKNOWN`] at the latest. They are up to date as of the last bytes that were moved. They begin at zero
    /// with each process: whoever keeps them adds them to what was kept before, by a run of its own.
    ///
    /// All configured clients are there, and the unknown.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<String, Totals> {
        self.totals_of(&self.sums())
    }

    fn totals_of(&self, sums: &Sums) -> BTreeMap<String, Totals> {
        let plan = self.0.plan();
        let mut totals: BTreeMap<String, Totals> = plan
            .clients
            .ids()
            .map(|id| (id.to_string(), Totals::default()))
            .collect();
        totals.entry(UNKNOWN.to_owned()).or_default();
        for ((client, _), cell) in &sums.cells {
            let client = totals.entry(client.to_string()).or_default();
            client.add(&cell.totals);
        }
        totals
    }

    /// All connections, in the order in which they came.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionSnapshot> {
        self.0.connections.list()
    }

    /// Ends a connection; whether there was one of this id.
    #[must_use]
    pub fn close(&self, id: u64) -> bool {
        self.0.connections.close(id)
    }

    /// The routes that new connections take now.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let config = self.0.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.routes.clone()
    }

    /// Has new connections take other routes. Those that are there stay where they are.
    ///
    /// # Errors
    /// [`Error::Config`]; nothing has changed then.
    pub fn set_routes(&self, routes: Vec<Route>) -> Result<(), Error> {
        let mut config = self.0.config.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = Config {
            routes,
            ..config.clone()
        };
        changed.check_routes()?;
        let plan = Arc::new(Plan::new(&changed, &self.0.pools));
        *self.0.plan.write().unwrap_or_else(PoisonError::into_inner) = plan;
        *config = changed;
        Ok(())
    }

    /// The limits of connections that hold now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits.limits()
    }

    /// Has other limits hold for new connections. Those that are there stay, also where they are too many.
    ///
    /// # Errors
    /// [`Error::Listen`]; nothing has changed then.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), Error> {
        Ok(self.0.limits.set_limits(limits)?)
    }

    /// Takes no new connections from now on, as at shutdown. The relay ends when those that are there have, or their time is up.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }

    /// All of it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let sums = self.sums();
        Snapshot {
            listening: self.is_listening(),
            active: sums.active,
            pools: self.pools(),
            clients: self.totals_of(&sums),
            connections: self.connections(),
            listener: self.0.listener.snapshot(),
        }
    }

    /// How the pools do.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolSnapshot> {
        self.0.pools.iter().map(|pool| pool.snapshot()).collect()
    }

    pub(crate) fn is_listening(&self) -> bool {
        !self.0.draining.is_cancelled()
    }

    pub(crate) fn sums(&self) -> Sums {
        self.0.connections.sums()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection costs while nothing happens, beside its two sockets: this future and its entry.
    #[tokio::test]
    async fn an_idle_connection_stays_small() {
        let config = Config {
            listen_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_address: http::Address::Off,
            storage: billing::StorageConfig {
                url: "off".to_owned(),
                ..billing::StorageConfig::default()
            },
            ..Config::default()
        };
        let mut relay = Relay::bind(config).await.unwrap();
        let _miner = tokio::net::TcpStream::connect(relay.local_addr())
            .await
            .unwrap();
        let accepted = relay.listener.accept().await;
        let future = connection::serve(accepted, relay.shared, CancellationToken::new());
        assert!(size_of_val(&future) <= 2048, "{}", size_of_val(&future));
    }
}
