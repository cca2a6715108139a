//! What a miner asks about its difficulty.

use super::*;
use crate::{UserAgent, UserAgents};

const SUBSCRIBE: &str = r#"{"id":1,"method":"mining.subscribe","params":["NiceHash/1.0.0"]}"#;
const AUTHORIZE: &str = r#"{"id":2,"method":"mining.authorize","params":["account.worker","x"]}"#;

/// A miner with an upstream and no channel yet.
fn connected(change: impl FnOnce(&mut Settings)) -> Conversation {
    let mut miner = Conversation::new(change);
    miner.event(ChannelEvent::UpstreamUp);
    miner
}

fn nicehash(settings: &mut Settings) {
    settings.user_agents = UserAgents::new(&[UserAgent {
        pattern: "NiceHash/".into(),
        minimum_difficulty: 500_000.0,
    }]);
}

fn suggest(difficulty: &str) -> String {
    format!(r#"{{"id":5,"method":"mining.suggest_difficulty","params":[{difficulty}]}}"#)
}

fn authorize(password: &str) -> String {
    format!(r#"{{"id":5,"method":"mining.authorize","params":["account.worker","{password}"]}}"#)
}

/// The hashrate at which a share of this difficulty comes every ten seconds.
fn rate(difficulty: f64) -> f64 {
    difficulty * 4_294_967_296.0 / 10.0
}

fn target(difficulty: f64) -> Target {
    Difficulty::new(difficulty).unwrap().target()
}

/// The hashrate and the limit of the one request that there is.
fn opened(miner: &mut Conversation) -> (f64, Target) {
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("one request for a channel is expected")
    };
    (open.hashrate.value(), open.max_target)
}

fn updated(miner: &mut Conversation) -> (f64, Target) {
    let requests = miner.requests();
    let [
        Request::Update {
            channel_id: CHANNEL,
            hashrate,
            max_target,
        },
    ] = &requests[..]
    else {
        panic!("one update is expected: {requests:?}")
    };
    (hashrate.value(), *max_target)
}

#[test]
fn a_suggested_difficulty_shapes_the_channel() {
    let mut miner = connected(|_| ());
    miner.say(r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":256}]}"#);
    miner.say(r#"{"id":2,"method":"mining.suggest_difficulty","params":["1000"]}"#);
    miner.say(SUBSCRIBE);
    miner.say(AUTHORIZE);
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("no channel")
    };
    assert_eq!(open.hashrate.value(), rate(1000.0));
    assert_eq!(open.max_target, target(256.0));
    assert_eq!(open.min_extranonce_size, 8);
}

#[test]
fn a_suggested_target_is_a_suggested_difficulty() {
    let mut miner = connected(|_| ());
    let line = format!(
        r#"{{"id":5,"method":"mining.suggest_target","params":["000000000fff{}"]}}"#,
        "f".repeat(52)
    );
    assert!(miner.say(&line)[0].contains("true"));
    miner.say(SUBSCRIBE);
    miner.say(AUTHORIZE);
    let (hashrate, _) = opened(&mut miner);
    assert!((hashrate / rate(16.0) - 1.0).abs() < 0.001, "{hashrate}");
}

#[test]
fn a_password_shapes_the_channel_before_it_opens() {
    for (password, hashrate, max_target) in [
        ("x", 0.0, Target::MAX),
        ("d=1000", rate(1000.0), Target::MAX),
        ("x; th=1.5", 1.5e12, Target::MAX),
        ("fd=64,x", rate(64.0), target(64.0)),
        ("d=1,fd=64,th=2", 2e12, target(64.0)),
        ("d=0,fd=-1,th=inf", 0.0, Target::MAX),
    ] {
        let mut miner = connected(|_| ());
        miner.say(SUBSCRIBE);
        assert!(miner.say(&authorize(password))[0].contains("true"));
        assert_eq!(opened(&mut miner), (hashrate, max_target), "{password}");
    }
}

#[test]
fn a_password_leaves_no_trace() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.say(&authorize("hunter2,d=5"));
    assert!(heard[0].contains("true"));
    let requests = miner.requests();
    let seen = format!("{:?} {heard:?} {requests:?}", miner.session);
    assert!(!seen.contains("hunter2"), "{seen}");
}

#[test]
fn a_market_gets_no_difficulty_below_its_own_minimum() {
    let mut miner = connected(nicehash);
    miner.say(SUBSCRIBE);
    miner.say(&authorize("d=100"));
    let (_, max_target) = opened(&mut miner);
    assert_eq!(max_target, target(500_000.0));
    assert!(max_target.sv1_difficulty().value() >= 500_000.0);
    // A miner of another kind is not concerned.
    let mut miner = connected(nicehash);
    miner.say(&SUBSCRIBE.replace("NiceHash/1.0.0", "cgminer/4.12.0"));
    miner.say(AUTHORIZE);
    assert_eq!(opened(&mut miner).1, Target::MAX);
}

#[test]
fn the_operators_floor_holds_whatever_a_miner_asks() {
    let mut miner = connected(|settings| settings.max_target = target(1000.0));
    miner.say(SUBSCRIBE);
    miner.say(&authorize("fd=1"));
    assert_eq!(opened(&mut miner).1, target(1000.0));
}

#[test]
fn what_is_asked_while_the_channel_opens_is_told_when_it_is_open() {
    let mut miner = connected(|_| ());
    miner.say(SUBSCRIBE);
    miner.say(AUTHORIZE);
    assert_eq!(opened(&mut miner), (0.0, Target::MAX));
    assert!(miner.say(&suggest("0.0001"))[0].contains("true"));
    assert!(miner.requests().is_empty());
    miner.open();
    assert_eq!(updated(&mut miner), (rate(0.0001), Target::MAX));
}

#[test]
fn what_is_asked_of_an_open_channel_reaches_the_pool() {
    let mut miner = Conversation::mining(|_| ());
    assert!(miner.say(&suggest("2048"))[0].contains("true"));
    assert_eq!(updated(&mut miner), (rate(2048.0), Target::MAX));
    // What the pool knows already is not told again.
    miner.wait(10);
    assert!(miner.say(&suggest("2048"))[0].contains("true"));
    assert!(miner.requests().is_empty());
    // A limit leaves the hashrate as it was told.
    let heard = miner.say(r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":512}]}"#);
    assert!(
        heard[0].contains(r#""minimum-difficulty":true"#),
        "{heard:?}"
    );
    assert_eq!(updated(&mut miner), (rate(2048.0), target(512.0)));
    // A password counts more than a suggestion, also where it comes later.
    miner.wait(10);
    miner.say(&authorize("d=4096"));
    assert_eq!(updated(&mut miner), (rate(4096.0), target(512.0)));
}

#[test]
fn a_miner_that_asks_without_end_is_told_to_the_pool_once_a_second() {
    let mut miner = Conversation::mining(|_| ());
    for difficulty in 1..=1000 {
        assert!(miner.say(&suggest(&difficulty.to_string()))[0].contains("true"));
    }
    assert_eq!(updated(&mut miner).0, rate(1.0));
    assert_eq!(
        miner.session.next_deadline(),
        miner.now.instant + Duration::from_secs(1)
    );
    miner.wait(1);
    assert_eq!(updated(&mut miner).0, rate(1000.0));
    miner.wait(10);
    assert!(miner.requests().is_empty());
}

#[test]
fn a_suggestion_stands_until_the_shares_show_something_else() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
    miner.say(&suggest("1"));
    assert_eq!(updated(&mut miner).0, rate(1.0));
    for nonce in 0..60 {
        miner.submit("1", "00000000", nonce);
        miner.wait(1);
    }
    let told = miner.updates();
    assert!(
        told.len() == 1 && told[0].value() < 10.0,
        "every hash is a share here: {told:?}"
    );
}

#[test]
fn impossible_wishes_are_refused_and_change_nothing() {
    let mut miner = Conversation::new(|_| ());
    for params in [
        "0", "-1", "\"nan\"", "\"inf\"", "1e999", "1e300", "", "null", "\"x\"", "[1]", "{}",
    ] {
        let heard = miner.say(&suggest(params));
        assert!(heard[0].contains("[20,"), "{params}: {heard:?}");
        let heard = miner.say(&format!(r#"{{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{{"minimum-difficulty.value":{}}}]}}"#, if params.is_empty() { "null" } else { params }));
        assert!(!heard[0].contains("true"), "{params}: {heard:?}");
    }
    for target in [
        "0".repeat(64),
        "f".repeat(63),
        "f".repeat(66),
        "0x".into(),
        "zz".repeat(32),
    ] {
        let line = format!(r#"{{"id":5,"method":"mining.suggest_target","params":["{target}"]}}"#);
        assert!(miner.say(&line)[0].contains("[20,"), "{target}");
    }
    assert!(miner.session.wishes.hashrate().is_none() && miner.session.wishes.floor().is_none());
}
