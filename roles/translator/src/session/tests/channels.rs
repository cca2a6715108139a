//! A miner's channel: opening, loss, and what the miner hears of it.

use super::*;

#[test]
fn a_new_extranonce_prefix_is_a_clean_notify_and_nothing_else() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.work_with([9; 32], Target::MAX, &[0xdd; 5], true);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(is_clean(&heard[0]) && heard[0].contains("ddddddddd"));
    // Work under way on the same tip is still worth something: that job has its own prefix.
    assert!(miner.submit("1", "00000000", 1).contains("true"));
}

#[test]
fn a_lost_upstream_costs_the_miner_a_clean_notify_and_counts_what_was_in_flight_as_lost() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.submit("1", "00000000", 2);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: 1,
    });
    assert!(miner.event(ChannelEvent::UpstreamDown).is_empty());
    assert_eq!(
        miner.session.tally().lost_by_reason().collect::<Vec<_>>(),
        [("upstream-disconnected", 1)]
    );
    miner.requests();
    // The old job is nobody's: it is refused, and never goes to another upstream.
    assert!(miner.submit("1", "00000000", 3).contains("[21,"));
    miner.event(ChannelEvent::UpstreamUp);
    miner.open();
    assert!(miner.submit("1", "00000000", 4).contains("[21,"));
    assert_eq!(miner.rejected("upstream-gone"), 2);
    assert!(miner.shares().is_empty());
    let heard = miner.work([9; 32], Target::MAX);
    assert!(heard.len() == 1 && is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("2", "00000000", 5).contains("true"));
    assert_eq!(miner.shares()[0].sequence_number, 1);
}

#[test]
fn a_refused_channel_is_asked_for_again_ever_more_rarely_and_the_miner_stays() {
    let mut miner =
        Conversation::new(|settings| settings.idle_timeout = Duration::from_secs(1_000_000));
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#);
    miner.requests();
    let mut asked = 0;
    for _ in 0..3600 {
        if miner.session.upstream_deadline().is_none() {
            let heard = miner.event(ChannelEvent::Refused("unknown-user".into()));
            assert!(heard[0].contains("client.show_message"), "{heard:?}");
        }
        miner.wait(1);
        asked += miner.requests().len();
    }
    assert!((10..30).contains(&asked), "{asked}");
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_channel_with_too_little_extranonce_is_given_back() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#);
    miner.requests();
    miner.event(ChannelEvent::Opened {
        channel_id: CHANNEL,
        extranonce_size: 7,
    });
    assert_eq!(
        miner.requests(),
        [Request::Close {
            channel_id: CHANNEL
        }]
    );
    assert!(!miner.session.is_open());
}

#[test]
fn a_closed_channel_is_opened_again() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.requests();
    miner.event(ChannelEvent::Closed("drain".into()));
    assert_eq!(
        miner.session.tally().lost_by_reason().collect::<Vec<_>>(),
        [("channel-closed", 1)]
    );
    // A channel that lived so short counts as one that could not be opened.
    miner.wait(1);
    assert!(miner.requests().is_empty());
    miner.wait(1);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
}

#[test]
fn a_pool_that_does_not_answer_is_asked_again() {
    let mut miner = Conversation::mining(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
    miner.wait(15);
    assert!(miner.requests().is_empty());
    miner.wait(2);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
    // What comes of both requests is one channel.
    let opened = |channel_id| ChannelEvent::Opened {
        channel_id,
        extranonce_size: 8,
    };
    miner.event(opened(CHANNEL));
    miner.event(opened(CHANNEL + 1));
    assert_eq!(
        miner.requests(),
        [Request::Close {
            channel_id: CHANNEL + 1
        }]
    );
    assert!(miner.session.is_open());
}

#[test]
fn the_pool_knows_a_miner_by_the_configured_pattern() {
    for (pattern, identity) in [
        ("", "alice.rig7"),
        ("farm1", "farm1"),
        ("farm1.{worker}", "farm1.rig7"),
        ("{account}", "alice"),
    ] {
        let mut miner = Conversation::new(|settings| {
            settings.user_identity = Identity::parse(pattern).unwrap();
        });
        miner.event(ChannelEvent::UpstreamUp);
        miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
        miner.say(r#"{"id":2,"method":"mining.authorize","params":["alice.rig7"]}"#);
        let [Request::Open(open)] = &miner.requests()[..] else {
            panic!("no channel")
        };
        assert_eq!(&*open.user_identity, identity);
    }
}

#[test]
fn a_name_that_makes_an_identity_too_long_is_refused_and_another_may_be_tried() {
    let mut miner = Conversation::new(|settings| {
        settings.user_identity = Identity::parse("{user}.{user}.{user}").unwrap();
    });
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    for (length, code) in [(85, "[24,"), (84, "true")] {
        let name = "n".repeat(length);
        let heard = miner.say(&format!(
            r#"{{"id":2,"method":"mining.authorize","params":["{name}"]}}"#
        ));
        assert!(heard[0].contains(code), "{heard:?}");
    }
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
}
