//! How many shares may be on their way over one connection to a pool, so that nobody who asks for a channel, and nobody's
//! share, stands behind all that a flood has sent.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Shares of all miners of a connection without an answer, with which those who have many of them wait for some.
pub(crate) const ENOUGH: usize = 1024;

/// A miner with fewer than this never waits for others. Pools that answer in batches answer in smaller ones, as a rule.
pub(crate) const EACH: usize = 16;

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

impl Allowance {
    /// A miner's shares without an answer are so many now.
    pub(crate) fn count(&self, before: usize, now: usize) {
        if now > before {
            self.unanswered.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.unanswered.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Whether a miner with so many of its own has to wait for answers to some.
    pub(crate) fn is_used_up(&self, own: usize) -> bool {
        own >= self.each.load(Ordering::Relaxed)
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
        allowance.count(0, ENOUGH - 1);
        assert!(!allowance.is_used_up(ENOUGH - 1));
        allowance.count(0, 1);
        assert!(allowance.is_used_up(EACH));
        assert!(!allowance.is_used_up(EACH - 1));
        allowance.count(ENOUGH - 1, ENOUGH - 2);
        assert!(!allowance.is_used_up(EACH));
    }

    #[test]
    fn a_pool_that_answers_in_large_batches_gets_them_filled() {
        let allowance = Allowance::default();
        let mut own = 0;
        for batch in [100, 1000] {
            while own < batch {
                if allowance.is_used_up(own) {
                    allowance.widen(own);
                }
                allowance.count(own, own + 1);
                allowance.count(0, 1);
                own += 1;
            }
        }
    }
}
