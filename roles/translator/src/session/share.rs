//! A share's way: judged here first, so that a miner's mistake costs the upstream nothing, then forwarded.

use std::sync::Arc;

use stratum_v1::{ErrorCode, ExtranonceBytes, Id, Submit};

use super::channel::Asked;
use super::headers::Noted;
use super::recent::{SentJob, Terms};
use super::request::{accept, refuse};
use super::upstream::{self, Stage};
use super::worker::WorkerName;
use super::{Acknowledge, Now, Output, RejectReason, Request, Session};

/// How far ahead of its job's time a header's may be: what Bitcoin's nodes accept (`MAX_FUTURE_BLOCK_TIME`).
const MAX_FUTURE_SECONDS: u32 = 2 * 60 * 60;

/// Bytes of a request's id that are kept until the upstream has answered. Miners count.
const LONGEST_ID: usize = 64;

impl Session {
    pub(super) fn handle_submit(
        &mut self,
        now: Now,
        id: Id<'_>,
        submit: &Submit<'_>,
        out: &mut Output,
    ) {
        self.tally.submitted += 1;
        let judged = if id.json().len() > LONGEST_ID {
            Err(RejectReason::Malformed)
        } else {
            self.judge(submit)
        };
        if let Err(reason) = judged.and_then(|share| self.take(now, id, &share, out)) {
            self.tally.reject(reason);
            let (code, message) = answer_to(reason);
            refuse(out, id, code, message);
        }
    }

    fn judge(&mut self, submit: &Submit<'_>) -> Result<Valid, RejectReason> {
        if !self.subscribed {
            return Err(RejectReason::NotSubscribed);
        }
        let worker = self
            .workers
            .iter()
            .find(|known| submit.worker == *known.name)
            .ok_or(RejectReason::Unauthorized)?;
        let sent = job_id(submit)
            .and_then(|id| self.recent.find(id))
            .ok_or(RejectReason::JobNotFound)?;
        if !self.takes_shares(sent.terms.channel) {
            return Err(RejectReason::UpstreamGone);
        }
        if submit.extranonce2.len() != usize::from(self.settings.extranonce2_size) {
            return Err(RejectReason::BadExtranonce);
        }
        // By the job's time, as pools judge it: a wrong clock here must not cost anybody a share.
        let latest = sent.job.min_ntime.saturating_add(MAX_FUTURE_SECONDS);
        if !(sent.job.min_ntime..=latest).contains(&submit.ntime) {
            return Err(RejectReason::BadTime);
        }
        let version = rolled_version(sent, submit.version_bits)?;
        let extranonce = [&*sent.terms.hole, &self.extranonce1, &*submit.extranonce2];
        let hash = sent
            .job
            .header(extranonce, version, submit.ntime, submit.nonce)
            .hash();
        if !sent.terms.asked.target.is_met_by(&hash) {
            return Err(RejectReason::LowDifficulty);
        }
        let valid = Valid {
            terms: Arc::clone(&sent.terms),
            for_upstream: sent.terms.upstream.target.is_met_by(&hash),
            solves_block: sent.job.is_solved_by(&hash),
            job_id: sent.job.upstream_id,
            version,
            ntime: submit.ntime,
            nonce: submit.nonce,
            extranonce2: submit.extranonce2,
            worker: worker.of_shares,
        };
        match self.recent.note(&hash, valid.for_upstream) {
            Noted::New => Ok(valid),
            Noted::Known => Err(RejectReason::Duplicate),
            Noted::TooMany => Err(RejectReason::TooMany),
        }
    }

    /// A valid share goes to its channel, or counts here if the channel asks for more.
    fn take(
        &mut self,
        now: Now,
        id: Id<'_>,
        share: &Valid,
        out: &mut Output,
    ) -> Result<(), RejectReason> {
        let (channel, route) =
            upstream::channel(&mut self.stage, &mut self.leaving, share.terms.channel)
                .ok_or(RejectReason::UpstreamGone)?;
        let later = share.for_upstream && self.settings.acknowledge == Acknowledge::Upstream;
        if share.for_upstream {
            let answer_to = (later && !id.is_absent()).then(|| {
                Box::new(Asked {
                    id: id.json().into(),
                    at: now.instant,
                })
            });
            let submission = channel.forward(share, self.extranonce1, answer_to, &mut self.tally);
            out.for_route(route).push(Request::Submit(submission));
        } else {
            self.tally.keep(share.terms.asked.work);
        }
        if !later {
            self.tally.told_accepted += 1;
            accept(out, id);
        }
        self.measure(now, share.terms.asked.work, out);
        self.share_is_valid(now, &share.terms, out);
        Ok(())
    }

