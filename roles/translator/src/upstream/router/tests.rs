//! An upstream's messages, in the orders that pools send them.

use std::time::Duration;

use stratum_core::{
    binary_sv2::{Seq064K, Seq0255, Sv2Option},
    mining_sv2::{
        CloseChannel, OpenMiningChannelError, SetExtranoncePrefix, SetGroupChannel, SetTarget,
        SubmitSharesError, SubmitSharesSuccess,
    },
};
use sv2_connection::FrameBuffer;
use work::{Difficulty, Hashrate};

use super::*;
use crate::session::{ChannelEvent, OpenChannel};
use crate::upstream::Mailbox;

const GROUP: u32 = 100;

struct Pool {
    router: Router,
    registry: Arc<Registry>,
}

impl Pool {
    fn new() -> Self {
        let registry = Arc::new(Registry::default());
        Self {
            router: Router::new(Arc::clone(&registry), Arc::new(AtomicU64::new(1))),
            registry,
        }
    }

    fn say(&mut self, message: Mining<'_>) -> Result<(), UpstreamError> {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        frames
            .frames()
            .try_for_each(|frame| self.router.handle(frame))
    }

    /// A miner with a channel.
    fn open(&mut self, channel_id: u32) -> Arc<Mailbox> {
        let mailbox = Arc::default();
        let request_id =
            self.registry
                .register(Instant::now(), owner(&mailbox), &wanted(Target::MAX));
        self.open_with(request_id, channel_id, &[1, 2], 8).unwrap();
        let events: Vec<_> = mailbox.take().into_events().collect();
        assert!(
            matches!(
                events[..],
                [ChannelEvent::Opened {
                    extranonce_size: 8,
                    ..
                }]
            ),
            "{events:?}"
        );
        mailbox
    }

    fn open_with(
        &mut self,
        request_id: u32,
        channel_id: u32,
        prefix: &[u8],
        size: u16,
    ) -> Result<(), UpstreamError> {
        self.say(Mining::OpenExtendedMiningChannelSuccess(
            OpenExtendedMiningChannelSuccess {
                request_id,
                channel_id,
                target: (&Target::MAX.to_le_bytes()).into(),
                extranonce_size: size,
                extranonce_prefix: prefix.try_into().unwrap(),
                group_channel_id: GROUP,
            },
        ))
    }

    fn job(&mut self, channel_id: u32, job_id: u32, min_ntime: Option<u32>) {
        self.say(Mining::NewExtendedMiningJob(NewExtendedMiningJob {
            channel_id,
            job_id,
            min_ntime: Sv2Option::new(min_ntime),
            version: 0x2000_0000,
            version_rolling_allowed: true,
            merkle_path: Seq0255::new(vec![(&[7; 32]).into()]).unwrap(),
            coinbase_tx_prefix: (&[1, 0, 0, 0, 1][..]).try_into().unwrap(),
            coinbase_tx_suffix: (&[2][..]).try_into().unwrap(),
        }))
        .unwrap();
    }

    fn block(&mut self, channel_id: u32, job_id: u32, hash: u8) {
        self.say(Mining::SetNewPrevHash(SetNewPrevHash {
            channel_id,
            job_id,
            prev_hash: (&[hash; 32]).into(),
            min_ntime: 1000,
            nbits: 0x207f_ffff,
        }))
        .unwrap();
    }

    fn target(&mut self, channel_id: u32, target: Target) {
        self.say(Mining::SetTarget(SetTarget {
            channel_id,
            maximum_target: (&target.to_le_bytes()).into(),
        }))
        .unwrap();
    }
}

fn owner(mailbox: &Arc<Mailbox>) -> Owner {
    Owner::Miner(Arc::downgrade(mailbox))
}

fn wanted(max_target: Target) -> OpenChannel {
    OpenChannel {
        user_identity: "w".into(),
        hashrate: Hashrate::ZERO,
        max_target,
        min_extranonce_size: 8,
    }
}

