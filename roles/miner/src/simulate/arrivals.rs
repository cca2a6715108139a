//! When a miner's next share is due.

use std::time::{Duration, Instant};

use rand::Rng;

use super::options::{Arrivals, Rate};

/// The moments of one miner's shares.
#[derive(Debug)]
pub(super) struct Schedule {
    mean: f64,
    arrivals: Arrivals,
    due: Instant,
}

impl Schedule {
    /// Begins at `now` plus a part of the first interval, so that miners that begin together do not go on so.
    pub(super) fn new(rate: Rate, arrivals: Arrivals, now: Instant, random: &mut impl Rng) -> Self {
        let mean = rate.interval_seconds();
        let mut schedule = Self {
            mean,
            arrivals,
            due: now,
        };
        schedule.due += match arrivals {
            Arrivals::Poisson => schedule.interval(random),
            Arrivals::Even => Duration::from_secs_f64(mean * random.random::<f64>()),
        };
        schedule
    }

    /// When the next share is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Goes on to the share after it. What is late by more than [`CATCH_UP`] is not made up for.
    pub(super) fn advance(&mut self, now: Instant, random: &mut impl Rng) {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.due = self.due.max(earliest) + self.interval(random);
    }

    fn interval(&self, random: &mut impl Rng) -> Duration {
        let seconds = match self.arrivals {
            // 1 - u lies in (0, 1], whose logarithm is finite.
            Arrivals::Poisson => -(1.0 - random.random::<f64>()).ln() * self.mean,
            Arrivals::Even => self.mean,
        };
        Duration::from_secs_f64(seconds)
    }
}

const CATCH_UP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn moments(arrivals: Arrivals, count: usize, seed: u64) -> Vec<Duration> {
        let mut random = SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let rate = Rate::per_second(10.0).unwrap();
        let mut schedule = Schedule::new(rate, arrivals, start, &mut random);
        (0..count)
            .map(|_| {
                let due = schedule.due();
                schedule.advance(due, &mut random);
                due - start
            })
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_moments_at_the_rate_that_was_asked_for() {
        for arrivals in [Arrivals::Poisson, Arrivals::Even] {
            let some = moments(arrivals, 10_000, 7);
            assert_eq!(some, moments(arrivals, 10_000, 7));
            assert_ne!(some, moments(arrivals, 10_000, 8));
            let seconds = some.last().unwrap().as_secs_f64();
            assert!((seconds - 1_000.0).abs() < 50.0, "{arrivals:?}: {seconds}");
        }
    }

    #[test]
    fn poisson_moments_vary_as_much_as_their_mean() {
        let moments = moments(Arrivals::Poisson, 10_000, 1);
        let squares: f64 = moments
            .windows(2)
            .map(|pair| ((pair[1] - pair[0]).as_secs_f64() - 0.1).powi(2))
            .sum();
        let deviation = (squares / 9_999.0).sqrt();
        assert!((deviation - 0.1).abs() < 0.01, "{deviation}");
    }

    #[test]
    fn what_was_missed_for_long_is_not_sent_all_at_once() {
        let mut random = SmallRng::seed_from_u64(0);
        let start = Instant::now();
        let rate = Rate::per_second(10.0).unwrap();
        let mut schedule = Schedule::new(rate, Arrivals::Even, start, &mut random);
        let now = start + Duration::from_secs(3_600);
        let mut sent = 0;
        while schedule.due() <= now {
            schedule.advance(now, &mut random);
            sent += 1;
        }
        assert!((15..=25).contains(&sent), "{sent}");
    }
}
