//! A translator between real sockets: a scripted pool above, miners below.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Heard, PoolHouse, Running, in_time};
use translator::{Acknowledge, Upstream};

#[tokio::test]
async fn a_share_goes_from_the_miner_to_the_pool_and_its_answer_is_counted() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("account.worker").await;
    let (channel, user) = pool.open_channel(&[0xaa, 0xbb]).await;
    assert_eq!(user, "account.worker");

    let notify = miner.notify().await;
    assert!(
        notify.clean && notify.coinb1.ends_with("aabb"),
        "{notify:?}"
    );
    assert!(miner.difficulty.is_some());
    assert_eq!(
        miner.submit("account.worker", &notify.job_id, 7).await["result"],
        true
    );

    let share = pool.share().await;
    assert_eq!(
        (share.channel_id, share.sequence_number, share.job_id),
        (channel, 1, 1)
    );
    assert_eq!(share.extranonce.len(), 8);
    assert_eq!(share.extranonce[4..], [0x0a, 0x0b, 0x0c, 0x0d]);
    let before = translator
        .until("the share to be in flight", |status| {
            status.shares.in_flight == 1
        })
        .await;
    assert_eq!(
        (before.shares.accepted, before.shares.told_accepted),
        (0, 1)
    );
    pool.acknowledge(channel, 1, 1).await;
    let after = translator
        .until("the answer", |status| status.shares.accepted == 1)
        .await;
    assert_eq!((after.shares.submitted, after.shares.in_flight), (1, 0));
    assert_eq!(after.miners[0].worker.as_deref(), Some("account.worker"));
}

#[tokio::test]
async fn miners_stay_connected_when_the_only_upstream_drops_again_and_again() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut miner = translator.miner().await;
    // Nobody is up there yet: the miner is answered all the same.
    miner.log_in("w").await;
    for round in 1..=3u8 {
        let mut pool = house.accept().await;
        let (channel, _) = pool.open_channel(&[round; 4]).await;
        let notify = miner.notify().await;
        assert!(
            notify.clean && notify.coinb1.ends_with(&hex::encode([round; 4])),
            "{notify:?}"
        );
        assert_eq!(miner.submit("w", &notify.job_id, 1).await["result"], true);
        assert_eq!(miner.submit("w", &notify.job_id, 2).await["result"], true);
        assert_eq!(
            (
                pool.share().await.sequence_number,
                pool.share().await.sequence_number
            ),
            (1, 2)
        );
        pool.acknowledge(channel, 1, 1).await;
        translator
            .until("one answer", |status| {
                status.shares.accepted == u64::from(round)
            })
            .await;
        drop(pool);
        translator
            .until("the loss", |status| {
                status.shares.lost.get("upstream-disconnected") == Some(&u64::from(round))
            })
            .await;
        // Work of the dead connection is refused with a reason, and goes nowhere.
        let answer = miner.submit("w", &notify.job_id, 3).await;
        assert_eq!(answer["error"][0], 21, "{answer}");
    }
    let status = translator
        .until("the last refusal", |status| status.shares.submitted == 9)
        .await;
    assert_eq!(
        (
            status.connected,
            status.shares.accepted,
            status.shares.in_flight
        ),
        (1, 3, 0)
    );
    assert_eq!(status.shares.rejected.get("upstream-gone"), Some(&3));
    assert!(!translator.task.is_finished());
}

#[tokio::test]
async fn unknown_methods_get_an_error_reply_and_the_miner_stays_connected() {
    let translator = Running::start(vec![nobody()], |_| ()).await;
    let mut miner = translator.miner().await;
    let answer = miner
        .ask(r#"{"id":"a","method":"mining.ping","params":[]}"#)
        .await;
    assert_eq!(
        (&answer["id"], &answer["error"]),
        (&"a".into(), &serde_json::Value::Null)
    );
    let target = format!("00000000ffff{}", "0".repeat(52));
    let answer = miner
        .ask(&format!(
            r#"{{"id":2,"method":"mining.suggest_target","params":["{target}"]}}"#
        ))
        .await;
    assert_eq!(answer["result"], true);
    let answer = miner
        .ask(r#"{"id":3,"method":"mining.no_such_thing","params":{}}"#)
        .await;
    assert_eq!(
        (&answer["id"], &answer["error"][0]),
        (&3.into(), &20.into())
    );
    miner.log_in("w").await;
}

#[tokio::test]
async fn garbage_from_one_miner_costs_only_that_miner() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.max_malformed_lines = 2
    })
    .await;
    let mut pool = house.accept().await;
    let mut honest = translator.miner().await;
    honest.log_in("honest").await;
    pool.open_channel(&[1]).await;
    let notify = honest.notify().await;

    let mut bad = translator.miner().await;
    bad.log_in("bad").await;
    let (bad_channel, _) = pool.open_channel(&[2]).await;
    bad.notify().await;
    assert_eq!(
        bad.ask(r#"{"id":7,"method":"mining.submit","params":[}"#)
            .await["id"],
        7
    );
    bad.write("\u{1}\u{2}").await;
    bad.write("[]").await;
    assert_eq!(bad.read().await, None);

    let mut long = translator.miner().await;
    long.write(&"x".repeat(20_000)).await;
    assert_eq!(long.read().await.unwrap()["error"][0], 20);
    assert_eq!(long.read().await, None);

    let status = translator
        .until("both to be gone", |status| status.connected == 1)
        .await;
    assert_eq!(status.disconnected.get("malformed-lines"), Some(&1));
    assert_eq!(status.disconnected.get("oversized-line"), Some(&1));
    assert_eq!(
        pool.next().await,
        Some(Heard::Close {
            channel_id: bad_channel
        })
    );
    assert_eq!(
        honest.submit("honest", &notify.job_id, 1).await["result"],
        true
    );
    assert_eq!(pool.share().await.sequence_number, 1);
}

