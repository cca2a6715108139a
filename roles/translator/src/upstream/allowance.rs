//! How many shares may be on their way over one connection to a pool, so that nobody who asks for a channel, and nobody's
//! share, stands behind all that a flood has sent.
//!
//! A share counts from the moment that it is in the connection's queue until the pool's answer has been read, whatever the
//! miner's task does meanwhile. What counts belongs to the miner's mailbox and goes with it, so that nothing stays counted
//! of a channel that is closed or of a miner that has left.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::BATCH_OF_ANSWERS;

/// Shares of all miners of a connection without an answer, with which those who have many of them wait for some.
pub(crate) const ENOUGH: usize = 1024;

/// Those who wait go on together when there are fewer than this.
const FEW: usize = ENOUGH / 2;

/// A miner with fewer than this never waits for others: with so many on the way, some batch of answers must be full.
pub(crate) const EACH: u32 = BATCH_OF_ANSWERS + 1;

/// The shares that are on their way over one connection.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    unanswered: AtomicUsize,
    /// Rings when they have become few.
    few: Notify,
}

impl Allowance {
    fn is_used_up(&self) -> bool {
        self.unanswered.load(Ordering::SeqCst) >= ENOUGH
    }

    fn add(&self, shares: u32) {
        self.unanswered.fetch_add(shares as usize, Ordering::SeqCst);
    }

    fn subtract(&self, shares: u32) {
        let shares = shares as usize;
        let before = self.unanswered.fetch_sub(shares, Ordering::SeqCst);
        if before >= FEW && before - shares < FEW {
            self.few.notify_waiters();
        }
    }

    /// Waits until few are left. It comes back at once if it is not used up any more.
    async fn few_are_left(&self) {
        let mut few = pin!(self.few.notified());
        // From here on no ring is missed, and if there are enough now, there will be one before there are few.
        few.as_mut().enable();
        if self.is_used_up() {
            few.await;
        }
    }
}

/// One miner's part of what is on its way over a connection.
///
/// Its shares are numbered, and an answer to one says that the pool has read all before it. So no count can go astray: the
/// next answer puts it right.
#[derive(Debug)]
pub(crate) struct Account {
    allowance: Arc<Allowance>,
    /// The number of the last share that was queued. Set by the miner's task alone.
    sent: AtomicU32,
    /// The latest number that was answered. Set by the task that reads the connection alone.
    answered: AtomicU32,
    /// With so many on the way the miner waits for others: [`EACH`], or more for a pool that turned out to answer in
    /// larger batches.
    bound: AtomicU32,
}

