//! Connections over real sockets: what is sent arrives, and what is wrong ends with its own error.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::time::Duration;

use stratum_core::{
    binary_sv2::Seq064K,
    common_messages_sv2::SetupConnectionSuccess,
    extensions_sv2::{RequestExtensionsError, RequestExtensionsSuccess},
    mining_sv2::{SetTarget, SubmitSharesSuccess},
    parsers_sv2::{CommonMessages, Extensions, ExtensionsNegotiation, Mining},
};
use sv2_connection::{
    Authority, AuthoritySecretKey, Connection, Error, FrameBuffer, Options, accept, connect,
    mining_setup, negotiate, setup,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, sleep},
};

fn authority() -> Authority {
    Authority::new(AuthoritySecretKey::generate()).unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// As [`sockets`], but the system holds next to nothing on the way from the second to the first.
async fn small_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(4096).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    let client = client.connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (client.unwrap(), server.unwrap().0)
}

async fn pair(options: Options) -> (Connection, Connection) {
    let authority = authority();
    let (client, server) = sockets().await;
    let (client, server) = tokio::join!(
        connect(client, Some(authority.public()), options),
        accept(server, &authority, options),
    );
    (client.unwrap(), server.unwrap())
}

async fn read_frames(connection: &mut Connection, count: usize) -> Vec<(u16, bool, u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while frames.len() < count {
        connection
            .reader
            .read::<Error>(|frame| {
                frames.push((
                    frame.extension_type,
                    frame.channel_bit,
                    frame.message_type,
                    frame.payload.to_vec(),
                ));
                Ok(())
            })
            .await
            .unwrap();
    }
    frames
}

