//! One sender: its present instance, its peers and workers, and the sums of what was before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stats_events::{
    Block, Counters, Event, Hello, Numbered, Peer, PeerEnd, PeerState, ServiceState, Template,
    UpstreamState, WorkerState,
};

use super::document::{Document, Key};
use super::totals::{Totals, renew};
use super::{LONGEST_HEARTBEAT, MISSED_HEARTBEATS, Now, Outcome, SHORTEST_HEARTBEAT};

/// Peers, workers and worker sessions of one sender that are kept apart. Beyond, a worker is booked as [`WorkerKey::other`]
/// and a peer that is not known yet is not shown; the sender's own sums hold all of them.
const MOST_OF_A_KIND: usize = 100_000;

/// Upstreams and blocks of one sender that are kept.
const MOST_UPSTREAMS: usize = 64;
const MOST_BLOCKS: usize = 10_000;

/// Tells peers apart over their reconnections: by what stays the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerName {
    /// As in [`Peer`].
    pub protocol: String,
    /// The address without its port.
    pub host: String,
    /// The device id of SV2, or the vendor where there is none, or the user agent of SV1.
    pub device: String,
}

impl PeerName {
    fn of(peer: &Peer) -> Self {
        let host = peer
            .address
            .rsplit_once(':')
            .map_or(&*peer.address, |(host, _)| host);
        let device = [&peer.device_id, &peer.vendor, &peer.user_agent]
            .into_iter()
            .flatten()
            .find(|text| !text.is_empty());
        Self {
            protocol: peer.protocol.clone(),
            host: host.to_owned(),
            device: device.cloned().unwrap_or_default(),
        }
    }
}

/// A worker of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerKey {
    /// Who is paid.
    pub account: String,
    /// Who works.
    pub worker: String,
}

impl WorkerKey {
    /// All that have no place of their own.
    #[must_use]
    pub fn other() -> Self {
        Self {
            account: "other".into(),
            worker: String::new(),
        }
    }
}

/// What is stored of a sender itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// New at every start of the sender.
    pub instance_id: String,
    /// When it was started.
    pub started_at_ms: u64,
    /// Its software and version.
    pub software: String,
    /// The Bitcoin network.
    pub network: Option<String>,
    /// The last event that is known.
    pub last_sequence: u64,
    /// When it was last heard, by the service's clock.
    pub last_seen_ms: u64,
    /// How it was then.
    pub service: ServiceState,
    /// Sums of the instances before.
    pub before: Totals,
    /// What it mines on.
    pub template: Option<Template>,
}

/// A peer's present session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerSession {
    /// By its own words.
    pub peer: Peer,
    /// How it does.
    pub state: PeerState,
}

/// A worker's session that has not ended.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSession {
    /// When it began.
    pub since_ms: u64,
    /// Of its channel or connection.
    pub difficulty: Option<f64>,
    /// Its latest.
    pub counters: Counters,
}

/// A worker with all its sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worker {
    /// Sessions that have ended.
    pub ended: Totals,
    /// Those that have not, by peer and channel.
    pub sessions: BTreeMap<(u64, u32), WorkerSession>,
}

impl Worker {
    /// All its sessions together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.ended.clone();
        for session in self.sessions.values() {
            totals.add_session(&session.counters);
        }
        totals
    }
}

/// Whether a sender can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is connected and says something.
    Up,
    /// It is connected and silent, or was until a moment ago.
    Stale,
    /// It is not there.
    Down,
}

/// A sender and all that it told.
#[derive(Debug)]
pub struct Sender {
    /// Itself.
    pub instance: Instance,
    /// It is expected to be there.
    pub expected: bool,
    /// Sessions of its peers, by their numbers.
    pub peers: BTreeMap<u64, PeerSession>,
    /// Ended sessions of peers.
    pub peer_totals: HashMap<PeerName, Totals>,
    /// All workers.
    pub workers: HashMap<WorkerKey, Worker>,
    /// By their addresses.
    pub upstreams: BTreeMap<String, UpstreamState>,
    /// By their hashes.
    pub blocks: BTreeMap<String, Block>,
    /// Events that were beyond the bounds.
    pub skipped: u64,
    /// Workers with sessions, by peer: one of thousands that goes must not have all be looked through.
    workers_of: HashMap<u64, HashSet<WorkerKey>>,
    connected: bool,
    heard_at: Option<Instant>,
    heartbeat: Duration,
}

