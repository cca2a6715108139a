//! Single peers and workers, where the configuration wants them: those that are connected, and no more than it allows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use service::http::Families;

use super::known::{borrowed, count, labels};
use super::label::label;
use crate::Now;
use crate::board::{Board, Of};
use crate::receiver::View;
use crate::series::Window;
use crate::state::{Link, PeerName, Sender, SenderKey, Totals, Worker, WorkerKey};
use crate::web::Kind;

/// The most of a kind that may be configured: each has several series.
const MOST: usize = 20_000;

/// Which single peers and workers have series of their own at `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// So many peers at most, told apart by protocol, host, and device or software; 0 for none.
    pub peers: usize,
    /// So many workers at most; 0 for none.
    pub workers: usize,
}

impl MetricsConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub(in crate::receiver) fn validate(self) -> Result<(), (&'static str, String)> {
        for (key, number) in [
            ("metrics.peers", self.peers),
            ("metrics.workers", self.workers),
        ] {
            if number > MOST {
                return Err((key, format!("from 0 to {MOST} is possible")));
            }
        }
        Ok(())
    }
}

/// What one of them shows.
struct Figures {
    accepted: u128,
    rejected: u128,
    work: u128,
    hashrate: Option<f64>,
    /// Connections of a peer, sessions of a worker.
    sessions: f64,
}

impl Figures {
    fn of(totals: &Totals, hashrate: Option<f64>, sessions: usize) -> Self {
        Self {
            accepted: totals.counters.accepted.into(),
            rejected: totals.counters.rejected().into(),
            work: totals.counters.work.0,
            hashrate,
            sessions: count(sessions),
        }
    }
}

