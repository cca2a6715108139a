//! What readers get.

use std::sync::{Arc, PoisonError, RwLock};

use storage::Health;
use tokio::sync::watch;

use super::clock::Clock;
use super::{History, problem};
use crate::Now;
use crate::board::Board;

/// Everything that is known, for pages, API and metrics. Clones show the same.
#[derive(Clone)]
pub struct View {
    pub(super) board: Arc<RwLock<Board>>,
    pub(super) clock: Clock,
    pub(super) health: watch::Receiver<Health>,
    pub(super) commits: watch::Receiver<u64>,
    pub(super) history: Arc<History>,
}

impl View {
    /// Looks at the board. The writer waits meanwhile, so this is for copying or rendering what is shown, and not for waiting
    /// for anything.
    pub fn read<T>(&self, look: impl FnOnce(&Board, Now) -> T) -> T {
        let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
        look(&board, self.clock.now())
    }

    /// The time by the clock that the board goes by.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Waits for the next commit that changed something; forever when there will be none.
    pub async fn changed(&mut self) {
        if self.commits.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Samples that are no longer in memory.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Why the service cannot do its job, if it cannot.
    ///
    /// # Errors
    /// The reasons.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        match problem(&self.health.borrow()) {
            None => Ok(()),
            Some(problem) => Err(vec![problem]),
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    pub(super) async fn taken_over(&mut self) {
        let taken_over = |health: &Health| *health == Health::TakenOver;
        if self.health.wait_for(taken_over).await.is_err() {
            std::future::pending().await
        }
    }
}
