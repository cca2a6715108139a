//! What a source has published, and how it fares.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bitcoin::{BlockHash, Network, hashes::Hash};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

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

/// What an operator wants to see of where templates come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The source in use: `embedded`, `bitcoin-rpc` or `sv2`.
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
    /// Each source, in the order of preference.
    pub sources: Vec<SourceStatus>,
}

impl Status {
    /// What there is to measure: a metric's name without the role's prefix, what it is, and its value.
    pub fn gauges(&self) -> [(&'static str, &'static str, f64); 4] {
        let in_use = self.sources.iter().position(|source| source.in_use);
        let age = self.last_success_ms.map(Duration::from_millis);
        [
            (
                "fresh",
                "1 while the template is worth working on.",
                f64::from(u8::from(self.fresh)),
            ),
            (
                "height",
                "Height of the tip that is worked on; 0 before the first template.",
                f64::from(self.height.unwrap_or_default()),
            ),
            (
                "age_seconds",
                "Time since the source in use last gave a good answer; endless if it never did.",
                age.map_or(f64::INFINITY, |age| age.as_secs_f64()),
            ),
            (
                "source",
                "Place of the source in use, from 1 on; 0 while there is none.",
                in_use.map_or(0.0, |place| {
                    f64::from(u32::try_from(place + 1).unwrap_or(0))
                }),
            ),
        ]
    }
}

/// One of the sources, whether it is used or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `embedded`, `bitcoin-rpc` or `sv2`.
    pub source: &'static str,
    /// Where it is, without what proves who asks; empty for a chain inside the process.
    pub address: String,
    /// Whether templates come from it now.
    pub in_use: bool,
    /// Height of its tip.
    pub height: Option<u32>,
    /// Hash of its tip, in the usual (reversed) notation.
    pub tip: Option<String>,
    /// See [`Health::fresh`].
    pub fresh: bool,
    /// What is wrong with it now.
    pub error: Option<String>,
    /// See [`Health::last_success`].
    pub last_success_ms: Option<u64>,
}

/// Where the source's task writes and everybody reads. Nothing here is on a share's path.
pub(crate) struct Board {
    kind: &'static str,
    address: String,
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
    pub(crate) fn new(kind: &'static str, address: String, stale_after: Duration) -> Self {
        Self {
            kind,
            address,
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

    pub(crate) fn newest(&self) -> Option<Arc<Template>> {
        self.newest.borrow().clone()
    }

    /// For a log line.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.kind, self.address)
    }

    /// Makes a template the newest one, which also is a success. On one tip the time only grows, also where another
    /// clock stands behind it now: strict clients refuse a job that may start before the one they have.
    pub(crate) fn publish(&self, mut template: Template) {
        if let Some(last) = self.newest()
            && last.prev_hash == template.prev_hash
        {
            template.ntime = template.ntime.max(last.ntime);
        }
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

    pub(crate) fn fatal(&self) -> Option<Error> {
        self.state().fatal.clone()
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
            if let Some(error) = self.fatal() {
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

    /// Of the only source there is.
    pub(crate) fn status(&self) -> Status {
        let source = SourceStatus {
            in_use: true,
            ..self.source_status()
        };
        self.status_with(self.health(), vec![source])
    }

    /// Of one source among others, not in use.
    pub(crate) fn source_status(&self) -> SourceStatus {
        let Health {
            fresh,
            error,
            last_success,
        } = self.health();
        let newest = self.newest();
        SourceStatus {
            source: self.kind,
            address: self.address.clone(),
            in_use: false,
            height: newest.as_deref().and_then(tip_height),
            tip: newest.as_deref().map(tip),
            fresh,
            error,
            last_success_ms: last_success.map(milliseconds),
        }
    }

    /// What was published and where blocks went, with the health of the sources behind it.
    pub(crate) fn status_with(&self, health: Health, sources: Vec<SourceStatus>) -> Status {
        let newest = self.newest();
        let newest = newest.as_deref();
        let in_use = sources.iter().find(|source| source.in_use);
        Status {
            source: in_use
                .or(sources.first())
                .map_or(self.kind, |source| source.source),
            network: self.network().map(|network| network.to_string()),
            height: newest.and_then(tip_height),
            tip: newest.map(tip),
            template_id: newest.map(|template| template.id),
            transactions: newest.and_then(|template| template.body.transaction_count()),
            fresh: health.fresh,
            error: health.error,
            last_success_ms: health.last_success.map(milliseconds),
            blocks_accepted: self.accepted.load(Ordering::Relaxed),
            blocks_rejected: self.rejected.load(Ordering::Relaxed),
            blocks_unknown: self.unknown.load(Ordering::Relaxed),
            blocks_unreachable: self.unreachable.load(Ordering::Relaxed),
            sources,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tip_height(template: &Template) -> Option<u32> {
    template.height()?.checked_sub(1)
}

fn tip(template: &Template) -> String {
    BlockHash::from_byte_array(template.prev_hash).to_string()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    proptest! {
        #[test]
        fn on_one_tip_no_template_goes_back_in_time(
            given in prop::collection::vec((0u32..3, 1_700_000_000u32..1_700_000_010), 1..50),
        ) {
            let board = Board::new("test", String::new(), Duration::from_secs(1));
            let mut last: Option<Arc<Template>> = None;
            for (id, (height, ntime)) in (1..).zip(given) {
                board.publish(Template { ntime, ..testing::template(id, height) });
                let now = board.newest().unwrap();
                prop_assert_eq!(now.id, id);
                match &last {
                    Some(last) if last.prev_hash == now.prev_hash => {
                        prop_assert_eq!(now.ntime, ntime.max(last.ntime));
                    }
                    _ => prop_assert_eq!(now.ntime, ntime),
                }
                last = Some(now);
            }
        }
    }
}
