//! What time it is, from a clock that may not be set yet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const HOUR_MS: u64 = 3_600_000;

/// No clock that is set shows an hour before this one: 2026-01-01, when there was no relay yet.
const FIRST_HOUR: i64 = 490_896;

/// Says the hour to which use belongs.
#[derive(Debug)]
pub(super) struct Clock<N> {
    now_ms: N,
    /// The last hour in the books when they were opened.
    last_known: Option<i64>,
}

impl<N: Fn() -> u64> Clock<N> {
    /// `now_ms` counts milliseconds since the Unix epoch. Says so in the log where that cannot be right.
    pub(super) fn new(now_ms: N, last_known: Option<i64>) -> Self {
        let clock = Self { now_ms, last_known };
        let shown = clock.shown();
        if shown < FIRST_HOUR || last_known.is_some_and(|last| shown < last) {
            tracing::warn!(
                hour = shown,
                last_billed_hour = last_known,
                "the clock is behind what is in the books; is it set?"
            );
        }
        clock
    }

    /// The hour since the Unix epoch. While the clock is not set, the last one that is known: a bill of 1970 is never asked for.
    pub(super) fn hour(&self) -> i64 {
        match self.shown() {
            shown if shown < FIRST_HOUR => self.last_known.unwrap_or(shown).max(shown),
            shown => shown,
        }
    }

    /// How long this hour still lasts.
    pub(super) fn until_next_hour(&self) -> Duration {
        Duration::from_millis(HOUR_MS - (self.now_ms)() % HOUR_MS)
    }

    fn shown(&self) -> i64 {
        i64::try_from((self.now_ms)() / HOUR_MS).unwrap_or(i64::MAX)
    }
}

/// The system's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_not_set_bills_to_the_last_hour_that_is_known() {
        let hour = |shown: u64, last| Clock::new(|| shown * HOUR_MS, last).hour();
        assert_eq!(hour(1, Some(500_000)), 500_000);
        assert_eq!(hour(1, None), 1);
        // One that is set is believed, though another was wrong before.
        assert_eq!(hour(490_896, Some(500_000)), 490_896);
        assert_eq!(hour(500_001, Some(500_000)), 500_001);
    }
}
