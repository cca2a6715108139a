//! Promises about what a client reads from a server.

#![allow(clippy::unwrap_used)]

use stratum_v1::{
    ConfigureReply, ConfigureResult, ErrorCode, Id, ServerMessage, SubscribeResult, parse_request,
    parse_server_message, write_configure_result, write_error, write_result_true,
    write_set_difficulty, write_set_extranonce, write_set_version_mask, write_subscribe_result,
};

fn write(with: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    with(&mut out);
    String::from_utf8(out).unwrap()
}

fn read(line: &str) -> ServerMessage<'_> {
    parse_server_message(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn what_a_server_writes_is_what_a_client_reads() {
    let line = write(|out| write_subscribe_result(out, Id::NULL, "1", &[1, 2, 3, 4], 4));
    let ServerMessage::Response {
        outcome: Ok(result),
        ..
    } = read(&line)
    else {
        panic!("{line}")
    };
    let result = SubscribeResult::parse(result).unwrap();
    assert_eq!(
        (&*result.extranonce1, result.extranonce2_size),
        (&[1, 2, 3, 4][..], 4)
    );

    let reply = ConfigureReply {
        version_rolling: Some(Some(0x1fff_e000)),
        info: Some(true),
        ..Default::default()
    };
    let line = write(|out| write_configure_result(out, Id::NULL, &reply, std::iter::empty()));
    let ServerMessage::Response {
        outcome: Ok(result),
        ..
    } = read(&line)
    else {
        panic!("{line}")
    };
    assert_eq!(
        ConfigureResult::parse(result),
        Some(ConfigureResult {
            version_mask: Some(0x1fff_e000)
        })
    );

    let line = write(|out| write_result_true(out, Id::NULL));
    assert!(matches!(
        read(&line),
        ServerMessage::Response {
            outcome: Ok(stratum_v1::Value::Bool(true)),
            ..
        }
    ));

    let line = write(|out| write_error(out, Id::NULL, ErrorCode::JobNotFound, "no \"such\" job"));
    let ServerMessage::Response {
        outcome: Err(error),
        ..
    } = read(&line)
    else {
        panic!("{line}")
    };
    assert!(
        error.code == 21
            && error
                .message
                .is_some_and(|message| message == "no \"such\" job")
    );

    for difficulty in [1.0, 0.000_000_001, 1e15, 8192.125, 1.0 / 3.0] {
        let line = write(|out| write_set_difficulty(out, difficulty));
        assert_eq!(read(&line), ServerMessage::SetDifficulty(difficulty));
        assert!(!line.contains('E') && !line.contains("e-"), "{line}");
    }
    let line = write(|out| write_set_version_mask(out, 0x1fff_e000));
    assert_eq!(read(&line), ServerMessage::SetVersionMask(0x1fff_e000));
    let line = write(|out| write_set_extranonce(out, &[9], 4));
    assert!(
        matches!(read(&line), ServerMessage::SetExtranonce { extranonce1, extranonce2_size: 4 } if *extranonce1 == [9])
    );
}

#[test]
fn extensions_that_are_unknown_are_refused_by_name() {
    let request = parse_request(
        br#"{"id":"a","method":"mining.configure","params":[["x\"y","version-rolling"]]}"#,
    )
    .unwrap();
    let stratum_v1::Method::Configure(configure) = request.method else {
        panic!("not read")
    };
    let reply = ConfigureReply {
        version_rolling: Some(None),
        ..Default::default()
    };
    let line = write(|out| write_configure_result(out, request.id, &reply, configure.unknown()));
    assert_eq!(
        line,
        "{\"id\":\"a\",\"result\":{\"version-rolling\":false,\"x\\\"y\":false},\"error\":null}\n"
    );
}

#[test]
fn errors_are_read_in_every_form() {
    for (json, code) in [
        (r#"[23,"low",null]"#, 23),
        (r#"{"code":-32601,"message":"low"}"#, -32601),
        (r#""low""#, 0),
    ] {
        let line = format!(r#"{{"id":1,"result":null,"error":{json}}}"#);
        let ServerMessage::Response {
            outcome: Err(error),
            ..
        } = read(&line)
        else {
            panic!("{line}")
        };
        assert!(
            error.code == code && error.message.is_some_and(|message| message == "low"),
            "{line}"
        );
    }
}

#[test]
fn what_a_server_may_not_say_is_refused() {
    for line in [
        r#"{"id":null,"method":"mining.set_difficulty","params":[0]}"#,
        r#"{"id":null,"method":"mining.set_difficulty","params":[1e999]}"#,
        r#"{"id":null,"method":"mining.set_difficulty","params":["nan"]}"#,
        r#"{"id":null,"method":"mining.set_extranonce","params":["00",99]}"#,
        r#"{"id":null,"method":"mining.notify","params":["1"]}"#,
        r#"{"id":null,"method":"mining.notify"}"#,
    ] {
        assert!(parse_server_message(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn a_reconnect_is_read_with_whatever_it_says() {
    assert!(matches!(
        read(r#"{"id":null,"method":"client.reconnect","params":["pool",3333,5]}"#),
        ServerMessage::Reconnect {
            host: Some(_),
            port: Some(3333),
            wait_seconds: 5
        }
    ));
    assert!(matches!(
        read(r#"{"id":null,"method":"client.reconnect","params":["pool","3333"]}"#),
        ServerMessage::Reconnect {
            port: Some(3333),
            wait_seconds: 0,
            ..
        }
    ));
    assert!(matches!(
        read(r#"{"id":null,"method":"client.reconnect"}"#),
        ServerMessage::Reconnect {
            host: None,
            port: None,
            ..
        }
    ));
}
