//! What clients see of a pool that stops.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use stratum_core::{
    common_messages_sv2::MESSAGE_TYPE_RECONNECT,
    mining_sv2::{MESSAGE_TYPE_SUBMIT_SHARES_SUCCESS, SubmitSharesExtended},
    parsers_sv2::Mining,
};
use sv2_connection::{Connection, Error};
use tokio::{net::TcpStream, time::timeout};

use support::{PATIENCE, Running};

/// Reads until a message of this type.
async fn until_message(connection: &mut Connection, message_type: u8) {
    let mut seen = false;
    let search = async {
        while !seen {
            let read = connection.reader.read::<Error>(|frame| {
                seen |= frame.message_type == message_type;
                Ok(())
            });
            read.await.unwrap();
        }
    };
    timeout(PATIENCE, search).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_stops_asks_its_clients_to_reconnect_and_takes_their_last_shares() {
    // Far more than the test has patience for.
    let pool = Running::start_with(|config| config.drain_seconds = 600).await;
    let mut client = pool.client().await;
    let job = client.open().await;
    let tried = client.mine_one(job, 0).await;

    pool.stop.cancel();
    until_message(&mut client.connection, MESSAGE_TYPE_RECONNECT).await;
    assert!(
        TcpStream::connect(pool.address).await.is_err(),
        "who comes back goes elsewhere"
    );
    // What was on its way still counts; some nonce is good enough.
    let (channel_id, job_id, version, ntime) = job;
    for nonce in tried + 1..tried + 100 {
        let share = SubmitSharesExtended {
            channel_id,
            sequence_number: nonce,
            job_id,
            nonce,
            ntime,
            version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        };
        client.send(Mining::SubmitSharesExtended(share)).await;
    }
    until_message(&mut client.connection, MESSAGE_TYPE_SUBMIT_SHARES_SUCCESS).await;
    drop(client);
    // It does not wait when all have left.
    pool.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_leave_is_cut_off() {
    let pool = Running::start_with(|config| config.drain_seconds = 1).await;
    let mut client = pool.client().await;
    let status = pool.status.clone();
    pool.stop().await;
    until_message(&mut client.connection, MESSAGE_TYPE_RECONNECT).await;
    let end = client.connection.reader.read::<Error>(|_| Ok(()));
    let end = timeout(PATIENCE, end).await.unwrap();
    assert!(matches!(end, Err(Error::Closed)), "{end:?}");
    let status = status.snapshot();
    assert_eq!(status.connections, 0);
    assert!(status.disconnects.is_empty(), "nobody's fault: {status:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_shutdown() {
    let pool = Running::start_with(|config| {
        config.drain_seconds = 1;
        config.messages_per_second = 0;
        // Far more than the test has patience for.
        config.write_timeout_seconds = 600;
    })
    .await;
    let mut deaf = pool.client().await;
    deaf.ask_until_stuck().await;
    let status = pool.status.clone();
    pool.stop().await;
    let status = status.snapshot();
    assert_eq!(status.connections, 0);
    assert!(status.disconnects.is_empty(), "{status:?}");
}
