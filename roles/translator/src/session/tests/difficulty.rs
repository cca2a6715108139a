//! What miners are asked for where that is not simply what their channel asks.

use super::*;

/// Every second hash meets it.
fn half() -> Target {
    let mut bytes = [0xff; 32];
    bytes[31] = 0x7f;
    Target::from_le_bytes(bytes).unwrap()
}

fn told_difficulty(lines: &[String]) -> Option<f64> {
    lines
        .iter()
        .rev()
        .find_map(|line| match parse_server_message(line.as_bytes()) {
            Ok(ServerMessage::SetDifficulty(difficulty)) => Some(difficulty),
            _ => None,
        })
}

fn job_id(lines: &[String]) -> String {
    let notify = lines
        .iter()
        .rev()
        .find(|line| line.contains("mining.notify"));
    let Ok(ServerMessage::Notify(notify)) = parse_server_message(notify.expect("a job").as_bytes())
    else {
        panic!("{lines:?}")
    };
    notify.job_id.decode().into_owned()
}

#[test]
fn above_the_ceiling_shares_count_here_and_only_the_channels_reach_the_pool() {
    let mut miner = Conversation::mining(|settings| settings.hardest_target = Target::MAX);
    let heard = miner.work([9; 32], half());
    assert_eq!(told_difficulty(&heard), None, "it stays at the ceiling");
    for nonce in 0..64 {
        assert!(miner.submit("2", "00000000", nonce).contains("true"));
        let in_flight = u32::try_from(miner.session.in_flight()).unwrap();
        if in_flight > 0 {
            let last = miner.session.tally().forwarded;
            miner.event(ChannelEvent::Accepted {
                last_sequence_number: u32::try_from(last).unwrap(),
                count: 1,
            });
        }
    }
    let tally = miner.session.tally();
    assert_eq!((tally.submitted, tally.accepted), (64, 64));
    assert_eq!(tally.kept + tally.forwarded, 64);
    assert!(tally.kept > 10 && tally.forwarded > 10, "{tally:?}");
    assert_eq!(tally.accepted_work, 64 * Target::MAX.work());
    assert_eq!(
        tally.upstream_work,
        u128::from(tally.forwarded) * half().work()
    );
}

#[test]
fn a_kept_share_is_answered_at_once_whoever_acknowledges() {
    let mut miner = Conversation::mining(|settings| {
        settings.hardest_target = Target::MAX;
        settings.acknowledge = Acknowledge::Upstream;
        settings.max_in_flight = usize::MAX;
    });
    miner.work([9; 32], half());
    for nonce in 0..32 {
        let kept = miner.session.tally().kept;
        let answered = !miner.submit("2", "00000000", nonce).is_empty();
        assert_eq!(answered, miner.session.tally().kept > kept);
    }
    assert_eq!(
        miner.session.tally().told_accepted,
        miner.session.tally().kept
    );
}

#[test]
fn a_fixed_difficulty_stays_whatever_the_channel_asks() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w","fd=1000"]}"#);
    let fixed = Difficulty::new(1000.0).unwrap();
    let Some(Request::Open(open)) = miner.requests().pop() else {
        panic!("no channel was asked for")
    };
    assert_eq!(open.max_target, fixed.target());
    miner.open();
    let heard = miner.work([9; 32], fixed.target());
    assert_eq!(told_difficulty(&heard), Some(1000.0));
    let harder = Difficulty::new(9000.0).unwrap().target();
    let heard = miner.work([9; 32], harder);
    assert_eq!(told_difficulty(&heard), None, "{heard:?}");
}

/// A miner that shares its channel with others, so that the channel's target says nothing of it.
fn one_of_many() -> Conversation {
    let mut miner = Conversation::mining(|settings| {
        settings.aggregate = Some(6.0);
        settings.max_in_flight = usize::MAX;
    });
    miner.work([9; 32], Difficulty::new(1e6).unwrap().target());
    miner
}

#[test]
fn one_of_many_gets_a_difficulty_of_its_own_and_its_job_again() {
    let mut miner = one_of_many();
    let mut job = "2".to_owned();
    let mut told = 0.0;
    for nonce in 0..400 {
        miner.now.instant += Duration::from_millis(10);
        let answer = miner.submit(&job, "00000000", nonce);
        if answer.contains("mining.notify") {
            let lines = answer
                .replace("}{", "}\n{")
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>();
            told = told_difficulty(&lines).expect("a new difficulty");
            assert_ne!(job_id(&lines), job);
            assert!(!is_clean(lines.last().unwrap()), "{lines:?}");
            // The old job keeps the target that it was sent with.
            assert!(miner.submit(&job, "00000001", nonce).contains("true"));
            job = job_id(&lines);
            break;
        }
    }
    assert!(told > 0.0, "nothing was ever told");
    // What was easy enough before is not any more.
    let refused = (0..50).any(|nonce| miner.submit(&job, "00000002", nonce).contains("[23,"));
    assert!(refused);
}

