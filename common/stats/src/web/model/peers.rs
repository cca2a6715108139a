//! Peers and workers: found, sorted, and copied page by page.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::Serialize;
use stats_events::Peer as Introduction;
use utoipa::ToSchema;

use super::{Hashrates, List, Page, Shares, Sort, counted};
use crate::Now;
use crate::board::{Board, Of};
use crate::series::Window;
use crate::state::{Link, PeerName, PeerSession, Sender, SenderKey, Subject, Worker, WorkerKey};

/// Names of workers that a row shows.
const MOST_NAMES: usize = 20;

/// A connected peer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Peer {
    /// The role of the service that it is connected to.
    pub(crate) role: String,
    /// The name of that service.
    pub(crate) service: String,
    /// Tells peers of that service apart, until it restarts.
    pub(crate) id: u64,
    /// What it is, by its own words.
    pub(crate) kind: &'static str,
    /// `sv1`, `sv2-mining`, …
    pub(crate) protocol: String,
    /// Address and port.
    pub(crate) address: String,
    /// The port that it came to.
    pub(crate) port: u16,
    /// User agent, or vendor, hardware and firmware.
    pub(crate) software: String,
    /// As it said.
    pub(crate) device_id: Option<String>,
    /// As in `SetupConnection`.
    pub(crate) flags: u32,
    /// That were agreed on.
    pub(crate) extensions: Vec<u16>,
    /// When.
    pub(crate) connected_at_ms: u64,
    /// Open ones.
    pub(crate) channels: u32,
    /// Of its channel or connection.
    pub(crate) difficulty: Option<f64>,
    /// Workers, at most 20 of them.
    pub(crate) workers: Vec<String>,
    /// Hashrates. Where several connections cannot be told apart, the mean since it connected stands in each.
    pub(crate) hashrate: Hashrates,
    /// Since it connected.
    pub(crate) shares: Shares,
    /// Whether its service can be heard; what is shown is old if not.
    pub(crate) heard: bool,
}

impl Peer {
    /// What people call it: its workers, or where it is.
    pub(crate) fn name(&self) -> String {
        match &self.workers[..] {
            [] => self.address.clone(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        }
    }
}

/// A worker of an account.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct WorkerRow {
    /// The role of the service that tells of it.
    pub(crate) role: String,
    /// The name of that service.
    pub(crate) service: String,
    /// Who is paid.
    pub(crate) account: String,
    /// Who works.
    pub(crate) worker: String,
    /// Open sessions.
    pub(crate) sessions: usize,
    /// Of its newest session.
    pub(crate) difficulty: Option<f64>,
    /// Hashrates.
    pub(crate) hashrate: Hashrates,
    /// Of all its sessions.
    pub(crate) shares: Shares,
    /// Whether its service can be heard.
    pub(crate) heard: bool,
}

/// What is connected, in words, from what it said in its handshake.
pub(crate) fn kind(peer: &Introduction) -> &'static str {
    /// It mines headers only, as a device does (SV2 5.3.1).
    const REQUIRES_STANDARD_JOBS: u32 = 1;
    /// It chooses transactions itself.
    const REQUIRES_WORK_SELECTION: u32 = 2;
    // Nothing in SV2 tells a translator from another proxy, but ours and SRI's say it in their names.
    let says_translator = || {
        let said = [
            &peer.vendor,
            &peer.hardware,
            &peer.firmware,
            &peer.user_agent,
        ];
        let said = said.into_iter().flatten();
        said.map(|text| text.to_lowercase())
            .any(|text| text.contains("translator"))
    };
    match &*peer.protocol {
        "sv1" => "SV1 miner",
        "sv2-mining" if peer.flags & REQUIRES_WORK_SELECTION > 0 => "Job declaration client",
        "sv2-mining" if says_translator() => "Translator",
        "sv2-mining" if peer.flags & REQUIRES_STANDARD_JOBS > 0 => "SV2 miner",
        "sv2-mining" => "SV2 client",
        "sv2-job-declaration" => "Job declarator",
        "sv2-template" => "Template client",
        "ehash" => "Mint",
        _ => "Unknown",
    }
}

/// Whose series make up a peer's hashrate.
#[derive(Debug, Clone)]
pub(crate) struct Subjects(pub(crate) Vec<Subject>);

/// What tells the peers of a sender apart, found out once for all of them.
struct Crowd<'a> {
    names: HashMap<PeerName, u32>,
    workers: HashMap<u64, Vec<(&'a WorkerKey, &'a Worker)>>,
}

