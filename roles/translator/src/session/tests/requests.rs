//! What a miner may ask, and in which order.

use super::*;

#[test]
fn subscribe_is_answered_at_once_even_without_an_upstream() {
    let mut miner = Conversation::new(|_| ());
    let heard = miner.say(r#"{"id":"s","method":"mining.subscribe","params":[]}"#);
    let ServerMessage::Response {
        id,
        outcome: Ok(result),
    } = parse_server_message(heard[0].as_bytes()).unwrap()
    else {
        panic!("{heard:?}");
    };
    let result = SubscribeResult::parse(result).unwrap();
    assert_eq!(
        (id.json(), &*result.extranonce1, result.extranonce2_size),
        (r#""s""#, &[1, 2, 3, 4][..], 4)
    );
    assert!(
        miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#)[0].contains("true")
    );
    assert!(miner.requests().is_empty());
    miner.event(ChannelEvent::UpstreamUp);
    assert!(matches!(&miner.requests()[..], [Request::Open(open)] if &*open.user_identity == "w"));
}

#[test]
fn the_channel_opens_in_whatever_order_the_miner_asks() {
    let lines = [
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#,
        r#"{"id":2,"method":"mining.subscribe"}"#,
        r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#,
        r#"{"id":4,"method":"mining.auth","params":["w","x"]}"#,
    ];
    for order in [[0, 1, 2, 3], [1, 0, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0]] {
        let mut miner = Conversation::new(|_| ());
        miner.event(ChannelEvent::UpstreamUp);
        for index in order {
            assert_eq!(miner.say(lines[index]).len(), 1);
        }
        assert!(
            matches!(&miner.requests()[..], [Request::Open(_)]),
            "{order:?}"
        );
    }
}

#[test]
fn version_rolling_is_negotiated_and_follows_what_a_job_allows() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.say(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling","other"],{"version-rolling.mask":"00ffff00","version-rolling.min-bit-count":2}]}"#,
    );
    assert!(
        heard[0].contains(r#""version-rolling.mask":"00ffe000""#)
            && heard[0].contains(r#""other":false"#),
        "{heard:?}"
    );
    let heard = miner.work_with([9; 32], Target::MAX, &PREFIX, false);
    assert!(
        heard[0].contains("set_version_mask") && heard[0].contains("00000000"),
        "{heard:?}"
    );
    assert!(
        miner
            .submit_full(
                "account.worker",
                "2",
                "00000000",
                1_700_000_000,
                1,
                Some(0x2000)
            )
            .contains("[20,")
    );
    let heard = miner.work([9; 32], Target::MAX);
    assert!(heard[0].contains("00ffe000"), "{heard:?}");
    assert!(
        miner
            .submit_full(
                "account.worker",
                "3",
                "00000000",
                1_700_000_000,
                1,
                Some(0x2000)
            )
            .contains("true")
    );
    // More bits than are there: refused, as BIP 310 lets a server do.
    let heard = miner.say(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.min-bit-count":30}]}"#,
    );
    assert!(heard[0].contains(r#""version-rolling":false"#), "{heard:?}");
}

#[test]
fn an_unknown_method_gets_an_error_and_never_a_disconnect() {
    let mut miner = Conversation::mining(|_| ());
    for method in [
        "mining.unheard_of",
        "client.weird",
        "",
        "eth_submitWork",
        "mining.set_goal",
    ] {
        for _ in 0..20 {
            let heard = miner.say(&format!(r#"{{"id":5,"method":"{method}","params":[]}}"#));
            assert!(heard.len() == 1 && heard[0].contains("[20,"), "{heard:?}");
        }
    }
    for (method, params, result) in [
        ("mining.ping", "[]", "\"pong\""),
        (
            "mining.suggest_target",
            r#"["00000000ffff0000000000000000000000000000000000000000000000000000"]"#,
            "true",
        ),
        ("mining.extranonce.subscribe", "[]", "true"),
        ("mining.multi_version", "[1]", "true"),
        ("mining.get_transactions", "[\"1\"]", "[]"),
        ("client.get_version", "[]", "\"hashpool-translator"),
    ] {
        let heard = miner.say(&format!(
            r#"{{"id":5,"method":"{method}","params":{params}}}"#
        ));
        assert!(
            heard[0].contains(&format!(r#""result":{result}"#)),
            "{heard:?}"
        );
    }
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_name_too_long_or_empty_is_refused_and_another_may_be_tried() {
    let mut miner = Conversation::new(|_| ());
    for name in [String::new(), "x".repeat(128)] {
        let heard = miner.say(&format!(
            r#"{{"id":1,"method":"mining.authorize","params":["{name}"]}}"#
        ));
        assert!(
            heard[0].contains("[24,") && heard[0].len() < 127,
            "{heard:?}"
        );
    }
    let heard = miner.say(&format!(
        r#"{{"id":1,"method":"mining.authorize","params":["{}"]}}"#,
        "x".repeat(127)
    ));
    assert!(heard[0].contains("true"));
}

#[test]
fn what_comes_without_an_id_is_done_and_not_answered() {
    let mut miner = Conversation::mining(|_| ());
    let line = r#"{"method":"mining.submit","params":["account.worker","1","00000000","6553f101","00000001"]}"#;
    assert!(miner.say(line).is_empty());
    assert_eq!(miner.shares().len(), 1);
    assert!(miner.say(r#"{"method":"mining.ping"}"#).is_empty());
}

#[test]
fn malformed_lines_are_answered_where_there_is_an_id_and_end_the_connection_after_a_few() {
    let mut miner = Conversation::mining(|_| ());
    assert!(miner.say(r#"{"id":5,"method":"mining.submit""#)[0].contains(r#""id":5"#));
    assert!(miner.say("nonsense").is_empty());
    assert_eq!(miner.out.end, None);
    miner.say("\u{0}");
    assert_eq!(miner.out.end, Some(EndReason::MalformedLines));
}
