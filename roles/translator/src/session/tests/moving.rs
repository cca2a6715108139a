//! A planned move from one upstream connection to another.

use super::*;

impl Conversation {
    pub(super) fn leaving_event(&mut self, event: ChannelEvent) -> Vec<String> {
        self.session
            .on_leaving_event(self.now, event, &mut self.out);
        self.heard()
    }

    /// What the miner hears of a move, and what becomes of the connection that is left.
    pub(super) fn move_upstream(&mut self) -> (Vec<String>, Left) {
        let left = self.session.move_upstream(self.now, &mut self.out);
        (self.heard(), left)
    }

    /// The shares that went to the upstream that is left, and the channels that were closed there.
    fn farewells(&mut self) -> (Vec<u32>, Vec<u32>) {
        let farewells = std::mem::take(&mut self.out.farewells);
        let shares = farewells.iter().filter_map(|request| match request {
            Request::Submit(share) => Some(share.sequence_number),
            _ => None,
        });
        let closed = farewells.iter().filter_map(|request| match request {
            Request::Close { channel_id } => Some(*channel_id),
            _ => None,
        });
        (shares.collect(), closed.collect())
    }
}

fn accepted(last_sequence_number: u32, count: u64) -> ChannelEvent {
    ChannelEvent::Accepted {
        last_sequence_number,
        count,
    }
}

#[test]
fn a_move_costs_the_miner_a_clean_notify_and_no_share() {
    let mut miner = Conversation::mining(|_| ());
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert_eq!(miner.shares().len(), 1);
    assert!(miner.move_upstream().0.is_empty());
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
    // There is no other work yet, so that this is still good.
    assert!(miner.submit("1", "00000000", 2).contains("true"));
    miner.open();
    let heard = miner.work([9; 32], Target::MAX);
    assert!(heard.len() == 1 && is_clean(&heard[0]), "{heard:?}");
    // Found before the miner heard of it.
    assert!(miner.submit("1", "00000000", 3).contains("true"));
    assert!(miner.submit("2", "00000000", 4).contains("true"));
    assert_eq!(miner.farewells(), (vec![2, 3], vec![]));
    assert_eq!(miner.shares()[0].sequence_number, 1);
    miner.leaving_event(accepted(3, 3));
    miner.event(accepted(1, 1));
    assert!(miner.session.is_leaving());
    miner.wait(6);
    assert_eq!(miner.farewells(), (vec![], vec![CHANNEL]));
    assert!(!miner.session.is_leaving());
    let tally = miner.session.tally();
    assert_eq!((tally.submitted, tally.accepted), (4, 4));
    // From now on nobody takes it.
    assert!(miner.submit("1", "00000000", 5).contains("[21,"));
}

#[test]
fn the_connection_that_is_left_gives_work_until_the_other_does() {
    let mut miner = Conversation::mining(|_| ());
    miner.move_upstream();
    let Some(Request::Open(_)) = miner.requests().pop() else {
        panic!("no channel was asked for")
    };
    let left = miner.next_work([8; 32], Target::MAX);
    let heard = miner.leaving_event(ChannelEvent::Work(left));
    assert!(heard.len() == 1 && is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("2", "00000000", 1).contains("true"));
    assert_eq!(miner.farewells().0, [1]);
    miner.open();
    miner.work([8; 32], Target::MAX);
    let late = miner.next_work([8; 32], Target::MAX);
    assert!(miner.leaving_event(ChannelEvent::Work(late)).is_empty());
}

#[test]
fn what_the_connection_that_is_left_does_not_answer_is_lost() {
    for (end, reason) in [
        (Some(ChannelEvent::UpstreamDown), "upstream-disconnected"),
        (Some(ChannelEvent::Closed("drain".into())), "channel-closed"),
        (None, "outcome-unknown"),
    ] {
        let mut miner = Conversation::mining(|_| ());
        miner.submit("1", "00000000", 1);
        miner.move_upstream();
        miner.open();
        miner.work([9; 32], Target::MAX);
        miner.wait(6);
        assert!(
            miner.session.is_leaving(),
            "it has something to answer still"
        );
        match end {
            Some(event) => drop(miner.leaving_event(event)),
            None => miner.wait(10),
        }
        assert!(!miner.session.is_leaving());
        let lost: Vec<_> = miner.session.tally().lost_by_reason().collect();
        assert_eq!(lost, [(reason, 1)]);
    }
}

#[test]
fn a_second_move_before_the_first_gave_work_changes_nothing_for_the_miner() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    assert_eq!(miner.move_upstream().1, Left::InUse);
    miner.event(ChannelEvent::Refused("unknown-user".into()));
    assert_eq!(miner.move_upstream().1, Left::Done(None));
    miner.open();
    assert_eq!(miner.move_upstream().1, Left::Done(Some(CHANNEL)));
    assert!(miner.submit("1", "00000000", 2).contains("true"));
    assert_eq!(miner.farewells(), (vec![2], vec![]));
    assert_eq!(miner.session.tally().lost(), 0);
}

#[test]
fn a_second_move_after_the_first_gave_work_ends_what_was_left_before() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.move_upstream();
    miner.open();
    miner.work([9; 32], Target::MAX);
    assert_eq!(miner.move_upstream().1, Left::InUse);
    assert_eq!(miner.farewells(), (vec![], vec![CHANNEL]));
    assert_eq!(miner.session.tally().lost(), 1);
    assert!(miner.submit("2", "00000000", 2).contains("true"));
}

#[test]
fn a_stuck_connection_holds_up_nobody_who_has_left_it() {
    let mut miner = Conversation::mining(|_| ());
    miner.move_upstream();
    assert!(miner.session.works_on_left_channel());
    miner.open();
    miner.work([9; 32], Target::MAX);
    miner.session.left_connection_is_stuck();
    assert!(miner.submit("1", "00000000", 1).contains("[21,"));
    assert!(miner.submit("2", "00000000", 2).contains("true"));
}

#[test]
fn on_another_tip_too_the_channel_that_is_left_takes_what_was_under_way() {
    let mut miner = Conversation::mining(|_| ());
    miner.move_upstream();
    miner.open();
    miner.work([1; 32], Target::MAX);
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert_eq!(miner.farewells().0, [1]);
    miner.work([2; 32], Target::MAX);
    assert!(miner.submit("1", "00000000", 2).contains("[21,"));
}