#[test]
fn one_of_many_that_falls_silent_gets_easier_work() {
    let mut miner = one_of_many();
    for nonce in 0..400 {
        miner.now.instant += Duration::from_millis(10);
        miner.submit("2", "00000000", nonce);
    }
    let before = miner.session.difficulty().unwrap().value();
    let mut heard = Vec::new();
    for _ in 0..60 {
        miner.wait(11);
        heard.extend(miner.heard());
    }
    let told = told_difficulty(&heard).expect("an easier difficulty");
    assert!(told < before / 10.0, "{told} {before}");
}

#[test]
fn shares_on_a_shared_channel_name_their_worker() {
    let mut miner = Conversation::new(|settings| settings.aggregate = Some(6.0));
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["account.rig.1"]}"#);
    miner.say(r#"{"id":3,"method":"mining.authorize","params":["account.rig.2"]}"#);
    let Some(Request::Open(open)) = miner.requests().into_iter().next() else {
        panic!("no channel was asked for")
    };
    assert_eq!(&*open.user_identity, "account");
    miner.open();
    miner.work([9; 32], Target::MAX);
    miner.submit_full("account.rig.2", "1", "00000000", 1_700_000_001, 1, None);
    miner.submit_full("account.rig.1", "1", "00000000", 1_700_000_001, 2, None);
    let names: Vec<_> = miner
        .shares()
        .iter()
        .map(|share| share.worker.expect("a name").to_vec())
        .collect();
    assert_eq!(names, [b"rig.2".to_vec(), b"rig.1".to_vec()]);
}

#[test]
fn a_fixed_account_leaves_every_miner_its_own_name() {
    for (user, name) in [
        ("rig1", Some("rig1")),
        ("alice.rig1", Some("alice.rig1")),
        ("farm.rig1", Some("rig1")),
        ("farm", None),
    ] {
        let mut miner = Conversation::new(|settings| {
            settings.aggregate = Some(6.0);
            settings.user_identity = Identity::parse("farm").unwrap();
        });
        miner.event(ChannelEvent::UpstreamUp);
        miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
        miner.say(&format!(
            r#"{{"id":2,"method":"mining.authorize","params":["{user}"]}}"#
        ));
        let Some(Request::Open(open)) = miner.requests().pop() else {
            panic!("no channel was asked for")
        };
        assert_eq!(&*open.user_identity, "farm");
        miner.open();
        miner.work([9; 32], Target::MAX);
        miner.submit_full(user, "1", "00000000", 1_700_000_001, 1, None);
        let worker = miner.shares()[0].worker.map(|worker| worker.to_vec());
        assert_eq!(worker.as_deref(), name.map(str::as_bytes), "{user}");
    }
}

#[test]
fn on_a_shared_channel_nobodys_words_decide_for_the_others() {
    let mut miner = Conversation::new(|settings| {
        settings.aggregate = Some(6.0);
        settings.nominal_hashrate = Hashrate::new(1e12).unwrap();
    });
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["account.rig","th=1000000"]}"#);
    let Some(Request::Open(open)) = miner.requests().pop() else {
        panic!("no channel was asked for")
    };
    assert_eq!(open.hashrate.value(), 1e12);
    miner.open();
    // Its own difficulty is what it asked for.
    let heard = miner.work([9; 32], Target::MIN);
    let told = told_difficulty(&heard).unwrap();
    let expected = 1e18 * 10.0 / 4_294_967_296.0;
    assert!((told / expected - 1.0).abs() < 0.01, "{told} {expected}");
    miner.wait(60);
    miner.say(r#"{"id":3,"method":"mining.suggest_difficulty","params":[1e12]}"#);
    assert!(miner.requests().is_empty());
}

#[test]
fn no_wish_is_beyond_the_ceiling() {
    let ceiling = Difficulty::new(1000.0).unwrap().target();
    let mut miner = Conversation::new(|settings| settings.hardest_target = ceiling);
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w","fd=1000000"]}"#);
    let Some(Request::Open(open)) = miner.requests().pop() else {
        panic!("no channel was asked for")
    };
    assert_eq!(open.max_target, ceiling);
    miner.open();
    let heard = miner.work([9; 32], ceiling);
    assert_eq!(told_difficulty(&heard), Some(1000.0));
}

#[test]
fn an_outage_is_not_taken_for_a_slower_miner() {
    let mut miner = one_of_many();
    for nonce in 0..400 {
        miner.now.instant += Duration::from_millis(10);
        miner.submit("2", "00000000", nonce);
    }
    miner.event(ChannelEvent::UpstreamDown);
    let before = miner.session.difficulty().unwrap().value();
    for _ in 0..60 {
        miner.wait(11);
    }
    miner.heard();
    miner.event(ChannelEvent::UpstreamUp);
    miner.open();
    miner.work([9; 32], Target::MIN);
    let after = miner.session.difficulty().unwrap().value();
    assert!(after > before / 2.0, "{after} {before}");
}
