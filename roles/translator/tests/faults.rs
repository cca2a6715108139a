//! Lines that are cut, slow down and stand still: every share is accounted for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::line::{Line, Pace};
use support::works::{self, Mined, mine, mine_at_once};
use support::{PoolHouse, Running, in_time};
use tokio_util::sync::CancellationToken;
use translator::{Acknowledge, Shares};

fn lost(shares: &Shares) -> u64 {
    shares.lost.values().sum()
}

fn refused_by_pool(shares: &Shares) -> u64 {
    shares.rejected.get("upstream-stale").copied().unwrap_or(0)
}

async fn cut_again_and_again(aggregate: bool, acknowledge: Acknowledge) {
    const MINERS: u64 = 12;
    const CUTS: u64 = 6;
    let house = PoolHouse::new().await;
    let line = Line::to(house.upstream()).await;
    let books = works::open(house, 7);
    let translator = Running::start(vec![line.upstream()], |config| {
        config.aggregate = aggregate;
        config.acknowledge = acknowledge;
        config.max_in_flight_shares = 8;
        config.upstream_queue = 4;
        config.nominal_hashrate = 1.0;
    })
    .await;
    let translator = Arc::new(translator);
    let stop = CancellationToken::new();
    let miners: Vec<_> = (0..MINERS)
        .map(|number| {
            let (translator, stop) = (Arc::clone(&translator), stop.clone());
            let account = ["alice", "bob"][usize::from(number.is_multiple_of(3))];
            tokio::spawn(
                async move { mine(&translator, &format!("{account}.{number}"), stop).await },
            )
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(5);
    for round in 1..=CUTS {
        let before = translator.status.snapshot().shares.accepted;
        translator
            .until("shares to be acknowledged", |status| {
                status.shares.accepted >= before + 2 * MINERS
            })
            .await;
        // Also in the handshake and the set-up, and in the middle of frames.
        line.cut_after(rng.random_range(1..3000)).await;
        let handshake = if round.is_multiple_of(2) { 1000 } else { 1 };
        line.cut_after(rng.random_range(1..=handshake)).await;
    }
    let before = translator.status.snapshot().shares.accepted;
    translator
        .until("shares to be acknowledged", |status| {
            status.shares.accepted >= before + 2 * MINERS
        })
        .await;
    stop.cancel();
    let mut mined = Mined::default();
    for miner in miners {
        let its = in_time("a miner", miner).await.unwrap();
        mined.submitted += its.submitted;
        mined.accepted += its.accepted;
        mined.refused += its.refused;
    }
    let status = translator
        .until("all to have left", |status| status.connected == 0)
        .await;
    let (shares, books) = (status.shares, books.lock().unwrap().clone());
    // Every miner stayed on one connection, and had an answer to each share.
    assert_eq!(status.connections, MINERS);
    assert_eq!(mined.submitted, mined.accepted + mined.refused);
    assert_eq!((shares.submitted, shares.in_flight), (mined.submitted, 0));
    assert_eq!(shares.told_accepted, mined.accepted);
    // What was on its way when the line was cut is lost here, whatever the pool made of it.
    assert!(books.received <= shares.forwarded, "{books:?} {shares:?}");
    assert!(shares.accepted <= books.accepted, "{books:?} {shares:?}");
    assert!(
        refused_by_pool(&shares) <= books.refused,
        "{books:?} {shares:?}"
    );
    assert_eq!(
        shares.forwarded,
        shares.accepted + refused_by_pool(&shares) + lost(&shares)
    );
    assert!(books.connections > CUTS, "{books:?}");
}

#[tokio::test]
async fn a_line_that_is_cut_anywhere_costs_no_miner_an_answer_and_no_share_its_account() {
    cut_again_and_again(false, Acknowledge::Local).await;
}

#[tokio::test]
async fn the_same_where_miners_hear_what_the_pool_says() {
    cut_again_and_again(false, Acknowledge::Upstream).await;
}

#[tokio::test]
async fn the_same_where_miners_share_channels() {
    cut_again_and_again(true, Acknowledge::Local).await;
}

#[tokio::test]
async fn the_same_where_miners_share_channels_and_hear_what_the_pool_says() {
    cut_again_and_again(true, Acknowledge::Upstream).await;
}

/// A line that takes nothing, and then hardly anything.
async fn a_thousand_miners_on_a_bad_line(aggregate: bool) {
    const MINERS: u64 = 1000;
    const SHARES: u64 = 20;
    const IN_FLIGHT: usize = 8;
    // Each miner is a descriptor on both sides; the usual limit for all of them is 1,024.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let house = PoolHouse::new().await;
    let line = Line::to(house.upstream()).await;
    let books = works::open(house, u32::MAX);
    let translator = Running::start(vec![line.upstream()], |config| {
        config.aggregate = aggregate;
        config.acknowledge = Acknowledge::Upstream;
        config.max_in_flight_shares = IN_FLIGHT;
        config.upstream_queue = 16;
        config.nominal_hashrate = 1.0;
    })
    .await;
    let stalled = CancellationToken::new();
    let mut miners = Vec::new();
    for number in 0..MINERS {
        let (miner, stalled) = (translator.miner().await, stalled.clone());
        miners.push(tokio::spawn(async move {
            mine_at_once(
                miner,
                &format!("alice.{number}"),
                SHARES,
                stalled.cancelled(),
            )
            .await
        }));
    }
    translator
        .until("all to have work", |status| {
            status.traffic.notifications >= MINERS
        })
        .await;
    line.pace(Pace::Stalled);
    stalled.cancel();
    translator
        .until("shares to pile up", |status| {
            status.shares.in_flight >= MINERS
        })
        .await;
    line.pace(Pace::Slow(512));
    let most = MINERS * IN_FLIGHT as u64;
    let slowly = translator
        .until("some to be answered", |status| {
            assert!(status.shares.in_flight <= most, "{:?}", status.shares);
            status.shares.accepted >= MINERS
        })
        .await;
    assert!(
        slowly.shares.submitted < MINERS * SHARES,
        "{:?}",
        slowly.shares
    );
    line.pace(Pace::Slow(2048));
    let mut staying = Vec::new();
    for miner in miners {
        let (miner, accepted) = in_time("a miner", miner).await.unwrap();
        assert_eq!(accepted, SHARES);
        staying.push(miner);
    }
    let status = translator
        .until("all counts", |status| {
            status.shares.accepted == MINERS * SHARES
        })
        .await;
    assert!(status.shares.rejected.is_empty() && status.shares.lost.is_empty());
    assert!(
        status
            .miners
            .iter()
            .all(|miner| miner.shares.accepted == SHARES)
    );
    let books = books.lock().unwrap().clone();
    assert_eq!((books.received, books.refused), (MINERS * SHARES, 0));
}

#[tokio::test]
async fn a_thousand_miners_on_a_line_that_crawls_lose_no_share() {
    a_thousand_miners_on_a_bad_line(false).await;
}

#[tokio::test]
async fn a_thousand_miners_of_one_channel_on_a_line_that_crawls_lose_no_share() {
    a_thousand_miners_on_a_bad_line(true).await;
}
