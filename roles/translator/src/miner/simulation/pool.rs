//! A pool that keeps the rules of SV2, and uses the freedom that they give it. It checks every share itself.

use std::collections::{BTreeMap, HashSet, VecDeque};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use stratum_core::binary_sv2::{Seq064K, Seq0255, Sv2Option, U256};
use stratum_core::mining_sv2::{
    CloseChannel, NewExtendedMiningJob, OpenExtendedMiningChannel,
    OpenExtendedMiningChannelSuccess, OpenMiningChannelError, SetExtranoncePrefix, SetGroupChannel,
    SetNewPrevHash, SetTarget, SubmitSharesError, SubmitSharesExtended, SubmitSharesSuccess,
};
use stratum_core::parsers_sv2::Mining;
use work::{Header, Target, header};

use crate::upstream::Wire;

const NBITS: u32 = 0x207f_ffff;
const COINBASE: [&[u8]; 2] = [&[1, 0, 0, 0, 1, 2], &[3, 4]];
const SIBLING: [u8; 32] = [7; 32];

/// The time of every job.
pub(super) const NTIME: u32 = 1_700_000_000;

/// Which miner a share is from: its extranonce1.
pub(super) type MinerId = [u8; 4];

/// What the pool has told of a miner's shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) work: u128,
}

/// What all connections to the pool have in common.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) accounts: BTreeMap<MinerId, Account>,
    pub(super) received: u64,
}

pub(super) struct Pool {
    wire: Wire,
    rules: Rules,
    groups: [u32; 2],
    last_id: u32,
    tip: u8,
    openings: VecDeque<Opening>,
    channels: BTreeMap<u32, Channel>,
}

/// What the pool does beside mining by the book.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// Of so many shares, one is refused although nothing is wrong with it. Zero: none.
    pub(super) refuses_one_in: u32,
    /// Answers may come in another order than their shares.
    pub(super) disorderly: bool,
    /// Requests for channels may be refused.
    pub(super) refuses_channels: bool,
    /// Answers mean nothing.
    pub(super) lies: bool,
}

struct Opening {
    request_id: u32,
    max_target: Target,
    size: u16,
}

struct Channel {
    group: u32,
    target: Target,
    max_target: Target,
    prefix: Vec<u8>,
    prefixes: u8,
    size: u16,
    jobs: BTreeMap<u32, Job>,
    /// Future jobs are for a block that has not come.
    tip: Option<u8>,
    last_sequence_number: u32,
    headers: HashSet<[u8; 32]>,
    unanswered: VecDeque<Share>,
    /// Judged together, to be answered after those that come next.
    late: Vec<Share>,
}

/// A job with what was in force when it became active.
#[derive(Clone)]
struct Job {
    target: Target,
    prefix: Vec<u8>,
    tip: u8,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    sequence_number: u32,
    miner: MinerId,
    /// The work that is credited, or the code of refusal.
    verdict: Result<u128, &'static str>,
}

impl Pool {
    pub(super) fn new(wire: Wire, rules: Rules) -> Self {
        Self {
            wire,
            rules,
            groups: [1, 2],
            last_id: 2,
            tip: 1,
            openings: VecDeque::new(),
            channels: BTreeMap::new(),
        }
    }

    /// Whether the translator has let go of the connection.
    pub(super) fn is_left(&self) -> bool {
        self.wire.is_left()
    }

    /// From now on it does what it is asked.
    pub(super) fn calm_down(&mut self) {
        self.rules = Rules {
            lies: self.rules.lies,
            ..Rules::default()
        };
    }

    /// All get work that any hash is good for.
    pub(super) fn ease(&mut self) {
        let ids: Vec<u32> = self.channels.keys().copied().collect();
        for id in ids {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            channel.target = channel.max_target;
            self.tell_target(id);
            self.block_for(id);
        }
    }

    pub(super) fn open_channels(&self) -> usize {
        self.channels.len()
    }

    /// Reads so many messages at most.
    pub(super) fn read(&mut self, most: usize, rng: &mut StdRng, ledger: &mut Ledger) {
        let (openings, channels) = (&mut self.openings, &mut self.channels);
        let (rules, mut updated) = (&self.rules, Vec::new());
        self.wire.hear(most, |message, worker| match message {
            Mining::OpenExtendedMiningChannel(open) => openings.push_back(Opening::new(open)),
            Mining::SubmitSharesExtended(share) => {
                ledger.received += 1;
                // A channel that the pool has closed meanwhile is nobody's fault.
                if let Some(channel) = channels.get_mut(&share.channel_id) {
                    channel.take(&share, worker, rules, rng);
                }
            }
            Mining::UpdateChannel(update) => {
                assert!(update.nominal_hash_rate.is_finite());
                if let Some(channel) = channels.get_mut(&update.channel_id) {
                    channel.max_target = limit(update.maximum_target);
                    updated.push(update.channel_id);
                }
            }
            Mining::CloseChannel(close) => {
                channels.remove(&close.channel_id);
            }
            other => panic!("a pool is not told {other}"),
        });
        for id in updated {
            self.keep_limit(id);
        }
    }

