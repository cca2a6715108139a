//! One running source: what it shows, and where its blocks go.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Fate, FateError, Solution, SourceConfig, Submission, embedded, health::Board, rpc, sv2,
};

/// A handle to a source, cheap to clone.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) board: Arc<Board>,
    pub(crate) sink: Sink,
}

/// Where solutions go.
#[derive(Clone)]
pub(crate) enum Sink {
    Embedded(Arc<embedded::Source>),
    Rpc(Arc<rpc::Submitter>),
    Sv2(Arc<sv2::Source>),
}

impl Running {
    pub(crate) fn start(config: SourceConfig, shutdown: CancellationToken) -> Result<Self, Error> {
        match config {
            SourceConfig::Embedded(config) => Ok(embedded::start(&config, shutdown)),
            SourceConfig::BitcoinRpc(config) => rpc::start(&config, shutdown),
            SourceConfig::Sv2(config) => sv2::start(&config, shutdown),
        }
    }

    pub(crate) async fn submit(&self, solution: Solution) -> Submission {
        let submission = match &self.sink {
            Sink::Embedded(source) => source.submit(&solution),
            Sink::Rpc(submitter) => submitter.submit(solution).await,
            Sink::Sv2(source) => source.submit(solution).await,
        };
        self.board.count(&submission);
        submission
    }

    pub(crate) fn takes_blocks(&self) -> bool {
        !matches!(self.sink, Sink::Sv2(_))
    }

    pub(crate) async fn submit_block(&self, block: Bytes) -> Submission {
        let submission = match &self.sink {
            Sink::Embedded(source) => source.submit_block(&block),
            Sink::Rpc(submitter) => submitter.submit_block(block).await,
            Sink::Sv2(_) => Submission::Unreachable(
                "template distribution hands over solutions of its templates, and no whole blocks"
                    .to_owned(),
            ),
        };
        self.board.count(&submission);
        submission
    }

    pub(crate) async fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        match &self.sink {
            Sink::Embedded(source) => source.fate(hash, height),
            Sink::Rpc(submitter) => submitter.fate(hash, height).await,
            Sink::Sv2(_) => Err(FateError::NotKnown(
                "template distribution tells no fate of a block",
            )),
        }
    }

    pub(crate) fn refresh(&self) {
        match &self.sink {
            Sink::Embedded(source) => source.refresh(),
            Sink::Rpc(submitter) => submitter.refresh(),
            Sink::Sv2(_) => {}
        }
    }
}