fn work(mailbox: &Mailbox) -> Option<Work> {
    mailbox.take().into_events().find_map(|event| {
        if let ChannelEvent::Work(work) = event {
            Some(work)
        } else {
            None
        }
    })
}

fn hard() -> Target {
    Difficulty::new(1000.0).unwrap().target()
}

#[test]
fn a_future_job_is_work_when_its_block_comes() {
    let mut pool = Pool::new();
    let (first, second) = (pool.open(1), pool.open(2));
    pool.job(GROUP, 10, None);
    pool.job(GROUP, 11, None);
    assert!(work(&first).is_none());
    pool.block(GROUP, 10, 9);
    let (first, second) = (work(&first).unwrap(), work(&second).unwrap());
    assert!(Arc::ptr_eq(&first.job, &second.job), "a job is made once");
    assert_eq!(
        (
            first.job.upstream_id,
            first.job.prev_hash,
            first.job.min_ntime
        ),
        (10, [9; 32], 1000)
    );
    // The job that was not named is gone, and a block for it leaves nothing to mine.
    assert_eq!(pool.router.feeds[&GROUP].future.len(), 0);
    let block = SetNewPrevHash {
        channel_id: GROUP,
        job_id: 11,
        prev_hash: (&[8; 32]).into(),
        min_ntime: 1000,
        nbits: 0x207f_ffff,
    };
    let error = pool.say(Mining::SetNewPrevHash(block)).unwrap_err();
    assert!(matches!(error, UpstreamError::UnknownJob(11)), "{error}");
}

#[test]
fn a_job_for_a_group_builds_on_the_block_that_its_newest_member_was_told() {
    let mut pool = Pool::new();
    let first = pool.open(1);
    pool.job(GROUP, 10, None);
    pool.block(GROUP, 10, 9);
    drop(first);
    // A block comes while nobody is in the group, so that the group is not told; then another miner comes.
    let second = pool.open(2);
    pool.job(2, 12, None);
    pool.block(2, 12, 8);
    assert_eq!(work(&second).unwrap().job.prev_hash, [8; 32]);
    pool.job(GROUP, 13, Some(1030));
    assert_eq!(work(&second).unwrap().job.prev_hash, [8; 32]);
}

#[test]
fn a_channel_that_opens_between_a_job_and_its_block_gets_work() {
    let mut pool = Pool::new();
    let _early = pool.open(1);
    pool.job(GROUP, 10, None);
    let late = pool.open(2);
    pool.block(GROUP, 10, 9);
    assert_eq!(work(&late).unwrap().job.upstream_id, 10);
}

#[test]
fn a_channel_is_told_its_first_work_by_itself_and_later_work_with_its_group() {
    let mut pool = Pool::new();
    let mailbox = pool.open(1);
    pool.job(1, 5, None);
    pool.block(1, 5, 9);
    assert_eq!(work(&mailbox).unwrap().job.upstream_id, 5);
    // No block was ever told to the group itself.
    pool.job(GROUP, 6, Some(1030));
    let next = work(&mailbox).unwrap();
    assert_eq!(
        (next.job.upstream_id, next.job.prev_hash, next.job.min_ntime),
        (6, [9; 32], 1030)
    );
    // A job of the channel's own builds on the group's newer block.
    pool.job(GROUP, 7, None);
    pool.block(GROUP, 7, 8);
    pool.job(1, 8, Some(1060));
    assert_eq!(work(&mailbox).unwrap().job.prev_hash, [8; 32]);
}

