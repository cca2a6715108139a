//! What a share on each job is worth.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use stratum_v1::Text;
use work::Difficulty;

/// Jobs that are remembered at a time. Pools keep far fewer.
const MOST_JOBS: usize = 64;

/// Makes keys of job ids that nobody can make collide.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The jobs of one connection, each with the work of a share on it.
#[derive(Debug)]
pub(super) struct Jobs {
    /// The newest last.
    jobs: VecDeque<(u64, u128)>,
    /// How many of them are from before the last clean job. Pools may accept shares on those for a moment longer.
    before_clean: usize,
    /// Of a share on the next job.
    work: u128,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            before_clean: 0,
            // What miners assume until they are told.
            work: Difficulty::ONE.target().work(),
        }
    }
}

impl Jobs {
    /// Holds for every later job.
    pub(super) fn set_difficulty(&mut self, difficulty: Difficulty) {
        self.work = not_more_than(difficulty).target().work();
    }

    /// A job by its [`key`].
    pub(super) fn notified(&mut self, key: u64, clean: bool) {
        if clean {
            self.jobs.drain(..self.before_clean);
            self.before_clean = self.jobs.len();
        }
        if self.jobs.len() == MOST_JOBS {
            self.jobs.pop_front();
            self.before_clean = self.before_clean.saturating_sub(1);
        }
        self.jobs.push_back((key, self.work));
    }

    /// The work of a share on this job. Of a job that is not remembered the least that it can be.
    pub(super) fn work_of(&self, id: Text<'_>) -> u128 {
        let key = key(id);
        let job = self.jobs.iter().rev().find(|job| job.0 == key);
        job.map_or_else(|| self.least(), |job| job.1)
    }

    /// The least work of a share on any job.
    pub(super) fn least(&self) -> u128 {
        let known = self.jobs.iter().map(|job| job.1);
        known.fold(self.work, u128::min)
    }
}

/// What stands for a job id, however that is written.
pub(super) fn key(id: Text<'_>) -> u64 {
    id.plain().map_or_else(|| key_of(&id.decode()), key_of)
}

/// The same for one without escapes.
pub(super) fn key_of(id: &str) -> u64 {
    KEYS.hash_one(id)
}

/// A decimal number may have been rounded up when it was read. What is billed never is.
fn not_more_than(difficulty: Difficulty) -> Difficulty {
    // Numbers below these are read as they are written: whole ones, and binary fractions of ten places.
    const WHOLE: f64 = (1_u64 << 53) as f64;
    const FRACTION: f64 = (1_u64 << 32) as f64;
    let value = difficulty.value();
    let is_exact = value < WHOLE && value.fract() == 0.0
        || value < FRACTION && (value * 1024.0).fract() == 0.0;
    if is_exact {
        return difficulty;
    }
    Difficulty::new(value.next_down()).unwrap_or(difficulty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_a_fraction_is_never_rounded_up() {
        let work = |value| {
            let difficulty = Difficulty::new(value).unwrap();
            not_more_than(difficulty).target().work()
        };
        // 2^256 / (0xffff × 2^208) is 2^48 / 65535: one difficulty is 4295032833 hashes, rounded down.
        assert_eq!(work(1.0), 4_295_032_833);
        assert_eq!(work(0.5), 2_147_516_416);
        assert_eq!(work(65_535.0 * 65_536.0), (1 << 64) - 1);
        // floor(0.1 × 2^48 / 65535)
        assert_eq!(work(0.1), 429_503_283);
        // 1e15 + 0.1 is not representable, and its nearest neighbour is above it.
        let exact = (1_u128 << 48) * 10_000_000_000_000_001 / 655_350;
        assert!(work(1e15 + 0.1) <= exact, "{} {exact}", work(1e15 + 0.1));
    }
}
