//! A whole pool on the embedded chain, through real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use pool::{Config, Pool};
use support::{PATIENCE, Running, config, eventually};
use sv2_connection::{Error, FrameBuffer, Options, connect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

#[tokio::test]
async fn a_client_mines_and_the_counts_agree() {
    let pool = Running::start().await;
    let mut client = pool.client().await;
    let job = client.open().await;
    let refused = client.mine_one(job, 0).await;
    eventually(&pool, |status| {
        let rejected: u64 = status.shares_rejected.values().sum();
        status.shares_accepted == 1 && rejected == u64::from(refused) && status.channels == 1
    })
    .await;
    drop(client);
    eventually(&pool, |status| {
        status.connections == 0 && status.channels == 0 && status.disconnects.is_empty()
    })
    .await;
    pool.stop().await;
}

#[tokio::test]
async fn operators_see_the_same_counts_everywhere() {
    let pool = Running::start().await;
    let mut client = pool.client().await;
    let job = client.open().await;
    client.mine_one(job, 0).await;
    eventually(&pool, |status| status.shares_accepted == 1).await;
    let get = async |path: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", pool.http);
        client.get(url).send().await.unwrap()
    };
    assert_eq!(get("/healthz").await.status(), 200);
    assert_eq!(get("/readyz").await.status(), 200);
    let status: serde_json::Value = get("/status").await.json().await.unwrap();
    assert_eq!(status["shares_accepted"], 1);
    assert_eq!(status["channels"], 1);
    let metrics = get("/metrics").await.text().await.unwrap();
    for line in [
        "hashpool_pool_shares_accepted_total 1",
        "hashpool_pool_channels 1",
        "hashpool_pool_template_fresh 1",
        "hashpool_pool_shares_rejected_total{reason=\"duplicate-share\"} 0",
        "# TYPE hashpool_pool_blocks_total counter",
    ] {
        assert!(
            metrics.lines().any(|have| have == line),
            "{line} is not in\n{metrics}"
        );
    }
    pool.stop().await;
}

#[tokio::test]
async fn bad_peers_cost_only_their_own_connections() {
    let pool = Running::start().await;
    let mut honest = pool.client().await;
    let job = honest.open().await;

    // A handshake that stalls, and one that is none.
    let mut stalled = TcpStream::connect(pool.address).await.unwrap();
    stalled.write_all(&[7; 20]).await.unwrap();
    let mut plain = TcpStream::connect(pool.address).await.unwrap();
    plain
        .write_all(&b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n".repeat(10))
        .await
        .unwrap();
    // No set-up behind a good handshake.
    let mut silent = pool.connection().await;
    // A frame that does not parse, one that does not belong here, and one that is too long.
    let mut malformed = pool.client().await;
    let mut strange = pool.client().await;
    let mut long = pool.client().await;
    for (client, message_type, size) in [
        (&mut malformed, 0x13, 3),
        (&mut strange, 0x6f, 0),
        (&mut long, 0x13, 100_000),
    ] {
        let mut frames = FrameBuffer::new();
        let nothing = |_: &mut [u8]| Ok::<_, stratum_core::binary_sv2::Error>(());
        frames
            .push_with(0, false, message_type, size, nothing)
            .unwrap();
        client.connection.writer.write(&mut frames).await.unwrap();
    }
    let mut rest = Vec::new();
    // Each is closed by the pool; whether by a reset or an end does not matter.
    for stream in [&mut stalled, &mut plain] {
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .unwrap();
    }
    for connection in [
        &mut silent,
        &mut malformed.connection,
        &mut strange.connection,
        &mut long.connection,
    ] {
        let ended = timeout(PATIENCE, connection.reader.read::<Error>(|_| Ok(()))).await;
        assert!(ended.unwrap().is_err());
    }
    eventually(&pool, |status| {
        status.connections == 1 && status.disconnects.values().sum::<u64>() == 6
    })
    .await;

    honest.mine_one(job, 0).await;
    assert_eq!(pool.status.snapshot().connections, 1);
    pool.stop().await;
}

#[tokio::test]
async fn a_client_with_another_key_in_mind_is_told_so() {
    let pool = Running::start().await;
    let other = pool::Pool::bind(config(&tempfile::tempdir().unwrap()))
        .await
        .unwrap()
        .authority_public_key();
    let stream = TcpStream::connect(pool.address).await.unwrap();
    let error = connect(stream, Some(other), Options::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Certificate), "{error}");
    pool.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap();
    let result = Pool::bind(Config {
        listen_address: address,
        ..config(&data)
    })
    .await;
    let error = result.err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_starts() {
    let data = tempfile::tempdir().unwrap();
    let good = config(&data);
    for (key, bad) in [
        (
            "payout",
            Config {
                payout: "nobody".to_owned(),
                ..good.clone()
            },
        ),
        (
            "pool_tag",
            Config {
                pool_tag: "x".repeat(33),
                ..good.clone()
            },
        ),
        (
            "shares_per_minute",
            Config {
                shares_per_minute: f64::NAN,
                ..good.clone()
            },
        ),
        (
            "minimum_difficulty",
            Config {
                minimum_difficulty: 0.0,
                ..good.clone()
            },
        ),
        (
            "keygen",
            Config {
                authority_secret_key: None,
                ..good.clone()
            },
        ),
    ] {
        let error = bad.validate().unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
    good.validate().unwrap();
}
