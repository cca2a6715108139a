//! Figures for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    crowd::Crowd,
    latency::Latency,
    throughput::Throughput,
    told::{Compared, Interval, Told},
};

/// What is to be reached, in the table's own words (`docs/benchmarks.md`).
const AIMS: [(&str, &str); 15] = [
    ("CPU per accepted share, µs", "6"),
    ("accepted shares per second", "200000"),
    ("acknowledgement, p50, ms", "5 (commit interval) + 1"),
    ("acknowledgement, p99, ms", "5 (commit interval) + 1"),
    ("CPU per share, one in flight, µs", "-"),
    ("new block, first connection, ms", "3"),
    ("new block, last connection, ms", "30"),
    ("resident memory per idle connection, kB", "10"),
    ("virtual memory per idle connection, kB", "64"),
    ("with a stats service: CPU per share, % more", "1"),
    ("with a stats service: shares per second, % less", "1"),
    (
        "with a stats service: % of the CPU by the thread that tells it",
        "1",
    ),
    ("with one that never reads: CPU per share, % more", "1"),
    ("with one that never reads: shares per second, % less", "1"),
    (
        "with one that never reads: % of the CPU by the thread that tells it",
        "1",
    ),
];

/// The figures of one pool. What could not be measured is absent, and `failures` says why.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) pool: String,
    pub(crate) version: String,
    pub(crate) cpu_per_share_us: Option<f64>,
    pub(crate) shares_per_second: Option<f64>,
    pub(crate) shares_accepted: u64,
    pub(crate) shares_rejected: BTreeMap<String, u64>,
    pub(crate) acknowledgement_p50_ms: Option<f64>,
    pub(crate) acknowledgement_p99_ms: Option<f64>,
    pub(crate) cpu_per_share_one_in_flight_us: Option<f64>,
    pub(crate) connections: usize,
    /// The median of several blocks, as the next one.
    pub(crate) block_first_ms: Option<f64>,
    pub(crate) block_last_ms: Option<f64>,
    pub(crate) resident_kb_per_connection: Option<f64>,
    pub(crate) resident_kb_per_connection_after_blocks: Option<f64>,
    pub(crate) virtual_kb_per_connection: Option<f64>,
    /// With and without a stats service.
    pub(crate) told: Option<Told>,
    pub(crate) failures: Vec<String>,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
impl Figures {
    pub(crate) fn add_throughput(&mut self, result: Throughput) {
        let accepted = result.accepted as f64;
        self.cpu_per_share_us = Some(micros(result.processor_time) / accepted);
        self.shares_per_second = Some(accepted / result.wall.as_secs_f64());
        self.shares_accepted = result.accepted;
        self.shares_rejected = result.rejected;
    }

    pub(crate) fn add_latency(&mut self, result: &Latency) {
        let Some(last) = result.times.len().checked_sub(1) else {
            return;
        };
        self.acknowledgement_p50_ms = Some(millis(result.times[last / 2]));
        self.acknowledgement_p99_ms = Some(millis(result.times[last * 99 / 100]));
        self.cpu_per_share_one_in_flight_us =
            Some(micros(result.processor_time) / result.times.len() as f64);
    }

    pub(crate) fn add_crowd(&mut self, result: &Crowd) {
        let each = |with: u64, before: u64| {
            Some(with.saturating_sub(before) as f64 / result.connections as f64 / 1000.0)
        };
        self.connections = result.connections;
        self.resident_kb_per_connection = each(result.with.resident, result.before.resident);
        self.resident_kb_per_connection_after_blocks =
            each(result.after.resident, result.before.resident);
        self.virtual_kb_per_connection = each(result.with.mapped, result.before.mapped);
        self.block_first_ms = median(result.blocks.iter().map(|(first, _)| *first));
        self.block_last_ms = median(result.blocks.iter().map(|(_, last)| *last));
    }

    /// In the order of [`AIMS`].
    fn row(&self) -> [String; AIMS.len()] {
        let told = self.told.as_ref();
        let [attentive, deaf] = [
            told.map(|told| &told.attentive),
            told.map(|told| &told.deaf),
        ];
        let cpu = |with: Option<&Compared>| within(with.map(|with| with.more_cpu_percent));
        let shares = |with: Option<&Compared>| within(with.map(|with| with.fewer_shares_percent));
        let telling = |with: Option<&Compared>| cell(with.map(|with| with.cost.telling_percent));
        [
            cell(self.cpu_per_share_us),
            cell(self.shares_per_second),
            cell(self.acknowledgement_p50_ms),
            cell(self.acknowledgement_p99_ms),
            cell(self.cpu_per_share_one_in_flight_us),
            cell(self.block_first_ms),
            cell(self.block_last_ms),
            cell(self.resident_kb_per_connection),
            cell(self.virtual_kb_per_connection),
            cpu(attentive),
            shares(attentive),
            telling(attentive),
            cpu(deaf),
            shares(deaf),
            telling(deaf),
        ]
    }
}

/// A Markdown table with a column for each pool.
pub(crate) fn table(all: &[Figures]) -> String {
    let mut lines = vec![String::from("| figure |"), String::from("|---|")];
    for figures in all {
        lines[0] += &format!(" {} |", figures.version);
        lines[1] += "---|";
    }
    lines[0] += " aim |";
    lines[1] += "---|";
    let rows: Vec<_> = all.iter().map(Figures::row).collect();
    for (at, (name, aim)) in AIMS.iter().enumerate() {
        let cells: Vec<&str> = rows.iter().map(|row| &*row[at]).collect();
        lines.push(format!("| {name} | {} | {aim} |", cells.join(" | ")));
    }
    lines.join("\n")
}

/// With what it is within.
fn within(figure: Option<Interval>) -> String {
    match figure {
        Some(Interval {
            median,
            within: Some((low, high)),
        }) => format!("{median:.2} ({low:.2} to {high:.2})"),
        figure => cell(figure.map(|figure| figure.median)),
    }
}

fn cell(figure: Option<f64>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(value @ 100.0..) => format!("{value:.0}"),
        Some(value @ 10.0..) => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn median(times: impl Iterator<Item = Duration>) -> Option<f64> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().map(millis)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
