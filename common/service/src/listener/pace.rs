//! How many connections may come in a second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::counters::{Counters, count};

/// A bucket of one second's worth of connections that refills evenly.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again, or was; the fuller, the further in the past.
    full_at: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(1),
            full_at: Instant::now(),
        }
    }

    pub(super) async fn ready(&self, counters: &Counters) {
        let Some(at) = (self.full_at + self.interval).checked_sub(self.burst) else {
            return;
        };
        if at > Instant::now() {
            count(&counters.waited_for_pace);
            sleep_until(at).await;
        }
    }

    pub(super) fn spend(&mut self) {
        self.full_at = self.full_at.max(Instant::now()) + self.interval;
    }
}
