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
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::{
    connection::Shared,
    session::Found,
    status::{BlockEnd, BlockReport},
    telling,
};

/// The shortest time between two looks at the chain, and the longest.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// For how long an orphan may come back, and a rejected block be found in the chain after all, in milliseconds: a
/// reorganisation is decided long before.
const ENDED_MS: i64 = 24 * 60 * 60 * 1000;

/// For how long a block that a node refused is offered again, in milliseconds: the reason may have been the node's own.
const REFUSED_MS: i64 = 10 * 60 * 1000;

/// How long the ledger may take to be read.
const READ: Duration = Duration::from_secs(30);

/// After this time a block that no node has heard of counts as orphaned, in milliseconds.
const MISSING_MS: i64 = 24 * 60 * 60 * 1000;

/// Blocks that wait for the ledger at a time. More are possible only on test networks with a database that stalls; there
/// they are handed to the node all the same, and not recorded.
const MOST_RECORDS: usize = 1024;

/// What blocks have of their own.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// On their way to the node; they outlive the connection that found them, and the pool ends after them.
    deliveries: TaskTracker,
    /// On their way to the ledger.
    records: TaskTracker,
    records_room: Arc<Semaphore>,
    /// Those that a task of theirs takes to the node at this moment. Locked for a block, never for a share.
    under_way: Mutex<HashSet<[u8; 32]>>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            deliveries: TaskTracker::new(),
            records: TaskTracker::new(),
            records_room: Arc::new(Semaphore::new(MOST_RECORDS)),
            under_way: Mutex::default(),
        }
    }
}

impl Blocks {
    /// Waits until the node has answered for each block; there must be no more.
    pub(crate) async fn delivered(&self) {
        self.deliveries.close();
        self.deliveries.wait().await;
    }

    /// Waits until each block is in the ledger; there must be no more.
    pub(crate) async fn recorded(&self) {
        self.records.close();
        self.records.wait().await;
    }
}

/// A block that is under way, for as long as it is.
struct UnderWay {
    shared: Arc<Shared>,
    hash: [u8; 32],
}

impl UnderWay {
    fn new(shared: &Arc<Shared>, hash: [u8; 32]) -> Self {
        lock(&shared.blocks.under_way).insert(hash);
        Self {
            shared: Arc::clone(shared),
            hash,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.shared.blocks.under_way).remove(&self.hash);
    }
}

