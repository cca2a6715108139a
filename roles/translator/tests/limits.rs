//! What one miner may ask for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Instant;

use support::{PoolHouse, Running};

#[tokio::test]
async fn a_miner_that_sends_too_much_is_slowed_down_and_loses_nothing() {
    const RATE: u32 = 100;
    const LINES: u32 = 250;
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.lines_per_second = RATE;
        // Waiting is not silence.
        config.idle_timeout_seconds = 1;
    })
    .await;
    let mut pool = house.accept().await;
    let mut honest = translator.miner().await;
    honest.log_in("honest").await;
    pool.open_channel(&[1]).await;
    let job = honest.notify().await.job_id;

    let mut eager = translator.miner().await;
    let started = Instant::now();
    for id in 0..LINES {
        eager
            .write(&format!(
                r#"{{"id":{id},"method":"mining.ping","params":[]}}"#
            ))
            .await;
        if id % 50 == 49 {
            // So that it takes several reads: a bucket may be overdrawn by one.
            assert_eq!(eager.read().await.unwrap()["id"], id - 49);
            for before in id - 48..=id {
                assert_eq!(eager.read().await.unwrap()["id"], before);
            }
            // Whoever is beside it does not wait.
            let asked = Instant::now();
            assert_eq!(honest.submit("honest", &job, id).await["result"], true);
            assert!(asked.elapsed() < started.elapsed().max(std::time::Duration::from_secs(1)));
        }
    }
    // A read may overdraw the bucket; the next line shows that it was paid back.
    let last = eager.ask(r#"{"id":"last","method":"mining.ping"}"#).await;
    assert_eq!(last["id"], "last");
    let least = f64::from(LINES - RATE) / f64::from(RATE);
    let took = started.elapsed().as_secs_f64();
    assert!(took >= least, "{took} s");
    let status = translator.status.snapshot();
    assert!(status.traffic.throttled >= 1, "{status:?}");
    assert!(status.disconnected.is_empty(), "{status:?}");
}
