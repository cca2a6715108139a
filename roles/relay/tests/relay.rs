//! A relay between a miner and a pool, through real sockets.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use relay::clients::Client;
use relay::pattern::Pattern;
use relay::totals::Totals;
use relay::{Config, Relay, Route};
use support::{Pools, config, first_share, relayed, start};

#[tokio::test]
async fn what_both_sides_say_passes_and_is_counted_for_the_client_that_it_is() {
    let pools = Pools::new().await;
    let relay = start(Config {
        clients: vec![Client {
            id: "acme".into(),
            user_names: vec![Pattern::new("acme.*")],
            ..Client::default()
        }],
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "acme.rig").await;
    let acme = relay.handle.totals().remove("acme").unwrap();
    assert_eq!((acme.connections, acme.submits), (1, 1));
    assert_eq!((acme.accepted, acme.notifications), (1, 1));
    // Eight times the work of difficulty 1, whose target is not quite 2^224.
    assert_eq!(acme.work, 34_360_262_664);
    assert!(acme.bytes_sent > 100 && acme.bytes_received > 100);
    drop((miner, pool));
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    let totals = relay.handle.totals();
    let ended = totals["acme"].clone();
    assert!(ended.connection_ms >= acme.connection_ms);
    let connection_ms = acme.connection_ms;
    assert_eq!(
        Totals {
            connection_ms,
            ..ended
        },
        acme
    );
    assert_eq!(totals["unknown"].connections, 0);
}

#[tokio::test]
async fn a_connection_that_never_says_who_it_is_is_the_unknowns_at_its_end() {
    let pools = Pools::new().await;
    let relay = start(Config {
        clients: vec![Client {
            id: "acme".into(),
            user_names: vec![Pattern::new("acme.*")],
            ..Client::default()
        }],
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    // A name that the pool refuses is nobody's.
    let claim = r#"{"id":2,"method":"mining.authorize","params":["acme.rig","x"]}"#;
    miner.say(claim).await;
    pool.hear().await.unwrap();
    pool.say(r#"{"id":2,"result":false,"error":null}"#).await;
    miner.hear().await.unwrap();
    assert_eq!(relay.handle.totals()["unknown"].connections, 0);
    drop(miner);
    assert_eq!(pool.hear().await, None);
    drop(pool);
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    let totals = relay.handle.totals();
    assert_eq!(totals["acme"].connections, 0);
    assert_eq!(totals["unknown"].connections, 1);
    assert_eq!(totals["unknown"].bytes_sent, 1 + claim.len() as u64);
}

/// Who comes to this further port is a client with a pool of its own.
fn of_two_clients(port: SocketAddr, one: &Pools, other: &Pools) -> Config {
    Config {
        also_listen: vec![port],
        clients: vec![Client {
            id: "rented".into(),
            ports: vec![port.port()],
            ..Client::default()
        }],
        routes: vec![
            Route {
                clients: vec!["rented".into()],
                groups: vec![vec!["b".into()]],
                ..Route::default()
            },
            Route {
                groups: vec![vec!["a".into()]],
                ..Route::default()
            },
        ],
        ..config(&[one.address(), other.address()])
    }
}

#[tokio::test]
async fn a_port_leads_to_its_clients_pool() {
    let (one, other) = (Pools::new().await, Pools::new().await);
    // Whom a port belongs to is configured before it is open, so that somebody else may take it meanwhile.
    let relay = loop {
        let free = Pools::new().await.address();
        let config = of_two_clients(free, &one, &other);
        match Relay::bind(config).await {
            Ok(relay) => break support::run(relay),
            Err(relay::Error::Listen(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let mut miner = support::Peer::new(
        tokio::net::TcpStream::connect(relay.addresses[1])
            .await
            .unwrap(),
    );
    let mut pool = other.accept().await;
    first_share(&mut miner, &mut pool, "anybody").await;
    assert_eq!(relay.handle.totals()["rented"].accepted, 1);
    let mut miner = relay.connect().await;
    let mut pool = one.accept().await;
    first_share(&mut miner, &mut pool, "anybody").await;
    assert_eq!(relay.handle.totals()["unknown"].accepted, 1);
}

#[tokio::test]
async fn a_miner_that_is_not_on_the_list_is_told_so_and_its_line_never_reaches_the_pool() {
    let pools = Pools::new().await;
    let relay = start(Config {
        routes: vec![Route {
            groups: vec![vec!["a".into()]],
            workers: vec![Pattern::new("acme.*")],
            ..Route::default()
        }],
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "acme.rig").await;
    miner
        .say(r#"{"id":"x9","method":"mining.authorize","params":["other",""]}"#)
        .await;
    let told = miner.hear().await.unwrap();
    assert!(
        told.starts_with(r#"{"id":"x9","result":null,"error":[24,"#),
        "{told}"
    );
    assert_eq!(miner.hear().await, None);
    assert_eq!(pool.hear().await, None);
    let refused = r#"hashpool_relay_disconnects_total{reason="worker-not-allowed"}"#;
    assert_eq!(relay.metric(refused).await, 1.0);
}

#[tokio::test]
async fn routes_that_are_changed_are_for_new_connections() {
    let (one, other) = (Pools::new().await, Pools::new().await);
    let relay = start(config(&[one.address(), other.address()])).await;
    let mut before = relay.connect().await;
    let mut pool_before = one.accept().await;
    let to = |pool: &str| Route {
        groups: vec![vec![pool.to_owned()]],
        ..Route::default()
    };
    assert!(relay.handle.set_routes(vec![to("nowhere")]).is_err());
    relay.handle.set_routes(vec![to("b")]).unwrap();
    assert_eq!(relay.handle.routes(), [to("b")]);
    let mut after = relay.connect().await;
    let mut pool_after = other.accept().await;
    first_share(&mut after, &mut pool_after, "anybody").await;
    first_share(&mut before, &mut pool_before, "anybody").await;
}

#[tokio::test]
async fn every_metric_has_its_name() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "anybody").await;
    let labels = r#"client_id="unknown",pool_host="127.0.0.1""#;
    for (name, value) in [
        ("stratum_connections_total", 1.0),
        ("stratum_submits_total", 1.0),
        ("stratum_accepted_shares_total", 1.0),
        ("stratum_notifications_total", 1.0),
        ("stratum_active_connections", 1.0),
        ("stratum_current_difficulty", 8.0),
        ("stratum_pauses_total", 0.0),
        ("stratum_resumes_total", 0.0),
        ("stratum_connection_duration_seconds_count", 0.0),
    ] {
        let series = format!("{name}{{{labels}}}");
        assert!(relay.get("/metrics").await.contains(&series), "{series}");
        assert_eq!(relay.metric(&series).await, value, "{name}");
    }
    for name in ["stratum_bytes_sent_total", "stratum_bytes_received_total"] {
        assert!(relay.metric(&format!("{name}{{{labels}}}")).await > 100.0);
    }
    let rejected = format!("stratum_rejected_shares_total{{{labels},reason=\"duplicate\"}}");
    assert!(relay.get("/metrics").await.contains(&rejected));
    let connect = r#"stratum_connect_latency_seconds_count{pool_host="127.0.0.1"}"#;
    assert_eq!(relay.metric(connect).await, 1.0);
    for (method, count) in [
        ("mining.submit", 1.0),
        ("mining.subscribe", 1.0),
        ("other", 0.0),
    ] {
        let series = format!(
            "stratum_request_response_seconds_count{{method=\"{method}\",pool_host=\"127.0.0.1\"}}"
        );
        let other = format!(
            "stratum_request_response_seconds_count{{pool_host=\"127.0.0.1\",method=\"{method}\"}}"
        );
        let seen = relay.metric(&series).await.max(relay.metric(&other).await);
        assert_eq!(seen, count, "{method}");
    }
    assert_eq!(relay.metric("stratum_max_connections").await, 20_000.0);
    assert!(relay.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(relay.get("/readyz").await.starts_with("HTTP/1.1 200"));
    let status = relay.get("/status").await;
    assert!(status.contains(r#""work":"34360262664""#), "{status}");
}
