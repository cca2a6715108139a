//! What is right after every disturbance.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Instant;

use proptest::prelude::*;
use stats_events::{
    Block, BlockState, Counters, Event, Peer, PeerEnd, PeerState, ServiceState, Work, WorkerState,
};

use super::*;

/// A service with a clock that only moves when told to.
struct Service {
    state: State,
    now: Now,
    stored: HashMap<(SenderKey, Key), Document>,
}

impl Service {
    fn new() -> Self {
        let now = Now {
            instant: Instant::now(),
            unix_ms: 1_700_000_000_000,
        };
        Self {
            state: State::default(),
            now,
            stored: HashMap::new(),
        }
    }

    fn hello(&mut self, name: &str, instance: &str) -> Result<Session, Refusal> {
        self.state.hello(self.now, &hello(name, instance))
    }

    fn tell(&mut self, session: &Session, sequence: u64, event: Event) -> Outcome {
        let event = Numbered {
            sequence,
            at_ms: 0,
            event,
        };
        self.state.event(self.now, session, &event)
    }

    fn wait(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.unix_ms += seconds * 1000;
    }

    fn store(&mut self) {
        for (sender, key, document) in self.state.take_changes() {
            match document {
                Some(document) => self.stored.insert((sender, key), document),
                None => self.stored.remove(&(sender, key)),
            };
        }
    }

    /// The service stops, and starts with what was stored.
    fn restart(&mut self) {
        self.store();
        let documents = self.stored.clone().into_iter();
        let documents = documents.map(|((sender, key), document)| (sender, key, document));
        self.state = State::restore(self.now, documents);
    }

    fn sender(&self) -> &Sender {
        self.state.senders().next().unwrap().1
    }

    fn worker(&self, worker: &str) -> Totals {
        self.sender().workers()[&worker_key(worker)].totals()
    }
}

fn hello(name: &str, instance: &str) -> Hello {
    Hello {
        version: VERSION,
        role: "pool".into(),
        name: name.into(),
        instance_id: instance.into(),
        started_at_ms: 1,
        software: "test".into(),
        network: None,
        heartbeat_ms: 5000,
        token: None,
    }
}

fn worker_key(worker: &str) -> WorkerKey {
    WorkerKey {
        account: "account".into(),
        worker: worker.into(),
    }
}

fn counters(accepted: u64) -> Counters {
    Counters {
        submitted: accepted,
        accepted,
        work: Work(u128::from(accepted) << 64),
        ..Counters::default()
    }
}

fn worker(peer: u64, worker: &str, accepted: u64) -> Event {
    Event::Worker(WorkerState {
        peer,
        channel: 1,
        account: "account".into(),
        worker: worker.into(),
        since_ms: 5,
        counters: counters(accepted),
        ..WorkerState::default()
    })
}

fn peer(peer: u64) -> Event {
    Event::PeerConnected(Peer {
        peer,
        address: format!("192.0.2.1:{peer}"),
        protocol: "sv2-mining".into(),
        vendor: Some("v".into()),
        ..Peer::default()
    })
}

fn peer_state(peer: u64, accepted: u64) -> Event {
    Event::Peer(PeerState {
        peer,
        counters: counters(accepted),
        ..PeerState::default()
    })
}

fn gone(peer: u64, accepted: u64) -> Event {
    Event::PeerDisconnected(PeerEnd {
        peer,
        counters: counters(accepted),
        ..PeerEnd::default()
    })
}

fn service(accepted: u64) -> Event {
    Event::Service(ServiceState {
        ready: true,
        counters: counters(accepted),
        ..ServiceState::default()
    })
}

#[test]
fn what_comes_twice_or_late_changes_nothing() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    assert_eq!(
        stats.tell(&session, 1, worker(1, "w", 10)),
        Outcome::Applied
    );
    assert_eq!(
        stats.tell(&session, 5, worker(1, "w", 30)),
        Outcome::Applied
    );
    for (sequence, accepted) in [(5, 30), (5, 99), (1, 10), (4, 20)] {
        let outcome = stats.tell(&session, sequence, worker(1, "w", accepted));
        assert_eq!(outcome, Outcome::Repeated);
    }
    assert_eq!(stats.worker("w").counters, counters(30));
    assert_eq!(stats.hello("a", "1").unwrap().last_sequence, 5);
}

