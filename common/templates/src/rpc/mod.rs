//! The `bitcoin-rpc` source: `getblocktemplate` and `submitblock` of a Bitcoin Core or Knots node.

mod client;
#[cfg(test)]
mod fake;
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

use crate::{Error, RpcConfig, Sink, Templates, health::Board};
use client::Client;
use source::Source;

pub(crate) use submit::Submitter;

pub(crate) fn start(config: &RpcConfig, shutdown: CancellationToken) -> Result<Templates, Error> {
    let seconds = |value: u32| Duration::from_secs(value.into());
    let client = Arc::new(Client::new(config)?);
    let board = Arc::new(Board::new(
        "bitcoin-rpc",
        seconds(config.stale_after_seconds),
    ));
    let refresh = Arc::new(Notify::new());
    let source = Source::new(
        Arc::clone(&client),
        Arc::clone(&board),
        Arc::clone(&refresh),
        seconds(config.refresh_interval_seconds),
    );
    tokio::spawn(async move { shutdown.run_until_cancelled(source.run()).await });
    let submitter = Submitter {
        client,
        window: seconds(config.submit_seconds),
        refresh,
    };
    Ok(Templates {
        board,
        sink: Sink::Rpc(Arc::new(submitter)),
    })
}
