//! The pool: SV2 mining over Noise, jobs from a template source, shares judged, blocks handed to the node.
//!
//! The `hashpool` binary runs it; translators and SV2 miners connect to it. It never speaks to a bitcoin node itself
//! (crate `templates` does) and knows no Stratum V1.
//!
//! One task per connection drives one [`session`], which is a state machine without I/O. What all connections share is
//! read-only: the newest [`board::Work`], swapped whole.

mod accounts;
mod acknowledge;
mod blocks;
mod board;
mod channel;
mod config;
mod connection;
mod error;
mod extranonce;
mod job;
mod limits;
mod metrics;
mod mining;
mod outage;
mod payee;
mod payout;
mod peers;
mod session;
mod shares;
mod status;
mod submit;
mod telling;
mod tiers;
mod workers;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use ledger::Health;
use service::{http::Server, listener::Listener};
use stats_events::Endpoint;
use sv2_connection::{AuthorityPublicKey, Gate};
use templates::Templates;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use accounts::{Accept, AccountsConfig};
pub use config::Config;
pub use error::Error;
pub use status::{BlockReport, Status, StatusHandle};

use blocks::Blocks;
use board::Board;
use connection::Shared;
use extranonce::Prefixes;
use payee::Payees;
use session::Resources;
use status::Counters;

/// How long the ledger may take at the end for what is still to be written.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How long after the time that clients have to leave a connection may still be there. None should be.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A pool whose socket is open, and whose template source and ledger run.
pub struct Pool {
    config: Config,
    listener: Listener,
    shared: Arc<Shared>,
    status: StatusHandle,
    templates_stop: CancellationToken,
    http: Server,
}

/// Binds and runs a pool until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Pool::bind(config).await?.run(shutdown).await
}

