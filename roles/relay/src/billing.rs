//! What each client used, kept for bills: by client and hour, in SQLite or PostgreSQL.
//!
//! The relay tells it its counts once an interval; `hashpool relay bill` reads what is kept, with or without a relay that runs.
//! It stands beside the way of the bytes: a database that is slow or away costs no connection anything. What was counted since
//! the last commit is lost with the process, and nothing is counted twice.

mod bill;
mod clock;
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

use clock::Clock;
use store::Writing;
use writer::Writer;

/// The running books of one relay.
#[derive(Debug)]
pub(crate) struct Books {
    condition: Condition,
    stop: oneshot::Sender<()>,
    writer: JoinHandle<()>,
}

/// Whether what is used can be written; always what is so now.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    health: watch::Receiver<Health>,
    refused: watch::Receiver<usize>,
}

impl Condition {
    /// Whether commits succeed.
    pub(crate) fn is_writable(&self) -> bool {
        *self.health.borrow() == Health::Writable
    }

    /// Rows, of a client and an hour each, that the database refuses while it takes others.
    pub(crate) fn refused_rows(&self) -> usize {
        *self.refused.borrow()
    }

    /// What is wrong, if something is.
    pub(crate) fn problem(&self) -> Option<String> {
        match &*self.health.borrow() {
            Health::Stalled(problem) => return Some(format!("billing: {problem}")),
            // No relay takes another's place.
            Health::Writable | Health::TakenOver => {}
        }
        let rows = self.refused_rows();
        (rows > 0).then(|| {
            format!("billing: the database refuses {rows} rows; the log names their clients")
        })
    }
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
    /// It is in no other relay's way, whatever that one's configuration says, and writes nothing before there is something.
    ///
    /// # Errors
    /// [`Error`], all of them the operator's to mend.
    pub(crate) async fn open(
        config: &StorageConfig,
        totals: impl Fn() -> BTreeMap<String, Usage> + Send + 'static,
    ) -> Result<Option<Self>, Error> {
        Self::open_at(config, totals, clock::now_ms).await
    }

    /// The same with a clock: milliseconds since the Unix epoch.
    async fn open_at(
        config: &StorageConfig,
        totals: impl Fn() -> BTreeMap<String, Usage> + Send + 'static,
        now_ms: impl Fn() -> u64 + Send + 'static,
    ) -> Result<Option<Self>, Error> {
        config.validate()?;
        let Some(url) = config.place()? else {
            return Ok(None);
        };
        let mut connection = store::prepare(&url).await?;
        let clock = Clock::new(now_ms, store::last_hour(&mut connection).await?);
        let keeper = Keeper::new("billing", url, connection);
        let health = keeper.health();
        let (stop, stopped) = oneshot::channel();
        let writing = Writing::draw(config.relay_id);
        let writer = Writer::new(config.interval(), clock, keeper, writing, totals);
        let refused = writer.refused();
        Ok(Some(Self {
            condition: Condition { health, refused },
            stop,
            writer: tokio::spawn(writer.run(stopped)),
        }))
    }

    /// Whether what is used can be written.
    pub(crate) fn condition(&self) -> Condition {
        self.condition.clone()
    }

    /// Writes what there is and ends; to be called when nothing is counted any more. Gives up after `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        let Self {
            stop, mut writer, ..
        } = self;
        // It is heard unless the writer has failed.
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
