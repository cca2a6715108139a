//! The translator: lets Stratum V1 miners work for a Stratum V2 pool.
//!
//! The `hashpool` binary and the tests run it with [`run`]. Each miner gets an extended channel upstream, of its own
//! or shared with others; its shares are checked here first. It never drops one silently.

mod config;
pub mod identity;
pub mod job;
mod metrics;
mod miner;
mod outage;
pub mod session;
mod status;
mod telling;
mod tls;
mod upstream;
mod user_agents;

pub use config::Config;
pub use session::Acknowledge;
pub use status::{
    MinerSnapshot, Shares, Snapshot, StatusHandle, TrafficSnapshot, UpstreamSnapshot,
};
pub use tls::{Reloader, TlsConfig};
pub use upstream::{Upstream, UpstreamHealth};
pub use user_agents::{UserAgent, UserAgents};

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use service::http;
use service::listener::{Accepted, Listener};
use service::pace::Pace;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use miner::{Driver, End, Socket};
use session::{Now, Session, Settings};
use status::Status;
use telling::Telling;
use tls::Door;
use upstream::{Published, Roster};

/// Why a translator could not start; the operator's to mend.
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
    /// The port or the limits.
    #[error(transparent)]
    Listen(#[from] service::listener::Error),
    /// The system gives no handler for SIGHUP.
    #[error("cannot watch for SIGHUP: {0}")]
    Signal(#[source] io::Error),
    /// The port for HTTP.
    #[error("http_address: {0}")]
    Http(#[source] service::listener::Error),
    /// What is to be told to a stats service, or how.
    #[error(transparent)]
    Stats(#[from] stats::sender::Error),
    /// Two metrics of one name; the programmer's to mend.
    #[error("metrics: {0}")]
    Metrics(#[from] service::http::prometheus::Error),
}

/// A translator whose port is open.
#[derive(Debug)]
pub struct Translator {
    config: Config,
    listener: Listener,
    /// Behind the listener's second socket, if there is one.
    tls: Option<Arc<Door>>,
    /// Until it runs.
    http: Option<http::Server>,
    /// The connections to the pool.
    upstream: Published,
    roster: Arc<Mutex<Roster>>,
    status: Arc<Status>,
}

/// Opens the port and serves miners until `shutdown`.
///
/// # Errors
/// See [`Error`]; nothing that a miner or a pool does ends it.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Translator::bind(config).await?.run(shutdown).await
}

impl Translator {
    /// Checks the configuration and opens the port; nobody is served yet.
    ///
    /// # Errors
    /// [`Error`]
    #[allow(clippy::unused_async)]
    pub async fn bind(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let mut listener = Listener::bind(config.listen_address, &config.limits)?
            .behind(config.proxy_protocol.clone())?;
        let mut tls = None;
        if let http::Address::At(address) = config.tls.listen_address {
            tls = Some(Door::open(&config.tls)?);
            listener = listener.also(address)?;
        }
        let upstream = Published::new(config.connections());
        let roster = Arc::new(Mutex::new(config.roster()));
        let status = Status::new(
            Arc::clone(&roster),
            listener.counters(),
            tls.clone(),
            config.stats.is_on(),
        );
        let endpoints = metrics::endpoints(&status.handle())?;
        let http = http::Server::bind(config.http_address, endpoints).map_err(Error::Http)?;
        Ok(Self {
            config,
            listener,
            tls,
            http: Some(http),
            upstream,
            roster,
            status,
        })
    }

    /// Where miners connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where miners connect over TLS, if they can.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addrs().nth(1)
    }

    /// Has the certificate's files read again while the translator runs, as SIGHUP does.
    pub fn reloader(&self) -> Reloader {
        Reloader(self.tls.clone())
    }

    /// Where it answers over HTTP, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr()
    }

    /// A handle to the status, to be kept while the translator runs.
    pub fn status(&self) -> StatusHandle {
        self.status.handle()
    }

    /// Serves miners until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Signal`]; whatever miners and pools do costs a connection at most.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        for upstream in self
            .config
            .upstreams
            .iter()
            .filter(|upstream| upstream.authority_public_key.is_none())
        {
            tracing::warn!(upstream = %upstream.address, "no authority_public_key: whoever answers is trusted");
        }
        // Miners stop first, so that the answers to their last shares can still come.
        let upstream_shutdown = CancellationToken::new();
        let mut supervisors = self.connect_upstreams(&upstream_shutdown);
        if let Some(http) = self.http.take() {
            // Tells how it ends, too.
            supervisors.spawn(http.run(upstream_shutdown.clone()));
        }
        // Told to stop when all else has, so that it tells the last counts.
        let stats_stop = CancellationToken::new();
        let telling = self.start_telling(&stats_stop)?;
        supervisors.spawn(self.reloader().run(upstream_shutdown.clone())?);
        let miners = TaskTracker::new();
        let common = Arc::new(self.common());
        tracing::info!(address = %self.listener.local_addr(), "listening for SV1 miners");
        if let Some(address) = self.tls_addr() {
            tracing::info!(%address, "listening for SV1 miners over TLS");
        }
        let mut next = Connections::default();
        loop {
            // For those who come until the next outage.
            let stop = shutdown.child_token();
            let listening = self.listen(&miners, &common, &mut next, &stop);
            if shutdown.run_until_cancelled(listening).await.is_none() {
                break;
            }
            stop.cancel();
            if shutdown.run_until_cancelled(self.reopen()).await.is_none() {
                break;
            }
        }
        miners.close();
        miners.wait().await;
        upstream_shutdown.cancel();
        while supervisors.join_next().await.is_some() {}
        stats_stop.cancel();
        if let Some(telling) = telling {
            telling.ended().await;
        }
        Ok(())
    }

    /// Takes miners until no pool could be had for too long.
    async fn listen(
        &mut self,
        miners: &TaskTracker,
        common: &Arc<Common>,
        next: &mut Connections,
        stop: &CancellationToken,
    ) {
        let available = self.upstream.available.subscribe();
        let after = Duration::from_secs(self.config.outage_close_seconds);
        let mut outage = pin!(outage::lasts(available, after));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut outage => break,
            };
            miners.spawn(self.serve(accepted, next, common, stop.clone()));
        }
        tracing::error!(
            seconds = after.as_secs(),
            "no upstream can be had; miners are disconnected and the port is closed until one is back"
        );
        self.listener.close();
        self.status.set_listening(false);
    }

    async fn reopen(&mut self) {
        outage::ends(self.upstream.available.subscribe(), &mut self.listener).await;
        self.status.set_listening(true);
    }

    fn connect_upstreams(&self, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut supervisors = JoinSet::new();
        let complaints = self.status.complaints();
        supervisors.spawn(upstream::supervise(
            Arc::new(self.config.plan(complaints)),
            Arc::clone(&self.roster),
            self.upstream.clone(),
            shutdown.clone(),
        ));
        supervisors
    }

    /// Starts to tell a stats service what happens, if one is configured.
    fn start_telling(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<stats::sender::Running>, Error> {
        let tls = self.tls_addr().map(|address| ("sv1-tls", address));
        let all = [("sv1", self.local_addr())].into_iter().chain(tls);
        let source = Arc::new(Telling {
            status: Arc::clone(&self.status),
            endpoints: all
                .map(|(protocol, address)| telling::endpoint(protocol, address))
                .collect(),
        });
        Ok(stats::sender::start(
            &self.config.stats,
            "translator",
            source,
            stop.clone(),
        )?)
    }

    fn common(&self) -> Common {
        Common {
            settings: Arc::new(self.config.settings()),
            tls: self.tls.clone(),
            write_timeout: Duration::from_secs(self.config.write_timeout_seconds),
            lines_per_second: self.config.lines_per_second,
            linger: Duration::from_secs(self.config.linger_seconds),
            reconnect: self.config.reconnect_on_shutdown,
            ports: [
                self.local_addr().port(),
                self.tls_addr().map_or(0, |address| address.port()),
            ],
            status: Arc::clone(&self.status),
        }
    }

    /// The future of one miner's connection.
    fn serve(
        &self,
        accepted: Accepted,
        next: &mut Connections,
        common: &Arc<Common>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (extranonce1, slot) = next.take(self.upstream.links.len());
        let now = Now {
            instant: Instant::now(),
        };
        let links = self.upstream.links[slot].subscribe();
        let common = Arc::clone(common);
        // On the heap: most connections need it for no time at all.
        let identified = Box::pin(identify(accepted, stop.clone()));
        async move {
            let Some(accepted) = identified.await else {
                return;
            };
            let Accepted {
                stream,
                peer,
                entrance,
                permit,
            } = accepted;
            tracing::debug!(%peer, "miner connected");
            let entry = common
                .status
                .arrive(peer, common.ports[usize::from(entrance > 0)]);
            let pace = Pace::new(common.lines_per_second, now.instant);
            let session = Session::new(now, extranonce1, Arc::clone(&common.settings));
            let mut driver = Driver::new(session, Arc::clone(&entry), links);
            let mut socket = Socket::new(stream, common.write_timeout, pace);
            // The listener's first socket is the plain one.
            let entered = match &common.tls {
                // On the heap, because it is over soon.
                Some(door) if entrance > 0 => Box::pin(socket.enter(door, &driver, &stop)).await,
                _ => Ok(()),
            };
            let mut end = match entered {
                Ok(()) => socket.serve(&mut driver, &stop).await,
                Err(end) => end,
            };
            if end == End::Shutdown && !common.status.is_listening() {
                end = End::Outage;
            } else if end == End::Shutdown && entered.is_ok() {
                // On the heap: needed once, at the end.
                Box::pin(socket.farewell(&mut driver, common.reconnect)).await;
            }
            let peer = entry.address();
            tracing::debug!(%peer, reason = end.name(), "miner disconnected");
            socket.close();
            drop((socket, permit));
            entry.hung_up();
            driver.linger(end, common.linger).await;
            common.status.depart(&entry, end.name());
        }
    }
}

