//! What `/metrics` of a stats service promises, asked for through real sockets.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "other tests need the rest"
)]
mod support;

use std::collections::BTreeMap;

use stats::receiver::{Config, MetricsConfig};
use stats::state::Link;
use stats_events::{
    Block, BlockState, Counters, Event, Hello, Peer, PeerEnd, ServiceState, Template, Work,
    WorkerState,
};
use support::{Client, Database, Service, TestRole, config, counters, hello, peer, worker};

/// What a worker may call itself.
const HOSTILE: &str = "<script>alert(1)</script>\"} 1\nevil{a=\"\\";

/// Values by their series, as they are written down.
type Metrics = BTreeMap<String, f64>;

async fn metrics(service: &Service) -> Metrics {
    let (status, body) = service.get("/metrics").await;
    assert_eq!(status, 200);
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let mut metrics = Metrics::new();
    for line in lines {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let before = metrics.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "twice: {series}");
    }
    metrics
}

fn of<'a>(metrics: &'a Metrics, family: &str) -> Vec<&'a str> {
    let start = format!("{family}{{");
    let series = metrics.keys().map(String::as_str);
    series.filter(|series| series.starts_with(&start)).collect()
}

async fn with(metrics: MetricsConfig) -> (Database, Service) {
    let database = Database::sqlite();
    let config = Config {
        metrics,
        ..config(&database)
    };
    let service = Service::run(config).await;
    (database, service)
}

fn state(counters: Counters) -> Event {
    Event::Service(ServiceState {
        ready: true,
        counters,
        ..ServiceState::default()
    })
}

fn shares(accepted: u64) -> Counters {
    Counters {
        submitted: accepted + 1,
        accepted,
        rejected: [(HOSTILE.to_owned(), 1)].into(),
        work: Work(u128::from(accepted) << 32),
        ..Counters::default()
    }
}

