//! How long to wait before the next attempt: doubling up to a limit, with jitter so that many clients do not return at
//! the same moment.

use std::time::Duration;

/// The waits between attempts, for ever.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits of about `first`, then twice that and so on, and never more than `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The next wait; `random` in 0..1 takes up to half of it away.
    pub(crate) fn wait(&mut self, random: f64) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2);
        wait.mul_f64(1.0 - 0.5 * random.clamp(0.0, 1.0))
    }

    /// The attempt was a success: the next wait is a first one again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let mut waits = || backoff.wait(0.0).as_millis();
        assert_eq!(
            [waits(), waits(), waits(), waits(), waits()],
            [500, 1000, 2000, 3000, 3000]
        );
        backoff.reset();
        assert_eq!(backoff.wait(0.0), Duration::from_millis(500));
    }

    #[test]
    fn jitter_takes_up_to_half() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::new(second, second).wait(1.0), second / 2);
        assert_eq!(Backoff::new(second, second).wait(f64::MAX), second / 2);
    }
}
