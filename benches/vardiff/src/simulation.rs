//! One miner, one controller, virtual time.

use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Poisson};
use work::{Hashrate, difficulty::HASHES_PER_DIFFICULTY};

use crate::controller::{Controller, Kind};

const TRUE_HASHRATE: f64 = 1e14;
const JOB_SECONDS: f64 = 30.0;
const HOUR: f64 = 3600.0;
const SETTLED_SECONDS: f64 = 600.0;
const TOLERANCE: f64 = 0.25;
const PAUSE_SECONDS: f64 = 600.0;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Case {
    /// The first difficulty is so many times the right one.
    Start {
        error: f64,
    },
    /// After a settled time the hashrate changes by a factor.
    Change {
        factor: f64,
    },
    Steady,
    /// After a settled time nothing for ten minutes, then as before.
    Pause,
}

/// The figures of one run, from the moment that matters in its case.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub settled: Option<f64>,
    pub first_share: Option<f64>,
    pub first_minute: f64,
    pub retargets_per_hour: f64,
    pub rms_error: f64,
}

struct Simulation {
    random: StdRng,
    controller: Controller,
    shares_per_second: f64,
    now: f64,
    /// Difficulty per second.
    rate: f64,
    /// Of the job that is worked on, and of the next one.
    active: f64,
    set: f64,
    next_job: f64,
    next_tick: f64,
    /// Since the moment that matters.
    origin: f64,
    in_bounds_since: Option<f64>,
    retargets: u64,
    squared_error: f64,
    run: Run,
}

pub(crate) fn run(case: Case, kind: Kind, shares_per_minute: f64, seed: u64) -> Run {
    let error = match case {
        Case::Start { error } => error,
        _ => 1.0,
    };
    let mut simulation = Simulation::new(kind, shares_per_minute, error, seed);
    let right = simulation.rate;
    match case {
        Case::Start { .. } => simulation.advance(6.0 * HOUR),
        Case::Change { factor } => {
            simulation.advance(6.0 * HOUR);
            simulation.rate = right * factor;
            simulation.begin();
            simulation.advance(6.0 * HOUR);
        }
        Case::Steady => {
            simulation.advance(2.0 * HOUR);
            simulation.begin();
            simulation.retargets = 0;
            simulation.squared_error = 0.0;
            simulation.advance(24.0 * HOUR);
            simulation.run.retargets_per_hour = simulation.retargets as f64 / 24.0;
            simulation.run.rms_error = (simulation.squared_error / (24.0 * HOUR)).sqrt();
        }
        Case::Pause => {
            simulation.advance(6.0 * HOUR);
            simulation.rate = 0.0;
            simulation.advance(PAUSE_SECONDS);
            simulation.rate = right;
            simulation.begin();
            simulation.advance(6.0 * HOUR);
        }
    }
    simulation.run
}

impl Simulation {
    fn new(kind: Kind, shares_per_minute: f64, error: f64, seed: u64) -> Self {
        let nominal = Hashrate::new(TRUE_HASHRATE * error).unwrap_or(Hashrate::ZERO);
        let rate = TRUE_HASHRATE / HASHES_PER_DIFFICULTY;
        let shares_per_second = shares_per_minute / 60.0;
        let mut random = StdRng::seed_from_u64(seed);
        let difficulty = rate * error / shares_per_second;
        let mut controller = Controller::new(kind, shares_per_minute, nominal);
        controller.job_sent(difficulty, 0.0);
        Self {
            // Jobs do not come in step with the moment that matters.
            next_job: random.random_range(0.0..JOB_SECONDS),
            next_tick: controller.tick_seconds(),
            random,
            controller,
            shares_per_second,
            now: 0.0,
            rate,
            active: difficulty,
            set: difficulty,
            origin: 0.0,
            in_bounds_since: None,
            retargets: 0,
            squared_error: 0.0,
            run: Run::default(),
        }
    }

    /// The moment that matters is now.
    fn begin(&mut self) {
        self.origin = self.now;
        self.in_bounds_since = None;
        self.run = Run::default();
    }

    fn advance(&mut self, seconds: f64) {
        let end = self.now + seconds;
        while self.now < end {
            let until = self.next_job.min(self.next_tick).min(end);
            self.mine(until);
            if self.now >= self.next_job {
                self.next_job += JOB_SECONDS;
                self.send_job();
            }
            if self.now >= self.next_tick {
                self.next_tick += self.controller.tick_seconds();
                self.ask();
            }
        }
    }

    /// Lets shares come until then, or until one of them changes the work.
    fn mine(&mut self, until: f64) {
        let rate = self.rate / self.active;
        if self.controller.counts_only() {
            let expected = rate * (until - self.now);
            let count = match Poisson::new(expected) {
                Ok(poisson) => poisson.sample(&mut self.random),
                Err(_) => 0.0,
            };
            if count > 0.0 {
                self.run
                    .first_share
                    .get_or_insert(self.now - self.origin + 1.0 / rate);
            }
            let counted_until = until.min(self.origin + 60.0);
            let share = ((counted_until - self.now) / (until - self.now)).max(0.0);
            self.run.first_minute += count * share;
            self.controller.shares(count as u64);
            self.pass_to(until);
            return;
        }
        while self.now < until {
            let wait = -(1.0 - self.random.random::<f64>()).ln() / rate;
            if self.now + wait >= until {
                self.pass_to(until);
                return;
            }
            self.pass_to(self.now + wait);
            let elapsed = self.now - self.origin;
            self.run.first_share.get_or_insert(elapsed);
            if elapsed < 60.0 {
                self.run.first_minute += 1.0;
            }
            self.controller.share(self.active, self.now);
            if self.ask() {
                return;
            }
        }
    }

    /// True if the miner got other work for it.
    fn ask(&mut self) -> bool {
        let Some(asked) = self.controller.ask(self.set, self.now) else {
            return false;
        };
        self.set = asked.difficulty;
        self.retargets += 1;
        if asked.early_job {
            self.send_job();
        }
        asked.early_job
    }

    fn send_job(&mut self) {
        self.active = self.set;
        self.controller.job_sent(self.active, self.now);
    }

    fn pass_to(&mut self, then: f64) {
        let right = self.rate / self.shares_per_second;
        let elapsed = then - self.now;
        if right > 0.0 {
            let ratio = right / self.active;
            self.squared_error += ratio.log2().powi(2) * elapsed;
            if (ratio - 1.0).abs() > TOLERANCE {
                self.in_bounds_since = None;
            } else {
                let since = *self.in_bounds_since.get_or_insert(self.now);
                if then - since >= SETTLED_SECONDS && self.run.settled.is_none() {
                    self.run.settled = Some(since - self.origin);
                }
            }
        }
        self.now = then;
    }
}
