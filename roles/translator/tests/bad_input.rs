//! What miners and pools should not say, and what it costs: whoever says it, and nobody else (design, "What faults get").
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use stratum_core::mining_sv2::{SetNewPrevHash, SetTarget, SubmitSharesExtended};
use stratum_core::parsers_sv2::Mining;
use support::works::submit;
use support::{Heard, Miner, Pool, PoolHouse, Running, in_time};
use sv2_connection::{FrameBuffer, MalformedMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::interval;
use translator::Upstream;

/// A translator with a pool and an honest miner that has work.
async fn at_work(change: impl FnOnce(&mut translator::Config)) -> (Running, PoolHouse, Honest) {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], change).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("honest").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    let honest = Honest {
        miner,
        job,
        pool,
        channel,
        shares: 0,
    };
    (translator, house, honest)
}

struct Honest {
    miner: Miner,
    job: String,
    pool: Pool,
    channel: u32,
    shares: u32,
}

impl Honest {
    /// A share goes all the way.
    async fn mines(&mut self) {
        self.shares += 1;
        let answer = self.miner.submit("honest", &self.job, self.shares).await;
        assert_eq!(answer["result"], true, "{answer}");
        let share = self.pool.share().await;
        assert_eq!(share.sequence_number, self.shares);
        self.pool.acknowledge(self.channel, self.shares, 1).await;
    }
}