#[tokio::test]
async fn a_pool_with_another_key_is_not_trusted_and_the_next_one_is_used() {
    let (liar, house) = (PoolHouse::new().await, PoolHouse::new().await);
    let false_one = Upstream {
        authority_public_key: Some(house.key()),
        ..liar.upstream()
    };
    let translator = Running::start(vec![false_one, house.upstream()], |_| ()).await;
    let lied_to = tokio::spawn(async move {
        // The handshake's end is the client's to judge: it must hang up without a word.
        let mut pool = liar.accept_without_setup().await;
        pool.next().await
    });
    let mut pool = house.accept().await;
    assert_eq!(lied_to.await.unwrap(), None);
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    pool.open_channel(&[1]).await;
    miner.notify().await;
    let status = translator.status.snapshot();
    assert_eq!(status.upstreams[0].failures["certificate"], 1, "{status:?}");
}

#[tokio::test]
async fn when_the_pool_does_not_take_more_the_miner_is_not_read_and_no_share_is_lost() {
    const SHARES: u32 = 3000;
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.max_in_flight_shares = 16;
        config.upstream_queue = 4;
        config.acknowledge = Acknowledge::Upstream;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    let lines: String = (0..SHARES)
        .map(|nonce| {
            format!("{{\"id\":{nonce},\"method\":\"mining.submit\",\"params\":[\"w\",\"{job}\",\"00000000\",\"6553f101\",\"{nonce:08x}\"]}}\n")
        })
        .collect();
    let mining = tokio::spawn(async move {
        miner.write(lines.trim_end()).await;
        for nonce in 0..SHARES {
            let answer = miner.read().await.unwrap();
            assert_eq!(
                (&answer["id"], &answer["result"]),
                (&nonce.into(), &true.into())
            );
        }
        miner
    });
    translator
        .until("the bound", |status| status.shares.in_flight == 16)
        .await;
    let mut taken = 0;
    while taken < SHARES {
        let share = pool.share().await;
        taken += 1;
        assert_eq!(share.sequence_number, taken);
        assert!(translator.status.snapshot().shares.in_flight <= 16);
        // Answers come in batches, as a pool's do.
        if taken % 8 == 0 {
            pool.acknowledge(channel, taken, 8).await;
        }
    }
    let _miner = in_time("all answers", mining).await.unwrap();
    let status = translator
        .until("all counts", |status| {
            status.shares.accepted == u64::from(SHARES)
        })
        .await;
    assert_eq!(
        (status.shares.lost.len(), status.shares.rejected.len()),
        (0, 0)
    );
}

#[tokio::test]
async fn the_last_shares_of_a_miner_that_left_are_still_counted() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    miner.submit("w", &job, 1).await;
    drop(miner);
    pool.share().await;
    pool.acknowledge(channel, 1, 1).await;
    assert_eq!(
        pool.next().await,
        Some(Heard::Close {
            channel_id: channel
        })
    );
    let status = translator
        .until("the miner to be gone", |status| status.connected == 0)
        .await;
    assert_eq!((status.shares.accepted, status.shares.lost.len()), (1, 0));
}

#[tokio::test]
async fn with_a_pool_that_acknowledges_in_tens_only_what_a_miner_leaves_behind_stays_unknown() {
    let house = PoolHouse::new().await;
    let translator =
        Running::start(vec![house.upstream()], |config| config.linger_seconds = 1).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    for nonce in 1..=14 {
        assert_eq!(miner.submit("w", &job, nonce).await["result"], true);
        assert_eq!(pool.share().await.sequence_number, nonce);
        if nonce % 10 == 0 {
            pool.acknowledge(channel, nonce, 10).await;
        }
    }
    drop(miner);
    let closed = Heard::Close {
        channel_id: channel,
    };
    assert_eq!(pool.next().await, Some(closed));
    let status = translator
        .until("the miner to be gone", |status| status.connected == 0)
        .await;
    assert_eq!(status.shares.accepted, 10);
    assert_eq!(status.shares.lost.get("outcome-unknown"), Some(&4));
}

#[tokio::test]
async fn a_pool_that_hangs_up_at_once_does_not_hide_the_next_one() {
    let (bad, house) = (PoolHouse::new().await, PoolHouse::new().await);
    let upstreams = vec![bad.upstream(), house.upstream()];
    let translator = Running::start(upstreams, |_| ()).await;
    let refusing = tokio::spawn(async move {
        loop {
            drop(bad.accept().await);
        }
    });
    let mut pool = house.accept().await;
    refusing.abort();
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    pool.open_channel(&[1]).await;
    miner.notify().await;
}

