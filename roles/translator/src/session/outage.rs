//! What a miner hears when no pool can be had for long: its own failover is not to wait for a sign that never comes.

use std::time::{Duration, Instant};

use stratum_v1::write_show_message;

use super::{Now, Output, Session};

const MESSAGE: &str = "no pool can be reached; there is no work until one is back";

/// Since when there is no upstream, until the miner was told. A number, because every miner has one: seconds since the
/// session's start.
#[derive(Debug)]
pub(super) struct Outage(u32);

impl Outage {
    /// There is an upstream, or the miner has been told that there is none.
    pub(super) const OVER: Self = Self(u32::MAX);

    pub(super) fn begun(started: Instant, now: Now) -> Self {
        let since = now.instant.saturating_duration_since(started).as_secs();
        Self(u32::try_from(since).unwrap_or(u32::MAX))
    }

    fn since(&self, started: Instant) -> Option<Instant> {
        (self.0 != u32::MAX).then(|| started + Duration::from_secs(self.0.into()))
    }
}

impl Session {
    /// When the miner is to be told that there is no pool.
    pub(super) fn outage_deadline(&self) -> Option<Instant> {
        let since = self.outage.since(self.started)?;
        let after = self.settings.outage_message?;
        self.subscribed.then(|| since + after)
    }

    pub(super) fn tell_of_outage(&mut self, now: Now, out: &mut Output) {
        if self
            .outage_deadline()
            .is_some_and(|deadline| deadline <= now.instant)
        {
            self.outage = Outage::OVER;
            write_show_message(&mut out.bytes, MESSAGE);
        }
    }
}