/// What all connections of miners have in common; in one place, so that each of them stays small.
struct Common {
    settings: Arc<Settings>,
    tls: Option<Arc<Door>>,
    write_timeout: Duration,
    lines_per_second: u32,
    linger: Duration,
    /// Whether miners are asked to come again at the end.
    reconnect: bool,
    /// By the listener's sockets.
    ports: [u16; 2],
    status: Arc<Status>,
}

/// Learns who really calls; `None` if that is not to be had.
async fn identify(accepted: Accepted, shutdown: CancellationToken) -> Option<Accepted> {
    let peer = accepted.peer;
    tokio::select! {
        identified = accepted.identify() => identified
            .inspect_err(|reason| tracing::debug!(%peer, %reason, "connection refused"))
            .ok(),
        () = shutdown.cancelled() => None,
    }
}

/// Numbers connections, and so spreads them.
#[derive(Debug, Default)]
struct Connections(u32);

impl Connections {
    /// An extranonce1, and which of so many slots.
    fn take(&mut self, slots: usize) -> ([u8; session::EXTRANONCE1_SIZE], usize) {
        self.0 = self.0.wrapping_add(1);
        let slot = usize::try_from(self.0).unwrap_or(0) % slots;
        (self.0.to_be_bytes(), slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection costs while nothing happens, beside its socket: this future, its channel, and its entry in the
    /// status.
    #[tokio::test]
    async fn an_idle_connection_stays_small() {
        let config = Config {
            listen_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_address: http::Address::Off,
            ..Config::default()
        };
        let mut translator = Translator::bind(config).await.unwrap();
        let _miner = tokio::net::TcpStream::connect(translator.local_addr())
            .await
            .unwrap();
        let accepted = translator.listener.accept().await;
        let future = translator.serve(
            accepted,
            &mut Connections::default(),
            &Arc::new(translator.common()),
            CancellationToken::new(),
        );
        assert!(size_of_val(&future) <= 2048, "{}", size_of_val(&future));
    }

    #[test]
    fn miners_are_spread_and_no_two_share_an_extranonce1() {
        let mut next = Connections::default();
        let taken: Vec<_> = (0..4).map(|_| next.take(2)).collect();
        assert_eq!(taken.iter().filter(|(_, slot)| *slot == 0).count(), 2);
        assert!(taken.windows(2).all(|pair| pair[0].0 != pair[1].0));
    }
}
