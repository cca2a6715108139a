//! Where block templates come from, and where solved blocks go.
//!
//! The pool and the template provider call it: they [`start`] a source, watch its newest [`Template`] and [`submit`]
//! what solves one. It never talks to miners, pays nobody and decides no difficulty.
//!
//! [`submit`]: Templates::submit

mod backoff;
mod block;
mod config;
mod embedded;
mod failover;
mod fate;
mod fit;
mod health;
mod rpc;
mod running;
mod sv2;
mod template;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use bitcoin::Network;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::{EmbeddedConfig, FailoverConfig, RpcConfig, SourceConfig, Sources, Sv2Config};
pub use fate::{Fate, FateError};
pub use fit::{Room, TooLarge};
pub use health::{Health, SourceStatus, Status};
pub use template::{BlockTransaction, Body, CoinbaseTemplate, Solution, Submission, Template};

use failover::Failover;
use health::Board;
use running::Running;

/// What 21 million coins are in satoshis.
pub(crate) const MAX_MONEY: u64 = 21_000_000 * 100_000_000;
/// A block's weight limit (BIP 141); a byte weighs at least one.
pub(crate) const MAX_BLOCK_WEIGHT: u64 = 4_000_000;

/// Starts the source's task on the running tokio runtime; it ends with `shutdown`.
///
/// A node that cannot be reached is no error here: it is awaited, and [`Templates::health`] says so.
pub fn start(config: SourceConfig, shutdown: CancellationToken) -> Result<Templates, Error> {
    start_all(&config.into(), &FailoverConfig::default(), shutdown)
}

/// As [`start`], with sources in the order of preference: where the first is away, another takes its place.
pub fn start_all(
    sources: &Sources,
    failover: &FailoverConfig,
    shutdown: CancellationToken,
) -> Result<Templates, Error> {
    sources.validate()?;
    failover.validate()?;
    let mut started = Vec::new();
    for config in sources.iter() {
        started.push(Running::start(config.clone(), shutdown.clone())?);
    }
    Ok(match <[Running; 1]>::try_from(started) {
        Ok([source]) => Templates(Inner::One(source)),
        Err(several) => Templates(Inner::Several(Failover::start(several, failover, shutdown))),
    })
}

/// A handle to the running source or sources, cheap to clone.
#[derive(Clone)]
pub struct Templates(Inner);

#[derive(Clone)]
enum Inner {
    One(Running),
    Several(Arc<Failover>),
}

impl Templates {
    /// The newest template; `None` until the source has given one. A slow reader sees only the latest.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Template>>> {
        self.board().subscribe()
    }

    /// Hands a solved block over at once, to all sources that can take it. Waits for the answer, and while a node cannot
    /// be reached tries again for the configured time. A submission under way continues when the caller stops waiting.
    pub async fn submit(&self, solution: Solution) -> Submission {
        match &self.0 {
            Inner::One(source) => source.submit(solution).await,
            Inner::Several(failover) => failover.submit(solution).await,
        }
    }

    /// Hands over a whole block ([`Solution::block`]), for instance one that could not be delivered before a restart. A
    /// block that the chain has already counts as accepted; otherwise as [`Templates::submit`].
    pub async fn submit_block(&self, block: Bytes) -> Submission {
        match &self.0 {
            Inner::One(source) => source.submit_block(block).await,
            Inner::Several(failover) => failover.submit_block(block).await,
        }
    }

    /// Waits for nodes that a block is still on its way to though another one has accepted it; for some seconds at most. To
    /// be called at the end, when all submissions are answered.
    pub async fn finish(&self) {
        match &self.0 {
            // Its answer is the only one.
            Inner::One(_) => {}
            Inner::Several(failover) => failover.finish().await,
        }
    }

    /// Where the block of this hash (as in headers) and height stands now.
    pub async fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        match &self.0 {
            Inner::One(source) => source.fate(hash, height).await,
            Inner::Several(failover) => failover.fate(hash, height).await,
        }
    }

    /// Asks the source for a template now rather than at its next interval. A template provider cannot be asked.
    pub fn refresh(&self) {
        match &self.0 {
            Inner::One(source) => source.refresh(),
            Inner::Several(failover) => failover.refresh(),
        }
    }

    /// The chain that the source works on; known before the first template is there.
    pub fn network(&self) -> Option<Network> {
        self.board().network()
    }

    /// Waits for the first template, or for what makes the source unusable until the operator changes something.
    pub async fn ready(&self) -> Result<Arc<Template>, Error> {
        self.board().ready().await
    }

    /// Whether work on the newest template is worth doing, and if not, why.
    pub fn health(&self) -> Health {
        match &self.0 {
            Inner::One(source) => source.board.health(),
            Inner::Several(failover) => failover.health(),
        }
    }

    /// What an operator wants to see of the source.
    pub fn status(&self) -> Status {
        match &self.0 {
            Inner::One(source) => source.board.status(),
            Inner::Several(failover) => failover.status(),
        }
    }

    fn board(&self) -> &Board {
        match &self.0 {
            Inner::One(source) => &source.board,
            Inner::Several(failover) => &failover.board,
        }
    }
}

/// Why a source cannot be used: always something that the operator has to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The key, as it stands in the file.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The node runs a chain that blocks cannot be made for here.
    #[error("the node's chain cannot be used: {0}")]
    Unsupported(String),
    /// The source's task has ended.
    #[error("the template source has stopped")]
    Stopped,
}
