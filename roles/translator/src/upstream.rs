//! The SV2 side: connections to pools, and what comes from them on its way to the miners.
//!
//! Each connection has one task that reads and one that seals and writes. Nothing here waits for a miner: what a miner
//! has not taken yet is replaced by what is newer, or counted.

mod connection;
mod dial;
mod error;
mod mailbox;
mod probe;
mod roster;
mod router;
mod supervisor;
mod vitals;

pub use dial::Upstream;
pub(crate) use error::UpstreamError;
pub(crate) use mailbox::{Letters, Mailbox};
pub use roster::UpstreamHealth;
pub(crate) use roster::{Roster, Standing, Waits};
pub(crate) use supervisor::{Published, supervise};
pub(crate) use vitals::Patience;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use work::{Hashrate, Target};

use crate::session::Request;

/// How connections are made; the same for all of them.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are tried.
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) queue: usize,
    pub(crate) waits: Waits,
    /// For each step of connecting.
    pub(crate) connect_patience: Duration,
    pub(crate) patience: Patience,
    /// What a pool is told that is tried.
    pub(crate) nominal_hashrate: Hashrate,
    pub(crate) last_identity: LastIdentity,
    /// Numbers for jobs, process-wide.
    pub(crate) job_ids: Arc<AtomicU64>,
    /// Numbers for connections.
    pub(crate) link_ids: AtomicU64,
}

/// The name of the channel that was asked for last. Locked when one is, never for a share.
#[derive(Debug, Clone)]
pub(crate) struct LastIdentity(Arc<Mutex<Option<Box<str>>>>);

impl LastIdentity {
    /// With the name that is configured, if one is.
    pub(crate) fn new(identity: Option<&str>) -> Self {
        Self(Arc::new(Mutex::new(identity.map(Into::into))))
    }

    fn set(&self, identity: Box<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    fn read(&self) -> Option<Box<str>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a miner's task needs of a living upstream connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Tells one connection from the next.
    pub(crate) id: u64,
    /// Requests in order. When it is full, the miner is not read.
    pub(crate) queue: mpsc::Sender<Outgoing>,
    registry: Arc<Registry>,
}

/// A request; the number names the answer to a [`Request::Open`] and means nothing for others.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request_id: u32,
    pub(crate) request: Request,
}

impl Link {
    /// A place for the answer to a request that is about to be sent.
    pub(crate) fn register(&self, mailbox: &Arc<Mailbox>, max_target: Target) -> u32 {
        self.registry.register(Instant::now(), mailbox, max_target)
    }

    /// A miner has waited long for answers to its shares. Said once for a connection.
    pub(crate) fn say_that_answers_are_missing(&self, shares: usize) {
        if !self.registry.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                shares,
                "the pool answers no shares and a miner has to wait; if the pool acknowledges in batches, \
                 max_in_flight_shares must be larger than one"
            );
        }
    }
}

/// Channels that are being opened. Locked when one is opened and when the answer comes, never for a share.
#[derive(Debug, Default)]
struct Registry {
    openings: Mutex<Openings>,
    /// Whether missing answers to shares have been named in the log.
    said: AtomicBool,
}

#[derive(Debug, Default)]
struct Openings {
    last_request_id: u32,
    /// Kept until the upstream answers, also when the miner has left: an answer to nothing is the upstream's fault.
    waiting: HashMap<u32, Opening>,
    /// Since when the upstream has answered no request, while it owes an answer.
    owing_since: Option<Instant>,
}

/// A request for a channel.
#[derive(Debug)]
struct Opening {
    /// Whose it is; dead if the miner has left.
    mailbox: Weak<Mailbox>,
    max_target: Target,
}

impl Registry {
    fn register(&self, now: Instant, mailbox: &Arc<Mailbox>, max_target: Target) -> u32 {
        let mut openings = self.lock();
        openings.last_request_id = openings.last_request_id.wrapping_add(1);
        let id = openings.last_request_id;
        openings.waiting.insert(
            id,
            Opening {
                mailbox: Arc::downgrade(mailbox),
                max_target,
            },
        );
        openings.owing_since.get_or_insert(now);
        id
    }

    /// What was asked; `None` if nothing was.
    fn answer(&self, now: Instant, request_id: u32) -> Option<Opening> {
        let mut openings = self.lock();
        let opening = openings.waiting.remove(&request_id)?;
        openings.owing_since = (!openings.waiting.is_empty()).then_some(now);
        Some(opening)
    }

    /// How long the upstream has left all requests for channels unanswered.
    fn owing_for(&self, now: Instant) -> Duration {
        self.lock()
            .owing_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn lock(&self) -> MutexGuard<'_, Openings> {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
