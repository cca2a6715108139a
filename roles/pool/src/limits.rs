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