/// By the values of their labels, so that no series is there twice.
type Series<const N: usize> = BTreeMap<[Cow<'static, str>; N], Figures>;

/// Everything, copied while the writer waits.
pub(super) struct Single {
    config: MetricsConfig,
    peers: Series<5>,
    workers: Series<4>,
    left_out: [usize; 2],
}

impl Single {
    pub(super) fn look(config: MetricsConfig, kind: Kind, view: &View) -> Self {
        let mut single = Self {
            config,
            peers: BTreeMap::new(),
            workers: BTreeMap::new(),
            left_out: [0, 0],
        };
        if config.peers > 0 {
            let look = |board: &Board, now| peers(board, now, kind, config.peers);
            (single.peers, single.left_out[0]) = view.read(look);
        }
        if config.workers > 0 {
            let look = |board: &Board, now| workers(board, now, kind, config.workers);
            (single.workers, single.left_out[1]) = view.read(look);
        }
        single
    }

    pub(super) fn collect(&self, kind: Kind, families: &mut Families) {
        let name = |what: &str| format!("hashpool_{}_{what}", kind.metrics());
        if self.config == MetricsConfig::default() {
            return;
        }
        families.gauges(
            &name("left_out"),
            "Connected peers and workers beyond those that the configuration lets have series.",
            "of",
            [
                ("peers", count(self.left_out[0])),
                ("workers", count(self.left_out[1])),
            ],
        );
        if self.config.peers > 0 {
            let labels = ["role", "service", "protocol", "host", "device"];
            collect(&name("peer"), labels, &self.peers, families);
        }
        if self.config.workers > 0 {
            let labels = ["role", "service", "account", "worker"];
            collect(&name("worker"), labels, &self.workers, families);
        }
    }
}

fn collect<const N: usize>(
    name: &str,
    labels: [&str; N],
    series: &Series<N>,
    families: &mut Families,
) {
    let counters = [
        (
            "accepted_shares_total",
            "Shares of all its sessions that were accepted.",
            (|figures| figures.accepted) as fn(&Figures) -> u128,
        ),
        (
            "rejected_shares_total",
            "Shares of all its sessions that were refused.",
            |figures| figures.rejected,
        ),
        (
            "work_hashes_total",
            "Expected hashes of the accepted shares of all its sessions.",
            |figures| figures.work,
        ),
    ];
    for (what, help, value) in counters {
        let all = series
            .iter()
            .map(|(labels, figures)| (labels, value(figures)));
        families.counters_by(
            &format!("{name}_{what}"),
            help,
            labels,
            all.map(|(labels, value)| borrowed((labels, &value))),
        );
    }
    let gauges = [
        (
            "hashrate_hashes_per_second",
            "Hashrate over 10 minutes; none where too little is known.",
            (|figures| figures.hashrate) as fn(&Figures) -> Option<f64>,
        ),
        (
            "sessions",
            "Its connections, or the channels that it works on.",
            |figures| Some(figures.sessions),
        ),
    ];
    for (what, help, value) in gauges {
        let all = series.iter();
        let all = all.filter_map(|(labels, figures)| Some((labels, value(figures)?)));
        families.gauges_by(
            &format!("{name}_{what}"),
            help,
            labels,
            all.map(|(labels, value)| borrowed((labels, &value))),
        );
    }
}

/// Senders whose peers and workers are there: of one that has gone, nobody knows who still is.
fn present(board: &Board, now: Now, kind: Kind) -> impl Iterator<Item = (&SenderKey, &Sender)> {
    let senders = board.state().senders();
    senders.filter(move |(key, sender)| kind.counts(&key.role) && sender.link(now) != Link::Down)
}

/// Those that have been there longest, so that who comes later pushes nobody out, and how many others there are.
fn longest<T>(mut all: Vec<(u64, T)>, most: usize) -> (Vec<(u64, T)>, usize) {
    let left_out = all.len().saturating_sub(most);
    if left_out > 0 {
        all.select_nth_unstable_by_key(most, |(since_ms, _)| *since_ms);
        all.truncate(most);
    }
    (all, left_out)
}

fn peers(board: &Board, now: Now, kind: Kind, most: usize) -> (Series<5>, usize) {
    let mut all = Vec::new();
    for (key, sender) in present(board, now, kind) {
        let mut names = HashMap::<&PeerName, (u64, usize)>::new();
        for session in sender.peers.values() {
            let since_ms = session.peer.connected_at_ms;
            let (oldest, sessions) = names.entry(session.name()).or_insert((since_ms, 0));
            *oldest = since_ms.min(*oldest);
            *sessions += 1;
        }
        let names = names.into_iter();
        all.extend(names.map(|(name, (since_ms, sessions))| (since_ms, ((key, name), sessions))));
    }
    let (shown, left_out) = longest(all, most);
    // Sums are made of those alone that are shown.
    let mut sums = HashMap::<(&SenderKey, &PeerName), Totals>::with_capacity(shown.len());
    for (_, (id, _)) in &shown {
        let sender = board.state().sender(id.0);
        let ended = sender.and_then(|sender| sender.peer_totals.get(id.1));
        sums.insert(*id, ended.cloned().unwrap_or_default());
    }
    for (key, sender) in present(board, now, kind) {
        for session in sender.peers.values() {
            if let Some(sum) = sums.get_mut(&(key, &**session.name())) {
                sum.add_session(&session.state.counters);
            }
        }
    }
    let series = shown.into_iter().map(|(_, (id, sessions))| {
        let (key, name) = id;
        let hashrate = board.hashrate(now, key, Of::Peer(name), Window::TenMinutes);
        let totals = sums.remove(&id).unwrap_or_default();
        let [role, service] = owned(labels(key));
        let [protocol, host, device] = owned([
            label(&name.protocol),
            label(&name.host),
            label(&name.device),
        ]);
        let labels = [role, service, protocol, host, device];
        (labels, Figures::of(&totals, hashrate, sessions))
    });
    (series.collect(), left_out)
}

fn workers(board: &Board, now: Now, kind: Kind, most: usize) -> (Series<4>, usize) {
    let mut all: Vec<(u64, (&SenderKey, &WorkerKey, &Worker))> = Vec::new();
    for (sender, known) in present(board, now, kind) {
        for (key, worker) in known.workers() {
            let since = worker.sessions.values().map(|session| session.since_ms);
            // Without a session it has gone.
            if let Some(since_ms) = since.min() {
                all.push((since_ms, (sender, key, worker)));
            }
        }
    }
    let (shown, left_out) = longest(all, most);
    let series = shown.into_iter().map(|(_, (sender, key, worker))| {
        let hashrate = board.hashrate(now, sender, Of::Worker(key), Window::TenMinutes);
        let [role, service] = owned(labels(sender));
        let [account, name] = owned([label(&key.account), label(&key.worker)]);
        let figures = Figures::of(&worker.totals(), hashrate, worker.sessions.len());
        ([role, service, account, name], figures)
    });
    (series.collect(), left_out)
}

fn owned<const N: usize>(labels: [Cow<'_, str>; N]) -> [Cow<'static, str>; N] {
    labels.map(|label| Cow::Owned(label.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_there_longest_stays_shown() {
        let all = vec![(30, "c"), (10, "a"), (40, "d"), (20, "b")];
        let (mut shown, left_out) = longest(all.clone(), 2);
        shown.sort_unstable();
        assert_eq!((shown, left_out), (vec![(10, "a"), (20, "b")], 2));
        assert_eq!(longest(all, 4).1, 0);
    }
}
