//! Measures the translator with its pool from outside, each a process of its own, and SRI's beside them:
//! `make bench-translator`.
//!
//! The SV1 miners and the template provider are this process's; what it costs to serve them is read from `/proc`. Shares are
//! real and found beforehand. `docs/benchmarks.md` says what each figure means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures are what it is for"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people, and rates that the command line bounds"
)]

mod crowd;
mod farm;
mod flood;
mod http;
mod load;
mod miner;
mod report;
mod shares;
mod subject;

use std::{path::PathBuf, time::Duration};

use bench_pool::Result;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use load::Load;
use report::Figures;
use subject::{Programs, Setup, Stack};

/// Measures translators under load.
#[derive(Debug, Parser)]
struct Options {
    /// The binary `hashpool`; without it, ours is not measured
    #[arg(long, value_name = "FILE")]
    hashpool: Option<PathBuf>,
    /// The binary `translator_sv2` of SRI; without it and the next, theirs is not measured
    #[arg(long, value_name = "FILE", requires = "sri_pool")]
    sri_translator: Option<PathBuf>,
    /// The binary `pool_sv2` of SRI
    #[arg(long, value_name = "FILE")]
    sri_pool: Option<PathBuf>,
    /// Only these: connect, crowd, aggregated, few, many, flood, honest
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "connect,crowd,aggregated,few,many,flood,honest"
    )]
    only: Vec<String>,
    /// Miners that connect one after the other
    #[arg(long, default_value_t = 300)]
    connects: usize,
    /// Miners that connect within a second, and stay
    #[arg(long, default_value_t = 5000)]
    crowd: usize,
    /// New blocks to tell them of
    #[arg(long, default_value_t = 9)]
    blocks: usize,
    /// Seconds for which shares are sent at a steady rate
    #[arg(long, default_value_t = 4)]
    load_seconds: u64,
    /// Miners that flood
    #[arg(long, default_value_t = 100)]
    flooding: usize,
    /// Shares that they send each second, all together
    #[arg(long, default_value_t = 150_000.0)]
    flood_rate: f64,
    /// Seconds for which they do
    #[arg(long, default_value_t = 8)]
    flood_seconds: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    raise_file_limit(&options)?;
    // For the provider of templates; the miners are on the main thread.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let theirs = options.sri_translator.clone().zip(options.sri_pool.clone());
    let theirs = theirs.map(|(translator, pool)| Programs::Sri { translator, pool });
    if theirs.is_none() {
        eprintln!("SRI's is not measured: it is not said where translator_sv2 and pool_sv2 are");
    }
    let ours = options.hashpool.clone().map(Programs::Hashpool);
    let mut all = Vec::new();
    for programs in [theirs, ours].into_iter().flatten() {
        all.push(measure(&programs, &options, &runtime));
    }
    println!("{}\n", report::table(&all));
    println!("{}", serde_json::to_string_pretty(&all)?);
    if all.iter().any(|figures| !figures.failures.is_empty()) {
        return Err("not everything could be measured".into());
    }
    Ok(())
}

/// Here and in the processes that are started: each miner is a descriptor on both sides.
fn raise_file_limit(options: &Options) -> Result<()> {
    let needed = options.crowd as u64 + 200;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if hard < needed {
        return Err(format!(
            "{needed} file descriptors are needed, and {hard} allowed: raise it (ulimit -Hn) or lower --crowd"
        )
        .into());
    }
    Ok(())
}

/// Each measurement has new processes, so that none shows in the next one.
fn measure(programs: &Programs, options: &Options, runtime: &Runtime) -> Figures {
    let mut figures = Figures {
        subject: programs.name().to_owned(),
        ..Figures::default()
    };
    match programs.version() {
        Ok(version) => figures.version = version,
        Err(error) => {
            figures.failures.push(error.to_string());
            return figures;
        }
    }
    for name in &options.only {
        eprintln!("{}: {name}", figures.version);
        if let Err(error) = measure_one(programs, name, options, runtime, &mut figures) {
            eprintln!("{}: {name} cannot be measured: {error}", figures.version);
            figures.failures.push(format!("{name}: {error}"));
        }
    }
    figures
}

fn measure_one(
    programs: &Programs,
    name: &str,
    options: &Options,
    runtime: &Runtime,
    figures: &mut Figures,
) -> Result<()> {
    let setup = Setup {
        aggregated: name == "aggregated",
        counted: ["few", "many", "flood"].contains(&name),
    };
    let stack = programs.start(setup, runtime)?;
    measure_stack(&stack, name, options, runtime, figures).map_err(|error| {
        let said = stack.translator.last_words();
        format!("{error}; the translator said last:\n{said}").into()
    })
}

fn measure_stack(
    stack: &Stack,
    name: &str,
    options: &Options,
    runtime: &Runtime,
    figures: &mut Figures,
) -> Result<()> {
    let load = |miners, shares_per_second| Load {
        miners,
        shares_per_second,
        time: Duration::from_secs(options.load_seconds),
    };
    match name {
        "connect" => {
            let waits = crowd::one_by_one(stack, options.connects)?;
            figures.first_job_p50_ms = Some(report::percentile(&waits, 50));
            figures.first_job_p99_ms = Some(report::percentile(&waits, 99));
        }
        "crowd" | "aggregated" => {
            let crowd = crowd::measure(stack, runtime, options.crowd, options.blocks)?;
            let crowd = Some((&crowd).into());
            if name == "aggregated" {
                figures.crowd_aggregated = crowd;
            } else {
                figures.crowd = crowd;
            }
        }
        "few" => {
            let cost = load::measure(stack, load(10, 15_000.0))?;
            figures.few_fast_miners = Some((&cost).into());
        }
        "many" => {
            let cost = load::measure(stack, load(1000, 5000.0))?;
            figures.many_miners = Some((&cost).into());
        }
        "flood" => {
            let time = Duration::from_secs(options.flood_seconds);
            let load = Load {
                miners: options.flooding,
                shares_per_second: options.flood_rate,
                time,
            };
            let flood = flood::measure(stack, load)?;
            figures.flood = Some((&flood).into());
        }
        "honest" => {
            let time = Duration::from_secs(options.load_seconds);
            let [alone, beside] = flood::honest(stack, 50.0, time)?;
            figures.honest_alone_p99_ms = Some(report::percentile(&alone, 99));
            figures.honest_beside_flood_p99_ms = Some(report::percentile(&beside, 99));
        }
        other => return Err(format!("there is no measurement {other}").into()),
    }
    Ok(())
}
