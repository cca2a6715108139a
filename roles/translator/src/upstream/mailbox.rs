//! What has come for one miner's channel and was not taken yet. It never grows: work is replaced by newer work, answers
//! are counted, and an upstream that refuses more shares than anybody sent is cut off.
//!
//! Acceptance comes for each share and is urgent for few: as a rule it wakes nobody, and is taken with the miner's next
//! line. Where none comes, [`Mailbox::remind`] wakes the miner's task.
//!
//! A `watch` of the connection's current job would not do: the target and the extranonce prefix of a job are those in
//! force when it became active, so they travel together with it, in the order of the wire.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use super::allowance::Account;
use super::shared::Membership;
use crate::job::Work;
use crate::session::{ChannelEvent, RejectReason, is_up_to};

/// Refused shares that may wait; more than any miner may have in flight.
const MAX_REFUSALS: usize = 1 << 16;

/// One channel's mail. The router puts it in, the miner's task takes it out; no other task locks it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
    arrived: Bell,
    /// The miner cannot go on without answers to its shares. Set by its own task alone, and under the lock.
    awaits_answers: AtomicBool,
    /// The miner's place, if it shares the channel.
    membership: Option<Membership>,
    /// The miner's shares that are on their way.
    account: Account,
}

/// Everything that has come since the last time, coalesced.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    opening: Option<ChannelEvent>,
    refusals: Vec<(u32, RejectReason)>,
    accepted: Option<(u32, u64)>,
    /// There was a reminder since these were accepted.
    reminded: bool,
    work: Option<Work>,
    closed: Option<String>,
    /// Nobody looks any more.
    left: bool,
}

