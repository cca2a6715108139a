//! Shares: what counts, once, and what is said of the rest.

use super::*;

#[test]
fn a_share_counts_once_and_each_fault_has_its_own_code() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, 1)),
        ["duplicate-share"]
    );
    assert_eq!(
        errors(&client.submit(CHANNEL + 1, &job, 2)),
        ["invalid-channel-id"]
    );
    let unknown = Job {
        job_id: 999,
        ..job.clone()
    };
    assert_eq!(
        errors(&client.submit(CHANNEL, &unknown, 2)),
        ["invalid-job-id"]
    );
    let mut submit = |version, ntime, extranonce: &[u8]| {
        errors(&client.submit_with(CHANNEL, &job, 3, version, ntime, extranonce))
    };
    assert_eq!(
        submit(job.version, job.ntime, &[0; 7]),
        ["bad-extranonce-size"]
    );
    assert_eq!(
        submit(job.version, job.ntime - 1, &[0; 8]),
        ["invalid-share"]
    );
    assert_eq!(
        submit(job.version, job.ntime + 7201, &[0; 8]),
        ["invalid-share"]
    );
    assert_eq!(
        submit(job.version ^ 1, job.ntime, &[0; 8]),
        ["invalid-non-rollable-version-bit"]
    );
    assert!(submit(job.version ^ 0x2000, job.ntime, &[0; 8]).is_empty());

    let second = job_of(&client.publish(1, MAIN_NBITS));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 4)), 1, "same tip");
    assert_eq!(
        accepted(&client.submit(
            CHANNEL,
            &Job {
                ntime: job.ntime,
                ..second.clone()
            },
            4
        )),
        1
    );
    client.publish(2, MAIN_NBITS);
    assert_eq!(errors(&client.submit(CHANNEL, &job, 5)), ["stale-share"]);
    let tally = client.session.take_tally();
    assert_eq!(tally.accepted, 4);
    assert_eq!(tally.rejected.iter().sum::<u64>(), 8);
}

#[test]
fn a_share_above_its_jobs_target_is_refused() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(1e15, EASY, 8));
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, 1)),
        ["difficulty-too-low"]
    );
}

#[test]
fn no_share_counts_twice_when_a_channel_gets_another_prefix() {
    let mut client = Client::set_up(Target::MAX, 0);
    // Half of all hashes are blocks here, so that no target can be harder than that.
    client.publish(1, 0x207f_ffff);
    let opened = client.open(0.0, EASY, 8);
    let first = job_of(&opened);
    let mut sent = Vec::new();
    for nonce in 0..u32::try_from(Seen::CAPACITY).unwrap() {
        let answers = client.submit(CHANNEL, &first, nonce);
        assert_eq!(accepted(&answers), 1);
        sent.extend(
            answers
                .into_iter()
                .filter(|m| !matches!(m, MiningOwned::SubmitSharesSuccess(_))),
        );
    }
    let renewed = sent.iter().find_map(|m| match m {
        MiningOwned::SetExtranoncePrefix(m) => Some(m.extranonce_prefix.as_bytes().to_vec()),
        _ => None,
    });
    assert_ne!(renewed.unwrap(), prefix_of(&opened));
    assert_eq!(
        errors(&client.submit(CHANNEL, &first, 7)),
        ["duplicate-share"]
    );
    let late = client.submit(CHANNEL, &first, 1 << 20);
    assert_eq!(
        accepted(&late),
        1,
        "a share that was under way still counts: {late:?}"
    );
    let second = Job {
        ntime: first.ntime,
        ..job_of(&sent)
    };
    let good = (0..)
        .find(|nonce| accepted(&client.submit(CHANNEL, &second, *nonce)) == 1)
        .unwrap();
    assert_eq!(
        errors(&client.submit(CHANNEL, &second, good)),
        ["duplicate-share"]
    );
}

#[test]
fn what_was_accepted_is_acknowledged_when_durable_also_if_its_channel_has_closed() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    let mut input = FrameBuffer::new();
    input
        .push(Message::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: CHANNEL,
            sequence_number: 9,
            job_id: job.job_id,
            nonce: 1,
            ntime: job.ntime,
            version: job.version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        }))
        .unwrap();
    input
        .push(Message::CloseChannel(CloseChannel {
            channel_id: CHANNEL,
            reason_code: "".try_into().unwrap(),
        }))
        .unwrap();
    let mut out = FrameBuffer::new();
    for frame in input.frames() {
        client.session.handle(frame, client.now, &mut out).unwrap();
    }
    let booked = client.session.end_turn(1, client.now, &mut out).unwrap();
    assert_eq!((&*booked[0].account, booked[0].shares), ("alice", 1));
    assert_eq!(client.session.channel_count(), 0);
    assert!(
        out.is_empty(),
        "nothing is acknowledged before it is durable"
    );
    client.session.durable(0, &mut out).unwrap();
    assert!(out.is_empty());
    client.session.durable(1, &mut out).unwrap();
    assert_eq!(accepted(&parse(out)), 1);
}

#[test]
fn nothing_counts_again_when_the_chain_returns_to_a_tip() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let before = job_of(&opened);
    assert_eq!(accepted(&client.submit(CHANNEL, &before, 1)), 1);
    assert!(!has_prefix(&client.publish(2, MAIN_NBITS)));
    let returned = client.publish(1, MAIN_NBITS);
    assert!(has_prefix(&returned), "{returned:?}");
    assert!(!has_prefix(&client.publish(3, MAIN_NBITS)));
}

fn has_prefix(messages: &[MiningOwned]) -> bool {
    messages
        .iter()
        .any(|message| matches!(message, MiningOwned::SetExtranoncePrefix(_)))
}