impl<'a> Crowd<'a> {
    fn of(sender: &'a Sender) -> Self {
        let mut crowd = Self {
            names: HashMap::with_capacity(sender.peers.len()),
            workers: HashMap::with_capacity(sender.peers.len()),
        };
        for session in sender.peers.values() {
            *crowd.names.entry(PeerName::of(&session.peer)).or_default() += 1;
        }
        for (key, worker) in sender.workers() {
            let mut last = None;
            for (peer, _) in worker.sessions.keys() {
                if last.replace(*peer) != Some(*peer) {
                    crowd.workers.entry(*peer).or_default().push((key, worker));
                }
            }
        }
        crowd
    }

    fn workers(&self, peer: u64) -> &[(&'a WorkerKey, &'a Worker)] {
        self.workers.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// The peer's own series, unless another connection has the same name; then those of its workers, unless others work under
    /// the same names.
    fn subjects(&self, session: &PeerSession) -> Option<Subjects> {
        let name = PeerName::of(&session.peer);
        if self.names.get(&name).is_none_or(|count| *count <= 1) {
            return Some(Subjects(vec![Subject::Peer(name)]));
        }
        let peer = session.peer.peer;
        let workers = self.workers(peer);
        let own = |worker: &Worker| worker.sessions.keys().all(|(other, _)| *other == peer);
        let all = !workers.is_empty() && workers.iter().all(|(_, worker)| own(worker));
        let subject = |(key, _): &(&WorkerKey, &Worker)| Subject::Worker((*key).clone());
        all.then(|| Subjects(workers.iter().map(subject).collect()))
    }

    fn hashrate(&self, at: &Place<'a>, window: Window) -> Option<f64> {
        let Some(Subjects(subjects)) = self.subjects(at.session) else {
            return mean(at.session, at.now);
        };
        subjects
            .iter()
            .filter_map(|subject| at.board.hashrate(at.now, at.key, Of::from(subject), window))
            .reduce(|sum, rate| sum + rate)
    }
}

/// One peer, where it is.
struct Place<'a> {
    board: &'a Board,
    now: Now,
    key: &'a SenderKey,
    sender: &'a Sender,
    session: &'a PeerSession,
}

/// Work over the time since it connected.
#[allow(clippy::cast_precision_loss)]
fn mean(session: &PeerSession, now: Now) -> Option<f64> {
    const SHORTEST_MS: u64 = 20_000;
    let since = session.peer.connected_at_ms;
    let ms = now.unix_ms.checked_sub(since).filter(|_| since > 0)?;
    let work = session.state.counters.work.0 as f64;
    (ms >= SHORTEST_MS).then(|| work / (ms as f64 / 1000.0))
}

pub(crate) fn peers(board: &Board, now: Now, roles: &[&str], list: &List) -> Page<Peer> {
    let senders: Vec<_> = counted(board, roles)
        .map(|(key, sender)| (key, sender, Crowd::of(sender)))
        .collect();
    let mut rows = Vec::new();
    for (key, sender, crowd) in &senders {
        for session in sender.peers.values() {
            let peer = &session.peer;
            if list.search.is_empty() || is_found(list, peer, crowd) {
                let place = Place {
                    board,
                    now,
                    key,
                    sender,
                    session,
                };
                let number = peer_number(list.sort, crowd, &place);
                rows.push((number, place, crowd));
            }
        }
    }
    list.page(
        rows,
        |(a, one, _), (b, other, _)| match list.sort {
            Sort::Name => {
                let (one, other) = (&one.session.peer, &other.session.peer);
                one.address.cmp(&other.address)
            }
            _ => a.total_cmp(b),
        },
        |(_, place, crowd)| peer_row(&place, crowd),
    )
}

fn is_found(list: &List, peer: &Introduction, crowd: &Crowd<'_>) -> bool {
    let workers = crowd.workers(peer.peer).iter();
    let mut texts = vec![&*peer.address, kind(peer)];
    texts.extend(workers.flat_map(|(key, _)| [&*key.account, &*key.worker]));
    texts.extend(peer.user_agent.as_deref());
    texts.extend(peer.vendor.as_deref());
    list.finds(&texts)
}

/// What it is sorted by.
#[allow(clippy::cast_precision_loss)]
fn peer_number(sort: Sort, crowd: &Crowd<'_>, at: &Place<'_>) -> f64 {
    let counters = &at.session.state.counters;
    match sort {
        Sort::Name => 0.0,
        Sort::Hashrate => crowd.hashrate(at, Window::TenMinutes).unwrap_or(-1.0),
        Sort::Accepted => counters.accepted as f64,
        Sort::Rejected => counters.rejected() as f64,
        Sort::LastShare => counters.last_share_ms.unwrap_or(0) as f64,
        Sort::Uptime => -(at.session.peer.connected_at_ms as f64),
    }
}

