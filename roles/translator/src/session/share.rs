//! A share's way: judged here first, so that a miner's mistake costs the upstream nothing, then forwarded.

use stratum_v1::{ErrorCode, ExtranonceBytes, Id, Submit};

use super::channel::{InFlight, Stage};
use super::recent::{Lookup, SentJob};
use super::request::{accept, refuse};
use super::{
    Acknowledge, EXTRANONCE1_SIZE, Now, Output, RejectReason, Request, Session, ShareSubmission,
};

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
        match judged {
            Ok(share) => self.forward(now, id, &share, out),
            Err(reason) => {
                self.tally.reject(reason);
                let (code, message) = answer_to(reason);
                refuse(out, id, code, message);
            }
        }
    }

    fn judge(&mut self, submit: &Submit<'_>) -> Result<Valid, RejectReason> {
        if !self.subscribed {
            return Err(RejectReason::NotSubscribed);
        }
        if !self.is_authorized(submit.worker) {
            return Err(RejectReason::Unauthorized);
        }
        let id = job_id(submit).ok_or(RejectReason::JobNotFound)?;
        let sent = match self.recent.find(id) {
            Lookup::Found(sent) => sent,
            Lookup::Orphaned => return Err(RejectReason::UpstreamGone),
            Lookup::Unknown => return Err(RejectReason::JobNotFound),
        };
        if submit.extranonce2.len() != usize::from(self.settings.extranonce2_size) {
            return Err(RejectReason::BadExtranonce);
        }
        // By the job's time, as pools judge it: a wrong clock here must not cost anybody a share.
        let latest = sent.job.min_ntime.saturating_add(MAX_FUTURE_SECONDS);
        if !(sent.job.min_ntime..=latest).contains(&submit.ntime) {
            return Err(RejectReason::BadTime);
        }
        let version = rolled_version(sent, submit.version_bits)?;
        let extranonce = [&*sent.hole, &self.extranonce1, &*submit.extranonce2];
        let hash = sent
            .job
            .header(extranonce, version, submit.ntime, submit.nonce)
            .hash();
        if !sent.target.is_met_by(&hash) {
            return Err(RejectReason::LowDifficulty);
        }
        let valid = Valid {
            job_id: sent.job.upstream_id,
            target: sent.target,
            version,
            ntime: submit.ntime,
            nonce: submit.nonce,
            extranonce2: submit.extranonce2,
        };
        if !self.recent.note(&hash) {
            return Err(RejectReason::Duplicate);
        }
        Ok(valid)
    }

    fn forward(&mut self, now: Now, id: Id<'_>, share: &Valid, out: &mut Output) {
        let Stage::Open(channel) = &mut self.stage else {
            // Jobs are orphaned when the channel goes, so this cannot be; if it were, the share went nowhere.
            self.tally.reject(RejectReason::UpstreamGone);
            let (code, message) = answer_to(RejectReason::UpstreamGone);
            return refuse(out, id, code, message);
        };
        let mut extranonce = [0; 32];
        let padding = channel.padding;
        let size = padding + EXTRANONCE1_SIZE + share.extranonce2.len();
        extranonce[padding..padding + EXTRANONCE1_SIZE].copy_from_slice(&self.extranonce1);
        extranonce[padding + EXTRANONCE1_SIZE..size].copy_from_slice(&share.extranonce2);
        channel.sequence_number = channel.sequence_number.wrapping_add(1);
        let submission = ShareSubmission {
            channel_id: channel.id,
            sequence_number: channel.sequence_number,
            job_id: share.job_id,
            nonce: share.nonce,
            ntime: share.ntime,
            version: share.version,
            extranonce: ExtranonceBytes::new(&extranonce[..size]).unwrap_or_default(),
        };
        channel.meter.add(now.instant, &share.target);
        let report = channel.meter.report(now.instant);
        let told = match self.settings.acknowledge {
            Acknowledge::Local => {
                self.tally.told_accepted += 1;
                accept(out, id);
                None
            }
            Acknowledge::Upstream => (!id.is_absent()).then(|| id.json().into()),
        };
        channel.in_flight.push_back(InFlight {
            sequence_number: submission.sequence_number,
            work: share.target.work(),
            answer_to: told,
        });
        self.tally.forwarded += 1;
        self.tally.in_flight += 1;
        out.requests.push(Request::Submit(submission));
        if let Some(hashrate) = report {
            out.requests.push(Request::Update {
                channel_id: submission.channel_id,
                hashrate,
                max_target: self.max_target(),
            });
        }
    }
}

/// A share that passed every check.
struct Valid {
    job_id: u32,
    target: work::Target,
    version: u32,
    ntime: u32,
    nonce: u32,
    extranonce2: ExtranonceBytes,
}

fn job_id(submit: &Submit<'_>) -> Option<u64> {
    let text = submit.job_id.plain()?;
    u64::from_str_radix(text, 16).ok()
}

/// The job's version with the miner's bits (BIP 310). A miner that never negotiated may send bits all the same.
fn rolled_version(sent: &SentJob, bits: Option<u32>) -> Result<u32, RejectReason> {
    let mask = sent.version_mask;
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
        RejectReason::UpstreamStale => (ErrorCode::JobNotFound, "job not found (pool)"),
        RejectReason::UpstreamDuplicate => (ErrorCode::Duplicate, "duplicate share (pool)"),
        RejectReason::UpstreamLowDifficulty => {
            (ErrorCode::LowDifficulty, "low difficulty share (pool)")
        }
        RejectReason::UpstreamOther => (ErrorCode::Other, "refused by the pool"),
    }
}
