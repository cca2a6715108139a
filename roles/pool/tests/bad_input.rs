//! What hostile clients can do to a pool through its socket: nothing that another client notices.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use std::time::Duration;

use stratum_core::{
    mining_sv2::{CloseChannel, UpdateChannel},
    parsers_sv2::{Mining, MiningOwned},
};
use support::{Client, PATIENCE, Running, eventually};
use sv2_connection::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Whether the pool still answers this client, or has hung up.
async fn is_answered(client: &mut Client) -> bool {
    let mut answered = false;
    client.send_raw(0, true, 0x1a, &[0xff; 24]).await;
    let reading = async {
        while !answered {
            let read = client.connection.reader.read::<Error>(|frame| {
                answered |= matches!(frame.mining()?, Mining::SubmitSharesError(_));
                Ok(())
            });
            if read.await.is_err() {
                break;
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    answered
}

#[tokio::test]
async fn every_message_type_with_a_senseless_payload_costs_at_most_its_own_connection() {
    let pool = Running::start().await;
    let mut honest = pool.client().await;
    let job = honest.open().await;
    let mut ended = 0;
    let mut client = None;
    for message_type in 0..=u8::MAX {
        let hostile = match client.take() {
            Some(client) => client,
            None => pool.client().await,
        };
        let hostile = client.insert(hostile);
        hostile
            .send_raw(0, message_type % 2 == 0, message_type, &[message_type; 7])
            .await;
        if !is_answered(hostile).await {
            client = None;
            ended += 1;
        }
    }
    assert!(ended > 200, "{ended}");
    drop(client);
    eventually(&pool, |status| {
        status.connections == 1 && status.disconnects.values().sum::<u64>() == ended
    })
    .await;
    let status = pool.status.snapshot();
    let known = ["malformed-message", "unexpected-message"];
    assert!(
        status.disconnects.keys().all(|why| known.contains(why)),
        "{status:?}"
    );
    honest.mine_one(job, 0).await;
    pool.stop().await;
}

#[tokio::test]
async fn messages_of_unknown_extensions_are_ignored() {
    let pool = Running::start().await;
    let mut client = pool.client().await;
    for extension in [2, 3, 0x0100, 0x4000, 0x7fff] {
        for channel_bit in [false, true] {
            for message_type in [0x00, 0x1b, 0xff] {
                client
                    .send_raw(extension, channel_bit, message_type, &[0xee; 50])
                    .await;
            }
        }
    }
    assert!(is_answered(&mut client).await);
    pool.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_before_it_has_come() {
    let pool = Running::start().await;
    let mut client = pool.client().await;
    // Its sealed header comes first and alone decides: of sixteen megabytes no more than a read is taken.
    let payload = vec![0; (1 << 24) - 1];
    timeout(PATIENCE, client.send_raw(0, false, 0x1b, &payload))
        .await
        .unwrap();
    client.until_hung_up().await;
    eventually(&pool, |status| {
        status.disconnects.get("bad-frame") == Some(&1)
    })
    .await;
    pool.stop().await;
}

#[tokio::test]
async fn nobody_reaches_the_channels_of_another_connection() {
    let pool = Running::start().await;
    let mut honest = pool.client().await;
    let job = honest.open().await;
    let mut thief = pool.client().await;
    let (channel_id, ..) = job;
    // Every id that there can be around the honest one, which is a group's or a channel's.
    for channel_id in 0..channel_id + 10 {
        thief
            .send(Mining::CloseChannel(CloseChannel {
                channel_id,
                reason_code: "".try_into().unwrap(),
            }))
            .await;
        thief
            .send(Mining::UpdateChannel(UpdateChannel {
                channel_id,
                nominal_hash_rate: 1e18,
                maximum_target: (&[0xff; 32]).into(),
            }))
            .await;
        let code = thief
            .until(|message| match message {
                MiningOwned::UpdateChannelError(m) => Some(m.error_code.as_utf8_or_hex()),
                _ => None,
            })
            .await;
        assert_eq!(code, "invalid-channel-id");
    }
    assert_eq!(pool.status.snapshot().channels, 1);
    honest.mine_one(job, 0).await;
    pool.stop().await;
}

#[tokio::test]
async fn bytes_that_were_altered_on_the_way_end_only_that_connection() {
    let pool = Running::start().await;
    let mut honest = pool.client().await;
    let job = honest.open().await;
    // Between a client and the pool somebody adds a byte, once the client has set up.
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(relay.local_addr().unwrap());
    let (near, far) = tokio::join!(near, relay.accept());
    let (mut from_client, mut to_client) = far.unwrap().0.into_split();
    let (mut from_pool, mut to_pool) = pool.call().await.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_pool, &mut to_client).await });
    let (alter, mut altering) = tokio::sync::oneshot::channel();
    let forth = tokio::spawn(async move {
        let mut bytes = [0; 1024];
        loop {
            tokio::select! {
                size = from_client.read(&mut bytes) => match size {
                    Ok(size) if size > 0 => to_pool.write_all(&bytes[..size]).await.unwrap(),
                    _ => break,
                },
                _ = &mut altering => {
                    to_pool.write_all(&[0xaa; 60]).await.unwrap();
                    break;
                }
            }
        }
    });
    let mut client = pool.client_on(near.unwrap()).await.unwrap();
    alter.send(()).unwrap();
    client.until_hung_up().await;
    forth.await.unwrap();
    back.abort();
    eventually(&pool, |status| {
        status.disconnects.get("bad-frame") == Some(&1)
    })
    .await;
    honest.mine_one(job, 0).await;
    pool.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_silent_in_the_middle_of_a_set_up_is_cut_off() {
    let pool = Running::start_with(|config| config.setup_timeout_seconds = 1).await;
    let mut nothing = pool.call().await;
    let mut half_a_key = pool.call().await;
    half_a_key.write_all(&[7; 63]).await.unwrap();
    let mut connection = pool.connection().await;
    for stream in [&mut nothing, &mut half_a_key] {
        support::hung_up(stream).await;
    }
    let read = connection.reader.read::<Error>(|_| Ok(()));
    let ended = timeout(Duration::from_secs(30), read).await.unwrap();
    assert!(ended.is_err());
    eventually(&pool, |status| {
        status.connections == 0
            && status.disconnects.get("handshake") == Some(&2)
            && status.disconnects.get("setup-timeout") == Some(&1)
    })
    .await;
    pool.stop().await;
}
