//! What one side writes, the other reads, however the bytes are cut and whichever of them is older.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;
use stats_events::{
    Block, BlockState, Counters, Endpoint, Error, Event, FrameReader, FromSender, FromService,
    Hello, Invalid, MAX_FRAME, Numbered, Peer, PeerEnd, PeerState, RefusalCode, ServiceState,
    Template, UpstreamState, Work, WorkerState, decode, encode,
};

fn counters() -> impl Strategy<Value = Counters> {
    let counts = || proptest::collection::btree_map("[a-z-]{1,20}", any::<u64>(), 0..4);
    let all = (
        any::<u64>(),
        any::<u64>(),
        counts(),
        counts(),
        any::<u128>(),
        any::<Option<u64>>(),
    );
    all.prop_map(
        |(submitted, accepted, rejected, lost, work, last_share_ms)| Counters {
            submitted,
            accepted,
            rejected,
            lost,
            work: Work(work),
            last_share_ms,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let text = "\\PC{0,20}";
    let difficulty = || proptest::option::of(1e-9..1e18f64);
    prop_oneof![
        (
            any::<bool>(),
            proptest::collection::vec(text, 0..3),
            counters()
        )
            .prop_map(|(ready, problems, counters)| {
                Event::Service(ServiceState {
                    dropped_events: counters.submitted,
                    ready,
                    problems,
                    endpoints: vec![Endpoint {
                        protocol: "sv1".into(),
                        address: "[::]:1".into(),
                        authority_public_key: None,
                    }],
                    counters,
                })
            }),
        (any::<u64>(), text, any::<Option<u16>>()).prop_map(|(peer, address, extension)| {
            Event::PeerConnected(Peer {
                peer,
                address,
                protocol: "sv2-mining".into(),
                vendor: Some("v".into()),
                extensions: extension.into_iter().collect(),
                ..Peer::default()
            })
        }),
        (any::<u64>(), any::<u32>(), difficulty(), counters()).prop_map(
            |(peer, channels, difficulty, counters)| {
                Event::Peer(PeerState {
                    peer,
                    channels,
                    difficulty,
                    counters,
                })
            }
        ),
        (any::<u64>(), any::<u64>(), text, counters()).prop_map(
            |(peer, disconnected_at_ms, reason, counters)| {
                Event::PeerDisconnected(PeerEnd {
                    peer,
                    disconnected_at_ms,
                    reason,
                    counters,
                })
            }
        ),
        (
            any::<u64>(),
            any::<u32>(),
            text,
            text,
            any::<bool>(),
            difficulty(),
            counters()
        )
            .prop_map(
                |(peer, channel, account, worker, ended, difficulty, counters)| Event::Worker(
                    WorkerState {
                        peer,
                        channel,
                        account,
                        worker,
                        since_ms: 1,
                        ended,
                        difficulty,
                        counters,
                    }
                )
            ),
        (text, text).prop_map(|(address, error)| Event::Upstream(UpstreamState {
            address,
            health: "healthy".into(),
            last_error: Some(error),
            ..UpstreamState::default()
        })),
        (any::<u64>(), any::<Option<u32>>()).prop_map(|(height, transactions)| Event::Template(
            Template {
                height,
                transactions,
                ..Template::default()
            }
        )),
        (text, any::<u64>()).prop_map(|(hash, height)| Event::Block(Block {
            hash,
            height,
            state: BlockState::Orphaned,
            ..Block::default()
        })),
    ]
}

fn from_sender() -> impl Strategy<Value = FromSender> {
    prop_oneof![
        (any::<u16>(), "[a-z]{1,9}", any::<Option<String>>()).prop_map(|(version, name, token)| {
            FromSender::Hello(Hello {
                version,
                role: "pool".into(),
                name,
                instance_id: "00".repeat(16),
                started_at_ms: 1,
                software: String::new(),
                network: None,
                heartbeat_ms: 1,
                token,
            })
        }),
        any::<u64>().prop_map(|at_ms| FromSender::Heartbeat { at_ms }),
        (any::<u64>(), any::<u64>(), event()).prop_map(|(sequence, at_ms, event)| {
            FromSender::Event(Numbered {
                sequence,
                at_ms,
                event,
            })
        }),
    ]
}

fn read_all(reader: &mut FrameReader) -> Vec<FromSender> {
    let mut messages = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        messages.push(decode(frame).unwrap());
    }
    messages
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent_however_they_are_cut(
        messages in proptest::collection::vec(from_sender(), 1..8), cuts in proptest::collection::vec(1usize..200, 1..40),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            encode(message, &mut bytes).unwrap();
        }
        let mut reader = FrameReader::default();
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            reader.push(now);
            seen.extend(read_all(&mut reader));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, messages);
        prop_assert_eq!(reader.held(), 0);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>, cut in 0usize..64) {
        let mut reader = FrameReader::default();
        for part in bytes.chunks(cut.max(1)) {
            reader.push(part);
            while let Ok(Some(frame)) = reader.next_frame() {
                drop(decode::<FromSender>(frame));
                drop(decode::<FromService>(frame));
            }
        }
    }

    #[test]
    fn what_an_honest_sender_says_is_valid(event in event()) {
        prop_assert_eq!(event.check(), Ok(()));
    }
}

/// A message of a later version: everything in it that this one does not know is skipped.
#[derive(Serialize)]
struct Later<T: Serialize> {
    r#type: &'static str,
    sequence: u64,
    at_ms: u64,
    shoe_size: [u8; 3],
    event: T,
}