impl Pool {
    /// Checks the configuration, opens the socket and the ledger, and starts the template source.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let authority = config.authority()?;
        let listener = Listener::bind(config.listen_address, &config.limits)?
            .behind(config.proxy_protocol.clone())?;
        let ledger = ledger::Opened::open(&config.storage()).await?;
        let templates_stop = CancellationToken::new();
        let templates =
            templates::start_all(&config.template, &config.failover, templates_stop.clone())?;
        let handshakes = Arc::new(Gate::new(config.handshakes_at_a_time()));
        let counters = Arc::new(Counters::new(listener.counters(), Arc::clone(&handshakes)));
        let status = StatusHandle::new(Arc::clone(&counters), templates.clone(), &ledger);
        let accounts = config.accounts.rules()?;
        let http = Server::bind(config.http_address, metrics::endpoints(&status)?)?;
        // Last, because it ends another process with this server_id.
        let ledger = ledger.start(config.server_id).await?;
        let shared = Shared {
            resources: Arc::new(Resources {
                settings: config.session_settings(),
                accounts,
                payees: Payees::new(&config.pool_tag),
                places: config.places(),
                prefixes: Prefixes::of_start(config.server_id, ledger.boot()),
            }),
            options: config.connection_options(),
            outage: outage::watch(
                templates.clone(),
                config.stale_work(),
                templates_stop.clone(),
            ),
            messages_per_second: config.messages_per_second,
            authority,
            handshakes,
            templates,
            ledger,
            counters,
            blocks: Blocks::default(),
            peers: config.stats.is_on().then(Arc::default),
            stopped_at: OnceLock::new(),
        };
        Ok(Self {
            http,
            config,
            listener,
            shared: Arc::new(shared),
            status,
            templates_stop,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where it answers operators, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.local_addr()
    }

    /// What clients have to pin.
    pub fn authority_public_key(&self) -> AuthorityPublicKey {
        self.shared.authority.public()
    }

    /// The chain it works on, for whoever wants to look.
    pub fn templates(&self) -> Templates {
        self.shared.templates.clone()
    }

    /// Counters that can be read while it runs and after.
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// Starts to tell a stats service what happens, if one is configured.
    fn start_telling(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<stats::sender::Running>, Error> {
        let Some(peers) = &self.shared.peers else {
            return Ok(None);
        };
        let listens = self.local_addr();
        let source = telling::Telling {
            status: self.status(),
            templates: self.templates(),
            peers: Arc::clone(peers),
            listens,
            endpoints: vec![Endpoint {
                protocol: "sv2-mining".to_owned(),
                address: listens.to_string(),
                authority_public_key: Some(self.authority_public_key().to_string()),
            }],
            last_template: Mutex::default(),
        };
        let stats = &self.config.stats;
        Ok(stats::sender::start(
            stats,
            "pool",
            Arc::new(source),
            stop.clone(),
        )?)
    }

    /// Serves until `shutdown`; then stops accepting, ends the connections, and at last the ledger and the template
    /// source.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        // Told to stop when all else has, so that it tells the last counts.
        let stats_stop = CancellationToken::new();
        let telling = self.start_telling(&stats_stop)?;
        let Self {
            config,
            listener,
            shared,
            status: _,
            templates_stop,
            http,
        } = self;
        // Operators are answered until the very end.
        let http_stop = CancellationToken::new();
        tokio::spawn(http.run(http_stop.clone()));
        let _stop_http_last = http_stop.drop_guard();
        let _stop_source_last = templates_stop.drop_guard();
        info!(
            address = %listener.local_addr(),
            authority_public_key = %shared.authority.public(),
            "pool listens"
        );
        let board = Board::start(&config, &shared.templates, shutdown.clone())?;
        let follower = tokio::spawn(blocks::follow(
            Arc::clone(&shared),
            shared.templates.subscribe(),
            config.server_id,
            config.block_confirmations,
        ));
        let served = serve(listener, &shared, board, config.server_id, &shutdown).await;
        follower.abort();
        let _ = follower.await;
        let templates = shared.templates.clone();
        let closed = close(shared).await;
        templates.finish().await;
        stats_stop.cancel();
        if let Some(telling) = telling {
            telling.ended().await;
        }
        info!("pool stopped");
        served.and(closed)
    }
}

/// Accepts connections until `shutdown`, or until there is no going on; then ends them all.
async fn serve(
    mut listener: Listener,
    shared: &Arc<Shared>,
    mut board: Board,
    server_id: u16,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut ledger = shared.ledger.health();
    // Cancelled when nobody can come in any more.
    let connections_stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    let result = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            ended = board.ended() => break ended,
            taken_over = ledger.wait_for(|health| *health == Health::TakenOver) => {
                break Err(match taken_over {
                    Ok(_) => Error::TakenOver(server_id),
                    Err(_) => Error::LedgerEnded,
                });
            }
            accepted = listener.accept() => {
                let task = connection::serve(
                    accepted,
                    Arc::clone(shared),
                    board.work(),
                    connections_stop.clone(),
                );
                connections.spawn(task);
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection's task ended badly");
                }
            }
        }
    };
    // So that clients that come back now are refused, and go elsewhere.
    drop(listener);
    connections_stop.cancel();
    let all_left = async { while connections.join_next().await.is_some() {} };
    let at_most = shared.resources.settings.drain + LAST_WORDS;
    if timeout(at_most, all_left).await.is_err() {
        warn!(
            connections = connections.len(),
            "connections that did not end in time are dropped"
        );
        connections.shutdown().await;
    }
    result
}

/// Waits for what is on its way to the node and to the ledger.
async fn close(shared: Arc<Shared>) -> Result<(), Error> {
    // The source gives a node that is away a configured time; a block is worth waiting for.
    shared.blocks.delivered().await;
    tokio::select! {
        () = shared.blocks.recorded() => {}
        () = stays_unwritable(shared.ledger.health()) => {
            warn!("blocks are not recorded: the ledger cannot be written");
        }
    }
    match Arc::into_inner(shared) {
        Some(shared) => Ok(shared.ledger.close(LAST_COMMIT).await?),
        // Records that wait for the ledger hold it, and end with the process.
        None => Err(Error::BlocksNotRecorded),
    }
}

/// Returns when the ledger has been unwritable for as long as its last commit may take.
async fn stays_unwritable(mut health: watch::Receiver<Health>) {
    let is_writable = |health: &Health| *health == Health::Writable;
    while health.wait_for(|health| !is_writable(health)).await.is_ok() {
        if !matches!(
            timeout(LAST_COMMIT, health.wait_for(is_writable)).await,
            Ok(Ok(_))
        ) {
            return;
        }
    }
}
