//! A block's way: to the node before anything else, into the ledger, and watched until it is buried or orphaned.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ledger::{Block, BlockState, Reader};
use templates::{Fate, FateError, Submission};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    connection::Shared,
    session::Found,
    status::{BlockEnd, BlockReport},
};

/// The shortest time between two looks at the chain, and the longest.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// For how long an orphan may come back, in milliseconds: a reorganisation is decided long before.
const ORPHANED_MS: i64 = 24 * 60 * 60 * 1000;

/// After this time a block that the node has never heard of counts as orphaned, in milliseconds.
const MISSING_MS: i64 = 24 * 60 * 60 * 1000;

/// Blocks that a task of theirs takes to the node at this moment. Locked for a block, never for a share.
pub(crate) type UnderWay = Mutex<HashSet<[u8; 32]>>;

/// Hands a block to the node, and records both that it was found and what the node said. It is on its way to the node
/// before the ledger hears of it.
pub(crate) async fn submit(shared: Arc<Shared>, found: Found, peer: SocketAddr) {
    let Found { solved, owner } = found;
    let hash = solved.hash;
    lock(&shared.under_way).insert(hash);
    let height = solved.solution.template.height();
    let late = solved.late;
    let solution = solved.solution.clone();
    let submission = async {
        let submission = shared.templates.submit(solution).await;
        match &submission {
            Submission::Rejected(reason) if late => {
                let (hash, identity) = (shown(hash), owner.to_string());
                info!(%hash, height, identity, %peer, reason, "a block on a job that was over lost the race");
            }
            other => report(&shared, other, hash, height, owner.to_string(), peer),
        }
        submission
    };
    let record = async {
        let solution = solved.solution;
        shared
            .ledger
            .record_block(Block {
                hash,
                height,
                account: Arc::clone(&owner.account),
                worker: Arc::clone(&owner.worker),
                solo: owner.solo,
                reward_sats: solution.template.coinbase.value_remaining,
                state: BlockState::Submitted,
                found_ms: now_ms(),
                raw: solution.block().map(|block| block.to_vec()),
            })
            .await;
    };
    let (submission, ()) = tokio::join!(biased; submission, record);
    if let Some(state) = state_after(submission) {
        shared.ledger.record_state(hash, state).await;
    }
    lock(&shared.under_way).remove(&hash);
}

/// What the node's answer makes of a block; `None` if it leaves it open.
fn state_after(submission: Submission) -> Option<BlockState> {
    match submission {
        Submission::Accepted => Some(BlockState::Accepted(1)),
        Submission::Rejected(reason) => Some(BlockState::Rejected(reason)),
        Submission::Unknown(_) | Submission::Unreachable(_) => None,
    }
}

fn report(
    shared: &Shared,
    submission: &Submission,
    hash: [u8; 32],
    height: Option<u32>,
    identity: String,
    peer: SocketAddr,
) {
    let hash = shown(hash);
    let outcome = match submission {
        Submission::Accepted => {
            info!(%hash, height, identity, %peer, "block found");
            "accepted".to_owned()
        }
        Submission::Rejected(reason) => {
            warn!(%hash, height, identity, %peer, reason, "the node rejected a block");
            format!("rejected: {reason}")
        }
        Submission::Unknown(reason) => {
            warn!(%hash, height, identity, %peer, reason, "a block was taken, and its fate is not known yet");
            format!("unknown: {reason}")
        }
        Submission::Unreachable(reason) => {
            warn!(%hash, height, identity, %peer, reason, "a block could not be handed to the node; it is kept and offered again");
            format!("not delivered: {reason}")
        }
    };
    shared.counters.block(BlockReport {
        hash,
        height,
        identity,
        accepted: *submission == Submission::Accepted,
        outcome,
    });
}

