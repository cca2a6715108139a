//! Which pool the miners work for: scripted pools above, real sockets between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Heard, Miner, Pool, PoolHouse, Running, in_time};
use tokio::net::TcpListener;
use translator::{Snapshot, Upstream, UpstreamHealth};

/// Takes the miner's work from this pool, and says on which channel.
async fn work_from(pool: &mut Pool, miner: &mut Miner, prefix: u8) -> (u32, String) {
    let (channel, _) = pool.open_channel(&[prefix; 4]).await;
    let notify = miner.notify().await;
    let ending = hex::encode([prefix; 4]);
    assert!(
        notify.clean && notify.coinb1.ends_with(&ending),
        "{notify:?}"
    );
    (channel, notify.job_id)
}

fn follows(status: &Snapshot, index: usize) -> bool {
    let pool = &status.upstreams[index];
    pool.followed && pool.connected > 0
}

#[tokio::test]
async fn all_connections_follow_one_pool_and_move_together() {
    let (first, second) = (PoolHouse::new().await, PoolHouse::new().await);
    let upstreams = vec![first.upstream(), second.upstream()];
    let translator = Running::start(upstreams, |config| config.upstream_connections = 3).await;
    let mut pools = Vec::new();
    for _ in 0..3 {
        pools.push(first.accept().await);
    }
    let before = translator
        .until("three connections", |status| {
            status.upstreams[0].connected == 3
        })
        .await;
    assert_eq!(before.upstreams[1].health, UpstreamHealth::NeverTried);
    // One lost connection is no reason to leave a pool on which others live.
    drop(pools.pop());
    pools.push(first.accept().await);
    drop((first, pools));
    let mut pools = Vec::new();
    for _ in 0..3 {
        pools.push(second.accept().await);
    }
    let after = translator
        .until("all to have moved", |status| {
            status.upstreams[1].connected == 3
        })
        .await;
    assert!(follows(&after, 1), "{after:?}");
    assert_eq!((after.upstreams[0].connected, after.upstream_moves), (0, 1));
    assert_eq!(after.upstreams[0].health, UpstreamHealth::Failing);
    assert!(after.upstreams[0].failures["closed"] >= 1, "{after:?}");
}

/// The pool goes on taking calls, and answers none of them.
#[tokio::test]
async fn dials_that_hang_keep_nobody_from_a_pool_that_works() {
    const SLOTS: usize = 8;
    let (first, second) = (PoolHouse::new().await, PoolHouse::new().await);
    let upstreams = vec![first.upstream(), second.upstream()];
    let translator = Running::start(upstreams, |config| {
        config.upstream_connections = SLOTS;
        // Longer than this test waits for anything.
        config.connect_timeout_seconds = 300;
    })
    .await;
    let mut pools = Vec::new();
    for _ in 0..SLOTS {
        pools.push(first.accept().await);
    }
    // One after the other, so that some dial is always under way.
    for left in (0..SLOTS).rev() {
        drop(pools.pop());
        translator
            .until("a loss", |status| status.upstreams[0].connected == left)
            .await;
    }
    for _ in 0..SLOTS {
        pools.push(second.accept().await);
    }
    let status = translator
        .until("all to have moved", |status| {
            status.upstreams[1].connected == SLOTS
        })
        .await;
    assert!(follows(&status, 1), "{status:?}");
}

#[tokio::test]
async fn miners_whose_connection_is_lost_use_another_at_once() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.upstream_connections = 2;
        config.connect_timeout_seconds = 300;
    })
    .await;
    let mut pools = [house.accept().await, house.accept().await];
    translator
        .until("both", |status| status.upstreams[0].connected == 2)
        .await;
    let mut miners = [translator.miner().await, translator.miner().await];
    for (prefix, miner) in (1..).zip(&mut miners) {
        miner.log_in(&format!("w{prefix}")).await;
    }
    let (_, user) = pools[0].open_channel(&[1; 4]).await;
    pools[1].open_channel(&[2; 4]).await;
    let [mut left, lost] = pools;
    drop(lost);
    // The house takes the call and answers nothing.
    let (_, moved) = left.open_channel(&[3; 4]).await;
    assert_ne!(user, moved);
}

