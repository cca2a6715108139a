//! The `embedded` source: a chain of its own inside the process, for trying things out.

mod chain;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bitcoin::Network;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    EmbeddedConfig, Fate, FateError, Solution, Submission,
    health::Board,
    running::{Running, Sink},
};
use chain::{Chain, Extended};

pub(crate) fn start(config: &EmbeddedConfig, shutdown: CancellationToken) -> Running {
    let refresh = Duration::from_secs(config.refresh_interval_seconds.into());
    let source = Arc::new(Source {
        board: Arc::new(Board::new("embedded", String::new(), refresh * 4)),
        chain: Mutex::new(Chain::new(config, now())),
    });
    source.board.set_network(Network::Regtest);
    source.refresh();

    let task = Arc::clone(&source);
    tokio::spawn(async move {
        let mut ticks = interval(refresh);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            task.refresh();
        }
    });
    Running {
        board: Arc::clone(&source.board),
        sink: Sink::Embedded(source),
    }
}

/// The chain, and where its templates are shown.
pub(crate) struct Source {
    board: Arc<Board>,
    /// Held for as long as a block takes to check; only solutions and refreshes ask for it, never shares.
    chain: Mutex<Chain>,
}

impl Source {
    pub(crate) fn submit(&self, solution: &Solution) -> Submission {
        match solution.block() {
            Some(block) => self.submit_block(&block),
            None => Submission::Rejected("Block decode failed".to_owned()),
        }
    }

    pub(crate) fn submit_block(&self, block: &[u8]) -> Submission {
        let mut chain = self.chain();
        match chain.extend(block, now()) {
            Ok(Extended::Already) => Submission::Accepted,
            Ok(Extended::By(tip)) => {
                info!(height = tip.height, hash = %tip.display(), "block accepted by the embedded chain");
                self.publish(&mut chain);
                Submission::Accepted
            }
            Err(reason) => {
                warn!(%reason, "block refused by the embedded chain");
                Submission::Rejected(reason)
            }
        }
    }

    pub(crate) fn fate(&self, hash: [u8; 32], height: u32) -> Result<Fate, FateError> {
        self.chain().fate(hash, height)
    }

    pub(crate) fn refresh(&self) {
        self.publish(&mut self.chain());
    }

    /// Takes the chain, so that templates are published in the order in which they are made.
    fn publish(&self, chain: &mut Chain) {
        self.board.publish(chain.template(now()));
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the Unix epoch; stands still at the end of what a header can say.
fn now() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceConfig, testing};

    fn quick() -> SourceConfig {
        SourceConfig::Embedded(EmbeddedConfig {
            first_block_hashes: 2,
            minimum_block_hashes: 2,
            ..EmbeddedConfig::default()
        })
    }

    #[tokio::test]
    async fn a_solved_template_becomes_the_tip_and_the_next_one_is_there_at_once() {
        let templates = crate::start(quick(), CancellationToken::new()).unwrap();
        let mut newest = templates.subscribe();
        let first = newest.borrow_and_update().clone().unwrap();
        assert_eq!(templates.status().height, Some(0));

        let solution = testing::solve(&first, |_| {});
        assert_eq!(
            templates.submit(solution.clone()).await,
            Submission::Accepted
        );
        assert!(newest.has_changed().unwrap());
        let second = newest.borrow_and_update().clone().unwrap();
        assert_eq!(second.prev_hash, testing::hash(&solution));
        assert!(second.id > first.id);
        assert_eq!(templates.status().height, Some(1));
        assert_eq!(templates.status().blocks_accepted, 1);

        // Another on the old tip comes too late.
        let other = testing::solve(&first, |solution| solution.ntime += 1);
        assert_eq!(
            templates.submit(other).await,
            Submission::Rejected("stale-prevblk".to_owned())
        );
        assert_eq!(templates.network(), Some(Network::Regtest));
        assert!(templates.health().fresh);
    }

    #[tokio::test]
    async fn a_block_that_was_kept_can_be_offered_and_followed() {
        let templates = crate::start(quick(), CancellationToken::new()).unwrap();
        let first = templates.ready().await.unwrap();
        let [kept, other] = [0, 1].map(|later| {
            testing::solve(&first, |solution| {
                solution.ntime += later;
            })
        });
        let (hash, block) = (kept.hash().unwrap(), kept.block().unwrap());
        assert_eq!(templates.fate(hash, 1).await, Ok(Fate::Missing));
        for _ in 0..2 {
            let answer = templates.submit_block(block.clone()).await;
            assert_eq!(answer, Submission::Accepted);
            assert_eq!(templates.status().height, Some(1));
        }
        let in_chain = |confirmations| Ok(Fate::InChain { confirmations });
        assert_eq!(templates.fate(hash, 1).await, in_chain(1));
        let second = templates.ready().await.unwrap();
        let answer = templates.submit(testing::solve(&second, |_| {})).await;
        assert_eq!(answer, Submission::Accepted);
        assert_eq!(templates.fate(hash, 1).await, in_chain(2));
        let fate = templates.fate(other.hash().unwrap(), 1).await;
        assert_eq!(fate, Ok(Fate::Orphaned));

        let mut broken = block.to_vec();
        broken.push(0);
        for garbage in [Vec::new(), vec![0; 79], block[..90].to_vec(), broken] {
            let answer = templates.submit_block(garbage.into()).await;
            assert!(matches!(answer, Submission::Rejected(_)), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_template_is_refreshed_on_the_same_tip() {
        let templates = crate::start(quick(), CancellationToken::new()).unwrap();
        let mut newest = templates.subscribe();
        let first = newest.borrow_and_update().clone().unwrap();
        newest.changed().await.unwrap();
        let second = newest.borrow_and_update().clone().unwrap();
        assert_eq!(first.prev_hash, second.prev_hash);
        assert!(second.id > first.id);
    }
}
