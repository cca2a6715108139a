//! What is known of each pool: whether it works, since when it does not, and when it may be tried again.
//!
//! No I/O and no clock: the supervisor tells what happened and when, the status reads.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::{Complaints, UpstreamError};

/// A connection that lived this long was a good one: the next attempt does not wait as after failures.
pub(super) const GOOD_LIFETIME: Duration = Duration::from_secs(30);

/// How often the time that a pool has to prove itself is doubled, at most.
const MOST_DOUBLINGS: u32 = 5;

/// A pool that was followed for so many times what it had to prove before is trusted as in the beginning.
const TRUSTED_AFTER: u32 = 10;

/// How a pool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamHealth {
    /// There was no reason to connect to it yet.
    #[default]
    NeverTried,
    /// The last attempt succeeded, and what was connected lives or was closed here.
    Healthy,
    /// The last attempt failed, or the last connection was lost.
    Failing,
}

/// All pools, in their order.
#[derive(Debug)]
pub(crate) struct Roster {
    pools: Vec<Standing>,
    followed: Option<usize>,
    moves: u64,
    waits: Waits,
    complaints: Complaints,
    available: bool,
}

/// How long attempts wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// After the first failure; doubled with each.
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    /// How long a pool must stay good before miners go back to it; zero is for ever.
    pub(crate) failback: Duration,
}

/// What is known of one pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) address: String,
    pub(crate) health: UpstreamHealth,
    pub(crate) failing_since: Option<SystemTime>,
    pub(crate) last_error: Option<String>,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    /// Connections that miners can use, or did until they moved.
    pub(crate) connected: usize,
    pub(crate) connections: u64,
    failures_in_a_row: u32,
    not_before: Option<Instant>,
    /// How often it was lost soon after miners had come to it.
    relapses: u32,
}

impl Waits {
    /// Doubles with each failure, and is spread so that connections lost together do not come back together.
    pub(super) fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let longest = self.first.saturating_mul(1 << doublings).min(self.last);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl Roster {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>, waits: Waits) -> Self {
        let standing = |address| Standing {
            address,
            ..Standing::default()
        };
        Self {
            pools: addresses.into_iter().map(standing).collect(),
            followed: None,
            moves: 0,
            waits,
            complaints: Complaints::default(),
            available: false,
        }
    }

    /// Whether miners have a connection to any: one that only waits for its last answers is none.
    pub(crate) fn is_available(&self) -> bool {
        self.available
    }

    pub(super) fn set_available(&mut self, available: bool) {
        self.available = available;
    }

    /// What connections to any of them complain of.
    pub(crate) fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// All pools in their order.
    pub(crate) fn pools(&self) -> &[Standing] {
        &self.pools
    }

    /// The pool that the miners work for, or worked for last.
    pub(crate) fn followed(&self) -> Option<usize> {
        self.followed
    }

    /// How often miners were moved from one pool to another.
    pub(crate) fn moves(&self) -> u64 {
        self.moves
    }

    /// The first in the order that may be tried now. One that failed when it was tried last comes behind those that did not:
    /// to find that it still does may take long.
    pub(super) fn next(&self, now: Instant) -> Option<usize> {
        let candidates = self.pools.iter().enumerate();
        candidates
            .filter(|(_, pool)| pool.may_be_tried(now))
            .min_by_key(|(index, pool)| (pool.health == UpstreamHealth::Failing, *index))
            .map(|(index, _)| index)
    }

    /// When one of the first `count` may be tried again, if none may now.
    pub(super) fn next_at(&self, count: usize) -> Option<Instant> {
        let first = self.pools.iter().take(count);
        first.filter_map(|pool| pool.not_before).min()
    }

    /// The first one in front of `followed` that may be tried now, and how long it must stay good for miners to go back.
    pub(super) fn better(&self, followed: usize, now: Instant) -> Option<(usize, Duration)> {
        let mut earlier = self.pools.iter().take(followed);
        let index = earlier.position(|pool| pool.may_be_tried(now))?;
        let doublings = self.pools[index].relapses.min(MOST_DOUBLINGS);
        let good_for = self.waits.failback.saturating_mul(1 << doublings);
        (!good_for.is_zero()).then_some((index, good_for))
    }

    pub(super) fn connected(&mut self, index: usize) {
        let pool = &mut self.pools[index];
        pool.connected += 1;
        pool.connections += 1;
        pool.works();
    }

    /// The pool did all that a probe wanted.
    pub(super) fn proved(&mut self, index: usize) {
        let pool = &mut self.pools[index];
        pool.failures_in_a_row = 0;
        pool.works();
    }

    /// A connection ended that nobody needed any more.
    pub(super) fn left(&mut self, index: usize) {
        let pool = &mut self.pools[index];
        pool.connected = pool.connected.saturating_sub(1);
    }

    /// A connection that was in use ended.
    pub(super) fn lost(
        &mut self,
        index: usize,
        now: Instant,
        lived: Duration,
        error: &UpstreamError,
    ) {
        self.left(index);
        let pool = &mut self.pools[index];
        if lived >= GOOD_LIFETIME {
            pool.failures_in_a_row = 0;
        }
        if self.followed == Some(index) && pool.connected == 0 {
            let trusted_after = self.waits.failback.saturating_mul(TRUSTED_AFTER);
            pool.relapses = if lived < trusted_after {
                pool.relapses.saturating_add(1)
            } else {
                0
            };
        }
        self.failed(index, now, error);
    }

