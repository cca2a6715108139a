//! No block is lost, whatever the share is worth that it came as.

use super::*;
use crate::channel::Solved;

/// Half of all hashes are blocks.
const EASIEST_NBITS: u32 = 0x207f_ffff;

/// The hash of a share whose rolled extranonce is zero bytes.
fn hash_of(opened: &[MiningOwned], job: &Job, nonce: u32) -> [u8; 32] {
    let prefix = prefix_of(opened);
    let coinbase = [&job.coinbase[0][..], &prefix, &[0; 8], &job.coinbase[1]];
    let header = Header {
        version: job.version,
        prev_hash: job.prev_hash,
        merkle_root: header::merkle_root(header::coinbase_txid(&coinbase), &job.path),
        ntime: job.ntime,
        nbits: job.nbits,
        nonce,
    };
    header.hash()
}

/// A nonce with which this job is a block.
fn solve(opened: &[MiningOwned], job: &Job) -> u32 {
    let network = Target::from_compact(EASIEST_NBITS).unwrap();
    (0..)
        .find(|nonce| network.is_met_by(&hash_of(opened, job, *nonce)))
        .unwrap()
}

impl Client {
    fn found(&mut self) -> Vec<Solved> {
        let found = self.session.take_found().into_iter();
        found.map(|found| found.solved).collect()
    }
}

#[test]
fn a_block_is_handed_over_whatever_the_share_is_worth() {
    let mut client = Client::set_up(Difficulty::ONE.target(), 0);
    client.publish(1, EASIEST_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let job = job_of(&opened);
    let nonce = solve(&opened, &job);
    let sent = client.submit(CHANNEL, &job, nonce);
    assert_eq!(errors(&sent), ["difficulty-too-low"]);
    let found = client.session.take_found();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].solved.hash, hash_of(&opened, &job, nonce));
    assert!(!found[0].solved.late);
    assert_eq!(&*found[0].owner.account, "alice");
    client.submit(CHANNEL, &job, nonce);
    assert!(client.found().is_empty(), "it is handed over once");
}

#[test]
fn a_block_for_the_tip_before_is_offered_once_and_stays_stale() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, EASIEST_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let job = job_of(&opened);
    let nonce = solve(&opened, &job);
    let counted = client.session.take_tally().accepted;
    client.publish(2, EASIEST_NBITS);
    for expected in [1, 0] {
        assert_eq!(
            errors(&client.submit(CHANNEL, &job, nonce)),
            ["stale-share"]
        );
        let found = client.found();
        assert_eq!(found.len(), expected);
        for solved in found {
            assert!(solved.late);
            assert_eq!(solved.hash, hash_of(&opened, &job, nonce));
            assert_eq!(solved.solution.template.prev_hash, [1; 32]);
        }
    }
    assert_eq!(client.session.take_tally().accepted, counted);
    client.submit_with(CHANNEL, &job, nonce, job.version, job.ntime, &[0; 7]);
    assert!(client.found().is_empty(), "no such header");

    // Two tips later nobody could want it.
    let other = (nonce + 1..)
        .find(|nonce| {
            let network = Target::from_compact(EASIEST_NBITS).unwrap();
            network.is_met_by(&hash_of(&opened, &job, *nonce))
        })
        .unwrap();
    client.publish(3, EASIEST_NBITS);
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, other)),
        ["stale-share"]
    );
    assert!(client.found().is_empty());
}

#[test]
fn a_block_that_was_accepted_before_the_new_tip_is_not_offered_again_for_ever() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, EASIEST_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let job = job_of(&opened);
    let nonce = solve(&opened, &job);
    assert_eq!(accepted(&client.submit(CHANNEL, &job, nonce)), 1);
    client.publish(2, EASIEST_NBITS);
    for _ in 0..10 {
        client.submit(CHANNEL, &job, nonce);
    }
    // The set of what was accepted went with the tip, so once more; the node knows the block.
    assert_eq!(client.found().len(), 2);
}

#[test]
fn a_block_on_a_job_that_is_too_old_to_count_is_still_one() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, EASIEST_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let job = job_of(&opened);
    for _ in 0..70 {
        client.publish(1, EASIEST_NBITS);
    }
    let nonce = solve(&opened, &job);
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, nonce)),
        ["stale-share"]
    );
    assert_eq!(client.found().len(), 1);
}
