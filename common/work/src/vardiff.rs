//! The difficulty controller: from the shares of one channel to the difficulty it should have.
//!
//! Shares are a Poisson process. A miner of hashrate `x` (in difficulty per second) finds shares of difficulty `d` at the
//! rate `x / d`, so what the shares say of `x` depends only on how many there were and on the *exposure* `∫ dt / d`. The
//! belief about `x` is the Gamma distribution with that count and that exposure. Three things keep it honest:
//!
//! - it forgets, so that it never holds more than [`MEMORY_SHARES`] shares' worth of certainty;
//! - a likelihood-ratio test over the most recent shares, and over the silence since, replaces it by what these alone
//!   say where they contradict it: that is how an estimate that is wrong by 10^6 is left within a handful of shares;
//! - the difficulty moves only where the estimate has left the present one by more than the estimate's own uncertainty.

use std::time::{Duration, Instant};

use crate::{Difficulty, Hashrate, difficulty::HASHES_PER_DIFFICULTY};

/// Certainty beyond this many shares is forgotten.
const MEMORY_SHARES: f64 = 240.0;

/// Certainty, in shares, that a hashrate carries which the miner stated of itself.
const NOMINAL_SHARES: f64 = 0.5;

/// How many of the latest shares the change test looks at: all runs of these lengths.
const RUNS: [usize; 5] = [3, 5, 9, 16, 31];

/// Shares whose exposure is remembered; one more than the longest run.
const RECENT: usize = 32;

/// Log-likelihood ratio beyond which recent shares are taken to contradict the belief.
const CONTRADICTION: f64 = 7.0;

/// The same for a silence, where waiting on is cheap.
const SILENCE_CONTRADICTION: f64 = 4.0;

/// A ratio of wanted to present difficulty beyond which the new one should not wait for the next job.
const URGENT_RATIO: f64 = 3.0;

/// Time between two urgent retargets.
const URGENT_PAUSE: Duration = Duration::from_secs(3);

/// Shares that arrive in one read have no time between them; a run is taken to have lasted at least this long.
const SHORTEST_RUN_SECONDS: f64 = 0.1;

/// The smallest relative change that is worth telling a miner, as a natural logarithm.
const SMALLEST_STEP: f64 = 0.12;

/// The controller of one channel.
#[derive(Debug, Clone)]
pub struct Vardiff {
    shares_per_second: f64,
    /// Shares, with the forgotten ones discounted.
    count: f64,
    /// Exposure of these shares, in seconds per difficulty.
    exposure: f64,
    /// Exposure since the last share.
    silence: f64,
    /// Exposure before each of the latest shares, newest at `newest`.
    recent: [f32; RECENT],
    newest: usize,
    recorded: usize,
    /// The difficulty of the job that is being worked on.
    active: f64,
    measured_until: Instant,
    urgent_not_before: Instant,
}

/// A new difficulty for a channel, before it is clamped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retarget {
    /// The difficulty at which the miner would find the asked number of shares.
    pub difficulty: Difficulty,
    /// So far from the present one that a job should be sent for it now.
    pub urgent: bool,
}

impl Vardiff {
    /// A controller that asks for so many shares a minute, and believes a little in `nominal`.
    pub fn new(shares_per_minute: f64, nominal: Hashrate, now: Instant) -> Self {
        let shares_per_second = shares_per_minute / 60.0;
        // Without a statement, the exposure of an unknown miner starts as that of the slowest imaginable one.
        let rate = (nominal.value() / HASHES_PER_DIFFICULTY).max(f64::MIN_POSITIVE);
        Self {
            shares_per_second,
            count: NOMINAL_SHARES,
            exposure: NOMINAL_SHARES / rate,
            silence: 0.0,
            recent: [0.0; RECENT],
            newest: 0,
            recorded: 0,
            active: (rate / shares_per_second).max(f64::MIN_POSITIVE),
            measured_until: now,
            urgent_not_before: now,
        }
    }

    /// The miner works at this difficulty from now on.
    pub fn job_sent(&mut self, difficulty: Difficulty, now: Instant) {
        self.measure(now);
        self.active = difficulty.value();
    }

    /// A valid share came in, for a job of this difficulty.
    pub fn share_accepted(&mut self, job_difficulty: Difficulty, now: Instant) {
        self.measure(now);
        // A share of an older, easier job would have met the present difficulty only that often.
        let weight = (job_difficulty.value() / self.active).min(1.0);
        self.count += weight;
        self.newest = (self.newest + 1) % RECENT;
        #[allow(clippy::cast_possible_truncation)]
        {
            self.recent[self.newest] = self.silence as f32;
        }
        self.recorded = (self.recorded + 1).min(RECENT);
        self.silence = 0.0;
        self.forget();
        self.believe_recent_shares();
    }

    /// The difficulty to set now, if it should change from `present`.
    pub fn retarget(&mut self, present: Difficulty, now: Instant) -> Option<Retarget> {
        self.measure(now);
        self.believe_silence();
        let wanted = self.estimate() / self.shares_per_second;
        let step = (wanted / present.value()).ln();
        let uncertainty = 1.0 / self.count.sqrt();
        // NaN cannot come here, since all three are finite and above zero; an infinite step is no difficulty.
        if step.abs() <= uncertainty.max(SMALLEST_STEP) {
            return None;
        }
        let urgent = step.abs() > URGENT_RATIO.ln() && now >= self.urgent_not_before;
        if urgent {
            self.urgent_not_before = now + URGENT_PAUSE;
        }
        let difficulty = Difficulty::new(wanted).ok()?;
        Some(Retarget { difficulty, urgent })
    }

