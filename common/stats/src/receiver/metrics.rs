//! What operators and Prometheus see: of the service itself here, and of what it was told in [`known`] and [`single`].

mod known;
mod label;
mod single;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};
use service::http::prometheus::{self, Registry};
use service::http::{Endpoints, Families, register};
use service::listener;

use super::{Role, View};
use crate::Now;
use crate::board::Board;
use crate::state::{Link, Outcome};
use known::Known;
use single::Single;

pub use single::MetricsConfig;

/// What happened since the start. Values only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    applied: AtomicU64,
    repeated: AtomicU64,
    skipped: AtomicU64,
    pub(super) welcomed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) broken: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) rows: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Repeated => &self.repeated,
            Outcome::Skipped => &self.skipped,
            Outcome::Replaced => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// The answers to `/readyz`, `/status` and `/metrics`.
pub(super) fn endpoints<R: Role>(
    config: MetricsConfig,
    view: &View,
    counters: &Arc<Counters>,
    listener: Arc<listener::Counters>,
) -> Result<Endpoints, prometheus::Error> {
    let registry = Registry::new();
    let (shown, counters) = (view.clone(), Arc::clone(counters));
    register(&registry, move |families| {
        collect(R::METRICS, &shown, &counters, families);
        families.listener(R::METRICS, &listener.snapshot());
        // The writer has its turn between these.
        let known = shown.read(|board, now| Known::look(R::PAGES, board, now));
        known.collect(R::PAGES, families);
        Single::look(config, R::PAGES, &shown).collect(R::PAGES, families);
    })?;
    let (ready, status) = (view.clone(), view.clone());
    Ok(Endpoints::new(
        move || ready.ready(),
        move || status.read(senders),
        registry,
    ))
}

fn collect(role: &str, view: &View, counters: &Counters, families: &mut Families) {
    let links = view.read(|board, now| {
        let links = board.state().senders().map(|(_, sender)| sender.link(now));
        let mut counts = [0.0, 0.0, 0.0];
        for link in links {
            counts[link as usize] += 1.0;
        }
        counts
    });
    let name = |what: &str| format!("hashpool_{role}_{what}");
    families.gauges(
        &name("senders"),
        "Senders that are known, by whether they can be heard.",
        "link",
        ["up", "stale", "down"].into_iter().zip(links),
    );
    let value = |counter: &AtomicU64| counter.load(Relaxed);
    families.counters(
        &name("events_total"),
        "Events that senders told, by what became of them.",
        "outcome",
        [
            ("applied", value(&counters.applied)),
            ("repeated", value(&counters.repeated)),
            ("skipped", value(&counters.skipped)),
        ],
    );
    families.counters(
        &name("conversations_total"),
        "Connections by how they began or ended.",
        "outcome",
        [
            ("welcomed", value(&counters.welcomed)),
            ("refused", value(&counters.refused)),
            ("broken", value(&counters.broken)),
        ],
    );
    families.counter(
        &name("commits_total"),
        "Transactions that were committed.",
        value(&counters.commits),
    );
    families.counter(
        &name("rows_total"),
        "Rows that were committed.",
        value(&counters.rows),
    );
    let writable = if view.ready().is_ok() { 1.0 } else { 0.0 };
    families.gauge(
        &name("store_writable"),
        "Whether the last commit succeeded.",
        writable,
    );
}

/// Who is there.
fn senders(board: &Board, now: Now) -> Value {
    let senders = board.state().senders().map(|(key, sender)| {
        let link = match sender.link(now) {
            Link::Up => "up",
            Link::Stale => "stale",
            Link::Down => "down",
        };
        let totals = sender.totals();
        json!({
            "role": key.role,
            "name": key.name,
            "link": link,
            "expected": sender.expected,
            "last_seen_ms": sender.instance.last_seen_ms,
            "software": sender.instance.software,
            "network": sender.instance.network,
            "ready": sender.instance.service.ready,
            "problems": sender.instance.service.problems,
            "dropped_events": sender.dropped(),
            "peers": sender.peers.len(),
            "workers": sender.workers().len(),
            "accepted": totals.counters.accepted,
            "rejected": totals.counters.rejected(),
            "work": totals.counters.work.to_string(),
        })
    });
    json!({ "senders": senders.collect::<Vec<_>>() })
}
