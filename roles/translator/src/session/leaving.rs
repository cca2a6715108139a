//! A planned move to another upstream connection. It costs the miner a clean job and no share: the channel that is left
//! goes on giving work and taking shares until one on the new connection has work, and takes what is still on its way after
//! that.

use std::time::{Duration, Instant};

use super::channel::Channel;
use super::upstream::Stage;
use super::{ChannelEvent, LossReason, Now, Output, Request, Session};

/// How long a channel that was left takes shares that the miner had found before it heard of the new work.
const GRACE: Duration = Duration::from_secs(5);

/// How long its upstream has to answer the last ones.
const PATIENCE: Duration = Duration::from_secs(15);

/// The channel on a connection that the miner is moved away from.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) channel: Channel,
    /// When the miner got other work.
    left_at: Option<Instant>,
    /// Its connection takes nothing more.
    stuck: bool,
}

/// What becomes of the connection that was the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its channel is in use; what it says goes to [`Session::on_leaving_event`].
    InUse,
    /// Nothing is wanted of it any more. Its channel is to be closed, if it has one.
    Done(Option<u32>),
}

impl Session {
    /// Another upstream connection is ready, and takes the place of the present one, which goes on for now.
    pub fn move_upstream(&mut self, now: Now, out: &mut Output) -> Left {
        let works_on_another = self.works_on_left_channel();
        let left = match std::mem::replace(&mut self.stage, Stage::NoUpstream) {
            // It has given no work yet. The one before it has, and goes on.
            Stage::Open(channel) if works_on_another => {
                let id = channel.id;
                channel.end(LossReason::Unanswered, &mut self.tally, out);
                Left::Done(Some(id))
            }
            Stage::Open(channel) => {
                // If that is the second move within seconds, the first one's rest has to end.
                self.end_leaving(LossReason::Unanswered, true, out);
                self.leaving = Some(Box::new(Leaving {
                    channel: *channel,
                    left_at: None,
                    stuck: false,
                }));
                Left::InUse
            }
            Stage::NoUpstream | Stage::Idle { .. } | Stage::Opening { .. } => Left::Done(None),
        };
        self.begin_anew(now, out);
        left
    }

    /// Handles what the upstream says that the miner is moved away from.
    pub fn on_leaving_event(&mut self, now: Now, event: ChannelEvent, out: &mut Output) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        let channel = &mut leaving.channel;
        match event {
            ChannelEvent::Work(work) if leaving.left_at.is_none() => {
                let (number, padding) = (channel.number, channel.padding);
                self.send_work(now, number, padding, work, out);
            }
            ChannelEvent::Accepted {
                last_sequence_number,
                count,
            } => {
                channel.accepted(last_sequence_number, count, &mut self.tally, out);
                self.leave_if_done(now, out);
            }
            ChannelEvent::Rejected {
                sequence_number,
                reason,
            } => {
                let repeated = channel.rejected(sequence_number, reason, &mut self.tally, out);
                self.measured_in_vain(repeated);
                self.leave_if_done(now, out);
            }
            ChannelEvent::UpstreamDown => {
                self.end_leaving(LossReason::UpstreamDisconnected, false, out);
            }
            ChannelEvent::Closed(_) => self.end_leaving(LossReason::ChannelClosed, false, out),
            // Nothing is asked of it any more.
            _ => {}
        }
    }

    /// Whether a channel on an earlier connection is still in use.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the miner's work is still that of the channel that is left.
    pub fn works_on_left_channel(&self) -> bool {
        let leaving = self.leaving.as_ref();
        leaving.is_some_and(|leaving| leaving.left_at.is_none())
    }

    /// The connection that is left takes nothing now. The miner has other work, and is not to wait for it.
    pub fn left_connection_is_stuck(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.stuck = true;
        }
    }

    /// The present channel has given work.
    pub(super) fn other_work_has_come(&mut self, now: Now) {
        if let Some(leaving) = &mut self.leaving {
            leaving.left_at.get_or_insert(now.instant);
        }
    }

    pub(super) fn leave_if_done(&mut self, now: Now, out: &mut Output) {
        let Some(leaving) = &self.leaving else { return };
        if leaving
            .deadline()
            .is_some_and(|deadline| now.instant >= deadline)
        {
            self.end_leaving(LossReason::Unanswered, true, out);
        }
    }

    pub(super) fn end_leaving(&mut self, reason: LossReason, close: bool, out: &mut Output) {
        let Some(leaving) = self.leaving.take() else {
            return;
        };
        if close {
            out.farewells.push(Request::Close {
                channel_id: leaving.channel.id,
            });
        }
        leaving.channel.end(reason, &mut self.tally, out);
        self.work_may_have_ended();
    }
}

impl Leaving {
    /// Whether it is the channel of this number, and a share can go there.
    pub(super) fn takes_shares(&self, number: u32) -> bool {
        self.channel.number == number && !self.stuck
    }

    /// When it is to be ended. Not before there is other work.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let patience = if self.channel.in_flight() == 0 {
            GRACE
        } else {
            PATIENCE
        };
        self.left_at.map(|left_at| left_at + patience)
    }
}
