//! How shares are judged, forwarded and answered.

use super::*;

#[test]
fn difficulty_is_told_before_the_job_that_it_applies_to() {
    let mut miner = Conversation::mining(|_| ());
    let target = Difficulty::new(3.0).unwrap().target();
    let heard = miner.work([9; 32], target);
    let Ok(ServerMessage::SetDifficulty(difficulty)) = parse_server_message(heard[0].as_bytes())
    else {
        panic!("{heard:?}")
    };
    assert!(
        Difficulty::new(difficulty).unwrap().target() <= target,
        "never easier than the channel"
    );
    assert!(!is_clean(&heard[1]));
    // The same difficulty is not told twice.
    assert_eq!(miner.work([9; 32], target).len(), 1);
    // Each job keeps its own target.
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert!(miner.submit("2", "00000000", 1).contains("[23,"));
    assert_eq!(miner.rejected("low-difficulty"), 1);
}

#[test]
fn a_share_goes_upstream_exactly_as_the_miner_hashed_it() {
    let mut miner = Conversation::mining(|_| ());
    let answer = miner.submit_full(
        "account.worker",
        "1",
        "0a0b0c0d",
        1_700_000_005,
        77,
        Some(0x0000_2000),
    );
    assert!(answer.contains(r#""result":true"#), "{answer}");
    let expected = ShareSubmission {
        channel_id: CHANNEL,
        sequence_number: 1,
        job_id: 41,
        nonce: 77,
        ntime: 1_700_000_005,
        version: 0x2000_2000,
        // Two bytes of padding, our extranonce1, and the miner's own: the ten bytes of the channel.
        extranonce: ExtranonceBytes::new(&[0, 0, 1, 2, 3, 4, 0x0a, 0x0b, 0x0c, 0x0d]).unwrap(),
        worker: None,
        // As every second hash does here.
        solves_block: true,
    };
    assert_eq!(miner.shares(), [expected]);
}

#[test]
fn a_share_that_solves_a_block_is_urgent_and_no_other() {
    let mut miner = Conversation::mining(|_| ());
    let urgent = |miner: &mut Conversation, job| {
        for nonce in 0..32 {
            miner.submit(job, "00000000", nonce);
        }
        let requests = miner.requests();
        assert_eq!(requests.len(), 32);
        requests
            .iter()
            .filter(|request| request.is_urgent())
            .count()
    };
    // Every second hash is a block here.
    assert!((1..32).contains(&urgent(&mut miner, "1")));
    miner.nbits = 0x1d00_ffff;
    miner.work([9; 32], Target::MAX);
    assert_eq!(urgent(&mut miner, "2"), 0);
}

#[test]
fn each_mistake_of_a_miner_has_its_code_and_costs_the_upstream_nothing() {
    let mut miner = Conversation::mining(|_| ());
    let now = 1_700_000_000;
    let cases = [
        (
            "stranger",
            "1",
            "00000000",
            now,
            None,
            "[24,",
            "unauthorized",
        ),
        (
            "account.worker",
            "99",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "xyz",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "1",
            "000000",
            now,
            None,
            "[20,",
            "bad-extranonce",
        ),
        (
            "account.worker",
            "1",
            "",
            now,
            None,
            "[20,",
            "bad-extranonce",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now - 1,
            None,
            "[20,",
            "bad-time",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now + 7201,
            None,
            "[20,",
            "bad-time",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now,
            Some(0x8000_0000),
            "[20,",
            "bad-version",
        ),
        (
            "account.worker",
            "1",
            "0000000",
            now,
            None,
            "[20,",
            "malformed",
        ),
    ];
    for (worker, job, extranonce2, ntime, bits, code, reason) in cases {
        let before = miner.rejected(reason);
        let answer = miner.submit_full(worker, job, extranonce2, ntime, 1, bits);
        assert!(answer.contains(code), "{reason}: {answer}");
        assert_eq!(miner.rejected(reason), before + 1, "{reason}");
    }
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert!(miner.submit("1", "00000000", 1).contains("[22,"));
    assert_eq!(miner.shares().len(), 1);
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_share_before_subscribe_or_authorize_is_refused_with_its_code() {
    let mut miner = Conversation::new(|_| ());
    assert!(miner.submit("1", "00000000", 1).contains("[25,"));
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    assert!(miner.submit("1", "00000000", 1).contains("[24,"));
}

#[test]
fn a_new_block_makes_earlier_jobs_stale() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.work([8; 32], Target::MAX);
    assert!(is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("1", "00000000", 1).contains("[21,"));
    assert!(miner.submit("2", "00000000", 1).contains("true"));
}

#[test]
fn a_new_network_target_on_the_same_block_makes_earlier_jobs_stale_too() {
    let mut miner = Conversation::mining(|_| ());
    miner.nbits = 0x1d00_ffff;
    let heard = miner.work([9; 32], Target::MAX);
    assert!(is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("1", "00000000", 1).contains("[21,"));
}

#[test]
fn a_share_with_an_id_too_long_to_keep_is_refused() {
    let mut miner = Conversation::mining(|_| ());
    for (length, result) in [(62, r#""result":true"#), (63, "[20,")] {
        let id = "i".repeat(length);
        let line = format!(
            r#"{{"id":"{id}","method":"mining.submit","params":["account.worker","1","00000000","6553f101","00000001"]}}"#
        );
        let heard = miner.say(&line);
        assert!(heard[0].contains(result), "{heard:?}");
    }
    assert_eq!(miner.shares().len(), 1);
}

#[test]
fn with_upstream_acknowledgement_the_miner_hears_what_the_upstream_says() {
    let mut miner = Conversation::mining(|settings| settings.acknowledge = Acknowledge::Upstream);
    for nonce in 1..=4 {
        assert_eq!(miner.submit("1", "00000000", nonce), "");
    }
    let refusal = ChannelEvent::Rejected {
        sequence_number: 2,
        reason: RejectReason::from_upstream("stale-share"),
    };
    assert!(miner.event(refusal)[0].contains("[21,"));
    assert_eq!(
        miner
            .event(ChannelEvent::Accepted {
                last_sequence_number: 3,
                count: 2
            })
            .len(),
        2
    );
    assert!(miner.event(ChannelEvent::UpstreamDown)[0].contains("[21,"));
    let tally = miner.session.tally();
    assert_eq!(
        (
            tally.accepted,
            tally.told_accepted,
            tally.rejected(),
            tally.lost()
        ),
        (2, 2, 1, 1)
    );
}

#[test]
fn answers_about_shares_that_were_never_sent_change_nothing() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 0,
        count: 5,
    });
    miner.event(ChannelEvent::Rejected {
        sequence_number: 9,
        reason: RejectReason::UpstreamOther,
    });
    assert_eq!(miner.session.in_flight(), 1);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: u64::MAX,
    });
    assert_eq!(miner.session.tally().accepted, 1);
}

#[test]
fn at_the_bound_of_unanswered_shares_the_miner_has_to_wait() {
    let mut miner = Conversation::mining(|_| ());
    for nonce in 0..4 {
        assert!(miner.session.wants_lines());
        miner.submit("1", "00000000", nonce);
    }
    assert!(!miner.session.wants_lines());
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: 1,
    });
    assert!(miner.session.wants_lines());
}

#[test]
fn answers_of_the_pool_are_awaited_at_the_limit_alone_or_where_the_miner_waits_for_them() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 2);
    miner.submit("1", "00000000", 1);
    assert!(!miner.session.awaits_answers());
    miner.submit("1", "00000001", 1);
    assert!(miner.session.awaits_answers());
    let miner = Conversation::mining(|settings| settings.acknowledge = Acknowledge::Upstream);
    assert!(miner.session.awaits_answers());
}
