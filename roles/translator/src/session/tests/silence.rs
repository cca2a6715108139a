//! How long a miner may say nothing.

use super::*;

#[test]
fn a_silent_miner_is_let_go() {
    let mut miner = Conversation::new(|_| ());
    miner.wait(59);
    assert_eq!(miner.out.end, None);
    miner.wait(1);
    assert_eq!(miner.out.end, Some(EndReason::SetupTimeout));

    let mut miner = Conversation::mining(|_| ());
    miner.wait(899);
    assert_eq!(miner.out.end, None);
    miner.submit("1", "00000000", 1);
    miner.wait(899);
    assert_eq!(miner.out.end, None);
    miner.wait(1);
    assert_eq!(miner.out.end, Some(EndReason::Idle));
}

#[test]
fn while_it_is_not_read_a_miner_is_not_silent() {
    let mut miner = Conversation::mining(|_| ());
    for _ in 0..3 {
        miner.now.instant += Duration::from_secs(800);
        miner.session.not_listening(miner.now);
        miner.wait(100);
    }
    assert_eq!(miner.out.end, None);
}
