//! Whether a pool does its part on a connection: opens channels, gives work for them, and answers shares.
//!
//! The task that writes and the one that reads tell what went by; nothing here is locked for a share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratum_core::mining_sv2::{
    MESSAGE_TYPE_CLOSE_CHANNEL, MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH,
    MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB, MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS,
    MESSAGE_TYPE_OPEN_MINING_CHANNEL_ERROR, MESSAGE_TYPE_SUBMIT_SHARES_ERROR,
    MESSAGE_TYPE_SUBMIT_SHARES_SUCCESS,
};
use tokio::time::Instant;

use super::UpstreamError;

/// Pools may answer shares in batches (SRI's: ten of a channel), however long that takes. With more than this for each
/// channel on the way, some batch must be full.
pub(crate) const BATCH_OF_ANSWERS: u32 = 16;

/// A pool that refuses less often may mean the one miner that asks.
const REFUSALS: u64 = 3;

/// How long a pool may leave its part undone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// With requests for channels, all of them.
    pub(crate) channel: Duration,
    /// With work, after it has opened channels.
    pub(crate) work: Duration,
    /// With answers to shares, all of them.
    pub(crate) answer: Duration,
    /// With so many shares of each channel unanswered it owes an answer.
    pub(crate) batch: u32,
}

impl Patience {
    /// How often to look.
    pub(super) fn check(&self) -> Duration {
        let shortest = self.channel.min(self.work).min(self.answer);
        (shortest / 12).clamp(Duration::from_millis(10), Duration::from_secs(5))
    }
}

/// Whether a pool opens channels, over all connections to it: one without miners has nothing to show.
#[derive(Debug)]
pub(crate) struct Acceptance {
    /// Whether there is another pool to go to.
    matters: bool,
    now: Mutex<Accepting>,
}

#[derive(Debug, Default)]
struct Accepting {
    open: u64,
    /// Since there was an open channel.
    refusals: u64,
    refusing_since: Option<Instant>,
}

impl Acceptance {
    pub(crate) fn new(matters: bool) -> Arc<Self> {
        Arc::new(Self {
            matters,
            now: Mutex::default(),
        })
    }

    fn opened(&self) {
        let mut now = self.lock();
        *now = Accepting {
            open: now.open + 1,
            ..Accepting::default()
        };
    }

    fn closed(&self, channels: u64) {
        let mut now = self.lock();
        now.open = now.open.saturating_sub(channels);
    }

    fn refused(&self) {
        let mut now = self.lock();
        if now.open == 0 {
            now.refusals += 1;
            now.refusing_since.get_or_insert_with(Instant::now);
        }
    }

    /// Says once that it takes too long.
    fn check(&self, patience: Duration) -> Result<(), UpstreamError> {
        let mut now = self.lock();
        let refuses_for = now
            .refusing_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        if !self.matters || now.refusals < REFUSALS || refuses_for < patience {
            return Ok(());
        }
        *now = Accepting::default();
        Err(UpstreamError::Refusing(refuses_for))
    }

