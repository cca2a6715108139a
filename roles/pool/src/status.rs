//! What a running pool counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ledger::{Delays, Health};
use serde::{Serialize, Serializer};
use sv2_connection::Gate;
use templates::Templates;
use tokio::sync::watch;

use crate::{
    session::{Fault, Tally},
    shares::Rejection,
};

/// Counters of all connections. Each connection adds a batch at a time, never a share at a time.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    listener: Arc<service::listener::Counters>,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    throttled: AtomicU64,
    handshakes: Arc<Gate>,
    disconnects: Mutex<BTreeMap<&'static str, u64>>,
    channels_opened: AtomicU64,
    channels_refused: Mutex<BTreeMap<&'static str, u64>>,
    channels_closed: AtomicU64,
    accepted: AtomicU64,
    rejected: [AtomicU64; Rejection::ALL.len()],
    work: Sum,
    blocks_accepted: AtomicU64,
    blocks_failed: AtomicU64,
    blocks_confirmed: AtomicU64,
    blocks_orphaned: AtomicU64,
    last_block: Mutex<Option<BlockReport>>,
}

/// How a block that was found here ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockEnd {
    Confirmed,
    Orphaned,
}

/// Whether accepted shares become durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedgerStatus {
    /// Whether commits succeed.
    pub writable: bool,
    /// Why they do not.
    pub error: Option<String>,
}

/// The answer of the node to a block that was found here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// Block hash as it is usually shown, in hex.
    pub hash: String,
    /// Height, where the template says it.
    pub height: Option<u32>,
    /// Who found it.
    pub identity: String,
    /// Whether the node took it.
    pub accepted: bool,
    /// `accepted`, or why not.
    pub outcome: String,
}

/// A moment of a pool's life.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Open connections.
    pub connections: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// Why connections were ended that did not just leave.
    pub disconnects: BTreeMap<&'static str, u64>,
    /// What the listener did: connections refused, and times that accepting paused.
    pub listener: service::listener::Snapshot,
    /// Times that a client was not read for a while, because it sent more messages than `messages_per_second`.
    pub throttled: u64,
    /// Handshakes that had to wait for others.
    pub handshakes_waited: u64,
    /// Open channels.
    pub channels: u64,
    /// Channels that were refused, by the error code that was answered.
    pub channels_refused: BTreeMap<&'static str, u64>,
    /// Shares that count.
    pub shares_accepted: u64,
    /// Shares that do not, by reason; all reasons there are.
    pub shares_rejected: BTreeMap<&'static str, u64>,
    /// Expected hashes of the accepted shares; text in JSON, whose numbers are not that large.
    #[serde(serialize_with = "as_text")]
    pub work: u128,
    /// Blocks that the node took.
    pub blocks_accepted: u64,
    /// Blocks that it did not take, or could not be given.
    pub blocks_failed: u64,
    /// Blocks that were seen to be buried since the start.
    pub blocks_confirmed: u64,
    /// Blocks that were seen to be orphaned since the start.
    pub blocks_orphaned: u64,
    /// The last block that was found.
    pub last_block: Option<BlockReport>,
    /// The template source.
    pub templates: templates::Status,
    /// The ledger.
    pub ledger: LedgerStatus,
}

/// Reads the status of a pool; cheap to clone.
#[derive(Clone)]
pub struct StatusHandle {
    counters: Arc<Counters>,
    templates: Templates,
    ledger: watch::Receiver<Health>,
    delays: watch::Receiver<Delays>,
}

impl StatusHandle {
    pub(crate) fn new(
        counters: Arc<Counters>,
        templates: Templates,
        ledger: &ledger::Opened,
    ) -> Self {
        Self {
            counters,
            templates,
            ledger: ledger.health(),
            delays: ledger.delays(),
        }
    }

    /// How long accepted shares have waited until they were durable.
    pub(crate) fn delays(&self) -> Delays {
        self.delays.borrow().clone()
    }

    fn ledger(&self) -> LedgerStatus {
        let error = match &*self.ledger.borrow() {
            _ if self.ledger.has_changed().is_err() => Some("nobody writes to it".to_owned()),
            Health::Writable => None,
            Health::Stalled(problem) => Some(problem.clone()),
            Health::TakenOver => Some("another process writes under this server_id".to_owned()),
        };
        LedgerStatus {
            writable: error.is_none(),
            error,
        }
    }

