//! The difficulty controller: from the shares of one channel to the difficulty it should have.
//!
//! Shares are a Poisson process. A miner of hashrate `x` (in difficulty per second) finds shares of difficulty `d` at the
//! rate `x / d`, so what the shares say of `x` depends only on how many there were and on the *exposure* `∫ dt / d`. The
//! belief about `x` is the Gamma distribution with that count and that exposure. Three things keep it honest:
//!
//! - it forgets, so that it never holds more than [`MEMORY_SHARES`] shares' worth of certainty;
//! - likelihood-ratio tests ask whether the latest shares, or the silence since, can come from the same miner as what was
//!   before; where they cannot, the belief starts anew from them. That is how an estimate that is wrong by 10^6 is left
//!   within a handful of shares;
//! - what was believed before a silence is kept, and believed again if the miner comes back as it was.
//!
//! The difficulty moves only where the estimate has left the present one by about its own uncertainty. The constants are
//! chosen by simulation (`make bench-vardiff`); docs/benchmarks.md says how near to what is possible they come.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{Difficulty, Hashrate, difficulty::HASHES_PER_DIFFICULTY};

/// Certainty beyond this many shares is forgotten.
const MEMORY_SHARES: f64 = 800.0;

/// Certainty, in shares, of what a miner states of itself, and of what a silence says. With one share the difficulty
/// eases in a silence at the rate at which the first share, when it comes, is the one to be expected.
const WEAK_SHARES: f64 = 1.0;

/// The shortest run of latest shares that is tested. Fewer say too little to start anew from.
const SHORTEST_RUN: f64 = 6.0;

/// The log-likelihood ratio at which a silence means that the miner has changed or gone.
const SILENCE_CONTRADICTION: f64 = 20.0;

/// Below this ratio two beliefs can be of the same miner.
const AGREEMENT: f64 = 2.0;

/// How much of what was believed before a silence is believed after it, in shares.
const RESTORED_SHARES: f64 = 60.0;

/// A ratio of wanted to present difficulty beyond which the new one should not wait for the next job.
const URGENT_RATIO: f64 = 3.0;

/// Urgent retargets come at this pace, after as many at once as an error of 10^6 takes.
const URGENT_PAUSE: Duration = Duration::from_secs(3);
const URGENT_AT_ONCE: u32 = 3;

/// How much faster than the present difficulty expects a run is taken to be at most. Shares that arrive in one read have no
/// time between them, and say less than that.
const LARGEST_STEP: f64 = 3000.0;

/// Shares that come within so long may come in one read, with no time between them.
const READ_SECONDS: f64 = 0.05;

/// How much easier than before a silence the difficulty gets in it: beyond, nobody is there to find it too hard.
const DEEPEST_EASING: f64 = 1e7;

/// A link that stalls for up to so long delivers its shares at once; that is no faster miner.
const STALL_SECONDS: f64 = 30.0;

/// The smallest relative change that is worth telling a miner, as a natural logarithm.
const SMALLEST_STEP: f64 = 0.1;

/// The part of the estimate's own uncertainty that it may be away before the difficulty follows.
const HYSTERESIS: f64 = 0.85;

