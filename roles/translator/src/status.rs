//! What the translator knows about itself, readable while it runs.
//!
//! A miner's counts are written by its own task alone, under a lock that only a reader of the status ever contends for, so
//! that the counts of one miner always add up. No two miners share a cache line for a share.

mod miner;
mod shown;

pub(crate) use miner::{Durations, Latencies, Miner, MinerNow, Traffic, TrafficTotals};
pub use shown::{MinerSnapshot, Shares, Snapshot, TrafficSnapshot, UpstreamSnapshot};

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use stats::sender::Happened;
use stats_events::Event;

use crate::session::{RequestKind, Tally};
use crate::telling::{GONE, farewell};
use crate::tls::Door;
use crate::upstream::{Complaints, Roster};
use miner::SetUp;

/// A cheap handle to the status of a translator; it outlives the translator.
#[derive(Debug, Clone)]
pub struct StatusHandle(Arc<Status>);

impl StatusHandle {
    /// Everything as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    /// Whether a pool can take work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        lock(&self.0.roster).is_available()
    }

    /// What is shown as metrics, summed over the miners that are here and those that left.
    pub(crate) fn totals(&self) -> Totals {
        self.0.totals(|_| ())
    }

    /// How often the miners were moved from one pool to another.
    pub(crate) fn upstream_moves(&self) -> u64 {
        lock(&self.0.roster).moves()
    }

    /// What pools refused or sent in vain.
    pub(crate) fn complaints(&self) -> Complaints {
        self.0.complaints()
    }

    /// The pools, in their order.
    pub(crate) fn upstreams(&self) -> Vec<UpstreamSnapshot> {
        self.0.upstreams()
    }
}

#[derive(Debug)]
pub(crate) struct Status {
    roster: Arc<Mutex<Roster>>,
    listener: Arc<service::listener::Counters>,
    listening: AtomicBool,
    tls: Option<Arc<Door>>,
    set_up: Arc<SetUp>,
    miners: Mutex<Miners>,
    /// Miners that have gone, for a stats service; none if nobody is told.
    gone: Option<Happened>,
}

#[derive(Debug, Default)]
struct Miners {
    last_id: u64,
    present: HashMap<u64, Arc<Miner>>,
    departed: Departed,
}

/// What miners leave behind.
#[derive(Debug, Clone, Default)]
struct Departed {
    tally: Tally,
    last_share_ms: Option<u64>,
    traffic: TrafficTotals,
    disconnected: BTreeMap<&'static str, u64>,
    durations: Durations,
    first_jobs: Latencies,
}

/// Sums over all miners. The names in it are bounded by the code.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// The last shares of those that left included.
    pub(crate) connected: usize,
    /// Without them.
    pub(crate) active: usize,
    pub(crate) connections: u64,
    pub(crate) disconnected: BTreeMap<&'static str, u64>,
    pub(crate) listening: bool,
    pub(crate) listener: service::listener::Snapshot,
    pub(crate) handshakes_waited: u64,
    pub(crate) tally: Tally,
    pub(crate) traffic: TrafficTotals,
    pub(crate) hashrate: f64,
    /// The mean of what connected miners were told.
    pub(crate) difficulty: f64,
    /// Of connections that ended.
    pub(crate) durations: Durations,
    /// From a miner's connection to its first job.
    pub(crate) first_jobs: Latencies,
    /// From reading a request that is no submit to its answer.
    pub(crate) set_up: [Latencies; RequestKind::ALL.len() - 1],
}

