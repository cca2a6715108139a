//! Brings what an upstream says to the channels that it is for. A state machine without I/O, one per connection.
//!
//! It holds the targets and prefixes in force, so that each job reaches a channel with those of the moment when it became
//! active, and makes each job once however many channels mine it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stratum_core::{
    binary_sv2::{B032, U256},
    mining_sv2::{NewExtendedMiningJob, OpenExtendedMiningChannelSuccess, SetNewPrevHash},
    parsers_sv2::Mining,
};
use stratum_v1::ExtranonceBytes;
use sv2_connection::Frame;
use work::Target;

use super::complaints::{Complaint, Said};
use super::{Opening, Owner, Registry, UpstreamError};
use crate::job::{Job, JobParts, Tip, UnusualCoinbase, Work};
use crate::session::RejectReason;

/// Future jobs that are kept for one channel or group; the oldest go first.
const MAX_FUTURE_JOBS: usize = 16;

/// Groups without channels that are remembered: their jobs may be for a channel that is about to be opened.
const MAX_IDLE_FEEDS: usize = 16;

/// A miner whose accepted shares wait has been told of them after so many reminders.
const REMINDERS: u8 = 2;

/// SV2 5.1: the full extranonce of a channel.
const MAX_EXTRANONCE_SIZE: usize = 32;

#[derive(Debug)]
pub(super) struct Router {
    said: Said,
    registry: Arc<Registry>,
    job_ids: Arc<AtomicU64>,
    channels: HashMap<u32, Channel>,
    /// By channel id and by group id; SV2 gives both out of one space.
    feeds: HashMap<u32, Feed>,
    tips: u64,
    unwanted: Vec<u32>,
    /// That are due, because shares were accepted.
    reminders: u8,
    newest: Option<Made>,
}

/// The job that was made last. Pools send channels that open one after the other the same one, which need not be held for
/// each of them.
#[derive(Debug)]
struct Made {
    parts: JobParts,
    tip: Tip,
    job: Arc<Job>,
}

#[derive(Debug)]
struct Channel {
    owner: Owner,
    group: u32,
    target: Target,
    extranonce_prefix: ExtranonceBytes,
    extranonce_size: usize,
}

/// What was sent to one channel, or to one group.
#[derive(Debug, Default)]
struct Feed {
    /// With a number that says which of two is newer.
    tip: Option<(u64, Tip)>,
    future: VecDeque<JobParts>,
}

impl Router {
    pub(super) fn new(registry: Arc<Registry>, job_ids: Arc<AtomicU64>) -> Self {
        let said = Said::new(registry.complaints.clone());
        Self {
            said,
            registry,
            job_ids,
            channels: HashMap::new(),
            feeds: HashMap::new(),
            tips: 0,
            unwanted: Vec::new(),
            reminders: 0,
            newest: None,
        }
    }

    /// Handles one frame of the upstream.
    pub(super) fn handle(&mut self, frame: Frame<'_>) -> Result<(), UpstreamError> {
        if frame.extension_type != 0 {
            // Of an extension that was not asked for: to be ignored (SV2 3.4).
            return Ok(());
        }
        let message_type = frame.message_type;
        match frame.mining()? {
            Mining::SubmitSharesSuccess(message) => {
                if let Some(channel) = self.channels.get(&message.channel_id) {
                    self.reminders = REMINDERS;
                    channel.owner.accepted(
                        message.last_sequence_number,
                        message.new_submits_accepted_count.into(),
                    );
                }
            }
            Mining::SubmitSharesError(message) => {
                let code = message.error_code.as_utf8_or_hex();
                tracing::debug!(channel = message.channel_id, share = message.sequence_number, %code, "share refused");
                if let Some(channel) = self.channels.get(&message.channel_id)
                    && !channel
                        .owner
                        .rejected(message.sequence_number, RejectReason::from_upstream(&code))
                {
                    return Err(UpstreamError::Implausible);
                }
            }
            Mining::NewExtendedMiningJob(message) => self.new_job(message),
            Mining::SetNewPrevHash(message) => self.new_prev_hash(&message)?,
            Mining::SetTarget(message) => {
                // Going on with another target than the upstream's would cost every share.
                let target = Target::from_le_bytes(*message.maximum_target.as_array())
                    .map_err(|_| UpstreamError::Impossible("target"))?;
                // One that is easier than a miner wants is for its session to mend: what it wants may have changed since.
                self.addressed(message.channel_id, |channel| channel.target = target);
            }
            Mining::SetExtranoncePrefix(message) => {
                if let Some(channel) = self.channels.get_mut(&message.channel_id) {
                    channel.extranonce_prefix =
                        prefix(&message.extranonce_prefix, channel.extranonce_size)
                            .ok_or(UpstreamError::Impossible("extranonce prefix"))?;
                }
            }
            Mining::SetGroupChannel(message) => {
                for id in message.channel_ids.iter() {
                    let told = self.newest_tip(*id);
                    if let Some(channel) = self.channels.get_mut(id) {
                        channel.group = message.group_channel_id;
                        // The block that it was told of in the group before.
                        self.feeds.entry(*id).or_default().tip = told;
                        self.feeds.entry(message.group_channel_id).or_default();
                    }
                }
                self.sweep();
            }
            Mining::OpenExtendedMiningChannelSuccess(message) => self.opened(&message)?,
            Mining::OpenMiningChannelError(message) => {
                let code = message.error_code.as_utf8_or_hex();
                if self.said.is_new(Complaint::ChannelRefused) {
                    tracing::warn!(%code, "the upstream refused a channel; others are counted");
                } else {
                    tracing::debug!(%code, "the upstream refused a channel");
                }
                if let Some(opening) = self.registry.answer(Instant::now(), message.request_id) {
                    opening.owner.refused(&code);
                }
            }
            Mining::CloseChannel(message) => {
                let reason = message.reason_code.as_utf8_or_hex();
                self.addressed(message.channel_id, |channel| channel.owner.closed(&reason));
                self.sweep();
            }
            Mining::UpdateChannelError(message) => {
                let code = message.error_code.as_utf8_or_hex();
                if self.said.is_new(Complaint::UpdateRefused) {
                    tracing::warn!(%code, "the upstream refused a channel's update; others are counted");
                } else {
                    tracing::debug!(channel = message.channel_id, %code, "the upstream refused a channel's update");
                }
            }
            _ => return Err(UpstreamError::Unexpected(message_type)),
        }
        Ok(())
    }

