//! The `bitcoin-rpc` source.

use tokio_util::sync::CancellationToken;

use crate::{Error, RpcConfig, Solution, Submission, Templates};

pub(crate) fn start(_config: &RpcConfig, _shutdown: CancellationToken) -> Result<Templates, Error> {
    Err(Error::Stopped)
}

/// Hands blocks to the node.
pub(crate) struct Submitter;

impl Submitter {
    pub(crate) async fn submit(&self, _solution: Solution) -> Submission {
        Submission::Unreachable(String::new())
    }
}
