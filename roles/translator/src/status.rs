//! What the translator knows about itself, readable while it runs.
//!
//! A miner's counts are written by its own task alone, under a lock that only a reader of the status ever contends for, so
//! that the counts of one miner always add up. No two miners share a cache line for a share.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::session::Tally;
use crate::upstream::SlotState;

/// A cheap handle to the status of a translator; it outlives the translator.
#[derive(Debug, Clone)]
pub struct StatusHandle(Arc<Status>);

/// The status at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// One entry for each connection to a pool.
    pub upstreams: Vec<UpstreamSnapshot>,
    /// Miners that are connected.
    pub connected: usize,
    /// Ended connections by reason.
    pub disconnected: BTreeMap<&'static str, u64>,
    /// What the listener did.
    pub listener: service::listener::Snapshot,
    /// All shares since the start, of miners that are here and miners that left.
    pub shares: Shares,
    /// In H/s: what the shares of the miners that are connected show.
    pub hashrate: f64,
    /// The miners that are connected, oldest first.
    pub miners: Vec<MinerSnapshot>,
}

/// A connection to a pool.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamSnapshot {
    /// The pool it is connected to.
    pub connected_to: Option<String>,
    /// How often it has connected.
    pub connections: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// A connected miner.
#[derive(Debug, Clone, Serialize)]
pub struct MinerSnapshot {
    /// Counts up, process-wide.
    pub id: u64,
    /// Where it calls from.
    pub address: SocketAddr,
    /// The name it mines under.
    pub worker: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
    /// The SV1 difficulty that it was told last.
    pub difficulty: Option<f64>,
    /// In H/s: what its shares show.
    pub hashrate: f64,
    /// Its shares.
    pub shares: Shares,
}

/// Counted shares: `submitted = accepted + Σ rejected + Σ lost + in_flight`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// That miners sent.
    pub submitted: u64,
    /// That were sent to the pool.
    pub forwarded: u64,
    /// That the pool acknowledged.
    pub accepted: u64,
    /// That miners were told are accepted.
    pub told_accepted: u64,
    /// That the pool has not answered yet.
    pub in_flight: u64,
    /// Hashes that the accepted shares stand for.
    pub accepted_work: u128,
    /// Refused, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Whose fate is unknown, by reason.
    pub lost: BTreeMap<&'static str, u64>,
}

impl Shares {
    /// Whether every share is accounted for.
    pub fn add_up(&self) -> bool {
        let ended = self
            .rejected
            .values()
            .chain(self.lost.values())
            .sum::<u64>();
        self.submitted == self.accepted + ended + self.in_flight
    }
}

impl StatusHandle {
    /// Everything as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    /// Whether a pool can take work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.slots.iter().any(|slot| slot.read().0.is_some())
    }
}

#[derive(Debug)]
pub(crate) struct Status {
    slots: Vec<Arc<SlotState>>,
    listener: Arc<service::listener::Counters>,
    miners: Mutex<Miners>,
}

#[derive(Debug, Default)]
struct Miners {
    last_id: u64,
    present: HashMap<u64, Arc<Miner>>,
    departed: Tally,
    disconnected: BTreeMap<&'static str, u64>,
}

/// One miner's entry.
#[derive(Debug)]
pub(crate) struct Miner {
    id: u64,
    address: SocketAddr,
    connected_at_ms: u64,
    now: Mutex<MinerNow>,
}

/// What changes about a miner.
#[derive(Debug, Default, Clone)]
pub(crate) struct MinerNow {
    pub(crate) worker: Option<Box<str>>,
    pub(crate) difficulty: Option<f64>,
    pub(crate) hashrate: f64,
    pub(crate) tally: Tally,
}

impl Miner {
    /// Called by the miner's own task only.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut MinerNow)) {
        change(&mut lock(&self.now));
    }

    fn snapshot(&self) -> (MinerSnapshot, Tally) {
        let MinerNow {
            worker,
            difficulty,
            hashrate,
            tally,
        } = lock(&self.now).clone();
        let snapshot = MinerSnapshot {
            id: self.id,
            address: self.address,
            worker: worker.map(Into::into),
            connected_at_ms: self.connected_at_ms,
            difficulty,
            hashrate,
            shares: Shares::from(&tally),
        };
        (snapshot, tally)
    }
}

impl Status {
    pub(crate) fn new(
        slots: Vec<Arc<SlotState>>,
        listener: Arc<service::listener::Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots,
            listener,
            miners: Mutex::default(),
        })
    }

    pub(crate) fn handle(self: &Arc<Self>) -> StatusHandle {
        StatusHandle(Arc::clone(self))
    }

    pub(crate) fn arrive(&self, address: SocketAddr) -> Arc<Miner> {
        let mut miners = lock(&self.miners);
        miners.last_id += 1;
        let id = miners.last_id;
        let miner = Arc::new(Miner {
            id,
            address,
            connected_at_ms: unix_ms(),
            now: Mutex::default(),
        });
        miners.present.insert(id, Arc::clone(&miner));
        miner
    }

    pub(crate) fn depart(&self, miner: &Miner, reason: &'static str) {
        let mut miners = lock(&self.miners);
        if miners.present.remove(&miner.id).is_some() {
            miners.departed.add(&lock(&miner.now).tally);
            *miners.disconnected.entry(reason).or_default() += 1;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let miners = lock(&self.miners);
        let mut total = miners.departed.clone();
        let mut present: Vec<MinerSnapshot> = Vec::with_capacity(miners.present.len());
        for miner in miners.present.values() {
            let (snapshot, tally) = miner.snapshot();
            total.add(&tally);
            present.push(snapshot);
        }
        let disconnected = miners.disconnected.clone();
        drop(miners);
        present.sort_by_key(|miner| miner.id);
        let upstreams = self.slots.iter().map(|slot| {
            let (connected_to, last_error, connections) = slot.read();
            UpstreamSnapshot {
                connected_to,
                connections,
                last_error,
            }
        });
        Snapshot {
            upstreams: upstreams.collect(),
            connected: present.len(),
            disconnected,
            listener: self.listener.snapshot(),
            shares: Shares::from(&total),
            hashrate: present.iter().map(|miner| miner.hashrate).sum(),
            miners: present,
        }
    }
}

impl From<&Tally> for Shares {
    fn from(tally: &Tally) -> Self {
        Self {
            submitted: tally.submitted,
            forwarded: tally.forwarded,
            accepted: tally.accepted,
            told_accepted: tally.told_accepted,
            in_flight: tally.in_flight,
            accepted_work: tally.accepted_work,
            rejected: tally.rejected_by_reason().collect(),
            lost: tally.lost_by_reason().collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole whenever the lock is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