    /// Has miners look whose shares were accepted a while ago and who had no other reason to; to be called now and then.
    pub(super) fn remind(&mut self) {
        if let Some(left) = self.reminders.checked_sub(1) {
            self.reminders = left;
            self.channels
                .values()
                .for_each(|channel| channel.owner.remind());
        }
    }

    /// Channels that are open for miners that have left, to be closed.
    pub(super) fn unwanted(&mut self) -> &mut Vec<u32> {
        self.unwanted.append(&mut self.registry.abandoned());
        &mut self.unwanted
    }

    fn opened(
        &mut self,
        message: &OpenExtendedMiningChannelSuccess<'_>,
    ) -> Result<(), UpstreamError> {
        let Opening {
            owner,
            user_identity,
            max_target,
        } = self
            .registry
            .answer(Instant::now(), message.request_id)
            .ok_or(UpstreamError::Unasked)?;
        let extranonce_size = usize::from(message.extranonce_size);
        let target = Target::from_le_bytes(*message.target.as_array())
            .ok()
            .filter(|target| *target <= max_target);
        let (Some(target), Some(extranonce_prefix)) =
            (target, prefix(&message.extranonce_prefix, extranonce_size))
        else {
            owner.refused("its answer holds an impossible target or extranonce");
            self.unwanted.push(message.channel_id);
            return Ok(());
        };
        self.registry.last_identity.set(user_identity);
        if !owner.opened(message.channel_id, message.extranonce_size) {
            self.unwanted.push(message.channel_id);
            return Ok(());
        }
        let channel = Channel {
            owner,
            group: message.group_channel_id,
            target,
            extranonce_prefix,
            extranonce_size,
        };
        self.channels.insert(message.channel_id, channel);
        self.feeds.entry(message.channel_id).or_default();
        self.feeds.entry(message.group_channel_id).or_default();
        Ok(())
    }

