//! Miner, translator, pool and embedded chain together.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use e2e::{Role, embedded, pool_config, start_miner, start_pool, start_translator, until};
use translator::Snapshot;

const HASHRATE: f64 = 400_000.0;

fn rejected(shares: &translator::Shares) -> u64 {
    shares.rejected.values().sum()
}

fn lost(shares: &translator::Shares) -> u64 {
    shares.lost.values().sum()
}

async fn settled(translator: &Role<translator::StatusHandle>) -> Snapshot {
    until("nothing is in flight", || {
        let snapshot = translator.status.snapshot();
        (snapshot.shares.in_flight == 0).then_some(snapshot)
    })
    .await
}

#[tokio::test]
async fn every_share_is_counted_once_from_the_miner_to_the_pool() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let miners = [
        start_miner(translator.address, "alice.one", HASHRATE),
        start_miner(translator.address, "bob.two", HASHRATE),
    ];
    until("both miners have shares, and a block was found", || {
        let shared = miners
            .iter()
            .all(|miner| miner.status.snapshot().accepted >= 20);
        (shared && pool.status.snapshot().blocks_accepted >= 2).then_some(())
    })
    .await;
    for miner in &miners {
        miner.stop();
    }
    let mined = until("the miners have left", || {
        let gone = translator.status.snapshot().connected == 0;
        gone.then(|| miners.each_ref().map(|miner| miner.status.snapshot()))
    })
    .await;
    let translated = settled(&translator).await;

    let submitted: u64 = mined.iter().map(|miner| miner.submitted).sum();
    let shares = &translated.shares;
    assert_eq!(shares.submitted, submitted);
    assert_eq!(
        shares.submitted,
        shares.accepted + rejected(shares) + lost(shares)
    );
    assert_eq!(lost(shares), 0, "{shares:?}");
    let pooled = until("the pool has counted as much as it acknowledged", || {
        let pooled = pool.status.snapshot();
        (pooled.shares_accepted >= shares.accepted).then_some(pooled)
    })
    .await;
    assert_eq!(pooled.shares_accepted, shares.accepted);
    assert_eq!(
        shares.forwarded,
        pooled.shares_accepted + pooled.shares_rejected.values().sum::<u64>()
    );
    // Work of every accepted share, by the two sides' own sums.
    assert_eq!(pooled.work, shares.accepted_work);
    assert!(pooled.templates.height.unwrap() >= 2, "{pooled:?}");
}

#[tokio::test]
async fn a_pool_that_is_killed_and_restarted_keeps_its_miners() {
    let data = tempfile::tempdir().unwrap();
    let mut config = pool_config(embedded(), &data);
    let (mut pool, key) = start_pool(config.clone()).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let miner = start_miner(translator.address, "alice.one", HASHRATE);
    let mut counted_before = 0;
    for round in 0..3 {
        let goal = translator.status.snapshot().shares.accepted + 15;
        until("shares are acknowledged", || {
            (translator.status.snapshot().shares.accepted >= goal).then_some(())
        })
        .await;
        pool.kill();
        until("the translator knows", || {
            (!translator.status.is_ready()).then_some(())
        })
        .await;
        let shares = translator.status.snapshot().shares;
        assert_eq!(shares.in_flight, 0, "round {round}: {shares:?}");
        let counted = counted_before + pool.status.snapshot().shares_accepted;
        assert!(
            shares.accepted <= counted && counted <= shares.forwarded,
            "round {round}: {counted} counted, {shares:?}"
        );
        counted_before = counted;
        config.listen_address = pool.address;
        (pool, _) = start_pool(config.clone()).await;
    }
    let goal = translator.status.snapshot().shares.accepted + 15;
    until("mining goes on", || {
        (translator.status.snapshot().shares.accepted >= goal).then_some(())
    })
    .await;
    let mined = miner.status.snapshot();
    assert_eq!(mined.connects, 1, "the miner never had to connect again");
    assert_eq!(mined.malformed_lines, 0);
}

#[tokio::test]
async fn many_miners_share_the_smallest_queue_to_the_pool() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |config| {
        config.upstream_connections = 1;
        config.upstream_queue = 1;
    })
    .await;
    until("the translator is connected", || {
        translator.status.is_ready().then_some(())
    })
    .await;
    let hello = "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n\
                 {\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"a.b\",\"x\"]}\n";
    let miners: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut miner = TcpStream::connect(translator.address).unwrap();
            miner.write_all(hello.as_bytes()).unwrap();
            miner
        })
        .collect();
    until("all have a channel", || {
        (pool.status.snapshot().channels == 50).then_some(())
    })
    .await;
    drop(miners);
    until("all are closed again", || {
        (pool.status.snapshot().channels == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_peers_on_both_ports_cost_a_miner_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let miner = start_miner(translator.address, "alice.one", HASHRATE);
    let mined = |goal| {
        let miner = &miner;
        until("shares are accepted", move || {
            (miner.status.snapshot().accepted >= goal).then_some(())
        })
    };
    mined(5).await;

    let noise: Vec<u8> = (0..40_000u32).map(|at| (at * 31 % 251) as u8).collect();
    let (translator_address, pool_address) = (translator.address, pool.address);
    let peers = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            for address in [translator_address, pool_address] {
                abuse(address, &noise);
            }
            abuse(
                translator_address,
                &b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[".repeat(2000),
            );
            abuse(translator_address, &b"[[[[[[[[[[\n".repeat(2000));
        }
        // Something that a miner of this translator cannot know is answered, and the connection stays.
        let mut odd = TcpStream::connect(translator_address).unwrap();
        odd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for method in ["mining.ping", "mining.suggest_target", "no.such.method"] {
            let request =
                format!("{{\"id\":\"{method}\",\"method\":\"{method}\",\"params\":[]}}\n");
            odd.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 512];
            let size = odd.read(&mut answer).unwrap();
            let answer = String::from_utf8_lossy(&answer[..size]).into_owned();
            assert!(answer.contains(method), "{method}: {answer}");
        }
    });
    peers.await.unwrap();

    let goal = miner.status.snapshot().accepted + 10;
    mined(goal).await;
    let mined = miner.status.snapshot();
    assert_eq!((mined.connects, mined.malformed_lines), (1, 0), "{mined:?}");
    let shares = translator.status.snapshot().shares;
    assert!(shares.add_up(), "{shares:?}");
    assert_eq!(lost(&shares), 0, "{shares:?}");
}

/// Writes until the other side has enough; then reads what it has to say.
fn abuse(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // Resets are an answer too.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
}
