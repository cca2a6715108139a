//! What a miner is doing, readable while it runs.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use work::{Difficulty, Hashrate};

use crate::session::Reason;

/// A cheap handle to a miner's counters.
#[derive(Debug, Clone)]
pub struct StatusHandle(pub(crate) Arc<Counters>);

/// A miner's counters at one moment. All count from the miner's start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// Whether there is a connection that gave work.
    pub mining: bool,
    /// Hashes a second over the last ten seconds or so.
    pub hashrate: f64,
    /// The same for each thread.
    pub hashrate_per_thread: Vec<f64>,
    /// Hashes done.
    pub hashes: u64,
    /// The difficulty of the current work; none before the first.
    pub difficulty: Option<f64>,
    /// Jobs received.
    pub jobs: u64,
    /// Connections made.
    pub connects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Shares sent; the sum of accepted, rejected, unanswered and those whose answer is awaited.
    pub submitted: u64,
    /// Shares that the server accepted.
    pub accepted: u64,
    /// Shares that the server rejected, by reason.
    pub rejected: Rejected,
    /// Shares found for work that the server had dropped, and so not sent.
    pub stale: u64,
    /// Shares sent on a connection that ended before the answer.
    pub unanswered: u64,
    /// Lines of the server that made no sense.
    pub malformed_lines: u64,
}

/// Rejected shares by the usual codes of Stratum V1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Code 21.
    pub job_not_found: u64,
    /// Code 22.
    pub duplicate: u64,
    /// Code 23.
    pub low_difficulty: u64,
    /// Code 24.
    pub unauthorized: u64,
    /// Code 25.
    pub not_subscribed: u64,
    /// Every other.
    pub other: u64,
}

impl StatusHandle {
    /// The counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }
}

impl Rejected {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.job_not_found
            + self.duplicate
            + self.low_difficulty
            + self.unauthorized
            + self.not_subscribed
            + self.other
    }
}

/// The counters behind the handle.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) mining: AtomicBool,
    /// One for each thread, written once a batch.
    pub(crate) hashes: Vec<Arc<AtomicU64>>,
    rates: Mutex<Rates>,
    /// The bits of an `f64`; zero, which is no difficulty, before the first work.
    difficulty: AtomicU64,
    pub(crate) jobs: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
    pub(crate) submitted: AtomicU64,
    pub(crate) accepted: AtomicU64,
    rejected: [AtomicU64; 6],
    pub(crate) stale: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) malformed_lines: AtomicU64,
}

impl Counters {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            hashes: (0..threads).map(|_| Arc::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn reject(&self, reason: Reason) {
        count(&self.rejected[reason as usize]);
    }

    pub(crate) fn set_difficulty(&self, difficulty: Difficulty) {
        self.difficulty.store(difficulty.value().to_bits(), Relaxed);
    }

    /// Looks at the hash counters; once a second.
    pub(crate) fn sample(&self, now: Duration) {
        let hashes = self
            .hashes
            .iter()
            .map(|count| count.load(Relaxed))
            .collect();
        self.rates().record(now, hashes);
    }

    fn snapshot(&self) -> Snapshot {
        let rejected = |reason: Reason| self.rejected[reason as usize].load(Relaxed);
        let hashrate_per_thread = self.rates().per_thread();
        Snapshot {
            mining: self.mining.load(Relaxed),
            hashrate: hashrate_per_thread.iter().sum(),
            hashrate_per_thread,
            hashes: self.hashes.iter().map(|count| count.load(Relaxed)).sum(),
            difficulty: Difficulty::new(f64::from_bits(self.difficulty.load(Relaxed)))
                .ok()
                .map(Difficulty::value),
            jobs: self.jobs.load(Relaxed),
            connects: self.connects.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
            submitted: self.submitted.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            rejected: Rejected {
                job_not_found: rejected(Reason::JobNotFound),
                duplicate: rejected(Reason::Duplicate),
                low_difficulty: rejected(Reason::LowDifficulty),
                unauthorized: rejected(Reason::Unauthorized),
                not_subscribed: rejected(Reason::NotSubscribed),
                other: rejected(Reason::Other),
            },
            stale: self.stale.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
            malformed_lines: self.malformed_lines.load(Relaxed),
        }
    }

    /// No code panics with the lock held.
    fn rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Snapshot {
    /// The hashrate over all threads, to print.
    pub fn hashrate(&self) -> Hashrate {
        Hashrate::new(self.hashrate).unwrap_or(Hashrate::ZERO)
    }
}

/// Hash counts of the last seconds.
#[derive(Debug, Default)]
struct Rates {
    samples: VecDeque<(Duration, Vec<u64>)>,
}

/// Ten intervals have eleven ends.
const SAMPLES: usize = 11;

impl Rates {
    fn record(&mut self, now: Duration, hashes: Vec<u64>) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, hashes));
    }

    #[allow(clippy::cast_precision_loss)] // A rate needs no more than an f64 holds.
    fn per_thread(&self) -> Vec<f64> {
        let (Some((begin, first)), Some((end, last))) = (self.samples.front(), self.samples.back())
        else {
            return Vec::new();
        };
        let seconds = end.saturating_sub(*begin).as_secs_f64();
        let rate = |hashes: u64| {
            if seconds > 0.0 {
                hashes as f64 / seconds
            } else {
                0.0
            }
        };
        let counts = first.iter().zip(last);
        counts
            .map(|(first, last)| rate(last.saturating_sub(*first)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashrate_is_that_of_the_last_ten_seconds() {
        let mut rates = Rates::default();
        assert!(rates.per_thread().is_empty());
        let (mut fast, mut slow) = (0, 0);
        for second in 0..30 {
            rates.record(Duration::from_secs(second), vec![fast, slow]);
            // Twice as fast in the last ten seconds.
            fast += if second < 19 { 1_000 } else { 2_000 };
            slow += 10;
        }
        assert_eq!(rates.per_thread(), [2_000.0, 10.0]);
        assert_eq!(rates.samples.len(), SAMPLES);
    }

    #[test]
    fn one_look_gives_no_rate() {
        let counters = Counters::new(2);
        counters.hashes[0].store(500, Relaxed);
        counters.sample(Duration::from_secs(5));
        counters.sample(Duration::from_secs(5));
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.hashrate, 0.0);
        assert_eq!(snapshot.hashes, 500);
        assert_eq!(snapshot.difficulty, None);
    }

    #[test]
    fn each_reason_has_its_own_count() {
        let counters = Counters::new(1);
        let reasons = [
            (Reason::JobNotFound, 1),
            (Reason::Duplicate, 2),
            (Reason::LowDifficulty, 3),
            (Reason::Unauthorized, 4),
            (Reason::NotSubscribed, 5),
            (Reason::Other, 6),
        ];
        for (reason, times) in reasons {
            (0..times).for_each(|_| counters.reject(reason));
        }
        let rejected = counters.snapshot().rejected;
        assert_eq!(
            rejected,
            Rejected {
                job_not_found: 1,
                duplicate: 2,
                low_difficulty: 3,
                unauthorized: 4,
                not_subscribed: 5,
                other: 6
            }
        );
        assert_eq!(rejected.total(), 21);
    }
}
