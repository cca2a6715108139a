//! Figures for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{crowd::Crowd, flood::Flood, load::Cost};

/// The figures of one translator with its pool. What could not be measured is absent, and `failures` says why.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) subject: String,
    pub(crate) version: String,
    pub(crate) first_job_p50_ms: Option<f64>,
    pub(crate) first_job_p99_ms: Option<f64>,
    pub(crate) crowd: Option<CrowdFigures>,
    pub(crate) crowd_aggregated: Option<CrowdFigures>,
    pub(crate) few_fast_miners: Option<CostFigures>,
    pub(crate) many_miners: Option<CostFigures>,
    pub(crate) flood: Option<FloodFigures>,
    /// p99 of an honest miner's answers: alone, and beside one that floods.
    pub(crate) honest_alone_p99_ms: Option<f64>,
    pub(crate) honest_beside_flood_p99_ms: Option<f64>,
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CrowdFigures {
    connections: usize,
    refused: usize,
    last_ready_s: f64,
    resident_kb_per_miner: f64,
    resident_kb_per_miner_after_blocks: f64,
    /// The median of several blocks, as the next one.
    block_first_ms: f64,
    block_last_ms: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct CostFigures {
    sent: u64,
    accepted_by_pool: u64,
    refused: BTreeMap<String, u64>,
    accepted_per_second: f64,
    translator_us_per_share: f64,
    pool_us_per_share: f64,
    answer_p50_ms: f64,
    answer_p99_ms: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct FloodFigures {
    memory_before_mb: f64,
    memory_peak_mb: f64,
    memory_after_mb: f64,
    sent: u64,
    answered: u64,
    refused: BTreeMap<String, u64>,
    accepted_by_pool: u64,
    cut_off: usize,
    most_told_before_pool_had_them: u64,
    joiners: usize,
    joiners_p50_ms: f64,
    joiners_max_ms: f64,
    drained_after_s: f64,
}

impl From<&Crowd> for CrowdFigures {
    fn from(crowd: &Crowd) -> Self {
        let each = |with: u64| {
            let miners = (crowd.connections - crowd.refused).max(1);
            with.saturating_sub(crowd.before) as f64 / miners as f64 / 1000.0
        };
        Self {
            connections: crowd.connections,
            refused: crowd.refused,
            last_ready_s: crowd.last_ready.as_secs_f64(),
            resident_kb_per_miner: each(crowd.with),
            resident_kb_per_miner_after_blocks: each(crowd.after),
            block_first_ms: median(crowd.blocks.iter().map(|(first, _)| *first)),
            block_last_ms: median(crowd.blocks.iter().map(|(_, last)| *last)),
        }
    }
}

impl From<&Cost> for CostFigures {
    fn from(cost: &Cost) -> Self {
        let accepted = cost.accepted.max(1) as f64;
        Self {
            sent: cost.sent,
            accepted_by_pool: cost.accepted,
            refused: cost.refused.clone(),
            accepted_per_second: accepted / cost.wall.as_secs_f64(),
            translator_us_per_share: cost.translator.as_secs_f64() * 1e6 / accepted,
            pool_us_per_share: cost.pool.as_secs_f64() * 1e6 / accepted,
            answer_p50_ms: percentile(&cost.waits, 50),
            answer_p99_ms: percentile(&cost.waits, 99),
        }
    }
}

impl From<&Flood> for FloodFigures {
    fn from(flood: &Flood) -> Self {
        let [before, peak, after] = flood.memory.map(|bytes| bytes as f64 / 1e6);
        Self {
            memory_before_mb: before,
            memory_peak_mb: peak,
            memory_after_mb: after,
            sent: flood.sent,
            answered: flood.answered,
            refused: flood.refused.clone(),
            accepted_by_pool: flood.accepted,
            cut_off: flood.cut_off,
            most_told_before_pool_had_them: flood.most_told_early,
            joiners: flood.joiners.len(),
            joiners_p50_ms: percentile(&flood.joiners, 50),
            joiners_max_ms: percentile(&flood.joiners, 100),
            drained_after_s: flood.drained_after.as_secs_f64(),
        }
    }
}

/// What a row of the table takes from the figures, and what is to be reached.
type Row = (
    &'static str,
    fn(&Figures) -> Option<Vec<f64>>,
    &'static str,
    &'static str,
);

/// The name, the values, what stands between them, and the aim.
const ROWS: [Row; 15] = [
    (
        "first job after connecting, p50 / p99, ms",
        |all| Some(vec![all.first_job_p50_ms?, all.first_job_p99_ms?]),
        " / ",
        "1 / 5",
    ),
    (
        "storm: connects in 1 s, slowest miner's first job, s",
        |all| Some(vec![all.crowd.as_ref()?.last_ready_s]),
        "",
        "0.3",
    ),
    (
        "storm: refused",
        |all| Some(vec![all.crowd.as_ref()?.refused as f64]),
        "",
        "0",
    ),
    (
        "resident memory per idle miner, translator, kB",
        |all| Some(vec![all.crowd.as_ref()?.resident_kb_per_miner]),
        "",
        "5",
    ),
    (
        "new block to all miners, first / last, ms",
        |all| {
            let crowd = all.crowd.as_ref()?;
            Some(vec![crowd.block_first_ms, crowd.block_last_ms])
        },
        " / ",
        "3 / 35",
    ),
    (
        "the same on one channel for all, ms",
        |all| {
            let crowd = all.crowd_aggregated.as_ref()?;
            Some(vec![crowd.block_first_ms, crowd.block_last_ms])
        },
        " / ",
        "3 / 35",
    ),
    (
        "10 miners, 15,000 shares/s: CPU per share, translator + pool, µs",
        |all| cost(all.few_fast_miners.as_ref()),
        " + ",
        "15 in all",
    ),
    (
        "1,000 miners, 5 shares/s each: CPU per share, translator + pool, µs",
        |all| cost(all.many_miners.as_ref()),
        " + ",
        "30 in all",
    ),
    (
        "flood: memory of the translator before → most, MB",
        |all| {
            let flood = all.flood.as_ref()?;
            Some(vec![flood.memory_before_mb, flood.memory_peak_mb])
        },
        " → ",
        "flat",
    ),
    (
        "flood: shares accepted by the pool",
        |all| Some(vec![all.flood.as_ref()?.accepted_by_pool as f64]),
        "",
        "-",
    ),
    (
        "flood: shares acknowledged before the pool had them, most",
        |all| {
            Some(vec![
                all.flood.as_ref()?.most_told_before_pool_had_them as f64,
            ])
        },
        "",
        "-",
    ),
    (
        "flood: shares without an answer",
        |all| {
            let flood = all.flood.as_ref()?;
            Some(vec![flood.sent.saturating_sub(flood.answered) as f64])
        },
        "",
        "0",
    ),
    (
        "flood: first job of miners that join, p50 / max, ms",
        |all| {
            let flood = all.flood.as_ref()?;
            Some(vec![flood.joiners_p50_ms, flood.joiners_max_ms])
        },
        " / ",
        "20",
    ),
    (
        "honest miner's answers, p99, alone / beside a flood, ms",
        |all| {
            Some(vec![
                all.honest_alone_p99_ms?,
                all.honest_beside_flood_p99_ms?,
            ])
        },
        " / ",
        "half as much again",
    ),
    (
        "answers at 1,000 miners, p50 / p99, ms",
        |all| {
            let cost = all.many_miners.as_ref()?;
            Some(vec![cost.answer_p50_ms, cost.answer_p99_ms])
        },
        " / ",
        "-",
    ),
];

fn cost(cost: Option<&CostFigures>) -> Option<Vec<f64>> {
    cost.map(|cost| vec![cost.translator_us_per_share, cost.pool_us_per_share])
}

/// A Markdown table with a column for each subject; with two, what the first needs in proportion to the second.
pub(crate) fn table(all: &[Figures]) -> String {
    let mut header = String::from("| figure |");
    let mut line = String::from("|---|");
    for figures in all {
        header += &format!(" {} |", figures.version);
        line += "---|";
    }
    if all.len() == 2 {
        header += " ratio |";
        line += "---|";
    }
    let mut lines = vec![header + " to reach |", line + "---|"];
    for (name, values, between, aim) in ROWS {
        let values: Vec<_> = all.iter().map(values).collect();
        let mut cells: Vec<String> = values
            .iter()
            .map(|values| cell(values.as_deref(), between))
            .collect();
        if let [Some(one), Some(other)] = &values[..] {
            let ratios: Vec<f64> = one
                .iter()
                .zip(other)
                .map(|(one, other)| one / other)
                .collect();
            let meaningful = ratios.iter().all(|ratio| ratio.is_finite());
            cells.push(cell(meaningful.then_some(&ratios[..]), " / "));
        } else if all.len() == 2 {
            cells.push("-".to_owned());
        }
        lines.push(format!("| {name} | {} | {aim} |", cells.join(" | ")));
    }
    lines.join("\n")
}

fn cell(values: Option<&[f64]>, between: &str) -> String {
    let number = |value: &f64| match *value {
        value if value.fract() == 0.0 => format!("{value:.0}"),
        value @ 100.0.. => format!("{value:.0}"),
        value @ 10.0.. => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    values.map_or_else(
        || "-".to_owned(),
        |values| values.iter().map(number).collect::<Vec<_>>().join(between),
    )
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    percentile(&times, 50)
}

/// Of sorted times, in milliseconds.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = times.len().saturating_sub(1) * percent / 100;
    times
        .get(at)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
