//! Figures for people and for programs.

use serde::Serialize;

use crate::measure::{Idle, Latency, Stream, Submits};

/// The figures of one subject. What could not be measured is absent, and `failures` says why.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) subject: String,
    pub(crate) version: String,
    pub(crate) one: Option<Stream>,
    pub(crate) many: Option<Stream>,
    pub(crate) latency: Option<Latency>,
    pub(crate) submits: Option<Submits>,
    pub(crate) idle: Option<Idle>,
    pub(crate) failures: Vec<String>,
}

/// What a row takes from the figures of a subject and from those of the direct connection.
type Row = (
    &'static str,
    fn(&Figures, &Figures) -> Option<Vec<f64>>,
    &'static str,
);

/// The name, the values, and the aim.
const ROWS: [Row; 9] = [
    (
        "one connection, MB/s",
        |it, _| Some(vec![it.one.as_ref()?.megabytes_per_second]),
        "-",
    ),
    (
        "the same, CPU per MB, µs",
        |it, _| Some(vec![it.one.as_ref()?.cpu_us_per_megabyte]),
        "1.5 times HAProxy's",
    ),
    (
        "1,000 connections, MB/s",
        |it, _| Some(vec![it.many.as_ref()?.megabytes_per_second]),
        "-",
    ),
    (
        "the same, CPU per MB, µs",
        |it, _| Some(vec![it.many.as_ref()?.cpu_us_per_megabyte]),
        "1.5 times HAProxy's",
    ),
    (
        "share to answer, p50 / p99, µs",
        |it, _| {
            let latency = it.latency.as_ref()?;
            Some(vec![latency.p50_us, latency.p99_us])
        },
        "-",
    ),
    (
        "added to a direct connection, there and back, p50 / p99, µs",
        |it, direct| {
            let (it, direct) = (it.latency.as_ref()?, direct.latency.as_ref()?);
            Some(vec![it.p50_us - direct.p50_us, it.p99_us - direct.p99_us])
        },
        "100 at p99",
    ),
    (
        "1,000 miners, 5 submits/s each: CPU per submit, µs",
        |it, _| Some(vec![it.submits.as_ref()?.cpu_us_per_submit]),
        "-",
    ),
    (
        "idle connections",
        |it, _| Some(vec![it.idle.as_ref()?.connections as f64]),
        "10,000",
    ),
    (
        "memory: with them, MB / for each, kB",
        |it, _| {
            let idle = it.idle.as_ref()?;
            Some(vec![idle.megabytes, idle.kilobytes_per_connection])
        },
        "100 / 10",
    ),
];

/// A Markdown table with a column for each subject.
pub(crate) fn table(all: &[Figures]) -> String {
    let mut header = String::from("| figure |");
    let mut line = String::from("|---|");
    for figures in all {
        header += &format!(" {} |", figures.version);
        line += "---|";
    }
    let mut lines = vec![header + " to reach |", line + "---|"];
    let nothing = Figures::default();
    let direct = all.iter().find(|figures| figures.subject == "direct");
    let direct = direct.unwrap_or(&nothing);
    for (name, values, aim) in ROWS {
        let cells: Vec<String> = all
            .iter()
            .map(|figures| cell(figures, values(figures, direct)))
            .collect();
        lines.push(format!("| {name} | {} | {aim} |", cells.join(" | ")));
    }
    lines.join("\n")
}

fn cell(figures: &Figures, values: Option<Vec<f64>>) -> String {
    let number = |value: &f64| match value.abs() {
        _ if figures.subject == "direct" && *value == 0.0 => "-".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    values.map_or_else(
        || "-".to_owned(),
        |values| values.iter().map(number).collect::<Vec<_>>().join(" / "),
    )
}