#[derive(Serialize)]
struct LaterHeartbeat {
    kind: &'static str,
    peer: u64,
    mood: BTreeMap<&'static str, Option<i8>>,
}

fn later(kind: &'static str) -> FromSender {
    let mut bytes = Vec::new();
    let event = LaterHeartbeat {
        kind,
        peer: 7,
        mood: BTreeMap::from([("good", Some(1)), ("bad", None)]),
    };
    let message = Later {
        r#type: "event",
        sequence: 1,
        at_ms: 2,
        shoe_size: [1, 2, 3],
        event,
    };
    encode(&message, &mut bytes).unwrap();
    decode(&bytes[4..]).unwrap()
}

#[test]
fn fields_and_kinds_that_are_too_new_are_skipped() {
    let FromSender::Event(numbered) = later("peer") else {
        panic!("not an event")
    };
    let expected = PeerState {
        peer: 7,
        ..PeerState::default()
    };
    assert_eq!(numbered.event, Event::Peer(expected));
    let FromSender::Event(numbered) = later("weather") else {
        panic!("not an event")
    };
    assert_eq!((numbered.sequence, numbered.event), (1, Event::Unknown));
    #[derive(Serialize)]
    struct Other {
        r#type: &'static str,
        code: &'static str,
        reason: &'static str,
    }
    for (kind, code, expected) in [
        ("whisper", "x", FromService::Unknown),
        (
            "refused",
            "bad-weather",
            FromService::Refused {
                code: RefusalCode::Other,
                reason: "r".into(),
            },
        ),
    ] {
        let mut bytes = Vec::new();
        let other = Other {
            r#type: kind,
            code,
            reason: "r",
        };
        encode(&other, &mut bytes).unwrap();
        assert_eq!(decode::<FromService>(&bytes[4..]).unwrap(), expected);
    }
}

#[test]
fn a_length_that_cannot_be_is_refused_before_the_frame_has_come() {
    let mut reader = FrameReader::default();
    reader.push(&u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes());
    assert!(matches!(reader.next_frame(), Err(Error::TooLong(_))));
    let mut reader = FrameReader::default();
    reader.push(&[0; 4]);
    assert!(matches!(reader.next_frame(), Err(Error::Empty)));
    let mut reader = FrameReader::default();
    reader.push(&[0, 0, 0]);
    assert!(reader.next_frame().unwrap().is_none());
}

#[test]
fn what_is_no_message_is_an_error() {
    for bytes in [
        &b"\xc1"[..],
        b"hello",
        b"\x80",
        b"\x93\x01\x02\x03",
        b"\xdf\xff\xff\xff\xff",
    ] {
        assert!(
            matches!(decode::<FromSender>(bytes), Err(Error::Malformed(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn what_is_nested_too_deep_is_refused_and_exhausts_no_stack() {
    for depth in [33, 1000, 100_000] {
        // An array in an array, and a map in a map.
        for open in [&b"\x91"[..], b"\x81\xa0"] {
            let mut frame = b"\x82\xa4type\xa5hello\xa1x".to_vec();
            (0..depth).for_each(|_| frame.extend_from_slice(open));
            frame.push(0xc0);
            assert!(matches!(
                decode::<FromSender>(&frame),
                Err(Error::Malformed(_))
            ));
            assert!(matches!(
                decode::<FromService>(&frame),
                Err(Error::Malformed(_))
            ));
        }
    }
    // A later version may say more than this one.
    let mut frame = b"\x82\xa4type\xa9heartbeat\xa5at_ms\x01".to_vec();
    frame[0] = 0x83;
    frame.extend_from_slice(b"\xa1x");
    (0..20).for_each(|_| frame.push(0x91));
    frame.push(0xc0);
    assert_eq!(
        decode::<FromSender>(&frame).unwrap(),
        FromSender::Heartbeat { at_ms: 1 }
    );
}

#[test]
fn a_message_that_does_not_fit_leaves_nothing_behind() {
    let mut bytes = vec![1, 2];
    let huge = FromService::Refused {
        code: RefusalCode::Other,
        reason: "x".repeat(MAX_FRAME),
    };
    assert!(matches!(encode(&huge, &mut bytes), Err(Error::TooLong(_))));
    assert_eq!(bytes, [1, 2]);
}

#[test]
fn what_no_honest_sender_says_is_found_out() {
    let long = "x".repeat(513);
    let worker = |worker: &str, difficulty| {
        Event::Worker(WorkerState {
            worker: worker.into(),
            difficulty,
            ..WorkerState::default()
        })
    };
    assert_eq!(
        worker(&long, None).check(),
        Err(Invalid::TooLong("a worker"))
    );
    for difficulty in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let invalid = worker("w", Some(difficulty)).check();
        assert_eq!(invalid, Err(Invalid::NotANumber("difficulty")));
    }
    let counters = Counters {
        rejected: (0..65).map(|number| (number.to_string(), 1)).collect(),
        ..Counters::default()
    };
    let peer = Event::Peer(PeerState {
        counters,
        ..PeerState::default()
    });
    assert_eq!(peer.check(), Err(Invalid::TooMany("rejected")));
}

#[test]
fn a_token_is_never_shown() {
    let hello = Hello {
        version: 1,
        role: "pool".into(),
        name: "a".into(),
        instance_id: String::new(),
        started_at_ms: 0,
        software: String::new(),
        network: None,
        heartbeat_ms: 1,
        token: Some("open sesame".into()),
    };
    assert!(!format!("{hello:?}").contains("sesame"));
}
