//! Where the miner stands with its upstream: a channel is asked for, opens, gives work, and ends.

use std::time::{Duration, Instant};

use stratum_v1::write_show_message;
use work::{Difficulty, Hashrate, Target};

use super::channel::Channel;
use super::leaving::Leaving;
use super::meter::Meter;
use super::outage::Outage;
use super::{
    ChannelEvent, EXTRANONCE1_SIZE, LossReason, Now, OpenChannel, Output, Request, Session,
};

/// After a refused or closed channel: the first wait before the next attempt, doubled up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// A channel that the pool closes sooner than this counts as another failure to open it.
const SHORT_LIFETIME: Duration = Duration::from_secs(60);

/// How long the pool may take to open a channel.
const OPENING_PATIENCE: Duration = Duration::from_secs(15);

/// The least time between two updates for what a miner asks. It may ask as often as it likes.
const WISH_INTERVAL: Duration = Duration::from_secs(1);

/// Where a session stands with its present upstream.
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
        /// When the pool should have answered.
        until: Instant,
    },
    /// Boxed: it is not there before there is work.
    Open(Box<Channel>),
}

impl Session {
    /// Handles what the present upstream says.
    pub fn on_channel_event(&mut self, now: Now, event: ChannelEvent, out: &mut Output) {
        match event {
            ChannelEvent::UpstreamUp => {
                self.outage = Outage::OVER;
                self.leave_channel(LossReason::UpstreamDisconnected, out);
                self.begin_anew(now, out);
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
                // Only what is open can be closed.
                let Stage::Open(channel) = &self.stage else {
                    return;
                };
                let failures = if now.instant < channel.opened_at + SHORT_LIFETIME {
                    channel.failures + 1
                } else {
                    0
                };
                write_show_message(
                    &mut out.bytes,
                    &format!("the pool closed this worker's channel: {reason}"),
                );
                self.leave_channel(LossReason::ChannelClosed, out);
                self.retry_later(now, failures);
            }
            ChannelEvent::Work(work) => {
                if let Stage::Open(channel) = &self.stage {
                    let (number, padding) = (channel.number, channel.padding);
                    self.send_work(now, number, padding, work, out);
                    self.other_work_has_come(now);
                }
            }
            ChannelEvent::Accepted {
                last_sequence_number,
                count,
            } => {
                if let Stage::Open(channel) = &mut self.stage {
                    channel.accepted(last_sequence_number, count, &mut self.tally, out);
                }
            }
            ChannelEvent::Rejected {
                sequence_number,
                reason,
            } => {
                if let Stage::Open(channel) = &mut self.stage {
                    let repeated = channel.rejected(sequence_number, reason, &mut self.tally, out);
                    self.measured_in_vain(repeated);
                }
            }
        }
    }

    /// Shares that were forwarded and have no answer.
    pub fn in_flight(&self) -> usize {
        let left = self.leaving.as_ref();
        self.in_flight_here() + left.map_or(0, |leaving| leaving.channel.in_flight())
    }

    /// Those of them that were forwarded to the present upstream.
    pub fn in_flight_here(&self) -> usize {
        match &self.stage {
            Stage::Open(channel) => channel.in_flight(),
            _ => 0,
        }
    }

    /// The hashrate that the miner's shares show.
    pub fn hashrate(&self, now: Now) -> Hashrate {
        let meter = self.meter.as_ref();
        meter.map_or(Hashrate::ZERO, |meter| meter.rate(now.instant))
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
        self.end_leaving(LossReason::Unanswered, true, out);
        self.stage = Stage::NoUpstream;
    }

    /// Whether the channel of this number is there.
    pub(super) fn takes_shares(&self, number: u32) -> bool {
        let is_present = matches!(&self.stage, Stage::Open(channel) if channel.number == number);
        let left = self.leaving.as_ref();
        is_present || left.is_some_and(|leaving| leaving.takes_shares(number))
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
        let known = self.meter.as_ref().and_then(|meter| meter.known());
        let nominal = self.settings.nominal_hashrate;
        let stated = known.or(self.wishes.hashrate()).unwrap_or(nominal);
        // Of a shared channel only what shares have shown is told: nobody's words are to decide for the others.
        let hashrate = match self.settings.aggregate {
            Some(_) => known.unwrap_or(nominal),
            None => stated,
        };
        self.take_control(now, stated);
        self.wishes.told();
        self.meter
            .get_or_insert_with(|| Box::new(Meter::new(now.instant)))
            .told(now.instant, hashrate);
        let size = EXTRANONCE1_SIZE + usize::from(self.settings.extranonce2_size);
        out.requests.push(Request::Open(OpenChannel {
            user_identity,
            hashrate,
            max_target: self.max_target(),
            min_extranonce_size: u16::try_from(size).unwrap_or(u16::MAX),
        }));
        self.stage = Stage::Opening {
            failures,
            until: now.instant + OPENING_PATIENCE,
        };
    }

