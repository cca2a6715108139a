//! An open channel of this miner, as the session sees it: shares that go up and answers that come down.

use std::sync::Arc;
use std::time::Instant;

use stratum_v1::{ErrorCode, ExtranonceBytes, Id, write_error, write_result_true};

use super::recent::Terms;
use super::share::{Valid, answer_to};
use super::unanswered::Unanswered;
use super::{EXTRANONCE1_SIZE, LossReason, Output, RejectReason, ShareSubmission, Tally};

/// An open channel.
#[derive(Debug)]
pub(super) struct Channel {
    /// Tells the jobs of one channel from those of the next.
    pub(super) number: u32,
    /// The upstream's id.
    pub(super) id: u32,
    /// Zero bytes between the upstream's prefix and our extranonce1.
    pub(super) padding: usize,
    pub(super) opened_at: Instant,
    /// How often opening had failed before.
    pub(super) failures: u32,
    /// When the upstream may be told what the miner asks.
    pub(super) next_wish: Instant,
    sequence_number: u32,
    in_flight: Unanswered<InFlight>,
}

/// A forwarded share that has no answer yet.
#[derive(Debug)]
struct InFlight {
    /// What it is worth for the miner, and for the upstream.
    terms: Arc<Terms>,
    /// What to answer when the upstream has answered. Boxed: by default there is nothing.
    answer_to: Option<Box<Asked>>,
}

/// A submit whose answer waits for the upstream's.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: Box<str>,
    pub(super) at: Instant,
}

impl Channel {
    pub(super) fn new(
        number: u32,
        id: u32,
        padding: usize,
        opened_at: Instant,
        failures: u32,
    ) -> Self {
        Self {
            number,
            id,
            padding,
            opened_at,
            failures,
            next_wish: opened_at,
            sequence_number: 0,
            in_flight: Unanswered::default(),
        }
    }

    /// Shares that were forwarded and have no answer.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes a share on its way. The miner is answered when the upstream has, if there is an id to answer to.
    pub(super) fn forward(
        &mut self,
        share: &Valid,
        extranonce1: [u8; EXTRANONCE1_SIZE],
        answer_to: Option<Box<Asked>>,
        tally: &mut Tally,
    ) -> ShareSubmission {
        let mut extranonce = [0; 32];
        let size = self.padding + EXTRANONCE1_SIZE + share.extranonce2.len();
        extranonce[self.padding..self.padding + EXTRANONCE1_SIZE].copy_from_slice(&extranonce1);
        extranonce[self.padding + EXTRANONCE1_SIZE..size].copy_from_slice(&share.extranonce2);
        self.sequence_number = self.sequence_number.wrapping_add(1);
        let in_flight = InFlight {
            terms: Arc::clone(&share.terms),
            answer_to,
        };
        self.in_flight.push(self.sequence_number, in_flight);
        tally.forwarded += 1;
        tally.in_flight += 1;
        ShareSubmission {
            channel_id: self.id,
            sequence_number: self.sequence_number,
            job_id: share.job_id,
            nonce: share.nonce,
            ntime: share.ntime,
            version: share.version,
            extranonce: ExtranonceBytes::new(&extranonce[..size]).unwrap_or_default(),
            worker: share.worker,
            solves_block: share.solves_block,
        }
    }

    pub(super) fn accepted(&mut self, last: u32, count: u64, tally: &mut Tally, out: &mut Output) {
        self.in_flight.accepted(last, count, |share| {
            let Terms {
                asked, upstream, ..
            } = &*share.terms;
            tally.acknowledged([asked.work, upstream.work]);
            if let Some(asked) = share.answer_to {
                tally.told_accepted += 1;
                out.answered.later.push(asked.at);
                write_result_true(&mut out.bytes, Id::from_raw(&asked.id));
            }
        });
    }

    /// Gives the work that was measured and was none, if the pool knew the share already.
    pub(super) fn rejected(
        &mut self,
        sequence_number: u32,
        reason: RejectReason,
        tally: &mut Tally,
        out: &mut Output,
    ) -> Option<u128> {
        let share = self.in_flight.rejected(sequence_number)?;
        tally.in_flight -= 1;
        tally.reject(reason);
        if let Some(asked) = share.answer_to {
            refuse(out, &asked, reason);
        }
        (reason == RejectReason::UpstreamDuplicate).then_some(share.terms.asked.work)
    }

    /// The channel is no more: what was not answered is lost.
    pub(super) fn end(self, reason: LossReason, tally: &mut Tally, out: &mut Output) {
        tally.lose(reason, self.in_flight.len() as u64);
        for share in self.in_flight.into_shares() {
            if let Some(asked) = share.answer_to {
                refuse(out, &asked, RejectReason::UpstreamGone);
            }
        }
    }
}

fn refuse(out: &mut Output, asked: &Asked, reason: RejectReason) {
    let (code, message): (ErrorCode, _) = answer_to(reason);
    out.answered.later.push(asked.at);
    write_error(&mut out.bytes, Id::from_raw(&asked.id), code, message);
}
