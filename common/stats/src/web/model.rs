//! What pages and API show: copied from the board while the writer waits, and turned into text after.

mod accounts;
mod lists;
mod peers;
mod ranking;

use std::collections::BTreeMap;

use serde::Serialize;
use stats_events::Counters;
use utoipa::ToSchema;

pub(super) use accounts::{Account, AccountRow, accounts, all_accounts};
pub(super) use lists::{List, Page, Sort};
pub(super) use peers::{
    Channel, Peer, PeerId, Subjects, WorkerId, WorkerRow, all_peers, all_workers, peer, peers,
    workers,
};
pub(super) use ranking::{Ranking, Shared};

use crate::Now;
use crate::board::{Board, Of};
use crate::series::Window;
use crate::state::{Link, Sender, SenderKey, Totals};

/// Blocks on a page that shows other things too.
pub(super) const LATEST_BLOCKS: usize = 5;

/// Counts of shares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Shares {
    /// Submitted.
    pub(super) submitted: u64,
    /// Accepted.
    pub(super) accepted: u64,
    /// Refused.
    pub(super) rejected: u64,
    /// Refused, by reason.
    pub(super) rejected_by_reason: BTreeMap<String, u64>,
    /// Of unknown fate.
    pub(super) lost: u64,
    /// Of unknown fate, by reason.
    pub(super) lost_by_reason: BTreeMap<String, u64>,
    /// Expected hashes of the accepted ones, in decimal.
    pub(super) work: String,
    /// When the last one was accepted.
    pub(super) last_share_ms: Option<u64>,
}

impl From<&Counters> for Shares {
    fn from(counters: &Counters) -> Self {
        Self {
            submitted: counters.submitted,
            accepted: counters.accepted,
            rejected: counters.rejected(),
            rejected_by_reason: counters.rejected.clone(),
            lost: counters.lost(),
            lost_by_reason: counters.lost.clone(),
            work: counters.work.to_string(),
            last_share_ms: counters.last_share_ms,
        }
    }
}

/// Hashrates in H/s over the time up to now; none where too little is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Hashrates {
    /// 1 min.
    pub(super) minute: Option<f64>,
    /// 10 min.
    pub(super) ten_minutes: Option<f64>,
    /// 1 h.
    pub(super) hour: Option<f64>,
    /// 24 h.
    pub(super) day: Option<f64>,
}

impl Hashrates {
    fn of(rate: impl Fn(Window) -> Option<f64>) -> Self {
        Self {
            minute: rate(Window::Minute),
            ten_minutes: rate(Window::TenMinutes),
            hour: rate(Window::Hour),
            day: rate(Window::Day),
        }
    }
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// It can do its job.
    Ready,
    /// It says that it cannot.
    NotReady,
    /// It is connected and silent.
    Stale,
    /// It was there.
    Down,
    /// It is expected and has never come.
    NeverSeen,
}

/// A service that tells what it sees, or should.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Service {
    /// `pool`, `translator`, …
    pub(super) role: String,
    /// Among those of its role.
    pub(super) name: String,
    /// How it is.
    pub(super) status: Status,
    /// The configuration says that it should be there.
    pub(super) expected: bool,
    /// Why it cannot do its job.
    pub(super) problems: Vec<String>,
    /// With its version.
    pub(super) software: String,
    /// The Bitcoin network.
    pub(super) network: Option<String>,
    /// When this instance of it was started.
    pub(super) started_at_ms: Option<u64>,
    /// When it was heard last.
    pub(super) last_seen_ms: Option<u64>,
    /// Where it listens.
    pub(super) endpoints: Vec<Endpoint>,
    /// Connected peers.
    pub(super) peers: usize,
    /// Workers that were ever seen.
    pub(super) workers: usize,
    /// Hashrate by its own sums.
    pub(super) hashrate: Hashrates,
    /// Shares of all its instances.
    pub(super) shares: Shares,
    /// Events that it had no room to keep until they could be told: ends of peers, blocks. Its sums hold them all the same.
    pub(super) dropped_events: u64,
}

/// Where a service listens.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Endpoint {
    /// `sv1`, `sv1-tls`, `sv2-mining`, …
    pub(super) protocol: String,
    /// As it is bound.
    pub(super) address: String,
    /// What SV2 clients know it by.
    pub(super) authority_public_key: Option<String>,
}

