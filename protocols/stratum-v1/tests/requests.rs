//! Promises about reading what miners send.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use stratum_v1::{
    ErrorCode, Fault, Id, Method, Share, Submit, VersionRolling, parse_request,
    parse_server_message, write_authorize, write_configure, write_error, write_submit,
    write_subscribe, write_suggest_difficulty,
};

fn method(line: &str) -> Method<'_> {
    parse_request(line.as_bytes())
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .method
}

fn submit(line: &str) -> Submit<'_> {
    match method(line) {
        Method::Submit(submit) => submit,
        other => panic!("{line}: {other:?}"),
    }
}

fn fault(line: &[u8]) -> (String, Fault) {
    let error = parse_request(line).unwrap_err();
    (error.id.json().to_owned(), error.fault)
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>) {
        let _ = parse_request(&bytes);
        let _ = parse_server_message(&bytes);
    }

    #[test]
    fn no_line_that_is_almost_a_request_makes_the_parsers_panic(
        line in r#"\{("id":(1|"a"|null|\[\]|-),|"method":"(mining\.(submit|configure|subscribe|notify|set_difficulty|set_extranonce)|\\u00)",|"params":\[(("[0-9a-f]{0,9}"|\[("version-rolling",?)?\]|\{\}|7|null|true),?){0,9}\],?){0,4}\}?"#
    ) {
        let _ = parse_request(line.as_bytes());
        let _ = parse_server_message(line.as_bytes());
    }

    #[test]
    fn a_submit_reads_as_it_was_written(
        id: u64, worker: String, job_id in "[ -~]{0,12}", extranonce2 in prop::collection::vec(any::<u8>(), 0..=32),
        ntime: u32, nonce: u32, version_bits: Option<u32>,
    ) {
        let share =
            Share { worker: &worker, job_id: &job_id, extranonce2: &extranonce2, ntime, nonce, version_bits };
        let mut line = Vec::new();
        write_submit(&mut line, id, &share);
        prop_assert_eq!(line.pop(), Some(b'\n'));
        let request = parse_request(&line).unwrap();
        prop_assert_eq!(request.id.number(), Some(id));
        let Method::Submit(read) = request.method else { panic!("not a submit") };
        prop_assert!(read.worker == worker.as_str());
        prop_assert!(read.job_id == job_id.as_str());
        prop_assert_eq!(&*read.extranonce2, &extranonce2[..]);
        prop_assert_eq!((read.ntime, read.nonce, read.version_bits), (ntime, nonce, version_bits));
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        order in Just(vec![r#""id":7"#, r#""method":"mining.submit""#, r#""params":["w","1","00","5","6"]"#, r#""jsonrpc":"2.0""#, r#""x":{"id":8,"method":[{}]}"#]).prop_shuffle(),
        space in "[ \t]{0,3}",
    ) {
        let line = format!("{space}{{{space}{}{space}}}{space}", order.join(&format!("{space},{space}")));
        let request = parse_request(line.as_bytes()).unwrap();
        prop_assert_eq!(request.id.json(), "7");
        prop_assert_eq!(submit(&line).nonce, 6);
    }

    #[test]
    fn any_message_is_answered_in_one_line_of_json(message: String, id in "[1-9][0-9]{0,2}|null|\"[a-z]*\"") {
        let line = format!(r#"{{"id":{id},"method":"mining.ping"}}"#);
        let request = parse_request(line.as_bytes()).unwrap();
        let mut out = Vec::new();
        write_error(&mut out, request.id, ErrorCode::Other, &message);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(json["error"][1].as_str(), Some(message.as_str()));
        prop_assert_eq!(json["id"].to_string(), id);
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}

#[test]
fn ids_come_back_as_they_were() {
    for id in [
        "1",
        "-7",
        "1.50",
        "18446744073709551616",
        r#""abc""#,
        r#""a\"\u0041""#,
        "null",
    ] {
        let line = format!(r#"{{"params":[],"id": {id} ,"method":"mining.ping"}}"#);
        assert_eq!(parse_request(line.as_bytes()).unwrap().id.json(), id);
    }
    let without = parse_request(br#"{"method":"mining.ping"}"#).unwrap();
    assert!(without.id.is_absent() && without.id != Id::NULL);
}

#[test]
fn a_malformed_request_keeps_its_id() {
    for (line, id, expected) in [
        (
            &br#"{"id":3,"method":"mining.submit","params":["a"]}"#[..],
            "3",
            None,
        ),
        (
            br#"{"id":3,"method":"mining.submit","params":{}}"#,
            "3",
            None,
        ),
        (br#"{"id":3,"method":"mining.submit"}"#, "3", None),
        (
            br#"{"id":3,"method":"mining.authorize","params":[1]}"#,
            "3",
            None,
        ),
        (
            br#"{"id":3,"method":"mining.configure","params":[]}"#,
            "3",
            None,
        ),
        (
            br#"{"id":3,"method":"mining.suggest_target","params":["00"]}"#,
            "3",
            None,
        ),
        (br#"{"id":3,"method":5}"#, "3", Some(Fault::NoMethod)),
        (
            br#"{"id":3,"result":null,"method":5}"#,
            "3",
            Some(Fault::NoMethod),
        ),
        (
            br#"{"id":3,"method":"mining.ping","params":[}"#,
            "3",
            Some(Fault::NotJson),
        ),
        (br#"{"id":3} trailing"#, "3", Some(Fault::NotJson)),
        (b"{\"id\":3,\"method\":\"\xff\"}", "3", Some(Fault::NotUtf8)),
        (
            br#"{"id":[3],"method":"mining.ping"}"#,
            "null",
            Some(Fault::BadId),
        ),
        (br#"{"id""#, "null", Some(Fault::NotJson)),
        (b"", "null", Some(Fault::NotJson)),
        (b"\xff", "null", Some(Fault::NotUtf8)),
        (b"[1]", "null", Some(Fault::NotAnObject)),
        (b"GET / HTTP/1.1", "null", Some(Fault::NotJson)),
    ] {
        let (seen, fault) = fault(line);
        assert_eq!(seen, id, "{}", String::from_utf8_lossy(line));
        match expected {
            Some(expected) => assert_eq!(fault, expected, "{}", String::from_utf8_lossy(line)),
            None => assert!(
                matches!(fault, Fault::BadParameters(_) | Fault::BadSubmit(_)),
                "{fault:?}"
            ),
        }
    }
}

#[test]
fn of_duplicate_members_the_last_counts() {
    let request = parse_request(
        br#"{"id":1,"method":"mining.ping","id":2,"method":"mining.extranonce.subscribe"}"#,
    )
    .unwrap();
    assert_eq!(
        (request.id.json(), request.method),
        ("2", Method::ExtranonceSubscribe)
    );
}

#[test]
fn escapes_are_read_wherever_they_stand() {
    let read = submit(
        r#"{"id":1,"method":"mining.submit","params":["a\/b\u00e9\ud83d\ude00\n","\u0031f","\u00610","5e\u0034d","\u0030x1"]}"#,
    );
    assert!(read.worker == "a/bé😀\n");
    assert!(read.job_id == "1f");
    assert_eq!(
        (&*read.extranonce2, read.ntime, read.nonce),
        (&[0xa0][..], 0x5e4d, 1)
    );
}

#[test]
fn odd_hex_is_judged() {
    let line = |extranonce2: &str, ntime: &str, bits: &str| {
        format!(
            r#"{{"id":1,"method":"mining.submit","params":["w","1","{extranonce2}","{ntime}","0",{bits}]}}"#
        )
    };
    let good = line("0xABcd", "0X5E", "\"1FFFE000\"");
    let good = submit(&good);
    assert_eq!(
        (&*good.extranonce2, good.ntime, good.version_bits),
        (&[0xab, 0xcd][..], 0x5e, Some(0x1fff_e000))
    );
    assert_eq!(submit(&line("", "0", "null")).version_bits, None);
    let longest = "00".repeat(32);
    assert_eq!(submit(&line(&longest, "0", "null")).extranonce2.len(), 32);
    let too_long = "00".repeat(33);
    for (extranonce2, ntime, bits) in [
        ("abc", "0", "null"),
        ("0g", "0", "null"),
        ("é", "0", "null"),
        (&too_long, "0", "null"),
        ("00", "", "null"),
        ("00", "0x", "null"),
        ("00", "123456789", "null"),
        ("00", "-1", "null"),
        ("00", "+1", "null"),
        ("00", "0", "5"),
        ("00", "0", "\"x\""),
    ] {
        let line = line(extranonce2, ntime, bits);
        assert!(
            matches!(fault(line.as_bytes()).1, Fault::BadSubmit(_)),
            "{line}"
        );
    }
}

#[test]
fn subscribe_takes_null_one_or_two_parameters() {
    for params in ["null", "[]", "[null]", "[null,null]", "{}"] {
        let line = format!(r#"{{"id":1,"method":"mining.subscribe","params":{params}}}"#);
        assert_eq!(
            method(&line),
            Method::Subscribe {
                user_agent: None,
                session: None
            }
        );
    }
    let Method::Subscribe {
        user_agent: Some(agent),
        session: Some(session),
    } = method(r#"{"id":1,"method":"mining.subscribe","params":["cgminer/4.11","ab"]}"#)
    else {
        panic!("not read");
    };
    assert!(agent == "cgminer/4.11" && session == "ab");
}

#[test]
fn what_a_client_writes_is_what_a_server_reads() {
    let mut out = Vec::new();
    write_subscribe(&mut out, 1, "a\"b");
    write_configure(&mut out, 2, 0x1fff_e000, 2);
    write_authorize(&mut out, 3, "account.worker", "x");
    write_suggest_difficulty(&mut out, 4, 0.001);
    let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
    assert!(
        matches!(method(lines[0]), Method::Subscribe { user_agent: Some(agent), .. } if agent == "a\"b")
    );
    let Method::Configure(configure) = method(lines[1]) else {
        panic!("not read")
    };
    assert_eq!(
        configure.version_rolling,
        Some(VersionRolling {
            mask: 0x1fff_e000,
            min_bit_count: 2
        })
    );
    assert!(
        matches!(method(lines[2]), Method::Authorize { user, password: Some(password) }
        if user == "account.worker" && password == "x")
    );
    assert_eq!(method(lines[3]), Method::SuggestDifficulty(0.001));
}

#[test]
fn configure_gives_every_extension_that_was_asked_for() {
    let line = r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty","version-rolling","subscribe-extranonce","info","new-one"],{"minimum-difficulty.value":2048,"version-rolling.mask":"ffffffff","version-rolling.min-bit-count":16,"info.sw-version":"1"}]}"#;
    let Method::Configure(configure) = method(line) else {
        panic!("not read")
    };
    assert_eq!(
        configure.version_rolling,
        Some(VersionRolling {
            mask: u32::MAX,
            min_bit_count: 16
        })
    );
    assert_eq!(configure.minimum_difficulty, Some(Some(2048.0)));
    assert!(configure.subscribe_extranonce && configure.info);
    assert_eq!(
        configure
            .unknown()
            .map(|name| name.decode().into_owned())
            .collect::<Vec<_>>(),
        ["new-one"]
    );
    // Options without an extension, or of the wrong type, change nothing.
    let Method::Configure(bare) =
        method(r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],7]}"#)
    else {
        panic!("not read");
    };
    assert_eq!(
        bare.version_rolling,
        Some(VersionRolling {
            mask: u32::MAX,
            min_bit_count: 0
        })
    );
}

#[test]
fn a_response_is_not_a_request() {
    for line in [
        r#"{"id":1,"result":"cgminer"}"#,
        r#"{"id":1,"method":null,"result":true,"error":null}"#,
    ] {
        assert_eq!(method(line), Method::Response);
    }
}

#[test]
fn a_suggested_target_is_turned_to_internal_order() {
    let line = format!(
        r#"{{"id":1,"method":"mining.suggest_target","params":["00000000ffff{}"]}}"#,
        "0".repeat(52)
    );
    let Method::SuggestTarget(target) = method(&line) else {
        panic!("not read")
    };
    assert_eq!(&target[24..], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
}
