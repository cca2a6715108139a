//! What each client used, kept for bills: by client and hour, in SQLite or PostgreSQL.
//!
//! The relay tells it its counts once an interval; `hashpool relay bill` reads what is kept, with or without a relay that runs.
//! It stands beside the way of the bytes: a database that is slow or away costs no connection anything. What was counted since
//! the last commit is lost with the process, and nothing is counted twice.

mod bill;
mod config;
mod meter;
mod store;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use storage::{Health, Keeper, Url};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use bill::{Bill, Hours, Reader, Step};
pub use config::StorageConfig;
pub use meter::Usage;

use store::{Connection, Writing};
use writer::Writer;

/// The running books of one relay.
#[derive(Debug)]
pub(crate) struct Books {
    health: watch::Receiver<Health>,
    stop: oneshot::Sender<()>,
    writer: JoinHandle<()>,
}

/// Why there can be no books, or no bill.
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
    /// The database cannot be used.
    #[error("billing: {0}")]
    Storage(storage::Error),
    /// There is nothing there yet.
    #[error("no relay has written to {0}")]
    Empty(String),
    /// Nothing is kept.
    #[error("storage.url is \"off\", so nothing is kept for bills")]
    Off,
    /// The database does not do what it is asked.
    #[error("billing: {0}")]
    Database(#[from] diesel::result::Error),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Url(problem) => Self::Config {
                key: "storage.url",
                problem: problem.to_owned(),
            },
            error => Self::Storage(error),
        }
    }
}

impl Books {
    /// Opens the database and begins to write what `totals` says: for each client counts that begin at zero with this process
    /// and only grow. Nothing is kept if that is configured.
    ///
    /// # Errors
    /// [`Error`], all of them the operator's to mend.
    pub(crate) async fn open(
        config: &StorageConfig,
        totals: impl Fn() -> BTreeMap<String, Usage> + Send + 'static,
    ) -> Result<Option<Self>, Error> {
        config.validate()?;
        let Some(url) = config.place()? else {
            return Ok(None);
        };
        let mut connection = store::connect(&url, true).await?.migrate().await?;
        let id = config.relay_id.into();
        let boot = connection.count_start(id).await?;
        let keeper: Keeper<Connection> = Keeper::new("billing", url, connection);
        let health = keeper.health();
        let (stop, stopped) = oneshot::channel();
        let writer = Writer::new(config.interval(), keeper, Writing { id, boot }, totals);
        Ok(Some(Self {
            health,
            stop,
            writer: tokio::spawn(writer.run(stopped)),
        }))
    }

    /// Whether commits succeed; changes are published.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Writes what there is and ends; to be called when nothing is counted any more. Gives up after `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        let Self {
            stop, mut writer, ..
        } = self;
        // The writer has ended where nobody hears it: another relay has taken over.
        let _ = stop.send(());
        if timeout(limit, &mut writer).await.is_err() {
            writer.abort();
            tracing::error!("billing: what was counted last could not be written in time");
        }
    }
}

/// Where bills are kept, if they are.
fn place(config: &StorageConfig) -> Result<Option<Url>, Error> {
    if config.url.trim() == OFF {
        return Ok(None);
    }
    Ok(Some(Url::parse(&config.url, config.ca_file.as_deref())?))
}

/// What stands in place of a URL where nothing is kept.
const OFF: &str = "off";

#[cfg(test)]
mod tests;