/// The controller of one channel.
#[derive(Debug, Clone)]
pub struct Vardiff {
    shares_per_second: f64,
    belief: Belief,
    /// What was believed before the present silence, or before the shares that ended it.
    before_silence: Option<Belief>,
    /// Exposure since the last share.
    silence: f64,
    recent: Recent,
    /// The difficulty of the job that is being worked on.
    active: f64,
    measured_until: Instant,
    /// When the belief started anew; what came in the same read is no further evidence.
    renewed_at: Option<Instant>,
    /// When all urgent retargets will be available again.
    urgent_restored: Instant,
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
        // Without a statement, an unknown miner starts as the slowest imaginable one.
        let rate = (nominal.value() / HASHES_PER_DIFFICULTY).max(1e-100);
        Self {
            shares_per_second,
            belief: Belief {
                count: WEAK_SHARES,
                exposure: WEAK_SHARES / rate,
            },
            before_silence: None,
            silence: 0.0,
            recent: Recent::default(),
            active: rate / shares_per_second,
            measured_until: now,
            renewed_at: None,
            urgent_restored: now,
        }
    }

    /// The miner says what it does. That is believed only while its shares have said next to nothing: what they say is
    /// known better here, and a miner that pauses must not talk away what was known before.
    pub fn stated(&mut self, nominal: Hashrate) {
        let rate = nominal.value() / HASHES_PER_DIFFICULTY;
        if rate > 0.0 && self.belief.count <= WEAK_SHARES && self.before_silence.is_none() {
            self.belief.exposure = self.belief.count / rate;
        }
    }

    /// There was no work until now, so that the time before says nothing of the miner.
    pub fn work_begins(&mut self, now: Instant) {
        self.measured_until = self.measured_until.max(now);
    }

    /// The miner works at this difficulty from now on.
    pub fn job_sent(&mut self, difficulty: Difficulty, now: Instant) {
        self.measure(now);
        self.active = difficulty.value();
    }

    /// A valid share came in, for a job of this difficulty.
    pub fn share_accepted(&mut self, job_difficulty: Difficulty, now: Instant) {
        self.measure(now);
        if self.renewed_at == Some(now) {
            return;
        }
        // A share of an older, easier job would have met the present difficulty only that often.
        let weight = (job_difficulty.value() / self.active).min(1.0);
        self.belief.count += weight;
        if weight < 0.5 {
            // It was under way when the difficulty rose; for the runs it is none.
            return;
        }
        self.recent.push(self.silence);
        self.silence = 0.0;
        self.belief.forget(MEMORY_SHARES);
        if self.test_recent_shares() | self.test_return() {
            self.renewed_at = Some(now);
        }
    }

    /// The difficulty to set now, if it should change from `present`.
    pub fn retarget(&mut self, present: Difficulty, now: Instant) -> Option<Retarget> {
        self.measure(now);
        self.test_silence();
        let wanted = self.belief.fairest_rate() / self.shares_per_second;
        let step = (wanted / present.value()).ln();
        let uncertainty = HYSTERESIS / self.belief.count.sqrt();
        if step.abs() <= uncertainty.max(SMALLEST_STEP) {
            return None;
        }
        let difficulty = Difficulty::new(wanted).ok()?;
        let urgent = step.abs() > URGENT_RATIO.ln() && self.take_urgent(now);
        Some(Retarget { difficulty, urgent })
    }

    /// The hashrate that the shares speak for.
    pub fn hashrate(&self) -> Hashrate {
        Hashrate::new(self.belief.rate() * HASHES_PER_DIFFICULTY).unwrap_or(Hashrate::ZERO)
    }

    fn take_urgent(&mut self, now: Instant) -> bool {
        let restored = self.urgent_restored.max(now) + URGENT_PAUSE;
        let available = restored <= now + URGENT_PAUSE * URGENT_AT_ONCE;
        if available {
            self.urgent_restored = restored;
        }
        available
    }

    fn measure(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.measured_until);
        let exposure = elapsed.as_secs_f64() / self.active;
        self.belief.exposure += exposure;
        self.silence += exposure;
        self.measured_until = self.measured_until.max(now);
    }

    /// Starts anew from that run of latest shares which is least likely of the miner that was there before it, if it
    /// cannot be of it.
    fn test_recent_shares(&mut self) -> bool {
        let fastest = LARGEST_STEP * self.shares_per_second * self.active;
        let stall = STALL_SECONDS / self.active;
        let mut found: Option<(usize, Belief)> = None;
        let mut least_likely = 0.0;
        for (parts, latest, before) in self.recent.runs() {
            if latest.count < SHORTEST_RUN {
                continue;
            }
            let run = Belief {
                exposure: latest.exposure.max(latest.count / fastest),
                ..latest
            };
            let rest = self.belief.without(run);
            let ratio = run.differs_from(rest);
            // A run too short to be measured can be as fast as believed.
            let unmeasured = latest.exposure < run.exposure && run.rate() < rest.rate();
            if unmeasured || ratio <= contradiction(run.count).max(least_likely) {
                continue;
            }
            // A run that is fast only because the link stalled before it is as slow as ever with that stall in it.
            let with_stall = Belief {
                count: run.count + before.count,
                exposure: run.exposure + before.exposure.min(stall),
            };
            if run.rate() < rest.rate() || with_stall.differs_from(rest) > AGREEMENT {
                found = Some((parts, run));
                least_likely = ratio;
            }
        }
        if let Some((parts, run)) = found {
            self.belief = run;
            self.recent.keep(parts);
        }
        found.is_some()
    }

    /// A miner that comes back as it was before a silence is believed to be the same.
    fn test_return(&mut self) -> bool {
        // The share that ended the silence says nothing of the rate; the two behind it do.
        const LENGTH: usize = 2;
        let run = self.recent.runs().nth(LENGTH - 1);
        let (Some(before), Some((_, run, _)), true) =
            (self.before_silence, run, self.recent.0.len() > LENGTH)
        else {
            return false;
        };
        self.before_silence = None;
        // Where they were to be expected within one read, that they came in one read says no more.
        let read = (run.count / before.rate()).min(READ_SECONDS / self.active);
        let since = Belief {
            exposure: run.exposure.max(read),
            ..run
        };
        let same = since.differs_from(before) < AGREEMENT;
        if same {
            self.belief = before;
            self.belief.forget(RESTORED_SHARES);
            self.belief.count += since.count;
            self.belief.exposure += since.exposure;
            self.recent.keep(LENGTH);
        }
        same
    }

    /// A silence that the believed miner would not make starts the belief anew: it eases from here on.
    fn test_silence(&mut self) {
        let silence = Belief {
            count: 0.0,
            exposure: self.silence,
        };
        if self.belief.count <= WEAK_SHARES {
            // It is easing already; as far as makes sense, where it is known what was there.
            if let Some(before) = self.before_silence {
                let most = self.belief.count * DEEPEST_EASING / before.rate();
                self.belief.exposure = self.belief.exposure.min(most);
            }
            return;
        }
        let rest = self.belief.without(silence);
        if silence.differs_from(rest) > SILENCE_CONTRADICTION {
            if rest.count >= SHORTEST_RUN {
                self.before_silence = Some(rest);
            }
            self.belief = Belief {
                count: WEAK_SHARES,
                exposure: self.silence,
            };
            self.recent.keep(0);
        }
    }
}

