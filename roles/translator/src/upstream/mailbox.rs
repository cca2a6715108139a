//! What has come for one miner's channel and was not taken yet. It never grows: work is replaced by newer work, answers
//! are counted, and an upstream that refuses more shares than anybody sent is cut off.
//!
//! A `watch` of the connection's current job would not do: the target and the extranonce prefix of a job are those in
//! force when it became active, so they travel together with it, in the order of the wire.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::shared::Membership;
use crate::job::Work;
use crate::session::{ChannelEvent, RejectReason, is_up_to};

/// Refused shares that may wait; more than any miner may have in flight.
const MAX_REFUSALS: usize = 1 << 16;

/// One channel's mail. The router puts it in, the miner's task takes it out; no other task locks it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
    arrived: Notify,
    /// The miner's place, if it shares the channel.
    membership: Option<Membership>,
}

/// Everything that has come since the last time, coalesced.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    opening: Option<ChannelEvent>,
    refusals: Vec<(u32, RejectReason)>,
    accepted: Option<(u32, u64)>,
    work: Option<Work>,
    closed: Option<String>,
    /// Nobody looks any more.
    left: bool,
}

impl Mailbox {
    /// For a miner that shares a channel.
    pub(super) fn of(membership: Membership) -> Self {
        Self {
            membership: Some(membership),
            ..Self::default()
        }
    }

    /// The miner's place, if it shares the channel.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Waits for mail. It may come back without any.
    pub(crate) fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
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
        self.put(|letters| {
            letters.accepted = Some(match letters.accepted {
                None => (last, count),
                // Batches may be accepted in any order.
                Some((latest, before)) => {
                    let latest = if is_up_to(last, latest) { latest } else { last };
                    (latest, before.saturating_add(count))
                }
            });
        });
    }

    /// `false` if the upstream refuses shares that nobody can have sent.
    pub(super) fn rejected(&self, sequence_number: u32, reason: RejectReason) -> bool {
        let mut plausible = true;
        self.put(|letters| {
            plausible = letters.refusals.len() < MAX_REFUSALS;
            if plausible {
                letters.refusals.push((sequence_number, reason));
            }
        });
        plausible
    }

    pub(super) fn closed(&self, reason: String) {
        self.put(|letters| letters.closed = Some(reason));
    }

    fn put(&self, change: impl FnOnce(&mut Letters)) {
        change(&mut self.lock());
        self.arrived.notify_one();
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
