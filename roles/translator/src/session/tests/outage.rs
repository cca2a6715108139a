//! What a miner is told when no pool can be had.

use super::*;

const LOG_IN: [&str; 2] = [
    r#"{"id":1,"method":"mining.subscribe","params":[]}"#,
    r#"{"id":2,"method":"mining.authorize","params":["w","x"]}"#,
];

fn waiting() -> Conversation {
    let mut miner = Conversation::new(|settings| {
        settings.outage_message = Some(Duration::from_secs(30));
    });
    for line in LOG_IN {
        miner.say(line);
    }
    miner
}

fn messages(miner: &mut Conversation) -> usize {
    let heard = miner.heard();
    heard
        .iter()
        .filter(|line| line.contains("no pool can be reached"))
        .count()
}

#[test]
fn a_miner_is_told_once_of_each_long_outage() {
    let mut miner = waiting();
    miner.wait(29);
    assert_eq!(messages(&mut miner), 0);
    miner.wait(1);
    assert_eq!(messages(&mut miner), 1);
    miner.wait(100);
    assert_eq!(messages(&mut miner), 0);
    for _ in 0..2 {
        miner.event(ChannelEvent::UpstreamUp);
        miner.wait(100);
        assert_eq!(messages(&mut miner), 0);
        miner.event(ChannelEvent::UpstreamDown);
        miner.wait(29);
        assert_eq!(messages(&mut miner), 0);
        miner.wait(1);
        assert_eq!(messages(&mut miner), 1);
    }
}

#[test]
fn a_miner_that_has_not_subscribed_is_told_nothing() {
    let mut miner = Conversation::new(|settings| {
        settings.outage_message = Some(Duration::from_secs(30));
    });
    let silence = miner.session.next_deadline();
    miner.wait(31);
    assert_eq!(messages(&mut miner), 0);
    assert_eq!(
        miner.session.next_deadline(),
        silence,
        "no timer that spins"
    );
}