impl Sender {
    pub(super) fn new(_now: Now) -> Self {
        Self {
            instance: Instance::default(),
            expected: false,
            peers: BTreeMap::new(),
            peer_totals: HashMap::new(),
            workers: HashMap::new(),
            upstreams: BTreeMap::new(),
            blocks: BTreeMap::new(),
            skipped: 0,
            workers_of: HashMap::new(),
            connected: false,
            heard_at: None,
            heartbeat: LONGEST_HEARTBEAT,
        }
    }

    /// Whether it can be heard.
    #[must_use]
    pub fn link(&self, now: Now) -> Link {
        match (self.is_heard(now), self.connected) {
            (true, true) => Link::Up,
            (false, true) => Link::Stale,
            (_, false) => Link::Down,
        }
    }

    /// All its instances together, by its own sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.instance.before.clone();
        if !self.instance.instance_id.is_empty() {
            totals.add_session(&self.instance.service.counters);
        }
        totals
    }

    /// All sessions of peers with this name.
    #[must_use]
    pub fn peer_totals(&self, name: &PeerName) -> Totals {
        let mut totals = self.peer_totals.get(name).cloned().unwrap_or_default();
        for session in self.peers.values() {
            if PeerName::of(&session.peer) == *name {
                totals.add_session(&session.state.counters);
            }
        }
        totals
    }

    pub(super) fn is_another(&self, instance_id: &str) -> bool {
        self.instance.instance_id != instance_id
    }

    /// Whether it is connected and was heard within the time.
    pub(super) fn is_heard(&self, now: Now) -> bool {
        let patience = self.heartbeat * MISSED_HEARTBEATS;
        let heard = self
            .heard_at
            .is_some_and(|at| now.instant.saturating_duration_since(at) < patience);
        self.connected && heard
    }

    pub(super) fn heard(&mut self, now: Now) {
        self.heard_at = Some(now.instant);
        self.instance.last_seen_ms = now.unix_ms;
    }

    pub(super) fn disconnected(&mut self, now: Now) {
        // What was said before it went was said while it was there.
        self.instance.last_seen_ms = self.instance.last_seen_ms.min(now.unix_ms);
        self.connected = false;
    }

    /// An instance introduces itself. Gives the last of its events that is known.
    pub(super) fn begin(&mut self, now: Now, hello: &Hello, changed: &mut Vec<Key>) -> u64 {
        if self.is_another(&hello.instance_id) {
            self.end_instance(changed);
            self.instance.instance_id.clone_from(&hello.instance_id);
        }
        self.instance.started_at_ms = hello.started_at_ms;
        self.instance.software.clone_from(&hello.software);
        self.instance.network.clone_from(&hello.network);
        self.heartbeat =
            Duration::from_millis(hello.heartbeat_ms).clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT);
        self.connected = true;
        self.heard(now);
        changed.push(Key::Sender);
        self.instance.last_sequence
    }

    /// Takes an event of the present instance.
    pub(super) fn event(&mut self, now: Now, event: &Numbered, changed: &mut Vec<Key>) -> Outcome {
        self.heard(now);
        if event.sequence <= self.instance.last_sequence {
            return Outcome::Repeated;
        }
        self.instance.last_sequence = event.sequence;
        changed.push(Key::Sender);
        if event.event.check().is_err() {
            self.skipped += 1;
            return Outcome::Skipped;
        }
        match &event.event {
            Event::Service(service) => self.service(service),
            Event::PeerConnected(peer) => self.peer_connected(peer, changed),
            Event::Peer(state) => self.peer(state, changed),
            Event::PeerDisconnected(end) => self.peer_disconnected(end, changed),
            Event::Worker(state) => self.worker(state, changed),
            Event::Upstream(upstream) => self.upstream(upstream, changed),
            Event::Template(template) => self.instance.template = Some(template.clone()),
            Event::Block(block) => self.block(block, changed),
            Event::Unknown => return Outcome::Skipped,
        }
        Outcome::Applied
    }

    pub(super) fn restore(&mut self, key: Key, document: Document) {
        match (key, document) {
            (Key::Sender, Document::Sender(instance)) => self.instance = *instance,
            (Key::Peer(peer), Document::Peer(session)) => {
                self.peers.insert(peer, *session);
            }
            (Key::PeerTotals(name), Document::Totals(totals)) => {
                self.peer_totals.insert(name, totals);
            }
            (
                Key::WorkerSession {
                    peer,
                    channel,
                    worker,
                },
                Document::WorkerSession {
                    since_ms,
                    difficulty,
                    counters,
                },
            ) => {
                let session = WorkerSession {
                    since_ms,
                    difficulty,
                    counters,
                };
                self.workers_of
                    .entry(peer)
                    .or_default()
                    .insert(worker.clone());
                let worker = self.workers.entry(worker).or_default();
                worker.sessions.insert((peer, channel), session);
            }
            (Key::WorkerTotals(worker), Document::Totals(totals)) => {
                self.workers.entry(worker).or_default().ended = totals;
            }
            (Key::Upstream(address), Document::Upstream(upstream)) => {
                self.upstreams.insert(address, upstream);
            }
            (Key::Block(hash), Document::Block(block)) => {
                self.blocks.insert(hash, block);
            }
            // Written by nobody; to go on without it is all that can be done.
            _ => self.skipped += 1,
        }
    }

    pub(super) fn document(&self, key: &Key) -> Option<Document> {
        Some(match key {
            Key::Sender => Document::Sender(Box::new(self.instance.clone())),
            Key::Peer(peer) => Document::Peer(Box::new(self.peers.get(peer)?.clone())),
            Key::PeerTotals(name) => Document::Totals(self.peer_totals.get(name)?.clone()),
            Key::WorkerSession {
                peer,
                channel,
                worker,
            } => {
                let worker = self.workers.get(worker)?;
                let session = worker.sessions.get(&(*peer, *channel))?.clone();
                Document::WorkerSession {
                    since_ms: session.since_ms,
                    difficulty: session.difficulty,
                    counters: session.counters,
                }
            }
            Key::WorkerTotals(worker) => {
                let ended = &self.workers.get(worker)?.ended;
                Document::Totals((ended.sessions > 0).then(|| ended.clone())?)
            }
            Key::Upstream(address) => Document::Upstream(self.upstreams.get(address)?.clone()),
            Key::Block(hash) => Document::Block(self.blocks.get(hash)?.clone()),
        })
    }

    /// Nothing more can come from the instance that was.
    fn end_instance(&mut self, changed: &mut Vec<Key>) {
        if !self.instance.instance_id.is_empty() {
            let service = std::mem::take(&mut self.instance.service);
            self.instance.before.add_session(&service.counters);
        }
        self.instance.last_sequence = 0;
        for (peer, session) in std::mem::take(&mut self.peers) {
            changed.push(Key::Peer(peer));
            self.fold_peer(&session, changed);
        }
        self.workers_of.clear();
        for (key, worker) in &mut self.workers {
            end_sessions(key, worker, |_| true, changed);
        }
        changed.extend(self.upstreams.keys().cloned().map(Key::Upstream));
        self.upstreams.clear();
    }

    fn service(&mut self, service: &ServiceState) {
        let mut counters = std::mem::take(&mut self.instance.service.counters);
        renew(&mut counters, &service.counters);
        self.instance.service = ServiceState {
            counters,
            ..service.clone()
        };
    }

    fn peer_connected(&mut self, peer: &Peer, changed: &mut Vec<Key>) {
        if let Some(session) = self.known_peer(peer.peer, changed) {
            session.peer = peer.clone();
        }
    }

    fn peer(&mut self, state: &PeerState, changed: &mut Vec<Key>) {
        if let Some(session) = self.known_peer(state.peer, changed) {
            let mut counters = std::mem::take(&mut session.state.counters);
            renew(&mut counters, &state.counters);
            session.state = PeerState {
                counters,
                ..state.clone()
            };
        }
    }

    /// A peer's session; a new one, where there is room, for a peer that nobody has announced.
    fn known_peer(&mut self, peer: u64, changed: &mut Vec<Key>) -> Option<&mut PeerSession> {
        if self.peers.len() >= MOST_OF_A_KIND && !self.peers.contains_key(&peer) {
            self.skipped += 1;
            return None;
        }
        changed.push(Key::Peer(peer));
        Some(self.peers.entry(peer).or_insert_with(|| PeerSession {
            peer: Peer {
                peer,
                ..Peer::default()
            },
            state: PeerState::default(),
        }))
    }

    fn peer_disconnected(&mut self, end: &PeerEnd, changed: &mut Vec<Key>) {
        if let Some(mut session) = self.peers.remove(&end.peer) {
            renew(&mut session.state.counters, &end.counters);
            changed.push(Key::Peer(end.peer));
            self.fold_peer(&session, changed);
        }
        for key in self.workers_of.remove(&end.peer).into_iter().flatten() {
            if let Some(worker) = self.workers.get_mut(&key) {
                end_sessions(&key, worker, |peer| peer == end.peer, changed);
            }
        }
    }

    fn fold_peer(&mut self, session: &PeerSession, changed: &mut Vec<Key>) {
        let mut name = PeerName::of(&session.peer);
        if self.peer_totals.len() >= MOST_OF_A_KIND && !self.peer_totals.contains_key(&name) {
            name.host = "other".into();
            name.device.clear();
        }
        changed.push(Key::PeerTotals(name.clone()));
        self.peer_totals
            .entry(name)
            .or_default()
            .add_session(&session.state.counters);
    }

    fn worker(&mut self, state: &WorkerState, changed: &mut Vec<Key>) {
        let mut key = WorkerKey {
            account: state.account.clone(),
            worker: state.worker.clone(),
        };
        if self.workers.len() >= MOST_OF_A_KIND && !self.workers.contains_key(&key) {
            key = WorkerKey::other();
        }
        let workers = self.workers_of.entry(state.peer).or_default();
        if !workers.contains(&key) {
            workers.insert(key.clone());
        }
        let worker = self.workers.entry(key.clone()).or_default();
        let place = (state.peer, state.channel);
        // A channel that was closed and opened again under the same number is another session.
        if worker
            .sessions
            .get(&place)
            .is_some_and(|known| known.since_ms != state.since_ms)
        {
            end_sessions(&key, worker, |peer| peer == state.peer, changed);
        }
        let session = worker.sessions.entry(place).or_insert(WorkerSession {
            since_ms: state.since_ms,
            difficulty: None,
            counters: Counters::default(),
        });
        renew(&mut session.counters, &state.counters);
        session.difficulty = state.difficulty.or(session.difficulty);
        changed.push(Key::WorkerSession {
            peer: state.peer,
            channel: state.channel,
            worker: key.clone(),
        });
        if state.ended
            && let Some(session) = worker.sessions.remove(&place)
        {
            worker.ended.add_session(&session.counters);
            changed.push(Key::WorkerTotals(key));
        }
    }

    fn upstream(&mut self, upstream: &UpstreamState, changed: &mut Vec<Key>) {
        let room = self.upstreams.len() < MOST_UPSTREAMS;
        if room || self.upstreams.contains_key(&upstream.address) {
            changed.push(Key::Upstream(upstream.address.clone()));
            self.upstreams
                .insert(upstream.address.clone(), upstream.clone());
        }
    }

    fn block(&mut self, block: &Block, changed: &mut Vec<Key>) {
        if self.blocks.len() >= MOST_BLOCKS && !self.blocks.contains_key(&block.hash) {
            let oldest = self.blocks.values().min_by_key(|block| block.found_at_ms);
            if let Some(hash) = oldest.map(|block| block.hash.clone()) {
                self.blocks.remove(&hash);
                changed.push(Key::Block(hash));
            }
        }
        changed.push(Key::Block(block.hash.clone()));
        self.blocks.insert(block.hash.clone(), block.clone());
    }
}

/// Folds the sessions with these peers into the worker's totals.
fn end_sessions(
    key: &WorkerKey,
    worker: &mut Worker,
    ends: impl Fn(u64) -> bool,
    changed: &mut Vec<Key>,
) {
    let Worker { ended, sessions } = worker;
    let before = ended.sessions;
    sessions.retain(|(peer, channel), session| {
        if !ends(*peer) {
            return true;
        }
        ended.add_session(&session.counters);
        changed.push(Key::WorkerSession {
            peer: *peer,
            channel: *channel,
            worker: key.clone(),
        });
        false
    });
    if ended.sessions > before {
        changed.push(Key::WorkerTotals(key.clone()));
    }
}
