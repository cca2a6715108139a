//! Why a pool cannot start or go on.

use sv2_connection::AuthorityKeyError;

/// The operator's to mend, all of them.
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
    /// There is no key to prove itself with, or none that can be used.
    #[error(transparent)]
    AuthorityKey(#[from] AuthorityKeyError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// Another process writes under this one's id.
    #[error(
        "another pool with server_id {0} has begun to write to this ledger; give each pool a server_id of its own"
    )]
    TakenOver(u16),
    /// Ours: the task that writes the ledger has ended.
    #[error(
        "the ledger is no longer written; this is a fault of the pool, please report it with its log"
    )]
    LedgerEnded,
    /// Blocks that were found are not in the ledger.
    #[error(
        "blocks that were found are not recorded, because the ledger could not be written; the node has been given them"
    )]
    BlocksNotRecorded,
    /// Shares that were accepted are not in the ledger.
    #[error(transparent)]
    Unflushed(#[from] ledger::Unflushed),
    /// The listening socket.
    #[error(transparent)]
    Listen(#[from] service::listener::Error),
    /// Ours: the task that makes jobs has ended.
    #[error("no more jobs can be made; this is a fault of the pool, please report it with its log")]
    NoMoreWork,
    /// Ours: two metrics have one name.
    #[error("metrics: {0}; this is a fault of the pool, please report it")]
    Metrics(#[from] service::http::prometheus::Error),
    /// What is to be told to a stats service, or how.
    #[error(transparent)]
    Stats(#[from] stats::sender::Error),
    /// The template source cannot be used as configured.
    #[error("template source: {0}")]
    Templates(#[from] templates::Error),
}
