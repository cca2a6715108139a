//! What the translator knows about itself, readable while it runs.
//!
//! A miner's counts are written by its own task alone, under a lock that only a reader of the status ever contends for, so
//! that the counts of one miner always add up. No two miners share a cache line for a share.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use service::http::Histogram;
use stats::sender::Happened;
use stats_events::Event;

use crate::session::{Answered, RequestKind, Tally};
use crate::telling::{GONE, farewell};
use crate::tls::Door;
use crate::upstream::{Complaints, Roster, Standing, UpstreamHealth};

/// A cheap handle to the status of a translator; it outlives the translator.
#[derive(Debug, Clone)]
pub struct StatusHandle(Arc<Status>);

/// The status at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The pools, in their order.
    pub upstreams: Vec<UpstreamSnapshot>,
    /// How often the miners were moved from one pool to another.
    pub upstream_moves: u64,
    /// Miners that are connected, or were and have shares on the way.
    pub connected: usize,
    /// Connections of miners since the start.
    pub connections: u64,
    /// Ended connections by reason.
    pub disconnected: BTreeMap<&'static str, u64>,
    /// Whether miners can connect: not while no pool could be had for too long.
    pub listening: bool,
    /// What the listener did.
    pub listener: service::listener::Snapshot,
    /// TLS handshakes that had to wait for others.
    pub handshakes_waited: u64,
    /// All shares since the start, of miners that are here and miners that left.
    pub shares: Shares,
    /// Bytes and messages between the miners and here.
    pub traffic: TrafficSnapshot,
    /// In H/s: what the shares of the miners that are connected show.
    pub hashrate: f64,
    /// The miners that are connected, oldest first.
    pub miners: Vec<MinerSnapshot>,
}

/// What went over the miners' connections since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TrafficSnapshot {
    /// Bytes from miners, in the direction of the pool.
    pub bytes_sent: u64,
    /// Bytes to miners, from the direction of the pool.
    pub bytes_received: u64,
    /// `mining.notify` messages to miners.
    pub notifications: u64,
    /// Times that a miner was not read for a while, because it sent more lines than `lines_per_second`.
    pub throttled: u64,
}

/// A pool.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamSnapshot {
    /// As configured.
    pub address: String,
    /// Whether it is the one that the miners work for.
    pub followed: bool,
    /// How it does.
    pub health: UpstreamHealth,
    /// Milliseconds since the Unix epoch.
    pub failing_since_ms: Option<u64>,
    /// Connections to it that are up.
    pub connected: usize,
    /// Connections to it that were made.
    pub connections: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Failed attempts and lost connections, by reason.
    pub failures: BTreeMap<&'static str, u64>,
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
    /// That the pool acknowledged, or that are kept.
    pub accepted: u64,
    /// Accepted ones that did not meet the target of their channel, so that the pool was not sent them.
    pub kept: u64,
    /// That miners were told are accepted.
    pub told_accepted: u64,
    /// That the pool has not answered yet.
    pub in_flight: u64,
    /// Hashes that the accepted shares stand for; as text, because numbers in JSON are not that long.
    #[serde(serialize_with = "as_text")]
    pub accepted_work: u128,
    /// Hashes that the pool credits for the acknowledged ones.
    #[serde(serialize_with = "as_text")]
    pub upstream_work: u128,
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

/// One miner's entry.
#[derive(Debug)]
pub(crate) struct Miner {
    pub(crate) id: u64,
    address: SocketAddr,
    /// That it came to.
    pub(crate) port: u16,
    pub(crate) connected_at_ms: u64,
    connected_at: Instant,
    now: Mutex<MinerNow>,
    set_up: Arc<SetUp>,
}

/// How long answers to all miners' other requests have taken. They are few where all is well, so that one place for all
/// costs less than one for each miner.
#[derive(Debug, Default)]
struct SetUp(Mutex<[Latencies; RequestKind::ALL.len() - 1]>);

/// What changes about a miner.
#[derive(Debug, Default, Clone)]
pub(crate) struct MinerNow {
    pub(crate) worker: Option<Box<str>>,
    pub(crate) user_agent: Option<Box<str>>,
    pub(crate) last_share_ms: Option<u64>,
    pub(crate) difficulty: Option<f64>,
    pub(crate) hashrate: f64,
    pub(crate) tally: Tally,
    pub(crate) traffic: TrafficTotals,
    first_job_after: Option<Duration>,
    /// How long its connection has lasted, when only its last shares are waited for.
    lasted: Option<Duration>,
}

/// What a miner's task has seen since it told last.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) from_miner: u64,
    pub(crate) to_miner: u64,
    /// Times that the miner had to wait because it sent too many lines.
    pub(crate) throttled: u64,
}

