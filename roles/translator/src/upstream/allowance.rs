//! How many shares may be on their way over one connection to a pool, so that nobody who asks for a channel, and nobody's
//! share, stands behind all that a flood has sent.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Shares of all miners of a connection without an answer, with which those who have many of them wait for some.
pub(crate) const ENOUGH: usize = 1024;

/// A miner with fewer than this never waits for others. Pools that answer in batches answer in smaller ones, as a rule.
pub(crate) const EACH: usize = 16;

/// A miner's count is brought up to date in steps of so many, so that those who have few on the way never touch what all
/// miners of a connection share.
const STEP: usize = 8;

/// The shares that are on their way over one connection. At [`ENOUGH`] of them, those who have [`EACH`] or more wait for an
/// answer before they are read again: the fewer miners flood, the more has each on the way, and all are served in turn. A
/// miner's task counts, so that what the pool has answered counts until that task has heard of it.
#[derive(Debug)]
pub(crate) struct Allowance {
    unanswered: AtomicUsize,
    each: AtomicUsize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            unanswered: AtomicUsize::new(0),
            each: AtomicUsize::new(EACH),
        }
    }
}

/// What is counted of a miner's shares without an answer.
#[derive(Debug, Default)]
pub(crate) struct Counted(usize);

impl Allowance {
    /// A miner's shares without an answer are so many now.
    pub(crate) fn count(&self, counted: &mut Counted, now: usize) {
        let before = counted.0;
        if now.abs_diff(before) < STEP && now != 0 || now == before {
            return;
        }
        counted.0 = now;
        if now > before {
            self.unanswered.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.unanswered.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Whether a miner with so many of its own has to wait for answers to some.
    pub(crate) fn is_used_up(&self, own: usize) -> bool {
        own >= EACH
            && own >= self.each.load(Ordering::Relaxed)
            && self.unanswered.load(Ordering::Relaxed) >= ENOUGH
    }

    /// A miner has waited for long with so many of its own: the pool answers in larger batches.
    pub(crate) fn widen(&self, own: usize) {
        self.each
            .fetch_max(own.saturating_mul(2), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_few_shares_on_the_way_never_waits_and_who_has_many_waits_only_beside_others() {
        let allowance = Allowance::default();
        let (mut one, mut other) = (Counted::default(), Counted::default());
        allowance.count(&mut one, ENOUGH - 1);
        assert!(!allowance.is_used_up(ENOUGH - 1));
        allowance.count(&mut other, STEP);
        assert!(allowance.is_used_up(EACH));
        assert!(!allowance.is_used_up(EACH - 1));
        allowance.count(&mut other, 0);
        assert!(!allowance.is_used_up(EACH));
    }

    #[test]
    fn nothing_stays_counted_of_a_miner_whose_shares_are_answered() {
        let allowance = Allowance::default();
        let mut counted = Counted::default();
        for shares in [3, 9, 30, 25, 7, 1, 0, 2, 0] {
            allowance.count(&mut counted, shares);
            let so_far = allowance.unanswered.load(Ordering::Relaxed);
            assert!(so_far.abs_diff(shares) < STEP, "{so_far} for {shares}");
        }
        assert_eq!(allowance.unanswered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_pool_that_answers_in_large_batches_gets_them_filled() {
        let allowance = Allowance::default();
        allowance.count(&mut Counted::default(), ENOUGH);
        assert!(allowance.is_used_up(EACH));
        allowance.widen(EACH);
        assert!(!allowance.is_used_up(2 * EACH - 1));
        assert!(allowance.is_used_up(2 * EACH));
    }
}
