//! What Prometheus sees of the pool, read from the status when it asks.

use service::http::{Endpoints, Families, prometheus};
use work::Difficulty;

use crate::status::{Status, StatusHandle};

/// The answers to `/readyz`, `/status` and `/metrics`.
pub(crate) fn endpoints(status: &StatusHandle) -> Result<Endpoints, prometheus::Error> {
    Endpoints::of(
        status,
        StatusHandle::ready,
        StatusHandle::snapshot,
        |status, families| {
            collect(&status.snapshot(), families);
            families.histogram(
                "hashpool_pool_acknowledgement_delay_seconds",
                "From accepting a share to its commit, after which it is acknowledged.",
                &status.delays(),
            );
        },
    )
}

fn collect(status: &Status, families: &mut Families) {
    families.gauge(
        "hashpool_pool_connections",
        "Open connections.",
        count(status.connections),
    );
    families.counter(
        "hashpool_pool_connections_total",
        "Connections since the start.",
        status.connections_total,
    );
    families.counters(
        "hashpool_pool_disconnects_total",
        "Connections that the pool ended or lost, by reason.",
        "reason",
        status
            .disconnects
            .iter()
            .map(|(reason, count)| (*reason, *count)),
    );
    door(status, families);
    families.gauge(
        "hashpool_pool_channels",
        "Open channels.",
        count(status.channels),
    );
    families.counters(
        "hashpool_pool_channels_refused_total",
        "Channels that were refused, by the error code that was answered.",
        "reason",
        status
            .channels_refused
            .iter()
            .map(|(reason, count)| (*reason, *count)),
    );
    families.counter(
        "hashpool_pool_shares_accepted_total",
        "Shares that count.",
        status.shares_accepted,
    );
    families.counters(
        "hashpool_pool_shares_rejected_total",
        "Shares that do not count, by reason.",
        "reason",
        status
            .shares_rejected
            .iter()
            .map(|(reason, count)| (*reason, *count)),
    );
    families.counter(
        "hashpool_pool_work_difficulty_total",
        "Work of the accepted shares, in shares of difficulty 1.",
        u64::try_from(status.work / Difficulty::ONE.target().work()).unwrap_or(u64::MAX),
    );
    families.counters(
        "hashpool_pool_blocks_total",
        "Blocks that were found, by whether a node took them.",
        "outcome",
        [
            ("accepted", status.blocks_accepted),
            ("failed", status.blocks_failed),
        ],
    );
    families.counters(
        "hashpool_pool_blocks_ended_total",
        "Blocks whose fate was seen, by fate.",
        "fate",
        [
            ("confirmed", status.blocks_confirmed),
            ("orphaned", status.blocks_orphaned),
        ],
    );
    families.gauge(
        "hashpool_pool_ledger_writable",
        "1 while accepted shares become durable.",
        f64::from(u8::from(status.ledger.writable)),
    );
    for (name, help, value) in status.templates.gauges() {
        families.gauge(&format!("hashpool_pool_template_{name}"), help, value);
    }
}

/// What never became a connection, or had to wait to become one.
fn door(status: &Status, families: &mut Families) {
    families.listener("pool", &status.listener);
    families.counters(
        "hashpool_pool_throttled_total",
        "Times that a client was let wait: for other handshakes, or because it sent too many messages a second.",
        "reason",
        [
            ("handshakes", status.handshakes_waited),
            ("messages", status.throttled),
        ],
    );
}

/// Numbers of this size are exact in a float far beyond anything counted here.
#[allow(clippy::cast_precision_loss)]
fn count(value: u64) -> f64 {
    value as f64
}
