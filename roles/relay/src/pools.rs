//! A pool as the relay sees it: how to reach it, how it does, and how many connections it has.
//!
//! Its locks are taken when a connection is made or ends, never while bytes flow.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::Serialize;
use service::http::Histogram;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::config;
use crate::names::Name;
use crate::watcher::Kind;

/// Miners that a pool leaves without an answer, one after the other, until it is passed over although it serves others: it may
/// be full, or about to stop.
const MOST_UNANSWERED: u32 = 5;

/// Seconds, for what crosses a network.
pub(crate) type Latencies = Histogram<9>;

/// Nothing observed yet.
pub(crate) const fn latencies() -> Latencies {
    Histogram::new(&[0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0])
}

/// How long failing pools are passed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// After the first failure; doubled with each.
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Waits {
    fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.last)
    }
}

/// One pool.
pub(crate) struct Pool {
    config: config::Pool,
    host: Arc<str>,
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Connections that it has, those that are being made included.
    active: AtomicUsize,
    /// Of those the ones that it has said something on.
    answering: AtomicUsize,
    waits: Waits,
    health: Mutex<Health>,
    timing: Mutex<Timing>,
    pub(crate) at: Name,
}

#[derive(Debug, Default)]
struct Health {
    failures_in_a_row: u32,
    /// Connections since it said something on a new one.
    unanswered_in_a_row: u32,
    /// It is passed over until then,
    failing_until: Option<Instant>,
    /// or until then, because somebody finds out whether it still fails.
    tried_until: Option<Instant>,
    connections: u64,
    failures: BTreeMap<&'static str, u64>,
    last_error: Option<String>,
    tried: bool,
}

/// How long it takes.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// To be connected to.
    pub(crate) connects: Latencies,
    /// To answer requests that are no submits, by [`Kind`]. They are few, so one place for all connections will do.
    pub(crate) answers: [Latencies; Kind::ALL.len()],
}

/// How a pool does.
#[derive(Debug, Clone, Serialize)]
pub struct PoolSnapshot {
    /// What routes call it.
    pub name: String,
    /// Host and port.
    pub address: String,
    /// The host alone, as metrics name it.
    pub host: String,
    /// Whether the last attempt to use it succeeded; nothing if there was none.
    pub healthy: Option<bool>,
    /// Connections now.
    pub active: usize,
    /// Connections that were made since the start.
    pub connections: u64,
    /// Attempts and connections that failed, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

impl Pool {
    /// A pool of a checked configuration.
    pub(crate) fn new(config: &config::Pool, waits: Waits) -> Result<Arc<Self>, Error> {
        let (host, port) = config.host_and_port().ok_or_else(|| Error::Config {
            key: "pools.address",
            problem: format!("{:?} is not host:port", config.address),
        })?;
        Ok(Arc::new(Self {
            host: Arc::from(host),
            tls: crate::tls::to_pool(config)?,
            config: config.clone(),
            active: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            waits,
            health: Mutex::default(),
            timing: Mutex::new(Timing {
                connects: latencies(),
                answers: std::array::from_fn(|_| latencies()),
            }),
            at: Name::new(host, port),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn address(&self) -> &str {
        &self.config.address
    }

    pub(crate) fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// Connections for its weight, with the one that may come.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn load(&self) -> f64 {
        (self.active.load(Ordering::Relaxed) + 1) as f64 / f64::from(self.config.weight)
    }

    pub(crate) fn may_be_tried(&self, now: Instant) -> bool {
        let health = self.health();
        let until = health.failing_until.max(health.tried_until);
        until.is_none_or(|moment| moment <= now)
    }

    /// Somebody tries it, for so long. If it failed before, others do not meanwhile.
    pub(crate) fn try_now(self: &Arc<Self>, now: Instant, patience: Duration) -> Place {
        let mut health = self.health();
        if health.failures_in_a_row > 0 {
            health.tried_until = Some(now + patience);
        }
        drop(health);
        self.active.fetch_add(1, Ordering::Relaxed);
        Place {
            pool: Arc::clone(self),
            answered: false,
        }
    }

    pub(crate) fn connected(&self, after: Duration) {
        let mut health = self.health();
        health.connections += 1;
        health.tried = true;
        drop(health);
        self.timing().connects.observe(after.as_secs_f64());
    }

    /// An attempt failed, or a connection that was of no use. Says whether that is news.
    pub(crate) fn failed(&self, now: Instant, reason: &'static str, error: String) -> bool {
        let mut health = self.health();
        // What fails together is one failure.
        let again = health.failing_until.is_none_or(|moment| moment <= now);
        if again {
            health.failures_in_a_row = health.failures_in_a_row.saturating_add(1);
            health.failing_until = Some(now + self.waits.after(health.failures_in_a_row));
        }
        health.tried = true;
        *health.failures.entry(reason).or_default() += 1;
        let first = again && health.failures_in_a_row == 1;
        let news = first || health.last_error.as_ref() != Some(&error);
        health.last_error = Some(error);
        news
    }

    /// It has left a miner that asked something without an answer. Says whether it is like that to everybody who is new.
    pub(crate) fn left_unanswered(&self, was_asked: bool) -> bool {
        let mut health = self.health();
        if was_asked {
            health.unanswered_in_a_row = health.unanswered_in_a_row.saturating_add(1);
        }
        health.unanswered_in_a_row >= MOST_UNANSWERED || !self.answers_others()
    }

    /// It has said something on a new connection, so it works.
    fn works(&self) {
        let mut health = self.health();
        health.unanswered_in_a_row = 0;
        health.failures_in_a_row = 0;
        health.failing_until = None;
        health.tried_until = None;
    }

    /// Whether it says something on any connection.
    fn answers_others(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn timing(&self) -> MutexGuard<'_, Timing> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> PoolSnapshot {
        let health = self.health();
        PoolSnapshot {
            name: self.config.name.clone(),
            address: self.config.address.clone(),
            host: self.host.to_string(),
            healthy: health.tried.then_some(health.failures_in_a_row == 0),
            active: self.active.load(Ordering::Relaxed),
            connections: health.connections,
            failures: health.failures.clone(),
            last_error: health.last_error.clone(),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.config).finish()
    }
}

/// One connection's place at a pool; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) pool: Arc<Pool>,
    answered: bool,
}

impl Place {
    /// The pool has said something on this connection.
    pub(crate) fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.pool.answering.fetch_add(1, Ordering::Relaxed);
            self.pool.works();
        }
    }

