//! The template provider: SV2 template distribution over Noise, from any of our template sources.
//!
//! The `hashpool` binary runs it; pools and job declarators of any make connect to it. It speaks to no miner, and to a
//! bitcoin node only through the crate `templates`.
//!
//! One task per connection drives one [`session`], which is a state machine without I/O. What all connections share is
//! read-only: the newest template, swapped whole.

mod config;
mod connection;
mod error;
mod metrics;
mod session;
mod status;

use std::{net::SocketAddr, sync::Arc};

use service::{http::Server, listener::Listener};
use sv2_connection::{Authority, AuthorityPublicKey};
use templates::Templates;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

pub use config::Config;
pub use error::Error;
pub use status::{BlockReport, Status, StatusHandle};

use connection::Shared;
use status::Counters;

/// A template provider whose socket is open and whose template source runs.
pub struct TemplateProvider {
    config: Config,
    listener: Listener,
    templates: Templates,
    authority: Authority,
    counters: Arc<Counters>,
    templates_stop: CancellationToken,
    http: Server,
}

/// Binds and runs a template provider until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    TemplateProvider::bind(config).await?.run(shutdown).await
}

impl TemplateProvider {
    /// Checks the configuration, opens the socket, and starts the template source.
    // Asynchronous as every role's is: the source's tasks need the runtime.
    #[allow(clippy::unused_async)]
    pub async fn bind(config: Config) -> Result<Self, Error> {
        config.validate()?;
        let authority = config.authority()?;
        let listener = Listener::bind(config.listen_address, &config.limits)?;
        let templates_stop = CancellationToken::new();
        let templates =
            templates::start_all(&config.template, &config.failover, templates_stop.clone())?;
        let counters = Arc::new(Counters::new(listener.counters()));
        let status = StatusHandle::new(Arc::clone(&counters), templates.clone());
        Ok(Self {
            http: Server::bind(config.http_address, metrics::endpoints(&status)?)?,
            counters,
            config,
            listener,
            templates,
            authority,
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
        self.authority.public()
    }

    /// Counters that can be read while it runs and after.
    pub fn status(&self) -> StatusHandle {
        StatusHandle::new(Arc::clone(&self.counters), self.templates.clone())
    }

    /// Serves until `shutdown`; then stops accepting, ends the connections and the template source. It also ends where
    /// the source cannot be used until the operator changes something.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            mut listener,
            templates,
            authority,
            counters,
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
            authority_public_key = %authority.public(),
            "template provider listens"
        );
        let connections_stop = shutdown.child_token();
        let shared = Arc::new(Shared {
            settings: config.session_settings(),
            options: config.connection_options(),
            authority,
            templates: templates.clone(),
            counters,
            submissions: TaskTracker::new(),
        });
        let mut connections = JoinSet::new();
        let mut usable = false;
        let mut result = Ok(());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                ready = templates.ready(), if !usable => match ready {
                    Ok(_) => usable = true,
                    Err(error) => {
                        result = Err(error.into());
                        break;
                    }
                },
                accepted = listener.accept() => {
                    let task = connection::serve(accepted, Arc::clone(&shared), connections_stop.clone());
                    connections.spawn(task);
                }
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection's task ended badly");
                    }
                }
            }
        }
        // So that clients that come back now are refused, and go elsewhere.
        drop(listener);
        connections_stop.cancel();
        while connections.join_next().await.is_some() {}
        // The source gives a node that is away a configured time; a block is worth waiting for.
        shared.submissions.close();
        shared.submissions.wait().await;
        templates.finish().await;
        info!("template provider stopped");
        result
    }
}