/// Wakes one task, that of the miner. Between two turns nothing has to be taken back, as it would have with a queue of those
/// who wait.
#[derive(Debug, Default)]
struct Bell {
    rings: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        self.rings.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Since the last time.
    async fn rung(&self) {
        poll_fn(|context| {
            if !self.rings.swap(false, Ordering::Acquire) {
                self.waker.register(context.waker());
                // It may have rung in between.
                if !self.rings.swap(false, Ordering::Acquire) {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl Mailbox {
    /// For a miner that has a channel to itself.
    pub(super) fn new(account: Account) -> Self {
        Self {
            letters: Mutex::default(),
            arrived: Bell::default(),
            awaits_answers: AtomicBool::new(false),
            membership: None,
            account,
        }
    }

    /// For a miner that shares a channel.
    pub(super) fn of(membership: Membership, account: Account) -> Self {
        Self {
            membership: Some(membership),
            ..Self::new(account)
        }
    }

    /// The miner's place, if it shares the channel.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// The miner's shares that are on their way.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Waits for mail. It may come back without any.
    pub(crate) async fn arrived(&self) {
        self.arrived.rung().await;
    }

    /// Whether each answer is to be told at once.
    pub(crate) fn await_answers(&self, awaits_answers: bool) {
        if self.awaits_answers.load(Ordering::Relaxed) == awaits_answers {
            return;
        }
        let letters = self.lock();
        self.awaits_answers.store(awaits_answers, Ordering::Relaxed);
        if awaits_answers && letters.accepted.is_some() {
            self.arrived.ring();
        }
    }

    /// Takes what there is.
    pub(crate) fn take(&self) -> Letters {
        std::mem::take(&mut *self.lock())
    }

    /// Takes what there is for the last time: a channel that opens from now on is nobody's.
    pub(crate) fn leave(&self) -> Letters {
        let mut letters = self.lock();
        std::mem::replace(
            &mut *letters,
            Letters {
                left: true,
                ..Letters::default()
            },
        )
    }

    /// `false` if nobody will take it any more.
    pub(super) fn opening(&self, event: ChannelEvent) -> bool {
        let mut left = false;
        self.put(|letters| {
            left = letters.left;
            letters.opening = Some(event);
        });
        !left
    }

    pub(super) fn work(&self, work: Work) {
        self.put(|letters| letters.work = Some(work));
    }

    pub(super) fn accepted(&self, last: u32, count: u64) {
        let mut letters = self.lock();
        self.account.answered(last);
        letters.accepted = Some(match letters.accepted {
            None => (last, count),
            // Batches may be accepted in any order.
            Some((latest, before)) => {
                let latest = if is_up_to(last, latest) { latest } else { last };
                (latest, before.saturating_add(count))
            }
        });
        if self.awaits_answers.load(Ordering::Relaxed) {
            self.arrived.ring();
        }
    }

    /// Wakes the miner's task for what has waited since the last call.
    pub(super) fn remind(&self) {
        let mut letters = self.lock();
        if letters.accepted.is_some() && std::mem::replace(&mut letters.reminded, true) {
            self.arrived.ring();
        }
    }

    /// `false` if the upstream refuses shares that nobody can have sent.
    pub(super) fn rejected(&self, sequence_number: u32, reason: RejectReason) -> bool {
        let mut plausible = true;
        self.put(|letters| {
            self.account.answered(sequence_number);
            plausible = letters.refusals.len() < MAX_REFUSALS;
            if plausible {
                letters.refusals.push((sequence_number, reason));
            }
        });
        plausible
    }

    pub(super) fn closed(&self, reason: String) {
        self.put(|letters| {
            self.account.closed();
            letters.closed = Some(reason);
        });
    }

    fn put(&self, change: impl FnOnce(&mut Letters)) {
        change(&mut self.lock());
        self.arrived.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        // Whoever panicked left whole fields behind.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letters {
    /// The channel that was opened.
    pub(crate) fn opened(&self) -> Option<u32> {
        match self.opening {
            Some(ChannelEvent::Opened { channel_id, .. }) => Some(channel_id),
            _ => None,
        }
    }

    /// The events, in an order in which they could have come one by one. Refusals name their share and go before the
    /// counts, which take the oldest that are left.
    pub(crate) fn into_events(self) -> impl Iterator<Item = ChannelEvent> {
        let refusals =
            self.refusals
                .into_iter()
                .map(|(sequence_number, reason)| ChannelEvent::Rejected {
                    sequence_number,
                    reason,
                });
        let accepted = self
            .accepted
            .map(|(last_sequence_number, count)| ChannelEvent::Accepted {
                last_sequence_number,
                count,
            });
        self.opening
            .into_iter()
            .chain(refusals)
            .chain(accepted)
            .chain(self.work.map(ChannelEvent::Work))
            .chain(self.closed.map(ChannelEvent::Closed))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn wakes(mailbox: &Mailbox) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(mailbox.arrived()).poll(&mut context).is_ready()
    }

    #[test]
    fn accepted_shares_wake_nobody_before_the_second_reminder() {
        let mailbox = Mailbox::default();
        mailbox.accepted(1, 1);
        mailbox.remind();
        mailbox.accepted(2, 1);
        assert!(!wakes(&mailbox));
        mailbox.remind();
        assert!(wakes(&mailbox));
        assert_eq!(mailbox.take().accepted, Some((2, 2)));
        mailbox.remind();
        assert!(!wakes(&mailbox), "nothing is left");
        mailbox.accepted(3, 1);
        mailbox.remind();
        assert!(!wakes(&mailbox), "it has only come");
    }

    #[test]
    fn who_awaits_answers_is_woken_by_those_that_have_come_and_those_that_come() {
        let mailbox = Mailbox::default();
        mailbox.accepted(1, 1);
        mailbox.await_answers(true);
        assert!(wakes(&mailbox));
        drop(mailbox.take());
        mailbox.accepted(2, 1);
        assert!(wakes(&mailbox));
        drop(mailbox.take());
        mailbox.await_answers(false);
        mailbox.accepted(3, 1);
        assert!(!wakes(&mailbox));
    }
}
