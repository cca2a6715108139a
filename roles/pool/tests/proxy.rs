//! A pool behind a load balancer that says who really calls.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use service::listener::{Mode, ProxyProtocol};
use support::{PATIENCE, Running, eventually, hung_up};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

/// One client for each address, all through a load balancer on this machine.
async fn pool() -> Running {
    Running::start_with(|config| {
        config.limits.connections_per_address = 1;
        config.proxy_protocol = ProxyProtocol {
            mode: Mode::Required,
            trusted_networks: vec!["127.0.0.0/8".parse().unwrap()],
            header_timeout_seconds: 1,
        };
    })
    .await
}

/// The load balancer connects, and says this first.
async fn call(pool: &Running, header: &[u8]) -> TcpStream {
    let mut stream = pool.call().await;
    stream.write_all(header).await.unwrap();
    stream
}

fn version_1(host: u8) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{host} 198.51.100.1 4711 34254\r\n").into_bytes()
}

fn version_2(host: u8) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    let addresses = [192, 0, 2, host, 198, 51, 100, 1, 0x12, 0x67, 0x85, 0xce];
    [&start[..], &addresses].concat()
}

#[tokio::test]
async fn clients_behind_a_load_balancer_count_for_their_own_addresses() {
    let pool = pool().await;
    let mut first = pool
        .client_on(call(&pool, &version_1(1)).await)
        .await
        .unwrap();
    let mut second = pool
        .client_on(call(&pool, &version_2(2)).await)
        .await
        .unwrap();
    for header in [version_1(2), version_2(1)] {
        hung_up(&mut call(&pool, &header).await).await;
    }
    for client in [&mut first, &mut second] {
        let job = client.open().await;
        client.mine_one(job, 0).await;
    }
    let status = pool.status.snapshot();
    assert_eq!((status.connections, status.connections_total), (2, 2));
    assert_eq!(status.listener.refused_per_address, 2);
    let metrics = pool.metrics().await;
    let line = r#"hashpool_pool_refused_connections_total{reason="per-address"} 2"#;
    assert!(metrics.lines().any(|have| have == line), "{metrics}");

    // A place that was left is free.
    drop(first);
    eventually(&pool, |status| status.connections == 1).await;
    pool.client_on(call(&pool, &version_2(1)).await)
        .await
        .unwrap();
    pool.stop().await;
}

#[tokio::test]
async fn a_load_balancer_that_does_not_say_who_calls_costs_only_that_connection() {
    let pool = pool().await;
    let mut honest = pool
        .client_on(call(&pool, &version_2(1)).await)
        .await
        .unwrap();
    let missing = b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n".to_vec();
    let endless_line = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
    let mut huge = version_2(3);
    huge[14] = 0xff;
    let stalled = version_2(4)[..20].to_vec();
    let headers = [missing, endless_line, huge, stalled, Vec::new()];
    let mut calls = Vec::new();
    for header in &headers {
        calls.push(call(&pool, header).await);
    }
    for stream in &mut calls {
        hung_up(stream).await;
    }
    let refused = headers.len() as u64;
    eventually(&pool, |status| {
        status.listener.refused_proxy_header == refused && status.connections == 1
    })
    .await;
    let job = honest.open().await;
    honest.mine_one(job, 0).await;
    pool.stop().await;
}

#[tokio::test]
async fn a_pool_stops_while_a_load_balancer_owes_a_header() {
    let pool = Running::start_with(|config| {
        config.proxy_protocol = ProxyProtocol {
            mode: Mode::Required,
            trusted_networks: vec!["127.0.0.1".parse().unwrap()],
            header_timeout_seconds: u32::MAX,
        };
    })
    .await;
    let _silent = pool.call().await;
    eventually(&pool, |status| status.listener.accepted == 1).await;
    timeout(PATIENCE, pool.stop()).await.unwrap();
}

#[tokio::test]
async fn a_header_that_nobody_may_send_is_refused_before_anything_starts() {
    let data = tempfile::tempdir().unwrap();
    let mut config = support::config(&data);
    config.proxy_protocol.mode = Mode::Required;
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("trusted_networks"), "{error}");
}
