//! One miner's entry. It is written by the miner's own task alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use service::http::Histogram;

use super::{lock, unix_ms};
use crate::session::{Answered, RequestKind, Tally};

/// One miner's entry.
#[derive(Debug)]
pub(crate) struct Miner {
    pub(crate) id: u64,
    pub(super) address: SocketAddr,
    /// That it came to.
    pub(crate) port: u16,
    pub(crate) connected_at_ms: u64,
    pub(super) connected_at: Instant,
    pub(super) now: Mutex<MinerNow>,
    pub(super) set_up: Arc<SetUp>,
}

/// How long answers to all miners' other requests have taken. They are few where all is well, so that one place for all
/// costs less than one for each miner.
#[derive(Debug, Default)]
pub(super) struct SetUp(pub(super) Mutex<[Latencies; RequestKind::ALL.len() - 1]>);

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
    pub(super) first_job_after: Option<Duration>,
    /// How long its connection has lasted, when only its last shares are waited for.
    pub(super) lasted: Option<Duration>,
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

    pub(super) fn merge(&mut self, other: &Self) {
        self.from_miners += other.from_miners;
        self.to_miners += other.to_miners;
        self.throttled += other.throttled;
        self.notifications += other.notifications;
        self.submits.0.add(&other.submits.0);
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
}