/// Hands a block to the node at once, and has it recorded that it was found and what the node said. The ledger delays
/// nothing; `held` is given back when the node has answered.
pub(crate) fn submit(
    shared: &Arc<Shared>,
    found: Found,
    peer: SocketAddr,
    held: Option<OwnedSemaphorePermit>,
) {
    let Found { solved, owner } = found;
    let under_way = UnderWay::new(shared, solved.hash);
    let (answer, told) = oneshot::channel();
    let block = Block {
        hash: solved.hash,
        height: solved.solution.template.height(),
        account: Arc::clone(&owner.account),
        worker: Arc::clone(&owner.worker),
        solo: owner.solo,
        reward_sats: solved.solution.template.coinbase.value_remaining,
        state: BlockState::Submitted,
        found_ms: now_ms(),
        raw: None,
    };
    tell(shared, &block, &block.state);
    let delivery = {
        let (shared, solution) = (Arc::clone(shared), solved.solution.clone());
        let (late, identity) = (solved.late, owner.to_string());
        let block = block.clone();
        async move {
            let height = solution.template.height();
            let hash = under_way.hash;
            let submission = shared.templates.submit(solution).await;
            report(&shared, &submission, hash, height, late, identity, peer);
            if let Some(state) = state_after(submission.clone()) {
                tell(&shared, &block, &state);
            }
            drop(held);
            let _ = answer.send((submission, under_way));
        }
    };
    shared.blocks.deliveries.spawn(delivery);
    let Ok(room) = Arc::clone(&shared.blocks.records_room).try_acquire_owned() else {
        error!(hash = %shown(solved.hash), "a block is not recorded: too many wait for the ledger");
        return;
    };
    let recording = {
        let shared = Arc::clone(shared);
        async move {
            let raw = solved.solution.block().map(|block| block.to_vec());
            let hash = block.hash;
            shared.ledger.record_block(Block { raw, ..block }).await;
            if let Ok((submission, _under_way)) = told.await
                && let Some(state) = state_after(submission)
            {
                shared.ledger.record_state(hash, state).await;
            }
            drop(room);
        }
    };
    shared.blocks.records.spawn(recording);
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
    late: bool,
    identity: String,
    peer: SocketAddr,
) {
    let hash = shown(hash);
    let outcome = match submission {
        Submission::Accepted => {
            info!(%hash, height, identity, %peer, "block found");
            "accepted".to_owned()
        }
        Submission::Rejected(reason) if late => {
            info!(%hash, height, identity, %peer, reason, "a block on a job that was over lost the race");
            return;
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
        let open = match timeout(READ, self.open_blocks()).await {
            Ok(Ok(open)) => open,
            // The writer tells the operator.
            Ok(Err(problem)) => return debug!(%problem, "blocks are not followed now"),
            Err(_) => return debug!("blocks are not followed now: the ledger gives no answer"),
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
        let mut reader = self.reader().await?;
        let since = now_ms() - ENDED_MS;
        let open = reader.open_blocks(self.server_id, since).await?;
        self.reader = Some(reader);
        Ok(open)
    }

    /// Taken out, so that one in an unknown state is not used again.
    async fn reader(&mut self) -> Result<Reader, ledger::Error> {
        match self.reader.take() {
            Some(reader) => Ok(reader),
            None => self.shared.ledger.reader().await,
        }
    }

    async fn look_at(&mut self, block: Block) -> Result<(), FateError> {
        // The task that takes it to the node tells what becomes of it.
        if lock(&self.shared.blocks.under_way).contains(&block.hash) {
            return Ok(());
        }
        let Some(height) = block.height else {
            return Ok(());
        };
        let state = match self.shared.templates.fate(block.hash, height).await? {
            Fate::InChain { confirmations } if confirmations >= self.confirmations => {
                BlockState::Confirmed(confirmations)
            }
            Fate::InChain { confirmations } => BlockState::Accepted(confirmations),
            // What the node said of it says more.
            Fate::Orphaned if matches!(block.state, BlockState::Rejected(_)) => return Ok(()),
            Fate::Orphaned => BlockState::Orphaned,
            Fate::Missing => return self.missing(&block).await,
        };
        if state != block.state {
            record(&self.shared, &block, state).await;
        }
        Ok(())
    }

    /// No node knows the block, and there is no other in its place: it is offered again, in a task of its own.
    async fn missing(&mut self, block: &Block) -> Result<(), FateError> {
        let age = now_ms() - block.found_ms;
        if matches!(block.state, BlockState::Rejected(_)) && age > REFUSED_MS {
            return Ok(());
        }
        let reading = async {
            let mut reader = self.reader().await?;
            let raw = reader.raw_block(&block.hash).await?;
            self.reader = Some(reader);
            Ok::<_, ledger::Error>(raw)
        };
        let Ok(Ok(raw)) = timeout(READ, reading).await else {
            return Ok(());
        };
        let Some(raw) = raw else {
            if block.state == BlockState::Submitted && age > MISSING_MS {
                record(&self.shared, block, BlockState::Orphaned).await;
            }
            return Ok(());
        };
        let under_way = UnderWay::new(&self.shared, block.hash);
        let (shared, block) = (Arc::clone(&self.shared), block.clone());
        self.shared.blocks.deliveries.spawn(async move {
            let submission = shared.templates.submit_block(raw.into()).await;
            let state = match state_after(submission) {
                None if block.state == BlockState::Submitted && age > MISSING_MS => {
                    Some(BlockState::Orphaned)
                }
                state => state,
            };
            if let Some(state) = state.filter(|state| *state != block.state) {
                // Not here: the pool's end waits for the node, and must not wait for the ledger with it.
                let recording = {
                    let shared = Arc::clone(&shared);
                    async move {
                        record(&shared, &block, state).await;
                        drop(under_way);
                    }
                };
                shared.blocks.records.spawn(recording);
            }
        });
        Ok(())
    }
}

/// Tells a stats service, if there is one.
fn tell(shared: &Shared, block: &Block, state: &BlockState) {
    if let Some(peers) = &shared.peers {
        peers.blocks.push(vec![telling::block(block, state)]);
    }
}

/// Writes down and tells what has become of a block.
async fn record(shared: &Shared, block: &Block, state: BlockState) {
    let hash = shown(block.hash);
    let (height, account) = (block.height, &*block.account);
    match &state {
        BlockState::Confirmed(_) => {
            info!(%hash, height, account, "block confirmed");
            shared.counters.block_ended(BlockEnd::Confirmed);
        }
        BlockState::Orphaned => {
            warn!(%hash, height, account, "block orphaned");
            shared.counters.block_ended(BlockEnd::Orphaned);
        }
        BlockState::Accepted(_) if block.state == BlockState::Orphaned => {
            info!(%hash, height, account, "an orphaned block is in the chain again");
        }
        BlockState::Accepted(_) if block.state == BlockState::Submitted => {
            info!(%hash, height, account, "block accepted after all");
        }
        _ => {}
    }
    tell(shared, block, &state);
    shared.ledger.record_state(block.hash, state).await;
}

fn lock(under_way: &Mutex<HashSet<[u8; 32]>>) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hash as it is usually shown.
pub(crate) fn shown(mut hash: [u8; 32]) -> String {
    hash.reverse();
    hex::encode(hash)
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