    pub(crate) fn was_answered(&self) -> bool {
        self.answered
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.active.fetch_sub(1, Ordering::Relaxed);
        if self.answered {
            self.pool.answering.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits {
        first: Duration::from_secs(1),
        last: Duration::from_secs(10),
    };

    const PATIENCE: Duration = Duration::from_secs(5);

    fn pool() -> Arc<Pool> {
        let config = config::Pool {
            name: "a".into(),
            address: "pool.example:3333".into(),
            ..config::Pool::default()
        };
        Pool::new(&config, WAITS).unwrap()
    }

    fn fail(pool: &Pool, now: Instant) -> bool {
        pool.failed(now, "connect-refused", "refused".to_owned())
    }

    #[test]
    fn a_failing_pool_is_passed_over_for_longer_and_longer() {
        let (pool, mut now) = (pool(), Instant::now());
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert!(pool.may_be_tried(now));
            fail(&pool, now);
            now += Duration::from_secs(seconds);
            assert!(!pool.may_be_tried(now - Duration::from_millis(1)));
        }
        pool.try_now(now, PATIENCE).answered();
        assert!(pool.may_be_tried(now));
        fail(&pool, now);
        assert!(pool.may_be_tried(now + Duration::from_secs(1)));
    }

    #[test]
    fn what_fails_together_is_one_failure_and_is_told_once() {
        let (pool, now) = (pool(), Instant::now());
        assert!(fail(&pool, now));
        for _ in 0..100 {
            assert!(!fail(&pool, now));
        }
        assert!(pool.may_be_tried(now + Duration::from_secs(1)));
        assert_eq!(pool.snapshot().failures["connect-refused"], 101);
    }

    #[test]
    fn one_finds_out_for_all_whether_a_pool_still_fails() {
        let (pool, now) = (pool(), Instant::now());
        fail(&pool, now);
        let later = now + Duration::from_secs(1);
        let place = pool.try_now(later, PATIENCE);
        assert!(!pool.may_be_tried(later));
        assert_eq!(pool.snapshot().active, 1);
        drop(place);
        assert_eq!(pool.snapshot().active, 0);
        assert!(pool.may_be_tried(later + PATIENCE));
    }

    #[test]
    fn a_pool_that_serves_only_those_who_are_there_is_passed_over_by_new_ones() {
        let (pool, now) = (pool(), Instant::now());
        let mut old = pool.try_now(now, PATIENCE);
        old.answered();
        // One that asked nothing says nothing of the pool.
        for _ in 0..100 {
            assert!(!pool.left_unanswered(false));
        }
        for _ in 1..MOST_UNANSWERED {
            assert!(!pool.left_unanswered(true));
        }
        assert!(pool.left_unanswered(true));
        pool.try_now(now, PATIENCE).answered();
        assert!(!pool.left_unanswered(true));
    }
}
