//! What the upstream is told about a miner's hashrate.

use super::*;

#[test]
fn a_pause_is_no_lower_hashrate() {
    for pace in [1, 3, 10] {
        let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
        let mine = |miner: &mut Conversation, nonces: std::ops::Range<u32>| {
            for nonce in nonces {
                miner.submit("1", "00000000", nonce);
                miner.wait(pace);
            }
        };
        mine(&mut miner, 0..600);
        assert_eq!(miner.updates().len(), 1);
        for _ in 0..60 {
            miner.wait(10);
        }
        mine(&mut miner, 600..1200);
        let told = miner.updates();
        assert!(told.is_empty(), "{pace}: {told:?}");
        // It can be told all the same when it has really become less.
        for nonce in 1200..1300 {
            miner.submit("1", "00000000", nonce);
            miner.wait(pace * 4);
        }
        assert_eq!(!miner.updates().is_empty(), pace < 10, "{pace}");
    }
}

#[test]
fn a_hashrate_far_from_the_nominal_one_is_told_within_seconds_and_again_after_a_loss() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
    for nonce in 0..3000 {
        miner.submit("1", "00000000", nonce);
        miner.now.instant += Duration::from_millis(1);
    }
    let [seen] = miner.updates()[..] else {
        panic!("one report is expected")
    };
    // Targets are met by every hash here.
    assert!((500.0..2000.0).contains(&seen.value()), "{seen}");
    miner.event(ChannelEvent::UpstreamDown);
    miner.event(ChannelEvent::UpstreamUp);
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("no channel is asked for")
    };
    assert!((500.0..2000.0).contains(&open.hashrate.value()));
}

#[test]
fn the_upstream_is_told_the_hashrate_when_it_has_changed_and_only_then() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
    let mut updates = 0;
    for second in 0..600 {
        miner.submit("1", "00000000", second);
        miner.wait(1);
        updates += miner
            .requests()
            .iter()
            .filter(|request| matches!(request, Request::Update { .. }))
            .count();
    }
    // Once the rate is known it does not change.
    assert_eq!(updates, 1);
}

#[test]
fn shares_that_the_pool_knew_already_show_no_hashrate() {
    for (reason, shown) in [
        (RejectReason::UpstreamStale, 1.0),
        (RejectReason::UpstreamDuplicate, 0.5),
    ] {
        let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
        for nonce in 0..600 {
            miner.submit("1", "00000000", nonce);
            if nonce % 2 == 0 {
                miner.event(ChannelEvent::Rejected {
                    sequence_number: nonce + 1,
                    reason,
                });
            }
            miner.wait(1);
        }
        let seen = miner.session.hashrate(miner.now).value();
        let expected = shown * Target::MAX.work() as f64;
        assert!((seen / expected - 1.0).abs() < 0.1, "{seen} {reason:?}");
    }
}
