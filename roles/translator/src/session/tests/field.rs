//! What miners of the field do that no specification says.

use super::*;

const CONFIGURE: &str = r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"1fffe000","version-rolling.min-bit-count":2}]}"#;

/// A share of a miner that sends everything in full, with the bits as they are given.
fn submit(miner: &mut Conversation, job: &str, bits: &str) -> String {
    let line = format!(
        r#"{{"id":9,"method":"mining.submit","params":["account.worker","{job}","00000000","6553f100","0000000{job}"{bits}]}}"#
    );
    miner.say(&line).join("")
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: Vec<usize>| {
        (0..of).map(move |at| {
            let mut order = order.clone();
            order.insert(at, of - 1);
            order
        })
    };
    permutations(of - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn set_up_works_in_every_order() {
    let lines = [
        CONFIGURE,
        r#"{"id":2,"method":"mining.subscribe","params":["x/1"]}"#,
        r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#,
        r#"{"id":4,"method":"mining.auth","params":["account.worker","x"]}"#,
        r#"{"id":5,"method":"mining.extranonce.subscribe","params":[]}"#,
    ];
    for order in permutations(lines.len()) {
        let mut miner = Conversation::new(|_| ());
        miner.event(ChannelEvent::UpstreamUp);
        for index in &order {
            let heard = miner.say(lines[*index]);
            let id = format!(r#""id":{},"#, index + 1);
            assert!(
                heard.len() == 1 && heard[0].contains(&id) && heard[0].contains(r#""error":null"#),
                "{order:?}: {heard:?}"
            );
        }
        assert!(
            matches!(miner.requests()[..], [Request::Open(_)]),
            "{order:?}"
        );
        miner.open();
        miner.requests();
        let heard = miner.work([9; 32], Target::MAX);
        assert!(heard.last().is_some_and(|notify| is_clean(notify)));
        assert!(
            submit(&mut miner, "1", r#","00002000""#).contains("true"),
            "{order:?}"
        );
    }
}

#[test]
fn every_answer_has_the_id_of_its_request_as_it_was_written() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100);
    let requests = [
        (r#""mining.subscribe""#, "null"),
        (r#""mining.subscribe""#, "[]"),
        (r#""mining.subscribe""#, r#"["x/1"]"#),
        (r#""mining.subscribe""#, r#"["x/1",null]"#),
        (
            r#""mining.subscribe""#,
            r#"["x/1",null,"192.0.2.1:3333",null]"#,
        ),
        (r#""mining.authorize""#, r#"["w"]"#),
        (r#""mining.authorize""#, r#"["w","x"]"#),
        (r#""mining.auth""#, r#"["w","x"]"#),
        (
            r#""mining.configure""#,
            r#"[["version-rolling","minimum-difficulty","subscribe-extranonce","info"],{}]"#,
        ),
        (r#""mining.configure""#, "[]"),
        (r#""mining.suggest_difficulty""#, "[1]"),
        (r#""mining.suggest_target""#, r#"["00"]"#),
        (r#""mining.multi_version""#, "[4]"),
        (r#""mining.get_transactions""#, r#"["1"]"#),
        (r#""mining.ping""#, "[]"),
        (r#""mining.extranonce.subscribe""#, "[]"),
        (
            r#""mining.submit""#,
            r#"["account.worker","1","00000000","6553f100","00000001"]"#,
        ),
        (r#""mining.submit""#, "[]"),
        (r#""client.get_version""#, "[]"),
        (r#""client.show_message""#, r#"["hello"]"#),
        (r#""client.reconnect""#, r#"["192.0.2.1",3333,5]"#),
        (r#""mining.unheard_of""#, "{}"),
    ];
    for id in ["7", "-7", "18446744073709551616", r#""seven""#, "null"] {
        for (method, params) in requests {
            let line = format!(r#"{{"params":{params},"id":{id},"method":{method}}}"#);
            let heard = miner.say(&line);
            let answer = heard.first().map_or("", String::as_str);
            assert!(
                answer.starts_with(&format!(r#"{{"id":{id},"result":"#)),
                "{line}: {heard:?}"
            );
        }
    }
    assert_eq!(miner.out.end, None);
}

#[test]
fn configure_is_answered_for_what_was_asked_and_nothing_else() {
    // Whatsminer's firmware hangs up at a member that it does not expect.
    let extensions = [
        ("version-rolling", "true"),
        ("minimum-difficulty", "true"),
        ("subscribe-extranonce", "true"),
        ("info", "true"),
        ("unheard-of", "false"),
    ];
    for chosen in 0..1 << extensions.len() {
        let chosen: Vec<_> = (0..extensions.len())
            .filter(|index| chosen & 1 << index != 0)
            .map(|index| extensions[index])
            .collect();
        let names: Vec<_> = chosen
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let mut miner = Conversation::new(|_| ());
        let heard = miner.say(&format!(
            r#"{{"id":1,"method":"mining.configure","params":[[{}],{{"version-rolling.mask":"ffffffff","minimum-difficulty.value":2048,"info.sw-version":"1"}}]}}"#,
            names.join(",")
        ));
        let mut expected: Vec<_> = chosen
            .iter()
            .map(|(name, granted)| format!("\"{name}\":{granted}"))
            .collect();
        if expected
            .first()
            .is_some_and(|first| first.contains("version-rolling"))
        {
            expected.insert(1, r#""version-rolling.mask":"1fffe000""#.into());
        }
        assert_eq!(
            heard,
            [format!(
                r#"{{"id":1,"result":{{{}}},"error":null}}"#,
                expected.join(",")
            )]
        );
    }
}

#[test]
fn a_minimum_difficulty_without_a_number_is_refused() {
    let mut miner = Conversation::new(|_| ());
    let heard =
        miner.say(r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{}]}"#);
    assert!(
        heard[0].contains(r#""minimum-difficulty":false"#),
        "{heard:?}"
    );
}

#[test]
fn a_sixth_parameter_counts_without_any_negotiation() {
    let mut miner = Conversation::mining(|_| ());
    assert!(submit(&mut miner, "1", r#","1fffe000""#).contains("true"));
    assert_eq!(miner.shares()[0].version, 0x3fff_e000);
    for (bits, answer) in [
        ("null", "true"),
        (r#""00000000""#, "[22,"),
        (r#""0""#, "[22,"),
        (r#""0x0000""#, "[22,"),
        (r#""00000001""#, "[20,"),
        (r#""xyz""#, "[20,"),
        ("7", "[20,"),
    ] {
        let heard = submit(&mut miner, "1", &format!(",{bits}"));
        assert!(heard.contains(answer), "{bits}: {heard}");
    }
}

#[test]
fn hexadecimal_of_every_kind_is_judged_and_never_a_crash() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100);
    for (nonce, [extranonce2, ntime, word]) in [
        ["0A0B0C0D", "6553F100", "0000000A"],
        ["0x0a0b0c0d", "0x6553f100", "0xb"],
        ["0X0A0B0C0D", "0X6553F100", "0XC"],
        ["0a0b0c0d", "6553f100", "d"],
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!(
            r#"{{"id":9,"method":"mining.submit","params":["account.worker","1","{extranonce2}","{ntime}","{word}"]}}"#
        );
        assert!(miner.say(&line)[0].contains("true"), "{line}");
        let share = miner.shares()[0];
        assert_eq!(
            (share.nonce, share.ntime),
            (0xa + u32::try_from(nonce).unwrap(), 0x6553_f100)
        );
    }
    for bad in [
        "",
        "0x",
        "0xx",
        "g",
        "-1",
        "+1",
        " 1",
        "1 ",
        "00112233445566778",
        "é",
        "\\u0000",
        "0a0b0c0",
    ] {
        for params in [
            format!(r#""{bad}","6553f100","00000001""#),
            format!(r#""00000000","{bad}","00000001""#),
            format!(r#""00000000","6553f100","{bad}""#),
            format!(r#""00000000","6553f100","00000001","{bad}""#),
        ] {
            let line = format!(
                r#"{{"id":9,"method":"mining.submit","params":["account.worker","1",{params}]}}"#
            );
            let heard = miner.say(&line).join("");
            assert!(heard.contains(r#""id":9,"#), "{line}: {heard}");
        }
    }
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_miner_rolls_as_many_bytes_as_configured_whatever_the_pool_gives() {
    for size in 2..=8_u8 {
        for extranonce_size in u16::from(size) + 4..=32 {
            let mut miner = Conversation::new(|settings| settings.extranonce2_size = size);
            miner.event(ChannelEvent::UpstreamUp);
            let heard = miner.say(r#"{"id":1,"method":"mining.subscribe","params":[]}"#);
            assert!(heard[0].contains(&format!(r#""01020304",{size}]"#)));
            miner.say(r#"{"id":2,"method":"mining.authorize","params":["account.worker"]}"#);
            miner.requests();
            miner.event(ChannelEvent::Opened {
                channel_id: CHANNEL,
                extranonce_size,
            });
            // A prefix that the rest leaves room for.
            let prefix = vec![7; usize::from(32 - extranonce_size)];
            miner.work_with([9; 32], Target::MAX, &prefix, true);
            let rolled = "0f".repeat(size.into());
            let answer = miner.submit("1", &rolled, 1);
            assert!(
                answer.contains("true"),
                "{size} {extranonce_size}: {answer}"
            );
            let share = miner.shares()[0];
            assert_eq!(share.extranonce.len(), usize::from(extranonce_size));
            assert!(share.extranonce.ends_with(&vec![0x0f; size.into()]));
        }
    }
}

#[test]
fn a_changed_mask_reaches_a_miner_that_negotiated_and_nobody_else() {
    let masks = |heard: &[String]| -> Vec<u32> {
        let mask = |line: &String| match parse_server_message(line.as_bytes()) {
            Ok(ServerMessage::SetVersionMask(mask)) => Some(mask),
            _ => None,
        };
        heard.iter().filter_map(mask).collect()
    };
    let mut silent = Conversation::mining(|_| ());
    let mut miner = Conversation::mining(|_| ());
    miner.say(CONFIGURE);
    for (rolling, told) in [
        (true, vec![]),
        (false, vec![0]),
        (false, vec![]),
        (true, vec![0x1fff_e000]),
        (true, vec![]),
    ] {
        let heard = miner.work_with([9; 32], Target::MAX, &PREFIX, rolling);
        assert_eq!(masks(&heard), told);
        // Whatsminers that did not ask stop at such a message.
        let heard = silent.work_with([9; 32], Target::MAX, &PREFIX, rolling);
        assert!(masks(&heard).is_empty());
    }
}

#[test]
fn who_negotiates_on_a_job_without_rolling_is_told_so_at_once() {
    let mut miner = Conversation::mining(|_| ());
    miner.work_with([9; 32], Target::MAX, &PREFIX, false);
    let heard = miner.say(CONFIGURE);
    assert!(
        heard.len() == 2
            && heard[0].contains("1fffe000")
            && heard[1].contains(r#""mining.set_version_mask","params":["00000000"]"#),
        "{heard:?}"
    );
    assert!(submit(&mut miner, "2", r#","00002000""#).contains("[20,"));
    assert!(submit(&mut miner, "2", "").contains("true"));
}

#[test]
fn a_mask_negotiated_in_the_middle_of_a_job_holds_for_it() {
    let mut miner = Conversation::mining(|_| ());
    miner.say(&CONFIGURE.replace("1fffe000", "00006000"));
    assert!(submit(&mut miner, "1", r#","00008000""#).contains("[20,"));
    miner.say(CONFIGURE);
    assert!(submit(&mut miner, "1", r#","00008000""#).contains("true"));
}

#[test]
fn firmware_before_bip_310_gets_its_mask_by_multi_version() {
    let mut miner = Conversation::mining(|_| ());
    for params in ["[]", "[1]", "[\"x\"]"] {
        let line = format!(r#"{{"id":7,"method":"mining.multi_version","params":{params}}}"#);
        assert_eq!(miner.say(&line), [r#"{"id":7,"result":true,"error":null}"#]);
    }
    let heard = miner.say(r#"{"id":8,"method":"mining.multi_version","params":[4]}"#);
    assert!(
        heard.len() == 2
            && heard[0].contains(r#""id":8,"result":true"#)
            && heard[1].contains(r#""mining.set_version_mask","params":["1fffe000"]"#),
        "{heard:?}"
    );
    // From now on it is told of changes.
    let heard = miner.work_with([9; 32], Target::MAX, &PREFIX, false);
    assert!(heard[0].contains("set_version_mask"), "{heard:?}");
}

#[test]
fn a_name_of_127_bytes_mines_and_no_reply_repeats_it() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    let name = "n".repeat(127);
    let mut heard = miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    heard.extend(miner.say(&format!(
        r#"{{"id":2,"method":"mining.authorize","params":["{name}","x"]}}"#
    )));
    assert!(matches!(&miner.requests()[..], [Request::Open(open)] if *open.user_identity == *name));
    miner.open();
    heard.extend(miner.work([9; 32], Target::MAX));
    heard.push(miner.submit_full(&name, "1", "00000000", 1_700_000_000, 1, None));
    heard.push(miner.submit_full(&"n".repeat(128), "1", "00000000", 1_700_000_000, 2, None));
    heard.extend(miner.event(ChannelEvent::Closed("gone".into())));
    assert!(heard.iter().all(|line| !line.contains("nnn")), "{heard:?}");
    assert!(heard[heard.len() - 3].contains("true"), "{heard:?}");
    assert!(heard[heard.len() - 2].contains("[24,"), "{heard:?}");
}
