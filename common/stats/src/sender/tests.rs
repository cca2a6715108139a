//! What a service knows after whatever has become of the link, held against what is true in the role.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use stats_events::{
    Counters, FrameReader, FromSender, FromService, Peer, PeerEnd, PeerState, RefusalCode,
    ServiceState, Work, WorkerState, decode, encode,
};

use super::conversation::ENOUGH_KEPT;
use super::*;
use crate::state::{self, Document, Key, PeerName, SenderKey, State, WorkerKey};

const INTERVAL: Duration = Duration::from_secs(5);

/// A role with peers that each have a worker; it knows what is true.
struct Role {
    happened: Happened,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last_peer: u64,
    /// Peers that are here: whose, and their counts.
    peers: BTreeMap<u64, (String, Counters)>,
    /// All shares ever, by worker, and the sessions that they were in.
    by_worker: BTreeMap<String, Counters>,
    total: Counters,
    looks: u64,
}

impl Role {
    fn new(room: usize) -> Self {
        Self {
            happened: Happened::new(room),
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn come(&self, worker: u8) -> u64 {
        let mut inner = self.inner();
        inner.last_peer += 1;
        let peer = inner.last_peer;
        let name = format!("w{worker}");
        inner.peers.insert(peer, (name, Counters::default()));
        peer
    }

    /// The peer at this place, if there is any, has a share accepted or refused.
    fn share(&self, at: usize, accepted: bool) {
        let mut inner = self.inner();
        let Inner {
            peers,
            by_worker,
            total,
            ..
        } = &mut *inner;
        if peers.is_empty() {
            return;
        }
        let at = at % peers.len();
        let (name, counters) = peers.values_mut().nth(at).unwrap();
        let of_worker = by_worker.entry(name.clone()).or_default();
        for counters in [counters, of_worker, total] {
            counters.submitted += 1;
            if accepted {
                counters.accepted += 1;
                counters.work.0 += 1 << 70;
            } else {
                *counters.rejected.entry("stale".to_owned()).or_default() += 1;
            }
        }
    }

    fn go(&self, at: usize) {
        let mut inner = self.inner();
        if inner.peers.is_empty() {
            return;
        }
        let at = at % inner.peers.len();
        let peer = *inner.peers.keys().nth(at).unwrap();
        let (name, counters) = inner.peers.remove(&peer).unwrap();
        self.happened.push(vec![
            Event::PeerConnected(introduction(peer, &name)),
            worker(peer, &name, &counters, true),
            Event::PeerDisconnected(PeerEnd {
                peer,
                counters,
                ..PeerEnd::default()
            }),
        ]);
    }
}

fn introduction(peer: u64, name: &str) -> Peer {
    Peer {
        peer,
        address: format!("{name}:{peer}"),
        protocol: "sv1".to_owned(),
        ..Peer::default()
    }
}

fn worker(peer: u64, name: &str, counters: &Counters, ended: bool) -> Event {
    Event::Worker(WorkerState {
        peer,
        account: "account".to_owned(),
        worker: name.to_owned(),
        since_ms: peer,
        ended,
        counters: counters.clone(),
        ..WorkerState::default()
    })
}

impl Source for Role {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        let mut inner = self.inner();
        inner.looks += 1;
        show(Event::Service(ServiceState {
            ready: true,
            counters: inner.total.clone(),
            ..ServiceState::default()
        }));
        for (peer, (name, counters)) in &inner.peers {
            show(Event::PeerConnected(introduction(*peer, name)));
            show(Event::Peer(PeerState {
                peer: *peer,
                counters: counters.clone(),
                ..PeerState::default()
            }));
            show(worker(*peer, name, counters, false));
        }
    }

    fn happened(&self, most: usize) -> Vec<Event> {
        self.happened.take(most)
    }
}

/// A service behind a link that carries what it is told to, and with a disk.
struct Service {
    state: State,
    session: Option<state::Session>,
    reader: FrameReader,
    last_sequence: u64,
    events: u64,
    stored: BTreeMap<(SenderKey, Key), Document>,
}

impl Service {
    fn new() -> Self {
        Self {
            state: State::default(),
            session: None,
            reader: FrameReader::default(),
            last_sequence: 0,
            events: 0,
            stored: BTreeMap::new(),
        }
    }

