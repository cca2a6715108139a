//! What Prometheus is shown: sums by client and by the pool's host, read from the connections' own counts when it asks.
//!
//! Labels come from the configuration and from the code, never from a peer, so that their number is bounded.

use std::sync::Arc;

use service::http::prometheus::{self, Registry};
use service::http::{Endpoints, Families, register};

use crate::Handle;
use crate::billing::Condition;
use crate::connections::{Cell, Sums};
use crate::pools::latencies;
use crate::totals::Totals;
use crate::watcher::Kind;

/// How series of the SV1 side are told apart.
const LABELS: [&str; 2] = ["client_id", "pool_host"];

/// What the HTTP server says of a relay.
pub(crate) fn endpoints(
    handle: &Handle,
    books: Option<Condition>,
) -> Result<Endpoints, prometheus::Error> {
    let registry = Registry::new();
    let (source, billed) = (handle.clone(), books.clone());
    register(&registry, move |families| {
        let sums = with_zeros(&source);
        stratum(families, &sums);
        pools(families, &source, &sums);
        own(families, &source, &sums);
        if let Some(books) = &billed {
            billing(families, books);
        }
    })?;
    let (ready, snapshot) = (handle.clone(), handle.clone());
    Ok(Endpoints::new(
        move || readiness(&ready, books.as_ref()),
        // Maps have text for keys and numbers are finite or become null, so nothing here fails.
        move || serde_json::to_value(snapshot.snapshot()).unwrap_or_default(),
        registry,
    ))
}

/// The sums, with a zero for each client and host that is configured: what grows from nothing is a growth that Prometheus sees,
/// and what begins with a value is none.
fn with_zeros(handle: &Handle) -> Sums {
    let mut sums = handle.sums();
    let (plan, pools) = (handle.shared().plan(), &handle.shared().pools);
    let unknown = plan.clients.unknown();
    for client in plan.clients.ids().chain([&unknown]) {
        for pool in pools {
            let key = (Arc::clone(client), Arc::clone(pool.host()));
            sums.cells.entry(key).or_default();
        }
    }
    sums
}

/// It takes connections, some pool does not fail, and what is used can be billed.
pub(crate) fn readiness(handle: &Handle, books: Option<&Condition>) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    if !handle.is_listening() {
        problems.push("no new connections are taken".to_owned());
    }
    let pools = handle.pools();
    if pools.iter().all(|pool| pool.healthy == Some(false)) {
        problems.extend(pools.into_iter().filter_map(|pool| pool.last_error));
    }
    problems.extend(books.and_then(Condition::problem));
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// The names that the SV1 side of every role uses. "Sent" is towards the pool, "received" from it.
fn stratum(families: &mut Families, sums: &Sums) {
    type Value = fn(&Totals) -> u64;
    let counters: [(&str, &str, Value); 8] = [
        (
            "stratum_connections_total",
            "Connections of miners.",
            |totals| totals.connections,
        ),
        (
            "stratum_bytes_sent_total",
            "Bytes from miners that pools have taken.",
            |totals| totals.bytes_sent,
        ),
        (
            "stratum_bytes_received_total",
            "Bytes from pools that miners have taken.",
            |totals| totals.bytes_received,
        ),
        (
            "stratum_submits_total",
            "Shares that miners submitted.",
            |totals| totals.submits,
        ),
        (
            "stratum_accepted_shares_total",
            "Shares that pools accepted.",
            |totals| totals.accepted,
        ),
        (
            "stratum_notifications_total",
            "Jobs that pools sent.",
            |totals| totals.notifications,
        ),
        (
            "stratum_pauses_total",
            "Times that one side was not read because the other took no more.",
            |totals| totals.pauses,
        ),
        (
            "stratum_resumes_total",
            "Times that it was read again.",
            |totals| totals.resumes,
        ),
    ];
    for (name, help, value) in counters {
        let values = by_cell(sums, |cell| u128::from(value(&cell.totals)));
        families.counters_by(name, help, LABELS, values);
    }
    families.counters_by(
        "stratum_rejected_shares_total",
        "Shares that pools refused.",
        ["client_id", "pool_host", "reason"],
        sums.cells.iter().flat_map(|((client, host), cell)| {
            let rejections = cell.totals.rejections();
            rejections.map(|(reason, count)| ([&**client, &**host, reason], count.into()))
        }),
    );
    families.gauges_by(
        "stratum_active_connections",
        "Miners that are connected.",
        LABELS,
        by_cell(sums, |cell| number(cell.active)),
    );
    families.gauges_by(
        "stratum_current_difficulty",
        "Mean of the difficulties that connected miners were told.",
        LABELS,
        by_cell(sums, Cell::difficulty),
    );
    families.histograms_by(
        "stratum_connection_duration_seconds",
        "How long connections of miners that ended had lasted.",
        LABELS,
        by_cell(sums, |cell| &cell.durations),
    );
}

