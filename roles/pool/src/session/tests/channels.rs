//! Channels: how they open, what they are asked, and the work that they get.

use super::*;

#[test]
fn a_channel_opened_with_work_there_gets_it_at_once() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert!(client.publish(1, MAIN_NBITS).is_empty());
    let sent = client.open(0.0, EASY, 4);
    assert!(matches!(
        sent[0],
        MiningOwned::OpenExtendedMiningChannelSuccess(_)
    ));
    let job = job_of(&sent);
    assert_eq!(job.prev_hash, [1; 32]);
    let shares = client.submit(CHANNEL, &job, 1);
    assert_eq!(accepted(&shares), 1, "{shares:?}");
}

/// SRI pool 0.7.0 shuts down where a client connects between a future template and its prev-hash.
#[test]
fn a_channel_opened_before_there_is_work_gets_it_when_it_comes() {
    let mut client = Client::set_up(Target::MAX, 0);
    let opened = client.open(0.0, EASY, 4);
    assert_eq!(opened.len(), 1, "{opened:?}");
    let job = job_of(&client.publish(1, MAIN_NBITS));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
}

#[test]
fn requests_that_cannot_be_met_get_the_protocols_error_and_change_nothing() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert_eq!(
        errors(&client.open(f32::NAN, EASY, 4)),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.open(-1.0, EASY, 4)),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.open(0.0, [0; 32], 4)),
        ["max-target-out-of-range"]
    );
    assert_eq!(
        errors(&client.open(0.0, EASY, 25)),
        ["min-extranonce-size-too-large"]
    );
    for _ in 0..5 {
        assert!(errors(&client.open(0.0, EASY, 24)).is_empty());
    }
    assert_eq!(
        errors(&client.open(0.0, EASY, 4)),
        ["channel-capacity-exhausted"]
    );
    let update = |channel_id, nominal_hash_rate, target: &'static [u8; 32]| {
        Message::UpdateChannel(UpdateChannel {
            channel_id,
            nominal_hash_rate,
            maximum_target: target.into(),
        })
    };
    assert_eq!(
        errors(&client.ask(update(1, 1.0, &EASY))),
        ["invalid-channel-id"]
    );
    assert_eq!(
        errors(&client.ask(update(CHANNEL, f32::INFINITY, &EASY))),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.ask(update(CHANNEL, 1.0, &[0; 32]))),
        ["max-target-out-of-range"]
    );
    assert_eq!(client.session.channel_count(), 5);
}

#[test]
fn a_smaller_max_target_is_answered_by_a_target_at_once() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, 0x1700_ffff);
    client.open(0.0, EASY, 8);
    let limit = Difficulty::new(1000.0).unwrap().target();
    let sent = client.ask(Message::UpdateChannel(UpdateChannel {
        channel_id: CHANNEL,
        nominal_hash_rate: 0.0,
        maximum_target: (&limit.to_le_bytes()).into(),
    }));
    match &sent[0] {
        MiningOwned::SetTarget(m) => assert_eq!(m.maximum_target.as_bytes(), limit.to_le_bytes()),
        other => panic!("{other}"),
    }
}

#[test]
fn standard_channels_mine_with_and_without_a_group() {
    for flags in [0, REQUIRES_STANDARD_JOBS] {
        let mut client = Client::set_up(Target::MAX, flags);
        client.publish(1, MAIN_NBITS);
        let opened = client.ask(Message::OpenStandardMiningChannel(
            OpenStandardMiningChannel {
                request_id: 1,
                user_identity: "bob".try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&EASY).into(),
            },
        ));
        assert_eq!(prefix_of(&opened).len(), USUAL_EXTRANONCE);
        let (job_id, root) = match &opened[1] {
            MiningOwned::NewMiningJob(m) => (m.job_id, m.merkle_root.clone()),
            other => panic!("{other}"),
        };
        assert_ne!(root.as_bytes(), [0; 32]);
        let sent = client.ask(Message::SubmitSharesStandard(SubmitSharesStandard {
            channel_id: CHANNEL,
            sequence_number: 1,
            job_id,
            nonce: 5,
            ntime: 1_700_000_100,
            version: 0x2000_0000,
        }));
        assert_eq!(accepted(&sent), 1, "{sent:?}");
        let next = client.publish(2, MAIN_NBITS);
        let by_group = next
            .iter()
            .any(|m| matches!(m, MiningOwned::NewExtendedMiningJob(_)));
        assert_eq!(by_group, flags == 0, "{next:?}");
        let refused = !errors(&client.open(0.0, EASY, 4)).is_empty();
        assert_eq!(refused, flags != 0);
    }
}

#[test]
fn a_group_gets_one_job_for_all_its_channels() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    for min_extranonce_size in [0, 8, 8, 16] {
        client.open(0.0, EASY, min_extranonce_size);
    }
    let sent = client.publish(2, MAIN_NBITS);
    let jobs = sent
        .iter()
        .filter(|m| matches!(m, MiningOwned::NewExtendedMiningJob(_)))
        .count();
    assert_eq!(jobs, 2, "one for each size of extranonce: {sent:?}");
    let close = |channel_id| {
        Message::CloseChannel(CloseChannel {
            channel_id,
            reason_code: "".try_into().unwrap(),
        })
    };
    client.ask(close(u32::try_from(USUAL_EXTRANONCE).unwrap()));
    assert_eq!(
        client.session.channel_count(),
        1,
        "the group of the usual size is gone"
    );
}

#[test]
fn work_that_a_lighter_tier_still_has_is_not_gone_back_to() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    client.open(0.0, EASY, 8);
    client.publish(2, MAIN_NBITS);
    for behind in [1, 2] {
        client.work_id -= behind;
        assert!(client.publish(1, MAIN_NBITS).is_empty());
    }
    client.work_id = 2;
    assert!(!client.publish(3, MAIN_NBITS).is_empty());
}

#[test]
fn the_work_of_a_client_is_that_of_all_its_channels() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert_eq!(client.session.hashrate(), Hashrate::ZERO);
    client.publish(1, MAIN_NBITS);
    client.open(1e12, EASY, 8);
    client.open(3e12, EASY, 8);
    let hashrate = client.session.hashrate().value();
    assert!((3.99e12..4.01e12).contains(&hashrate), "{hashrate}");
}

#[test]
fn time_without_work_says_nothing_of_a_miner() {
    let mut client = Client::set_up(Target::MAX, 0);
    let opened = client.open(1e12, EASY, 8);
    for _ in 0..100 {
        assert!(client.tick(600).is_empty());
    }
    let sent = client.publish(1, 0x1700_ffff);
    let moved = sent
        .iter()
        .any(|message| matches!(message, MiningOwned::SetTarget(_)));
    assert!(!moved, "{opened:?} {sent:?}");
    assert!(client.tick(5).is_empty());
}
