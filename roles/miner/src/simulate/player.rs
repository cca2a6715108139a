//! One simulated miner on one connection, as a state machine: lines and the time go in, lines and what is to be counted
//! come out. It opens no socket and reads no clock.

use std::{sync::Arc, time::Instant};

use rand::{Rng as _, rngs::SmallRng};

use super::{
    arrivals::Schedule,
    options::{Kind, Options},
    shares::Making,
};
use crate::{
    job::{Share, Work},
    session::{Event, Session, SessionError},
};

/// A miner's conversation and its share in the making.
pub(super) struct Player {
    session: Session,
    schedule: Schedule,
    random: SmallRng,
    work: Option<Arc<Work>>,
    /// A job that the server has dropped.
    dropped: Option<String>,
    /// The last good share, to be repeated while its job is valid.
    sent: Option<Share>,
    wanted: Option<Kind>,
    making: Option<Box<Making>>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Hash, with [`Player::hash`].
    Hash,
    /// A share was written.
    Sent(Kind),
    /// Nothing before this moment.
    Wait(Instant),
    /// Nothing before the server says something.
    Listen,
}

impl Player {
    /// A miner before its first byte.
    pub(super) fn new(
        session: Session,
        options: &Options,
        mut random: SmallRng,
        now: Instant,
    ) -> Self {
        Self {
            session,
            schedule: Schedule::new(options.rate, options.arrivals, now, &mut random),
            random,
            work: None,
            dropped: None,
            sent: None,
            wanted: None,
            making: None,
        }
    }

    /// The conversation, to ask what it waits for.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Writes what a miner says first.
    pub(super) fn start(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.session.start(now, out);
    }

    /// Takes one line of the server; what comes of it is for the caller to count.
    ///
    /// # Errors
    /// Where the connection is to be closed.
    pub(super) fn handle_line(
        &mut self,
        line: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event>, SessionError> {
        let event = self.session.handle_line(line, now, out)?;
        if let Some(Event::Work(work)) = &event {
            self.take(work);
        }
        Ok(event)
    }

    fn take(&mut self, work: &Arc<Work>) {
        // What was being made is for work that is old.
        self.making = None;
        if let Some(before) = self.work.replace(work.clone())
            && before.epoch != work.epoch
        {
            self.dropped = Some(before.job_id.clone());
            self.sent = None;
        }
    }

    /// What to do at `now`; writes the share that is due and needs no more hashes.
    pub(super) fn step(&mut self, options: &Options, now: Instant, out: &mut Vec<u8>) -> Step {
        let Some(work) = self.work.clone().filter(|_| self.session.can_submit()) else {
            return Step::Listen;
        };
        if self.making.is_some() {
            return Step::Hash;
        }
        if now < self.schedule.due() {
            return Step::Wait(self.schedule.due());
        }
        let kind = match self.wanted {
            Some(kind) => kind,
            None => options.quality.pick(self.random.random()),
        };
        match (kind, self.sent.clone()) {
            (Kind::Malformed, _) => {
                self.session.submit_malformed(now, out);
                self.done(now);
                Step::Sent(Kind::Malformed)
            }
            (Kind::Duplicate, Some(share)) => self.send(Kind::Duplicate, &share, now, out),
            // There is nothing to repeat yet.
            (Kind::Duplicate, None) => self.begin(Kind::Good, work, options),
            (kind, _) => self.begin(kind, work, options),
        }
    }

    fn begin(&mut self, kind: Kind, work: Arc<Work>, options: &Options) -> Step {
        self.wanted = Some(kind);
        match Making::begin(kind, work, options.most_hashes) {
            Some(making) => {
                self.making = Some(Box::new(making));
                Step::Hash
            }
            None => Step::Listen,
        }
    }

    /// Does a batch of hashes; writes the share if it is found.
    pub(super) fn hash(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Kind> {
        let (kind, share) = self.making.as_mut()?.step(&mut self.random)?;
        if matches!(kind, Kind::Good | Kind::Unworked) {
            self.sent = Some(share.clone());
        }
        self.send(kind, &share, now, out);
        Some(kind)
    }

    fn send(&mut self, kind: Kind, share: &Share, now: Instant, out: &mut Vec<u8>) -> Step {
        let job_id = match (kind, &self.dropped) {
            (Kind::Stale, Some(dropped)) => dropped,
            (Kind::Stale, None) => NEVER_GIVEN,
            _ => &share.work.job_id,
        };
        self.session.submit_as(kind, share, job_id, now, out);
        self.done(now);
        Step::Sent(kind)
    }

    fn done(&mut self, now: Instant) {
        self.wanted = None;
        self.making = None;
        self.schedule.advance(now, &mut self.random);
    }
}

/// No server gives a job such a name.
const NEVER_GIVEN: &str = "simulated-stale";

#[cfg(test)]
mod tests;