#[test]
fn a_sender_that_restarts_goes_on_in_total_and_starts_at_zero_in_its_session() {
    let mut stats = Service::new();
    let first = stats.hello("a", "1").unwrap();
    stats.tell(&first, 1, peer(1));
    stats.tell(&first, 2, peer_state(1, 10));
    stats.tell(&first, 3, worker(1, "w", 10));
    stats.tell(&first, 4, service(10));
    stats.state.disconnected(stats.now, &first);
    let second = stats.hello("a", "2").unwrap();
    assert_eq!(second.last_sequence, 0);
    assert!(stats.sender().peers.is_empty());
    assert_eq!(
        stats.sender().instance.service.counters,
        Counters::default()
    );
    stats.tell(&second, 1, peer(1));
    stats.tell(&second, 2, peer_state(1, 3));
    stats.tell(&second, 3, worker(1, "w", 3));
    stats.tell(&second, 4, service(3));
    assert_eq!(stats.worker("w").counters, counters(13));
    assert_eq!(stats.sender().totals().counters, counters(13));
    let name = PeerName {
        protocol: "sv2-mining".into(),
        host: "192.0.2.1".into(),
        device: "v".into(),
    };
    let totals = stats.sender().peer_totals(&name);
    assert_eq!((totals.counters, totals.sessions), (counters(13), 2));
    // What is left of the first connection is of no use any more.
    assert_eq!(stats.tell(&first, 9, service(99)), Outcome::Replaced);
}

#[test]
fn a_peer_that_reconnects_goes_on_in_total() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    stats.tell(&session, 1, peer(1));
    stats.tell(&session, 2, worker(1, "w", 7));
    stats.tell(&session, 3, gone(1, 7));
    stats.tell(&session, 4, peer(2));
    stats.tell(&session, 5, worker(2, "w", 2));
    let totals = stats.worker("w");
    assert_eq!((totals.counters, totals.sessions), (counters(9), 2));
    assert_eq!(stats.sender().peers.len(), 1);
}

#[test]
fn a_channel_opened_again_under_the_same_number_is_another_session() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    stats.tell(&session, 1, worker(1, "w", 7));
    let Event::Worker(again) = worker(1, "w", 2) else {
        unreachable!()
    };
    let again = WorkerState {
        since_ms: 6,
        ..again
    };
    stats.tell(&session, 2, Event::Worker(again.clone()));
    assert_eq!(stats.worker("w").counters, counters(9));
    let ended = WorkerState {
        ended: true,
        counters: counters(3),
        ..again
    };
    stats.tell(&session, 3, Event::Worker(ended));
    assert_eq!(stats.worker("w").counters, counters(10));
    assert!(
        stats.sender().workers()[&worker_key("w")]
            .sessions
            .is_empty()
    );
}

#[test]
fn a_channel_that_is_opened_again_leaves_the_workers_other_channels_alone() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    let on = |channel, since_ms, accepted| {
        Event::Worker(WorkerState {
            peer: 1,
            channel,
            account: "account".into(),
            worker: "w".into(),
            since_ms,
            counters: counters(accepted),
            ..WorkerState::default()
        })
    };
    for (sequence, event) in [on(1, 5, 10), on(2, 5, 20), on(1, 6, 1), on(2, 5, 21)]
        .into_iter()
        .enumerate()
    {
        stats.tell(&session, sequence as u64 + 1, event);
    }
    let totals = stats.worker("w");
    assert_eq!((totals.counters, totals.sessions), (counters(32), 3));
}

