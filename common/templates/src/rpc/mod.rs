//! The `bitcoin-rpc` source: `getblocktemplate` and `submitblock` of a Bitcoin Core or Knots node.

mod client;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod real_node_tests;
mod source;
mod submit;
mod template;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, RpcConfig,
    health::Board,
    running::{Running, Sink},
};
use client::Client;
use source::Source;

pub(crate) use submit::Submitter;

pub(crate) fn start(config: &RpcConfig, shutdown: CancellationToken) -> Result<Running, Error> {
    let submitter = submitter(config)?;
    let board = Arc::new(Board::new(
        "bitcoin-rpc",
        config.endpoint()?.url.to_string(),
        seconds(config.stale_after_seconds),
    ));
    let source = Source::new(
        Arc::clone(&submitter.client),
        Arc::clone(&board),
        Arc::clone(&submitter.refresh),
        seconds(config.refresh_interval_seconds),
    );
    tokio::spawn(async move { shutdown.run_until_cancelled(source.run()).await });
    Ok(Running {
        board,
        sink: Sink::Rpc(Arc::new(submitter)),
    })
}

/// What hands blocks to the node, without what follows it.
pub(crate) fn submitter(config: &RpcConfig) -> Result<Submitter, Error> {
    Ok(Submitter {
        client: Arc::new(Client::new(config)?),
        window: seconds(config.submit_seconds),
        refresh: Arc::new(Notify::new()),
    })
}

fn seconds(value: u32) -> Duration {
    Duration::from_secs(value.into())
}