/// Follows the blocks whose fate is open, those of earlier starts included, at each new template and from time to time.
/// Ends when templates do.
pub(crate) async fn follow(
    shared: Arc<Shared>,
    mut templates: watch::Receiver<Option<Arc<templates::Template>>>,
    server_id: u16,
    confirmations: u32,
) {
    let mut follower = Follower {
        shared,
        reader: None,
        server_id,
        confirmations,
    };
    let mut tip = None;
    loop {
        let latest = Instant::now() + LONGEST_PAUSE;
        loop {
            let now = templates
                .borrow_and_update()
                .as_ref()
                .map(|template| template.prev_hash);
            if now != tip {
                tip = now;
                break;
            }
            tokio::select! {
                changed = templates.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(latest) => break,
            }
        }
        if tip.is_some() {
            follower.look().await;
        }
        sleep(SHORTEST_PAUSE).await;
    }
}

struct Follower {
    shared: Arc<Shared>,
    /// Made anew after a failure.
    reader: Option<Reader>,
    server_id: u16,
    confirmations: u32,
}

impl Follower {
    async fn look(&mut self) {
        let open = match self.open_blocks().await {
            Ok(open) => open,
            Err(problem) => {
                // The writer tells the operator.
                debug!(%problem, "blocks are not followed now");
                return;
            }
        };
        for block in open {
            if let Err(problem) = self.look_at(block).await {
                debug!(%problem, "the fate of blocks is not to be had now");
                if matches!(problem, FateError::Unreachable(_)) {
                    return;
                }
            }
        }
    }

    async fn open_blocks(&mut self) -> Result<Vec<Block>, ledger::Error> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.shared.ledger.reader().await?,
        };
        let since = now_ms() - ORPHANED_MS;
        let open = reader.open_blocks(self.server_id, since).await?;
        self.reader = Some(reader);
        Ok(open)
    }

    async fn look_at(&self, block: Block) -> Result<(), FateError> {
        if lock(&self.shared.under_way).contains(&block.hash) {
            return Ok(());
        }
        let Some(height) = block.height else {
            return Ok(());
        };
        let missing_for_long = now_ms() - block.found_ms > MISSING_MS;
        let state = match self.shared.templates.fate(block.hash, height).await? {
            Fate::InChain { confirmations } if confirmations >= self.confirmations => {
                BlockState::Confirmed(confirmations)
            }
            Fate::InChain { confirmations } => BlockState::Accepted(confirmations),
            Fate::Orphaned => BlockState::Orphaned,
            Fate::Missing if missing_for_long => BlockState::Orphaned,
            Fate::Missing => match &block.raw {
                Some(raw) => match self.offer_again(raw).await {
                    Some(state) => state,
                    None => return Ok(()),
                },
                None => return Ok(()),
            },
        };
        if state != block.state {
            self.record(&block, state).await;
        }
        Ok(())
    }

    async fn offer_again(&self, raw: &[u8]) -> Option<BlockState> {
        let submission = self.shared.templates.submit_block(raw.to_vec().into());
        state_after(submission.await)
    }

    async fn record(&self, block: &Block, state: BlockState) {
        let hash = shown(block.hash);
        let (height, account) = (block.height, &*block.account);
        match &state {
            BlockState::Confirmed(_) => {
                info!(%hash, height, account, "block confirmed");
                self.shared.counters.block_ended(BlockEnd::Confirmed);
            }
            BlockState::Orphaned => {
                warn!(%hash, height, account, "block orphaned");
                self.shared.counters.block_ended(BlockEnd::Orphaned);
            }
            BlockState::Accepted(_) if block.state == BlockState::Orphaned => {
                info!(%hash, height, account, "an orphaned block is in the chain again");
            }
            BlockState::Accepted(_) if block.state == BlockState::Submitted => {
                info!(%hash, height, account, "block accepted after all");
            }
            _ => {}
        }
        self.shared.ledger.record_state(block.hash, state).await;
    }
}

fn lock(under_way: &UnderWay) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hash as it is usually shown.
fn shown(mut hash: [u8; 32]) -> String {
    hash.reverse();
    hex::encode(hash)
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