#[test]
fn what_one_sender_can_have_kept_is_bounded() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    let most = sender::MOST_OF_A_KIND as u64;
    for peer in 1..=most + 10 {
        stats.tell(&session, peer, worker(peer, "w", 1));
    }
    let known = &stats.sender().workers()[&worker_key("w")];
    assert_eq!(known.sessions.len() as u64, most);
    assert_eq!(stats.sender().skipped, 10);
    // Those that are known go on, and one that goes leaves its place.
    stats.tell(&session, most + 20, gone(1, 0));
    stats.tell(&session, most + 21, worker(most + 11, "w", 1));
    assert_eq!(stats.worker("w").counters, counters(most + 1));
    assert_eq!(stats.sender().skipped, 10);
}

#[test]
fn a_silent_sender_is_stale_and_then_down_and_never_fine_with_old_numbers() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    let link = |stats: &Service| stats.sender().link(stats.now);
    stats.wait(14);
    assert_eq!(link(&stats), Link::Up);
    stats.wait(2);
    assert_eq!(link(&stats), Link::Stale);
    stats.state.heartbeat(stats.now, &session);
    assert_eq!(link(&stats), Link::Up);
    let last_seen = stats.now.unix_ms;
    stats.wait(3);
    stats.state.disconnected(stats.now, &session);
    assert_eq!(link(&stats), Link::Down);
    assert_eq!(stats.sender().instance.last_seen_ms, last_seen);
    stats.restart();
    assert_eq!(link(&stats), Link::Down);
}

#[test]
fn steps_of_the_clock_make_nobody_stale() {
    let mut stats = Service::new();
    stats.hello("a", "1").unwrap();
    stats.now.unix_ms += 10_000_000;
    assert_eq!(stats.sender().link(stats.now), Link::Up);
    stats.now.unix_ms = 0;
    assert_eq!(stats.sender().link(stats.now), Link::Up);
}

#[test]
fn of_two_senders_with_one_name_the_first_stays_until_it_is_silent() {
    let mut stats = Service::new();
    let first = stats.hello("a", "1").unwrap();
    let refusal = stats.hello("a", "2").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NameInUse);
    stats.hello("b", "2").unwrap();
    // The same instance may come again before its old connection is known to be dead.
    stats.hello("a", "1").unwrap();
    stats.wait(16);
    stats.hello("a", "2").unwrap();
    assert_eq!(stats.state.heartbeat(stats.now, &first), Outcome::Replaced);
}

#[test]
fn a_hello_that_cannot_be_is_refused_with_its_reason() {
    let mut stats = Service::new();
    let mut refused = |change: fn(&mut Hello)| {
        let mut hello = hello("a", "1");
        change(&mut hello);
        stats.state.hello(stats.now, &hello).unwrap_err().code
    };
    assert_eq!(
        refused(|hello| hello.version = VERSION + 1),
        RefusalCode::VersionTooNew
    );
    assert_eq!(
        refused(|hello| hello.name = String::new()),
        RefusalCode::BadHello
    );
    assert_eq!(
        refused(|hello| hello.role = "x".repeat(129)),
        RefusalCode::BadHello
    );
    assert_eq!(
        refused(|hello| hello.name = "a\nb".into()),
        RefusalCode::BadHello
    );
    for number in 0..MAX_SENDERS {
        stats.hello(&format!("s{number}"), "1").unwrap();
    }
    let refusal = stats.hello("one more", "1").unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotServed);
}

#[test]
fn an_expected_sender_that_never_came_is_down() {
    let mut stats = Service::new();
    let key = SenderKey {
        role: "mint".into(),
        name: "m".into(),
    };
    stats.state.expect(stats.now, key);
    assert_eq!(stats.sender().link(stats.now), Link::Down);
    assert_eq!(stats.sender().totals(), Totals::default());
}

#[test]
fn what_is_out_of_bounds_counts_as_told_and_is_skipped() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    let outcome = stats.tell(&session, 1, worker(1, &"x".repeat(600), 1));
    assert_eq!(outcome, Outcome::Skipped);
    assert_eq!(stats.tell(&session, 2, Event::Unknown), Outcome::Skipped);
    assert!(stats.sender().workers().is_empty());
    assert_eq!(stats.hello("a", "1").unwrap().last_sequence, 2);
}