/// One peer, what all sessions of its name did, and whose series make up its hashrate.
pub(crate) fn peer(
    board: &Board,
    now: Now,
    key: &SenderKey,
    id: u64,
) -> Option<(Peer, Shares, Option<Subjects>)> {
    let (key, sender) = board.state().senders().find(|(known, _)| *known == key)?;
    let session = sender.peers.get(&id)?;
    let crowd = Crowd::of(sender);
    let place = Place {
        board,
        now,
        key,
        sender,
        session,
    };
    let lifetime = sender.peer_totals(&PeerName::of(&session.peer));
    Some((
        peer_row(&place, &crowd),
        Shares::from(&lifetime.counters),
        crowd.subjects(session),
    ))
}

fn peer_row(at: &Place<'_>, crowd: &Crowd<'_>) -> Peer {
    let (peer, state) = (&at.session.peer, &at.session.state);
    let workers = crowd.workers(peer.peer);
    let difficulties = workers.iter().flat_map(|(_, worker)| {
        let own = |((id, _), session): (&(u64, u32), &crate::state::WorkerSession)| {
            (*id == peer.peer).then_some(session.difficulty)?
        };
        worker.sessions.iter().filter_map(own)
    });
    let mut names: Vec<_> = workers
        .iter()
        .take(MOST_NAMES)
        .map(|(key, _)| name(key))
        .collect();
    names.sort_unstable();
    Peer {
        role: at.key.role.clone(),
        service: at.key.name.clone(),
        id: peer.peer,
        kind: kind(peer),
        protocol: peer.protocol.clone(),
        address: peer.address.clone(),
        port: peer.port,
        software: software(peer),
        device_id: peer.device_id.clone(),
        flags: peer.flags,
        extensions: peer.extensions.clone(),
        connected_at_ms: peer.connected_at_ms,
        channels: state.channels,
        difficulty: state.difficulty.or_else(|| difficulties.reduce(f64::max)),
        workers: names,
        hashrate: Hashrates::of(|window| crowd.hashrate(at, window)),
        shares: Shares::from(&state.counters),
        heard: at.sender.link(at.now) == Link::Up,
    }
}

fn software(peer: &Introduction) -> String {
    let said = [
        &peer.user_agent,
        &peer.vendor,
        &peer.hardware,
        &peer.firmware,
    ];
    let said = said.into_iter().flatten().filter(|text| !text.is_empty());
    said.cloned().collect::<Vec<_>>().join(" ")
}

/// Account and worker in one text.
fn name(key: &WorkerKey) -> String {
    if key.worker.is_empty() {
        key.account.clone()
    } else {
        format!("{}.{}", key.account, key.worker)
    }
}

pub(crate) fn workers(board: &Board, now: Now, roles: &[&str], list: &List) -> Page<WorkerRow> {
    let mut rows = Vec::new();
    for (sender, known) in counted(board, roles) {
        let heard = known.link(now) == Link::Up;
        for (key, worker) in known.workers() {
            if list.finds(&[&key.account, &key.worker]) || list.finds(&[&name(key)]) {
                let number = worker_number(board, now, sender, (key, worker), list.sort);
                rows.push((number, sender, key, worker, heard));
            }
        }
    }
    list.page(
        rows,
        |(a, _, one, ..), (b, _, other, ..)| match a.total_cmp(b) {
            Ordering::Equal => one.cmp(other),
            order => order,
        },
        |(_, sender, key, worker, heard)| WorkerRow {
            role: sender.role.clone(),
            service: sender.name.clone(),
            account: key.account.clone(),
            worker: key.worker.clone(),
            sessions: worker.sessions.len(),
            difficulty: worker
                .sessions
                .values()
                .max_by_key(|session| session.since_ms)
                .and_then(|session| session.difficulty),
            hashrate: Hashrates::of(|window| board.hashrate(now, sender, Of::Worker(key), window)),
            shares: Shares::from(&worker.totals().counters),
            heard,
        },
    )
}

/// What it is sorted by. Sums are made here without making a map for each of thousands.
#[allow(clippy::cast_precision_loss)]
fn worker_number(
    board: &Board,
    now: Now,
    sender: &SenderKey,
    (key, worker): (&WorkerKey, &Worker),
    sort: Sort,
) -> f64 {
    let open = worker.sessions.values().map(|session| &session.counters);
    let mut all = open.chain([&worker.ended.counters]);
    match sort {
        Sort::Name => 0.0,
        Sort::Hashrate => board
            .hashrate(now, sender, Of::Worker(key), Window::TenMinutes)
            .unwrap_or(-1.0),
        Sort::Accepted => all.map(|counters| counters.accepted as f64).sum(),
        Sort::Rejected => all.map(|counters| counters.rejected() as f64).sum(),
        Sort::LastShare => all
            .try_fold(0, |last, counters| {
                Some(counters.last_share_ms.unwrap_or(0).max(last))
            })
            .unwrap_or(0) as f64,
        Sort::Uptime => {
            let since = worker.sessions.values().map(|session| session.since_ms);
            since
                .min()
                .map_or(f64::NEG_INFINITY, |since| -(since as f64))
        }
    }
}
