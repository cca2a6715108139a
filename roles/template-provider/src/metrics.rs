//! What Prometheus sees of the template provider, read from the status when it asks.

use service::http::{Endpoints, Families, prometheus};

use crate::status::{Status, StatusHandle};

/// The answers to `/readyz`, `/status` and `/metrics`.
pub(crate) fn endpoints(status: &StatusHandle) -> Result<Endpoints, prometheus::Error> {
    Endpoints::of(
        status,
        StatusHandle::ready,
        StatusHandle::snapshot,
        |status, families| collect(&status.snapshot(), families),
    )
}

fn collect(status: &Status, families: &mut Families) {
    // Exact far beyond any number of connections.
    #[allow(clippy::cast_precision_loss)]
    families.gauge(
        "hashpool_template_provider_connections",
        "Open connections.",
        status.connections as f64,
    );
    families.counter(
        "hashpool_template_provider_connections_total",
        "Connections since the start.",
        status.connections_total,
    );
    families.counters(
        "hashpool_template_provider_disconnects_total",
        "Connections that the provider ended or lost, by reason.",
        "reason",
        status
            .disconnects
            .iter()
            .map(|(reason, count)| (*reason, *count)),
    );
    families.listener("template_provider", &status.listener);
    families.counter(
        "hashpool_template_provider_templates_sent_total",
        "Templates sent to clients.",
        status.templates_sent,
    );
    families.counter(
        "hashpool_template_provider_tips_sent_total",
        "Tips sent to clients.",
        status.tips_sent,
    );
    let answered = |all: u64, refused: u64| {
        [
            ("accepted", all.saturating_sub(refused)),
            ("refused", refused),
        ]
    };
    families.counters(
        "hashpool_template_provider_transaction_requests_total",
        "Requests for a template's transactions, by what was answered.",
        "outcome",
        answered(
            status.transaction_requests,
            status.transaction_requests_refused,
        ),
    );
    families.counters(
        "hashpool_template_provider_solutions_total",
        "Solutions of clients: accepted are those that are blocks, and were passed on.",
        "outcome",
        [
            ("accepted", status.solutions),
            ("refused", status.solutions_refused),
        ],
    );
    let templates = &status.templates;
    families.counters(
        "hashpool_template_provider_blocks_total",
        "Blocks that were passed on, by what the source said to them.",
        "outcome",
        [
            ("accepted", templates.blocks_accepted),
            ("rejected", templates.blocks_rejected),
            ("unknown", templates.blocks_unknown),
            ("unreachable", templates.blocks_unreachable),
        ],
    );
    for (name, help, value) in templates.gauges() {
        families.gauge(
            &format!("hashpool_template_provider_template_{name}"),
            help,
            value,
        );
    }
}