    /// An attempt to connect failed, or a connection. Says whether that is news.
    pub(super) fn failed(&mut self, index: usize, now: Instant, error: &UpstreamError) -> bool {
        let pool = &mut self.pools[index];
        // Connections that are lost together are one failure.
        let again = pool.may_be_tried(now);
        if again {
            pool.failures_in_a_row = pool.failures_in_a_row.saturating_add(1);
            pool.not_before = Some(now + self.waits.after(pool.failures_in_a_row));
        }
        *pool.failures.entry(error.reason()).or_default() += 1;
        if pool.connected == 0 {
            pool.health = UpstreamHealth::Failing;
            pool.failing_since.get_or_insert_with(SystemTime::now);
        }
        let text = error.to_string();
        let first = again && pool.failures_in_a_row == 1;
        let news = first || pool.last_error.as_ref() != Some(&text);
        pool.last_error = Some(text);
        news
    }

    /// From now on the miners work for this one. Says whether they worked for another.
    pub(super) fn follow(&mut self, index: usize) -> bool {
        let before = self.followed.replace(index);
        let moved = before.is_some_and(|before| before != index);
        self.moves += u64::from(moved);
        moved
    }
}

impl Standing {
    fn may_be_tried(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|moment| moment <= now)
    }

    fn works(&mut self) {
        self.health = UpstreamHealth::Healthy;
        self.failing_since = None;
        self.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits {
        first: Duration::from_secs(1),
        last: Duration::from_secs(10),
        failback: Duration::from_secs(60),
    };

    fn roster() -> Roster {
        Roster::new(["a:1".to_owned(), "b:2".to_owned()], WAITS)
    }

    fn error() -> UpstreamError {
        UpstreamError::ConnectTimeout
    }

    #[test]
    fn pools_are_tried_in_order_and_each_waits_for_itself() {
        let (mut roster, now) = (roster(), Instant::now());
        assert_eq!(roster.next(now), Some(0));
        roster.failed(0, now, &error());
        assert_eq!(roster.next(now), Some(1));
        roster.failed(1, now, &error());
        assert_eq!(roster.next(now), None);
        let at = roster.next_at(2).unwrap();
        assert!(at >= now + WAITS.first / 2 && at <= now + WAITS.first);
        assert_eq!(roster.next(now + WAITS.first), Some(0));
    }

    #[test]
    fn a_pool_that_failed_does_not_hold_up_one_that_did_not() {
        let (mut roster, now) = (roster(), Instant::now());
        roster.failed(0, now, &error());
        let later = now + WAITS.last;
        assert_eq!(roster.next(later), Some(1));
        // The way back is in the order all the same.
        assert_eq!(roster.better(1, later), Some((0, WAITS.failback)));
    }

    #[test]
    fn connections_that_are_lost_together_are_one_failure() {
        let (mut roster, now) = (roster(), Instant::now());
        for _ in 0..64 {
            roster.connected(0);
        }
        for _ in 0..64 {
            roster.lost(0, now, Duration::from_secs(1), &error());
        }
        assert!(roster.next_at(1).unwrap() - now <= WAITS.first);
        assert_eq!(roster.pools()[0].failures["connect-timeout"], 64);
    }

    #[test]
    fn waits_grow_to_the_longest_and_a_good_life_ends_them() {
        let (mut roster, now) = (roster(), Instant::now());
        let mut now = now;
        for _ in 0..40 {
            roster.failed(0, now, &error());
            now += WAITS.last;
        }
        roster.failed(0, now, &error());
        let wait = roster.next_at(1).unwrap() - now;
        assert!(wait >= WAITS.last / 2 && wait <= WAITS.last, "{wait:?}");
        roster.connected(0);
        roster.lost(0, now, Duration::from_secs(1), &error());
        assert!(roster.next_at(1).unwrap() - now >= WAITS.last / 2);
        roster.connected(0);
        roster.lost(0, now, GOOD_LIFETIME, &error());
        assert!(roster.next_at(1).unwrap() - now <= WAITS.first);
    }

    #[test]
    fn a_pool_that_relapses_has_to_prove_itself_for_longer() {
        let (mut roster, now) = (roster(), Instant::now());
        assert_eq!(roster.better(1, now), Some((0, WAITS.failback)));
        assert_eq!(roster.better(0, now), None);
        for doublings in 1..=9 {
            roster.connected(0);
            roster.follow(0);
            roster.lost(0, now, Duration::from_secs(1), &error());
            let later = now + WAITS.last;
            let good_for = WAITS.failback * (1 << doublings.min(MOST_DOUBLINGS));
            assert_eq!(roster.better(1, later), Some((0, good_for)));
        }
        roster.connected(0);
        roster.lost(0, now, WAITS.failback * TRUSTED_AFTER, &error());
        let later = now + WAITS.last;
        assert_eq!(roster.better(1, later), Some((0, WAITS.failback)));
    }

    #[test]
    fn health_and_counts_are_those_of_what_happened() {
        let (mut roster, now) = (roster(), Instant::now());
        assert_eq!(roster.pools()[0].health, UpstreamHealth::NeverTried);
        assert!(roster.failed(0, now, &error()));
        assert!(!roster.failed(0, now, &error()), "the same again");
        assert_eq!(roster.pools()[0].health, UpstreamHealth::Failing);
        assert!(roster.pools()[0].failing_since.is_some());
        roster.connected(1);
        roster.follow(1);
        roster.connected(0);
        roster.follow(0);
        assert_eq!(roster.moves(), 1);
        assert_eq!(roster.pools()[0].health, UpstreamHealth::Healthy);
        assert_eq!(roster.pools()[0].failures["connect-timeout"], 2);
        roster.connected(0);
        roster.lost(0, now, Duration::ZERO, &error());
        let one = &roster.pools()[0];
        assert_eq!((one.connected, one.health), (1, UpstreamHealth::Healthy));
    }
}