    /// Takes bytes, and gives what it answers at once.
    fn take(&mut self, now: Now, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.reader.push(bytes);
        while let Some(frame) = self.reader.next_frame().unwrap() {
            match decode(frame).unwrap() {
                FromSender::Hello(hello) => {
                    // What it says is stored has to be.
                    self.acknowledge();
                    let session = self.state.hello(now, &hello).unwrap();
                    self.last_sequence = session.last_sequence;
                    let welcome = FromService::Welcome {
                        version: VERSION,
                        last_sequence: session.last_sequence,
                    };
                    self.session = Some(session);
                    encode(&welcome, &mut out).unwrap();
                }
                FromSender::Event(event) => {
                    self.events += 1;
                    assert!(event.sequence > self.last_sequence, "numbers go up");
                    self.last_sequence = event.sequence;
                    let session = self.session.as_ref().unwrap();
                    self.state.event(now, session, &event);
                }
                FromSender::Heartbeat { .. } | FromSender::Unknown => {}
            }
        }
        out
    }

    /// Makes durable what it knows, and says so.
    fn acknowledge(&mut self) -> Vec<u8> {
        for (sender, key, document) in self.state.take_changes() {
            match document {
                Some(document) => self.stored.insert((sender, key), document),
                None => self.stored.remove(&(sender, key)),
            };
        }
        let ack = FromService::Ack {
            sequence: self.last_sequence,
        };
        let mut out = Vec::new();
        if self.session.is_some() {
            encode(&ack, &mut out).unwrap();
        }
        out
    }

    fn cut(&mut self) {
        self.reader = FrameReader::default();
        self.session = None;
    }

    fn restart(&mut self, now: Now) {
        self.cut();
        let documents = self.stored.clone().into_iter();
        let documents = documents.map(|((sender, key), document)| (sender, key, document));
        self.state = State::restore(now, documents);
    }

    fn sender(&self) -> &state::Sender {
        self.state.senders().next().unwrap().1
    }
}

/// A sender and its service, and time that goes on when it is told to.
struct Pair {
    now: Now,
    role: Role,
    conversation: Conversation,
    service: Service,
}

impl Pair {
    fn new(room: usize) -> Self {
        let now = now();
        let hello = Hello {
            version: VERSION,
            role: "translator".to_owned(),
            name: "test".to_owned(),
            instance_id: "a".repeat(32),
            started_at_ms: now.unix_ms,
            software: "test".to_owned(),
            network: None,
            heartbeat_ms: 5000,
            token: None,
        };
        Self {
            now,
            role: Role::new(room),
            conversation: Conversation::new(hello, INTERVAL, now),
            service: Service::new(),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).unwrap();
    }

    fn tick(&mut self) -> Result<(), Fault> {
        self.conversation.tick(self.now, &self.role)
    }

    fn connect(&mut self) {
        self.cut();
        self.conversation.connected(self.now, None);
        self.carry(usize::MAX);
    }

    /// The link carries so many bytes to the service, and all that it answers.
    fn carry(&mut self, most: usize) {
        let output = self.conversation.output();
        let bytes = output[..output.len().min(most)].to_vec();
        self.conversation.written(self.now, bytes.len());
        let answer = self.service.take(self.now, &bytes);
        self.conversation.received(self.now, &answer).unwrap();
    }

    fn acknowledge(&mut self) {
        let ack = self.service.acknowledge();
        self.conversation.received(self.now, &ack).unwrap();
    }

    fn cut(&mut self) {
        self.conversation.disconnected();
        self.service.cut();
    }

