//! The status at one moment, as it is shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use super::miner::{Miner, MinerNow, TrafficTotals};
use super::unix_ms;
use crate::session::Tally;
use crate::upstream::{Standing, UpstreamHealth};

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

impl From<&TrafficTotals> for TrafficSnapshot {
    fn from(totals: &TrafficTotals) -> Self {
        Self {
            bytes_sent: totals.from_miners,
            bytes_received: totals.to_miners,
            notifications: totals.notifications,
            throttled: totals.throttled,
        }
    }
}

impl MinerSnapshot {
    pub(super) fn new(miner: &Miner, now: &MinerNow) -> Self {
        Self {
            id: miner.id,
            address: miner.address(),
            worker: now.worker.as_deref().map(Into::into),
            connected_at_ms: miner.connected_at_ms,
            difficulty: now.difficulty,
            hashrate: now.hashrate,
            shares: Shares::from(&now.tally),
        }
    }
}

impl UpstreamSnapshot {
    pub(super) fn new(pool: &Standing, followed: bool) -> Self {
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
