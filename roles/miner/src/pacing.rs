//! Holds a thread to a hashrate: says how many hashes to do now, and when to do the next.
//!
//! It reads no clock. Each batch moves the schedule on by the time it is worth, not by the time it took, so that sleeping
//! too long is made up for and the rate is exact in the long run.

use std::time::Duration;

use work::Hashrate;

/// The most hashes between two looks at the current work: under a millisecond with the SHA extensions, a few without.
pub(crate) const BATCH: u32 = 4096;

/// How often a slow, limited thread does its hashes.
const PERIOD_SECONDS: f64 = 0.05;

/// How far behind its schedule a thread may catch up. Time without work is not made up for beyond this.
const CATCH_UP: Duration = Duration::from_millis(200);

/// What is early by less is on time: shorter waits are beyond any timer, and a wait rounded down to nothing would be a
/// busy loop. The schedule stays exact.
const ON_TIME_NANOS: f64 = 1_000.0;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Do up to this many hashes and report them with [`Pacer::done`].
    Hash(u32),
    /// Too early: ask again after this long.
    Wait(Duration),
}

/// The schedule of one thread.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Nanoseconds that a hash is worth; none without a limit.
    nanos_per_hash: Option<f64>,
    batch: u32,
    /// When the next batch is due, in nanoseconds on the caller's clock.
    due: f64,
}

impl Pacer {
    /// A schedule of `limit` hashes a second; without a limit where that is zero.
    pub(crate) fn new(limit: Hashrate) -> Self {
        if limit == Hashrate::ZERO {
            return Self {
                nanos_per_hash: None,
                batch: BATCH,
                due: 0.0,
            };
        }
        let per_period = (limit.value() * PERIOD_SECONDS).clamp(1.0, f64::from(BATCH));
        // The clamp keeps it within a u32.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let batch = per_period as u32;
        Self {
            nanos_per_hash: Some(1e9 / limit.value()),
            batch,
            due: 0.0,
        }
    }

    /// What to do at `now`, which is the time since any fixed moment.
    pub(crate) fn next(&self, now: Duration) -> Pace {
        let early = self.due - nanos(now);
        if early >= ON_TIME_NANOS {
            // A limit of almost nothing gives a wait beyond what a Duration holds.
            return Pace::Wait(Duration::try_from_secs_f64(early / 1e9).unwrap_or(Duration::MAX));
        }
        Pace::Hash(self.batch)
    }

    /// Moves the schedule on by what was done since `now`, the moment that [`Pacer::next`] was asked at.
    pub(crate) fn done(&mut self, now: Duration, hashes: u32) {
        if let Some(nanos_per_hash) = self.nanos_per_hash {
            let earliest = nanos(now.saturating_sub(CATCH_UP));
            self.due = self.due.max(earliest) + f64::from(hashes) * nanos_per_hash;
        }
    }
}

/// Nanoseconds as `f64` are exact for a hundred days and good to a microsecond for centuries.
fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a thread of a given speed for a simulated time, oversleeping by `late` each time. Returns the hashes done
    /// and the waits made.
    fn simulate(limit: f64, speed: f64, late: Duration, run: Duration) -> (u64, u64) {
        let mut pacer = Pacer::new(Hashrate::new(limit).unwrap());
        let mut now = Duration::from_secs(1_000);
        let end = now + run;
        // The first batch starts the schedule.
        pacer.due = nanos(now);
        let (mut hashes, mut waits) = (0, 0);
        while now < end {
            match pacer.next(now) {
                Pace::Hash(count) => {
                    pacer.done(now, count);
                    hashes += u64::from(count);
                    now += Duration::from_secs_f64(f64::from(count) / speed);
                }
                Pace::Wait(time) => {
                    waits += 1;
                    now += time + late;
                }
            }
        }
        (hashes, waits)
    }

    #[test]
    fn a_limited_thread_keeps_its_rate_exactly_however_late_it_wakes() {
        for limit in [1.0, 20.0, 1_000.0, 123_456.7, 3e6] {
            for late in [Duration::ZERO, Duration::from_millis(3)] {
                let (hashes, waits) = simulate(limit, 8e6, late, Duration::from_secs(1_000));
                let expected = limit * 1_000.0;
                let error = (hashes as f64 - expected).abs();
                assert!(
                    error <= f64::from(BATCH) * 100.0 && error / expected < 0.002,
                    "limit {limit} H/s, {late:?} late: {hashes} hashes, expected {expected}"
                );
                // No busy waiting: at most one wait for every batch.
                assert!(waits <= 1 + hashes, "{waits} waits for {hashes} hashes");
            }
        }
    }

    #[test]
    fn a_thread_without_a_limit_never_waits() {
        let (hashes, waits) = simulate(0.0, 8e6, Duration::ZERO, Duration::from_secs(10));
        assert_eq!(waits, 0);
        assert!(hashes >= 80_000_000);
    }

    #[test]
    fn time_without_work_is_not_made_up_for() {
        let mut pacer = Pacer::new(Hashrate::new(1_000.0).unwrap());
        let mut done = 0;
        let now = Duration::from_secs(3_600);
        while let Pace::Hash(count) = pacer.next(now) {
            pacer.done(now, count);
            done += count;
        }
        assert!(
            done <= 300,
            "{done} hashes at once after an hour of silence"
        );
    }

    #[test]
    fn a_batch_stays_short_so_that_new_work_interrupts() {
        for (limit, batch) in [(0.0, BATCH), (1e12, BATCH), (1_000.0, 50), (0.001, 1)] {
            let pacer = Pacer::new(Hashrate::new(limit).unwrap());
            assert_eq!(pacer.next(Duration::ZERO), Pace::Hash(batch), "{limit} H/s");
        }
    }
}
