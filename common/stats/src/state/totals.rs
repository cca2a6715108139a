//! Sums of counters, exact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stats_events::{Counters, Work};

/// Reasons of one kind that a sum holds; what comes under further ones is summed as [`OTHER`].
const MAX_REASONS: usize = 64;

const OTHER: &str = "other";

/// What became of the shares of many sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Sums of [`Counters`]; its `last_share_ms` is the latest one.
    #[serde(flatten)]
    pub counters: Counters,
    /// Sessions that were summed.
    pub sessions: u64,
}

impl Totals {
    /// Adds one session's counters.
    pub fn add_session(&mut self, counters: &Counters) {
        self.sessions += 1;
        add(&mut self.counters, counters);
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        add(&mut self.counters, &other.counters);
    }
}

/// Takes newer counters of the same session, and gives the work that is new. They never go down, whatever the sender says.
pub(super) fn renew(known: &mut Counters, newer: &Counters) -> u128 {
    let work = newer.work.0.saturating_sub(known.work.0);
    known.submitted = known.submitted.max(newer.submitted);
    known.accepted = known.accepted.max(newer.accepted);
    known.work = known.work.max(newer.work);
    known.last_share_ms = known.last_share_ms.max(newer.last_share_ms);
    for (known, newer) in [
        (&mut known.rejected, &newer.rejected),
        (&mut known.lost, &newer.lost),
    ] {
        for (reason, count) in newer {
            let place = place(known, reason);
            *place = (*place).max(*count);
        }
    }
    work
}

fn add(sum: &mut Counters, other: &Counters) {
    sum.submitted = sum.submitted.saturating_add(other.submitted);
    sum.accepted = sum.accepted.saturating_add(other.accepted);
    sum.work = Work(sum.work.0.saturating_add(other.work.0));
    sum.last_share_ms = sum.last_share_ms.max(other.last_share_ms);
    for (sums, counts) in [
        (&mut sum.rejected, &other.rejected),
        (&mut sum.lost, &other.lost),
    ] {
        for (reason, count) in counts {
            let place = place(sums, reason);
            *place = place.saturating_add(*count);
        }
    }
}

fn place<'a>(counts: &'a mut BTreeMap<String, u64>, reason: &str) -> &'a mut u64 {
    let reason = if counts.len() >= MAX_REASONS && !counts.contains_key(reason) {
        OTHER
    } else {
        reason
    };
    counts.entry(reason.to_owned()).or_default()
}
