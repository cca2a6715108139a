//! A pool whose template source is away.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use std::net::TcpListener;

use support::{Running, eventually};
use sv2_connection::Error;
use templates::{SourceConfig, Sv2Config};

#[tokio::test]
async fn without_templates_clients_are_sent_away_and_told_why() {
    // Nobody listens where this one did.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let pool = Running::start_with(|config| {
        config.template = SourceConfig::Sv2(Sv2Config {
            address: nobody.to_string(),
            network: "regtest".to_owned(),
            ..Sv2Config::default()
        })
        .into();
        config.stale_work_seconds = 2;
        config.drain_seconds = 1;
    })
    .await;
    let mut early = pool.client().await;
    let reason = pool.is_ready().await.unwrap_err();
    assert!(reason.contains("templates"), "{reason}");
    early.until_hung_up().await;
    eventually(&pool, |status| {
        status.disconnects.get("no-templates") == Some(&1)
    })
    .await;
    let late = pool.client_on(pool.call().await).await;
    match late.err() {
        Some(Error::SetupRefused(code)) => assert_eq!(code, "no-templates"),
        other => panic!("{other:?}"),
    }
    pool.stop().await;
}