/// One that connected later than those with smaller numbers.
fn miner(peer: u64, host: u64) -> Event {
    Event::PeerConnected(Peer {
        peer,
        connected_at_ms: 1_700_000_000_000 + peer,
        address: format!("192.0.2.{host}:4000"),
        protocol: "sv1".into(),
        user_agent: Some(HOSTILE.into()),
        ..Peer::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_never_go_back_whoever_is_restarted() {
    let (database, mut service) = with(MetricsConfig::default()).await;
    let accepted = "hashpool_pool_lifetime_accepted_shares_total{role=\"pool\",service=\"a\"}";
    let work = "hashpool_pool_lifetime_work_hashes_total{role=\"pool\",service=\"a\"}";
    let mut expected = 0.0;
    for instance in ["1", "2", "3"] {
        let (mut client, _) = Client::connect(service.address, &hello("a", instance)).await;
        // What is less than before is not believed.
        for (sequence, said) in [(1, 10), (2, 7)] {
            client.tell(sequence, state(shares(said))).await;
            client.acked(sequence).await;
        }
        expected += 10.0;
        let shown = metrics(&service).await;
        assert_eq!(shown[accepted], expected);
        assert_eq!(shown[work], expected * 4_294_967_296.0);
        let rejected = of(&shown, "hashpool_pool_lifetime_rejected_shares_total");
        assert_eq!(rejected.len(), 1, "{rejected:?}");
        drop(client);
        service.until_link("a", Link::Down).await;
        service.kill();
        service = Service::start(&database).await;
        assert_eq!(metrics(&service).await[accepted], expected);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_counted_by_state_and_templates_have_an_age() {
    let (_database, service) = with(MetricsConfig::default()).await;
    let (mut client, _) = Client::connect(service.address, &hello("a", "1")).await;
    let block = |hash: &str, state| {
        Event::Block(Block {
            hash: hash.into(),
            state,
            ..Block::default()
        })
    };
    client.tell(1, block("01", BlockState::Found)).await;
    client.tell(2, block("02", BlockState::Found)).await;
    client.tell(3, block("02", BlockState::Orphaned)).await;
    let template = Template {
        height: 870_000,
        received_at_ms: 1_700_000_000_000,
        tip_at_ms: 1_600_000_000_000,
        ..Template::default()
    };
    client.tell(4, Event::Template(template)).await;
    client.tell(5, miner(1, 1)).await;
    client.acked(5).await;
    let shown = metrics(&service).await;
    assert_eq!(shown["hashpool_pool_blocks{state=\"found\"}"], 1.0);
    assert_eq!(shown["hashpool_pool_blocks{state=\"orphaned\"}"], 1.0);
    assert_eq!(shown["hashpool_pool_blocks{state=\"confirmed\"}"], 0.0);
    assert_eq!(shown["hashpool_pool_peers{protocol=\"sv1\"}"], 1.0);
    let service_s = |what: &str| {
        let series = format!("hashpool_pool_service_{what}{{role=\"pool\",service=\"a\"}}");
        shown[&series]
    };
    let apart = service_s("tip_age_seconds") - service_s("template_age_seconds");
    assert!((apart - 100_000_000.0).abs() < 1.0, "{apart}");
    assert_eq!(service_s("up"), 1.0);
    assert_eq!(service_s("template_height"), 870_000.0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_a_service_that_has_gone_are_not_active() {
    let (_database, service) = with(MetricsConfig::default()).await;
    let (mut client, _) = Client::connect(service.address, &hello("a", "1")).await;
    client.tell(1, worker(1, "rig", 5)).await;
    client.acked(1).await;
    assert_eq!(metrics(&service).await["hashpool_pool_workers_active"], 1.0);
    drop(client);
    service.until_link("a", Link::Down).await;
    let shown = metrics(&service).await;
    assert_eq!(shown["hashpool_pool_workers_active"], 0.0);
    assert_eq!(shown["hashpool_pool_workers"], 1.0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_that_two_services_tell_of_are_not_counted_twice() {
    let (_database, service) = with(MetricsConfig::default()).await;
    let translator = Hello {
        role: "translator".into(),
        ..hello("b", "1")
    };
    let (mut client, _) = Client::connect(service.address, &translator).await;
    client.tell(1, state(counters(5))).await;
    client.acked(1).await;
    let shown = metrics(&service).await;
    assert!(of(&shown, "hashpool_pool_lifetime_accepted_shares_total").is_empty());
    assert_eq!(of(&shown, "hashpool_pool_service_up").len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_peers_and_workers_are_shown_only_where_that_is_wanted() {
    let (_database, service) = with(MetricsConfig::default()).await;
    let (mut client, _) = Client::connect(service.address, &hello("a", "1")).await;
    client.tell(1, miner(1, 1)).await;
    client.tell(2, worker(1, HOSTILE, 5)).await;
    client.acked(2).await;
    let shown = metrics(&service).await;
    let single = |series: &&String| series.contains("_worker_") || series.contains("_peer_");
    assert_eq!(shown.keys().filter(single).count(), 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_of_peers_and_workers_are_few_escaped_and_gone_with_them() {
    let (_database, service) = with(MetricsConfig {
        peers: 2,
        workers: 2,
    })
    .await;
    let (mut client, _) = Client::connect(service.address, &hello("a", "1")).await;
    for number in 1..=3 {
        client.tell(3 * number - 2, miner(number, number)).await;
        client.tell(3 * number - 1, peer(number, 5)).await;
        let event = Event::Worker(WorkerState {
            peer: number,
            account: HOSTILE.into(),
            worker: format!("rig{number}"),
            since_ms: 1_700_000_000_000 + number,
            counters: counters(7 * number),
            ..WorkerState::default()
        });
        client.tell(3 * number, event).await;
    }
    client.acked(9).await;
    let shown = metrics(&service).await;
    let workers = of(&shown, "hashpool_pool_worker_accepted_shares_total");
    assert_eq!(workers.len(), 2, "{workers:?}");
    assert!(workers.iter().all(|series| !series.contains("rig3")));
    assert_eq!(of(&shown, "hashpool_pool_peer_sessions").len(), 2);
    for of in ["peers", "workers"] {
        let series = format!("hashpool_pool_left_out{{of=\"{of}\"}}");
        assert_eq!(shown[&series], 1.0);
    }
    // What it calls itself ends neither the text nor the line.
    let account = r#"account="<script>alert(1)</script>\"} 1�evil{a=\"\\~"#;
    let escaped = workers.iter().all(|series| series.contains(account));
    assert!(escaped, "{workers:?}");

    let end = PeerEnd {
        peer: 1,
        counters: counters(6),
        ..PeerEnd::default()
    };
    client.tell(10, Event::PeerDisconnected(end)).await;
    client.acked(10).await;
    let shown = metrics(&service).await;
    let workers = of(&shown, "hashpool_pool_worker_accepted_shares_total");
    let has = |rig: &str| workers.iter().any(|series| series.contains(rig));
    assert!(!has("rig1") && has("rig2") && has("rig3"), "{workers:?}");
    let peers = of(&shown, "hashpool_pool_peer_accepted_shares_total");
    let is_first = |series: &&&str| series.contains("host=\"192.0.2.1\"");
    assert_eq!(peers.iter().filter(is_first).count(), 0, "{peers:?}");

    // When it comes again and there is room, its counter goes on.
    for (sequence, peer) in [(11, 2), (12, 3)] {
        let end = PeerEnd {
            peer,
            ..PeerEnd::default()
        };
        client.tell(sequence, Event::PeerDisconnected(end)).await;
    }
    client.tell(13, miner(4, 1)).await;
    client.tell(14, peer(4, 3)).await;
    client.acked(14).await;
    let shown = metrics(&service).await;
    let peers = of(&shown, "hashpool_pool_peer_accepted_shares_total");
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert_eq!(shown[peers[0]], 9.0);
    drop(client);
    service.until_link("a", Link::Down).await;
    let shown = metrics(&service).await;
    assert!(of(&shown, "hashpool_pool_peer_accepted_shares_total").is_empty());
    service.stop().await;
}

#[test]
fn more_series_than_can_be_kept_are_refused() {
    let mut config = Config::<TestRole>::default();
    config.metrics.workers = 20_001;
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("metrics.workers"), "{error}");
}