    /// Until all is told.
    fn settle(&mut self) {
        self.connect();
        self.conversation.look_at_last(self.now);
        for _ in 0..100 {
            self.tick().unwrap();
            self.carry(usize::MAX);
            self.acknowledge();
            if self.conversation.is_done() {
                return;
            }
        }
        panic!("it does not end");
    }
}

/// Something that happens to the two.
#[derive(Debug, Clone)]
enum Step {
    Come(u8),
    Go(usize),
    Share(usize, bool),
    Interval,
    Carry(usize),
    Acknowledge,
    Cut,
    Connect,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u8).prop_map(Step::Come),
        2 => any::<usize>().prop_map(Step::Go),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(at, good)| Step::Share(at, good)),
        4 => Just(Step::Interval),
        4 => (1..3000usize).prop_map(Step::Carry),
        2 => Just(Step::Acknowledge),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => Just(Step::Restart),
    ]
}

fn run(pair: &mut Pair, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Come(worker) => {
                pair.role.come(worker);
            }
            Step::Go(at) => pair.role.go(at),
            Step::Share(at, accepted) => pair.role.share(at, accepted),
            Step::Interval => {
                pair.wait(INTERVAL);
                if pair.tick().is_err() {
                    pair.cut();
                }
            }
            Step::Carry(most) => pair.carry(most),
            Step::Acknowledge => pair.acknowledge(),
            Step::Cut => pair.cut(),
            Step::Connect => pair.connect(),
            Step::Restart => {
                pair.conversation.disconnected();
                let now = pair.now;
                pair.service.restart(now);
            }
        }
    }
    pair.settle();
}

fn plain(counters: &Counters) -> (u64, u64, u64, Work) {
    let rejected = counters.rejected();
    (
        counters.submitted,
        counters.accepted,
        rejected,
        counters.work,
    )
}

proptest! {
    #[test]
    fn whatever_is_cut_the_service_ends_with_what_is_true(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut pair = Pair::new(usize::MAX);
        run(&mut pair, steps);
        let inner = pair.role.inner();
        let sender = pair.service.sender();
        prop_assert_eq!(plain(&sender.totals().counters), plain(&inner.total));
        for (name, counters) in &inner.by_worker {
            let key = WorkerKey { account: "account".to_owned(), worker: name.clone() };
            let known = sender.workers()[&key].totals();
            prop_assert_eq!(plain(&known.counters), plain(counters));
            let peer = PeerName {
                protocol: "sv1".to_owned(),
                host: name.clone(),
                device: String::new(),
            };
            let known = sender.peer_totals(&peer);
            prop_assert_eq!(plain(&known.counters), plain(counters));
        }
        prop_assert!(sender.peers.keys().eq(inner.peers.keys()), "nobody else is there");
    }

    #[test]
    fn where_there_is_no_room_the_sums_hold_and_nobody_stays_who_has_gone(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut pair = Pair::new(3);
        run(&mut pair, steps);
        let inner = pair.role.inner();
        let sender = pair.service.sender();
        prop_assert_eq!(plain(&sender.totals().counters), plain(&inner.total));
        prop_assert!(sender.peers.keys().eq(inner.peers.keys()), "nobody else is there");
    }
}

#[test]
fn only_what_has_changed_is_told_and_silence_is_a_heartbeat() {
    let mut pair = Pair::new(100);
    for _ in 0..10 {
        pair.role.come(1);
    }
    pair.settle();
    let before = pair.service.events;
    assert_eq!(before, 1 + 3 * 10);
    pair.wait(INTERVAL);
    pair.tick().unwrap();
    let heartbeat = pair.conversation.output().len();
    assert!(heartbeat > 0 && heartbeat < 60, "{heartbeat}");
    pair.carry(usize::MAX);
    assert_eq!(pair.service.events, before);
    pair.role.share(4, true);
    pair.wait(INTERVAL);
    pair.tick().unwrap();
    pair.carry(usize::MAX);
    // The service, the peer and the worker.
    assert_eq!(pair.service.events, before + 3);
}