#[tokio::test]
async fn a_slot_that_gets_no_connection_of_its_own_uses_that_of_another() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.upstream_connections = 2;
    })
    .await;
    let mut pool = house.accept().await;
    // This pool has no place for a second connection.
    let refusing = tokio::spawn(async move {
        loop {
            drop(house.accept_without_setup().await);
        }
    });
    let mut miners = [translator.miner().await, translator.miner().await];
    for (index, miner) in miners.iter_mut().enumerate() {
        miner.log_in("w").await;
        let prefix = u8::try_from(index).unwrap();
        work_from(&mut pool, miner, prefix).await;
    }
    refusing.abort();
}

#[tokio::test]
async fn miners_go_back_to_an_earlier_pool_that_stays_good() {
    let (first, second) = (PoolHouse::new().await, PoolHouse::new().await);
    let upstreams = vec![first.upstream(), second.upstream()];
    let translator = Running::start(upstreams, |config| config.failback_after_seconds = 1).await;
    drop(first.accept().await);
    let mut pool = second.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("account.worker").await;
    let (channel, job) = work_from(&mut pool, &mut miner, 2).await;

    // A pool that takes connections and gives no work is not good, however long that lasts.
    let mut probe = first.accept().await;
    let (_, user) = probe.open_channel_without_work(&[1]).await;
    assert_eq!(user, "account.worker");
    drop(probe);
    // Nor is one that refuses them.
    let mut probe = first.accept().await;
    assert_eq!(
        probe.refuse_channel().await.as_deref(),
        Some("account.worker")
    );
    assert_eq!(probe.next().await, None);
    let mut probe = first.accept().await;
    probe.open_channel(&[1]).await;
    // While one is looked at, work goes on with the other.
    let answer = miner.submit("account.worker", &job, 1).await;
    assert_eq!(answer["result"], true);
    pool.share().await;
    pool.acknowledge(channel, 1, 1).await;
    let mut back = first.accept().await;
    work_from(&mut back, &mut miner, 1).await;
    assert_eq!(probe.next().await, None);
    let status = translator
        .until("the return", |status| status.upstreams[1].connected == 0)
        .await;
    assert!(follows(&status, 0), "{status:?}");
    assert_eq!((status.upstream_moves, status.connections), (2, 1));
    assert_eq!((status.shares.accepted, status.shares.lost.len()), (1, 0));
    assert_eq!(status.upstreams[1].failures.len(), 0, "{status:?}");
}

#[tokio::test]
async fn a_reconnect_leads_to_the_address_that_it_names() {
    let house = PoolHouse::new().await;
    let annex = house.annex().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut old = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    work_from(&mut old, &mut miner, 1).await;
    old.reconnect("127.0.0.1", annex.port()).await;
    let mut new = annex.accept().await;
    work_from(&mut new, &mut miner, 2).await;
    // With empty fields it is the same address again.
    new.reconnect("", 0).await;
    let mut newest = annex.accept().await;
    work_from(&mut newest, &mut miner, 3).await;
    // The old connections end when nobody uses them any more.
    while old.next().await.is_some() {}
    let status = translator
        .until("one connection", |status| {
            status.upstreams[0].connected == 1
        })
        .await;
    assert_eq!((status.upstream_moves, status.connections), (0, 1));
    assert!(
        status.upstreams[0].failures.is_empty(),
        "a planned move is no failure: {status:?}"
    );
}

#[tokio::test]
async fn a_pool_that_hangs_up_after_its_reconnect_has_not_failed() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    for prefix in 1..=3 {
        let mut pool = house.accept().await;
        work_from(&mut pool, &mut miner, prefix).await;
        pool.reconnect("", 0).await;
    }
    let mut pool = house.accept().await;
    work_from(&mut pool, &mut miner, 9).await;
    let status = translator
        .until("one connection", |status| {
            status.upstreams[0].connected == 1
        })
        .await;
    assert!(status.upstreams[0].failures.is_empty(), "{status:?}");
}

#[tokio::test]
async fn a_reconnect_to_somebody_else_is_not_followed_and_the_old_connection_works_on() {
    let (house, thief) = (PoolHouse::new().await, PoolHouse::new().await);
    let translator = Running::start(vec![house.upstream()], |config| {
        config.reconnect_first_ms = 500;
    })
    .await;
    let mut old = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, job) = work_from(&mut old, &mut miner, 1).await;
    old.reconnect("127.0.0.1", thief.port()).await;
    // The translator must hang up without a word.
    assert_eq!(thief.accept_without_setup().await.next().await, None);
    translator
        .until("the failure", |status| {
            status.upstreams[0].failures.contains_key("certificate")
        })
        .await;
    assert_eq!(miner.submit("w", &job, 1).await["result"], true);
    old.share().await;
    old.acknowledge(channel, 1, 1).await;
    translator
        .until("the answer", |status| status.shares.accepted == 1)
        .await;
    // What is configured is tried again, and only then the old connection is left.
    let mut new = house.accept().await;
    work_from(&mut new, &mut miner, 2).await;
}