#[test]
fn a_blocks_newest_state_is_kept() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    for (sequence, state) in [(1, BlockState::Found), (2, BlockState::Confirmed)] {
        let block = Block {
            hash: "00".into(),
            state,
            ..Block::default()
        };
        stats.tell(&session, sequence, Event::Block(block));
    }
    stats.restart();
    assert_eq!(stats.sender().blocks["00"].state, BlockState::Confirmed);
}

#[derive(Debug, Clone)]
enum Step {
    Worker(u64, u8, u8, u8),
    Reopen(u64, u8),
    Peer(u64),
    Gone(u64),
    SenderRestart,
    LinkCut,
    ServiceRestart,
    Repeat,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u64..3, 0u8..3, 0u8..2, 0u8..20)
            .prop_map(|(peer, worker, channel, shares)| Step::Worker(peer, worker, channel, shares)),
        2 => (0u64..3, 0u8..2).prop_map(|(peer, channel)| Step::Reopen(peer, channel)),
        2 => (0u64..3).prop_map(Step::Peer),
        2 => (0u64..3).prop_map(Step::Gone),
        1 => Just(Step::SenderRestart),
        1 => Just(Step::LinkCut),
        1 => Just(Step::ServiceRestart),
        2 => Just(Step::Repeat),
    ]
}

proptest! {
    /// Against a sender that knows the truth.
    #[test]
    fn totals_are_the_truth_after_any_disturbance(steps in proptest::collection::vec(step(), 0..80)) {
        let mut stats = Service::new();
        let mut instance = 1;
        let mut session = stats.hello("a", "1").unwrap();
        let mut told: Vec<Numbered> = Vec::new();
        // The sender's own counts: of sessions, by peer, worker and channel, and of each worker in all.
        let mut sessions: HashMap<(u64, u8, u8), u64> = HashMap::new();
        let mut since: HashMap<(u64, u8), u64> = HashMap::new();
        let mut truth: HashMap<u8, u64> = HashMap::new();
        for step in steps {
            let event = match step {
                Step::Worker(peer, number, channel, shares) => {
                    *truth.entry(number).or_default() += u64::from(shares);
                    let accepted = sessions.entry((peer, number, channel)).or_default();
                    *accepted += u64::from(shares);
                    Some(Event::Worker(WorkerState {
                        peer,
                        channel: channel.into(),
                        account: "account".into(),
                        worker: number.to_string(),
                        since_ms: since.get(&(peer, channel)).copied().unwrap_or(5),
                        counters: counters(*accepted),
                        ..WorkerState::default()
                    }))
                }
                Step::Reopen(peer, channel) => {
                    *since.entry((peer, channel)).or_insert(5) += 1;
                    sessions.retain(|(of, _, on), _| (*of, *on) != (peer, channel));
                    None
                }
                Step::Peer(number) => Some(peer(number)),
                Step::Gone(number) => {
                    sessions.retain(|(peer, ..), _| *peer != number);
                    Some(gone(number, 0))
                }
                Step::SenderRestart => {
                    instance += 1;
                    sessions.clear();
                    told.clear();
                    stats.state.disconnected(stats.now, &session);
                    session = stats.hello("a", &instance.to_string()).unwrap();
                    None
                }
                Step::LinkCut => {
                    stats.state.disconnected(stats.now, &session);
                    session = stats.hello("a", &instance.to_string()).unwrap();
                    None
                }
                Step::ServiceRestart => {
                    stats.restart();
                    session = stats.hello("a", &instance.to_string()).unwrap();
                    None
                }
                Step::Repeat => {
                    for event in &told {
                        stats.state.event(stats.now, &session, event);
                    }
                    None
                }
            };
            if let Some(event) = event {
                let event = Numbered { sequence: told.len() as u64 + 1, at_ms: 0, event };
                prop_assert_eq!(stats.state.event(stats.now, &session, &event), Outcome::Applied);
                told.push(event);
            }
            for (number, accepted) in &truth {
                prop_assert_eq!(stats.worker(&number.to_string()).counters.accepted, *accepted);
            }
        }
        stats.restart();
        for (number, accepted) in &truth {
            prop_assert_eq!(stats.worker(&number.to_string()).counters.accepted, *accepted);
        }
    }
}