#[test]
fn very_many_peers_are_told_of_bit_by_bit_and_none_is_left_out() {
    let mut pair = Pair::new(100);
    for _ in 0..10_000 {
        pair.role.come(1);
    }
    pair.connect();
    let mut most = 0;
    while !pair.conversation.is_done() {
        // Everything changes all the time.
        for at in 0..100 {
            pair.role.share(at, true);
        }
        pair.tick().unwrap();
        most = most.max(pair.conversation.output().len());
        pair.carry(usize::MAX);
        pair.acknowledge();
        assert!(pair.role.inner().looks < 20);
    }
    assert!(most < 1 << 20 | 1 << 12, "{most}");
    assert_eq!(pair.service.sender().peers.len(), 10_000);
    assert!(pair.role.inner().looks > 3, "it was too much for one look");
}

#[test]
fn a_service_that_accepts_and_reads_nothing_costs_bounded_memory_and_its_connection() {
    let mut pair = Pair::new(1 << 14);
    // No answer to Hello.
    pair.conversation.connected(pair.now, None);
    pair.conversation
        .written(pair.now, pair.conversation.output().len());
    pair.wait(Duration::from_secs(10));
    assert!(matches!(pair.tick(), Err(Fault::NoWelcome)));
    // An answer, and nothing after that.
    pair.connect();
    for round in 0..3000 {
        for _ in 0..10 {
            pair.role.come(1);
            pair.role.go(0);
        }
        if round == 0 {
            pair.tick().unwrap();
        }
        let before = pair.conversation.output().len();
        assert!(pair.tick().is_ok());
        assert_eq!(pair.conversation.output().len(), before);
    }
    pair.wait(Duration::from_secs(10));
    assert!(matches!(pair.tick(), Err(Fault::TakesNothing)));
    // Nobody there for hours: what happens is kept as far as there is room, and the rest is counted.
    pair.cut();
    for _ in 0..3000 {
        for _ in 0..10 {
            pair.role.come(1);
            pair.role.share(0, true);
            pair.role.go(0);
        }
        pair.wait(INTERVAL);
        pair.tick().unwrap();
    }
    let kept = pair.conversation.kept_bytes();
    assert!(kept < ENOUGH_KEPT + (1 << 16), "{kept}");
    assert!(pair.role.happened.dropped() > 0);
    pair.settle();
    let total = pair.service.sender().totals();
    assert_eq!(total.counters.accepted, 30_000);
}

#[test]
fn a_service_that_acknowledges_nothing_is_left() {
    let mut pair = Pair::new(100);
    pair.connect();
    for _ in 0..11 {
        pair.tick().unwrap();
        pair.carry(usize::MAX);
        pair.wait(INTERVAL);
    }
    pair.wait(INTERVAL);
    assert!(matches!(pair.tick(), Err(Fault::AcknowledgesNothing)));
}

#[test]
fn a_refusal_and_nonsense_end_the_connection() {
    let mut pair = Pair::new(100);
    let mut say = |message: &FromService| {
        pair.conversation.connected(pair.now, None);
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        pair.conversation.received(pair.now, &bytes)
    };
    let refused = say(&FromService::Refused {
        code: RefusalCode::WrongToken,
        reason: "x".repeat(9999),
    });
    assert!(matches!(refused, Err(Fault::Refused { reason, .. }) if reason.len() == 200));
    let newer = say(&FromService::Welcome {
        version: VERSION + 1,
        last_sequence: 0,
    });
    assert!(matches!(newer, Err(Fault::Version(_))));
    assert!(
        say(&FromService::Unknown).is_ok(),
        "a newer service may say more"
    );
    let empty = pair.conversation.received(pair.now, &[0; 4]);
    assert!(matches!(empty, Err(Fault::Frame(_))));
}
