//! Who decides what a miner's shares must meet, and what that is.
//!
//! As a rule the server of the miner's own channel does, and its target is passed on. Where many miners share a channel, its
//! target says nothing of any of them: then each has a controller here. A miner can also ask for a fixed difficulty.
//!
//! Whoever decides, a miner is never asked for more than its channel is, unless it wants that itself: a share that the
//! upstream would credit must not be withheld. Where it is asked for less, what does not meet the channel's target counts
//! here and goes no further.

use std::time::{Duration, Instant};

use work::{Hashrate, Retarget, Target, Vardiff};

use super::recent::{Terms, Worth};
use super::{Now, Output, Session};

/// How often a miner that sends nothing is looked at.
const TICK: Duration = Duration::from_secs(10);

/// Who decides.
#[derive(Debug, Default)]
pub(super) enum Control {
    /// The server of the channel.
    #[default]
    Channel,
    /// The miner, once and for all.
    Fixed(Target),
    /// The translator, by the miner's shares.
    Here(Box<Controlled>),
}

/// A miner whose difficulty is owned here.
#[derive(Debug)]
pub(super) struct Controlled {
    vardiff: Vardiff,
    wanted: Target,
    next_tick: Instant,
    working: bool,
}

impl Session {
    /// Decides who decides, by what the miner has asked. What a controller knows of it is kept from channel to channel.
    pub(super) fn take_control(&mut self, now: Now, nominal: Hashrate) {
        self.control = match (self.wishes.fixed(), std::mem::take(&mut self.control)) {
            (Some(fixed), _) => Control::Fixed(fixed.target()),
            (None, Control::Here(mut controlled)) => {
                controlled.vardiff.stated(nominal);
                Control::Here(controlled)
            }
            (None, _) => match self.settings.aggregate {
                None => Control::Channel,
                Some(shares_per_minute) => {
                    let wanted = nominal.target_for(shares_per_minute);
                    Control::Here(Box::new(Controlled {
                        vardiff: Vardiff::new(shares_per_minute, nominal, now.instant),
                        wanted,
                        next_tick: now.instant + TICK,
                        working: false,
                    }))
                }
            },
        };
    }

    /// What a job's shares must meet whose channel asks for `channel`.
    pub(super) fn asked(&self, channel: Target) -> Target {
        let wanted = match &self.control {
            Control::Channel => channel,
            Control::Fixed(target) => *target,
            Control::Here(controlled) => controlled.wanted,
        };
        wanted
            .max(self.settings.hardest_target)
            .max(channel)
            .min(self.max_target())
    }

    /// The miner works on a job with these terms from now on.
    pub(super) fn job_is_sent(&mut self, now: Now, asked: &Worth) {
        if let Control::Here(controlled) = &mut self.control {
            if !controlled.working {
                controlled.vardiff.work_begins(now.instant);
                controlled.working = true;
            }
            controlled.vardiff.job_sent(asked.difficulty, now.instant);
        }
    }

    /// A channel that gave work has ended. If there is no other, the time from now on says nothing of the miner.
    pub(super) fn work_may_have_ended(&mut self) {
        let newest = self.recent.newest().map(|newest| newest.terms.channel);
        if newest.is_some_and(|channel| !self.takes_shares(channel))
            && let Control::Here(controlled) = &mut self.control
        {
            controlled.working = false;
        }
    }

    /// A share met what was asked.
    pub(super) fn share_is_valid(&mut self, now: Now, terms: &Terms, out: &mut Output) {
        if let Control::Here(controlled) = &mut self.control {
            controlled
                .vardiff
                .share_accepted(terms.asked.difficulty, now.instant);
            self.retarget(now, out);
        }
    }

    pub(super) fn difficulty_deadline(&self) -> Option<Instant> {
        match &self.control {
            Control::Here(controlled) if controlled.working => Some(controlled.next_tick),
            _ => None,
        }
    }

    /// To be called at [`Session::difficulty_deadline`], and harmless otherwise.
    pub(super) fn tick(&mut self, now: Now, out: &mut Output) {
        if let Control::Here(controlled) = &mut self.control
            && controlled.working
            && now.instant >= controlled.next_tick
        {
            controlled.next_tick = now.instant + TICK;
            self.retarget(now, out);
        }
    }

    /// A new difficulty holds from the next job. One that is far from the present has the present job sent again.
    fn retarget(&mut self, now: Now, out: &mut Output) {
        let (Control::Here(controlled), Some(present)) = (&mut self.control, self.recent.newest())
        else {
            return;
        };
        let (present, channel) = (present.terms.asked, present.terms.upstream.target);
        let Some(Retarget { difficulty, urgent }) =
            controlled.vardiff.retarget(present.difficulty, now.instant)
        else {
            return;
        };
        controlled.wanted = difficulty.target();
        let asked = self.asked(channel);
        if urgent && asked != present.target {
            self.send_again(now, asked, out);
        }
    }
}
