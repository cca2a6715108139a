//! What senders told, as sums: lifetime totals, hashrates, blocks, templates, and how the senders themselves are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use service::http::Families;
use stats_events::BlockState;

use super::label::label;
use crate::Now;
use crate::board::{Board, Of};
use crate::series::Window;
use crate::state::{Link, SenderKey, Totals};
use crate::web::Kind;

/// Values of the label `window`.
const WINDOWS: [(&str, Window); 4] = [
    ("1m", Window::Minute),
    ("10m", Window::TenMinutes),
    ("1h", Window::Hour),
    ("24h", Window::Day),
];

/// Everything, copied while the writer waits.
pub(super) struct Known {
    senders: Vec<OneSender>,
    blocks: BTreeMap<&'static str, usize>,
    peers: BTreeMap<&'static str, usize>,
    workers: usize,
    workers_active: usize,
}

struct OneSender {
    /// Role and name.
    labels: [String; 2],
    /// Its sums are part of the totals.
    counts: bool,
    up: bool,
    expected: bool,
    ready: bool,
    seen_ms: u64,
    totals: Totals,
    dropped: u64,
    hashrates: [Option<f64>; WINDOWS.len()],
    template: Option<Ages>,
}

/// Of a template, in seconds.
struct Ages {
    template: f64,
    tip: f64,
    height: u64,
}

impl Known {
    pub(super) fn look(kind: Kind, board: &Board, now: Now) -> Self {
        let mut known = Self {
            senders: Vec::new(),
            blocks: BTreeMap::from(BlockState::ALL.map(|state| (state.name(), 0))),
            peers: BTreeMap::new(),
            workers: 0,
            workers_active: 0,
        };
        for (key, sender) in board.state().senders() {
            let counts = kind.counts(&key.role);
            let instance = &sender.instance;
            for block in sender.blocks.values() {
                *known.blocks.entry(block.state.name()).or_default() += 1;
            }
            if counts {
                known.workers += sender.workers().len();
            }
            let link = sender.link(now);
            // Nobody knows who is still there of a sender that is not.
            if counts && link != Link::Down {
                known.workers_active += sender.workers_active();
                for (said, count) in sender.protocols() {
                    *known.peers.entry(protocol(said)).or_default() += count;
                }
            }
            let age = |at_ms: u64| seconds(now.unix_ms.saturating_sub(at_ms));
            known.senders.push(OneSender {
                labels: labels(key).map(Cow::into_owned),
                counts,
                up: link == Link::Up,
                expected: sender.expected,
                ready: link == Link::Up && instance.service.ready,
                seen_ms: instance.last_seen_ms,
                totals: sender.totals(),
                dropped: sender.dropped(),
                hashrates: WINDOWS.map(|(_, window)| board.hashrate(now, key, Of::Sender, window)),
                template: instance.template.as_ref().map(|template| Ages {
                    template: age(template.received_at_ms),
                    tip: age(template.tip_at_ms.max(1)),
                    height: template.height,
                }),
            });
        }
        known
    }

    pub(super) fn collect(&self, kind: Kind, families: &mut Families) {
        let name = |what: &str| format!("hashpool_{}_{what}", kind.metrics());
        self.shares(&name, families);
        self.hashrates(&name, families);
        self.present(&name, families);
        self.services(&name, families);
    }

    fn counted(&self) -> impl Iterator<Item = &OneSender> {
        self.senders.iter().filter(|sender| sender.counts)
    }