    /// A target easier than the client takes is changed at once.
    fn keep_limit(&mut self, id: u32) {
        if let Some(channel) = self.channels.get_mut(&id)
            && channel.target > channel.max_target
        {
            channel.target = channel.max_target;
            self.tell_target(id);
        }
    }

    fn tell_target(&mut self, id: u32) {
        if let Some(channel) = self.channels.get(&id) {
            let target = channel.target.to_le_bytes();
            self.say(Mining::SetTarget(SetTarget {
                channel_id: id,
                maximum_target: (&target).into(),
            }));
        }
    }

    pub(super) fn read_updates(&mut self) {
        self.wire
            .hear_updates(|message| assert!(matches!(message, Mining::UpdateChannel(_))));
    }

    /// Answers the oldest request for a channel, if there is one.
    pub(super) fn answer_opening(&mut self, rng: &mut StdRng) {
        let Some(opening) = self.openings.pop_front() else {
            return;
        };
        if self.rules.refuses_channels && rng.random_ratio(1, 4) {
            return self.say(Mining::OpenMiningChannelError(OpenMiningChannelError {
                request_id: opening.request_id,
                error_code: "unknown-user".try_into().unwrap(),
            }));
        }
        let id = self.new_id();
        let channel = Channel {
            group: self.groups[0],
            target: opening.max_target,
            max_target: opening.max_target,
            prefix: id.to_be_bytes().to_vec(),
            prefixes: 0,
            size: opening.size + rng.random_range(0..4),
            jobs: BTreeMap::new(),
            tip: None,
            last_sequence_number: 0,
            headers: HashSet::new(),
            unanswered: VecDeque::new(),
            late: Vec::new(),
        };
        self.say(Mining::OpenExtendedMiningChannelSuccess(
            OpenExtendedMiningChannelSuccess {
                request_id: opening.request_id,
                channel_id: id,
                target: (&channel.target.to_le_bytes()).into(),
                extranonce_size: channel.size,
                extranonce_prefix: channel.prefix.as_slice().try_into().unwrap(),
                group_channel_id: channel.group,
            },
        ));
        self.channels.insert(id, channel);
        self.block_for(id);
    }

    /// Answers some shares of every channel.
    pub(super) fn answer_shares(&mut self, most: usize, rng: &mut StdRng, ledger: &mut Ledger) {
        let ids: Vec<u32> = self.channels.keys().copied().collect();
        for id in ids {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            let late = std::mem::take(&mut channel.late);
            let count = rng.random_range(0..=most).min(channel.unanswered.len());
            let mut batch: Vec<Share> = channel.unanswered.drain(..count).collect();
            if self.rules.disorderly {
                let held_back = |share: &mut Share| {
                    // All accepted ones of a batch are accepted together.
                    rng.random_bool(if share.verdict.is_ok() { 0.0 } else { 0.5 })
                };
                channel.late.extend(batch.extract_if(.., held_back));
                if rng.random_bool(0.2) {
                    channel.late.append(&mut batch);
                }
            }
            if self.rules.lies {
                self.lie(id, rng);
                continue;
            }
            self.answer(id, &batch, ledger);
            self.answer(id, &late, ledger);
        }
    }

    /// Answers full batches alone, as SRI's pool does. Gives how many shares it has answered.
    pub(super) fn answer_batches(&mut self, size: usize, ledger: &mut Ledger) -> usize {
        let mut answered = 0;
        let ids: Vec<u32> = self.channels.keys().copied().collect();
        for id in ids {
            while let Some(channel) = self.channels.get_mut(&id)
                && channel.unanswered.len() >= size
            {
                let batch: Vec<Share> = channel.unanswered.drain(..size).collect();
                answered += batch.len();
                self.answer(id, &batch, ledger);
            }
        }
        answered
    }

    /// Answers the oldest share of each channel.
    pub(super) fn answer_one_of_each(&mut self, ledger: &mut Ledger) {
        let ids: Vec<u32> = self.channels.keys().copied().collect();
        for id in ids {
            let channel = self.channels.get_mut(&id);
            if let Some(share) = channel.and_then(|channel| channel.unanswered.pop_front()) {
                self.answer(id, &[share], ledger);
            }
        }
    }

