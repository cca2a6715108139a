//! The jobs that a miner may still submit for, and the headers it has submitted.

use std::collections::VecDeque;
use std::sync::Arc;

use stratum_v1::ExtranonceBytes;
use work::{Difficulty, Target};

use super::headers::{Headers, Noted};
use crate::job::Job;

/// Jobs of one tip that are kept. A pool sends one every half minute or so; a miner finishes within seconds.
const KEPT_JOBS: usize = 16;

/// Ids of jobs that are sent again begin here, where no process gets with those that are new.
const FIRST_AGAIN: u64 = 1 << 40;

/// A job as it was sent to this miner.
#[derive(Debug, Clone)]
pub(super) struct SentJob {
    /// By which the miner names it.
    pub(super) id: u64,
    pub(super) job: Arc<Job>,
    /// Most jobs have those of the job before.
    pub(super) terms: Arc<Terms>,
}

/// What was in force for this miner when a job was sent.
#[derive(Debug, PartialEq)]
pub(super) struct Terms {
    /// Which of the session's channels takes the shares.
    pub(super) channel: u32,
    /// What shares must meet to count here.
    pub(super) asked: Worth,
    /// What shares must meet to count upstream. Easier than what is asked only where the miner wants no easier work.
    pub(super) upstream: Worth,
    /// What stands between the job's coinbase and extranonce1.
    pub(super) hole: ExtranonceBytes,
    /// The bits of the version that may be rolled.
    pub(super) version_mask: u32,
}

/// A target, with what follows from it and is needed for each share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Worth {
    pub(super) target: Target,
    pub(super) difficulty: Difficulty,
    /// Hashes expected for a share.
    pub(super) work: u128,
}

impl Worth {
    pub(super) fn of(target: Target) -> Self {
        Self {
            target,
            difficulty: target.difficulty(),
            work: target.work(),
        }
    }
}

/// Jobs of the current tip, and what was found on it.
#[derive(Debug, Default)]
pub(super) struct Recent {
    jobs: VecDeque<SentJob>,
    /// Boxed, and not there before the first share.
    headers: Option<Box<Headers>>,
    sent_again: u64,
}

impl Recent {
    pub(super) fn find(&self, id: u64) -> Option<&SentJob> {
        self.jobs.iter().rev().find(|sent| sent.id == id)
    }

    pub(super) fn newest(&self) -> Option<&SentJob> {
        self.jobs.back()
    }

    /// The miner has agreed on other bits of the version, for the jobs that it has too.
    pub(super) fn roll_with(&mut self, mask: u32) {
        for sent in &mut self.jobs {
            let version_mask = if sent.job.version_rolling { mask } else { 0 };
            if sent.terms.version_mask != version_mask {
                sent.terms = Arc::new(Terms {
                    version_mask,
                    ..*sent.terms
                });
            }
        }
    }

    /// Adds a job that is about to be sent, with terms that hold from now on. Gives the id to send it under, and whether the
    /// miner must drop what it has.
    ///
    /// Only another tip of the same channel makes earlier work worthless. Another channel or prefix does not: the miner is
    /// told to move on, and what it still sends is judged by what it was sent with.
    pub(super) fn push(&mut self, job: Arc<Job>, terms: Terms) -> (u64, bool) {
        let newest = self.jobs.back();
        let tip_changed = newest.is_none_or(|newest| newest.job.tip() != job.tip());
        let is_same_channel = newest.is_none_or(|newest| newest.terms.channel == terms.channel);
        let moved =
            !is_same_channel || newest.is_some_and(|newest| newest.terms.hole != terms.hole);
        let terms = match newest {
            Some(newest) if *newest.terms == terms => Arc::clone(&newest.terms),
            _ => Arc::new(terms),
        };
        if tip_changed && is_same_channel {
            self.jobs.clear();
            self.headers = None;
        }
        // One that another channel brings too is not the same to the miner.
        let id = match self.find(job.id) {
            Some(_) => self.next_again(),
            None => job.id,
        };
        self.keep(SentJob { id, job, terms });
        (id, tip_changed || moved)
    }

    /// Adds the newest job once more, with another target. Gives what is to be sent, if there is a job.
    pub(super) fn push_again(&mut self, asked: Worth) -> Option<&SentJob> {
        let id = self.next_again();
        let newest = self.jobs.back()?;
        let again = SentJob {
            id,
            job: Arc::clone(&newest.job),
            terms: Arc::new(Terms {
                asked,
                ..*newest.terms
            }),
        };
        self.keep(again);
        self.jobs.back()
    }

    /// An id that no job has.
    fn next_again(&mut self) -> u64 {
        self.sent_again += 1;
        FIRST_AGAIN + self.sent_again
    }

    fn keep(&mut self, sent: SentJob) {
        if self.jobs.len() == KEPT_JOBS {
            self.jobs.pop_front();
        }
        self.jobs.push_back(sent);
    }

    /// Notes a header of the current tip, and says whether it was noted before.
    pub(super) fn note(&mut self, hash: &[u8; 32], for_upstream: bool) -> Noted {
        self.headers
            .get_or_insert_default()
            .note(hash, for_upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobParts, Tip};

    #[test]
    fn a_job_that_comes_with_another_prefix_is_another_to_the_miner() {
        let parts = JobParts {
            upstream_id: 1,
            version: 0x2000_0000,
            version_rolling: true,
            coinbase_prefix: vec![1],
            coinbase_suffix: vec![2],
            merkle_path: Vec::new(),
        };
        let tip = Tip {
            prev_hash: [0; 32],
            min_ntime: 0,
            nbits: 0x207f_ffff,
        };
        let job = Arc::new(Job::new(7, &parts, &tip).unwrap());
        let terms = |prefix: u8| Terms {
            channel: 1,
            asked: Worth::of(Target::MAX),
            upstream: Worth::of(Target::MAX),
            hole: ExtranonceBytes::new(&[prefix]).unwrap(),
            version_mask: 0,
        };
        let mut recent = Recent::default();
        let (first, _) = recent.push(Arc::clone(&job), terms(1));
        let (second, clean_jobs) = recent.push(job, terms(2));
        assert_eq!(first, 7);
        assert!(clean_jobs);
        let hole = |id| recent.find(id).unwrap().terms.hole[0];
        assert_eq!((hole(first), hole(second)), (1, 2));
    }
}
