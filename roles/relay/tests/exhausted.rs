//! What the relay does when there is no file descriptor left. In a process of its own, because the limit is one of the
//! process.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::process::Command;

use support::{first_share, relayed};

const CHILD: &str = "RELAY_TEST_CHILD";

/// Runs one test in a process that may have few files open.
fn in_a_child(test: &str, promise: impl Future<Output = ()>) {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(promise);
    }
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
}

#[test]
fn a_lack_of_file_descriptors_costs_nobody_who_is_there_and_passes() {
    in_a_child(
        "a_lack_of_file_descriptors_costs_nobody_who_is_there_and_passes",
        accepts_again_once_there_are_some(),
    );
}

async fn accepts_again_once_there_are_some() {
    let (relay, pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    let waiting = tokio::net::TcpSocket::new_v4().unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let mut late = support::Peer::new(waiting.connect(relay.address).await.unwrap());
    relay
        .until("the listener to notice", |handle| {
            handle.snapshot().listener.accept_errors > 0
        })
        .await;
    first_share(&mut miner, &mut pool, "a").await;
    assert_eq!(relay.handle.connections().len(), 1);
    drop(files);
    let mut late_pool = pools.accept().await;
    first_share(&mut late, &mut late_pool, "b").await;
}

#[test]
fn a_lack_of_file_descriptors_is_not_held_against_a_pool() {
    in_a_child(
        "a_lack_of_file_descriptors_is_not_held_against_a_pool",
        dials_again_once_there_are_some(),
    );
}

async fn dials_again_once_there_are_some() {
    let (relay, pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    let waiting = tokio::net::TcpSocket::new_v4().unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // One for the miner, and none for its way to the pool.
    files.pop();
    let mut late = support::Peer::new(waiting.connect(relay.address).await.unwrap());
    relay
        .until("the miner", |handle| {
            handle.snapshot().connections.len() == 2
        })
        .await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(files);
    let mut late_pool = pools.accept().await;
    first_share(&mut late, &mut late_pool, "b").await;
    assert!(relay.handle.pools()[0].failures.is_empty());
}
