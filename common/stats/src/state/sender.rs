//! One sender: its present instance, its peers and workers, and the sums of what was before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stats_events::{
    Block, Event, Hello, Numbered, Peer, PeerEnd, PeerState, ServiceState, Template, UpstreamState,
    WorkerState,
};

use super::changes::{Changes, ChannelId, Subject, told};
use super::document::{Document, Key};
use super::names::{Names, PeerName};
use super::totals::{Totals, renew};
use super::workers::{Worker, WorkerKey, WorkerSession, Workers};
use super::{LONGEST_HEARTBEAT, MISSED_HEARTBEATS, Now, Outcome, heartbeat};

/// Peers, workers and sessions of workers of one sender. Beyond, what is not known yet is skipped and counted; the sender's
/// own sums hold all of it.
pub(super) const MOST_OF_A_KIND: usize = 100_000;

/// The protocol of peers that have channels, as in [`Peer`].
const SV2_MINING: &str = "sv2-mining";

/// Upstreams and blocks of one sender that are kept.
const MOST_UPSTREAMS: usize = 64;
const MOST_BLOCKS: usize = 10_000;

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
    /// Events that those dropped.
    pub dropped_before: u64,
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
    #[serde(skip)]
    name: Arc<PeerName>,
    /// When its counters were told last, by the service's clock; nothing if they were not.
    #[serde(skip)]
    pub(super) told_ms: Option<u64>,
}