/// Where a translator or relay gets its work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Upstream {
    /// The service whose upstream it is.
    pub(super) service: String,
    /// Where.
    pub(super) address: String,
    /// Its place in the order in which they are tried, from 0.
    pub(super) order: u32,
    /// `never-tried`, `healthy` or `failing`; `unknown` while its service cannot be heard.
    pub(super) health: String,
    /// Connections that are up.
    pub(super) connections: u32,
    /// What went wrong last.
    pub(super) last_error: Option<String>,
    /// Since when it has been like this.
    pub(super) since_ms: Option<u64>,
}

/// What is mined on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Template {
    /// Of the block to be found.
    pub(super) height: u64,
    /// The block that it builds on.
    pub(super) previous_block: String,
    /// When it came.
    pub(super) received_at_ms: u64,
    /// When the first one on this block came.
    pub(super) tip_at_ms: u64,
    /// Without the coinbase.
    pub(super) transactions: Option<u32>,
    /// In satoshi.
    pub(super) reward: Option<u64>,
    /// The network's.
    pub(super) difficulty: Option<f64>,
    /// Which source it is from.
    pub(super) source: String,
}

/// A block that was found.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Block {
    /// Its hash.
    pub(super) hash: String,
    /// Its height.
    pub(super) height: u64,
    /// When.
    pub(super) found_at_ms: u64,
    /// By whose miner.
    pub(super) account: String,
    /// By which.
    pub(super) worker: String,
    /// In satoshi.
    pub(super) reward: Option<u64>,
    /// `found`, `accepted`, `confirmed`, `orphaned`, `refused` or `unknown`.
    pub(super) state: &'static str,
    /// Blocks on top of it and itself.
    pub(super) confirmations: u32,
    /// Where an explorer shows it.
    pub(super) url: Option<String>,
    #[serde(skip)]
    pub(super) network: Option<String>,
}

/// Everything together.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Overview {
    /// When this was so.
    pub(super) at_ms: u64,
    /// Hashrate of the pool, or of all translators and relays.
    pub(super) hashrate: Hashrates,
    /// Their shares, of all times.
    pub(super) shares: Shares,
    /// Connected peers by kind.
    pub(super) peers: BTreeMap<String, usize>,
    /// Workers with an open session.
    pub(super) workers_active: usize,
    /// Workers that were ever seen.
    pub(super) workers: usize,
    /// The newest.
    pub(super) template: Option<Template>,
    /// The latest, newest first.
    pub(super) blocks: Vec<Block>,
    /// Blocks in all.
    pub(super) blocks_found: usize,
}

/// The senders whose sums are the totals: another's peers would be counted twice.
pub(super) fn counted<'a>(
    board: &'a Board,
    roles: &'a [&'a str],
) -> impl Iterator<Item = (&'a SenderKey, &'a Sender)> {
    let senders = board.state().senders();
    senders.filter(|(key, _)| roles.contains(&&*key.role))
}

pub(super) fn overview(board: &Board, now: Now, roles: &[&str]) -> Overview {
    let mut shares = Totals::default();
    let mut kinds = BTreeMap::<&str, usize>::new();
    let (mut workers, mut workers_active) = (0, 0);
    let mut template: Option<&stats_events::Template> = None;
    for (_, sender) in counted(board, roles) {
        shares.add(&sender.totals());
        workers += sender.workers().len();
        // Nobody knows who is still there of a sender that is not.
        if sender.link(now) != Link::Down {
            workers_active += sender.workers_active();
            for session in sender.peers.values() {
                *kinds.entry(peers::kind(&session.peer)).or_default() += 1;
            }
        }
        let newest = template.map_or(0, |template| template.received_at_ms);
        let newer = |template: &&stats_events::Template| template.received_at_ms >= newest;
        template = sender.instance.template.as_ref().filter(newer).or(template);
    }
    let hashrate = |window| {
        counted(board, roles)
            .filter_map(|(key, _)| board.hashrate(now, key, Of::Sender, window))
            .reduce(|sum, rate| sum + rate)
    };
    let (found, blocks) = blocks(board, 0, LATEST_BLOCKS);
    Overview {
        at_ms: now.unix_ms,
        hashrate: Hashrates::of(hashrate),
        shares: Shares::from(&shares.counters),
        peers: kinds
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        workers_active,
        workers,
        template: template.map(Template::from),
        blocks,
        blocks_found: found,
    }
}

