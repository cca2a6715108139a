//! What a miner asks about its difficulty.

use super::*;

#[test]
fn a_suggested_difficulty_shapes_the_channel() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":256}]}"#);
    miner.say(r#"{"id":2,"method":"mining.suggest_difficulty","params":["1000"]}"#);
    miner.say(r#"{"id":3,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":4,"method":"mining.authorize","params":["w"]}"#);
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("no channel")
    };
    assert_eq!(open.hashrate.value(), 1000.0 * 4_294_967_296.0 / 10.0);
    assert_eq!(open.max_target, Difficulty::new(256.0).unwrap().target());
    assert_eq!(open.min_extranonce_size, 8);
}

#[test]
fn impossible_suggestions_are_refused_and_change_nothing() {
    let mut miner = Conversation::new(|_| ());
    for params in ["[0]", "[-1]", "[\"nan\"]", "[1e999]", "[]", "[null]"] {
        let heard = miner.say(&format!(
            r#"{{"id":5,"method":"mining.suggest_difficulty","params":{params}}}"#
        ));
        assert!(heard[0].contains("[20,"), "{params}: {heard:?}");
    }
    let zero = format!(
        r#"{{"id":5,"method":"mining.suggest_target","params":["{}"]}}"#,
        "0".repeat(64)
    );
    assert!(miner.say(&zero)[0].contains("[20,"));
    assert_eq!(miner.session.wishes.hashrate(), None);
}
