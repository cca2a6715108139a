//! The side of a service: takes what senders tell, keeps it, and has it ready for pages, API and metrics.
//!
//! The roles `pool-stats` and `proxy-stats` run it. One task for each connection reads frames into a bounded queue; one
//! writer applies them to the [`Board`](crate::board::Board), commits what has changed once an interval, and only then acknowledges. While the
//! database stalls nobody is read, and everything goes on by itself.

mod clock;
mod config;
mod connection;
mod history;
mod metrics;
mod order;
mod tls;
mod view;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use service::http::{self, prometheus};
use service::listener::{self, Listener};
use service::tls::{Certificate, reload_on_hangup};
use storage::Health;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use config::{Config, Expected, Role, StorageConfig, TlsConfig};
pub use history::History;
pub use metrics::MetricsConfig;
pub use view::View;

use crate::web;
use connection::Shared;
use metrics::Counters;
use tls::Door;
use writer::{Opened, Writer};

/// What is not committed so long after the stop is given up; nothing of it was acknowledged.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// Why a stats service cannot run; all but the last are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The key, with dots.
        key: &'static str,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] listener::Error),
    /// The database cannot be used.
    #[error("stats: {0}")]
    Storage(#[from] storage::Error),
    /// The database does not do what it is asked.
    #[error("stats: {0}")]
    Database(#[from] diesel::result::Error),
    /// Another process writes to the database.
    #[error(
        "another service has been started with the same database; give this one another storage.url"
    )]
    TakenOver,
    /// The system lets nobody hear of SIGHUP.
    #[error("cannot listen for signals: {0}")]
    Signal(std::io::Error),
    /// A metric's name, which is a mistake of ours.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A stats service whose ports are open and whose database is up to date.
pub struct Receiver<R> {
    config: Config<R>,
    listener: Listener,
    http: http::Server,
    door: Option<Arc<Door>>,
    writer: Writer,
    shared: Arc<Shared>,
    view: View,
}

impl<R: Role> Receiver<R> {
    /// Checks the configuration, opens the ports, and reads what was stored.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn bind(config: Config<R>) -> Result<Self, Error> {
        config.validate()?;
        let door = config.tls.door()?;
        let token = config.token()?;
        // Whoever has one of the ports may have the database, too, and goes on with it.
        let listener = Listener::bind(config.listen_address, &config.limits)?;
        let port = http::Port::open(config.http_address)?;
        let place = config.storage.place(R::NAME)?;
        let opened = Opened::open(place, &config.expected).await?;
        let counters = Arc::<Counters>::default();
        let (orders, inbox) = order::queue(config.queue);
        let (writer, view) = Writer::new(opened, &config.storage, inbox, Arc::clone(&counters));
        let endpoints =
            metrics::endpoints::<R>(config.metrics, &view, &counters, listener.counters())?;
        let guard = config.web.guard().map_err(|problem| Error::Config {
            key: "web.token_file",
            problem,
        })?;
        let pages = web::router(R::PAGES, R::NAME, view.clone(), guard, config.web.clone());
        let http = http::Server::with_pages(port, endpoints, pages);
        let shared = Arc::new(Shared {
            orders,
            health: view.health(),
            counters,
            token,
            roles: config.roles.clone(),
            network: config.network.clone(),
            hello_timeout: Duration::from_secs(config.hello_timeout_seconds.into()),
            write_timeout: Duration::from_secs(config.write_timeout_seconds.into()),
        });
        Ok(Self {
            config,
            listener,
            http,
            door,
            writer,
            shared,
            view,
        })
    }

    /// Where senders connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where pages and operators are answered, if they are.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.local_addr()
    }

    /// What senders over TLS are shown, for whoever has it read again; SIGHUP does.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.door.as_ref().map(|door| door.certificate())
    }

    /// What is known, for whoever shows it.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Serves until `shutdown`; then hangs up, and commits what it was told.
    ///
    /// # Errors
    /// [`Error::TakenOver`]
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let reload =
            reload_on_hangup(self.certificate(), shutdown.clone()).map_err(Error::Signal)?;
        tokio::spawn(reload);
        let Self {
            config,
            mut listener,
            http,
            door,
            writer,
            shared,
            mut view,
        } = self;
        // Operators are answered until the very end.
        let http_stop = CancellationToken::new();
        tokio::spawn(http.run(http_stop.clone()));
        let _stop_http_last = http_stop.drop_guard();
        let writing = tokio::spawn(writer.run());
        info!(
            address = %listener.local_addr(),
            tls = door.is_some(),
            storage = config.storage.shown(R::NAME),
            "{} listens", R::NAME
        );
        let stop = shutdown.child_token();
        let mut connections = JoinSet::new();
        let result = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                () = view.taken_over() => break Err(Error::TakenOver),
                accepted = listener.accept() => {
                    let (door, shared) = (door.clone(), Arc::clone(&shared));
                    connections.spawn(connection::serve(accepted, door, shared, stop.clone()));
                }
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        debug!(%error, "a connection's task ended badly");
                    }
                }
            }
        };
        drop(listener);
        stop.cancel();
        // The writer ends when nobody can tell it anything any more.
        drop(shared);
        finish(connections, writing).await;
        info!("{} stopped", R::NAME);
        result
    }
}

/// Waits for the last commit.
async fn finish(mut connections: JoinSet<()>, mut writing: JoinHandle<()>) {
    let end = async {
        while connections.join_next().await.is_some() {}
        (&mut writing).await
    };
    if timeout(LAST_COMMIT, end).await.is_err() {
        warn!("the last that was told could not be stored; senders will tell it again");
        writing.abort();
    }
}

/// Whether writing is possible, in a few words.
fn problem(health: &Health) -> Option<String> {
    match health {
        Health::Writable => None,
        Health::Stalled(problem) => Some(format!("the store cannot be written: {problem}")),
        Health::TakenOver => Some("another service writes to the store".to_owned()),
    }
}