#[test]
fn channels_that_are_told_the_same_work_one_by_one_hold_it_once() {
    let mut pool = Pool::new();
    let mailboxes = [1, 2].map(|channel| pool.open(channel));
    for (channel, job_id) in [(1, 5), (2, 5)] {
        pool.job(channel, job_id, None);
        pool.block(channel, job_id, 9);
    }
    let [first, second] = [0, 1].map(|at| work(&mailboxes[at]).unwrap().job);
    assert!(Arc::ptr_eq(&first, &second));
    // What differs in the least is another job.
    for (job_id, hash) in [(6, 9), (6, 8)] {
        pool.job(2, job_id, None);
        pool.block(2, job_id, hash);
        let next = work(&mailboxes[1]).unwrap().job;
        assert_ne!(next.id, first.id);
        assert_eq!((next.upstream_id, next.prev_hash), (job_id, [hash; 32]));
    }
}

#[test]
fn a_job_keeps_the_target_and_prefix_of_the_moment_it_became_active() {
    let mut pool = Pool::new();
    let mailbox = pool.open(1);
    pool.job(1, 5, None);
    pool.block(1, 5, 9);
    pool.target(1, hard());
    let prefix = SetExtranoncePrefix {
        channel_id: 1,
        extranonce_prefix: (&[3, 3, 3][..]).try_into().unwrap(),
    };
    pool.say(Mining::SetExtranoncePrefix(prefix)).unwrap();
    let first = work(&mailbox).unwrap();
    assert_eq!(
        (first.target, &*first.extranonce_prefix),
        (Target::MAX, &[1, 2][..])
    );
    pool.job(1, 6, Some(1000));
    let second = work(&mailbox).unwrap();
    assert_eq!(
        (second.target, &*second.extranonce_prefix),
        (hard(), &[3, 3, 3][..])
    );
    // A future job takes the target that is in force when its block comes.
    pool.job(1, 7, None);
    pool.target(GROUP, Target::MAX);
    pool.block(1, 7, 8);
    assert_eq!(work(&mailbox).unwrap().target, Target::MAX);
}

#[test]
fn a_miner_that_is_slow_to_look_finds_only_the_newest_work_and_all_its_counts() {
    let mut pool = Pool::new();
    let mailbox = pool.open(1);
    pool.job(1, 5, None);
    pool.block(1, 5, 9);
    for job in 6..100 {
        pool.job(1, job, Some(1000));
        pool.say(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
            channel_id: 1,
            last_sequence_number: job,
            new_submits_accepted_count: 2,
            new_shares_sum: 2,
        }))
        .unwrap();
    }
    let error = SubmitSharesError {
        channel_id: 1,
        sequence_number: 3,
        error_code: "stale-share".try_into().unwrap(),
    };
    pool.say(Mining::SubmitSharesError(error)).unwrap();
    let events: Vec<_> = mailbox.take().into_events().collect();
    let [
        ChannelEvent::Rejected {
            sequence_number: 3,
            reason: RejectReason::UpstreamStale,
        },
        ChannelEvent::Accepted {
            last_sequence_number: 99,
            count: 188,
        },
        ChannelEvent::Work(work),
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(work.job.upstream_id, 99);
}

#[test]
fn channels_move_between_groups_and_close_one_by_one_or_together() {
    let mut pool = Pool::new();
    let (first, second) = (pool.open(1), pool.open(2));
    let channel_ids = Seq064K::new(vec![2]).unwrap();
    pool.say(Mining::SetGroupChannel(SetGroupChannel {
        group_channel_id: 200,
        channel_ids,
    }))
    .unwrap();
    pool.job(200, 5, None);
    pool.block(200, 5, 9);
    assert!(work(&first).is_none() && work(&second).is_some());
    let close = |channel_id| {
        Mining::CloseChannel(CloseChannel {
            channel_id,
            reason_code: "drain".try_into().unwrap(),
        })
    };
    pool.say(close(200)).unwrap();
    assert!(
        matches!(second.take().into_events().next(), Some(ChannelEvent::Closed(reason)) if reason == "drain")
    );
    assert!(first.take().into_events().next().is_none());
    pool.say(close(1)).unwrap();
    assert!(matches!(
        first.take().into_events().next(),
        Some(ChannelEvent::Closed(_))
    ));
    assert!(pool.router.channels.is_empty());
}