    /// Whether the pool can do its job, and if not, why.
    pub(crate) fn ready(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let health = self.templates.health();
        if !health.fresh {
            let reason = health.error.unwrap_or_else(|| "no template yet".to_owned());
            problems.push(format!("templates: {reason}"));
        }
        if let Some(reason) = self.ledger().error {
            problems.push(format!("ledger: {reason}"));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }

    /// The counters now.
    pub fn snapshot(&self) -> Status {
        let counters = &*self.counters;
        // Closed before opened, so that the difference is never negative.
        let connections_closed = counters.connections_closed.load(Ordering::Relaxed);
        let connections_total = counters.connections_opened.load(Ordering::Relaxed);
        let channels_closed = counters.channels_closed.load(Ordering::Relaxed);
        let channels_opened = counters.channels_opened.load(Ordering::Relaxed);
        Status {
            connections: connections_total.saturating_sub(connections_closed),
            connections_total,
            disconnects: lock(&counters.disconnects).clone(),
            listener: counters.listener.snapshot(),
            throttled: counters.throttled.load(Ordering::Relaxed),
            handshakes_waited: counters.handshakes.waited(),
            channels: channels_opened.saturating_sub(channels_closed),
            channels_refused: lock(&counters.channels_refused).clone(),
            shares_accepted: counters.accepted.load(Ordering::Relaxed),
            shares_rejected: Rejection::ALL
                .into_iter()
                .map(|reason| {
                    let count = counters.rejected[reason as usize].load(Ordering::Relaxed);
                    (reason.name(), count)
                })
                .collect(),
            work: counters.work.get(),
            blocks_accepted: counters.blocks_accepted.load(Ordering::Relaxed),
            blocks_failed: counters.blocks_failed.load(Ordering::Relaxed),
            blocks_confirmed: counters.blocks_confirmed.load(Ordering::Relaxed),
            blocks_orphaned: counters.blocks_orphaned.load(Ordering::Relaxed),
            last_block: lock(&counters.last_block).clone(),
            templates: self.templates.status(),
            ledger: self.ledger(),
        }
    }
}

impl Counters {
    pub(crate) fn new(listener: Arc<service::listener::Counters>, handshakes: Arc<Gate>) -> Self {
        Self {
            listener,
            handshakes,
            ..Self::default()
        }
    }

    pub(crate) fn connected(&self) {
        add(&self.connections_opened, 1);
    }

    pub(crate) fn disconnected(&self, fault: Option<&Fault>) {
        add(&self.connections_closed, 1);
        if let Some(reason) = fault.and_then(reason) {
            *lock(&self.disconnects).entry(reason).or_default() += 1;
        }
    }

    pub(crate) fn throttled(&self) {
        add(&self.throttled, 1);
    }

    pub(crate) fn channels_closed(&self, count: u64) {
        add(&self.channels_closed, count);
    }

    pub(crate) fn add(&self, tally: Tally) {
        add(&self.accepted, tally.accepted);
        self.work.add(tally.work);
        for (counter, count) in self.rejected.iter().zip(tally.rejected) {
            add(counter, count);
        }
        add(&self.channels_opened, tally.channels_opened);
        if !tally.channels_refused.is_empty() {
            let mut refused = lock(&self.channels_refused);
            for (code, count) in tally.channels_refused {
                *refused.entry(code).or_default() += count;
            }
        }
        add(&self.channels_closed, tally.channels_closed);
    }

    pub(crate) fn block(&self, report: BlockReport) {
        let counter = if report.accepted {
            &self.blocks_accepted
        } else {
            &self.blocks_failed
        };
        *lock(&self.last_block) = Some(report);
        add(counter, 1);
    }

    pub(crate) fn block_ended(&self, end: BlockEnd) {
        let counter = match end {
            BlockEnd::Confirmed => &self.blocks_confirmed,
            BlockEnd::Orphaned => &self.blocks_orphaned,
        };
        add(counter, 1);
    }
}

/// A sum of 128 bits without a lock: what overflows the low half is carried into the high one.
#[derive(Debug, Default)]
struct Sum {
    low: AtomicU64,
    high: AtomicU64,
}

impl Sum {
    #[allow(clippy::cast_possible_truncation)]
    fn add(&self, value: u128) {
        let (low, high) = (value as u64, (value >> 64) as u64);
        let before = self.low.fetch_add(low, Ordering::Relaxed);
        let carry = u64::from(before.checked_add(low).is_none());
        add(&self.high, high + carry);
    }

    /// Exact whenever nobody is adding; a reader that meets a carry on its way is 2^64 short for that moment.
    fn get(&self) -> u128 {
        let low = self.low.load(Ordering::Relaxed);
        let high = self.high.load(Ordering::Relaxed);
        u128::from(high) << 64 | u128::from(low)
    }
}

/// A name for the reason, where the client did not just leave.
pub(crate) fn reason(fault: &Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::Connection(error) => return error.reason(),
        Fault::Malformed(_) => "malformed-message",
        Fault::Unexpected { .. } => "unexpected-message",
        Fault::Refused(_) => "refused",
        Fault::SetupTimeout => "setup-timeout",
        Fault::Stopping => return None,
        Fault::NoTemplates => "no-templates",
        Fault::NoChannel => "no-channel",
        Fault::Idle => "idle",
    })
}

fn as_text<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_beyond_64_bits_is_summed_and_shown() {
        let sum = Sum::default();
        sum.add(u128::from(u64::MAX));
        sum.add(u128::from(u64::MAX) + (3 << 64));
        let total = 2 * u128::from(u64::MAX) + (3 << 64);
        assert_eq!(sum.get(), total);

        #[derive(Serialize)]
        struct Shown(#[serde(serialize_with = "as_text")] u128);
        let shown = serde_json::to_value(Shown(total)).unwrap();
        assert_eq!(shown, total.to_string());
    }
}
