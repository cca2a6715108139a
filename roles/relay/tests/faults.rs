//! What goes wrong between miners and pools, through real sockets.

#![allow(clippy::unwrap_used)]

mod support;

use relay::{Config, Route};
use support::{Hanging, Peer, Pools, Running, config, first_share, in_time, relayed, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The name of a reason for which connections ended, as a series.
fn ended(reason: &str) -> String {
    format!("hashpool_relay_disconnects_total{{reason=\"{reason}\"}}")
}

fn failed(pool: &str, reason: &str) -> String {
    format!("hashpool_relay_pool_failures_total{{pool=\"{pool}\",reason=\"{reason}\"}}")
}

/// The same, with pools that are passed over for good once they have failed.
fn unforgiving(pools: &[std::net::SocketAddr]) -> Config {
    Config {
        pool_retry_first_ms: 3_600_000,
        pool_retry_last_seconds: 3_600,
        ..config(pools)
    }
}

/// A miner that has asked something of the pool that it was connected to.
async fn asking(relay: &Running, pools: &Pools) -> (Peer, Peer) {
    const ASKED: &str = r#"{"id":1,"method":"mining.subscribe","params":["test/1"]}"#;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    miner.say(ASKED).await;
    assert_eq!(pool.hear().await.as_deref(), Some(ASKED));
    (miner, pool)
}

/// Reads until the connection ends, and says how.
async fn end(peer: &mut Peer) -> std::io::Result<usize> {
    let mut buffer = [0; 1024];
    in_time("the end", peer.stream.read(&mut buffer)).await
}

#[tokio::test]
async fn a_pool_that_reads_slowly_gets_every_share_and_the_miner_is_slowed_down() {
    const SHARES: u64 = 200_000;
    let (relay, _pools, miner, mut pool) = relayed().await;
    let (_, mut writing) = miner.stream.into_split();
    let saying = tokio::spawn(async move {
        for share in 0..SHARES {
            let line = format!(
                "{{\"id\":{share},\"method\":\"mining.submit\",\"params\":[\"a\",\"j\",\"00000000\",\"00000000\",\"{share:08x}\"]}}\n"
            );
            writing.write_all(line.as_bytes()).await.unwrap();
        }
        writing.shutdown().await.unwrap();
        writing
    });
    let pauses = r#"stratum_pauses_total{client_id="unknown",pool_host="127.0.0.1"}"#;
    relay
        .until("a pause", |handle| handle.totals()["unknown"].pauses > 0)
        .await;
    assert!(relay.metric(pauses).await >= 1.0);
    let mut shares = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = in_time("shares", pool.stream.read(&mut buffer))
            .await
            .unwrap();
        if read == 0 {
            break;
        }
        shares += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    assert_eq!(shares, SHARES);
    saying.await.unwrap();
    drop(pool);
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    let totals = relay.handle.totals()["unknown"].clone();
    assert_eq!(totals.submits, SHARES);
    assert_eq!(totals.pauses, totals.resumes);
}

#[tokio::test]
async fn a_miner_that_does_not_read_costs_nobody_else_anything() {
    let pools = Pools::new().await;
    let relay = start(config(&[pools.address()])).await;
    let mut deaf = relay.connect().await;
    let mut flooding = pools.accept().await;
    let flood = tokio::spawn(async move {
        let line = [b'x'; 64 * 1024];
        let mut said = 0;
        while let Ok(written) = flooding.stream.write(&line).await {
            said += written;
            if said > 64 << 20 {
                break;
            }
        }
        (said, flooding)
    });
    relay
        .until("a pause", |handle| handle.totals()["unknown"].pauses > 0)
        .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    // And the flood arrives in full as soon as it is read.
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        let mut heard = 0;
        while let Ok(read) = deaf.stream.read(&mut buffer).await {
            heard += read;
            if read == 0 {
                break;
            }
        }
        heard
    });
    let (said, flooding) = in_time("the flood", flood).await.unwrap();
    drop(flooding);
    assert_eq!(in_time("its end", reading).await.unwrap(), said);
}

#[tokio::test]
async fn a_reset_of_the_miner_reaches_the_pool_after_its_last_share() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    miner.reset();
    let error = end(&mut pool).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    relay.ended_by("miner-reset").await;
}

#[tokio::test]
async fn a_reset_of_the_pool_reaches_the_miner() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    pool.reset();
    let error = end(&mut miner).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    relay.ended_by("pool-reset").await;
}

#[tokio::test]
async fn a_half_that_is_closed_leaves_the_other_open() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    miner.say("the last line").await;
    miner.stream.shutdown().await.unwrap();
    assert_eq!(pool.hear().await.as_deref(), Some("the last line"));
    assert_eq!(pool.hear().await, None);
    pool.say("still here").await;
    assert_eq!(miner.hear().await.as_deref(), Some("still here"));
    pool.stream.shutdown().await.unwrap();
    assert_eq!(miner.hear().await, None);
    relay.ended_by("miner-closed").await;
}