/// The log-likelihood ratio at which a run of so many shares is of another hashrate. A mistake costs more with a short run,
/// because that says little of the rate.
fn contradiction(shares: f64) -> f64 {
    5.3 + 19.0 / shares.sqrt()
}

/// What is known of a rate: so many shares in so much exposure (seconds per difficulty).
#[derive(Debug, Clone, Copy)]
struct Belief {
    count: f64,
    exposure: f64,
}

impl Belief {
    fn rate(self) -> f64 {
        self.count / self.exposure
    }

    /// The rate of which the true one is off by the least expected square, in parts of it: the mean square over the mean of
    /// the Gamma distribution that these shares make of Jeffreys' prior. A handful tells; what was stated is taken as it is.
    fn fairest_rate(self) -> f64 {
        if self.count > SHORTEST_RUN / 2.0 {
            (self.count + 1.5) / self.exposure
        } else {
            self.rate()
        }
    }

    fn forget(&mut self, most: f64) {
        if self.count > most {
            let kept = most / self.count;
            self.count *= kept;
            self.exposure *= kept;
        }
    }

    fn without(self, part: Self) -> Self {
        Self {
            count: (self.count - part.count).max(0.0),
            exposure: (self.exposure - part.exposure).max(f64::MIN_POSITIVE),
        }
    }

    /// The logarithm of the likelihood ratio between two rates and one for these two.
    fn differs_from(self, other: Self) -> f64 {
        let term = |belief: Self| match belief.count {
            0.0 => 0.0,
            count => count * (count / belief.exposure).ln(),
        };
        let both = Self {
            count: self.count + other.count,
            exposure: self.exposure + other.exposure,
        };
        term(self) + term(other) - term(both)
    }
}

/// The latest shares and the exposure before them, the latest first: singly, then in pairs, fours and so on, as what is
/// longer ago needs to be known less exactly. So many shares take few tests and little memory; an idle channel holds none.
#[derive(Debug, Clone, Default)]
struct Recent(VecDeque<Part>);