#[tokio::test]
async fn whatever_bytes_a_miner_sends_cost_nobody_else_anything() {
    let (translator, _house, mut honest) = at_work(|config| config.max_malformed_lines = 3).await;
    let garbage: [&[u8]; 7] = [
        b"\xff\xfe\xfd\n",
        b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"\xc3\x28\"]}\n",
        b"\0\0\0\0\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
        b"{\"id\":{\"a\":[]},\"method\":7}\n",
        b"GET / HTTP/1.1\r\nHost: pool\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    ];
    for bytes in garbage {
        let mut bad = translator.miner().await;
        // Whatever it is, it is one line too many at the last.
        bad.write_bytes(&bytes.repeat(8)).await;
        let mut answers = 0;
        while let Some(answer) = bad.read().await {
            assert_eq!(answer["error"][0].as_u64(), Some(20), "{answer}");
            answers += 1;
        }
        assert!(answers <= 8, "{answers}");
        honest.mines().await;
    }
    let status = translator
        .until("all to be gone", |status| {
            status.connected == 1 && status.shares.accepted == u64::from(honest.shares)
        })
        .await;
    let gone = status.disconnected.values().sum::<u64>();
    assert_eq!(gone, garbage.len() as u64, "{status:?}");
}

#[tokio::test]
async fn a_line_without_an_end_is_bounded_and_a_long_one_is_answered() {
    let (translator, _house, mut honest) = at_work(|_| ()).await;
    for end in ["", "\n"] {
        let mut long = translator.miner().await;
        let line = format!(
            r#"{{"id":1,"method":"mining.subscribe","params":["{}"]}}"#,
            "x".repeat(16 * 1024)
        );
        long.write_bytes(format!("{line}{end}").as_bytes()).await;
        assert_eq!(long.read().await.unwrap()["error"][0], 20);
        assert_eq!(long.read().await, None);
        honest.mines().await;
    }
    // What just fits is a line as any other.
    let mut long = translator.miner().await;
    let agent = "x".repeat(15 * 1024);
    let line = format!(r#"{{"id":1,"method":"mining.subscribe","params":["{agent}"]}}"#);
    assert!(long.ask(&line).await["result"].is_array());
    let status = translator.status.snapshot();
    assert_eq!(status.disconnected.get("oversized-line"), Some(&2));
}

#[tokio::test]
async fn a_miner_that_is_cut_off_within_a_line_leaves_no_share_and_no_channel() {
    let (translator, _house, mut honest) = at_work(|_| ()).await;
    for cut in [10, 60, 92] {
        let mut leaving = translator.miner().await;
        leaving.log_in("leaving").await;
        let (channel_id, _) = honest.pool.open_channel(&[2]).await;
        let job = leaving.notify().await.job_id;
        let line = submit("leaving", &job, 1);
        leaving.write_bytes(&line.as_bytes()[..cut]).await;
        drop(leaving);
        assert_eq!(honest.pool.next().await, Some(Heard::Close { channel_id }));
        honest.mines().await;
    }
    let status = translator
        .until("all to be gone", |status| {
            status.connected == 1 && status.shares.accepted == 3
        })
        .await;
    assert_eq!(status.shares.submitted, 3, "{:?}", status.shares);
    assert_eq!(status.disconnected.get("closed"), Some(&3));
}

#[tokio::test]
async fn whoever_does_not_say_who_it_is_in_time_or_falls_silent_is_let_go_and_counted() {
    let (translator, _house, honest) = at_work(|config| {
        config.setup_timeout_seconds = 1;
        config.idle_timeout_seconds = 2;
    })
    .await;
    drop(honest);
    let mut stranger = translator.miner().await;
    stranger
        .ask(r#"{"id":1,"method":"mining.subscribe","params":[]}"#)
        .await;
    // A byte now and then is not a line.
    let mut dripping = TcpStream::connect(translator.address).await.unwrap();
    let drip = tokio::spawn(async move {
        let mut drops = interval(Duration::from_millis(100));
        while dripping.write_all(b"x").await.is_ok() {
            drops.tick().await;
        }
    });
    let mut silent = translator.miner().await;
    silent.log_in("silent").await;
    assert_eq!(stranger.read().await, None);
    in_time("the drip to end", drip).await.unwrap();
    assert_eq!(silent.read().await, None);
    let status = translator
        .until("all to be gone", |status| status.connected == 0)
        .await;
    assert_eq!(status.disconnected.get("setup-timeout"), Some(&2));
    assert_eq!(status.disconnected.get("idle"), Some(&1));
}

/// Lines as fast as they go, with somebody who takes all answers.
async fn flood(address: SocketAddr, line: &'static str) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let lines = format!("{line}\n").repeat(100);
    let writing = async { while writer.write_all(lines.as_bytes()).await.is_ok() {} };
    let reading = async {
        let mut sink = [0; 4096];
        while reader.read(&mut sink).await.is_ok_and(|size| size > 0) {}
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn beside_miners_that_flood_an_honest_ones_answers_keep_coming() {
    let (translator, _house, mut honest) = at_work(|config| {
        config.max_malformed_lines = u32::MAX;
    })
    .await;
    let floods: Vec<_> = [
        r#"{"id":1,"method":"mining.submit","params":["x","1","00000000","00000000","00000000"]}"#,
        r#"{"id":1,"method":"mining.subscribe","params":[]}"#,
        r#"{"id":1,"method":"mining.suggest_difficulty","params":[1]}"#,
        "garbage",
    ]
    .map(|line| tokio::spawn(flood(translator.address, line)))
    .into();
    translator
        .until("the floods", |status| {
            status.connected == 5 && status.traffic.bytes_sent > 1 << 20
        })
        .await;
    for _ in 0..200 {
        honest.mines().await;
    }
    assert!(floods.iter().all(|flood| !flood.is_finished()));
    let status = translator
        .until("the last answer", |status| status.shares.accepted == 200)
        .await;
    assert_eq!(status.shares.rejected.get("upstream-stale"), None);
    floods.iter().for_each(|flood| flood.abort());
}

#[tokio::test]
async fn a_flood_of_connections_from_one_address_leaves_room_for_others() {
    let (translator, _house, mut honest) = at_work(|config| {
        config.limits.connections_per_address = 10;
    })
    .await;
    let from = |address: [u8; 4]| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        socket.connect(translator.address).await
    };
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.extend(from([127, 0, 0, 2]).await);
    }
    translator
        .until("the refusals", |status| {
            status.listener.refused_per_address >= 190
        })
        .await;
    honest.mines().await;
    let mut newcomer = Miner::over(from([127, 0, 0, 3]).await.unwrap());
    newcomer.log_in("newcomer").await;
    assert_eq!(translator.status.snapshot().connected, 12);
}

/// A frame as it is, whatever that may be.
fn raw(message_type: u8, payload: &[u8]) -> FrameBuffer {
    let mut frames = FrameBuffer::new();
    let fill = |place: &mut [u8]| {
        place.copy_from_slice(payload);
        Ok::<_, MalformedMessage>(())
    };
    frames
        .push_with(0, true, message_type, payload.len(), fill)
        .unwrap();
    frames
}

fn message(message: Mining<'_>) -> FrameBuffer {
    let mut frames = FrameBuffer::new();
    frames.push(message).unwrap();
    frames
}

#[tokio::test]
async fn a_pool_that_breaks_the_protocol_loses_that_connection_and_the_miner_notices_nothing() {
    const NEW_EXTENDED_MINING_JOB: u8 = 0x1f;
    const SUBMIT_SHARES_SUCCESS: u8 = 0x1c;
    let impossible = [
        (
            "a job cut short",
            raw(NEW_EXTENDED_MINING_JOB, &[1, 0, 0, 0, 7]),
        ),
        ("no payload at all", raw(SUBMIT_SHARES_SUCCESS, &[])),
        ("an unknown message", raw(0x7d, &[0; 16])),
        (
            "a frame of two megabytes",
            raw(NEW_EXTENDED_MINING_JOB, &vec![0; 2 << 20]),
        ),
        (
            "what only clients say",
            message(Mining::SubmitSharesExtended(SubmitSharesExtended {
                channel_id: 1,
                sequence_number: 1,
                job_id: 1,
                nonce: 0,
                ntime: 0,
                version: 0,
                extranonce: (&[0; 8][..]).try_into().unwrap(),
            })),
        ),
        (
            "a block for a job that it never sent",
            message(Mining::SetNewPrevHash(SetNewPrevHash {
                channel_id: 1,
                job_id: 77,
                prev_hash: (&[5; 32]).into(),
                min_ntime: 1,
                nbits: 0x207f_ffff,
            })),
        ),
        (
            "a target of zero",
            message(Mining::SetTarget(SetTarget {
                channel_id: 1,
                maximum_target: (&[0; 32]).into(),
            })),
        ),
    ];
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    for (round, (what, frames)) in (1..).zip(impossible) {
        let mut pool = house.accept().await;
        let (channel, _) = pool.open_channel(&[round]).await;
        assert_eq!(channel, 1);
        let job = miner.notify().await.job_id;
        assert_eq!(miner.submit("w", &job, 1).await["result"], true, "{what}");
        pool.share().await;
        pool.acknowledge(channel, 1, 1).await;
        translator
            .until("the answer", |status| {
                status.shares.accepted == u64::from(round)
            })
            .await;
        pool.frames = frames;
        // It may hang up before it has taken all of it.
        let _ = pool.connection.writer.write(&mut pool.frames).await;
        assert_eq!(pool.next().await, None, "{what}");
        let status = translator
            .until("the failure", |status| {
                status.upstreams[0].failures.get("protocol") == Some(&u64::from(round))
            })
            .await;
        assert!(status.upstreams[0].last_error.is_some(), "{what}");
    }
    let status = translator.status.snapshot();
    assert_eq!((status.connected, status.connections), (1, 1));
    assert_eq!(status.shares.lost.values().sum::<u64>(), 0);
}

#[tokio::test]
async fn a_pool_that_speaks_no_noise_is_left_for_the_next() {
    let liar = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream {
        address: liar.local_addr().unwrap().to_string(),
        authority_public_key: None,
    };
    let babbling = tokio::spawn(async move {
        loop {
            let (mut stream, _) = liar.accept().await.unwrap();
            let _ = stream.write_all(&[b'x'; 4096]).await;
        }
    });
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![upstream, house.upstream()], |_| ()).await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let mut pool = house.accept().await;
    pool.open_channel(&[1]).await;
    miner.notify().await;
    let status = translator.status.snapshot();
    assert!(status.upstreams[0].failures["noise"] >= 1, "{status:?}");
    babbling.abort();
}
