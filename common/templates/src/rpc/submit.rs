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
use crate::{Fate, FateError, Solution, Submission, backoff::Backoff, block};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A node's error codes: it is only starting (which passes), it knows no such block, no block has such a height.
const STARTING: i64 = -28;
const NOT_FOUND: i64 = -5;
const OUT_OF_RANGE: i64 = -8;

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
        match solution.block() {
            Some(block) => self.submit_block(block).await,
            None => Submission::Rejected(
                "the coinbase does not decode, or the transactions are not here".to_owned(),
            ),
        }
    }

    pub(crate) async fn submit_block(&self, block: Bytes) -> Submission {
        let Some(hash) = block::hash(&block) else {
            return Submission::Rejected("the block has no whole header".to_owned());
        };
        let delivery = Delivery {
            client: Arc::clone(&self.client),
            hash: BlockHash::from_byte_array(hash),
            request: request("submitblock", &format!(r#"["{}"]"#, to_hex(&block))),
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

    pub(crate) async fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        let hash = BlockHash::from_byte_array(hash);
        let known = confirmations(&self.client, hash).await;
        match known.map_err(|error| FateError::Unreachable(error.to_string()))? {
            Some(0) => Ok(Fate::Orphaned),
            Some(confirmations) => Ok(Fate::InChain { confirmations }),
            None => self.fate_of_unknown(height).await,
        }
    }

    /// A block that the node does not know can still come, unless another has taken its place.
    async fn fate_of_unknown(&self, height: u32) -> Result<Fate, FateError> {
        let params = format!("[{height}]");
        match self.client.call::<String>("getblockhash", &params).await {
            Ok(_) => Ok(Fate::Orphaned),
            Err(CallError::Node {
                code: OUT_OF_RANGE, ..
            }) => Ok(Fate::Missing),
            Err(error) => Err(FateError::Unreachable(error.to_string())),
        }
    }
}

struct Delivery {
    client: Arc<Client>,
    hash: BlockHash,
    request: Bytes,
    window: Duration,
}

/// What one attempt brought.
enum Attempt {
    /// Another one would bring the same.
    Settled(Submission),
    /// The answer if no other attempt brings a better one.
    Passing(Submission),
}

impl Delivery {
    async fn run(self) -> Submission {
        let hash = self.hash;
        let deadline = Instant::now() + self.window;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let submission = loop {
            let answer = match self.offer().await {
                Ok(Attempt::Settled(submission)) => break submission,
                Ok(Attempt::Passing(submission)) => submission,
                Err(error) => Submission::Unreachable(error.to_string()),
            };
            let pause = backoff.next();
            if Instant::now() + pause >= deadline {
                break answer;
            }
            warn!(%hash, ?answer, "block not taken yet, trying again");
            sleep(pause).await;
        };
        match &submission {
            Submission::Accepted => info!(%hash, "block accepted by the node"),
            Submission::Rejected(reason) => warn!(%hash, %reason, "block refused by the node"),
            Submission::Unknown(reason) => {
                warn!(%hash, %reason, "block taken, but not into the chain")
            }
            Submission::Unreachable(reason) => warn!(%hash, %reason, "block not delivered"),
        }
        submission
    }

    /// One attempt. An error means that another one makes sense.
    async fn offer(&self) -> Result<Attempt, CallError> {
        let answer = self.client.send(self.request.clone()).await?;
        let reason: Option<String> = match result_of(&answer) {
            Ok(result) => parse(result)?,
            Err(CallError::Node { code, message }) if code != STARTING => {
                let word = Submission::Rejected(format!("{message} ({code})"));
                return Ok(Attempt::Settled(word));
            }
            Err(error) => return Err(error),
        };
        let submission = match reason.as_deref() {
            None => Submission::Accepted,
            // The node has it and found it valid: from an attempt whose answer was lost, or from another pool process.
            Some("duplicate") => Submission::Accepted,
            // The node keeps it but has not said what it thinks: look whether it became part of the chain. One beside
            // the chain still can, if the next block is built on it.
            Some(reason @ ("inconclusive" | "duplicate-inconclusive")) => {
                match confirmations(&self.client, self.hash).await? {
                    None | Some(0) => Submission::Unknown(reason.to_owned()),
                    Some(_) => Submission::Accepted,
                }
            }
            // The node is behind, and forgets the block; the one before it is on its way.
            Some(reason @ "prev-blk-not-found") => {
                return Ok(Attempt::Passing(Submission::Unreachable(reason.to_owned())));
            }
            Some(reason) => Submission::Rejected(quoted(reason)),
        };
        Ok(Attempt::Settled(submission))
    }
}

/// How deep a block is in the node's chain: 0 beside it, nothing where the node does not know it.
async fn confirmations(client: &Client, hash: BlockHash) -> Result<Option<u32>, CallError> {
    #[derive(Deserialize)]
    struct Header {
        /// -1 beside the chain.
        confirmations: i64,
    }
    let params = format!(r#"["{hash}"]"#);
    match client.call::<Header>("getblockheader", &params).await {
        Ok(header) => Ok(Some(u32::try_from(header.confirmations).unwrap_or(0))),
        Err(CallError::Node {
            code: NOT_FOUND, ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A block is megabytes, for which the usual way to write hex, character by character, takes its time.
fn to_hex(block: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut hex = String::with_capacity(2 * block.len());
    for byte in block {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}