    /// Answers for shares that were answered before, that were never sent, or that are many more than there were.
    fn lie(&mut self, channel_id: u32, rng: &mut StdRng) {
        self.say(Mining::SubmitSharesError(SubmitSharesError {
            channel_id,
            sequence_number: rng.random_range(0..30),
            error_code: "no-reason".try_into().unwrap(),
        }));
        self.say(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
            channel_id,
            last_sequence_number: *[rng.random_range(0..30), rng.random()].choose(rng).unwrap(),
            new_submits_accepted_count: *[0, 1, 3, u32::MAX].choose(rng).unwrap(),
            new_shares_sum: rng.random(),
        }));
    }

    fn answer(&mut self, channel_id: u32, batch: &[Share], ledger: &mut Ledger) {
        let (accepted, refused): (Vec<&Share>, Vec<&Share>) =
            batch.iter().partition(|share| share.verdict.is_ok());
        for share in refused {
            self.refuse(channel_id, share, ledger);
        }
        if let Some(last) = accepted.last() {
            accepted.iter().for_each(|share| ledger.credit(share));
            self.say(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
                channel_id,
                last_sequence_number: last.sequence_number,
                new_submits_accepted_count: u32::try_from(accepted.len()).unwrap(),
                new_shares_sum: 1,
            }));
        }
    }

    fn refuse(&mut self, channel_id: u32, share: &Share, ledger: &mut Ledger) {
        let Err(code) = share.verdict else { return };
        ledger.accounts.entry(share.miner).or_default().refused += 1;
        self.say(Mining::SubmitSharesError(SubmitSharesError {
            channel_id,
            sequence_number: share.sequence_number,
            error_code: code.try_into().unwrap(),
        }));
    }

    /// Another block, told to one group or to each channel.
    pub(super) fn new_block(&mut self, rng: &mut StdRng) {
        self.tip = self.tip.wrapping_add(1);
        if rng.random_bool(0.5) {
            for group in self.groups {
                self.block_for(group);
            }
        } else {
            let ids: Vec<u32> = self.channels.keys().copied().collect();
            ids.into_iter().for_each(|id| self.block_for(id));
        }
    }

    /// Another job on the same block.
    pub(super) fn new_job(&mut self, rng: &mut StdRng) {
        let Some(id) = self.some_address(rng) else {
            return;
        };
        let job_id = self.new_id();
        self.say(job(id, job_id, Some(NTIME)));
        self.activate(id, job_id);
    }

    /// Other targets for later jobs.
    pub(super) fn set_target(&mut self, rng: &mut StdRng) {
        let Some(id) = self.some_address(rng) else {
            return;
        };
        let mut top = [0xff; 32];
        top[31] >>= rng.random_range(0..4u32);
        let addressed = |(own, channel): (&u32, &Channel)| {
            (*own == id || channel.group == id).then_some(channel.max_target)
        };
        let easiest = self.channels.iter().filter_map(addressed).min();
        let target = Target::from_le_bytes(top).unwrap();
        let target = easiest.map_or(target, |easiest| easiest.min(target));
        self.addressed(id, |channel| channel.target = target);
        self.say(Mining::SetTarget(SetTarget {
            channel_id: id,
            maximum_target: (&target.to_le_bytes()).into(),
        }));
    }

    /// Another prefix for later jobs of one channel.
    pub(super) fn set_prefix(&mut self, rng: &mut StdRng) {
        let Some(id) = self.some_channel(rng) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.prefixes = channel.prefixes.wrapping_add(1);
        channel.prefix = [&id.to_be_bytes()[..], &[channel.prefixes]].concat();
        let extranonce_prefix = channel.prefix.clone();
        self.say(Mining::SetExtranoncePrefix(SetExtranoncePrefix {
            channel_id: id,
            extranonce_prefix: extranonce_prefix.as_slice().try_into().unwrap(),
        }));
    }

    /// One channel goes to the other group.
    pub(super) fn set_group(&mut self, rng: &mut StdRng) {
        let Some(id) = self.some_channel(rng) else {
            return;
        };
        let groups = self.groups;
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.group = groups[usize::from(channel.group == groups[0])];
        let group = channel.group;
        self.say(Mining::SetGroupChannel(SetGroupChannel {
            group_channel_id: group,
            channel_ids: Seq064K::new(vec![id]).unwrap(),
        }));
    }

    /// Ends one channel or a whole group, whatever is unanswered.
    pub(super) fn close(&mut self, rng: &mut StdRng) {
        let Some(id) = self.some_address(rng) else {
            return;
        };
        self.channels
            .retain(|own, channel| *own != id && channel.group != id);
        self.say(Mining::CloseChannel(CloseChannel {
            channel_id: id,
            reason_code: "drain".try_into().unwrap(),
        }));
    }

    /// The future job and the block that makes it work.
    fn block_for(&mut self, id: u32) {
        let job_id = self.new_id();
        let tip = self.tip;
        self.say(job(id, job_id, None));
        self.say(Mining::SetNewPrevHash(SetNewPrevHash {
            channel_id: id,
            job_id,
            prev_hash: (&[tip; 32]).into(),
            min_ntime: NTIME,
            nbits: NBITS,
        }));
        self.addressed(id, |channel| {
            if channel.tip != Some(tip) {
                channel.jobs.clear();
                channel.headers.clear();
                channel.tip = Some(tip);
            }
        });
        self.activate(id, job_id);
    }

    fn activate(&mut self, id: u32, job_id: u32) {
        self.addressed(id, |channel| {
            let Some(tip) = channel.tip else { return };
            let job = Job {
                target: channel.target,
                prefix: channel.prefix.clone(),
                tip,
            };
            channel.jobs.insert(job_id, job);
        });
    }

    fn addressed(&mut self, id: u32, act: impl FnMut(&mut Channel)) {
        self.channels
            .iter_mut()
            .filter(|(own, channel)| **own == id || channel.group == id)
            .map(|(_, channel)| channel)
            .for_each(act);
    }

    fn some_channel(&self, rng: &mut StdRng) -> Option<u32> {
        let at = rng.random_range(0..self.channels.len().max(1));
        self.channels.keys().nth(at).copied()
    }

    fn some_address(&self, rng: &mut StdRng) -> Option<u32> {
        let channel = self.some_channel(rng)?;
        let group = self.channels.get(&channel)?.group;
        Some(if rng.random_bool(0.5) { channel } else { group })
    }

    fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    fn say(&mut self, message: Mining<'_>) {
        self.wire.say(message).unwrap();
    }
}