fn by_cell<'a, T>(
    sums: &'a Sums,
    value: impl Fn(&'a Cell) -> T,
) -> impl Iterator<Item = ([&'a str; 2], T)> {
    sums.cells
        .iter()
        .map(move |((client, host), cell)| ([&**client, &**host], value(cell)))
}

/// What takes time at pools. Pools of one host are one here.
fn pools(families: &mut Families, handle: &Handle, sums: &Sums) {
    let mut hosts: Vec<&str> = Vec::new();
    let (mut connects, mut answers) = (Vec::new(), Vec::new());
    for pool in &handle.shared().pools {
        let timing = pool.timing().clone();
        let host = &**pool.host();
        let at = hosts.iter().position(|known| *known == host);
        let at = at.unwrap_or_else(|| {
            hosts.push(host);
            connects.push(latencies());
            let mut of_kinds: [_; Kind::ALL.len()] = std::array::from_fn(|_| latencies());
            for ((_, submits_at), cell) in &sums.cells {
                if **submits_at == *host {
                    of_kinds[Kind::Submit as usize].add(&cell.submits);
                }
            }
            answers.push(of_kinds);
            hosts.len() - 1
        });
        connects[at].add(&timing.connects);
        for (sum, more) in answers[at].iter_mut().zip(&timing.answers) {
            sum.add(more);
        }
    }
    families.histograms(
        "stratum_connect_latency_seconds",
        "Time for a pool to be connected to, its name found and TLS agreed on.",
        "pool_host",
        hosts.iter().copied().zip(&connects),
    );
    families.histograms_by(
        "stratum_request_response_seconds",
        "Time from a request of a miner to the pool's answer, as they pass here.",
        ["pool_host", "method"],
        hosts.iter().zip(&answers).flat_map(|(host, answers)| {
            let kinds = Kind::ALL.iter().zip(answers);
            kinds.map(|(kind, answers)| ([*host, kind.name()], answers))
        }),
    );
}

fn own(families: &mut Families, handle: &Handle, sums: &Sums) {
    let shared = handle.shared();
    families.gauge(
        "stratum_max_connections",
        "Connections at which further miners have to wait.",
        number(shared.limits.limits().connections),
    );
    families.gauge(
        "hashpool_relay_listening",
        "Whether new connections are taken.",
        f64::from(u8::from(handle.is_listening())),
    );
    families.counters_by(
        "hashpool_relay_work_hashes_total",
        "Expected hashes of the accepted shares; as exact as a number of Prometheus is.",
        LABELS,
        by_cell(sums, |cell| cell.totals.work),
    );
    let mut noticed = [
        ("malformed-line", 0),
        ("oversized-line", 0),
        ("unmatched", 0),
        ("difficulty-change", 0),
        ("implausible-share", 0),
    ];
    for cell in sums.cells.values() {
        let more = &cell.totals.noticed;
        noticed[0].1 += more.malformed_lines;
        noticed[1].1 += more.oversized_lines;
        noticed[2].1 += more.unmatched;
        noticed[3].1 += more.difficulty_changes;
        noticed[4].1 += more.implausible_shares;
    }
    families.counters(
        "hashpool_relay_noticed_total",
        "What passed here and could not be followed, and changes of difficulty.",
        "reason",
        noticed,
    );
    families.counters(
        "hashpool_relay_disconnects_total",
        "Connections of miners that ended.",
        "reason",
        sums.ended.iter().map(|(reason, count)| (*reason, *count)),
    );
    let pools = handle.pools();
    families.counters_by(
        "hashpool_relay_pool_failures_total",
        "Failed attempts to use a pool.",
        ["pool", "reason"],
        pools.iter().flat_map(|pool| {
            let failures = pool.failures.iter();
            failures.map(|(reason, count)| ([&*pool.name, *reason], (*count).into()))
        }),
    );
    families.gauges(
        "hashpool_relay_pool_healthy",
        "Whether the last attempt to use this pool succeeded; none that was never tried.",
        "pool",
        pools.iter().filter_map(|pool| {
            let healthy = pool.healthy?;
            Some((&*pool.name, f64::from(u8::from(healthy))))
        }),
    );
    families.listener("relay", &shared.listener.snapshot());
}

fn billing(families: &mut Families, books: &Condition) {
    families.gauge(
        "hashpool_relay_billing_writable",
        "Whether what clients use can be written for bills. What cannot waits in memory.",
        f64::from(u8::from(books.is_writable())),
    );
    families.gauge(
        "hashpool_relay_billing_refused_rows",
        "Rows of a client and an hour that the database refuses while it takes others. They wait in memory.",
        number(books.refused_rows()),
    );
}

/// Exact up to 2^53, as all that Prometheus stores.
#[allow(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}