#[test]
fn who_is_down_for_long_is_forgotten_with_all_that_is_stored_of_it() {
    let mut stats = Service::new();
    let mut sessions = Vec::new();
    for name in ["there", "silent", "expected", "gone"] {
        let session = stats.hello(name, "1").unwrap();
        stats.tell(&session, 1, service(7));
        stats.tell(&session, 2, peer(1));
        stats.tell(&session, 3, worker(1, "a", 5));
        stats.tell(&session, 4, worker(1, "b", 5));
        stats.tell(&session, 5, gone(1, 10));
        stats.tell(&session, 6, peer(2));
        stats.tell(&session, 7, worker(2, "a", 6));
        let block = Block {
            hash: "00".into(),
            ..Block::default()
        };
        stats.tell(&session, 8, Event::Block(block));
        sessions.push(session);
    }
    let expected = sessions[2].key.clone();
    stats.state.expect(stats.now, expected);
    stats.store();
    let rows = stats.stored.len();
    stats.wait(50);
    for session in &sessions[2..] {
        stats.state.disconnected(stats.now, session);
    }
    stats.wait(51);
    stats.state.forget(stats.now, Duration::from_secs(100));
    stats.store();
    let names = |stats: &Service| -> Vec<_> {
        let names = stats.state.senders().map(|(key, _)| key.name.clone());
        names.collect()
    };
    assert_eq!(names(&stats), ["expected", "silent", "there"]);
    assert_eq!(stats.stored.len(), rows / 4 * 3);
    assert!(stats.stored.keys().all(|(key, _)| key.name != "gone"));
    // When it comes again it is a new one.
    let session = stats.hello("gone", "1").unwrap();
    assert_eq!(session.last_sequence, 0);
    stats.restart();
    assert_eq!(names(&stats), ["expected", "gone", "silent", "there"]);
}

#[test]
fn a_sender_that_comes_again_while_it_is_being_forgotten_loses_nothing_new() {
    let mut stats = Service::new();
    let session = stats.hello("a", "1").unwrap();
    for number in 0..2 * FORGOTTEN_AT_ONCE as u64 {
        stats.tell(&session, number + 1, worker(1, &format!("w{number}"), 5));
    }
    stats.store();
    stats.state.disconnected(stats.now, &session);
    stats.wait(100);
    stats.state.forget(stats.now, Duration::from_secs(10));
    stats.store();
    let left = stats.stored.len();
    assert!(left > 0, "not all at once");
    let session = stats.hello("a", "2").unwrap();
    stats.tell(&session, 1, worker(1, "w1", 3));
    for _ in 0..4 {
        stats.store();
    }
    stats.restart();
    assert_eq!(stats.worker("w1").counters.accepted, 3);
    assert_eq!(stats.sender().workers().len(), 1);
}

#[test]
fn the_one_that_was_down_longest_makes_room_and_those_that_are_there_or_expected_do_not() {
    let mut stats = Service::new();
    let mut sessions = Vec::new();
    for number in 0..MAX_SENDERS {
        sessions.push(stats.hello(&format!("s{number:02}"), "1").unwrap());
        stats.wait(1);
    }
    let beats = |stats: &mut Service, sessions: &[Session]| {
        for session in sessions {
            stats.state.heartbeat(stats.now, session);
        }
    };
    beats(&mut stats, &sessions[10..]);
    let refused = stats.hello("new", "1").unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotServed);
    stats.state.expect(stats.now, sessions[2].key.clone());
    for number in [5, 4, 2] {
        stats.state.disconnected(stats.now, &sessions[number]);
    }
    stats.hello("new", "1").unwrap();
    let has = |stats: &Service, number: usize| stats.state.sender(&sessions[number].key).is_some();
    assert!(!has(&stats, 4) && has(&stats, 5) && has(&stats, 2));
    stats.hello("newer", "1").unwrap();
    assert!(!has(&stats, 5));
    // The one that is down is expected.
    assert!(stats.hello("newest", "1").is_err());
    assert_eq!(stats.state.senders().count(), MAX_SENDERS);
}
