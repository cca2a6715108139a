//! One channel: its jobs, its target, and the judgement of its shares.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use templates::Solution;
use work::{Clamp, Difficulty, Hashrate, Target, Vardiff};

use crate::{
    acknowledge::Owner,
    extranonce::{PREFIX_SIZE, Prefix},
    job::{Claim, Job},
    limits::Place,
    payee::{self, Payee},
    shares::{Rejection, Seen},
    workers::Workers,
};

/// Jobs on one tip whose shares still count. Templates come about twice a minute.
const JOBS_KEPT: usize = 64;

/// Void jobs whose blocks are still recognised: what a miner can have in hand when a new tip comes, by far.
const PAST_JOBS_KEPT: usize = 16;

/// How far a share's time may be ahead of its job's: what the network tolerates, in seconds.
const MAX_FUTURE_SECONDS: u32 = 2 * 60 * 60;

/// The version bits that a miner may change: those of BIP 320 and what BIP 323 adds to them, as `channels_sv2` has it.
const ROLLABLE_VERSION_BITS: u32 = 0x1fff_ffe0;

/// What the extranonce of a standard channel has behind its prefix.
const ZEROS: [u8; 32] = [0; 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The extranonce is fixed; the miner rolls nothing but the header.
    Standard,
    /// The client rolls what follows the prefix.
    Extended,
}

/// What a client asks for when it opens a channel, checked.
#[derive(Debug)]
pub(crate) struct Opening {
    pub kind: Kind,
    pub owner: Owner,
    /// Paid by the channel's blocks instead of the pool.
    pub payee: Option<Arc<Payee>>,
    pub nominal: Hashrate,
    pub max_target: Target,
    /// Bytes of the whole extranonce.
    pub extranonce_size: usize,
    /// Its place among the channels of all connections.
    pub place: Place,
}

/// A share as it was submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share<'a> {
    pub job_id: u32,
    pub claim: Claim,
    /// What the client rolled; empty on a standard channel.
    pub extranonce: &'a [u8],
}

/// What a share turned out to be.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The work that counts, in expected hashes, or why it does not.
    pub counts: Result<u128, Rejection>,
    /// It solves a block, whether it counts or not.
    pub solution: Option<Solved>,
}

/// A block, ready to be submitted.
#[derive(Debug)]
pub(crate) struct Solved {
    pub solution: Solution,
    pub hash: [u8; 32],
    /// Found on a job that is void: for the tip before this one, as a rule. It can still win a race of two blocks.
    pub late: bool,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub id: u32,
    pub kind: Kind,
    pub workers: Workers,
    /// Paid by its blocks, if it is not the pool. Like the size it never changes, and with both the channel's group.
    pub payee: Option<Arc<Payee>>,
    pub extranonce_size: usize,
    /// Where the channel's shares of this turn are gathered.
    pub slot: usize,
    /// Acknowledged work of less than one difficulty, which the protocol cannot say.
    pub remainder: u128,
    pub opened_at: Instant,
    max_target: Target,
    /// What the client says of itself.
    nominal: Hashrate,
    target: Target,
    vardiff: Vardiff,
    /// Of the target that was met last.
    worth: Worth,
    prefix: Prefix,
    jobs: VecDeque<ChannelJob>,
    /// Jobs on this tip and the one before it whose shares count no more. They are kept for blocks alone.
    past_jobs: VecDeque<PastJob>,
    seen: Seen,
    /// Of the prefix before this one.
    seen_before: Seen,
    _place: Place,
}

/// What a share that meets a target is worth. To divide numbers of 256 bits for each share costs more than to look.
#[derive(Debug, Clone, Copy)]
struct Worth {
    target: Target,
    difficulty: Difficulty,
    work: u128,
}

impl Worth {
    fn of(target: Target) -> Self {
        Self {
            target,
            difficulty: target.difficulty(),
            work: target.work(),
        }
    }
}

/// A job as this channel got it.
#[derive(Debug)]
struct ChannelJob {
    id: u32,
    job: Arc<Job>,
    /// Fixed when the job was sent (SV2 5.3.21).
    target: Target,
    prefix: Prefix,
}

/// What is left of a job that is void.
#[derive(Debug)]
struct PastJob {
    id: u32,
    job: Arc<Job>,
    prefix: Prefix,
}

