//! The rate at which one peer's messages are read.

use std::time::{Duration, Instant};

/// How many seconds' worth of messages may come at once: what was held up somewhere comes together.
const BURST: Duration = Duration::from_secs(1);

/// A bucket that holds one second's worth of messages and refills evenly.
///
/// It delays and never refuses, because no share of an honest peer may be lost. What a turn reads is booked as a whole, so
/// the bucket can be overdrawn by one read. It reads no clock.
#[derive(Debug)]
pub struct Pace {
    /// Nanoseconds from one message to the next.
    interval: u32,
    /// When the bucket will be full again, or was.
    full_at: Instant,
}

impl Pace {
    /// A full bucket; 0 is no limit.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self {
            interval: NANOSECONDS.checked_div(per_second).unwrap_or(0),
            full_at: now,
        }
    }

    /// Books messages that were read. If there were too many, when the next may be read.
    pub fn spend(&mut self, messages: u32, now: Instant) -> Option<Instant> {
        let time = Duration::from_nanos(u64::from(self.interval) * u64::from(messages));
        self.full_at = self.full_at.max(now) + time;
        self.resumes_at(now)
    }

    /// When the next message may be read, if it may not be now.
    #[must_use]
    pub fn resumes_at(&self, now: Instant) -> Option<Instant> {
        self.full_at
            .checked_sub(BURST)
            .filter(|may_read_at| *may_read_at > now)
    }
}

/// In a second.
const NANOSECONDS: u32 = 1_000_000_000;

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
    fn without_a_limit_nothing_waits() {
        let start = Instant::now();
        assert_eq!(Pace::new(0, start).spend(u32::MAX, start), None);
    }

    #[test]
    fn an_enormous_overdraft_does_not_overflow() {
        let start = Instant::now();
        let resume = Pace::new(1, start).spend(u32::MAX, start);
        assert!(resume.is_some_and(|at| at > start));
    }
}
