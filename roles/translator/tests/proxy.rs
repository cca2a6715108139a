//! A translator behind a load balancer that says who really calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use service::listener::{Mode, ProxyProtocol};
use support::{Miner, PoolHouse, Running};

/// One miner for each address, all through a load balancer on this machine.
async fn translator(house: &PoolHouse) -> Running {
    Running::start(vec![house.upstream()], |config| {
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
async fn call(translator: &Running, header: &[u8]) -> Miner {
    let mut miner = translator.miner().await;
    miner.write_bytes(header).await;
    miner
}

fn version_1(host: u8) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{host} 198.51.100.1 4711 34255\r\n").into_bytes()
}

fn version_2(host: u8) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    let addresses = [192, 0, 2, host, 198, 51, 100, 1, 0x12, 0x67, 0x85, 0xcf];
    [&start[..], &addresses].concat()
}

#[tokio::test]
async fn miners_behind_a_load_balancer_count_for_their_own_addresses() {
    let house = PoolHouse::new().await;
    let translator = translator(&house).await;
    let mut pool = house.accept().await;
    let mut miners = Vec::new();
    for (header, prefix) in [(version_1(1), [1; 4]), (version_2(2), [2; 4])] {
        let mut miner = call(&translator, &header).await;
        miner.log_in("w").await;
        pool.open_channel(&prefix).await;
        miner.notify().await;
        miners.push(miner);
    }
    for header in [version_1(2), version_2(1)] {
        assert!(call(&translator, &header).await.read().await.is_none());
    }
    let status = translator
        .until("both miners", |status| status.connected == 2)
        .await;
    let addresses: Vec<_> = status
        .miners
        .iter()
        .map(|miner| miner.address.to_string())
        .collect();
    assert_eq!(addresses, ["192.0.2.1:4711", "192.0.2.2:4711"]);
    assert_eq!(status.listener.refused_per_address, 2);
}

#[tokio::test]
async fn a_load_balancer_that_does_not_say_who_calls_costs_only_that_connection() {
    let house = PoolHouse::new().await;
    let translator = translator(&house).await;
    let mut honest = call(&translator, &version_2(1)).await;
    honest.log_in("w").await;
    let missing = b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n".to_vec();
    let endless_line = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
    let mut huge = version_2(3);
    huge[14] = 0xff;
    let stalled = version_2(4)[..20].to_vec();
    let headers = [missing, endless_line, huge, stalled, Vec::new()];
    let mut calls = Vec::new();
    for header in &headers {
        calls.push(call(&translator, header).await);
    }
    for miner in &mut calls {
        assert!(miner.read().await.is_none());
    }
    let refused = headers.len() as u64;
    translator
        .until("the refusals", |status| {
            status.listener.refused_proxy_header == refused && status.connected == 1
        })
        .await;
    let mut pool = house.accept().await;
    pool.open_channel(&[1; 4]).await;
    honest.notify().await;
}

#[tokio::test]
async fn a_header_that_nobody_may_send_is_refused_before_anything_starts() {
    let mut config = translator::Config::default();
    config.proxy_protocol.mode = Mode::Required;
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("trusted_networks"), "{error}");
}
