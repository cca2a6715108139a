//! How much one client may ask for, and how long it may be of no use. No I/O and no clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::session::Fault;

/// A client is not silent for as long as it takes to find so many shares: an honest one finds none in that time once in
/// 500 million times.
pub(crate) const EXPECTED_SHARES: f64 = 20.0;

/// How many seconds' worth of messages may come at once: a translator's miners come back together.
const BURST: Duration = Duration::from_secs(1);

/// The rate of a client's messages: a bucket that holds [`BURST`] and refills evenly.
///
/// It delays and never refuses, because no share of an honest client may be lost. What a turn reads is booked as a whole,
/// so the bucket can be overdrawn by one read.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    /// When the bucket will be full again, or was.
    full_at: Instant,
}

impl Pace {
    /// A full bucket.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            full_at: now,
        }
    }

    /// Books messages that were read. If there were too many, when the next may be read.
    pub(crate) fn spend(&mut self, messages: u32, now: Instant) -> Option<Instant> {
        self.full_at = self.full_at.max(now) + self.interval * messages;
        self.full_at
            .checked_sub(BURST)
            .filter(|may_read_at| *may_read_at > now)
    }
}

/// Places for the channels of all connections together.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: AtomicUsize,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: AtomicUsize::new(0),
        })
    }

    /// A place, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.limit).then_some(taken + 1)
            });
        taken.ok().map(|_| Place(Arc::clone(self)))
    }
}

/// A place that is free again when this is gone.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a client may be of no use; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Without a channel.
    pub no_channel: Option<Duration>,
    /// Without a message, with a channel and work for it.
    pub idle: Option<Duration>,
}

/// Since when a client has been of no use.
///
/// A proxy without miners has no channel and nothing to say, and is as it should be: only [`Allowance::no_channel`] is for
/// it. That its machine is still there, TCP's keep-alive finds out.
#[derive(Debug)]
pub(crate) struct Patience {
    heard_at: Instant,
    had_channel_at: Instant,
    /// It has leave to be silent until then.
    granted_until: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            had_channel_at: now,
            granted_until: None,
        }
    }

    /// The client said something; whether it had a channel before or after.
    pub(crate) fn heard(&mut self, has_channel: bool, now: Instant) {
        self.heard_at = now;
        self.granted_until = None;
        if has_channel {
            self.had_channel_at = now;
        }
    }

    /// Until now the client could not be heard, or had nothing that it could do.
    pub(crate) fn excuse(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// The client may be silent for so long since it was heard; false if that is over already.
    pub(crate) fn grant(&mut self, silence: Duration, now: Instant) -> bool {
        let until = self.heard_at + silence;
        self.granted_until = Some(until);
        until > now
    }

    /// When the client has to go, and why, if it says nothing.
    pub(crate) fn end(
        &self,
        allowance: Allowance,
        has_channel: bool,
        has_work: bool,
    ) -> Option<(Instant, Fault)> {
        if !has_channel {
            let at = self.had_channel_at + allowance.no_channel?;
            return Some((at, Fault::NoChannel));
        }
        let at = (self.heard_at + allowance.idle?).max(self.granted_until.unwrap_or(self.heard_at));
        has_work.then_some((at, Fault::Idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut pace = Pace::new(100, start);
        assert_eq!(pace.spend(60, start), None);
        assert_eq!(pace.spend(40, start), None);
        assert_eq!(pace.spend(1, start), Some(start + SECOND / 100));
        let mut now = start;
        let mut messages = 101;
        while now < start + 10 * SECOND {
            now = pace.spend(50, now).unwrap_or(now);
            messages += 50;
        }
        let seconds = now.duration_since(start).as_secs_f64();
        let allowed = 100.0 * (seconds + 1.0);
        assert!(
            (f64::from(messages) - allowed).abs() <= 50.0,
            "{messages} in {seconds}"
        );
    }

    #[test]
    fn a_bucket_that_was_long_full_holds_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(100, start);
        let now = start + 1000 * SECOND;
        assert_eq!(pace.spend(100, now), None);
        assert!(pace.spend(1, now).is_some());
    }

    #[test]
    fn an_enormous_overdraft_does_not_overflow() {
        let start = Instant::now();
        let resume = Pace::new(1, start).spend(u32::MAX, start);
        assert!(resume.is_some_and(|at| at > start));
    }
}
