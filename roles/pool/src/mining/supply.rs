//! What a session gives its channels: jobs, targets and extranonce prefixes.

use std::time::Instant;

use stratum_core::{
    binary_sv2::Sv2Option,
    mining_sv2::{NewMiningJob, SetExtranoncePrefix, SetTarget},
    parsers_sv2::Mining as Message,
};
use sv2_connection::{FrameBuffer, MalformedMessage};
use work::{Clamp, Target};

use super::Mining;
use crate::{
    board::{OWN_JOB_BIT, Work},
    channel::{Channel, Kind},
    extranonce::Prefixes,
    job::Job,
    session::Fault,
};

/// How many tips back a reorganisation is recognised that returns to one of them.
const TIPS_REMEMBERED: usize = 16;

impl Mining {
    pub(super) fn retarget_all(
        &mut self,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        (0..self.channels.len()).try_for_each(|at| self.retarget(at, now, out))
    }

    pub(super) fn retarget(
        &mut self,
        at: usize,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let channel = &mut self.channels[at];
        let mut early_job = false;
        if channel.needs_new_prefix() {
            change_prefix(channel, &self.resources.prefixes, out)?;
            early_job = true;
        }
        if let Some(retarget) = channel.retarget(now) {
            let max_target = channel.max_target();
            let target = self.clamp(max_target).apply(retarget.difficulty.target());
            early_job |= self.set_target(at, target, out)? && retarget.urgent;
        }
        if let (true, Some(work)) = (early_job, self.work.clone()) {
            self.own_jobs = (self.own_jobs + 1) % OWN_JOB_BIT;
            self.send_job(at, &work, self.own_jobs | OWN_JOB_BIT, false, now, out)?;
        }
        Ok(())
    }

    /// The one place where a channel's target changes after its opening. Checks the client's limit once more.
    pub(super) fn set_target(
        &mut self,
        at: usize,
        target: Target,
        out: &mut FrameBuffer,
    ) -> Result<bool, MalformedMessage> {
        let channel = &mut self.channels[at];
        let target = target.min(channel.max_target());
        if !channel.set_target(target) {
            return Ok(false);
        }
        out.push(Message::SetTarget(SetTarget {
            channel_id: channel.id,
            maximum_target: (&target.to_le_bytes()).into(),
        }))?;
        Ok(true)
    }

    /// A new tip can have another network target, which bounds what channels have.
    pub(super) fn follow_network_target(
        &mut self,
        work: &Work,
        out: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        for at in 0..self.channels.len() {
            let clamp = Clamp {
                network: work.network_target(),
                max_target: self.channels[at].max_target(),
                pool_minimum: self.resources.settings.pool_minimum,
            };
            let target = clamp.apply(self.channels[at].target());
            self.set_target(at, target, out)?;
        }
        Ok(())
    }

    pub(super) fn send_job(
        &mut self,
        at: usize,
        work: &Work,
        job_id: u32,
        new_tip: bool,
        now: Instant,
        out: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        let channel = &mut self.channels[at];
        let job = work.job(channel.payee.as_deref(), channel.extranonce_size);
        announce_to_channel(channel, &job, job_id, new_tip, out)?;
        channel.job_sent(job_id, job, now);
        Ok(())
    }

    pub(super) fn clamp(&self, max_target: Target) -> Clamp {
        Clamp {
            network: self
                .work
                .as_ref()
                .map_or(Target::MIN, |work| work.network_target()),
            max_target,
            pool_minimum: self.resources.settings.pool_minimum,
        }
    }

    /// What was accepted on a tip is forgotten with it. Where the chain returns to one (a reorganisation undone), other
    /// prefixes make sure that nothing of then counts again.
    pub(super) fn leave_tip(
        &mut self,
        old: [u8; 32],
        new: [u8; 32],
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        if old == new {
            return Ok(());
        }
        if self.past_tips.len() == TIPS_REMEMBERED {
            self.past_tips.pop_front();
        }
        self.past_tips.push_back(old);
        if self.past_tips.contains(&new) {
            for channel in &mut self.channels {
                change_prefix(channel, &self.resources.prefixes, out)?;
            }
        }
        Ok(())
    }

    /// Whether a job of this number was sent to somebody on this connection, at some time.
    pub(super) fn is_past(&self, job_id: u32) -> bool {
        if job_id & OWN_JOB_BIT != 0 {
            job_id & !OWN_JOB_BIT <= self.own_jobs
        } else {
            self.work.as_ref().is_some_and(|work| job_id <= work.id())
        }
    }
}

fn change_prefix(
    channel: &mut Channel,
    prefixes: &Prefixes,
    out: &mut FrameBuffer,
) -> Result<(), Fault> {
    let fresh = prefixes
        .allocate()
        .ok_or(Fault::Refused("no extranonce prefix is left"))?;
    channel.set_prefix(fresh);
    out.push(Message::SetExtranoncePrefix(SetExtranoncePrefix {
        channel_id: channel.id,
        extranonce_prefix: channel
            .extranonce_prefix()
            .as_slice()
            .try_into()
            .map_err(MalformedMessage::Fields)?,
    }))?;
    Ok(())
}

/// Sends a job to one channel, in the form that its kind takes.
pub(super) fn announce_to_channel(
    channel: &Channel,
    job: &Job,
    job_id: u32,
    new_tip: bool,
    out: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    if channel.kind == Kind::Extended {
        return job.announce(channel.id, job_id, new_tip, out);
    }
    let merkle_root = channel.merkle_root(job);
    out.push(Message::NewMiningJob(NewMiningJob {
        channel_id: channel.id,
        job_id,
        min_ntime: Sv2Option::new((!new_tip).then_some(job.template.ntime)),
        version: job.template.version,
        merkle_root: (&merkle_root).into(),
    }))?;
    if new_tip {
        job.announce_tip(channel.id, job_id, out)?;
    }
    Ok(())
}
