//! What Prometheus is shown: sums over all miners, read from their own counts when it asks.

use std::collections::BTreeMap;

use service::http::{Endpoints, Families, prometheus};

use crate::session::RequestKind;
use crate::status::{StatusHandle, Totals};
use crate::upstream::UpstreamHealth;

/// What the HTTP server says of a translator.
pub(crate) fn endpoints(status: &StatusHandle) -> Result<Endpoints, prometheus::Error> {
    Endpoints::of(
        status,
        readiness,
        StatusHandle::snapshot,
        |status, families| {
            let totals = status.totals();
            stratum(families, &totals);
            own(families, &totals);
            upstreams(families, status);
        },
    )
}

/// A pool can take work, or why none can.
fn readiness(status: &StatusHandle) -> Result<(), Vec<String>> {
    if status.is_ready() {
        return Ok(());
    }
    let mut reasons: Vec<String> = status
        .upstreams()
        .into_iter()
        .filter_map(|upstream| upstream.last_error)
        .map(|error| format!("no pool is connected: {error}"))
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    if reasons.is_empty() {
        reasons.push("no pool is connected yet".to_owned());
    }
    Err(reasons)
}

/// The names that the SV1 side of every role uses. "Sent" is towards the pool, "received" from it.
fn stratum(families: &mut Families, totals: &Totals) {
    let (tally, traffic) = (&totals.tally, &totals.traffic);
    families.gauge(
        "stratum_active_connections",
        "Miners that are connected.",
        count(totals.active),
    );
    families.counter(
        "stratum_connections_total",
        "Connections of miners.",
        totals.connections,
    );
    families.histogram(
        "stratum_connection_duration_seconds",
        "How long connections of miners that ended had lasted.",
        &totals.durations.0,
    );
    families.counter(
        "stratum_bytes_sent_total",
        "Bytes from miners, in the direction of the pool.",
        traffic.from_miners,
    );
    families.counter(
        "stratum_bytes_received_total",
        "Bytes to miners, from the direction of the pool.",
        traffic.to_miners,
    );
    families.counter(
        "stratum_submits_total",
        "Shares that miners submitted.",
        tally.submitted,
    );
    families.counter(
        "stratum_accepted_shares_total",
        "Shares that the pool acknowledged, or that count here and were not for it.",
        tally.accepted,
    );
    families.counters(
        "stratum_rejected_shares_total",
        "Shares refused here, or by the pool (upstream-).",
        "reason",
        tally.rejections(),
    );
    families.counter(
        "stratum_notifications_total",
        "Jobs sent to miners.",
        traffic.notifications,
    );
    families.gauge(
        "stratum_current_difficulty",
        "Mean of the difficulties that connected miners were told.",
        totals.difficulty,
    );
    families.histogram(
        "stratum_connect_latency_seconds",
        "Time from a miner's connection to its first job.",
        &totals.first_jobs.0,
    );
    let latencies = std::iter::once(&traffic.submits).chain(&totals.set_up);
    families.histograms(
        "stratum_request_response_seconds",
        "Time from reading a request to having written its answer, the wait for the pool included where that is waited for.",
        "method",
        RequestKind::ALL
            .iter()
            .zip(latencies)
            .map(|(kind, latencies)| (kind.name(), &latencies.0)),
    );
}

fn own(families: &mut Families, totals: &Totals) {
    let tally = &totals.tally;
    families.counter(
        "hashpool_translator_forwarded_shares_total",
        "Shares sent to the pool.",
        tally.forwarded,
    );
    families.counter(
        "hashpool_translator_told_accepted_shares_total",
        "Shares that miners were told are accepted.",
        tally.told_accepted,
    );
    families.counter(
        "hashpool_translator_kept_shares_total",
        "Accepted shares that were not sent to the pool, because its channel asks for harder ones.",
        tally.kept,
    );
    families.counters(
        "hashpool_translator_lost_shares_total",
        "Shares whose fate is unknown.",
        "reason",
        tally.losses(),
    );
    families.gauge(
        "hashpool_translator_shares_in_flight",
        "Shares that the pool has not answered yet.",
        count(usize::try_from(tally.in_flight).unwrap_or(usize::MAX)),
    );
    families.gauge(
        "hashpool_translator_hashrate_hashes_per_second",
        "What the shares of connected miners show.",
        totals.hashrate,
    );
    families.gauge(
        "hashpool_translator_listening",
        "Whether miners can connect: not while no pool could be had for too long.",
        f64::from(u8::from(totals.listening)),
    );
    families.counters(
        "hashpool_translator_disconnects_total",
        "Connections of miners that ended.",
        "reason",
        totals
            .disconnected
            .iter()
            .map(|(reason, count)| (*reason, *count)),
    );
    families.listener("translator", &totals.listener);
    families.counters(
        "hashpool_translator_throttled_total",
        "Times that a miner was let wait: for other TLS handshakes, or because it sent too many lines a second.",
        "reason",
        [
            ("handshakes", totals.handshakes_waited),
            ("lines", totals.traffic.throttled),
        ],
    );
}

fn upstreams(families: &mut Families, status: &StatusHandle) {
    let upstreams = status.upstreams();
    families.counter(
        "hashpool_translator_upstream_connects_total",
        "Connections to pools that were made.",
        upstreams.iter().map(|upstream| upstream.connections).sum(),
    );
    families.counter(
        "hashpool_translator_upstream_moves_total",
        "Moves of the miners from one pool to another.",
        status.upstream_moves(),
    );
    families.counters(
        "hashpool_translator_upstream_complaints_total",
        "What pools refused, other than shares, or sent in vain.",
        "reason",
        status.complaints().by_reason(),
    );
    // A pool that is configured twice is one here.
    let (mut healthy, mut connections) = (BTreeMap::new(), BTreeMap::new());
    let mut failures = BTreeMap::new();
    for upstream in &upstreams {
        let address = &*upstream.address;
        if upstream.health != UpstreamHealth::NeverTried {
            let is_healthy = upstream.health == UpstreamHealth::Healthy;
            *healthy.entry(address).or_insert(false) |= is_healthy;
        }
        *connections.entry(address).or_insert(0) += upstream.connected;
        for (reason, count) in &upstream.failures {
            *failures.entry([address, *reason]).or_default() += u128::from(*count);
        }
    }
    families.gauges(
        "hashpool_translator_upstream_healthy",
        "Whether this pool did its part when it was last connected to or tried; none that never was.",
        "upstream",
        healthy
            .into_iter()
            .map(|(address, healthy)| (address, f64::from(u8::from(healthy)))),
    );
    families.gauges(
        "hashpool_translator_upstream_connections",
        "Connections to this pool that are up.",
        "upstream",
        connections
            .into_iter()
            .map(|(address, connected)| (address, count(connected))),
    );
    families.counters_by(
        "hashpool_translator_upstream_failures_total",
        "Failed attempts to connect to this pool, and connections to it that were lost.",
        ["upstream", "reason"],
        failures,
    );
}

/// Exact up to 2^53, as all that Prometheus stores.
#[allow(clippy::cast_precision_loss)]
fn count(number: usize) -> f64 {
    number as f64
}
