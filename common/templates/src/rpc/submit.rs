//! Handing solved blocks to the node.

use std::{sync::Arc, time::Duration};

use bitcoin::{BlockHash, hashes::Hash};
use bytes::Bytes;
use serde::Deserialize;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::client::{CallError, Client, parse, quoted, request, result_of};
use crate::{
    Solution, Submission,
    backoff::Backoff,
    block::{self, Solved},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Hands blocks to the node.
pub(crate) struct Submitter {
    pub(crate) client: Arc<Client>,
    /// For how long a node that cannot be reached is tried.
    pub(crate) window: Duration,
    /// Tells the source that the tip has changed, or that the template was not the newest.
    pub(crate) refresh: Arc<Notify>,
}

impl Submitter {
    pub(crate) fn refresh(&self) {
        self.refresh.notify_one();
    }

    pub(crate) async fn submit(&self, solution: Solution) -> Submission {
        let Solved { header, .. } = match Solved::new(&solution) {
            Ok(solved) => solved,
            Err(error) => {
                return Submission::Rejected(format!("the coinbase does not decode: {error}"));
            }
        };
        let Some(block) = block::to_hex(&header, &solution.coinbase, &solution.template) else {
            return Submission::Rejected("the template's transactions are not here".to_owned());
        };
        let delivery = Delivery {
            client: Arc::clone(&self.client),
            hash: BlockHash::from_byte_array(header.hash()),
            block: request("submitblock", &format!(r#"["{block}"]"#)),
            window: self.window,
        };
        // In a task of its own, so that a block arrives even if the miner's connection ends meanwhile.
        let refresh = Arc::clone(&self.refresh);
        let task = tokio::spawn(async move {
            let submission = delivery.run().await;
            refresh.notify_one();
            submission
        });
        match task.await {
            Ok(submission) => submission,
            Err(error) => Submission::Unreachable(format!("the submission ended early: {error}")),
        }
    }
}

struct Delivery {
    client: Arc<Client>,
    hash: BlockHash,
    block: Bytes,
    window: Duration,
}

impl Delivery {
    async fn run(self) -> Submission {
        let hash = self.hash;
        let deadline = Instant::now() + self.window;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let submission = loop {
            let error = match self.offer().await {
                Ok(submission) => break submission,
                Err(error) => error,
            };
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                break Submission::Unreachable(error.to_string());
            }
            warn!(%hash, %error, "block not delivered yet, trying again");
            sleep(pause).await;
        };
        match &submission {
            Submission::Accepted => info!(%hash, "block accepted by the node"),
            Submission::Rejected(reason) => warn!(%hash, %reason, "block refused by the node"),
            Submission::Unreachable(reason) => warn!(%hash, %reason, "block not delivered"),
        }
        submission
    }

    /// One attempt. An error means that another one makes sense.
    async fn offer(&self) -> Result<Submission, CallError> {
        let answer = self.client.send(self.block.clone()).await?;
        let reason: Option<String> = match result_of(&answer) {
            Ok(result) => parse(result)?,
            Err(CallError::Node { code, message }) if !is_passing(code) => {
                return Ok(Submission::Rejected(format!("{message} ({code})")));
            }
            Err(error) => return Err(error),
        };
        Ok(match reason.as_deref() {
            None => Submission::Accepted,
            // The node has it and found it valid: from an attempt whose answer was lost, or from another pool process.
            Some("duplicate") => Submission::Accepted,
            // The node keeps it but has not said what it thinks: look whether it became part of the chain.
            Some(reason @ ("inconclusive" | "duplicate-inconclusive")) => {
                if self.is_in_chain().await? {
                    Submission::Accepted
                } else {
                    Submission::Rejected(reason.to_owned())
                }
            }
            Some(reason) => Submission::Rejected(quoted(reason)),
        })
    }

    async fn is_in_chain(&self) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Header {
            /// -1 beside the chain.
            confirmations: i64,
        }
        let params = format!(r#"["{}"]"#, self.hash);
        match self.client.call::<Header>("getblockheader", &params).await {
            Ok(header) => Ok(header.confirmations > 0),
            Err(CallError::Node { code, .. }) if !is_passing(code) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error will go away by itself: the node is only starting.
fn is_passing(code: i64) -> bool {
    code == -28
}
