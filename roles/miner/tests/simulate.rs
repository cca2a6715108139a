//! Simulated miners against a scripted server.

// Helpers of a test file are tests too, which the lint cannot see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use miner::{
    Config,
    simulate::{Options, Simulation},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_hangs_up_is_connected_to_again_and_all_miners_leave_at_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config {
        address: listener.local_addr().unwrap().to_string(),
        user: "farm.sim".to_owned(),
        reconnect_first_seconds: 0.01,
        reconnect_longest_seconds: 0.05,
        ..Config::default()
    };
    let options = Options {
        miners: 2,
        ..Options::default()
    };
    let simulation = Simulation::new(config, options).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(simulation.run(stop.clone()));
    let accept = async || {
        let accepted = timeout(PATIENCE, listener.accept()).await;
        accepted.expect("no connection").unwrap().0
    };
    for _ in 0..6 {
        drop(accept().await);
    }
    let mut line = String::new();
    let mut last = BufReader::new(accept().await);
    timeout(PATIENCE, last.read_line(&mut line))
        .await
        .expect("the miner says nothing")
        .unwrap();
    assert!(line.contains("mining.configure"), "{line}");
    stop.cancel();
    let report = timeout(PATIENCE, running).await.unwrap().unwrap();
    assert!(report.disconnects >= 6, "{report}");
    assert_eq!(report.connected, 0);
    assert!(report.last_trouble.is_some());
    assert_eq!(report.submitted(), 0);
}
