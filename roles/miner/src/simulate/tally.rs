//! What the simulated miners did and were told, added up.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

use super::{latency::Latency, options::Kind};
use crate::{
    session::{Answered, Reason},
    status::{Rejected, count},
};

/// The totals of a simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Miners that are connected now.
    pub connected: u64,
    /// Connections made.
    pub connects: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Connections that ended other than by the simulation's end.
    pub disconnects: u64,
    /// Why the last attempt failed or the last connection ended.
    pub last_trouble: Option<String>,
    /// Jobs received.
    pub jobs: u64,
    /// Lines of the server that made no sense.
    pub malformed_lines: u64,
    /// What became of shares, by what they were made to be.
    pub shares: BTreeMap<&'static str, Outcome>,
    /// All rejected shares, by the server's reason.
    pub rejected: Rejected,
    /// How long answers to shares took.
    pub answer_p50_ms: Option<f64>,
    /// The same for the slowest of a hundred.
    pub answer_p99_ms: Option<f64>,
}

/// What became of shares of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Written to the server.
    pub submitted: u64,
    /// Answered with `true`.
    pub accepted: u64,
    /// Answered with anything else.
    pub rejected: u64,
}

impl Report {
    /// Shares of this kind.
    pub fn of(&self, kind: Kind) -> Outcome {
        self.shares.get(kind.name()).copied().unwrap_or_default()
    }

    /// Shares sent.
    pub fn submitted(&self) -> u64 {
        self.shares.values().map(|outcome| outcome.submitted).sum()
    }

    /// Shares that the server accepted.
    pub fn accepted(&self) -> u64 {
        self.shares.values().map(|outcome| outcome.accepted).sum()
    }

    /// Shares that the server rejected.
    pub fn rejected(&self) -> u64 {
        self.rejected.total()
    }

    /// Shares without an answer, because it is still owed or its connection has ended.
    pub fn unanswered(&self) -> u64 {
        self.submitted()
            .saturating_sub(self.accepted() + self.rejected())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "connections: {} made, {} failed, {} ended early",
            self.connects, self.connect_failures, self.disconnects
        )?;
        if let Some(trouble) = &self.last_trouble {
            writeln!(f, "last trouble: {trouble}")?;
        }
        writeln!(
            f,
            "{:<11}{:>11}{:>11}{:>11}",
            "shares", "submitted", "accepted", "rejected"
        )?;
        for (name, outcome) in &self.shares {
            writeln!(
                f,
                "{name:<11}{:>11}{:>11}{:>11}",
                outcome.submitted, outcome.accepted, outcome.rejected
            )?;
        }
        writeln!(
            f,
            "{:<11}{:>11}{:>11}{:>11}",
            "all",
            self.submitted(),
            self.accepted(),
            self.rejected()
        )?;
        let rejected = &self.rejected;
        writeln!(
            f,
            "rejected: {} job not found, {} duplicate, {} low difficulty, {} unauthorized, {} not subscribed, {} other",
            rejected.job_not_found,
            rejected.duplicate,
            rejected.low_difficulty,
            rejected.unauthorized,
            rejected.not_subscribed,
            rejected.other
        )?;
        writeln!(f, "unanswered: {}", self.unanswered())?;
        match (self.answer_p50_ms, self.answer_p99_ms) {
            (Some(p50), Some(p99)) => writeln!(f, "answers: p50 {p50} ms, p99 {p99} ms"),
            _ => writeln!(f, "answers: none"),
        }
    }
}

/// Counters that all miners add to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) connected: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) connect_failures: AtomicU64,
    pub(super) disconnects: AtomicU64,
    pub(super) jobs: AtomicU64,
    pub(super) malformed_lines: AtomicU64,
    last_trouble: Mutex<Option<String>>,
    kinds: [Counts; Kind::ALL.len()],
    reasons: [AtomicU64; 6],
    latency: Latency,
}

#[derive(Debug, Default)]
struct Counts {
    submitted: AtomicU64,
    accepted: AtomicU64,
    rejected: AtomicU64,
}

impl Tally {
    pub(super) fn submitted(&self, kind: Kind) {
        count(&self.kinds[kind as usize].submitted);
    }

    pub(super) fn accepted(&self, answered: Answered) {
        count(&self.kinds[answered.kind as usize].accepted);
        self.latency.record(answered.after);
    }

    pub(super) fn rejected(&self, answered: Answered, reason: Reason) {
        count(&self.kinds[answered.kind as usize].rejected);
        count(&self.reasons[reason as usize]);
        self.latency.record(answered.after);
    }

    pub(super) fn trouble(&self, what: String) {
        *self
            .last_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    pub(super) fn report(&self) -> Report {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let reason = |reason: Reason| read(&self.reasons[reason as usize]);
        // Answers before shares, so that no answer is counted whose share is not.
        let shares = Kind::ALL.map(|kind| {
            let counts = &self.kinds[kind as usize];
            let (accepted, rejected) = (read(&counts.accepted), read(&counts.rejected));
            let outcome = Outcome {
                submitted: read(&counts.submitted),
                accepted,
                rejected,
            };
            (kind.name(), outcome)
        });
        Report {
            connected: read(&self.connected),
            connects: read(&self.connects),
            connect_failures: read(&self.connect_failures),
            disconnects: read(&self.disconnects),
            last_trouble: self
                .last_trouble
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            jobs: read(&self.jobs),
            malformed_lines: read(&self.malformed_lines),
            shares: BTreeMap::from(shares),
            rejected: Rejected {
                job_not_found: reason(Reason::JobNotFound),
                duplicate: reason(Reason::Duplicate),
                low_difficulty: reason(Reason::LowDifficulty),
                unauthorized: reason(Reason::Unauthorized),
                not_subscribed: reason(Reason::NotSubscribed),
                other: reason(Reason::Other),
            },
            answer_p50_ms: self.latency.percentile_ms(50),
            answer_p99_ms: self.latency.percentile_ms(99),
        }
    }
}