#[test]
fn a_channel_that_moves_to_another_group_knows_the_block_that_it_was_told_of_before() {
    let mut pool = Pool::new();
    let mailbox = pool.open(1);
    pool.job(1, 5, None);
    pool.block(1, 5, 9);
    pool.job(GROUP, 6, None);
    pool.block(GROUP, 6, 8);
    let channel_ids = Seq064K::new(vec![1]).unwrap();
    pool.say(Mining::SetGroupChannel(SetGroupChannel {
        group_channel_id: 200,
        channel_ids,
    }))
    .unwrap();
    pool.job(1, 7, Some(1030));
    assert_eq!(work(&mailbox).unwrap().job.prev_hash, [8; 32]);
}

#[test]
fn channels_of_miners_that_left_are_closed_and_forgotten() {
    let mut pool = Pool::new();
    drop(pool.open(1));
    pool.job(GROUP, 5, None);
    pool.block(GROUP, 5, 9);
    assert!(pool.router.channels.is_empty());
    // Left before the answer came.
    let request_id =
        pool.registry
            .register(Instant::now(), owner(&Arc::default()), &wanted(Target::MAX));
    pool.open_with(request_id, 2, &[], 8).unwrap();
    // Leaves in the very moment.
    let mailbox = Arc::default();
    let request_id = pool
        .registry
        .register(Instant::now(), owner(&mailbox), &wanted(Target::MAX));
    assert!(mailbox.leave().opened().is_none());
    pool.open_with(request_id, 3, &[], 8).unwrap();
    assert_eq!(*pool.router.unwanted(), [2, 3]);
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut pool = Pool::new();
    let error = pool.open_with(77, 2, &[], 8).unwrap_err();
    assert!(matches!(error, UpstreamError::Unasked), "{error}");
    // The same for a second answer.
    let _miner = pool.open(1);
    let error = pool.open_with(1, 2, &[], 8).unwrap_err();
    assert!(matches!(error, UpstreamError::Unasked), "{error}");
}

#[test]
fn an_upstream_that_answers_nobody_is_noticed() {
    let registry = Registry::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(registry.owing_for(at(100)), Duration::ZERO);
    let mailbox = Arc::default();
    let first = registry.register(start, owner(&mailbox), &wanted(Target::MAX));
    let second = registry.register(at(20), owner(&mailbox), &wanted(Target::MAX));
    assert_eq!(registry.owing_for(at(30)), Duration::from_secs(30));
    assert!(registry.answer(at(40), first).is_some());
    assert_eq!(registry.owing_for(at(50)), Duration::from_secs(10));
    assert!(registry.answer(at(60), second).is_some());
    assert_eq!(registry.owing_for(at(100)), Duration::ZERO);
}

#[test]
fn a_target_that_cannot_be_ends_the_connection() {
    for max_target in [Target::MAX, hard()] {
        let mut pool = Pool::new();
        let mailbox = Arc::default();
        let request_id =
            pool.registry
                .register(Instant::now(), owner(&mailbox), &wanted(max_target));
        pool.open_with(request_id, 1, &[1], 8).unwrap();
        let opened = mailbox.take().opened().is_some();
        // Easier than what was asked for.
        assert_eq!(opened, max_target == Target::MAX);
        assert_eq!(pool.router.unwanted().len(), usize::from(!opened));
    }
    let mut pool = Pool::new();
    let _miner = pool.open(1);
    let message = SetTarget {
        channel_id: GROUP,
        maximum_target: (&[0; 32]).into(),
    };
    let error = pool.say(Mining::SetTarget(message)).unwrap_err();
    assert!(
        matches!(error, UpstreamError::Impossible("target")),
        "{error}"
    );
}