#[tokio::test]
async fn a_pool_that_sends_everybody_away_again_and_again_is_left() {
    let (first, second) = (PoolHouse::new().await, PoolHouse::new().await);
    let upstreams = vec![first.upstream(), second.upstream()];
    // Nobody asks whether it has become better: that would count, too.
    let translator = Running::start(upstreams, |config| config.failback_after_seconds = 0).await;
    let sending = tokio::spawn(async move {
        let mut pools = Vec::new();
        loop {
            let mut pool = first.accept().await;
            pool.reconnect("", 0).await;
            pools.push(pool);
        }
    });
    let _pool = second.accept().await;
    sending.abort();
    let status = translator.until("the second", |status| follows(status, 1));
    let status = status.await;
    assert_eq!(status.upstreams[0].failures["reconnect-loop"], 1);
}

#[tokio::test]
async fn a_long_outage_is_told_and_then_closes_the_port_until_a_pool_is_back() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.outage_message_seconds = 1;
        config.outage_close_seconds = 2;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    work_from(&mut pool, &mut miner, 1).await;
    // Until it is let in again, the pool hangs up on whoever calls.
    drop(pool);
    let refusing = async {
        loop {
            drop(house.accept_without_setup().await);
        }
    };
    let seeing = async {
        let told = miner.read().await.unwrap();
        assert_eq!(told["method"], "client.show_message", "{told}");
        assert_eq!(miner.read().await, None, "disconnected");
        let closed = |status: &Snapshot| !status.listening && status.connected == 0;
        translator.until("the port to be closed", closed).await
    };
    let status = tokio::select! {
        status = seeing => status,
        () = refusing => unreachable!(),
    };
    assert_eq!(status.disconnected.get("outage"), Some(&1));
    tokio::net::TcpStream::connect(translator.address)
        .await
        .unwrap_err();
    let mut pool = house.accept().await;
    translator
        .until("the port to be open", |status| status.listening)
        .await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    work_from(&mut pool, &mut miner, 2).await;
    translator.shutdown.cancel();
    while miner.read().await.is_some() {}
    let status = translator
        .until("the end", |status| status.connected == 0)
        .await;
    assert_eq!(status.disconnected.get("shutdown"), Some(&1));
}

#[tokio::test]
async fn a_pool_that_hangs_up_twice_on_extensions_is_not_asked_again() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| config.aggregate = true).await;
    // Once may have another reason.
    for _ in 0..2 {
        let mut asked = house.accept().await;
        assert_eq!(asked.next().await, Some(Heard::Extensions));
    }
    for prefix in [1, 2] {
        let mut pool = house.accept().await;
        let mut miner = translator.miner().await;
        miner.log_in("w").await;
        let (channel, _) = pool.open_channel(&[prefix; 4]).await;
        let job = miner.notify().await.job_id;
        miner.submit("w", &job, 1).await;
        assert_eq!(pool.share().await.channel_id, channel);
    }
}

#[tokio::test]
async fn a_pool_that_goes_away_when_it_is_asked_for_extensions_is_asked_again() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| config.aggregate = true).await;
    let mut asked = house.accept().await;
    assert_eq!(asked.next().await, Some(Heard::Extensions));
    let reopen = house.close();
    drop(asked);
    translator
        .until("the failure", |status| {
            status.upstreams[0].failures.contains_key("socket")
        })
        .await;
    let mut asked = reopen().await.accept().await;
    assert_eq!(asked.next().await, Some(Heard::Extensions));
}

#[tokio::test]
async fn a_pool_that_ignores_extensions_is_worked_for_all_the_same() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.aggregate = true;
        config.connect_timeout_seconds = 1;
    })
    .await;
    let mut pool = house.accept().await;
    assert_eq!(pool.next().await, Some(Heard::Extensions));
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    work_from(&mut pool, &mut miner, 1).await;
    drop(pool);
    let mut pool = house.accept().await;
    work_from(&mut pool, &mut miner, 2).await;
}