    fn shares(&self, name: &impl Fn(&str) -> String, families: &mut Families) {
        let each = |value: fn(&Totals) -> u128| {
            let senders = self.counted();
            senders.map(move |sender| (sender.labels(), value(&sender.totals)))
        };
        families.counters_by(
            &name("lifetime_submitted_shares_total"),
            "Shares that were submitted, over all restarts of the service that tells of them and of this one.",
            SENDER,
            each(|totals| totals.counters.submitted.into()),
        );
        families.counters_by(
            &name("lifetime_accepted_shares_total"),
            "Shares that were accepted, over all restarts.",
            SENDER,
            each(|totals| totals.counters.accepted.into()),
        );
        families.counters_by(
            &name("lifetime_work_hashes_total"),
            "Expected hashes of the accepted shares, over all restarts.",
            SENDER,
            each(|totals| totals.counters.work.0),
        );
        let by_reason = |counts: fn(&Totals) -> &BTreeMap<String, u64>| {
            let mut sums = BTreeMap::<[Cow<'_, str>; 3], u128>::new();
            for sender in self.counted() {
                let [role, service] = sender.labels().map(Cow::Borrowed);
                for (reason, count) in counts(&sender.totals) {
                    let labels = [role.clone(), service.clone(), label(reason)];
                    *sums.entry(labels).or_default() += u128::from(*count);
                }
            }
            sums
        };
        let rejected = by_reason(|totals| &totals.counters.rejected);
        families.counters_by(
            &name("lifetime_rejected_shares_total"),
            "Shares that were refused, by reason, over all restarts.",
            ["role", "service", "reason"],
            rejected.iter().map(borrowed),
        );
        let lost = by_reason(|totals| &totals.counters.lost);
        families.counters_by(
            &name("lifetime_lost_shares_total"),
            "Shares of unknown fate, by reason, over all restarts.",
            ["role", "service", "reason"],
            lost.iter().map(borrowed),
        );
    }

    fn hashrates(&self, name: &impl Fn(&str) -> String, families: &mut Families) {
        let total = |at: usize| {
            let rates = self.counted().filter_map(|sender| sender.hashrates[at]);
            rates.reduce(|sum, rate| sum + rate)
        };
        let windows = WINDOWS.iter().enumerate();
        families.gauges(
            &name("hashrate_hashes_per_second"),
            "Hashrate of all together, by the time over which it is measured; none where too little is known.",
            "window",
            windows
                .clone()
                .filter_map(|(at, (window, _))| Some((*window, total(at)?))),
        );
        let each = self.counted().flat_map(|sender| {
            let [role, service] = sender.labels();
            windows.clone().filter_map(move |(at, (window, _))| {
                Some(([role, service, *window], sender.hashrates[at]?))
            })
        });
        families.gauges_by(
            &name("service_hashrate_hashes_per_second"),
            "The same of each service that tells of it.",
            ["role", "service", "window"],
            each,
        );
    }

    fn present(&self, name: &impl Fn(&str) -> String, families: &mut Families) {
        families.gauges(
            &name("peers"),
            "Connected peers, by protocol.",
            "protocol",
            self.peers
                .iter()
                .map(|(which, peers)| (*which, count(*peers))),
        );
        families.gauge(
            &name("workers"),
            "Workers that were ever seen.",
            count(self.workers),
        );
        families.gauge(
            &name("workers_active"),
            "Workers that are connected.",
            count(self.workers_active),
        );
        families.gauges(
            &name("blocks"),
            "Blocks that were found, by what has become of them.",
            "state",
            self.blocks
                .iter()
                .map(|(state, blocks)| (*state, count(*blocks))),
        );
    }

    fn services(&self, name: &impl Fn(&str) -> String, families: &mut Families) {
        let each = |value: fn(&OneSender) -> u64| {
            let senders = self.senders.iter();
            senders.map(move |sender| (sender.labels(), u128::from(value(sender))))
        };
        families.counters_by(
            &name("service_dropped_events_total"),
            "Ends of peers and blocks that the service had no room to keep until they could be told, over all its restarts.",
            SENDER,
            each(|sender| sender.dropped),
        );
        let gauges = [
            (
                "service_up",
                "1 while the service says something; 0 for one that is silent or has gone, or is expected and never came.",
                (|sender| Some(f64::from(u8::from(sender.up)))) as fn(&OneSender) -> Option<f64>,
            ),
            (
                "service_expected",
                "1 for a service that the configuration expects to be there.",
                |sender| Some(f64::from(u8::from(sender.expected))),
            ),
            (
                "service_ready",
                "1 while the service says that it can do its job.",
                |sender| Some(f64::from(u8::from(sender.ready))),
            ),
            (
                "service_last_seen_timestamp_seconds",
                "When the service was last heard; none for one that never came.",
                |sender| (sender.seen_ms > 0).then(|| seconds(sender.seen_ms)),
            ),
            (
                "service_template_age_seconds",
                "Since what is mined on came.",
                |sender| sender.template.as_ref().map(|ages| ages.template),
            ),
            (
                "service_tip_age_seconds",
                "Since the first template on the present tip came.",
                |sender| sender.template.as_ref().map(|ages| ages.tip),
            ),
            (
                "service_template_height",
                "Height of the block to be found.",
                |sender| sender.template.as_ref().map(|ages| float(ages.height)),
            ),
        ];
        for (what, help, value) in gauges {
            let all = self.senders.iter();
            let all = all.filter_map(|sender| Some((sender.labels(), value(sender)?)));
            families.gauges_by(&name(what), help, SENDER, all);
        }
    }
}

/// Labels of what is a sender's.
const SENDER: [&str; 2] = ["role", "service"];

impl OneSender {
    fn labels(&self) -> [&str; 2] {
        self.labels.each_ref().map(String::as_str)
    }
}

pub(super) fn labels(key: &SenderKey) -> [Cow<'_, str>; 2] {
    [label(&key.role), label(&key.name)]
}

/// As the families take it.
pub(super) fn borrowed<'a, const N: usize, V: Copy>(
    (labels, value): (&'a [Cow<'_, str>; N], &V),
) -> ([&'a str; N], V) {
    (labels.each_ref().map(|label| &**label), *value)
}

/// One of those that there are.
fn protocol(said: &str) -> &'static str {
    const KNOWN: [&str; 5] = [
        "sv1",
        "sv2-mining",
        "sv2-job-declaration",
        "sv2-template",
        "ehash",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == said)
        .unwrap_or("other")
}

/// Exact for some 285,000 years.
#[allow(clippy::cast_precision_loss)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
pub(super) fn count(value: usize) -> f64 {
    value as f64
}