impl Opening {
    fn new(open: OpenExtendedMiningChannel<'_>) -> Self {
        Self {
            request_id: open.request_id,
            max_target: limit(open.max_target),
            size: open.min_extranonce_size,
        }
    }
}

impl Channel {
    /// Judges a share. One that is wrong in itself should never have come.
    fn take(
        &mut self,
        share: &SubmitSharesExtended<'_>,
        worker: Option<String>,
        rules: &Rules,
        rng: &mut StdRng,
    ) {
        assert_eq!(share.sequence_number, self.last_sequence_number + 1);
        self.last_sequence_number = share.sequence_number;
        let extranonce = share.extranonce.as_bytes();
        assert_eq!(extranonce.len(), usize::from(self.size));
        // What the miner rolls stands behind it.
        let miner = extranonce[extranonce.len() - 8..][..4].try_into().unwrap();
        // Miners are called by their number, where they share a channel.
        let number = u32::from_be_bytes(miner).to_string();
        assert!(worker.is_none_or(|worker| worker == number));
        let unlucky = rules.refuses_one_in > 0 && rng.random_ratio(1, rules.refuses_one_in);
        let verdict = match self.jobs.get(&share.job_id) {
            // A block that the miner could not know of when it found the share.
            None => Err("stale-share"),
            Some(job) => {
                let hash = job.header(share, extranonce).hash();
                let target = job.target;
                assert!(target.is_met_by(&hash), "{target:?} is not met: {share}");
                assert!(self.headers.insert(hash), "sent before");
                if unlucky {
                    Err("other")
                } else {
                    Ok(job.target.work())
                }
            }
        };
        self.unanswered.push_back(Share {
            sequence_number: share.sequence_number,
            miner,
            verdict,
        });
    }
}

impl Job {
    fn header(&self, share: &SubmitSharesExtended<'_>, extranonce: &[u8]) -> Header {
        let [before, after] = COINBASE;
        let coinbase = header::coinbase_txid(&[before, &self.prefix, extranonce, after]);
        Header {
            version: share.version,
            prev_hash: [self.tip; 32],
            merkle_root: header::merkle_root(coinbase, &[SIBLING]),
            ntime: share.ntime,
            nbits: NBITS,
            nonce: share.nonce,
        }
    }
}

impl Ledger {
    fn credit(&mut self, share: &Share) {
        if let Ok(work) = share.verdict {
            let account = self.accounts.entry(share.miner).or_default();
            account.accepted += 1;
            account.work += work;
        }
    }
}

fn limit(target: U256<'_>) -> Target {
    Target::from_le_bytes(target.to_array()).unwrap()
}

fn job(channel_id: u32, job_id: u32, min_ntime: Option<u32>) -> Mining<'static> {
    Mining::NewExtendedMiningJob(NewExtendedMiningJob {
        channel_id,
        job_id,
        min_ntime: Sv2Option::new(min_ntime),
        version: 0x2000_0000,
        version_rolling_allowed: true,
        merkle_path: Seq0255::new(vec![(&SIBLING).into()]).unwrap(),
        coinbase_tx_prefix: COINBASE[0].try_into().unwrap(),
        coinbase_tx_suffix: COINBASE[1].try_into().unwrap(),
    })
}