    /// A share whose work was measured turns out to repeat one that was forgotten here: it shows no hashrate.
    pub(super) fn measured_in_vain(&mut self, work: Option<u128>) {
        if let (Some(work), Some(meter)) = (work, &mut self.meter) {
            meter.take_back(work);
        }
    }

    /// Counts a share's work, and tells the upstream what it should know.
    fn measure(&mut self, now: Now, work: u128, out: &mut Output) {
        let Some(meter) = &mut self.meter else { return };
        meter.add(now.instant, work);
        let Some(hashrate) = meter.report(now.instant) else {
            return;
        };
        if let Stage::Open(channel) = &self.stage {
            out.requests.push(Request::Update {
                channel_id: channel.id,
                hashrate,
                max_target: self.max_target(),
            });
        }
    }
}

/// A share that passed every check.
pub(super) struct Valid {
    pub(super) terms: Arc<Terms>,
    /// It meets the channel's target too.
    for_upstream: bool,
    pub(super) solves_block: bool,
    pub(super) job_id: u32,
    pub(super) version: u32,
    pub(super) ntime: u32,
    pub(super) nonce: u32,
    pub(super) extranonce2: ExtranonceBytes,
    /// Who found it, where shares say so.
    pub(super) worker: Option<WorkerName>,
}

fn job_id(submit: &Submit<'_>) -> Option<u64> {
    let text = submit.job_id.plain()?;
    u64::from_str_radix(text, 16).ok()
}

/// The job's version with the miner's bits (BIP 310). A miner that never negotiated may send bits all the same.
fn rolled_version(sent: &SentJob, bits: Option<u32>) -> Result<u32, RejectReason> {
    let mask = sent.terms.version_mask;
    match bits {
        None => Ok(sent.job.version),
        Some(bits) if bits & !mask != 0 => Err(RejectReason::BadVersion),
        Some(bits) => Ok(sent.job.version & !mask | bits),
    }
}

/// What a miner is told about a refused share.
pub(super) fn answer_to(reason: RejectReason) -> (ErrorCode, &'static str) {
    match reason {
        RejectReason::Malformed => (ErrorCode::Other, "malformed share"),
        RejectReason::NotSubscribed => (ErrorCode::NotSubscribed, "not subscribed"),
        RejectReason::Unauthorized => (ErrorCode::Unauthorized, "unauthorized worker"),
        RejectReason::JobNotFound => (ErrorCode::JobNotFound, "job not found"),
        RejectReason::UpstreamGone => (
            ErrorCode::JobNotFound,
            "job not found: its pool connection was lost",
        ),
        RejectReason::BadExtranonce => (ErrorCode::Other, "extranonce2 has the wrong size"),
        RejectReason::BadTime => (ErrorCode::Other, "ntime out of range"),
        RejectReason::BadVersion => (ErrorCode::Other, "version bits outside the mask"),
        RejectReason::LowDifficulty => (ErrorCode::LowDifficulty, "low difficulty share"),
        RejectReason::Duplicate => (ErrorCode::Duplicate, "duplicate share"),
        RejectReason::TooMany => (
            ErrorCode::Other,
            "too many easy shares on this block; ask for a higher difficulty",
        ),
        RejectReason::UpstreamStale => (ErrorCode::JobNotFound, "job not found (pool)"),
        RejectReason::UpstreamDuplicate => (ErrorCode::Duplicate, "duplicate share (pool)"),
        RejectReason::UpstreamLowDifficulty => {
            (ErrorCode::LowDifficulty, "low difficulty share (pool)")
        }
        RejectReason::UpstreamOther => (ErrorCode::Other, "refused by the pool"),
    }
}
