//! The jobs that a miner may still submit for, and the headers it has submitted.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use stratum_v1::ExtranonceBytes;
use work::Target;

use crate::job::Job;

/// Jobs of one tip that are kept. A pool sends one every half minute or so; a miner finishes within seconds.
const KEPT_JOBS: usize = 16;

/// Header hashes of one tip that are kept, 16 bytes each; half an hour at 36 shares a second.
const KEPT_HEADERS: usize = 1 << 16;

/// A job as it was sent to this miner.
#[derive(Debug, Clone)]
pub(super) struct SentJob {
    pub(super) job: Arc<Job>,
    pub(super) target: Target,
    /// What stands between the job's coinbase and extranonce1.
    pub(super) hole: ExtranonceBytes,
    /// The bits of the version that may be rolled on this job.
    pub(super) version_mask: u32,
}

/// Jobs of the current tip, and what was found on it.
#[derive(Debug, Default)]
pub(super) struct Recent {
    jobs: VecDeque<SentJob>,
    headers: HashSet<u128>,
    orphaned: bool,
}

/// What became of looking for a job.
pub(super) enum Lookup<'a> {
    Found(&'a SentJob),
    /// It was sent, but its upstream connection is gone.
    Orphaned,
    Unknown,
}

impl Recent {
    pub(super) fn find(&self, id: u64) -> Lookup<'_> {
        match self.jobs.iter().rev().find(|sent| sent.job.id == id) {
            Some(_) if self.orphaned => Lookup::Orphaned,
            Some(sent) => Lookup::Found(sent),
            None => Lookup::Unknown,
        }
    }

    pub(super) fn newest(&self) -> Option<&SentJob> {
        self.jobs.back()
    }

    /// The miner has agreed on other bits of the version, for the jobs that it has too.
    pub(super) fn roll_with(&mut self, mask: u32) {
        for sent in &mut self.jobs {
            sent.version_mask = if sent.job.version_rolling { mask } else { 0 };
        }
    }

    /// Adds a job that is about to be sent. Says whether it makes all earlier work worthless.
    pub(super) fn push(&mut self, sent: SentJob) -> bool {
        let clean = self.orphaned
            || self
                .newest()
                .is_none_or(|newest| newest.job.tip() != sent.job.tip());
        if clean {
            *self = Self::default();
        } else if self.jobs.len() == KEPT_JOBS {
            self.jobs.pop_front();
        }
        let moved = self.newest().is_some_and(|newest| newest.hole != sent.hole);
        self.jobs.push_back(sent);
        clean || moved
    }

    /// The upstream connection is gone: nobody takes shares for these jobs any more.
    pub(super) fn orphan(&mut self) {
        self.orphaned = true;
        self.headers = HashSet::new();
    }

    /// Notes a header; `false` if it was noted before.
    ///
    /// At the cap nothing more is noted, and shares go to the upstream unchecked: the upstream judges duplicates by
    /// itself, so none is counted twice and no honest share is refused. Only what the miner is told can then be
    /// kinder than what is counted.
    pub(super) fn note(&mut self, hash: &[u8; 32]) -> bool {
        // The low half: the high end of a share's hash is mostly zeros.
        let low = low_half(hash);
        if self.headers.len() >= KEPT_HEADERS {
            return !self.headers.contains(&low);
        }
        self.headers.insert(low)
    }
}

fn low_half(hash: &[u8; 32]) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    u128::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_cap_memory_is_bounded_and_no_new_share_is_refused() {
        let mut recent = Recent::default();
        let hash = |number: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            hash
        };
        for number in 0..=KEPT_HEADERS as u64 + 10 {
            assert!(recent.note(&hash(number)));
        }
        assert_eq!(recent.headers.len(), KEPT_HEADERS);
        assert!(
            !recent.note(&hash(1)),
            "a share noted before the cap is still known"
        );
    }
}