    fn lock(&self) -> MutexGuard<'_, Accepting> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went over one connection. Moments are milliseconds since the start, plus one; zero is none.
#[derive(Debug)]
pub(super) struct Vitals {
    started: Instant,
    acceptance: Arc<Acceptance>,
    /// When the first channel was opened since the last work.
    channel_without_work: AtomicU64,
    /// Work cannot come before the pool has named the block that it builds on.
    told_of_a_block: AtomicU64,
    channels: AtomicU64,
    /// Forwarded since the last answer to any share.
    unanswered: AtomicU64,
    /// When the first of these was forwarded.
    unanswered_since: AtomicU64,
    /// When any share was answered last.
    answered: AtomicU64,
}

impl Vitals {
    pub(super) fn new(acceptance: Arc<Acceptance>) -> Self {
        Self {
            started: Instant::now(),
            acceptance,
            channel_without_work: AtomicU64::new(0),
            told_of_a_block: AtomicU64::new(0),
            channels: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            unanswered_since: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// So many shares go to the pool.
    pub(super) fn forwarded(&self, shares: u64) {
        if shares == 0 {
            return;
        }
        if self.unanswered.load(Ordering::Relaxed) == 0 {
            self.unanswered_since.store(self.now(), Ordering::Relaxed);
        }
        self.unanswered.fetch_add(shares, Ordering::Relaxed);
    }

    /// The pool says something.
    pub(super) fn heard(&self, message_type: u8) {
        match message_type {
            MESSAGE_TYPE_SUBMIT_SHARES_SUCCESS | MESSAGE_TYPE_SUBMIT_SHARES_ERROR => {
                self.answered.store(self.now(), Ordering::Relaxed);
                self.unanswered.store(0, Ordering::Relaxed);
            }
            MESSAGE_TYPE_OPEN_MINING_CHANNEL_ERROR => self.acceptance.refused(),
            MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS => {
                self.channels.fetch_add(1, Ordering::Relaxed);
                self.acceptance.opened();
                if self.channel_without_work.load(Ordering::Relaxed) == 0 {
                    self.channel_without_work
                        .store(self.now(), Ordering::Relaxed);
                }
            }
            MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH => {
                self.told_of_a_block.store(1, Ordering::Relaxed);
                self.channel_without_work.store(0, Ordering::Relaxed);
            }
            MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB
                if self.told_of_a_block.load(Ordering::Relaxed) != 0 =>
            {
                self.channel_without_work.store(0, Ordering::Relaxed);
            }
            MESSAGE_TYPE_CLOSE_CHANNEL => self.channel_closed(),
            _ => {}
        }
    }

    /// A channel is not there any more.
    pub(super) fn channel_closed(&self) {
        let fewer = |channels: u64| channels.checked_sub(1);
        // Fails at zero: the pool closed what it had never opened.
        let before = self
            .channels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        let Ok(before) = before else {
            return;
        };
        self.acceptance.closed(1);
        if before == 1 {
            self.channel_without_work.store(0, Ordering::Relaxed);
        }
        // What it had on the way may never be answered, and was no full batch.
        let fewer = |shares: u64| Some(shares.saturating_sub(BATCH_OF_ANSWERS.into()));
        let _ = self
            .unanswered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// What the pool leaves undone for longer than it may.
    pub(super) fn check(&self, patience: &Patience) -> Result<(), UpstreamError> {
        let without_work = self.since(&self.channel_without_work);
        if without_work >= patience.work {
            return Err(UpstreamError::NoWork(without_work));
        }
        let shares = self.unanswered.load(Ordering::Relaxed);
        let channels = self.channels.load(Ordering::Relaxed).max(1);
        let mut waited = self.since(&self.unanswered_since);
        if self.answered.load(Ordering::Relaxed) != 0 {
            // An answer may come between the two steps of `forwarded`.
            waited = waited.min(self.since(&self.answered));
        }
        if shares > channels.saturating_mul(patience.batch.into()) && waited >= patience.answer {
            return Err(UpstreamError::NoAnswers { shares, waited });
        }
        self.acceptance.check(patience.channel)
    }

    fn now(&self) -> u64 {
        let since = self.started.elapsed().as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        match moment.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            moment => Duration::from_millis(self.now().saturating_sub(moment)),
        }
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.acceptance.closed(*self.channels.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Patience = Patience {
        channel: Duration::from_secs(60),
        work: Duration::from_secs(60),
        answer: Duration::from_secs(120),
        batch: BATCH_OF_ANSWERS,
    };

    fn vitals() -> Vitals {
        Vitals::new(Acceptance::new(true))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_opens_channels_and_sends_no_work_is_found_out() {
        let vitals = vitals();
        advance(PATIENCE.work * 2).await;
        vitals.check(&PATIENCE).unwrap();
        vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        // A job for a block that was not named is no work yet.
        vitals.heard(MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB);
        advance(PATIENCE.work).await;
        let error = vitals.check(&PATIENCE).unwrap_err();
        assert_eq!(error.reason(), "no-work");
        vitals.heard(MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH);
        vitals.check(&PATIENCE).unwrap();
        vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        advance(PATIENCE.work).await;
        vitals.heard(MESSAGE_TYPE_NEW_EXTENDED_MINING_JOB);
        vitals.check(&PATIENCE).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_blamed_for_a_channel_that_is_closed_again() {
        let vitals = vitals();
        vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        vitals.channel_closed();
        vitals.channel_closed();
        advance(PATIENCE.work * 2).await;
        vitals.check(&PATIENCE).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_answers_no_share_is_found_out_and_one_that_answers_in_batches_is_not() {
        let vitals = vitals();
        vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        vitals.heard(MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH);
        vitals.forwarded(BATCH_OF_ANSWERS.into());
        advance(PATIENCE.answer * 10).await;
        vitals.check(&PATIENCE).unwrap();
        vitals.forwarded(1);
        let error = vitals.check(&PATIENCE).unwrap_err();
        assert_eq!(error.reason(), "no-answers");
        vitals.heard(MESSAGE_TYPE_SUBMIT_SHARES_ERROR);
        vitals.check(&PATIENCE).unwrap();
        vitals.forwarded(u64::from(BATCH_OF_ANSWERS) * 100);
        vitals.check(&PATIENCE).unwrap();
        advance(PATIENCE.answer).await;
        vitals.check(&PATIENCE).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn miners_that_come_and_go_make_no_pool_owe_answers() {
        let vitals = vitals();
        vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        vitals.heard(MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH);
        vitals.forwarded(9);
        for _ in 0..9 {
            vitals.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
            vitals.forwarded(9);
            vitals.channel_closed();
        }
        advance(PATIENCE.answer * 2).await;
        // Work was there.
        vitals.heard(MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH);
        vitals.check(&PATIENCE).unwrap();
        vitals.forwarded(u64::from(BATCH_OF_ANSWERS) + 1);
        advance(PATIENCE.answer).await;
        let error = vitals.check(&PATIENCE).unwrap_err();
        assert_eq!(error.reason(), "no-answers");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_refuses_every_channel_on_every_connection_is_found_out_once() {
        let acceptance = Acceptance::new(true);
        let one = Vitals::new(Arc::clone(&acceptance));
        let other = Vitals::new(Arc::clone(&acceptance));
        other.heard(MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL_SUCCESS);
        other.heard(MESSAGE_TYPE_MINING_SET_NEW_PREV_HASH);
        for _ in 0..REFUSALS {
            one.heard(MESSAGE_TYPE_OPEN_MINING_CHANNEL_ERROR);
        }
        advance(PATIENCE.channel).await;
        // Somebody else has a channel: it is the miner who is refused.
        one.check(&PATIENCE).unwrap();
        drop(other);
        for _ in 0..REFUSALS {
            one.check(&PATIENCE).unwrap();
            one.heard(MESSAGE_TYPE_OPEN_MINING_CHANNEL_ERROR);
        }
        one.check(&PATIENCE).unwrap();
        advance(PATIENCE.channel).await;
        let error = one.check(&PATIENCE).unwrap_err();
        assert_eq!(error.reason(), "channels-refused");
        one.check(&PATIENCE).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_pool_is_not_left_for_refusals() {
        let vitals = Vitals::new(Acceptance::new(false));
        for _ in 0..REFUSALS {
            vitals.heard(MESSAGE_TYPE_OPEN_MINING_CHANNEL_ERROR);
        }
        advance(PATIENCE.channel * 2).await;
        vitals.check(&PATIENCE).unwrap();
    }
}
