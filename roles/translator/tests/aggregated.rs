//! Miners that share a channel, and all that a pool may say to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use stratum_core::binary_sv2::Seq064K;
use stratum_core::mining_sv2::{CloseChannel, SetExtranoncePrefix, SetGroupChannel, SetTarget};
use stratum_core::parsers_sv2::Mining;
use support::{Heard, Miner, Pool, PoolHouse, Running};
use work::Difficulty;

const MINERS: usize = 3;

/// H/s that the pool is told of each miner before there are shares.
const NOMINAL: f32 = 0.01;

/// A translator, a pool with one channel, and the miners that share it, with their first job.
async fn sharing() -> (Running, PoolHouse, Pool, u32, Vec<Miner>) {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.aggregate = true;
        config.nominal_hashrate = f64::from(NOMINAL);
    })
    .await;
    // It knows no extensions, and is asked twice.
    for _ in 0..2 {
        let mut asked = house.accept().await;
        assert_eq!(asked.next().await, Some(Heard::Extensions));
    }
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
async fn the_pool_hears_what_its_miners_do_together_and_nobodys_words() {
    let (translator, _house, mut pool, channel, mut miners) = sharing().await;
    let nominal = NOMINAL;
    let mut told = 0.0;
    // The channel was opened with what the first does; the others may be told of together or one by one.
    while told < 2.99 * nominal {
        told = update(&mut pool, channel).await;
    }
    assert!(told < 3.01 * nominal, "{told}");
    for miner in &mut miners {
        for difficulty in [1e9, 1.0, 1e12] {
            let line = format!(
                r#"{{"id":5,"method":"mining.suggest_difficulty","params":[{difficulty}]}}"#
            );
            assert_eq!(miner.ask(&line).await["id"], 5);
        }
    }
    let mut fourth = translator.miner().await;
    fourth.log_in("alice.4").await;
    assert!(fourth.notify().await.coinb1.ends_with("01"));
    let told = update(&mut pool, channel).await;
    assert!((told / nominal - 4.0).abs() < 0.01, "{told}");
}

/// The hashrate that the pool is told next.
async fn update(pool: &mut Pool, channel: u32) -> f32 {
    match pool.next().await {
        Some(Heard::Update {
            channel_id,
            hashrate,
            ..
        }) if channel_id == channel => hashrate,
        other => panic!("{other:?}"),
    }
}