impl Status {
    pub(crate) fn new(
        roster: Arc<Mutex<Roster>>,
        listener: Arc<service::listener::Counters>,
        tls: Option<Arc<Door>>,
        told: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            roster,
            listener,
            listening: AtomicBool::new(true),
            tls,
            set_up: Arc::default(),
            miners: Mutex::default(),
            gone: told.then(|| Happened::new(GONE)),
        })
    }

    pub(crate) fn handle(self: &Arc<Self>) -> StatusHandle {
        StatusHandle(Arc::clone(self))
    }

    /// What pools refused or sent in vain.
    pub(crate) fn complaints(&self) -> Complaints {
        lock(&self.roster).complaints().clone()
    }

    /// The port was opened or closed.
    pub(crate) fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    /// Whether the port is open, or was when the translator stopped.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    pub(crate) fn arrive(&self, address: SocketAddr, port: u16) -> Arc<Miner> {
        let mut miners = lock(&self.miners);
        miners.last_id += 1;
        let id = miners.last_id;
        let miner = Arc::new(Miner {
            id,
            address,
            port,
            connected_at_ms: unix_ms(SystemTime::now()),
            connected_at: Instant::now(),
            now: Mutex::default(),
            set_up: Arc::clone(&self.set_up),
        });
        miners.present.insert(id, Arc::clone(&miner));
        miner
    }

    pub(crate) fn depart(&self, miner: &Miner, reason: &'static str) {
        let mut miners = lock(&self.miners);
        if miners.present.remove(&miner.id).is_none() {
            return;
        }
        let departed = &mut miners.departed;
        let now = lock(&miner.now);
        departed.tally.add(&now.tally);
        departed.last_share_ms = departed.last_share_ms.max(now.last_share_ms);
        departed.traffic.merge(&now.traffic);
        let duration = now.lasted.unwrap_or_else(|| miner.connected_at.elapsed());
        departed.durations.0.observe(duration.as_secs_f64());
        if let Some(after) = now.first_job_after {
            departed.first_jobs.0.observe(after.as_secs_f64());
        }
        *departed.disconnected.entry(reason).or_default() += 1;
        // Under the lock of the table, so that whoever looks sees the miner either here or gone.
        if let Some(gone) = &self.gone {
            let farewell = farewell(miner, &now, unix_ms(SystemTime::now()), reason);
            if now.tally.submitted > 0 {
                gone.push(farewell);
            } else {
                gone.push_idle(farewell);
            }
        }
    }

    /// The miners that are here, oldest first.
    pub(crate) fn present(&self) -> Vec<Arc<Miner>> {
        let mut present: Vec<_> = lock(&self.miners).present.values().cloned().collect();
        present.sort_unstable_by_key(|miner| miner.id);
        present
    }

    /// About so many events of miners that have gone.
    pub(crate) fn gone(&self, most: usize) -> Vec<Event> {
        self.gone
            .as_ref()
            .map_or_else(Vec::new, |gone| gone.take(most))
    }

    /// Events of miners that have gone for which there was no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.gone.as_ref().map_or(0, Happened::dropped)
    }

    /// The shares of all miners since the start, and when the last one was accepted.
    pub(crate) fn sums(&self) -> (Tally, Option<u64>) {
        let miners = lock(&self.miners);
        let mut tally = miners.departed.tally.clone();
        let mut last_share_ms = miners.departed.last_share_ms;
        for miner in miners.present.values() {
            let now = lock(&miner.now);
            tally.add(&now.tally);
            last_share_ms = last_share_ms.max(now.last_share_ms);
        }
        (tally, last_share_ms)
    }

    /// Sums over all miners; each that is connected is shown to `each`.
    fn totals(&self, mut each: impl FnMut(MinerSight<'_>)) -> Totals {
        let miners = lock(&self.miners);
        let departed = miners.departed.clone();
        let mut totals = Totals {
            connected: miners.present.len(),
            connections: miners.last_id,
            disconnected: departed.disconnected,
            listening: self.is_listening(),
            listener: self.listener.snapshot(),
            handshakes_waited: self.tls.as_ref().map_or(0, |door| door.waited()),
            tally: departed.tally,
            traffic: departed.traffic,
            durations: departed.durations,
            first_jobs: departed.first_jobs,
            set_up: lock(&self.set_up.0).clone(),
            ..Totals::default()
        };
        let mut told = 0.0;
        for miner in miners.present.values() {
            let now = lock(&miner.now);
            totals.tally.add(&now.tally);
            totals.traffic.merge(&now.traffic);
            totals.hashrate += now.hashrate;
            if let Some(difficulty) = now.difficulty {
                told += 1.0;
                totals.difficulty += (difficulty - totals.difficulty) / told;
            }
            if let Some(after) = now.first_job_after {
                totals.first_jobs.0.observe(after.as_secs_f64());
            }
            match now.lasted {
                Some(lasted) => totals.durations.0.observe(lasted.as_secs_f64()),
                None => totals.active += 1,
            }
            each(MinerSight { miner, now: &now });
        }
        totals
    }

    fn snapshot(&self) -> Snapshot {
        let mut present = Vec::new();
        let totals =
            self.totals(|MinerSight { miner, now }| present.push(MinerSnapshot::new(miner, now)));
        present.sort_by_key(|miner| miner.id);
        Snapshot {
            upstreams: self.upstreams(),
            upstream_moves: lock(&self.roster).moves(),
            connected: totals.connected,
            connections: totals.connections,
            disconnected: totals.disconnected,
            listening: totals.listening,
            listener: totals.listener,
            handshakes_waited: totals.handshakes_waited,
            shares: Shares::from(&totals.tally),
            traffic: TrafficSnapshot::from(&totals.traffic),
            hashrate: totals.hashrate,
            miners: present,
        }
    }

    fn upstreams(&self) -> Vec<UpstreamSnapshot> {
        let roster = lock(&self.roster);
        let followed = roster.followed();
        let pools = roster.pools().iter().enumerate();
        pools
            .map(|(index, pool)| UpstreamSnapshot::new(pool, followed == Some(index)))
            .collect()
    }
}

/// A miner and what holds for it now.
struct MinerSight<'a> {
    miner: &'a Miner,
    now: &'a MinerNow,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole whenever the lock is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
