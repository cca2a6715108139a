//! Peers and workers: found, sorted, and copied page by page.

use std::sync::Arc;

use serde::Serialize;
use stats_events::Peer as Introduction;
use utoipa::ToSchema;

use super::lists::contains;
use super::ranking::{By, Unsorted};
use super::{Hashrates, List, Page, Shares, Sort, counted};
use crate::Now;
use crate::board::{Board, Of, Rates};
use crate::series::Window;
use crate::state::{
    ChannelId, Link, PeerName, PeerSession, Sender, SenderKey, Subject, Totals, Worker, WorkerKey,
    WorkerSession,
};

/// Names of workers that a row shows.
const MOST_NAMES: usize = 20;

/// Channels that a peer's page shows.
const MOST_CHANNELS: usize = 100;

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

/// An SV2 channel of a peer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Channel {
    /// Its number on the peer's connection.
    pub(crate) channel: u32,
    /// Who works on it, at most 20 of them.
    pub(crate) workers: Vec<String>,
    /// Its difficulty.
    pub(crate) difficulty: Option<f64>,
    /// Hashrates since it was opened.
    pub(crate) hashrate: Hashrates,
    /// Shares of those who work on it now.
    pub(crate) shares: Shares,
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
        let mut said = said.into_iter().flatten();
        said.any(|text| contains(text, "translator"))
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

/// Names a peer in an order, for as long as its service is not started anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerId {
    sender: Arc<SenderKey>,
    peer: u64,
}

/// Names a worker in an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkerId {
    worker: Arc<WorkerKey>,
    sender: Arc<SenderKey>,
}

/// One peer, where it is.
#[derive(Clone, Copy)]
struct Place<'a> {
    now: Now,
    key: &'a SenderKey,
    sender: &'a Sender,
    session: &'a PeerSession,
    rates: Rates<'a>,
}

impl<'a> Place<'a> {
    /// Another one of the same sender.
    fn beside(self, peer: u64) -> Option<Self> {
        let session = self.sender.peers.get(&peer)?;
        Some(Self { session, ..self })
    }

    /// The peer's own series, unless another connection has the same name; then those of its workers, unless others work under
    /// the same names.
    fn subjects(&self) -> Option<Subjects> {
        let name = self.session.name();
        if self.sender.connections(name) <= 1 {
            return Some(Subjects(vec![Subject::Peer(PeerName::clone(name))]));
        }
        let workers = self.own_workers()?;
        let subject = |key: &Arc<WorkerKey>| Subject::Worker(WorkerKey::clone(key));
        Some(Subjects(workers.into_iter().map(subject).collect()))
    }

    /// Its workers, if it has some and nobody else works under their names.
    fn own_workers(&self) -> Option<Vec<&'a Arc<WorkerKey>>> {
        let peer = self.session.peer.peer;
        let workers = self.sender.workers_of(peer);
        let own = |worker: &Worker| worker.sessions.keys().all(|(other, _)| *other == peer);
        let all = !workers.is_empty() && workers.iter().all(|(_, worker)| own(worker));
        all.then(|| workers.into_iter().map(|(key, _)| key).collect())
    }

    fn hashrate(&self, window: Window) -> Option<f64> {
        let name = self.session.name();
        if self.sender.connections(name) <= 1 {
            return self.rates.hashrate(self.now, Of::Peer(name), window);
        }
        let Some(workers) = self.own_workers() else {
            return mean(self.session, self.now);
        };
        let rate = |key: &Arc<WorkerKey>| self.rates.hashrate(self.now, Of::Worker(key), window);
        workers
            .into_iter()
            .filter_map(rate)
            .reduce(|sum, rate| sum + rate)
    }
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

/// All peers with what they are sorted by.
pub(crate) fn all_peers(board: &Board, now: Now, roles: &[&str], sort: Sort) -> Unsorted<PeerId> {
    let mut rows = Vec::new();
    for (key, sender) in counted(board, roles) {
        let shared = Arc::new(key.clone());
        let rates = board.rates(key);
        rows.extend(sender.peers.iter().map(|(peer, session)| {
            let place = Place {
                now,
                key,
                sender,
                session,
                rates,
            };
            let id = PeerId {
                sender: Arc::clone(&shared),
                peer: *peer,
            };
            (peer_by(sort, &place), id)
        }));
    }
    rows
}

