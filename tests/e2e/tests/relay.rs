//! Miners behind a relay, in front of the translator, the pool and the embedded chain.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use e2e::{embedded, pool_config, start_miner, start_pool, start_relay, start_translator, until};
use miner::simulate::{Options, Rate, Simulation};
use relay::clients::Client;
use relay::pattern::Pattern;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_miner_its_relay_the_translator_and_the_pool_count_the_same_shares() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let relay = start_relay(translator.address, |config| {
        config.clients = vec![Client {
            id: "alice".to_owned(),
            user_names: vec![Pattern::new("alice.*")],
            ..Client::default()
        }];
    })
    .await;
    let mut miner = start_miner(relay.address, "alice.one", 300_000.0);
    until("shares are acknowledged", || {
        let shares = translator.status.snapshot().shares;
        (shares.accepted >= 30).then_some(())
    })
    .await;
    miner.stop();
    let shares = until("all have left, and nothing is in flight", || {
        let snapshot = translator.status.snapshot();
        (snapshot.connected == 0 && snapshot.shares.in_flight == 0).then_some(snapshot.shares)
    })
    .await;
    let alice = until("the relay has seen the end", || {
        let handle = &relay.status;
        let totals = handle.totals();
        handle
            .connections()
            .is_empty()
            .then(|| totals["alice"].clone())
    })
    .await;
    miner.kill();
    let mined = miner.status.snapshot();
    let pooled = until("the pool has counted as much as it acknowledged", || {
        let pooled = pool.status.snapshot();
        (pooled.shares_accepted >= shares.accepted).then_some(pooled)
    })
    .await;
    assert_eq!(alice.submits, mined.submitted);
    assert_eq!(alice.submits, shares.submitted);
    assert_eq!(alice.accepted, shares.told_accepted);
    assert_eq!(alice.rejected(), shares.submitted - shares.told_accepted);
    assert_eq!(shares.accepted, pooled.shares_accepted);
    assert_eq!(alice.connections, mined.connects);
    assert_eq!(alice.noticed.malformed_lines, 0);
    assert_eq!(alice.noticed.unmatched, 0);
    assert!(alice.notifications > 0 && alice.work > 0);
}

#[tokio::test]
async fn what_simulated_miners_count_is_what_their_relay_counts() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let relay = start_relay(translator.address, |_| {}).await;
    let config = miner::Config {
        address: relay.address.to_string(),
        user: "farm.sim".to_owned(),
        ..miner::Config::default()
    };
    let options = Options {
        miners: 20,
        rate: Rate::per_second(3.0).unwrap(),
        quality: "low=0.1,stale=0.1,duplicate=0.1".parse().unwrap(),
        ..Options::default()
    };
    let simulation = Simulation::new(config, options).unwrap();
    let report = simulation.watch();
    let stop = CancellationToken::new();
    let running = tokio::spawn(simulation.run(stop.clone()));
    until("shares were sent", || {
        (report().submitted() >= 300).then_some(())
    })
    .await;
    stop.cancel();
    let report = running.await.unwrap();
    let totals = until("the relay has seen the end", || {
        let handle = &relay.status;
        let totals = handle.totals();
        handle
            .connections()
            .is_empty()
            .then(|| totals["unknown"].clone())
    })
    .await;
    assert_eq!(report.unanswered(), 0, "{report}");
    assert_eq!(totals.submits, report.submitted());
    assert_eq!(totals.accepted, report.accepted());
    assert_eq!(totals.rejected(), report.rejected());
    let [_, job_not_found, duplicate, low_difficulty, ..] = totals.rejected;
    assert_eq!(job_not_found, report.rejected.job_not_found);
    assert_eq!(duplicate, report.rejected.duplicate);
    assert_eq!(low_difficulty, report.rejected.low_difficulty);
    assert_eq!(totals.connections, 20);
}