/// Seconds; a translator answers out of its own memory.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(pub(crate) Histogram<9>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(&[
            0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0,
        ]))
    }
}

/// Seconds; from firmware that cannot agree to a farm that never goes off.
#[derive(Debug, Clone)]
pub(crate) struct Durations(pub(crate) Histogram<8>);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(&[
            1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0,
        ]))
    }
}

/// A miner's traffic, or sums of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrafficTotals {
    pub(crate) from_miners: u64,
    pub(crate) to_miners: u64,
    pub(crate) notifications: u64,
    pub(crate) throttled: u64,
    /// From reading a submit to having written its answer.
    pub(crate) submits: Latencies,
}

impl TrafficTotals {
    pub(crate) fn add(&mut self, traffic: &Traffic, notifications: u64) {
        self.from_miners += traffic.from_miner;
        self.to_miners += traffic.to_miner;
        self.throttled += traffic.throttled;
        self.notifications = notifications;
    }

    fn merge(&mut self, other: &Self) {
        self.from_miners += other.from_miners;
        self.to_miners += other.to_miners;
        self.throttled += other.throttled;
        self.notifications += other.notifications;
        self.submits.0.add(&other.submits.0);
    }

    fn snapshot(&self) -> TrafficSnapshot {
        TrafficSnapshot {
            bytes_sent: self.from_miners,
            bytes_received: self.to_miners,
            notifications: self.notifications,
            throttled: self.throttled,
        }
    }
}

impl Miner {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers were written, to lines that were read at a time and to what the upstream had to answer first.
    pub(crate) fn answered(&self, answered: &mut Answered, asked_at: Instant) {
        let written_at = Instant::now();
        let after = |asked_at| written_at.duration_since(asked_at).as_secs_f64();
        let [submits, others @ ..] = answered.at_once;
        if submits > 0 || !answered.later.is_empty() {
            let latencies = &mut lock(&self.now).traffic.submits.0;
            latencies.observe_many(after(asked_at), submits);
            for asked_at in &answered.later {
                latencies.observe(after(*asked_at));
            }
        }
        if others.iter().any(|count| *count > 0) {
            let mut latencies = lock(&self.set_up.0);
            for (latencies, count) in latencies.iter_mut().zip(others) {
                latencies.0.observe_many(after(asked_at), count);
            }
        }
        answered.clear();
    }

    /// Called by the miner's own task only.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut MinerNow)) {
        let mut now = lock(&self.now);
        let accepted = now.tally.accepted;
        change(&mut now);
        if now.tally.accepted > accepted {
            now.last_share_ms = Some(unix_ms(SystemTime::now()));
        }
        if now.first_job_after.is_none() && now.traffic.notifications > 0 {
            now.first_job_after = Some(self.connected_at.elapsed());
        }
    }

    /// A copy, so that the miner's task is not kept waiting.
    pub(crate) fn now(&self) -> MinerNow {
        lock(&self.now).clone()
    }

    /// Its connection is gone; answers to its last shares may still come.
    pub(crate) fn hung_up(&self) {
        lock(&self.now).lasted = Some(self.connected_at.elapsed());
    }

    fn snapshot(&self, now: &MinerNow) -> MinerSnapshot {
        MinerSnapshot {
            id: self.id,
            address: self.address,
            worker: now.worker.as_deref().map(Into::into),
            connected_at_ms: self.connected_at_ms,
            difficulty: now.difficulty,
            hashrate: now.hashrate,
            shares: Shares::from(&now.tally),
        }
    }
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
        let totals = self.totals(|MinerSight { miner, now }| present.push(miner.snapshot(now)));
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
            traffic: totals.traffic.snapshot(),
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

impl UpstreamSnapshot {
    fn new(pool: &Standing, followed: bool) -> Self {
        Self {
            address: pool.address.clone(),
            followed,
            health: pool.health,
            failing_since_ms: pool.failing_since.map(unix_ms),
            connected: pool.connected,
            connections: pool.connections,
            last_error: pool.last_error.clone(),
            failures: pool.failures.clone(),
        }
    }
}

/// A miner and what holds for it now.
struct MinerSight<'a> {
    miner: &'a Miner,
    now: &'a MinerNow,
}

impl From<&Tally> for Shares {
    fn from(tally: &Tally) -> Self {
        Self {
            submitted: tally.submitted,
            forwarded: tally.forwarded,
            accepted: tally.accepted,
            told_accepted: tally.told_accepted,
            in_flight: tally.in_flight,
            kept: tally.kept,
            accepted_work: tally.accepted_work,
            upstream_work: tally.upstream_work,
            rejected: tally.rejected_by_reason().collect(),
            lost: tally.lost_by_reason().collect(),
        }
    }
}

fn as_text<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole whenever the lock is free.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