#[tokio::test]
async fn a_channel_that_opens_for_a_miner_that_left_is_closed() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let waiting = pool.next().await;
    drop(miner);
    translator
        .until("the miner to be gone", |status| status.connected == 0)
        .await;
    pool.unhear(waiting.unwrap());
    let (channel_id, _) = pool.open_channel(&[1]).await;
    assert_eq!(pool.next().await, Some(Heard::Close { channel_id }));
}

#[tokio::test]
async fn shutdown_ends_everything_and_counts_what_is_unanswered() {
    let house = PoolHouse::new().await;
    let mut translator = Running::start(vec![house.upstream()], |config| {
        config.linger_seconds = 0;
        config.reconnect_on_shutdown = false;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    miner.submit("w", &job, 1).await;
    pool.share().await;
    translator.shutdown.cancel();
    in_time("the end", &mut translator.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(miner.read().await, None);
    let status = translator.status.snapshot();
    assert_eq!(status.shares.lost.get("outcome-unknown"), Some(&1));
    assert!(status.shares.add_up());
}

#[tokio::test]
async fn at_shutdown_miners_get_their_last_answers_and_are_asked_to_come_again() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.acknowledge = Acknowledge::Upstream;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    let mut idle = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    let submit = format!(
        r#"{{"id":9,"method":"mining.submit","params":["w","{job}","0a0b0c0d","6553f101","00000001"]}}"#
    );
    miner.write(&submit).await;
    pool.share().await;
    translator.shutdown.cancel();
    let again = |line: Option<serde_json::Value>| {
        let line = line.expect("the translator hung up");
        assert_eq!(line["method"], "client.reconnect", "{line}");
        assert_eq!(line["params"], serde_json::json!([]), "the same address");
    };
    again(idle.read().await);
    assert!(idle.is_let_go().await);
    // This comes too late to be taken, and must not cost the miner what it is told.
    miner.write(&submit).await;
    pool.acknowledge(channel, 1, 1).await;
    assert_eq!(miner.read().await.unwrap()["result"], true);
    again(miner.read().await);
    assert!(miner.is_let_go().await);
    drop((miner, idle));
    let status = translator
        .until("the end", |status| status.connected == 0)
        .await;
    assert_eq!((status.shares.accepted, status.shares.lost.len()), (1, 0));
    assert_eq!(status.disconnected.get("shutdown"), Some(&2));
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let translator = Running::start(vec![nobody()], |_| ()).await;
    let config = translator::Config {
        listen_address: translator.address,
        http_address: service::http::Address::Off,
        ..translator::Config::default()
    };
    let error = translator::Translator::bind(config).await.unwrap_err();
    assert!(
        error.to_string().contains(&translator.address.to_string()),
        "{error}"
    );
}

/// An address where nobody listens.
fn nobody() -> Upstream {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Upstream {
        address: taken.local_addr().unwrap().to_string(),
        authority_public_key: None,
    }
}

#[tokio::test]
async fn a_miner_that_does_not_read_is_cut_off_and_nobody_else_notices() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.write_timeout_seconds = 1;
        config.lines_per_second = 0;
    })
    .await;
    let mut pool = house.accept().await;
    let mut honest = translator.miner().await;
    honest.log_in("honest").await;
    pool.open_channel(&[1]).await;
    let job = honest.notify().await.job_id;

    let deaf = translator.miner().await;
    let flood = tokio::spawn(deaf.flood(r#"{"id":1,"method":"client.get_version","params":[]}"#));
    let status = translator
        .until("the cut", |status| {
            status.disconnected.contains_key("write-timeout")
        })
        .await;
    assert_eq!(status.connected, 1);
    in_time("the flood to end", flood).await.unwrap();
    assert_eq!(honest.submit("honest", &job, 1).await["result"], true);
}

#[tokio::test]
async fn a_miner_that_asks_very_often_is_answered_each_time_and_its_end_is_noticed() {
    const QUESTIONS: u64 = 500;
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.lines_per_second = 0;
    })
    .await;
    let mut miner = translator.miner().await;
    // Most machines are quick enough here for the miner to be read at intervals for a while, again and again.
    for id in 0..QUESTIONS {
        let (begin, end) = (r#"{"method":"mining.ping","#, format!(r#""id":{id}}}"#));
        if id % 50 == 0 {
            miner.write_bytes(begin.as_bytes()).await;
            miner.write_bytes(format!("{end}\n").as_bytes()).await;
        } else {
            miner.write(&format!("{begin}{end}")).await;
        }
        let answer = in_time("an answer", miner.read()).await.unwrap();
        assert_eq!(
            (&answer["id"], &answer["result"]),
            (&id.into(), &"pong".into())
        );
    }
    drop(miner);
    translator
        .until("the end", |status| {
            status.disconnected.contains_key("closed")
        })
        .await;
}