    /// The channel's, once the miner has said who it is. Names that give none were not authorised.
    fn identity(&self) -> Option<Box<str>> {
        self.settings.channel_identity(&self.workers.first()?.name)
    }

    /// To be called at [`Session::upstream_deadline`], and harmless otherwise.
    pub(super) fn upstream_is_due(&mut self, now: Now, out: &mut Output) {
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
        self.leave_if_done(now, out);
    }

    /// Does, and tells the upstream, what the miner has asked since it was told last. What the miner suggests stands until
    /// its shares show something else.
    pub(super) fn pass_on_wishes(&mut self, now: Now, out: &mut Output) {
        let (Stage::Open(channel), Some(news), Some(meter)) =
            (&mut self.stage, self.wishes.news(), &mut self.meter)
        else {
            return;
        };
        if now.instant < channel.next_wish {
            return;
        }
        channel.next_wish = now.instant + WISH_INTERVAL;
        let channel_id = channel.id;
        let asked = self.wishes.hashrate().filter(|_| news.hashrate);
        let hashrate = meter.state(now.instant, asked);
        self.take_control(now, hashrate);
        self.wishes.told();
        if self.settings.aggregate.is_some() {
            // Of a shared channel only what shares have shown is told: nobody's words are to decide for the others.
            return;
        }
        out.requests.push(Request::Update {
            channel_id,
            hashrate,
            max_target: self.max_target(),
        });
    }

    pub(super) fn upstream_deadline(&self) -> Option<Instant> {
        let present = match &self.stage {
            Stage::Idle { retry_at, .. } => *retry_at,
            Stage::Opening { until, .. } => Some(*until),
            Stage::Open(channel) => self.wishes.news().map(|_| channel.next_wish),
            Stage::NoUpstream => None,
        };
        let leaving = self.leaving.as_deref().and_then(Leaving::deadline);
        present.into_iter().chain(leaving).min()
    }

    /// The easiest target that the miner takes.
    pub(super) fn max_target(&self) -> Target {
        [self.wishes.floor(), self.wishes.fixed()]
            .into_iter()
            .flatten()
            .map(Difficulty::target)
            .fold(self.settings.max_target, Target::min)
            .max(self.settings.hardest_target)
    }

    pub(super) fn begin_anew(&mut self, now: Now, out: &mut Output) {
        self.stage = Stage::Idle {
            retry_at: None,
            failures: 0,
        };
        self.open_if_ready(now, out);
    }

    fn opened(&mut self, now: Now, channel_id: u32, extranonce_size: usize, out: &mut Output) {
        let Stage::Opening { failures, .. } = self.stage else {
            // An answer after its time; another channel is or will be asked for.
            return out.requests.push(Request::Close { channel_id });
        };
        let needed = EXTRANONCE1_SIZE + usize::from(self.settings.extranonce2_size);
        let Some(padding) = extranonce_size.checked_sub(needed) else {
            out.requests.push(Request::Close { channel_id });
            return self.refused(now, "the pool gives too few bytes of extranonce", out);
        };
        self.channels_opened = self.channels_opened.wrapping_add(1);
        self.stage = Stage::Open(Box::new(Channel::new(
            self.channels_opened,
            channel_id,
            padding,
            now.instant,
            failures,
        )));
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

    /// The present channel is no more; its jobs are worth nothing.
    fn leave_channel(&mut self, reason: LossReason, out: &mut Output) {
        if let Stage::Open(channel) = std::mem::replace(&mut self.stage, Stage::NoUpstream) {
            channel.end(reason, &mut self.tally, out);
            self.work_may_have_ended();
        }
    }
}

/// The channel of this number, while it takes shares, and how to reach it.
pub(super) fn channel<'a>(
    stage: &'a mut Stage,
    leaving: &'a mut Option<Box<Leaving>>,
    number: u32,
) -> Option<(&'a mut Channel, Route)> {
    match (stage, leaving) {
        (Stage::Open(channel), _) if channel.number == number => Some((channel, Route::Present)),
        (_, Some(leaving)) if leaving.takes_shares(number) => {
            Some((&mut leaving.channel, Route::Leaving))
        }
        _ => None,
    }
}

/// To which upstream connection a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Present,
    Leaving,
}