/// A page of the peers in this order. Who has gone since it was found out is left out.
pub(crate) fn peers(board: &Board, now: Now, order: &[PeerId], list: &List) -> Page<Peer> {
    let place = |id: &PeerId| place(board, now, &id.sender, id.peer);
    if list.search.is_empty() {
        return list.page(order.iter(), |id| Some(peer_row(&place(id)?)));
    }
    let mut found = Vec::new();
    // Those of one sender follow each other for the most part, and none of them need look for it again.
    let mut last: Option<(&Arc<SenderKey>, Place<'_>)> = None;
    for id in order {
        let at = match last.take() {
            Some((sender, at)) if Arc::ptr_eq(sender, &id.sender) => at.beside(id.peer),
            _ => place(id),
        };
        if let Some(at) = at {
            if is_found(list, &at) {
                found.push(id);
            }
            last = Some((&id.sender, at));
        }
    }
    list.page(found.iter(), |id| Some(peer_row(&place(id)?)))
}

fn place<'a>(board: &'a Board, now: Now, key: &SenderKey, peer: u64) -> Option<Place<'a>> {
    let (key, sender) = board.state().known(key)?;
    Some(Place {
        now,
        key,
        sender,
        session: sender.peers.get(&peer)?,
        rates: board.rates(key),
    })
}

fn is_found(list: &List, at: &Place<'_>) -> bool {
    let peer = &at.session.peer;
    let texts = [Some(&*peer.address), Some(kind(peer))];
    let said = [peer.user_agent.as_deref(), peer.vendor.as_deref()];
    let finds = |text: &str| list.finds(&[text]);
    let mut texts = texts.into_iter().chain(said).flatten();
    if texts.any(finds) {
        return true;
    }
    let mut names = at.sender.names_of(peer.peer);
    names.any(|key| list.finds(&[&key.account, &key.worker]))
}

/// What it is sorted by.
#[allow(clippy::cast_precision_loss)]
fn peer_by(sort: Sort, at: &Place<'_>) -> By {
    let counters = &at.session.state.counters;
    By::Number(match sort {
        Sort::Name => return By::Text(at.session.peer.address.clone()),
        Sort::Hashrate => at.hashrate(Window::TenMinutes).unwrap_or(-1.0),
        Sort::Accepted => counters.accepted as f64,
        Sort::Rejected => counters.rejected() as f64,
        Sort::LastShare => counters.last_share_ms.unwrap_or(0) as f64,
        Sort::Uptime => -(at.session.peer.connected_at_ms as f64),
    })
}

/// One peer, what all sessions of its name did, its channels, and whose series make up its hashrate.
pub(crate) struct OnePeer {
    pub(crate) peer: Peer,
    pub(crate) lifetime: Shares,
    pub(crate) channels: Vec<Channel>,
    pub(crate) subjects: Option<Subjects>,
}

pub(crate) fn peer(board: &Board, now: Now, key: &SenderKey, id: u64) -> Option<OnePeer> {
    let place = place(board, now, key, id)?;
    let lifetime = place.sender.peer_totals(place.session.name());
    Some(OnePeer {
        peer: peer_row(&place),
        lifetime: Shares::from(&lifetime.counters),
        channels: channels(board, &place),
        subjects: place.subjects(),
    })
}

/// The first ones of its channels.
fn channels(board: &Board, at: &Place<'_>) -> Vec<Channel> {
    let peer = at.session.peer.peer;
    if at.session.state.channels == 0 {
        return Vec::new();
    }
    let all = at.sender.channels_of(peer).take(MOST_CHANNELS);
    let channel = |channel, sessions: Vec<_>| {
        let id = ChannelId { peer, channel };
        let rate = |window| board.channel_hashrate(at.now, at.key, id, window);
        Channel::of(channel, Hashrates::of(rate), &sessions)
    };
    all.map(|(number, sessions)| channel(number, sessions.collect()))
        .collect()
}

