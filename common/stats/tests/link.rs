//! The sender through real sockets: what the service knows in the end is what is true in the role.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use stats::sender::{Config, Happened, Running, Source, Token, start};
use stats_events::{Counters, Event, Peer, PeerEnd, PeerState, ServiceState, Work};
use stats_service::Service;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A role with one counter, and peers that come and go with it.
struct Role {
    happened: Happened,
    shares: Mutex<u64>,
}

impl Role {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            happened: Happened::new(10_000),
            shares: Mutex::new(0),
        })
    }

    /// A share of the peer that is here. Every tenth is its last, and another peer comes.
    fn share(&self) {
        let mut shares = self.shares.lock().unwrap();
        let (peer, counters) = (peer(*shares), counters(*shares % 10 + 1));
        *shares += 1;
        if (*shares).is_multiple_of(10) {
            let end = PeerEnd {
                peer: peer.peer,
                counters,
                ..PeerEnd::default()
            };
            self.happened.push(vec![
                Event::PeerConnected(peer),
                Event::PeerDisconnected(end),
            ]);
        }
    }
}

fn peer(shares: u64) -> Peer {
    Peer {
        peer: shares / 10 + 1,
        address: "192.0.2.1:1".to_owned(),
        ..Peer::default()
    }
}

fn counters(accepted: u64) -> Counters {
    Counters {
        submitted: accepted,
        accepted,
        work: Work(u128::from(accepted) << 80),
        ..Counters::default()
    }
}

impl Source for Role {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        let shares = *self.shares.lock().unwrap();
        show(Event::Service(ServiceState {
            ready: true,
            counters: counters(shares),
            ..ServiceState::default()
        }));
        let peer = peer(shares);
        show(Event::Peer(PeerState {
            peer: peer.peer,
            counters: counters(shares % 10),
            ..PeerState::default()
        }));
        show(Event::PeerConnected(peer));
    }

    fn happened(&self, most: usize) -> Vec<Event> {
        self.happened.take(most)
    }
}

fn config(address: String) -> Config {
    Config {
        address,
        name: "test".to_owned(),
        interval_ms: 100,
        ..Config::default()
    }
}

fn run(config: &Config, role: &Arc<Role>) -> (Running, CancellationToken) {
    let stop = CancellationToken::new();
    let source = Arc::clone(role) as Arc<dyn Source>;
    let running = start(config, "translator", source, stop.clone());
    (running.unwrap().unwrap(), stop)
}

/// The sums of the service itself, and those of all peers, are as many shares.
async fn until_all_know(service: &Service, shares: u64) {
    service
        .until("all shares to be known", |sender| {
            let of_peers: u64 = sender
                .peers
                .values()
                .map(|peer| peer.state.counters.accepted)
                .chain(
                    sender
                        .peer_totals
                        .values()
                        .map(|totals| totals.counters.accepted),
                )
                .sum();
            sender.totals().counters == counters(shares) && of_peers == shares
        })
        .await;
}

#[tokio::test]
async fn totals_are_the_truth_after_cuts_and_restarts_on_either_side() {
    let service = Service::start().await;
    let role = Role::new();
    let (running, stop) = run(&config(service.address()), &role);
    let mut told = 0;
    let mut share = |count| {
        (0..count).for_each(|_| role.share());
        told += count;
        told
    };
    until_all_know(&service, share(25)).await;
    service.cut();
    until_all_know(&service, share(17)).await;
    // In the middle of a frame, wherever that is, time and again.
    service.cut_after(Some(700));
    service.cut();
    let cuts = service.hellos() + 1;
    let shares = share(333);
    service.until("two cuts", |_| service.hellos() > cuts).await;
    service.cut_after(None);
    until_all_know(&service, shares).await;
    share(9);
    service.restart();
    until_all_know(&service, share(4)).await;
    // The last counts are told at the end.
    let shares = share(8);
    stop.cancel();
    running.ended().await;
    until_all_know(&service, shares).await;

    // The role starts anew: its totals go on.
    let role = Role::new();
    let (_running, _stop) = run(&config(service.address()), &role);
    (0..5).for_each(|_| role.share());
    until_all_know(&service, shares + 5).await;
}

#[tokio::test]
async fn a_service_is_spoken_to_over_tls_and_asks_for_its_token() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    ca_file.write_all(issued.cert.pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let service = Service::start_with(Some(acceptor), Some("secret")).await;
    let role = Role::new();
    let config = Config {
        tls: true,
        ca_file: Some(ca_file.path().to_owned()),
        token: Some(Token::from("secret")),
        ..config(service.address().replace("127.0.0.1", "localhost"))
    };
    let (_running, _stop) = run(&config, &role);
    (0..1000).for_each(|_| role.share());
    until_all_know(&service, 1000).await;
}

#[tokio::test]
async fn a_wrong_token_is_no_reason_to_go_away_for_ever() {
    let service = Service::start_with(None, Some("secret")).await;
    let role = Role::new();
    let (running, stop) = run(&config(service.address()), &role);
    let mut patience = tokio::time::interval(std::time::Duration::from_millis(20));
    while service.hellos() < 2 {
        patience.tick().await;
    }
    assert!(service.see(|state| state.senders().next().is_none()));
    stop.cancel();
    running.ended().await;
}

#[tokio::test]
async fn a_sender_stops_in_time_whoever_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let role = Role::new();
    let (running, stop) = run(&config(address), &role);
    let accepted = listener.accept().await.unwrap();
    stop.cancel();
    running.ended().await;
    drop(accepted);
    assert!(
        start(&Config::default(), "pool", role, stop)
            .unwrap()
            .is_none()
    );
}