/// Some neighbouring shares.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    count: u16,
    exposure: f32,
}

impl Recent {
    /// So many parts have the same count; older ones have twice that.
    const ALIKE: usize = 4;
    /// The count of the oldest parts. What is older is not remembered.
    const LARGEST_PART: u16 = 32;

    #[allow(clippy::cast_possible_truncation)]
    fn push(&mut self, exposure: f64) {
        self.0.push_front(Part {
            count: 1,
            exposure: exposure as f32,
        });
        let mut oldest = Self::ALIKE;
        let mut count = 1;
        while self.0.get(oldest).is_some_and(|part| part.count == count) {
            let Some(part) = self.0.remove(oldest) else {
                return;
            };
            if count == Self::LARGEST_PART {
                return;
            }
            let next = &mut self.0[oldest - 1];
            next.count += part.count;
            next.exposure += part.exposure;
            oldest += Self::ALIKE - 1;
            count *= 2;
        }
    }

    /// Of each run of latest parts: how many they are, what they say together, and what the one before them says.
    fn runs(&self) -> impl Iterator<Item = (usize, Belief, Belief)> {
        let mut run = Part::default().belief();
        self.0.iter().enumerate().map(move |(at, part)| {
            run.count += part.belief().count;
            run.exposure += part.belief().exposure;
            let before = self.0.get(at + 1).copied().unwrap_or_default();
            (at + 1, run, before.belief())
        })
    }

    fn keep(&mut self, parts: usize) {
        self.0.truncate(parts);
    }
}

impl Part {
    fn belief(self) -> Belief {
        Belief {
            count: self.count.into(),
            exposure: self.exposure.into(),
        }
    }
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
    fn a_statement_does_not_outweigh_shares() {
        let hashrate = Hashrate::new(1e14).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, Hashrate::ZERO, now);
        vardiff.stated(hashrate);
        assert!((vardiff.hashrate().value() / 1e14 - 1.0).abs() < 1e-9);
        let mut present = hashrate.difficulty_for(RATE).unwrap();
        vardiff.job_sent(present, now);
        mine(&mut vardiff, &mut present, &mut now, 1e14, 30);
        let known = vardiff.hashrate();
        vardiff.stated(Hashrate::new(1e10).unwrap());
        assert_eq!(vardiff.hashrate(), known);
    }

    #[test]
    fn a_miner_that_pauses_comes_back_at_its_difficulty() {
        let hashrate = Hashrate::new(1e14).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, hashrate, now);
        let mut present = hashrate.difficulty_for(RATE).unwrap();
        let right = present;
        vardiff.job_sent(present, now);
        mine(&mut vardiff, &mut present, &mut now, 1e14, 120);
        mine(&mut vardiff, &mut present, &mut now, 0.0, 10);
        assert!(present < right, "it eased");
        vardiff.stated(Hashrate::new(1e11).unwrap());
        mine(&mut vardiff, &mut present, &mut now, 1e14, 1);
        let ratio = present.value() / right.value();
        assert!((0.75..1.34).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_miner_that_was_hardly_known_is_not_eased_without_end() {
        let hashrate = Hashrate::new(1e14).unwrap();
        let mut now = Instant::now();
        let mut vardiff = Vardiff::new(RATE, hashrate, now);
        let mut present = hashrate.difficulty_for(RATE).unwrap();
        let right = present;
        vardiff.job_sent(present, now);
        mine(&mut vardiff, &mut present, &mut now, 1e14, 2);
        mine(&mut vardiff, &mut present, &mut now, 0.0, 120);
        let eased = right.value() / present.value();
        assert!((1e3..1e9).contains(&eased), "{eased:e}");
    }

    #[test]
    fn many_shares_are_remembered_in_few_parts() {
        let mut recent = Recent::default();
        for share in 1..=10_000 {
            recent.push(f64::from(share));
            let (parts, all, _) = recent.runs().last().unwrap();
            assert!(parts <= 25 && all.count >= f64::from(share.min(200)));
            // The exposures before the latest shares are that many successive numbers.
            let exposure = all.count * f64::from(share) - all.count * (all.count - 1.0) / 2.0;
            assert_eq!(all.exposure, exposure);
        }
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