#[tokio::test]
async fn silence_on_both_sides_ends_a_connection() {
    let pools = Pools::new().await;
    let relay = start(Config {
        idle_timeout_seconds: 1,
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    assert_eq!(end(&mut miner).await.unwrap(), 0);
    assert_eq!(end(&mut pool).await.unwrap(), 0);
    assert_eq!(relay.metric(&ended("idle")).await, 1.0);
}

#[tokio::test]
async fn a_pool_that_is_away_is_passed_over_and_used_again_when_it_is_back() {
    let (first, second) = (Pools::new().await, Pools::new().await);
    let address = first.address();
    drop(first);
    let relay = start(Config {
        pool_retry_first_ms: 20,
        ..config(&[address, second.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = second.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    assert_eq!(relay.metric(&failed("a", "connect-refused")).await, 1.0);
    let back = Pools(tokio::net::TcpListener::bind(address).await.unwrap());
    // Once its time has come it is tried again.
    loop {
        let mut miner = relay.connect().await;
        let (mut pool, is_first) = in_time("a pool", async {
            tokio::select! {
                pool = back.accept() => (pool, true),
                pool = second.accept() => (pool, false),
            }
        })
        .await;
        first_share(&mut miner, &mut pool, "a").await;
        if is_first {
            break;
        }
    }
    assert_eq!(
        relay
            .metric("hashpool_relay_pool_healthy{pool=\"a\"}")
            .await,
        1.0
    );
}

#[tokio::test]
async fn miners_are_turned_away_while_the_only_pool_is_away_and_served_when_it_comes() {
    let pools = Pools::new().await;
    let address = pools.address();
    drop(pools);
    let relay = start(config(&[address])).await;
    let mut miner = relay.connect().await;
    assert_eq!(end(&mut miner).await.unwrap(), 0);
    assert_eq!(relay.metric(&ended("no-pool")).await, 1.0);
    assert!(relay.get("/readyz").await.starts_with("HTTP/1.1 503"));
    let pools = Pools(tokio::net::TcpListener::bind(address).await.unwrap());
    // At once, however long it would be passed over if there were another.
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    assert!(relay.get("/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_pool_that_accepts_and_closes_is_passed_over() {
    let (closing, working) = (Pools::new().await, Pools::new().await);
    let relay = start(unforgiving(&[closing.address(), working.address()])).await;
    let mut miner = relay.connect().await;
    drop(closing.accept().await);
    assert_eq!(end(&mut miner).await.unwrap(), 0);
    drop(miner);
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    let mut miner = relay.connect().await;
    let mut pool = working.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    let reason = failed("a", "closed-without-answer");
    assert_eq!(relay.metric(&reason).await, 1.0);
}

#[tokio::test]
async fn a_pool_that_accepts_and_answers_nothing_is_passed_over() {
    let (silent, working) = (Pools::new().await, Pools::new().await);
    let relay = start(Config {
        attempt_timeout_seconds: 1,
        ..unforgiving(&[silent.address(), working.address()])
    })
    .await;
    let _waiting = asking(&relay, &silent).await;
    relay
        .until("the silence to be noticed", |handle| {
            handle.pools()[0].failures.contains_key("silent")
        })
        .await;
    let mut miner = relay.connect().await;
    let mut pool = working.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    assert_eq!(relay.metric(&failed("a", "silent")).await, 1.0);
    // It stays with its pool for life.
    assert_eq!(relay.handle.connections().len(), 2);
}

#[tokio::test]
async fn a_pool_that_only_serves_those_who_are_there_is_passed_over_by_new_ones() {
    let (full, working) = (Pools::new().await, Pools::new().await);
    let relay = start(unforgiving(&[full.address(), working.address()])).await;
    let mut old = relay.connect().await;
    let mut old_pool = full.accept().await;
    first_share(&mut old, &mut old_pool, "a").await;
    for _ in 0..5 {
        let (mut miner, pool) = asking(&relay, &full).await;
        drop(pool);
        let _ = end(&mut miner).await;
        drop(miner);
        relay
            .until("the end", |handle| handle.connections().len() == 1)
            .await;
    }
    let mut miner = relay.connect().await;
    let mut pool = working.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    first_share(&mut old, &mut old_pool, "a").await;
}

#[tokio::test]
async fn a_pool_that_says_nothing_more_does_not_keep_a_miner_that_has_left() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    miner.stream.shutdown().await.unwrap();
    assert_eq!(pool.hear().await, None);
    relay
        .until("the miner's end to be noticed", |handle| {
            handle.connections().len() == 1
        })
        .await;
    // From here on time passes as soon as nobody can do anything, and nobody waits for 300 seconds.
    tokio::time::pause();
    assert_eq!(end(&mut miner).await.unwrap(), 0);
}

#[tokio::test]
async fn a_miner_that_a_pool_throws_out_costs_the_others_no_pool() {
    let (first, second) = (Pools::new().await, Pools::new().await);
    let relay = start(config(&[first.address(), second.address()])).await;
    let mut miner = relay.connect().await;
    let mut pool = first.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    let mut bad = relay.connect().await;
    let thrown_out = first.accept().await;
    bad.say("GET / HTTP/1.1").await;
    drop(thrown_out);
    let _ = end(&mut bad).await;
    let mut miner = relay.connect().await;
    let mut pool = first.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
}

#[tokio::test]
async fn a_name_that_is_not_found_leads_to_the_next_pool() {
    let second = Pools::new().await;
    let mut config = config(&[second.address(), second.address()]);
    // RFC 6761: never there.
    config.pools[0].address = "pool.invalid:3333".to_owned();
    let relay = start(config).await;
    let mut miner = relay.connect().await;
    let mut pool = second.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    assert_eq!(relay.metric(&failed("a", "name-not-found")).await, 1.0);
}

#[tokio::test]
async fn pools_of_a_group_share_the_connections_by_their_weights() {
    let (light, heavy) = (Pools::new().await, Pools::new().await);
    let mut config = config(&[light.address(), heavy.address()]);
    config.pools[1].weight = 3;
    config.routes = vec![Route {
        groups: vec![vec!["a".into(), "b".into()]],
        ..Route::default()
    }];
    let relay = start(config).await;
    let mut connections = Vec::new();
    let (mut to_light, mut to_heavy) = (0, 0);
    for _ in 0..40 {
        connections.push(relay.connect().await);
        tokio::select! {
            pool = light.accept() => { to_light += 1; connections.push(pool); }
            pool = heavy.accept() => { to_heavy += 1; connections.push(pool); }
        }
    }
    assert_eq!((to_light, to_heavy), (10, 30));
}

#[tokio::test]
async fn a_stop_takes_nobody_new_and_lets_those_that_are_there_end() {
    let pools = Pools::new().await;
    let relay = start(Config {
        drain_seconds: 3600,
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    relay.stop.cancel();
    in_time("the port to close", async {
        while TcpStream::connect(relay.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    miner.say("one more").await;
    assert_eq!(pool.hear().await.as_deref(), Some("one more"));
    drop((miner, pool));
    in_time("the relay's end", relay.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_stop_ends_what_does_not_end_itself() {
    let pools = Pools::new().await;
    let relay = start(Config {
        drain_seconds: 0,
        ..config(&[pools.address()])
    })
    .await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "a").await;
    relay.stop.cancel();
    assert_eq!(end(&mut miner).await.unwrap(), 0);
    assert_eq!(end(&mut pool).await.unwrap(), 0);
    in_time("the relay's end", relay.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn one_connection_can_be_closed_and_the_others_stay() {
    let pools = Pools::new().await;
    let relay = start(config(&[pools.address()])).await;
    let mut first = relay.connect().await;
    let mut first_pool = pools.accept().await;
    first_share(&mut first, &mut first_pool, "a").await;
    let mut second = relay.connect().await;
    let mut second_pool = pools.accept().await;
    first_share(&mut second, &mut second_pool, "b").await;
    let listed = relay.handle.connections();
    let users: Vec<_> = listed.iter().map(|one| one.user.as_deref()).collect();
    assert_eq!(users, [Some("a"), Some("b")]);
    assert!(relay.handle.close(listed[0].id));
    assert_eq!(end(&mut first).await.unwrap(), 0);
    second.say("still here").await;
    assert_eq!(second_pool.hear().await.as_deref(), Some("still here"));
    relay
        .until("the end", |handle| handle.connections().len() == 1)
        .await;
    assert!(!relay.handle.close(listed[0].id));
}

#[tokio::test]
async fn a_pool_that_does_not_answer_at_all_costs_a_miner_one_attempt_and_the_next_none() {
    let (nobody, working) = (Hanging::new().await, Pools::new().await);
    let mut config = unforgiving(&[nobody.address, working.address()]);
    config.attempt_timeout_seconds = 1;
    let relay = start(config).await;
    for _ in 0..3 {
        let mut miner = relay.connect().await;
        miner.say("said before the pool is there").await;
        let mut pool = working.accept().await;
        let heard = pool.hear().await;
        assert_eq!(heard.as_deref(), Some("said before the pool is there"));
    }
    let failures = &relay.handle.pools()[0].failures;
    assert_eq!(failures.values().sum::<u64>(), 1, "{failures:?}");
}
