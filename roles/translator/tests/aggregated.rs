//! Miners that share a channel, and all that a pool may say to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use stratum_core::binary_sv2::Seq064K;
use stratum_core::mining_sv2::{CloseChannel, SetExtranoncePrefix, SetGroupChannel, SetTarget};
use stratum_core::parsers_sv2::Mining;
use support::{Heard, Miner, Pool, PoolHouse, Running};
use work::Difficulty;

const MINERS: usize = 3;

/// A translator, a pool with one channel, and the miners that share it, with their first job.
async fn sharing() -> (Running, PoolHouse, Pool, u32, Vec<Miner>) {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| config.aggregate = true).await;
    // It knows no extensions.
    let mut asked = house.accept().await;
    assert_eq!(asked.next().await, Some(Heard::Extensions));
    drop(asked);
    let mut pool = house.accept().await;
    let mut miners = Vec::new();
    let mut channel = 0;
    for number in 0..MINERS {
        let mut miner = translator.miner().await;
        miner.log_in(&format!("alice.{number}")).await;
        if number == 0 {
            let (id, user) = pool.open_channel(&[1]).await;
            assert_eq!(user, "alice");
            channel = id;
        }
        assert!(miner.notify().await.coinb1.ends_with("01"));
        miners.push(miner);
    }
    (translator, house, pool, channel, miners)
}

impl Pool {
    async fn says(&mut self, message: Mining<'_>) {
        self.frames.push(message).unwrap();
        self.flush().await;
    }
}

#[tokio::test]
async fn whatever_the_pool_changes_reaches_all_miners_of_the_channel() {
    let (translator, _house, mut pool, channel, mut miners) = sharing().await;
    pool.says(Mining::SetExtranoncePrefix(SetExtranoncePrefix {
        channel_id: channel,
        extranonce_prefix: (&[0xab, 0xcd][..]).try_into().unwrap(),
    }))
    .await;
    pool.work(channel, 2, 9);
    pool.flush().await;
    for miner in &mut miners {
        let notify = miner.notify().await;
        assert!(
            notify.clean && notify.coinb1.ends_with("abcd"),
            "{notify:?}"
        );
    }
    // A job of another group is theirs from the moment that they are in it.
    pool.says(Mining::SetGroupChannel(SetGroupChannel {
        group_channel_id: 77,
        channel_ids: Seq064K::new(vec![channel]).unwrap(),
    }))
    .await;
    let hard = Difficulty::new(1.0).unwrap().target();
    pool.says(Mining::SetTarget(SetTarget {
        channel_id: 77,
        maximum_target: (&hard.to_le_bytes()).into(),
    }))
    .await;
    pool.work(77, 3, 8);
    pool.flush().await;
    for (number, miner) in miners.iter_mut().enumerate() {
        let job = miner.notify().await.job_id;
        // It meets what the miner was asked for, and not what the channel is now.
        let answer = miner.submit(&format!("alice.{number}"), &job, 1).await;
        assert_eq!(answer["result"], true, "{answer}");
    }
    let status = translator
        .until("what is kept", |status| status.shares.kept == MINERS as u64)
        .await;
    assert_eq!(status.shares.forwarded, 0, "{:?}", status.shares);
    pool.says(Mining::CloseChannel(CloseChannel {
        channel_id: channel,
        reason_code: "drain".try_into().unwrap(),
    }))
    .await;
    // They ask for another together.
    for miner in &mut miners {
        assert_eq!(miner.read().await.unwrap()["method"], "client.show_message");
    }
    let (another, user) = pool.open_channel(&[5]).await;
    assert_eq!(user, "alice");
    assert_ne!(another, channel);
    for miner in &mut miners {
        assert!(miner.notify().await.coinb1.ends_with("05"));
    }
    let status = translator.status.snapshot();
    assert_eq!((status.connected, status.connections), (MINERS, 3));
}

#[tokio::test]
async fn however_often_miners_change_their_minds_the_pool_hears_of_it_once_a_second() {
    let (_translator, _house, mut pool, channel, mut miners) = sharing().await;
    let mut hashrate = 1.0;
    let (begun, mut heard) = (Instant::now(), 0);
    while heard < 3 {
        for miner in &mut miners {
            hashrate *= 1.1;
            let line =
                format!(r#"{{"id":5,"method":"mining.suggest_difficulty","params":[{hashrate}]}}"#);
            miner.write(&line).await;
        }
        // What has come so far; the miners go on meanwhile.
        while let Ok(said) = tokio::time::timeout(Duration::from_millis(20), pool.next()).await {
            match said {
                Some(Heard::Update { channel_id, .. }) => {
                    assert_eq!(channel_id, channel);
                    heard += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // The first may come at once.
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
