//! What a stats service is told: the relay, its pools, and each miner with its worker.

use std::net::SocketAddr;

use stats::sender::{Source, clip};
use stats_events::{
    Counters, Endpoint, Event, Peer, PeerEnd, PeerState, ServiceState, UpstreamState, Work,
    WorkerState,
};

use crate::billing::{Books, Condition};
use crate::connections::ConnectionSnapshot;
use crate::metrics::readiness;
use crate::pools::PoolSnapshot;
use crate::totals::Totals;
use crate::{Handle, Relay};

/// Events of miners that have gone and were not told yet; each has three. What there is no room for is in the relay's own sums
/// all the same.
pub(crate) const GONE: usize = 30_000;

const PROTOCOL: &str = "sv1";

/// Looks at the relay for the sender.
pub(crate) struct Telling {
    handle: Handle,
    books: Option<Condition>,
    endpoints: Vec<Endpoint>,
}

impl Telling {
    pub(crate) fn new(relay: &Relay, tls: bool) -> Self {
        let addresses: Vec<_> = relay.local_addrs().collect();
        let last = addresses.len().saturating_sub(1);
        let endpoint = |(at, address): (usize, SocketAddr)| Endpoint {
            protocol: if tls && at == last {
                "sv1-tls"
            } else {
                PROTOCOL
            }
            .to_owned(),
            address: address.to_string(),
            authority_public_key: None,
        };
        Self {
            handle: relay.handle(),
            books: relay.books.as_ref().map(Books::condition),
            endpoints: addresses.into_iter().enumerate().map(endpoint).collect(),
        }
    }

    fn service(&self) -> ServiceState {
        let (totals, last_share_ms) = self.handle.shared().connections.all();
        let problems = readiness(&self.handle, self.books.as_ref());
        let problems = problems.err().unwrap_or_default();
        ServiceState {
            ready: problems.is_empty(),
            problems: problems.into_iter().map(clip).collect(),
            endpoints: self.endpoints.clone(),
            counters: counters(&totals, last_share_ms),
            dropped_events: self.handle.shared().connections.dropped(),
        }
    }
}

impl Source for Telling {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        // One after the other, so that no lock is held while something is told.
        let miners = self.handle.connections();
        show(Event::Service(self.service()));
        for (order, pool) in (0..).zip(self.handle.pools()) {
            show(Event::Upstream(upstream(order, pool)));
        }
        for miner in miners {
            show(Event::PeerConnected(introduction(&miner)));
            show(Event::Peer(PeerState {
                peer: miner.id,
                channels: 0,
                difficulty: miner.difficulty,
                counters: counters(&miner.totals, miner.last_share_ms),
            }));
            if let Some(worker) = worker(&miner) {
                show(Event::Worker(worker));
            }
        }
    }

    fn happened(&self, most: usize) -> Vec<Event> {
        self.handle.shared().connections.gone(most)
    }
}

/// A miner has gone: who it was, and its last counts.
pub(crate) fn farewell(miner: &ConnectionSnapshot, at_ms: u64, reason: &str) -> Vec<Event> {
    let mut events = vec![Event::PeerConnected(introduction(miner))];
    events.extend(worker(miner).map(|worker| {
        Event::Worker(WorkerState {
            ended: true,
            ..worker
        })
    }));
    events.push(Event::PeerDisconnected(PeerEnd {
        peer: miner.id,
        disconnected_at_ms: at_ms,
        reason: reason.to_owned(),
        counters: counters(&miner.totals, miner.last_share_ms),
    }));
    events
}

fn introduction(miner: &ConnectionSnapshot) -> Peer {
    Peer {
        peer: miner.id,
        connected_at_ms: miner.connected_at_ms,
        address: miner.address.to_string(),
        protocol: PROTOCOL.to_owned(),
        port: miner.port,
        user_agent: miner.user_agent.as_deref().map(Into::into),
        ..Peer::default()
    }
}

/// The name that the pool has authorised; none before.
fn worker(miner: &ConnectionSnapshot) -> Option<WorkerState> {
    let name = miner.user.as_deref()?;
    let (account, worker) = name.split_once('.').unwrap_or((name, ""));
    Some(WorkerState {
        peer: miner.id,
        account: account.to_owned(),
        worker: worker.to_owned(),
        since_ms: miner.connected_at_ms,
        difficulty: miner.difficulty,
        counters: counters(&miner.totals, miner.last_share_ms),
        ..WorkerState::default()
    })
}

fn upstream(order: u32, pool: PoolSnapshot) -> UpstreamState {
    let health = match pool.healthy {
        None => "never-tried",
        Some(true) => "healthy",
        Some(false) => "failing",
    };
    UpstreamState {
        address: clip(pool.address),
        order,
        health: health.to_owned(),
        connections: u32::try_from(pool.active).unwrap_or(u32::MAX),
        last_error: pool.last_error.map(clip),
        since_ms: None,
    }
}

fn counters(totals: &Totals, last_share_ms: Option<u64>) -> Counters {
    let rejections = totals.rejections().filter(|(_, count)| *count > 0);
    Counters {
        submitted: totals.submits,
        accepted: totals.accepted,
        rejected: rejections
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        work: Work(totals.work),
        last_share_ms,
        ..Counters::default()
    }
}
