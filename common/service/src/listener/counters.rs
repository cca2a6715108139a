//! What a listener did, and how many connections it has.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What a listener did, by reason, and how full it is.
#[derive(Debug, Default)]
pub struct Counters {
    /// Set once.
    pub(super) limit: AtomicU64,
    /// Goes down again; the others only grow.
    pub(super) open: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused_per_address: AtomicU64,
    pub(super) refused_untrusted: AtomicU64,
    pub(super) refused_proxy_header: AtomicU64,
    pub(super) waited_for_slot: AtomicU64,
    pub(super) waited_for_pace: AtomicU64,
    pub(super) accept_errors: AtomicU64,
}

impl Counters {
    /// All values as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            limit: read(&self.limit),
            open: read(&self.open),
            accepted: read(&self.accepted),
            refused_per_address: read(&self.refused_per_address),
            refused_untrusted: read(&self.refused_untrusted),
            refused_proxy_header: read(&self.refused_proxy_header),
            waited_for_slot: read(&self.waited_for_slot),
            waited_for_pace: read(&self.waited_for_pace),
            accept_errors: read(&self.accept_errors),
        }
    }
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// Connections that there may be at a time.
    pub limit: u64,
    /// Connections that there are, on all of the listener's sockets.
    pub open: u64,
    /// Connections handed to the role.
    pub accepted: u64,
    /// Connections closed because their address had its limit.
    pub refused_per_address: u64,
    /// Connections closed because they did not come from a trusted load balancer.
    pub refused_untrusted: u64,
    /// Connections of load balancers closed because the PROXY header did not come or is none.
    pub refused_proxy_header: u64,
    /// Times that accepting paused at the limit of connections.
    pub waited_for_slot: u64,
    /// Times that accepting paused at the limit of new connections per second.
    pub waited_for_pace: u64,
    /// Errors of the system's accept, such as a lack of file descriptors.
    pub accept_errors: u64,
}

impl Snapshot {
    /// Connections that were closed at the door, by the reason's name in metrics.
    #[must_use]
    pub fn refusals(&self) -> [(&'static str, u64); 3] {
        [
            ("per-address", self.refused_per_address),
            ("untrusted", self.refused_untrusted),
            ("proxy-header", self.refused_proxy_header),
        ]
    }

    /// Times that new connections had to wait, by the reason's name in metrics.
    #[must_use]
    pub fn pauses(&self) -> [(&'static str, u64); 2] {
        [
            ("connections", self.waited_for_slot),
            ("pace", self.waited_for_pace),
        ]
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