    fn new_job(&mut self, message: NewExtendedMiningJob<'_>) {
        let id = message.channel_id;
        let min_ntime = message.min_ntime.as_ref().copied();
        let parts = JobParts {
            upstream_id: message.job_id,
            version: message.version,
            version_rolling: message.version_rolling_allowed,
            coinbase_prefix: message.coinbase_tx_prefix.to_owned_bytes(),
            coinbase_suffix: message.coinbase_tx_suffix.to_owned_bytes(),
            merkle_path: message
                .merkle_path
                .iter()
                .map(|hash: &U256<'_>| *hash.as_array())
                .collect(),
        };
        let Some(min_ntime) = min_ntime else {
            let Some(feed) = self.feeds.get_mut(&id) else {
                return;
            };
            if feed.future.len() == MAX_FUTURE_JOBS {
                feed.future.pop_front();
            }
            return feed.future.push_back(parts);
        };
        match self.tip(id) {
            Some(tip) => self.activate(id, parts, Tip { min_ntime, ..tip }),
            None if self.said.is_new(Complaint::EarlyJob) => tracing::warn!(
                channel = id,
                "a job came before the block that it builds on; it is ignored, and others are counted"
            ),
            None => tracing::debug!(channel = id, "a job came before its block"),
        }
    }

    fn new_prev_hash(&mut self, message: &SetNewPrevHash<'_>) -> Result<(), UpstreamError> {
        let id = message.channel_id;
        let tip = Tip {
            prev_hash: *message.prev_hash.as_array(),
            min_ntime: message.min_ntime,
            nbits: message.nbits,
        };
        // A job that was sent to the group may be named for one of its channels.
        let group = self.channels.get(&id).map(|channel| channel.group);
        let find = |feed: &Feed| {
            feed.future
                .iter()
                .rev()
                .find(|job| job.upstream_id == message.job_id)
                .cloned()
        };
        let parts = self
            .feeds
            .get(&id)
            .and_then(find)
            .or_else(|| self.feeds.get(&group?).and_then(find));
        let Some(feed) = self.feeds.get_mut(&id) else {
            return Ok(());
        };
        self.tips += 1;
        feed.tip = Some((self.tips, tip));
        // SV2 5.3.17: the jobs that are not named are to be dropped.
        feed.future = VecDeque::new();
        // Going on would be to mine a block that is no longer the next one.
        let parts = parts.ok_or(UpstreamError::UnknownJob(message.job_id))?;
        self.activate(id, parts, tip);
        Ok(())
    }

    /// The newest tip that was told to this channel, to the group that it is in, or, for a group, to any of its members:
    /// an upstream need not tell a group whose channels it told one by one.
    fn tip(&self, id: u32) -> Option<Tip> {
        self.newest_tip(id).map(|(_, tip)| tip)
    }

    fn newest_tip(&self, id: u32) -> Option<(u64, Tip)> {
        let told = |id: &u32| self.feeds.get(id)?.tip;
        let group = self.channels.get(&id).map(|channel| channel.group);
        let members = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.group == id)
            .map(|(member, _)| *member);
        [Some(id), group]
            .into_iter()
            .flatten()
            .chain(members)
            .filter_map(|id| told(&id))
            .max_by_key(|(number, _)| *number)
    }

    fn activate(&mut self, id: u32, parts: JobParts, tip: Tip) {
        let upstream_id = parts.upstream_id;
        let job = match self.job(parts, tip) {
            Ok(job) => job,
            Err(error) if self.said.is_new(Complaint::BadJob) => {
                return tracing::error!(job = upstream_id, %error, "a job is ignored; others are counted");
            }
            Err(error) => return tracing::debug!(job = upstream_id, %error, "a job is ignored"),
        };
        let mut gone = false;
        self.addressed(id, |channel| {
            let work = Work {
                job: Arc::clone(&job),
                target: channel.target,
                extranonce_prefix: channel.extranonce_prefix,
            };
            gone |= !channel.owner.work(work);
        });
        if gone {
            self.sweep();
        }
    }

    /// The job that these make.
    fn job(&mut self, parts: JobParts, tip: Tip) -> Result<Arc<Job>, UnusualCoinbase> {
        if let Some(made) = &self.newest
            && (&made.parts, &made.tip) == (&parts, &tip)
        {
            return Ok(Arc::clone(&made.job));
        }
        let number = self.job_ids.fetch_add(1, Ordering::Relaxed);
        let job = Arc::new(Job::new(number, &parts, &tip)?);
        self.newest = Some(Made {
            parts,
            tip,
            job: Arc::clone(&job),
        });
        Ok(job)
    }

    /// The channel of this id, or all of the group's.
    fn addressed(&mut self, id: u32, mut act: impl FnMut(&mut Channel)) {
        match self.channels.get_mut(&id) {
            Some(channel) => act(channel),
            None => self
                .channels
                .values_mut()
                .filter(|channel| channel.group == id)
                .for_each(act),
        }
    }

    /// Forgets the channels of miners that have left.
    fn sweep(&mut self) {
        let feeds = &mut self.feeds;
        self.channels.retain(|id, channel| {
            let present = channel.owner.is_present();
            if !present {
                feeds.remove(id);
            }
            present
        });
        let channels = &self.channels;
        if feeds.len() <= 2 * channels.len() + MAX_IDLE_FEEDS {
            return;
        }
        feeds.retain(|id, _| {
            channels.contains_key(id) || channels.values().any(|channel| channel.group == *id)
        });
    }
}

/// The prefix, if it fits with the rest of the extranonce.
fn prefix(bytes: &B032<'_>, extranonce_size: usize) -> Option<ExtranonceBytes> {
    let bytes = bytes.as_bytes();
    (bytes.len() + extranonce_size <= MAX_EXTRANONCE_SIZE)
        .then(|| ExtranonceBytes::new(bytes))
        .flatten()
}

#[cfg(test)]
mod tests;