#[test]
fn a_miner_that_wants_easier_work_than_it_wanted_at_first_gets_it() {
    let mut pool = Pool::new();
    let mailbox = Arc::default();
    let request_id = pool
        .registry
        .register(Instant::now(), owner(&mailbox), &wanted(hard()));
    let target = hard().to_le_bytes();
    pool.say(Mining::OpenExtendedMiningChannelSuccess(
        OpenExtendedMiningChannelSuccess {
            request_id,
            channel_id: 1,
            target: (&target).into(),
            extranonce_size: 8,
            extranonce_prefix: (&[1][..]).try_into().unwrap(),
            group_channel_id: GROUP,
        },
    ))
    .unwrap();
    pool.target(1, Target::MAX);
    pool.job(1, 5, None);
    pool.block(1, 5, 9);
    assert_eq!(work(&mailbox).unwrap().target, Target::MAX);
}

#[test]
fn a_prefix_that_does_not_fit_ends_the_connection() {
    let mut pool = Pool::new();
    let _miner = pool.open(1);
    let message = SetExtranoncePrefix {
        channel_id: 1,
        extranonce_prefix: (&[0; 25][..]).try_into().unwrap(),
    };
    let error = pool.say(Mining::SetExtranoncePrefix(message)).unwrap_err();
    assert!(matches!(error, UpstreamError::Impossible(_)), "{error}");
}

#[test]
fn ever_new_groups_are_not_remembered() {
    let mut pool = Pool::new();
    let _miner = pool.open(1);
    for group_channel_id in 1000..2000 {
        let channel_ids = Seq064K::new(vec![1]).unwrap();
        pool.say(Mining::SetGroupChannel(SetGroupChannel {
            group_channel_id,
            channel_ids,
        }))
        .unwrap();
    }
    let feeds = pool.router.feeds.len();
    assert!(feeds <= 2 + MAX_IDLE_FEEDS, "{feeds}");
}

#[test]
fn a_refusal_reaches_the_miner_that_asked() {
    let mut pool = Pool::new();
    let mailbox = Arc::default();
    let request_id = pool
        .registry
        .register(Instant::now(), owner(&mailbox), &wanted(Target::MAX));
    let error_code = "unknown-user".try_into().unwrap();
    pool.say(Mining::OpenMiningChannelError(OpenMiningChannelError {
        request_id,
        error_code,
    }))
    .unwrap();
    assert!(
        matches!(mailbox.take().into_events().next(), Some(ChannelEvent::Refused(code)) if code == "unknown-user")
    );
}

#[test]
fn an_extranonce_that_cannot_be_is_refused() {
    let mut pool = Pool::new();
    let mailbox = Arc::default();
    let request_id = pool
        .registry
        .register(Instant::now(), owner(&mailbox), &wanted(Target::MAX));
    pool.open_with(request_id, 1, &[0; 30], 8).unwrap();
    assert!(matches!(
        mailbox.take().into_events().next(),
        Some(ChannelEvent::Refused(_))
    ));
    assert_eq!(*pool.router.unwanted(), [1]);
}

#[test]
fn what_a_client_would_say_ends_the_connection() {
    let mut pool = Pool::new();
    let close = stratum_core::mining_sv2::UpdateChannel {
        channel_id: 1,
        nominal_hash_rate: 1.0,
        maximum_target: (&[1; 32]).into(),
    };
    assert!(matches!(
        pool.say(Mining::UpdateChannel(close)),
        Err(UpstreamError::Unexpected(_))
    ));
}

#[test]
fn no_frame_makes_the_router_panic() {
    use proptest::prelude::*;
    proptest!(|(frames: Vec<(u8, Vec<u8>)>)| {
        let mut pool = Pool::new();
        let _mailbox = pool.open(1);
        for (message_type, mut payload) in frames {
            let frame = Frame { extension_type: 0, channel_bit: false, message_type, payload: &mut payload };
            let _ = pool.router.handle(frame);
        }
    });
}