impl PeerSession {
    /// What tells it apart over its reconnections.
    #[must_use]
    pub fn name(&self) -> &Arc<PeerName> {
        &self.name
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
    /// By their addresses.
    pub upstreams: BTreeMap<String, UpstreamState>,
    /// By their hashes.
    pub blocks: BTreeMap<String, Block>,
    /// Events that were beyond the bounds.
    pub skipped: u64,
    names: Names,
    workers: Workers,
    connected: bool,
    heard_at: Option<Instant>,
    heartbeat: Duration,
    /// When its own counters were told last, by the service's clock.
    told_ms: Option<u64>,
}

impl Sender {
    pub(super) fn new(_now: Now) -> Self {
        Self {
            instance: Instance::default(),
            expected: false,
            peers: BTreeMap::new(),
            peer_totals: HashMap::new(),
            upstreams: BTreeMap::new(),
            blocks: BTreeMap::new(),
            skipped: 0,
            names: Names::default(),
            workers: Workers::default(),
            connected: false,
            heard_at: None,
            heartbeat: LONGEST_HEARTBEAT,
            told_ms: None,
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

    /// Events that happened once, and that it had no room to keep until they could be told; of all its instances.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let now = self.instance.service.dropped_events;
        self.instance.dropped_before.saturating_add(now)
    }

    /// All workers.
    #[must_use]
    pub fn workers(&self) -> &HashMap<Arc<WorkerKey>, Worker> {
        self.workers.all()
    }

    /// Workers of a peer, each once.
    #[must_use]
    pub fn workers_of(&self, peer: u64) -> Vec<(&Arc<WorkerKey>, &Worker)> {
        self.workers.of(peer)
    }

    /// Names of a peer's workers, each once for every channel that it works on.
    pub fn names_of(&self, peer: u64) -> impl Iterator<Item = &Arc<WorkerKey>> {
        self.workers.names_of(peer)
    }

    /// Channels of a peer with who works on them, in the order of their numbers.
    pub fn channels_of(
        &self,
        peer: u64,
    ) -> impl Iterator<Item = (u32, impl Iterator<Item = (&Arc<WorkerKey>, &WorkerSession)>)> {
        self.workers.channels_of(peer)
    }

    /// Connected peers by their protocols.
    pub fn protocols(&self) -> impl Iterator<Item = (&str, usize)> {
        self.names.protocols()
    }

    /// Connected peers that share a name.
    #[must_use]
    pub fn connections(&self, name: &PeerName) -> u32 {
        self.names.count(name)
    }

    /// Workers with an open session.
    #[must_use]
    pub fn workers_active(&self) -> usize {
        self.workers.active()
    }

    /// All sessions of peers with this name.
    #[must_use]
    pub fn peer_totals(&self, name: &PeerName) -> Totals {
        let mut totals = self.peer_totals.get(name).cloned().unwrap_or_default();
        for session in self.peers.values() {
            if *session.name == *name {
                totals.add_session(&session.state.counters);
            }
        }
        totals
    }

    /// The same for each name of a peer.
    #[must_use]
    pub fn all_peer_totals(&self) -> HashMap<PeerName, Totals> {
        let mut all = self.peer_totals.clone();
        for session in self.peers.values() {
            all.entry(PeerName::clone(&session.name))
                .or_default()
                .add_session(&session.state.counters);
        }
        all
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

    /// It could not be heard, because nobody listened.
    pub(super) fn excuse(&mut self, now: Now) {
        if self.connected {
            self.heard_at = Some(now.instant);
        }
    }

    pub(super) fn disconnected(&mut self, now: Now) {
        // What was said before it went was said while it was there.
        self.instance.last_seen_ms = self.instance.last_seen_ms.min(now.unix_ms);
        self.connected = false;
    }

    /// An instance introduces itself. Gives the last of its events that is known.
    pub(super) fn begin(&mut self, now: Now, hello: &Hello, changes: &mut Changes) -> u64 {
        if self.is_another(&hello.instance_id) {
            self.end_instance(changes);
            self.instance.instance_id.clone_from(&hello.instance_id);
        }
        self.instance.started_at_ms = hello.started_at_ms;
        self.instance.software.clone_from(&hello.software);
        self.instance.network.clone_from(&hello.network);
        self.heartbeat = heartbeat(hello);
        self.connected = true;
        self.heard(now);
        changes.keys.push(Key::Sender);
        self.instance.last_sequence
    }

    /// Takes an event of the present instance.
    pub(super) fn event(&mut self, now: Now, event: &Numbered, changes: &mut Changes) -> Outcome {
        self.heard(now);
        if event.sequence <= self.instance.last_sequence {
            return Outcome::Repeated;
        }
        self.instance.last_sequence = event.sequence;
        changes.keys.push(Key::Sender);
        if event.event.check().is_err() {
            self.skipped += 1;
            return Outcome::Skipped;
        }
        match &event.event {
            Event::Service(service) => self.service(now, event.at_ms, service, changes),
            Event::PeerConnected(peer) => self.peer_connected(peer, changes),
            Event::Peer(state) => self.peer(now, event.at_ms, state, changes),
            Event::PeerDisconnected(end) => self.peer_disconnected(now, end, changes),
            Event::Worker(state) => {
                let channel = self.channel(state);
                if !self.workers.tell(now, event.at_ms, state, channel, changes) {
                    self.skipped += 1;
                }
            }
            Event::Upstream(upstream) => self.upstream(upstream, changes),
            Event::Template(template) => self.instance.template = Some(template.clone()),
            Event::Block(block) => self.block(block, changes),
            Event::Unknown => return Outcome::Skipped,
        }
        Outcome::Applied
    }

    pub(super) fn restore(&mut self, key: Key, document: Document) {
        match (key, document) {
            (Key::Sender, Document::Sender(instance)) => self.instance = *instance,
            (Key::Peer(peer), Document::Peer(mut session)) => {
                session.name = self.names.add(PeerName::of(&session.peer));
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
                    told_ms: None,
                };
                self.workers.restore(worker, (peer, channel), session);
            }
            (Key::WorkerTotals(worker), Document::Totals(totals)) => {
                self.workers.restore_totals(worker, totals);
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

    /// All documents are there: what is told next was done since this sender was last heard.
    pub(super) fn restored(&mut self) {
        let told_ms = Some(self.instance.last_seen_ms);
        self.told_ms = told_ms;
        for session in self.peers.values_mut() {
            session.told_ms = told_ms;
        }
        self.workers.restored(told_ms);
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
                let worker = self.workers().get(worker)?;
                let session = worker.sessions.get(&(*peer, *channel))?.clone();
                Document::WorkerSession {
                    since_ms: session.since_ms,
                    difficulty: session.difficulty,
                    counters: session.counters,
                }
            }
            Key::WorkerTotals(worker) => {
                let ended = &self.workers().get(worker)?.ended;
                Document::Totals((ended.sessions > 0).then(|| ended.clone())?)
            }
            Key::Upstream(address) => Document::Upstream(self.upstreams.get(address)?.clone()),
            Key::Block(hash) => Document::Block(self.blocks.get(hash)?.clone()),
        })
    }

    /// Nothing more can come from the instance that was.
    fn end_instance(&mut self, changes: &mut Changes) {
        if !self.instance.instance_id.is_empty() {
            let service = std::mem::take(&mut self.instance.service);
            self.instance.before.add_session(&service.counters);
            let dropped = &mut self.instance.dropped_before;
            *dropped = dropped.saturating_add(service.dropped_events);
        }
        self.instance.last_sequence = 0;
        self.told_ms = None;
        for (peer, session) in std::mem::take(&mut self.peers) {
            changes.keys.push(Key::Peer(peer));
            self.fold_peer(&session, changes);
        }
        self.names.clear();
        self.workers.end_all(changes);
        changes
            .keys
            .extend(self.upstreams.keys().cloned().map(Key::Upstream));
        self.upstreams.clear();
    }

    fn service(&mut self, now: Now, at_ms: u64, service: &ServiceState, changes: &mut Changes) {
        let mut counters = std::mem::take(&mut self.instance.service.counters);
        let hashes = renew(&mut counters, &service.counters);
        let from_ms = told(&mut self.told_ms, now, at_ms, self.instance.started_at_ms);
        changes.work(|| Subject::Sender, from_ms, hashes);
        let dropped_events = self.instance.service.dropped_events;
        self.instance.service = ServiceState {
            counters,
            dropped_events: service.dropped_events.max(dropped_events),
            ..service.clone()
        };
    }

    fn peer_connected(&mut self, peer: &Peer, changes: &mut Changes) {
        let Some(session) = self.known_peer(peer.peer, changes) else {
            return;
        };
        session.peer = peer.clone();
        let name = PeerName::of(peer);
        if *session.name != name {
            let before = Arc::clone(&session.name);
            self.names.remove(&before);
            let name = self.names.add(name);
            if let Some(session) = self.peers.get_mut(&peer.peer) {
                session.name = name;
            }
        }
    }

    /// The channel that a worker works on, where there are channels.
    fn channel(&self, state: &WorkerState) -> Option<ChannelId> {
        let session = self.peers.get(&state.peer)?;
        let id = ChannelId {
            peer: state.peer,
            channel: state.channel,
        };
        (session.peer.protocol == SV2_MINING).then_some(id)
    }

    fn peer(&mut self, now: Now, at_ms: u64, state: &PeerState, changes: &mut Changes) {
        if let Some(session) = self.known_peer(state.peer, changes) {
            let mut counters = std::mem::take(&mut session.state.counters);
            let hashes = renew(&mut counters, &state.counters);
            let connected_at_ms = session.peer.connected_at_ms;
            let from_ms = told(&mut session.told_ms, now, at_ms, connected_at_ms);
            let subject = || Subject::Peer(PeerName::clone(&session.name));
            changes.work(subject, from_ms, hashes);
            session.state = PeerState {
                counters,
                ..state.clone()
            };
        }
    }

    /// A peer's session; a new one, where there is room, for a peer that nobody has announced.
    fn known_peer(&mut self, peer: u64, changes: &mut Changes) -> Option<&mut PeerSession> {
        if self.peers.len() >= MOST_OF_A_KIND && !self.peers.contains_key(&peer) {
            self.skipped += 1;
            return None;
        }
        changes.keys.push(Key::Peer(peer));
        let names = &mut self.names;
        Some(self.peers.entry(peer).or_insert_with(|| {
            let peer = Peer {
                peer,
                ..Peer::default()
            };
            PeerSession {
                name: names.add(PeerName::of(&peer)),
                peer,
                ..PeerSession::default()
            }
        }))
    }

    fn peer_disconnected(&mut self, now: Now, end: &PeerEnd, changes: &mut Changes) {
        if let Some(mut session) = self.peers.remove(&end.peer) {
            let hashes = renew(&mut session.state.counters, &end.counters);
            let (at_ms, since_ms) = (end.disconnected_at_ms, session.peer.connected_at_ms);
            let from_ms = told(&mut session.told_ms, now, at_ms, since_ms);
            let subject = || Subject::Peer(PeerName::clone(&session.name));
            changes.work(subject, from_ms, hashes);
            self.names.remove(&session.name);
            changes.keys.push(Key::Peer(end.peer));
            self.fold_peer(&session, changes);
        }
        self.workers.end_of(end.peer, changes);
    }

    fn fold_peer(&mut self, session: &PeerSession, changes: &mut Changes) {
        let mut name = PeerName::clone(&session.name);
        if self.peer_totals.len() >= MOST_OF_A_KIND && !self.peer_totals.contains_key(&name) {
            name.host = "other".into();
            name.device.clear();
        }
        changes.keys.push(Key::PeerTotals(name.clone()));
        self.peer_totals
            .entry(name)
            .or_default()
            .add_session(&session.state.counters);
    }

    fn upstream(&mut self, upstream: &UpstreamState, changes: &mut Changes) {
        let room = self.upstreams.len() < MOST_UPSTREAMS;
        if room || self.upstreams.contains_key(&upstream.address) {
            changes.keys.push(Key::Upstream(upstream.address.clone()));
            self.upstreams
                .insert(upstream.address.clone(), upstream.clone());
        }
    }

    fn block(&mut self, block: &Block, changes: &mut Changes) {
        if self.blocks.len() >= MOST_BLOCKS && !self.blocks.contains_key(&block.hash) {
            let oldest = self.blocks.values().min_by_key(|block| block.found_at_ms);
            if let Some(hash) = oldest.map(|block| block.hash.clone()) {
                self.blocks.remove(&hash);
                changes.keys.push(Key::Block(hash));
            }
        }
        changes.keys.push(Key::Block(block.hash.clone()));
        self.blocks.insert(block.hash.clone(), block.clone());
    }
}
