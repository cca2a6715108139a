//! A Stratum V1 CPU miner that finds real shares, for trying things out and for tests; it earns nothing on a public
//! network.
//!
//! The `hashpool` binary and the end-to-end tests run it against anything that speaks Stratum V1. It never opens a
//! listening socket, stores nothing, and knows no other role.

mod backoff;
mod config;
mod connection;
mod feed;
mod hash;
mod job;
mod miner;
mod pacing;
mod search;
mod server;
mod session;
pub mod simulate;
mod status;
mod threads;

use std::{fmt, io};

use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use miner::Miner;
pub use status::{Rejected, Snapshot, StatusHandle};

/// Why a miner cannot start. Whatever a server does is no error: the miner reconnects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's: a value that cannot be.
    #[error("{key}: {reason}")]
    Config {
        /// The key in the configuration, or the option.
        key: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The system's: it gives no thread to hash on.
    #[error("cannot start a thread: {0}")]
    Threads(io::Error),
}

impl Error {
    fn config(key: &'static str, reason: impl fmt::Display) -> Self {
        Self::Config {
            key,
            reason: reason.to_string(),
        }
    }
}

/// Mines as configured until `shutdown`.
///
/// # Errors
/// As [`Miner::new`] and [`Miner::run`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Miner::new(config)?.run(shutdown).await
}