pub(super) fn services(board: &Board, now: Now) -> Vec<Service> {
    let senders = board.state().senders();
    senders
        .map(|(key, sender)| service(board, now, key, sender))
        .collect()
}

fn service(board: &Board, now: Now, key: &SenderKey, sender: &Sender) -> Service {
    let instance = &sender.instance;
    let seen = instance.last_seen_ms > 0;
    let status = match sender.link(now) {
        Link::Up if instance.service.ready => Status::Ready,
        Link::Up => Status::NotReady,
        Link::Stale => Status::Stale,
        Link::Down if seen => Status::Down,
        Link::Down => Status::NeverSeen,
    };
    let endpoints = instance.service.endpoints.iter().map(|endpoint| Endpoint {
        protocol: endpoint.protocol.clone(),
        address: endpoint.address.clone(),
        authority_public_key: endpoint.authority_public_key.clone(),
    });
    Service {
        role: key.role.clone(),
        name: key.name.clone(),
        status,
        expected: sender.expected,
        problems: instance.service.problems.clone(),
        software: instance.software.clone(),
        network: instance.network.clone(),
        started_at_ms: seen.then_some(instance.started_at_ms),
        last_seen_ms: seen.then_some(instance.last_seen_ms),
        endpoints: endpoints.collect(),
        peers: sender.peers.len(),
        workers: sender.workers().len(),
        hashrate: Hashrates::of(|window| board.hashrate(now, key, Of::Sender, window)),
        shares: Shares::from(&sender.totals().counters),
        dropped_events: sender.dropped(),
    }
}

pub(super) fn upstreams(board: &Board, now: Now) -> Vec<Upstream> {
    let of = |(key, sender): (&SenderKey, &Sender)| {
        let heard = sender.link(now) == Link::Up;
        let service = key.to_string();
        let upstreams = sender.upstreams.values().map(move |upstream| Upstream {
            service: service.clone(),
            address: upstream.address.clone(),
            order: upstream.order,
            health: if heard { &upstream.health } else { "unknown" }.to_owned(),
            connections: if heard { upstream.connections } else { 0 },
            last_error: upstream.last_error.clone(),
            since_ms: upstream.since_ms,
        });
        upstreams.collect::<Vec<_>>()
    };
    let mut upstreams: Vec<_> = board.state().senders().flat_map(of).collect();
    upstreams.sort_by(|a, b| (&a.service, a.order).cmp(&(&b.service, b.order)));
    upstreams
}

/// How many there are, and some of them, newest first.
pub(super) fn blocks(board: &Board, skip: usize, take: usize) -> (usize, Vec<Block>) {
    let mut all: Vec<_> = board
        .state()
        .senders()
        .flat_map(|(_, sender)| {
            let blocks = sender.blocks.values();
            blocks.map(move |block| (block, &sender.instance.network))
        })
        .collect();
    all.sort_by_key(|(block, _)| std::cmp::Reverse((block.found_at_ms, block.height)));
    let count = all.len();
    let shown = all.into_iter().skip(skip).take(take);
    (
        count,
        shown
            .map(|(block, network)| Block {
                hash: block.hash.clone(),
                height: block.height,
                found_at_ms: block.found_at_ms,
                account: block.account.clone(),
                worker: block.worker.clone(),
                reward: block.reward,
                state: block.state.name(),
                confirmations: block.confirmations,
                url: None,
                network: network.clone(),
            })
            .collect(),
    )
}

impl From<&stats_events::Template> for Template {
    fn from(template: &stats_events::Template) -> Self {
        Self {
            height: template.height,
            previous_block: template.previous_block.clone(),
            received_at_ms: template.received_at_ms,
            tip_at_ms: template.tip_at_ms.max(1).min(template.received_at_ms),
            transactions: template.transactions,
            reward: template.reward,
            difficulty: difficulty(template.nbits),
            source: template.source.clone(),
        }
    }
}

/// The difficulty of a compact target: how much harder it is than the target `0xffff << 208`.
fn difficulty(nbits: u32) -> Option<f64> {
    let exponent = i32::try_from(nbits >> 24).ok()?;
    let mantissa = nbits & 0x007f_ffff;
    (mantissa > 0).then(|| 65_535.0 / f64::from(mantissa) * 2f64.powi(8 * (0x1d - exponent)))
}
