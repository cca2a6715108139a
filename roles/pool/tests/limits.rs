//! What clients may ask for, and what becomes of those who ask for more.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stratum_core::{
    mining_sv2::UpdateChannel,
    parsers_sv2::{Mining, MiningOwned},
};
use support::{Client, PATIENCE, Running, bad_share, eventually};
use sv2_connection::{Connection, Error, FrameBuffer};
use tokio::{
    io::AsyncWriteExt,
    time::{interval, timeout},
};

fn disconnects(status: &pool::Status, reason: &str) -> u64 {
    status.disconnects.get(reason).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_client_of_no_use_is_cut_off_and_one_that_works_stays() {
    let pool = Running::start_with(|config| {
        config.first_channel_timeout_seconds = 1;
        config.idle_timeout_seconds = 1;
        // Where shares are rare, silence is allowed for longer.
        config.shares_per_minute = 6000.0;
    })
    .await;
    let mut without_channel = pool.client().await;
    let mut silent = pool.client().await;
    silent.open().await;
    let mut honest = pool.client().await;
    let (channel_id, ..) = honest.open().await;
    let working = async {
        let mut pace = interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            honest
                .send(Mining::UpdateChannel(UpdateChannel {
                    channel_id,
                    nominal_hash_rate: 1.0,
                    maximum_target: (&[0xff; 32]).into(),
                }))
                .await;
        }
    };
    let cutting = async {
        without_channel.until_hung_up().await;
        silent.until_hung_up().await;
        eventually(&pool, |status| {
            disconnects(status, "no-channel") == 1 && disconnects(status, "idle") == 1
        })
        .await;
    };
    tokio::select! {
        () = cutting => {}
        () = working => {}
    }
    assert_eq!(pool.status.snapshot().connections, 1);
    let metrics = pool.metrics().await;
    for reason in ["no-channel", "idle"] {
        let line = format!("hashpool_pool_disconnects_total{{reason=\"{reason}\"}} 1");
        assert!(metrics.lines().any(|have| have == line), "{metrics}");
    }
    pool.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_is_slowed_down_and_loses_nothing() {
    const RATE: u32 = 100;
    const MESSAGES: u32 = 250;
    let pool = Running::start_with(|config| config.messages_per_second = RATE).await;
    let mut eager = pool.client().await;
    let started = Instant::now();
    // In several writes, so that it takes several reads: a bucket may be overdrawn by one.
    for start in (0..MESSAGES).step_by(50) {
        eager.send_bad_shares(start..start + 50).await;
    }
    let mut answers = Vec::new();
    eager
        .until(|message| match message {
            MiningOwned::SubmitSharesError(m) => {
                answers.push(m.sequence_number);
                (m.sequence_number == MESSAGES - 1).then_some(())
            }
            _ => None,
        })
        .await;
    let all: Vec<u32> = (0..MESSAGES).collect();
    assert_eq!(answers, all);
    // A read may overdraw the bucket; the next message shows that it was paid back.
    eager.send_bad_shares(MESSAGES..MESSAGES + 1).await;
    eager
        .until(|message| matches!(message, MiningOwned::SubmitSharesError(_)).then_some(()))
        .await;
    let least = f64::from(MESSAGES - RATE) / f64::from(RATE);
    let took = started.elapsed().as_secs_f64();
    assert!(took >= least, "{took} s");
    assert!(pool.status.snapshot().throttled >= 1);
    let metrics = pool.metrics().await;
    let throttled = r#"hashpool_pool_throttled_total{reason="messages"} "#;
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with(throttled) && !line.ends_with(" 0")),
        "{metrics}"
    );
    pool.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_counted() {
    let pool = Running::start_with(|config| config.write_timeout_seconds = 1).await;
    let mut honest = pool.client().await;
    let mut deaf = pool.client().await;
    deaf.ask_until_stuck().await;
    eventually(&pool, |status| {
        disconnects(status, "slow-reader") == 1 && status.connections == 1
    })
    .await;
    let job = honest.open().await;
    honest.mine_one(job, 0).await;
    pool.stop().await;
}

