//! What a source has published, and how it fares.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bitcoin::{BlockHash, Network, hashes::Hash};
use serde::Serialize;
use tokio::sync::watch;

use crate::{Error, Submission, Template};

/// Whether miners should go on with the newest template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// There is a template, and the source confirmed it lately.
    pub fresh: bool,
    /// What is wrong now; also set while the last template is still fresh.
    pub error: Option<String>,
    /// Time since the source last gave a good answer.
    pub last_success: Option<Duration>,
}

/// What an operator wants to see of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `embedded`, `bitcoin-rpc` or `sv2`.
    pub source: &'static str,
    /// The chain, once it is known.
    pub network: Option<String>,
    /// Height of the tip.
    pub height: Option<u32>,
    /// Hash of the tip, in the usual (reversed) notation.
    pub tip: Option<String>,
    /// Id of the newest template.
    pub template_id: Option<u64>,
    /// Transactions in it, the coinbase not counted.
    pub transactions: Option<usize>,
    /// See [`Health::fresh`].
    pub fresh: bool,
    /// See [`Health::error`].
    pub error: Option<String>,
    /// See [`Health::last_success`].
    pub last_success_ms: Option<u64>,
    /// Blocks that the chain took from here; each submission counts, here and below.
    pub blocks_accepted: u64,
    /// Blocks that it refused.
    pub blocks_rejected: u64,
    /// Blocks that arrived, and of which nothing more is known.
    pub blocks_unknown: u64,
    /// Blocks for which no answer came.
    pub blocks_unreachable: u64,
}

/// Where the source's task writes and everybody reads. Nothing here is on a share's path.
pub(crate) struct Board {
    source: &'static str,
    stale_after: Duration,
    newest: watch::Sender<Option<Arc<Template>>>,
    /// Bumped with each change of `state` that [`Board::ready`] has to see.
    changed: watch::Sender<()>,
    state: Mutex<State>,
    accepted: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
    unreachable: AtomicU64,
}

#[derive(Default)]
struct State {
    network: Option<Network>,
    last_success: Option<Instant>,
    error: Option<String>,
    /// Set while the source is of no use until the operator acts.
    fatal: Option<Error>,
}

impl Board {
    pub(crate) fn new(source: &'static str, stale_after: Duration) -> Self {
        Self {
            source,
            stale_after,
            newest: watch::Sender::new(None),
            changed: watch::Sender::new(()),
            state: Mutex::default(),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Template>>> {
        self.newest.subscribe()
    }

    /// Makes a template the newest one, which also is a success.
    pub(crate) fn publish(&self, template: Template) {
        {
            let mut state = self.state();
            state.last_success = Some(Instant::now());
            state.error = None;
            state.fatal = None;
        }
        self.newest.send_replace(Some(Arc::new(template)));
        self.changed.send_replace(());
    }

    /// The newest template still is what the source would give.
    pub(crate) fn confirm(&self) {
        let mut state = self.state();
        state.last_success = Some(Instant::now());
        state.error = None;
    }

    pub(crate) fn set_network(&self, network: Network) {
        self.state().network = Some(network);
    }

    pub(crate) fn network(&self) -> Option<Network> {
        self.state().network
    }

    pub(crate) fn fail(&self, error: String) {
        self.state().error = Some(error);
    }

    pub(crate) fn fail_for_good(&self, error: Error) {
        {
            let mut state = self.state();
            state.error = Some(error.to_string());
            state.fatal = Some(error);
        }
        self.changed.send_replace(());
    }

    pub(crate) fn count(&self, submission: &Submission) {
        let counter = match submission {
            Submission::Accepted => &self.accepted,
            Submission::Rejected(_) => &self.rejected,
            Submission::Unknown(_) => &self.unknown,
            Submission::Unreachable(_) => &self.unreachable,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn ready(&self) -> Result<Arc<Template>, Error> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(template) = self.newest.borrow().clone() {
                return Ok(template);
            }
            if let Some(error) = self.state().fatal.clone() {
                return Err(error);
            }
            changed.changed().await.map_err(|_| Error::Stopped)?;
        }
    }

    pub(crate) fn health(&self) -> Health {
        let has_template = self.newest.borrow().is_some();
        let state = self.state();
        let last_success = state.last_success.map(|at| at.elapsed());
        Health {
            fresh: has_template && last_success.is_some_and(|age| age <= self.stale_after),
            error: state.error.clone(),
            last_success,
        }
    }

    pub(crate) fn status(&self) -> Status {
        let Health {
            fresh,
            error,
            last_success,
        } = self.health();
        let newest = self.newest.borrow().clone();
        let newest = newest.as_deref();
        Status {
            source: self.source,
            network: self.network().map(|network| network.to_string()),
            height: newest.and_then(|template| template.height()?.checked_sub(1)),
            tip: newest.map(|template| BlockHash::from_byte_array(template.prev_hash).to_string()),
            template_id: newest.map(|template| template.id),
            transactions: newest.and_then(|template| template.body.transaction_count()),
            fresh,
            error,
            last_success_ms: last_success
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            blocks_accepted: self.accepted.load(Ordering::Relaxed),
            blocks_rejected: self.rejected.load(Ordering::Relaxed),
            blocks_unknown: self.unknown.load(Ordering::Relaxed),
            blocks_unreachable: self.unreachable.load(Ordering::Relaxed),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
