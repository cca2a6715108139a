//! Compares the difficulty controller with the one of `channels_sv2`, in simulated time: `make bench-vardiff`.
//!
//! Both are driven the same way: a miner whose shares are a Poisson process, a job every 30 seconds, a new difficulty
//! that applies from the next job. Ours is asked after each share and every five seconds, as the pool does, and may ask
//! for an early job; SRI's is asked once a minute, as its pool does. It prints figures and judges nothing.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod controller;
mod simulation;

use controller::Kind;
use simulation::{Case, Run};

const DEFAULT_SEEDS: u64 = 200;

fn main() {
    let argument = |at| std::env::args().nth(at);
    let seeds = argument(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_SEEDS);
    let only = argument(2).unwrap_or_default();
    println!(
        "{seeds} seeds; p50/p95, in seconds where nothing else is said; settled: true share rate within 25 % for 10 minutes"
    );
    println!();
    println!("| case | figure | SRI, 6/min | ours, 6/min | SRI, 18/min | ours, 18/min |");
    println!("|---|---|---|---|---|---|");
    for (name, case) in [
        ("start 10^-3 too easy", Case::Start { error: 1e-3 }),
        ("start 10^-6 too easy", Case::Start { error: 1e-6 }),
        ("start 10^3 too hard", Case::Start { error: 1e3 }),
        ("start 10^6 too hard", Case::Start { error: 1e6 }),
        ("hashrate halves", Case::Change { factor: 0.5 }),
        ("hashrate doubles", Case::Change { factor: 2.0 }),
        ("24 steady hours", Case::Steady),
        ("10 minute pause", Case::Pause),
    ] {
        if !name.contains(&only) {
            continue;
        }
        let runs: Vec<Vec<Run>> = [
            (Kind::Sri, 6.0),
            (Kind::Ours, 6.0),
            (Kind::Sri, 18.0),
            (Kind::Ours, 18.0),
        ]
        .into_iter()
        .map(|(kind, rate)| {
            (0..seeds)
                .map(|seed| simulation::run(case, kind, rate, seed))
                .collect()
        })
        .collect();
        for (figure, show) in figures(case) {
            let cells: Vec<String> = runs.iter().map(|runs| show(runs)).collect();
            println!("| {name} | {figure} | {} |", cells.join(" | "));
        }
    }
}

type Show = fn(&[Run]) -> String;

fn figures(case: Case) -> Vec<(&'static str, Show)> {
    let settled: (&str, Show) = ("settled", |runs| {
        let settled: Vec<f64> = runs.iter().filter_map(|run| run.settled).collect();
        let never = runs.len() - settled.len();
        let figures = percentiles(settled);
        if never == 0 {
            figures
        } else {
            format!("{figures} ({never} never)")
        }
    });
    let first_minute: (&str, Show) = ("shares in the first minute", |runs| {
        percentiles(runs.iter().map(|run| run.first_minute).collect())
    });
    let first_share: (&str, Show) = ("first share", |runs| {
        percentiles(runs.iter().filter_map(|run| run.first_share).collect())
    });
    match case {
        Case::Start { error } if error < 1.0 => vec![settled, first_minute],
        Case::Start { .. } => vec![first_share, settled],
        Case::Change { .. } => vec![settled],
        Case::Pause => vec![first_minute, settled],
        Case::Steady => vec![("retargets an hour, RMS error of log2", |runs| {
            let mean =
                |value: fn(&Run) -> f64| runs.iter().map(value).sum::<f64>() / runs.len() as f64;
            format!(
                "{:.2}, {:.2}",
                mean(|run| run.retargets_per_hour),
                mean(|run| run.rms_error)
            )
        })],
    }
}

fn percentiles(mut values: Vec<f64>) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("{}/{}", short(at(0.5)), short(at(0.95)))
}

fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{:.1} M", value / 1e6),
        1e4.. => format!("{:.1} k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}