impl Account {
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        Self {
            allowance,
            sent: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            bound: AtomicU32::new(EACH),
        }
    }

    /// This share goes into the queue.
    pub(crate) fn sent(&self, sequence_number: u32) {
        let before = self.sent.load(Ordering::SeqCst);
        // First here: were the channel closed in between, more would be subtracted than was ever added.
        self.allowance.add(sequence_number.wrapping_sub(before));
        self.sent.store(sequence_number, Ordering::SeqCst);
    }

    /// The pool has answered up to this share.
    pub(super) fn answered(&self, sequence_number: u32) {
        let before = self.answered.load(Ordering::SeqCst);
        let newly = sequence_number.wrapping_sub(before);
        // What was answered before, in another order, or was never sent, changes nothing.
        if newly == 0 || newly > self.unanswered() {
            return;
        }
        self.answered.store(sequence_number, Ordering::SeqCst);
        self.allowance.subtract(newly);
        if newly < self.bound.load(Ordering::SeqCst) / 2 {
            self.bound.store(EACH, Ordering::SeqCst);
        }
    }

    /// The pool has closed the channel, and answers nothing more.
    pub(super) fn closed(&self) {
        self.answered(self.sent.load(Ordering::SeqCst));
    }

    /// The latest share that was answered.
    pub(crate) fn latest_answer(&self) -> u32 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Whether the miner has to wait for answers to its own shares, or to others'.
    pub(crate) fn has_to_wait(&self) -> bool {
        self.unanswered() >= self.bound.load(Ordering::SeqCst) && self.allowance.is_used_up()
    }

    /// Waits until there is no reason to wait because of others.
    pub(crate) async fn others_are_few(&self) {
        self.allowance.few_are_left().await;
    }

    /// The miner has waited for long and heard nothing: the pool may answer in larger batches. It has this miner's until
    /// an answer is smaller.
    pub(crate) fn widen(&self) {
        let bound = self.unanswered().saturating_mul(2).max(EACH);
        self.bound.store(bound, Ordering::SeqCst);
    }

    fn unanswered(&self) -> u32 {
        let sent = self.sent.load(Ordering::SeqCst);
        sent.wrapping_sub(self.answered.load(Ordering::SeqCst))
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.allowance.subtract(self.unanswered());
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// Somebody with so many shares on the way.
    fn somebody(allowance: &Arc<Allowance>, shares: usize) -> Account {
        let account = Account::new(Arc::clone(allowance));
        account.sent(u32::try_from(shares).unwrap());
        account
    }

    fn on_the_way(allowance: &Allowance) -> usize {
        allowance.unanswered.load(Ordering::SeqCst)
    }

    #[test]
    fn who_has_few_shares_on_the_way_never_waits_and_who_has_many_waits_only_beside_others() {
        let allowance = Arc::default();
        let many = somebody(&allowance, ENOUGH - 1);
        assert!(!many.has_to_wait());
        let few = somebody(&allowance, EACH as usize - 1);
        assert!(many.has_to_wait());
        assert!(!few.has_to_wait());
        few.sent(EACH);
        assert!(few.has_to_wait());
        few.answered(1);
        assert!(!few.has_to_wait());
    }

    #[test]
    fn nothing_stays_counted_whatever_the_answers_and_however_a_channel_ends() {
        let allowance = Arc::default();
        let account = somebody(&allowance, 10);
        for (answer, left) in [(3, 7), (2, 7), (11, 7), (u32::MAX, 7), (0, 7), (9, 1)] {
            account.answered(answer);
            assert_eq!(on_the_way(&allowance), left, "after {answer}");
        }
        account.sent(20);
        account.closed();
        assert_eq!(on_the_way(&allowance), 0);
        account.sent(21);
        assert_eq!(on_the_way(&allowance), 1);
        drop(account);
        assert_eq!(on_the_way(&allowance), 0);
    }

    #[test]
    fn numbers_may_count_round() {
        let allowance = Arc::default();
        let account = somebody(&allowance, 0);
        account.sent(u32::MAX - 1);
        account.answered(u32::MAX - 1);
        account.sent(u32::MAX);
        account.sent(0);
        account.sent(1);
        assert_eq!(on_the_way(&allowance), 3);
        account.answered(0);
        assert_eq!(on_the_way(&allowance), 1);
    }

    #[test]
    fn who_waits_for_others_is_woken_when_few_are_left_and_not_before() {
        let allowance = Arc::default();
        let (one, other) = (somebody(&allowance, ENOUGH), somebody(&allowance, 17));
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = pin!(other.others_are_few());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        one.answered(u32::try_from(FEW).unwrap());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(one);
        assert!(waits.as_mut().poll(&mut context).is_ready());
        let ready = pin!(other.others_are_few()).poll(&mut context).is_ready();
        assert!(ready, "there is nothing to wait for");
    }

    #[test]
    fn a_pool_that_answers_in_large_batches_gets_them_filled_and_one_that_was_slow_once_does_not() {
        let allowance = Arc::default();
        let _others = somebody(&allowance, ENOUGH);
        let account = somebody(&allowance, EACH as usize);
        for bound in [2 * EACH, 4 * EACH] {
            assert!(account.has_to_wait());
            account.widen();
            account.sent(bound - 1);
            assert!(!account.has_to_wait());
            account.sent(bound);
        }
        assert!(account.has_to_wait());
        // A batch of 60: the next one is filled without another wait.
        account.answered(60);
        account.sent(60 + 4 * EACH - 1);
        assert!(!account.has_to_wait());
        // It answers one by one.
        account.answered(61);
        assert!(account.has_to_wait());
    }
}