impl Channel {
    fn of(
        channel: u32,
        hashrate: Hashrates,
        sessions: &[(&Arc<WorkerKey>, &WorkerSession)],
    ) -> Self {
        let mut totals = Totals::default();
        for (_, session) in sessions {
            totals.add_session(&session.counters);
        }
        let difficulties = sessions
            .iter()
            .filter_map(|(_, session)| session.difficulty);
        let names = sessions.iter().take(MOST_NAMES);
        Self {
            channel,
            workers: names.map(|(key, _)| name(key)).collect(),
            difficulty: difficulties.reduce(f64::max),
            hashrate,
            shares: Shares::from(&totals.counters),
        }
    }
}

fn peer_row(at: &Place<'_>) -> Peer {
    let (peer, state) = (&at.session.peer, &at.session.state);
    let workers = at.sender.workers_of(peer.peer);
    let difficulties = workers.iter().flat_map(|(_, worker)| {
        let own = |((id, _), session): (&(u64, u32), &WorkerSession)| {
            (*id == peer.peer).then_some(session.difficulty)?
        };
        worker.sessions.iter().filter_map(own)
    });
    let names = workers.iter().take(MOST_NAMES);
    let names = names.map(|(key, _)| name(key)).collect();
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
        hashrate: Hashrates::of(|window| at.hashrate(window)),
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

/// All workers with what they are sorted by.
pub(crate) fn all_workers(
    board: &Board,
    now: Now,
    roles: &[&str],
    sort: Sort,
) -> Unsorted<WorkerId> {
    let mut rows = Vec::new();
    for (sender, known) in counted(board, roles) {
        let shared = Arc::new(sender.clone());
        let rates = board.rates(sender);
        rows.extend(known.workers().iter().map(|(key, worker)| {
            let id = WorkerId {
                worker: Arc::clone(key),
                sender: Arc::clone(&shared),
            };
            let number = worker_number(rates, now, (key, worker), sort);
            (By::Number(number), id)
        }));
    }
    rows
}

impl List {
    /// Those of an order that are looked for; nobody has to wait for that.
    pub(crate) fn found(&self, order: &Arc<[WorkerId]>) -> Arc<[WorkerId]> {
        if !self.is_part() {
            return Arc::clone(order);
        }
        let finds = |id: &&WorkerId| {
            let key = &id.worker;
            let account = self.account.as_ref();
            account.is_none_or(|account| *account == key.account)
                && (self.finds(&[&key.account, &key.worker]) || self.finds(&[&name(key)]))
        };
        order.iter().filter(finds).cloned().collect()
    }
}

/// A page of the workers in this order.
pub(crate) fn workers(board: &Board, now: Now, order: &[WorkerId], list: &List) -> Page<WorkerRow> {
    list.page(order.iter(), |id| worker_row(board, now, id))
}

fn worker_row(board: &Board, now: Now, id: &WorkerId) -> Option<WorkerRow> {
    let sender = board.state().sender(&id.sender)?;
    let worker = sender.workers().get(&id.worker)?;
    let newest = worker
        .sessions
        .values()
        .max_by_key(|session| session.since_ms);
    let rates = board.rates(&id.sender);
    let of = Of::Worker(&id.worker);
    Some(WorkerRow {
        role: id.sender.role.clone(),
        service: id.sender.name.clone(),
        account: id.worker.account.clone(),
        worker: id.worker.worker.clone(),
        sessions: worker.sessions.len(),
        difficulty: newest.and_then(|session| session.difficulty),
        hashrate: Hashrates::of(|window| rates.hashrate(now, of, window)),
        shares: Shares::from(&worker.totals().counters),
        heard: sender.link(now) == Link::Up,
    })
}

/// What it is sorted by. Sums are made here without making a map for each of thousands.
#[allow(clippy::cast_precision_loss)]
fn worker_number(
    rates: Rates<'_>,
    now: Now,
    (key, worker): (&WorkerKey, &Worker),
    sort: Sort,
) -> f64 {
    let open = worker.sessions.values().map(|session| &session.counters);
    let mut all = open.chain([&worker.ended.counters]);
    match sort {
        Sort::Name => 0.0,
        Sort::Hashrate => rates
            .hashrate(now, Of::Worker(key), Window::TenMinutes)
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
