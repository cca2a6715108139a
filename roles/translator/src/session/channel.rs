//! The upstream channel of one miner: opening, work, answers to shares, and its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use stratum_v1::{
    ErrorCode, ExtranonceBytes, write_error, write_set_difficulty, write_set_version_mask,
    write_show_message,
};
use work::Hashrate;

use super::meter::Meter;
use super::outage::Outage;
use super::recent::SentJob;
use super::share::answer_to;
use super::{
    ChannelEvent, EXTRANONCE1_SIZE, LossReason, Now, OpenChannel, Output, RejectReason, Request,
    Session,
};
use crate::job::Work;

/// After a refused or closed channel: the first wait before the next attempt, doubled up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// A channel that the pool closes sooner than this counts as another failure to open it.
const SHORT_LIFETIME: Duration = Duration::from_secs(60);

/// How long the pool may take to open a channel.
const OPENING_PATIENCE: Duration = Duration::from_secs(15);

/// The least time between two updates for what a miner asks. It may ask as often as it likes.
const WISH_INTERVAL: Duration = Duration::from_secs(1);

/// Where a session stands with its upstream.
#[derive(Debug)]
pub(super) enum Stage {
    /// There is no upstream connection.
    NoUpstream,
    /// There is one; the channel is not asked for yet.
    Idle {
        /// When to ask, if that has to wait.
        retry_at: Option<Instant>,
        failures: u32,
    },
    Opening {
        failures: u32,
        hashrate: Hashrate,
        /// When the pool should have answered.
        until: Instant,
    },
    /// Boxed: most of a session's size, and not there before there is work.
    Open(Box<Channel>),
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: u32,
    /// Zero bytes between the upstream's prefix and our extranonce1.
    pub(super) padding: usize,
    pub(super) sequence_number: u32,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) opened_at: Instant,
    /// How often opening had failed before.
    failures: u32,
    pub(super) meter: Meter,
    /// When the upstream may be told what the miner asks.
    next_wish: Instant,
}

/// A forwarded share that has no answer yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) sequence_number: u32,
    pub(super) work: u128,
    /// The id to answer to when the upstream has answered.
    pub(super) answer_to: Option<Box<str>>,
}

impl Session {
    /// Handles what the upstream says.
    pub fn on_channel_event(&mut self, now: Now, event: ChannelEvent, out: &mut Output) {
        match event {
            ChannelEvent::UpstreamUp => {
                self.outage = Outage::OVER;
                self.leave_channel(LossReason::UpstreamDisconnected, out);
                self.stage = Stage::Idle {
                    retry_at: None,
                    failures: 0,
                };
                self.open_if_ready(now, out);
            }
            ChannelEvent::UpstreamDown => {
                self.outage = Outage::begun(self.started, now);
                self.leave_channel(LossReason::UpstreamDisconnected, out);
                self.stage = Stage::NoUpstream;
            }
            ChannelEvent::Opened {
                channel_id,
                extranonce_size,
            } => {
                self.opened(now, channel_id, usize::from(extranonce_size), out);
            }
            ChannelEvent::Refused(code) => {
                self.refused(now, &format!("the pool refused this worker: {code}"), out)
            }
            ChannelEvent::Closed(reason) => {
                let failures = match &self.stage {
                    Stage::Open(channel) if now.instant < channel.opened_at + SHORT_LIFETIME => {
                        channel.failures + 1
                    }
                    _ => 0,
                };
                write_show_message(
                    &mut out.bytes,
                    &format!("the pool closed this worker's channel: {reason}"),
                );
                self.leave_channel(LossReason::ChannelClosed, out);
                self.retry_later(now, failures);
            }
            ChannelEvent::Work(work) => self.send_work(work, out),
            ChannelEvent::Accepted {
                last_sequence_number,
                count,
            } => {
                self.shares_accepted(last_sequence_number, count, out);
            }
            ChannelEvent::Rejected {
                sequence_number,
                reason,
            } => self.share_rejected(sequence_number, reason, out),
        }
    }

    /// Shares that were forwarded and have no answer.
    pub fn in_flight(&self) -> usize {
        if let Stage::Open(channel) = &self.stage {
            channel.in_flight.len()
        } else {
            0
        }
    }

    /// The hashrate that the accepted shares show.
    pub fn hashrate(&self, now: Now) -> Hashrate {
        if let Stage::Open(channel) = &self.stage {
            channel.meter.rate(now.instant)
        } else {
            Hashrate::ZERO
        }
    }