impl Channel {
    pub(crate) fn open(
        id: u32,
        opening: Opening,
        prefix: Prefix,
        shares_per_minute: f64,
        clamp: impl Fn(Target) -> Clamp,
        now: Instant,
    ) -> Self {
        let wanted = opening.nominal.target_for(shares_per_minute);
        let target = clamp(opening.max_target).apply(wanted);
        let worth = Worth::of(target);
        let mut vardiff = Vardiff::new(shares_per_minute, opening.nominal, now);
        vardiff.job_sent(worth.difficulty, now);
        Self {
            id,
            kind: opening.kind,
            workers: Workers::new(opening.owner),
            payee: opening.payee,
            extranonce_size: opening.extranonce_size,
            opened_at: now,
            max_target: opening.max_target,
            nominal: opening.nominal,
            target,
            vardiff,
            worth,
            prefix,
            slot: 0,
            remainder: 0,
            jobs: VecDeque::new(),
            past_jobs: VecDeque::new(),
            seen: Seen::default(),
            seen_before: Seen::default(),
            _place: opening.place,
        }
    }

    /// The group that it is in, where there are groups.
    pub(crate) fn group_id(&self) -> u32 {
        payee::group_of(self.payee.as_deref(), self.extranonce_size)
    }

    /// The target of jobs to come.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    pub(crate) fn max_target(&self) -> Target {
        self.max_target
    }

    pub(crate) fn nominal(&self) -> Hashrate {
        self.nominal
    }

    /// The extranonce prefix of jobs to come, as the client has to know it: all of it on a standard channel.
    pub(crate) fn extranonce_prefix(&self) -> Vec<u8> {
        let mut prefix = self.prefix.to_vec();
        if self.kind == Kind::Standard {
            prefix.resize(self.extranonce_size, 0);
        }
        prefix
    }

    /// The merkle root of a job on this channel, where the client cannot change it.
    pub(crate) fn merkle_root(&self, job: &Job) -> [u8; 32] {
        job.merkle_root([&self.prefix, self.fixed_rest()])
    }

    /// Notes that the client got this job. On a new tip the jobs before it are void.
    pub(crate) fn job_sent(&mut self, id: u32, job: Arc<Job>, now: Instant) {
        match self.jobs.back() {
            None => self.vardiff.work_begins(now),
            Some(last) => {
                let last = &last.job.template;
                let same_block = last.prev_hash == job.template.prev_hash;
                if !same_block {
                    self.seen.clear();
                    self.seen_before.clear();
                    let left = last.prev_hash;
                    self.past_jobs
                        .retain(|job| job.job.template.prev_hash == left);
                }
                if !same_block || last.nbits != job.template.nbits {
                    let void = std::mem::take(&mut self.jobs);
                    self.void(void);
                }
            }
        }
        if self.jobs.len() == JOBS_KEPT {
            let oldest = self.jobs.pop_front();
            self.void(oldest);
        }
        self.vardiff.job_sent(self.target.difficulty(), now);
        self.jobs.push_back(ChannelJob {
            id,
            job,
            target: self.target,
            prefix: self.prefix,
        });
    }

    /// What the client says by `UpdateChannel`.
    pub(crate) fn update(&mut self, nominal: Hashrate, max_target: Target) {
        self.max_target = max_target;
        self.nominal = nominal;
        self.vardiff.stated(nominal);
    }

    /// Sets the target of jobs to come; false if it is what it was.
    pub(crate) fn set_target(&mut self, target: Target) -> bool {
        let changed = self.target != target;
        self.target = target;
        changed
    }

    /// What the miner is believed to do.
    pub(crate) fn hashrate(&self) -> Hashrate {
        self.vardiff.hashrate()
    }

    /// What the difficulty controller wants, and whether at once.
    pub(crate) fn retarget(&mut self, now: Instant) -> Option<work::Retarget> {
        if self.jobs.is_empty() {
            return None;
        }
        self.vardiff.retarget(self.target.difficulty(), now)
    }

    /// Whether so many shares were accepted on one tip that the channel needs another prefix to go on.
    pub(crate) fn needs_new_prefix(&self) -> bool {
        self.seen.is_full()
    }

    /// Changes the prefix of jobs to come. Jobs with the prefix before the last one are void from now on.
    pub(crate) fn set_prefix(&mut self, prefix: Prefix) {
        let last = std::mem::replace(&mut self.prefix, prefix);
        let (kept, void) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition(|job| job.prefix == last);
        self.jobs = kept;
        self.void::<VecDeque<_>>(void);
        self.seen_before = std::mem::take(&mut self.seen);
    }

    /// Judges a share. A block is recognised before any rule of ours is asked.
    pub(crate) fn judge(&mut self, share: Share<'_>, job_is_past: bool, now: Instant) -> Verdict {
        // The newest job is the likely one.
        let Some(at) = self.jobs.iter().rposition(|job| job.id == share.job_id) else {
            return Verdict {
                counts: Err(if job_is_past {
                    Rejection::Stale
                } else {
                    Rejection::InvalidJobId
                }),
                solution: self.judge_late(share),
            };
        };
        let Some(rolled) = self.rolled(&share) else {
            return Verdict {
                counts: Err(Rejection::BadExtranonceSize),
                solution: None,
            };
        };
        let ChannelJob {
            job,
            target,
            prefix,
            ..
        } = &self.jobs[at];
        let hash = job.header([prefix, rolled], share.claim).hash();
        let current_prefix = *prefix == self.prefix;
        let solution =
            (job.network_target.is_met_by(&hash) && !self.has_seen(&hash, prefix)).then(|| {
                Solved {
                    hash,
                    solution: solution(job, [prefix, rolled], share.claim),
                    late: false,
                }
            });
        let target = *target;
        let solved = solution.is_some();
        let counts = check_rules(job, share.claim)
            .and(if target.is_met_by(&hash) {
                Ok(())
            } else {
                Err(Rejection::DifficultyTooLow)
            })
            .and_then(|()| self.count_once(&hash, current_prefix))
            .map(|()| {
                if self.worth.target != target {
                    self.worth = Worth::of(target);
                }
                self.vardiff.share_accepted(self.worth.difficulty, now);
                self.worth.work
            });
        if solved && counts.is_err_and(|rejection| rejection != Rejection::Stale) {
            // So that the same block is not submitted again for the asking.
            self.remember(&hash, current_prefix);
        }
        Verdict { counts, solution }
    }

    /// Whether a share that is stale is a block for all that.
    fn judge_late(&mut self, share: Share<'_>) -> Option<Solved> {
        let rolled = self.rolled(&share)?;
        let at = self
            .past_jobs
            .iter()
            .rposition(|job| job.id == share.job_id)?;
        let PastJob { job, prefix, .. } = &self.past_jobs[at];
        let hash = job.header([prefix, rolled], share.claim).hash();
        if !job.network_target.is_met_by(&hash) || self.has_seen(&hash, prefix) {
            return None;
        }
        let solved = Solved {
            hash,
            solution: solution(job, [prefix, rolled], share.claim),
            late: true,
        };
        let current_prefix = *prefix == self.prefix;
        if current_prefix || self.seen_before.len() < 2 * Seen::CAPACITY {
            self.remember(&hash, current_prefix);
        }
        Some(solved)
    }

    /// What follows the prefix in a share's extranonce; nothing if its size is wrong.
    fn rolled<'a>(&self, share: &Share<'a>) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Standard => share.extranonce.is_empty().then(|| self.fixed_rest()),
            Kind::Extended => (share.extranonce.len() == self.extranonce_size - PREFIX_SIZE)
                .then_some(share.extranonce),
        }
    }

    /// Jobs whose shares do not count from now on.
    fn void<J: IntoIterator<Item = ChannelJob>>(&mut self, jobs: J) {
        for ChannelJob {
            id, job, prefix, ..
        } in jobs
        {
            if self.past_jobs.len() == PAST_JOBS_KEPT {
                self.past_jobs.pop_front();
            }
            self.past_jobs.push_back(PastJob { id, job, prefix });
        }
    }

    fn has_seen(&self, hash: &[u8; 32], prefix: &Prefix) -> bool {
        let seen = if *prefix == self.prefix {
            &self.seen
        } else {
            &self.seen_before
        };
        seen.contains(hash)
    }

    fn count_once(&mut self, hash: &[u8; 32], current_prefix: bool) -> Result<(), Rejection> {
        // A client that stays on the old prefix for ever has had its time; memory stays bounded.
        if !current_prefix && self.seen_before.len() >= 2 * Seen::CAPACITY {
            return Err(Rejection::Stale);
        }
        if self.remember(hash, current_prefix) {
            Ok(())
        } else {
            Err(Rejection::Duplicate)
        }
    }

    /// False if the hash was known.
    fn remember(&mut self, hash: &[u8; 32], current_prefix: bool) -> bool {
        if current_prefix {
            self.seen.insert(hash)
        } else {
            self.seen_before.insert(hash)
        }
    }

    fn fixed_rest(&self) -> &'static [u8] {
        &ZEROS[..self.extranonce_size - PREFIX_SIZE]
    }
}

fn solution(job: &Job, extranonce: [&[u8]; 2], claim: Claim) -> Solution {
    Solution {
        template: Arc::clone(&job.template),
        version: claim.version,
        ntime: claim.ntime,
        nonce: claim.nonce,
        coinbase: job.coinbase(extranonce),
    }
}

fn check_rules(job: &Job, claim: Claim) -> Result<(), Rejection> {
    let template = &job.template;
    if claim.ntime < template.ntime
        || claim.ntime > template.ntime.saturating_add(MAX_FUTURE_SECONDS)
    {
        return Err(Rejection::InvalidTime);
    }
    if (claim.version ^ template.version) & !ROLLABLE_VERSION_BITS != 0 {
        return Err(Rejection::InvalidVersion);
    }
    Ok(())
}

#[cfg(test)]
mod differential;
