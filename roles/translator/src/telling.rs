//! What a stats service is told: the translator, its pools, and each miner with its worker.

use std::net::SocketAddr;
use std::sync::Arc;

use stats::sender::{Source, clip};
use stats_events::{
    Counters, Endpoint, Event, Peer, PeerEnd, PeerState, ServiceState, UpstreamState, Work,
    WorkerState,
};

use crate::session::Tally;
use crate::status::{Miner, MinerNow, Status, StatusHandle, UpstreamSnapshot};
use crate::upstream::UpstreamHealth;

/// Events of miners that have gone and were not told yet; each has three. What there is no room for is in the translator's
/// own sums all the same.
pub(crate) const GONE: usize = 30_000;

const PROTOCOL: &str = "sv1";

/// Looks at the status for the sender.
pub(crate) struct Telling {
    pub(crate) status: Arc<Status>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Source for Telling {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        // One after the other, so that no lock is held while something is told.
        let miners = self.status.present();
        show(Event::Service(self.service()));
        for (order, upstream) in (0..).zip(self.handle().upstreams()) {
            show(Event::Upstream(upstream_state(order, upstream)));
        }
        for miner in miners {
            let now = miner.now();
            show(Event::PeerConnected(introduction(&miner, &now)));
            show(Event::Peer(PeerState {
                peer: miner.id,
                channels: 0,
                difficulty: now.difficulty,
                counters: counters(&now.tally, now.last_share_ms),
            }));
            if let Some(worker) = worker(&miner, &now) {
                show(Event::Worker(worker));
            }
        }
    }

    fn happened(&self, most: usize) -> Vec<Event> {
        self.status.gone(most)
    }
}

impl Telling {
    fn handle(&self) -> StatusHandle {
        self.status.handle()
    }

    fn service(&self) -> ServiceState {
        let (tally, last_share_ms) = self.status.sums();
        let ready = self.handle().is_ready();
        let problems = if ready {
            Vec::new()
        } else {
            vec!["no pool is connected".to_owned()]
        };
        ServiceState {
            ready,
            problems,
            endpoints: self.endpoints.clone(),
            counters: counters(&tally, last_share_ms),
            dropped_events: self.status.dropped(),
        }
    }
}

/// Where it listens, as it stands in [`ServiceState`].
pub(crate) fn endpoint(protocol: &str, address: SocketAddr) -> Endpoint {
    Endpoint {
        protocol: protocol.to_owned(),
        address: address.to_string(),
        authority_public_key: None,
    }
}

/// A miner has gone: who it was, and its last counts.
pub(crate) fn farewell(miner: &Miner, now: &MinerNow, at_ms: u64, reason: &str) -> Vec<Event> {
    let mut events = vec![Event::PeerConnected(introduction(miner, now))];
    events.extend(worker(miner, now).map(|worker| {
        Event::Worker(WorkerState {
            ended: true,
            ..worker
        })
    }));
    events.push(Event::PeerDisconnected(PeerEnd {
        peer: miner.id,
        disconnected_at_ms: at_ms,
        reason: reason.to_owned(),
        counters: counters(&now.tally, now.last_share_ms),
    }));
    events
}

fn introduction(miner: &Miner, now: &MinerNow) -> Peer {
    Peer {
        peer: miner.id,
        connected_at_ms: miner.connected_at_ms,
        address: miner.address().to_string(),
        protocol: PROTOCOL.to_owned(),
        port: miner.port,
        user_agent: now.user_agent.as_deref().map(Into::into),
        ..Peer::default()
    }
}

/// The name it mines under; none before it has authorised.
fn worker(miner: &Miner, now: &MinerNow) -> Option<WorkerState> {
    let name = now.worker.as_deref()?;
    let (account, worker) = name.split_once('.').unwrap_or((name, ""));
    Some(WorkerState {
        peer: miner.id,
        account: account.to_owned(),
        worker: worker.to_owned(),
        since_ms: miner.connected_at_ms,
        difficulty: now.difficulty,
        counters: counters(&now.tally, now.last_share_ms),
        ..WorkerState::default()
    })
}

fn upstream_state(order: u32, upstream: UpstreamSnapshot) -> UpstreamState {
    let health = match upstream.health {
        UpstreamHealth::NeverTried => "never-tried",
        UpstreamHealth::Healthy => "healthy",
        UpstreamHealth::Failing => "failing",
    };
    UpstreamState {
        address: clip(upstream.address),
        order,
        health: health.to_owned(),
        connections: u32::try_from(upstream.connected).unwrap_or(u32::MAX),
        last_error: upstream.last_error.map(clip),
        since_ms: upstream.failing_since_ms,
    }
}

fn counters(tally: &Tally, last_share_ms: Option<u64>) -> Counters {
    let named = |(reason, count): (&str, u64)| (reason.to_owned(), count);
    Counters {
        submitted: tally.submitted,
        accepted: tally.accepted,
        rejected: tally.rejected_by_reason().map(named).collect(),
        lost: tally.lost_by_reason().map(named).collect(),
        work: Work(tally.accepted_work),
        last_share_ms,
    }
}
