//! The pool's durable memory: who has done how much work, and what became of each block.
//!
//! The pool books accepted shares through a [`Booking`] for each connection and acknowledges them when they are
//! committed; `hashpool ledger` reads with a [`Reader`]. It never judges a share, and nothing on a connection's way
//! waits for a lock: one task takes the bookings of all connections, and commits them once an interval.
//!
//! SQLite (with WAL and `synchronous=FULL`) and PostgreSQL (`synchronous_commit=on`) hold the same tables. A committed
//! share survives the end of the process and of the machine, as far as the disk keeps what it says it has written.

mod batch;
mod block;
mod booking;
mod config;
mod fold;
mod journal;
mod report;
mod store;
mod writer;

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle, time::timeout};

pub use block::{Block, BlockState};
pub use booking::{Booking, Entry};
pub use config::StorageConfig;
pub use journal::Unreadable;
pub use report::{Minutes, Reader, Work};
pub use storage::Health;

use booking::Inbox;
use service::http::Histogram;
use storage::{Keeper, Url};
use store::{Connection, Server};
use writer::Writer;

/// How long accepted shares have waited until they were durable, in seconds, by share.
pub type Delays = Histogram<12>;

/// Around the commit interval, and as far as it gets when a disk is busy.
const DELAYS: Delays = Histogram::new(&[
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
]);

/// The running ledger of one pool.
#[derive(Debug)]
pub struct Ledger {
    inbox: Inbox,
    health: watch::Receiver<Health>,
    boot: u64,
    url: Url,
    writer: JoinHandle<()>,
}

/// What could not be made durable in time at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{entries} bookings were not committed in time; none of their shares has been acknowledged"
)]
pub struct Unflushed {
    /// Entries that were still waiting.
    pub entries: usize,
}

/// A ledger that is open and up to date, and that this process does not write to yet.
///
/// The two steps are apart so that a process that cannot start does not end another one with the same id that runs.
pub struct Opened {
    config: StorageConfig,
    url: Url,
    database: Keeper<Connection>,
    delays: watch::Sender<Delays>,
}

impl Opened {
    /// Opens the database, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error`], all of them the operator's to mend.
    pub async fn open(config: &StorageConfig) -> Result<Self, Error> {
        config.validate()?;
        let url = config.place()?;
        let connection = store::connect(&url, true).await?.migrate().await?;
        Ok(Self {
            config: config.clone(),
            database: Keeper::new("the ledger", url.clone(), connection),
            url,
            delays: watch::Sender::new(DELAYS),
        })
    }

    /// Whether commits succeed; changes are published.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.database.health()
    }

    /// How long shares have waited, as it is noted with each commit.
    #[must_use]
    pub fn delays(&self) -> watch::Receiver<Delays> {
        self.delays.subscribe()
    }

    /// Counts this start of the server, after which an earlier one that still runs can write no more.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn start(self, server_id: u16) -> Result<Ledger, Error> {
        let Self {
            config,
            url,
            mut database,
            delays,
        } = self;
        let id = server_id.into();
        let boot = database.connection().await?.count_start(id).await?;
        let server = Server { id, boot };
        let (inbox, outlet) = booking::queue(config.queue);
        let health = database.health();
        let writer = Writer::new(&config, database, server, outlet, delays);
        Ok(Ledger {
            inbox,
            health,
            boot: boot.unsigned_abs(),
            url,
            writer: tokio::spawn(writer.run()),
        })
    }
}

impl Ledger {
    /// Opens the database and starts to write, see [`Opened`].
    ///
    /// # Errors
    /// [`Error`], all of them the operator's to mend.
    pub async fn open(config: &StorageConfig, server_id: u16) -> Result<Self, Error> {
        Opened::open(config).await?.start(server_id).await
    }

    /// How often this server has started, this time included. No two starts have the same number.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// What one connection books with.
    #[must_use]
    pub fn booking(&self) -> Booking {
        Booking::new(self.inbox.clone())
    }

    /// Whether commits succeed; changes are published.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Records a block that was found, before its fate is known. Returns when it is durable, or when that can no longer
    /// be. Recording it again changes nothing.
    pub async fn record_block(&self, block: Block) {
        self.inbox.block_found(block).await;
    }

    /// Records what became of a block. Returns as [`record_block`](Self::record_block) does.
    pub async fn record_state(&self, hash: [u8; 32], state: BlockState) {
        self.inbox.block_state(hash, state).await;
    }

    /// A connection of its own that reads.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub async fn reader(&self) -> Result<Reader, Error> {
        Reader::connect(&self.url).await
    }

    /// Commits what is waiting and ends; to be called when no connection books any more.
    ///
    /// # Errors
    /// [`Unflushed`] if that takes longer than `limit`.
    pub async fn close(self, limit: Duration) -> Result<(), Unflushed> {
        let Self {
            inbox, mut writer, ..
        } = self;
        let waiting = inbox.waiting();
        let before = waiting();
        drop(inbox);
        match timeout(limit, &mut writer).await {
            Ok(Ok(())) => Ok(()),
            // It came to a bad end, and nobody knows how far it got.
            Ok(Err(_)) => Err(Unflushed { entries: before }),
            Err(_) => {
                let entries = waiting();
                writer.abort();
                if entries > 0 {
                    Err(Unflushed { entries })
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// Why a ledger cannot be used.
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
    /// The database cannot be opened.
    #[error("cannot open the ledger {url}: {problem}")]
    Open {
        /// Where it is, without a password.
        url: String,
        /// The database's words.
        problem: String,
    },
    /// There is a database, and no ledger in it.
    #[error(
        "there is no ledger in {0}, or one of an earlier version: a pool of this version has to start with it first"
    )]
    Empty(String),
    /// The tables are of a later version.
    #[error(
        "the ledger {url} was written by a newer version (its migration {version} is unknown here); use that version or a newer one"
    )]
    Newer {
        /// Where it is, without a password.
        url: String,
        /// The migration that is not known here.
        version: String,
    },
    /// What was committed is there and cannot be counted.
    #[error("{0}")]
    Journal(#[from] Unreadable),
    /// The database does not do what it is asked.
    #[error("ledger: {0}")]
    Database(#[from] diesel::result::Error),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Url(problem) => Self::Config {
                key: "storage.url",
                problem: problem.to_owned(),
            },
            storage::Error::Open { url, problem } => Self::Open { url, problem },
            storage::Error::Newer { url, version } => Self::Newer { url, version },
        }
    }
}