    /// Whether the miner has a channel, and so can have work.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// The miner is gone and nobody waits for answers any longer.
    pub fn abandon(&mut self, out: &mut Output) {
        if let Stage::Open(channel) = &self.stage {
            out.requests.push(Request::Close {
                channel_id: channel.id,
            });
        }
        self.leave_channel(LossReason::Unanswered, out);
        self.stage = Stage::NoUpstream;
    }

    pub(super) fn open_if_ready(&mut self, now: Now, out: &mut Output) {
        let Stage::Idle { retry_at, failures } = self.stage else {
            return;
        };
        let Some(user_identity) = self.identity() else {
            return;
        };
        if !self.subscribed || retry_at.is_some_and(|retry_at| now.instant < retry_at) {
            return;
        }
        let hashrate = self
            .measured
            .or(self.wishes.hashrate())
            .unwrap_or(self.settings.nominal_hashrate);
        let max_target = self.max_target();
        let size = EXTRANONCE1_SIZE + usize::from(self.settings.extranonce2_size);
        out.requests.push(Request::Open(OpenChannel {
            user_identity,
            hashrate,
            max_target,
            min_extranonce_size: u16::try_from(size).unwrap_or(u16::MAX),
        }));
        self.wishes.told();
        self.stage = Stage::Opening {
            failures,
            hashrate,
            until: now.instant + OPENING_PATIENCE,
        };
    }

    /// The channel's, once the miner has said who it is. Names that give none were not authorised.
    fn identity(&self) -> Option<Box<str>> {
        self.settings.user_identity.of(self.workers.first()?)
    }

    pub(super) fn retry_opening(&mut self, now: Now, out: &mut Output) {
        if let Stage::Opening { until, .. } = self.stage
            && now.instant >= until
        {
            // Asking anew makes a new mailbox, so that a late answer opens nothing twice: it is closed as unwanted.
            self.refused(
                now,
                "the pool does not answer the request for a channel",
                out,
            );
        }
        self.open_if_ready(now, out);
        self.pass_on_wishes(now, out);
    }

    /// Tells the upstream what the miner has asked since it was told last. What the miner suggests stands until its shares
    /// show something else.
    pub(super) fn pass_on_wishes(&mut self, now: Now, out: &mut Output) {
        let max_target = self.max_target();
        let (Stage::Open(channel), Some(news)) = (&mut self.stage, self.wishes.news()) else {
            return;
        };
        if now.instant < channel.next_wish {
            return;
        }
        channel.next_wish = now.instant + WISH_INTERVAL;
        let asked = self.wishes.hashrate().filter(|_| news.hashrate);
        let hashrate = channel.meter.state(now.instant, asked);
        self.wishes.told();
        out.requests.push(Request::Update {
            channel_id: channel.id,
            hashrate,
            max_target,
        });
    }