/// A client that sends without a pause, in a thread of its own, and takes all answers.
fn flood(client: Client) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let Connection {
            mut reader,
            mut writer,
        } = client.connection;
        runtime.block_on(async {
            let writing = async {
                let mut frames = FrameBuffer::new();
                loop {
                    for number in 0..2000 {
                        frames.push(bad_share(number)).unwrap();
                    }
                    if writer.write(&mut frames).await.is_err() {
                        break;
                    }
                }
            };
            let reading = async { while reader.read::<Error>(|_| Ok(())).await.is_ok() {} };
            tokio::join!(writing, reading);
        });
    })
}

#[tokio::test]
async fn an_honest_miner_is_served_in_turn_beside_a_flood_of_messages() {
    // The whole pool is on this one thread, so whoever keeps the thread keeps everybody waiting.
    const FLOODS: u64 = 2;
    // `LONG_TURN` of the pool's connections.
    const TURN: u64 = 256;
    let pool = Running::start_with(|config| config.messages_per_second = 0).await;
    let mut honest = pool.client().await;
    let (channel_id, ..) = honest.open().await;
    let mut floods = Vec::new();
    for _ in 0..FLOODS {
        floods.push(flood(pool.client().await));
    }
    let rejected = |pool: &Running| pool.status.snapshot().shares_rejected["invalid-channel-id"];
    eventually(&pool, |status| {
        status.shares_rejected["invalid-channel-id"] > 2 * TURN
    })
    .await;
    for request in 0..3 {
        let before = rejected(&pool);
        honest
            .send(Mining::UpdateChannel(UpdateChannel {
                channel_id: channel_id + 1_000 + request,
                nominal_hash_rate: 1.0,
                maximum_target: (&[0xff; 32]).into(),
            }))
            .await;
        honest
            .until(|message| matches!(message, MiningOwned::UpdateChannelError(_)).then_some(()))
            .await;
        let between = rejected(&pool) - before;
        // A read of 64 KiB holds less than a thousand shares. Between question and answer lie the few rounds that a socket
        // needs to be seen, in each of which every flood has one turn.
        assert!(
            between <= FLOODS * 1000 * 10,
            "{between} messages came first"
        );
    }
    pool.stop().await;
    for flood in floods {
        flood.join().unwrap();
    }
}

#[tokio::test]
async fn an_honest_miner_beside_a_flood_of_connections_stays_and_others_come_in_when_it_ebbs() {
    let pool = Running::start_with(|config| {
        config.limits.connections = 3;
        config.setup_timeout_seconds = 1;
    })
    .await;
    let mut honest = pool.client().await;
    let job = honest.open().await;
    // They take all places, and more wait in the kernel. Some shake no hands, some only begin to.
    let mut strangers = Vec::new();
    for number in 0..10 {
        let mut stranger = pool.call().await;
        if number % 2 == 0 {
            stranger.write_all(&[7; 30]).await.unwrap();
        }
        strangers.push(stranger);
    }
    honest.mine_one(job, 0).await;
    assert!(pool.status.snapshot().connections <= 3);
    let mut late = timeout(PATIENCE, pool.client()).await.unwrap();
    late.open().await;
    let status = pool.status.snapshot();
    assert!(status.listener.waited_for_slot > 0);
    eventually(&pool, |status| disconnects(status, "handshake") == 10).await;
    let metrics = pool.metrics().await;
    let paused = r#"hashpool_pool_accept_pauses_total{reason="connections"} "#;
    assert!(
        metrics.lines().any(|line| line.starts_with(paused)),
        "{metrics}"
    );
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_handshakes_is_let_in_one_by_one() {
    const CLIENTS: usize = 40;
    let change = |config: &mut pool::Config| {
        config.handshakes_at_a_time = 1;
        config.setup_timeout_seconds = 30;
    };
    let pool = Arc::new(Running::start_with(change).await);
    let mut clients = Vec::new();
    let flooding = async {
        // Two have to come at the same moment, which many will do sooner or later.
        while pool.status.snapshot().handshakes_waited == 0 {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..CLIENTS {
                let pool = Arc::clone(&pool);
                calls.spawn(async move { pool.client().await });
            }
            clients.extend(calls.join_all().await);
        }
    };
    timeout(PATIENCE, flooding).await.unwrap();
    let status = pool.status.snapshot();
    assert_eq!(status.connections, clients.len() as u64);
    assert!(status.disconnects.is_empty(), "{:?}", status.disconnects);
    drop(clients);
    Arc::into_inner(pool).unwrap().stop().await;
}
