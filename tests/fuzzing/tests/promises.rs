//! A moment of what the fuzz targets do for longer.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use stats_events::{
    Counters, Event, FromSender, Hello, Numbered, Peer, PeerEnd, PeerState, ServiceState, Work,
    WorkerState, encode,
};

/// Lines of scripts that lead somewhere.
const LINES: [&str; 16] = [
    r#"> {"id":1,"method":"mining.submit","params":["a.b","$JOB","$EXTRANONCE2","$NTIME","$NONCE"]}"#,
    r#"> {"id":"x","method":"mining.submit","params":["a.b","$JOB","$EXTRANONCE2","$NTIME","$NONCE","$BITS"]}"#,
    r#"{"id":1,"method":"mining.submit","params":["a.b",null,1]}"#,
    r#"{"id":2,"method":"mining.subscribe","params":["NiceHash/1.0"]}"#,
    r#"{"id":3,"method":"mining.authorize","params":["a.b","d=1000;x"]}"#,
    r#"{"id":4,"method":"mining.configure","params":[["version-rolling","minimum-difficulty"],{"version-rolling.mask":"ffffffff"}]}"#,
    r#"{"id":5,"method":"mining.suggest_difficulty","params":[0.5]}"#,
    "!U",
    "!D",
    "!M",
    "!O20",
    "!W0",
    "!W7",
    "!C",
    "!R",
    "!N",
];

fn script() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => prop::sample::select(&LINES[..]).prop_map(|line| line.as_bytes().to_vec()),
        3 => "![AJOTWUMDajdwc][0-9]{1,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    let opening = "!S[0-9]{1,2}";
    (opening, prop::collection::vec(line, 0..80))
        .prop_map(|(opening, lines)| [vec![opening.into_bytes()], lines].concat().join(&b'\n'))
}

/// What a sender may say, and something that it may not.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let counters = |accepted: u64| Counters {
        accepted,
        work: Work(u128::from(accepted) << 64),
        ..Counters::default()
    };
    let event = (
        any::<u8>(),
        0..3u64,
        0..3u32,
        "[a-c]",
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(
            move |(kind, peer, channel, name, count, ended)| match kind % 5 {
                0 => Event::Service(ServiceState {
                    counters: counters(count),
                    ..ServiceState::default()
                }),
                1 => Event::PeerConnected(Peer {
                    peer,
                    address: name,
                    ..Peer::default()
                }),
                2 => Event::Peer(PeerState {
                    peer,
                    difficulty: Some(f64::from_bits(count)),
                    counters: counters(count),
                    ..PeerState::default()
                }),
                3 => Event::PeerDisconnected(PeerEnd {
                    peer,
                    counters: counters(count),
                    ..PeerEnd::default()
                }),
                _ => Event::Worker(WorkerState {
                    peer,
                    channel,
                    account: name,
                    since_ms: count % 3,
                    ended,
                    counters: counters(count),
                    ..WorkerState::default()
                }),
            },
        );
    let hello = ("[ab]", "[12]").prop_map(|(name, instance_id)| {
        FromSender::Hello(Hello {
            version: 1,
            role: "pool".into(),
            name,
            instance_id,
            started_at_ms: 1,
            software: String::new(),
            network: None,
            heartbeat_ms: 1,
            token: None,
        })
    });
    let message = prop_oneof![
        1 => hello.clone(),
        8 => (0..100u64, any::<u64>(), event).prop_map(|(sequence, at_ms, event)| {
            FromSender::Event(Numbered { sequence, at_ms, event })
        }),
        1 => any::<u64>().prop_map(|at_ms| FromSender::Heartbeat { at_ms }),
    ];
    let spoilt = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let messages = (hello, prop::collection::vec(message, 0..40));
    (any::<u8>(), messages, spoilt).prop_map(|(size, (hello, messages), spoilt)| {
        let mut bytes = vec![size];
        for message in [vec![hello], messages].concat() {
            encode(&message, &mut bytes).unwrap();
        }
        if let Some((place, byte)) = spoilt {
            *place.get_mut(&mut bytes) = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn whatever_a_sender_says_sums_only_grow_and_survive_a_restart(bytes in conversation()) {
        fuzzing::frames(&bytes);
    }

    #[test]
    fn any_bytes_are_the_same_frames_however_they_come(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::frames(&data);
    }

    #[test]
    fn any_session_counts_every_share_once_and_speaks_json(script in script()) {
        fuzzing::session(&script);
    }

    #[test]
    fn any_bytes_are_the_same_lines_however_they_come(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::lines(&data);
    }

    #[test]
    fn any_text_that_is_nearly_json_is_taken_or_refused(text in r#"[\x01-\x40]([\[\]{}",:0-9.eE\\u+\n -]|"id"|"method"|"params"|null|true|"mining.submit"){0,80}"#) {
        fuzzing::lines(text.as_bytes());
    }
}

#[test]
fn recorded_conversations_and_what_the_fuzzer_found_keep_the_promises() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let play = |folder: &str, target: fn(&[u8])| {
        let mut played = 0;
        for file in fs::read_dir(root.join(folder)).unwrap() {
            target(&fs::read(file.unwrap().path()).unwrap());
            played += 1;
        }
        assert!(played > 0, "{folder} is empty");
    };
    play("roles/translator/tests/conversations", fuzzing::session);
    play("fuzz/seeds/session", fuzzing::session);
    play("fuzz/seeds/lines", fuzzing::lines);
    play("fuzz/seeds/frames", fuzzing::frames);
}