    pub(super) fn channel_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Idle { retry_at, .. } => *retry_at,
            Stage::Opening { until, .. } => Some(*until),
            Stage::Open(channel) => self.wishes.news().map(|_| channel.next_wish),
            Stage::NoUpstream => None,
        }
    }

    pub(super) fn max_target(&self) -> work::Target {
        let wanted = self
            .wishes
            .fixed()
            .or(self.wishes.floor())
            .map_or(work::Target::MAX, work::Difficulty::target);
        wanted.min(self.settings.max_target)
    }

    fn opened(&mut self, now: Now, channel_id: u32, extranonce_size: usize, out: &mut Output) {
        let Stage::Opening {
            hashrate, failures, ..
        } = self.stage
        else {
            // An answer after its time; another channel is or will be asked for.
            return out.requests.push(Request::Close { channel_id });
        };
        let needed = EXTRANONCE1_SIZE + usize::from(self.settings.extranonce2_size);
        let Some(padding) = extranonce_size.checked_sub(needed) else {
            out.requests.push(Request::Close { channel_id });
            return self.refused(now, "the pool gives too few bytes of extranonce", out);
        };
        self.stage = Stage::Open(Box::new(Channel {
            id: channel_id,
            padding,
            sequence_number: 0,
            in_flight: VecDeque::new(),
            opened_at: now.instant,
            failures,
            meter: Meter::new(now.instant, hashrate),
            next_wish: now.instant,
        }));
        // What the miner asked while the channel was being opened.
        self.pass_on_wishes(now, out);
    }

    fn refused(&mut self, now: Now, message: &str, out: &mut Output) {
        let Stage::Opening { failures, .. } = self.stage else {
            return;
        };
        write_show_message(&mut out.bytes, message);
        self.retry_later(now, failures + 1);
    }

    fn retry_later(&mut self, now: Now, failures: u32) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << failures.min(16))
            .min(LAST_RETRY);
        self.stage = Stage::Idle {
            retry_at: Some(now.instant + wait),
            failures,
        };
    }

    fn send_work(&mut self, work: Work, out: &mut Output) {
        let Stage::Open(channel) = &self.stage else {
            return;
        };
        let mut hole = [0; 32];
        let prefix = &work.extranonce_prefix;
        let size = prefix.len() + channel.padding;
        // The router has checked that prefix and extranonce fit the 32 bytes that there are.
        let Some(hole) = hole.get_mut(..size) else {
            return;
        };
        hole[..prefix.len()].copy_from_slice(prefix);
        let Some(hole) = ExtranonceBytes::new(hole) else {
            return;
        };

        let allowed = if work.job.version_rolling {
            self.settings.version_mask
        } else {
            0
        };
        let version_mask = self.negotiated_mask.unwrap_or(self.settings.version_mask) & allowed;
        if self.negotiated_mask.is_some() && self.told.version_mask != Some(version_mask) {
            write_set_version_mask(&mut out.bytes, version_mask);
            self.told.version_mask = Some(version_mask);
        }
        let difficulty = work.target.sv1_difficulty();
        if self.told.difficulty != Some(difficulty) {
            write_set_difficulty(&mut out.bytes, difficulty.value());
            self.told.difficulty = Some(difficulty);
        }
        let clean_jobs = self.recent.push(SentJob {
            job: work.job.clone(),
            target: work.target,
            hole,
            version_mask,
        });
        work.job.write_notify(&mut out.bytes, &hole, clean_jobs);
        self.notifications += 1;
    }

    /// Answers come in order as a rule. Where they do not, the oldest shares up to the number named are taken, as many as
    /// the upstream says, so that the sums are right either way.
    fn shares_accepted(&mut self, last: u32, count: u64, out: &mut Output) {
        let Stage::Open(channel) = &mut self.stage else {
            return;
        };
        for _ in 0..count {
            if !channel
                .in_flight
                .front()
                .is_some_and(|oldest| is_up_to(oldest.sequence_number, last))
            {
                break;
            }
            let Some(share) = channel.in_flight.pop_front() else {
                break;
            };
            self.tally.in_flight -= 1;
            self.tally.accepted += 1;
            self.tally.accepted_work = self.tally.accepted_work.saturating_add(share.work);
            if let Some(id) = share.answer_to {
                self.tally.told_accepted += 1;
                write_true(&mut out.bytes, &id);
            }
        }
    }

    fn share_rejected(&mut self, sequence_number: u32, reason: RejectReason, out: &mut Output) {
        let Stage::Open(channel) = &mut self.stage else {
            return;
        };
        let Some(at) = channel
            .in_flight
            .iter()
            .position(|share| share.sequence_number == sequence_number)
        else {
            return;
        };
        let Some(share) = channel.in_flight.remove(at) else {
            return;
        };
        self.tally.in_flight -= 1;
        self.tally.reject(reason);
        if let Some(id) = share.answer_to {
            write_refusal(&mut out.bytes, &id, reason);
        }
    }

    /// The channel is no more: what was not answered is lost, and its jobs are worth nothing.
    fn leave_channel(&mut self, reason: LossReason, out: &mut Output) {
        let Stage::Open(channel) = &mut self.stage else {
            return;
        };
        self.measured = channel.meter.known().or(self.measured);
        let lost = std::mem::take(&mut channel.in_flight);
        self.tally.lose(reason, lost.len() as u64);
        for share in lost {
            if let Some(id) = share.answer_to {
                write_refusal(&mut out.bytes, &id, RejectReason::UpstreamGone);
            }
        }
        self.recent.orphan();
    }
}

/// Whether a sequence number is not after another, with both counting round.
fn is_up_to(sequence_number: u32, last: u32) -> bool {
    last.wrapping_sub(sequence_number) < 1 << 31
}

fn write_true(out: &mut Vec<u8>, id: &str) {
    stratum_v1::write_result_true(out, stratum_v1::Id::from_raw(id));
}

fn write_refusal(out: &mut Vec<u8>, id: &str, reason: RejectReason) {
    let (code, message): (ErrorCode, _) = answer_to(reason);
    write_error(out, stratum_v1::Id::from_raw(id), code, message);
}