fn raw(buffer: &mut FrameBuffer, payload: &[u8]) {
    buffer
        .push_with::<stratum_core::binary_sv2::Error>(0x4000, true, 0x77, payload.len(), |to| {
            to.copy_from_slice(payload);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn messages_arrive_as_they_were_sent_in_both_directions() {
    let (mut client, mut server) = pair(Options::default()).await;
    let mut frames = FrameBuffer::new();
    frames
        .push(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
            channel_id: 7,
            last_sequence_number: 8,
            new_submits_accepted_count: 9,
            new_shares_sum: 10,
        }))
        .unwrap();
    let target = [3; 32];
    frames
        .push(Mining::SetTarget(SetTarget {
            channel_id: 7,
            maximum_target: (&target).into(),
        }))
        .unwrap();
    server.writer.write(&mut frames).await.unwrap();
    assert!(frames.is_empty());
    let mut seen = Vec::new();
    while seen.len() < 2 {
        client
            .reader
            .read::<Error>(|frame| {
                assert!(frame.channel_bit);
                seen.push(frame.mining()?.to_string());
                Ok(())
            })
            .await
            .unwrap();
    }
    assert!(seen[0].contains("last_sequence_number=8"), "{seen:?}");
    assert!(seen[1].contains("SetTarget"), "{seen:?}");
}

#[tokio::test]
async fn what_a_server_says_right_behind_its_answer_is_not_lost() {
    let (mut client, mut server) = pair(Options::default()).await;
    let mut frames = FrameBuffer::new();
    let success = SetupConnectionSuccess {
        used_version: 2,
        flags: 0,
    };
    frames
        .push(CommonMessages::SetupConnectionSuccess(success))
        .unwrap();
    raw(&mut frames, &[1; 10]);
    raw(&mut frames, &[2; 20]);
    server.writer.write(&mut frames).await.unwrap();
    let request = mining_setup(0, "host", 1, "test").unwrap();
    let answer = setup(&mut client, request, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(answer.used_version, 2);
    let behind = read_frames(&mut client, 2).await;
    assert_eq!(behind[0].3, [1; 10]);
    assert_eq!(behind[1].3, [2; 20]);
}

#[tokio::test]
async fn frames_of_every_size_arrive_whole() {
    let options = Options {
        largest_frame: 1 << 20,
        ..Options::default()
    };
    let (mut client, mut server) = pair(options).await;
    let sizes = [
        0,
        1,
        65_518,
        65_519,
        65_520,
        131_038,
        131_039,
        400_000,
        1 << 20,
    ];
    let payloads: Vec<Vec<u8>> = sizes
        .iter()
        .map(|size| {
            (0..*size)
                .map(|at| u8::try_from(at % 251).unwrap())
                .collect()
        })
        .collect();
    let mut frames = FrameBuffer::new();
    for payload in &payloads {
        raw(&mut frames, payload);
    }
    let (_, read) = tokio::join!(
        async { client.writer.write(&mut frames).await.unwrap() },
        read_frames(&mut server, sizes.len()),
    );
    for (payload, frame) in payloads.iter().zip(read) {
        assert_eq!((frame.0, frame.1, frame.2), (0x4000, true, 0x77));
        assert!(frame.3 == *payload, "a payload of {} bytes", payload.len());
    }
}

#[tokio::test]
async fn a_frame_larger_than_allowed_is_refused_by_its_header() {
    let options = Options {
        largest_frame: 100,
        ..Options::default()
    };
    let (mut client, mut server) = pair(options).await;
    let mut frames = FrameBuffer::new();
    raw(&mut frames, &[0; 101]);
    client.writer.write(&mut frames).await.unwrap();
    let error = server.reader.read::<Error>(|_| Ok(())).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::FrameTooLarge {
                declared: 101,
                limit: 100
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_authority_key_is_named_as_that() {
    let (client, server) = sockets().await;
    let server_key = authority();
    let (client, _server) = tokio::join!(
        connect(client, Some(authority().public()), Options::default()),
        accept(server, &server_key, Options::default()),
    );
    let error = client.unwrap_err();
    assert!(matches!(error, Error::Certificate), "{error}");
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_given_up() {
    let (mut client, server) = sockets().await;
    client.write_all(&[1; 10]).await.unwrap();
    let error = accept(server, &authority(), Options::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::HandshakeTimeout), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_drop_by_drop_is_given_up() {
    let (client, server) = small_sockets().await;
    let (authority, options) = (authority(), Options::default());
    // The handshake takes two messages, which nobody has to understand here.
    let mut client = client;
    client.write_all(&[7; 64]).await.unwrap();
    let mut server = accept(server, &authority, options).await.unwrap();
    let mut answer = [0; 234];
    client.read_exact(&mut answer).await.unwrap();
    let started = Instant::now();
    let mut frames = FrameBuffer::new();
    while frames.len() < 1 << 18 {
        raw(&mut frames, &[0; 1 << 16]);
    }
    // Always something before the time is up, so that it never looks dead.
    let dripping = async {
        let mut drop = [0; 512];
        loop {
            client.read_exact(&mut drop).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    let error = tokio::select! {
        written = server.writer.write(&mut frames) => written.unwrap_err(),
        () = dripping => unreachable!(),
    };
    assert!(matches!(error, Error::WriteTimeout), "{error}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test]
async fn garbage_in_place_of_a_frame_is_refused() {
    let authority = authority();
    let options = Options::default();
    let (client, server) = sockets().await;
    // A relay that alters one byte behind the handshake.
    let (mut near, far) = sockets().await;
    let relay = tokio::spawn(async move {
        let (mut far_read, mut far_write) = far.into_split();
        let (mut server_read, mut server_write) = client.into_split();
        let mut hello = [0; 64];
        far_read.read_exact(&mut hello).await.unwrap();
        server_write.write_all(&hello).await.unwrap();
        let mut answer = [0; 234];
        server_read.read_exact(&mut answer).await.unwrap();
        far_write.write_all(&answer).await.unwrap();
        let mut frame = [0; 22];
        far_read.read_exact(&mut frame).await.unwrap();
        frame[3] ^= 1;
        server_write.write_all(&frame).await.unwrap();
        (far_read, far_write, server_read, server_write)
    });
    near.set_nodelay(true).unwrap();
    near.writable().await.unwrap();
    let (client, server) = tokio::join!(
        connect(
            std::mem::replace(&mut near, sockets().await.0),
            Some(authority.public()),
            options
        ),
        accept(server, &authority, options),
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let mut frames = FrameBuffer::new();
    raw(&mut frames, &[]);
    client.writer.write(&mut frames).await.unwrap();
    let error = server.reader.read::<Error>(|_| Ok(())).await.unwrap_err();
    assert!(matches!(error, Error::Decrypt), "{error}");
    drop(relay.await.unwrap());
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let options = Options {
        write_timeout: Duration::from_millis(50),
        largest_frame: 1 << 24,
        ..Options::default()
    };
    let (mut client, _server) = pair(options).await;
    let mut frames = FrameBuffer::new();
    for _ in 0..2 {
        raw(&mut frames, &vec![0; 8 << 20]);
    }
    let error = client.writer.write(&mut frames).await.unwrap_err();
    assert!(matches!(error, Error::WriteTimeout), "{error}");
}

/// What a client that wants these two makes of an answer.
async fn negotiated(answer: Option<ExtensionsNegotiation<'static>>) -> Result<Vec<u16>, Error> {
    let (mut client, mut server) = pair(Options::default()).await;
    let patience = Duration::from_millis(if answer.is_some() { 10_000 } else { 10 });
    let serving = async {
        let asked = read_frames(&mut server, 1).await;
        assert_eq!((asked[0].0, asked[0].2), (1, 0));
        let mut frames = FrameBuffer::new();
        if let Some(answer) = answer {
            frames
                .push(Extensions::ExtensionsNegotiation(answer))
                .unwrap();
        }
        server.writer.write(&mut frames).await.unwrap();
    };
    tokio::join!(negotiate(&mut client, &[1, 2], patience), serving).0
}

fn list(extensions: &[u16]) -> Seq064K<'static, u16> {
    Seq064K::new(extensions.to_vec()).unwrap()
}

fn refusal(required: &[u16]) -> Option<ExtensionsNegotiation<'static>> {
    Some(ExtensionsNegotiation::RequestExtensionsError(
        RequestExtensionsError {
            request_id: 1,
            unsupported_extensions: list(&[1, 2]),
            required_extensions: list(required),
        },
    ))
}

#[tokio::test]
async fn a_client_has_the_extensions_that_it_wants_and_the_server_speaks() {
    let success = ExtensionsNegotiation::RequestExtensionsSuccess(RequestExtensionsSuccess {
        request_id: 1,
        supported_extensions: list(&[2, 77]),
    });
    assert_eq!(negotiated(Some(success)).await.unwrap(), [2]);
    assert_eq!(negotiated(refusal(&[])).await.unwrap(), []);
    let error = negotiated(refusal(&[9])).await.unwrap_err();
    assert!(matches!(error, Error::ExtensionRequired(9)), "{error}");
    let error = negotiated(None).await.unwrap_err();
    assert!(matches!(error, Error::NegotiationTimeout), "{error}");
}