/// A translator with a pool that the test spoils, one that is good, and a miner.
async fn two_pools(bad: &PoolHouse, good: &PoolHouse) -> Running {
    Running::start(vec![bad.upstream(), good.upstream()], |config| {
        config.connect_timeout_seconds = 1;
        config.failback_after_seconds = 0;
        config.channel_patience_seconds = 1;
        config.work_patience_seconds = 1;
        config.answer_patience_seconds = 1;
    })
    .await
}

async fn is_left_for(translator: &Running, good: &PoolHouse, miner: &mut Miner, reason: &str) {
    let mut pool = good.accept().await;
    work_from(&mut pool, miner, 2).await;
    let status = translator
        .until("the failure", |status| follows(status, 1))
        .await;
    assert_eq!(
        status.upstreams[0].failures.get(reason),
        Some(&1),
        "{status:?}"
    );
    assert_eq!(status.upstreams[0].health, UpstreamHealth::Failing);
}

#[tokio::test]
async fn a_pool_that_answers_no_request_for_a_channel_is_left() {
    let (bad, good) = (PoolHouse::new().await, PoolHouse::new().await);
    let translator = two_pools(&bad, &good).await;
    let mut pool = bad.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    assert!(matches!(pool.next().await, Some(Heard::Open { .. })));
    is_left_for(&translator, &good, &mut miner, "no-channel").await;
}

#[tokio::test]
async fn a_pool_that_refuses_every_channel_is_left() {
    let (bad, good) = (PoolHouse::new().await, PoolHouse::new().await);
    let translator = Running::start(vec![bad.upstream(), good.upstream()], |config| {
        config.channel_patience_seconds = 1;
        config.upstream_connections = 2;
        // Long enough to see that nobody is sent back.
        config.failback_after_seconds = 1;
    })
    .await;
    let mut miners = Vec::new();
    for _ in 0..6 {
        let mut miner = translator.miner().await;
        miner.log_in("w").await;
        miners.push(miner);
    }
    let refusing = tokio::spawn(async move {
        while let Some(mut pool) = bad.accept_patiently().await {
            tokio::spawn(async move { while pool.refuse_channel().await.is_some() {} });
        }
    });
    let serving = async {
        let mut pools = [good.accept().await, good.accept().await];
        for pool in &mut pools {
            for _ in 0..3 {
                pool.open_channel(&[1; 4]).await;
            }
        }
        pools
    };
    let _pools = in_time("channels", serving).await;
    let status = translator
        .until("a look back", |status| {
            status.upstreams[0].failures.get("channels-refused") >= Some(&2)
        })
        .await;
    assert!(follows(&status, 1), "{status:?}");
    assert_eq!(status.upstream_moves, 1, "{status:?}");
    refusing.abort();
}

#[tokio::test]
async fn a_pool_that_opens_channels_and_sends_no_work_is_left() {
    let (bad, good) = (PoolHouse::new().await, PoolHouse::new().await);
    let translator = two_pools(&bad, &good).await;
    let mut pool = bad.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    pool.open_channel_without_work(&[1]).await;
    is_left_for(&translator, &good, &mut miner, "no-work").await;
}

#[tokio::test]
async fn a_pool_that_answers_no_share_is_left_and_the_shares_are_counted() {
    const SHARES: u32 = 20;
    let (bad, good) = (PoolHouse::new().await, PoolHouse::new().await);
    let translator = two_pools(&bad, &good).await;
    let mut pool = bad.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (_, job) = work_from(&mut pool, &mut miner, 1).await;
    for nonce in 0..SHARES {
        assert_eq!(miner.submit("w", &job, nonce).await["result"], true);
    }
    is_left_for(&translator, &good, &mut miner, "no-answers").await;
    let status = translator
        .until("the count", |status| status.shares.in_flight == 0)
        .await;
    assert_eq!(status.shares.lost.values().sum::<u64>(), u64::from(SHARES));
}

#[tokio::test]
async fn a_pool_that_stalls_in_the_handshake_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stalled = Upstream {
        address: listener.local_addr().unwrap().to_string(),
        authority_public_key: None,
    };
    let good = PoolHouse::new().await;
    let translator = Running::start(vec![stalled, good.upstream()], |config| {
        config.connect_timeout_seconds = 1;
        config.failback_after_seconds = 0;
    })
    .await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let _silent = in_time("the translator", listener.accept()).await.unwrap();
    is_left_for(&translator, &good, &mut miner, "handshake-timeout").await;
}