    /// The hashrate that the shares speak for.
    pub fn hashrate(&self) -> Hashrate {
        Hashrate::new(self.estimate() * HASHES_PER_DIFFICULTY).unwrap_or(Hashrate::ZERO)
    }

    fn estimate(&self) -> f64 {
        self.count / self.exposure
    }

    fn measure(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.measured_until);
        let exposure = elapsed.as_secs_f64() / self.active;
        self.exposure += exposure;
        self.silence += exposure;
        self.measured_until = self.measured_until.max(now);
    }

    fn forget(&mut self) {
        if self.count > MEMORY_SHARES {
            let kept = MEMORY_SHARES / self.count;
            self.count *= kept;
            self.exposure *= kept;
        }
    }

    fn believe_recent_shares(&mut self) {
        let mut exposure = SHORTEST_RUN_SECONDS / self.active;
        let mut found = None;
        for length in 1..=self.recorded.min(RECENT - 1) {
            let slot = (self.newest + RECENT + 1 - length) % RECENT;
            exposure += f64::from(self.recent[slot]);
            if RUNS.contains(&length) {
                #[allow(clippy::cast_precision_loss)]
                let shares = length as f64;
                if log_likelihood_ratio(shares, self.estimate() * exposure) > CONTRADICTION {
                    found = Some((shares, exposure));
                }
            }
        }
        // The longest run that contradicts knows most.
        if let Some((shares, exposure)) = found {
            // A run ends with a share, so that one of them says nothing of the rate.
            self.count = shares - 1.0;
            self.exposure = exposure;
            self.recorded = 0;
        }
    }

    fn believe_silence(&mut self) {
        let expected = self.estimate() * self.silence;
        if expected > SILENCE_CONTRADICTION {
            self.count = NOMINAL_SHARES;
            self.exposure = self.silence;
            self.recorded = 0;
        }
    }
}

/// How much better its own rate explains a count than the expected one does.
fn log_likelihood_ratio(count: f64, expected: f64) -> f64 {
    count * (count / expected.max(f64::MIN_POSITIVE)).ln() - (count - expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 6.0;

    /// Feeds a miner of constant hashrate, evenly spaced, for `minutes`; jobs follow every retarget at once.
    fn mine(
        vardiff: &mut Vardiff,
        present: &mut Difficulty,
        now: &mut Instant,
        hashrate: f64,
        minutes: u64,
    ) -> u32 {
        let end = *now + Duration::from_secs(60 * minutes);
        let mut progress = 0.0;
        let mut shares = 0;
        while *now < end {
            let step = Duration::from_millis(50);
            *now += step;
            progress += hashrate / HASHES_PER_DIFFICULTY / present.value() * step.as_secs_f64();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            for _ in 0..(progress.floor().min(100.0) as u32) {
                shares += 1;
                vardiff.share_accepted(*present, *now);
            }
            progress = progress.fract();
            if let Some(retarget) = vardiff.retarget(*present, *now) {
                *present = retarget.difficulty;
                vardiff.job_sent(*present, *now);
            }
        }
        shares
    }

    fn settles(start_error: f64) {
        let hashrate = Hashrate::new(1e14).unwrap();
        let wrong = Hashrate::new(hashrate.value() * start_error).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, wrong, now);
        let mut present = wrong.difficulty_for(RATE).unwrap();
        vardiff.job_sent(present, now);
        mine(&mut vardiff, &mut present, &mut now, hashrate.value(), 60);
        let right = hashrate.difficulty_for(RATE).unwrap();
        let ratio = present.value() / right.value();
        assert!((0.75..1.34).contains(&ratio), "{start_error}: {ratio}");
    }

    #[test]
    fn it_settles_from_an_estimate_that_is_wrong_by_a_million() {
        for error in [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6] {
            settles(error);
        }
    }

    #[test]
    fn a_difficulty_far_too_easy_costs_few_shares() {
        let hashrate = Hashrate::new(1e14).unwrap();
        let wrong = Hashrate::new(1e8).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, wrong, now);
        let mut present = wrong.difficulty_for(RATE).unwrap();
        vardiff.job_sent(present, now);
        let shares = mine(&mut vardiff, &mut present, &mut now, hashrate.value(), 1);
        // A miner that is so fast delivers a hundred at a time in this simulation.
        assert!(shares < 400, "{shares}");
    }

    #[test]
    fn a_steady_miner_is_left_alone() {
        let hashrate = Hashrate::new(1e14).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, hashrate, now);
        let mut present = hashrate.difficulty_for(RATE).unwrap();
        let right = present;
        mine(&mut vardiff, &mut present, &mut now, hashrate.value(), 120);
        assert_eq!(present, right);
    }

    #[test]
    fn silence_from_the_start_never_makes_a_number_that_is_none() {
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, Hashrate::ZERO, now);
        let mut present = Difficulty::new(1e-9).unwrap();
        mine(&mut vardiff, &mut present, &mut now, 0.0, 24 * 60);
        assert!(present.value() > 0.0 && present.value().is_finite());
        assert!(vardiff.hashrate().value().is_finite());
    }
}
