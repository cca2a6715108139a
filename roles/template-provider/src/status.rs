//! What a running template provider counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use templates::Templates;

use crate::session::{Fault, Tally};

/// Counters of all connections.
#[derive(Debug)]
pub(crate) struct Counters {
    listener: Arc<service::listener::Counters>,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    disconnects: Mutex<BTreeMap<&'static str, u64>>,
    templates: AtomicU64,
    tips: AtomicU64,
    transaction_requests: AtomicU64,
    transaction_requests_refused: AtomicU64,
    solutions: AtomicU64,
    solutions_refused: AtomicU64,
    last_block: Mutex<Option<BlockReport>>,
}

/// The fate of a block that a client found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// Block hash as it is usually shown, in hex.
    pub hash: String,
    /// Height, where the template says it.
    pub height: Option<u32>,
    /// Whether the node took it.
    pub accepted: bool,
    /// `accepted`, or why not.
    pub outcome: String,
}

/// A moment of a template provider's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Open connections.
    pub connections: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// Why connections were ended that did not just leave.
    pub disconnects: BTreeMap<&'static str, u64>,
    /// What the listener did: connections refused, and times that accepting paused.
    pub listener: service::listener::Snapshot,
    /// Templates sent.
    pub templates_sent: u64,
    /// Tips sent.
    pub tips_sent: u64,
    /// Requests for a template's transactions.
    pub transaction_requests: u64,
    /// Those of a template that is stale or not known.
    pub transaction_requests_refused: u64,
    /// Blocks that clients found, and that were passed on.
    pub solutions: u64,
    /// Solutions that were not: of a template that is not known, or no block.
    pub solutions_refused: u64,
    /// The last block that was answered for.
    pub last_block: Option<BlockReport>,
    /// The template source, with what it made of the blocks.
    pub templates: templates::Status,
}

/// Reads the status of a template provider; cheap to clone.
#[derive(Clone)]
pub struct StatusHandle {
    counters: Arc<Counters>,
    templates: Templates,
}

impl StatusHandle {
    pub(crate) fn new(counters: Arc<Counters>, templates: Templates) -> Self {
        Self {
            counters,
            templates,
        }
    }

    /// Whether there are templates to give, and if not, why.
    pub(crate) fn ready(&self) -> Result<(), Vec<String>> {
        let health = self.templates.health();
        if health.fresh {
            return Ok(());
        }
        let reason = health.error.unwrap_or_else(|| "no template yet".to_owned());
        Err(vec![format!("templates: {reason}")])
    }

    /// The numbers now.
    pub fn snapshot(&self) -> Status {
        let counters = &*self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Closed first, so that a connection in between does not make the difference negative.
        let closed = read(&counters.connections_closed);
        let opened = read(&counters.connections_opened);
        Status {
            connections: opened.saturating_sub(closed),
            connections_total: opened,
            disconnects: locked(&counters.disconnects).clone(),
            listener: counters.listener.snapshot(),
            templates_sent: read(&counters.templates),
            tips_sent: read(&counters.tips),
            transaction_requests: read(&counters.transaction_requests),
            transaction_requests_refused: read(&counters.transaction_requests_refused),
            solutions: read(&counters.solutions),
            solutions_refused: read(&counters.solutions_refused),
            last_block: locked(&counters.last_block).clone(),
            templates: self.templates.status(),
        }
    }
}

impl Counters {
    pub(crate) fn new(listener: Arc<service::listener::Counters>) -> Self {
        Self {
            listener,
            connections_opened: AtomicU64::new(0),
            connections_closed: AtomicU64::new(0),
            disconnects: Mutex::default(),
            templates: AtomicU64::new(0),
            tips: AtomicU64::new(0),
            transaction_requests: AtomicU64::new(0),
            transaction_requests_refused: AtomicU64::new(0),
            solutions: AtomicU64::new(0),
            solutions_refused: AtomicU64::new(0),
            last_block: Mutex::default(),
        }
    }

    pub(crate) fn connected(&self) {
        self.connections_opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disconnected(&self, fault: Option<&Fault>) {
        self.connections_closed.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = fault.and_then(Fault::reason) {
            *locked(&self.disconnects).entry(reason).or_default() += 1;
        }
    }

    pub(crate) fn add(&self, tally: Tally) {
        let add = |counter: &AtomicU64, count: u64| {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        };
        let Tally {
            templates,
            tips,
            transaction_requests,
            transaction_requests_refused,
            solutions,
            solutions_refused,
        } = tally;
        add(&self.templates, templates);
        add(&self.tips, tips);
        add(&self.transaction_requests, transaction_requests);
        add(
            &self.transaction_requests_refused,
            transaction_requests_refused,
        );
        add(&self.solutions, solutions);
        add(&self.solutions_refused, solutions_refused);
    }

    pub(crate) fn block(&self, report: BlockReport) {
        *locked(&self.last_block) = Some(report);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
