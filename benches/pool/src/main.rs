//! Measures the pool from outside, as a process of its own, and SRI's beside it: `make bench-pool`.
//!
//! Miners' connections and the template provider are this process's; the pool's cost is read from `/proc`. Shares are real:
//! they meet their channel's target, which is one of ten hashes. `docs/benchmarks.md` says what each figure means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures are what it is for"
)]

mod crowd;
mod latency;
mod report;
mod throughput;
mod told;

use std::path::PathBuf;

use clap::Parser;

use bench_pool::{Result, subject::Subject};
use report::Figures;
use throughput::Load;

/// On each channel, at most, where a load is measured again and again.
const SHARES_A_ROUND: usize = 1500;

/// Measures pools under load.
#[derive(Debug, Parser)]
struct Options {
    /// The binary `hashpool`; without it, ours is not measured
    #[arg(long, value_name = "FILE")]
    hashpool: Option<PathBuf>,
    /// The binary `pool_sv2` of SRI; without it, theirs is not measured
    #[arg(long, value_name = "FILE")]
    sri: Option<PathBuf>,
    /// Only these: throughput, latency, crowd, stats
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "throughput,latency,crowd,stats"
    )]
    only: Vec<String>,
    /// Connections that send shares
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Channels on each of them
    #[arg(long, default_value_t = 100)]
    channels: usize,
    /// Shares on each channel; a multiple of the batch
    #[arg(long, default_value_t = 5000)]
    shares: usize,
    /// Shares that are written at once
    #[arg(long, default_value_t = 10)]
    batch: usize,
    /// Shares on a connection that may wait for their answer
    #[arg(long, default_value_t = 20_000)]
    window: u64,
    /// Shares for the latency of the acknowledgement
    #[arg(long, default_value_t = 2000)]
    single_shares: usize,
    /// Times that the load is measured with and without a stats service; six and more have an interval
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Connections that send none
    #[arg(long, default_value_t = 2000)]
    idle_connections: usize,
    /// New blocks to tell them of
    #[arg(long, default_value_t = 9)]
    blocks: usize,
}

// One thread for all clients and the provider, so that the pool has what is left of the machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    if options.batch == 0 || !options.shares.is_multiple_of(options.batch) {
        return Err("--shares must be a multiple of --batch".into());
    }
    let ours = options.hashpool.clone().map(Subject::Hashpool);
    let theirs = options.sri.clone().map(Subject::Sri);
    if theirs.is_none() {
        eprintln!("SRI's pool is not measured: --sri does not say where pool_sv2 is");
    }
    let mut all = Vec::new();
    for subject in [theirs, ours].into_iter().flatten() {
        all.push(measure(&subject, &options).await);
    }
    println!("{}\n", report::table(&all));
    println!("{}", serde_json::to_string_pretty(&all)?);
    if all.iter().any(|figures| !figures.failures.is_empty()) {
        return Err("not everything could be measured".into());
    }
    Ok(())
}

/// Each measurement has a new process, so that none shows in the next one.
async fn measure(subject: &Subject, options: &Options) -> Figures {
    let mut figures = Figures {
        pool: subject.name().to_owned(),
        ..Figures::default()
    };
    match subject.version() {
        Ok(version) => figures.version = version,
        Err(error) => {
            figures.failures.push(error.to_string());
            return figures;
        }
    }
    for name in &options.only {
        eprintln!("{}: {name}", figures.version);
        if let Err(error) = measure_one(subject, name, options, &mut figures).await {
            eprintln!("{}: {name} cannot be measured: {error}", figures.version);
            figures.failures.push(format!("{name}: {error}"));
        }
    }
    figures
}

async fn measure_one(
    subject: &Subject,
    name: &str,
    options: &Options,
    figures: &mut Figures,
) -> Result<()> {
    let load = Load {
        connections: options.connections,
        channels: options.channels,
        shares: options.shares,
        batch: options.batch,
        window: options.window,
    };
    match name {
        "throughput" => {
            let pool = subject.start(options.batch, false).await?;
            figures.add_throughput(throughput::measure(&pool, load).await?);
        }
        "latency" => {
            let pool = subject.start(1, false).await?;
            figures.add_latency(&latency::measure(&pool, options.single_shares).await?);
        }
        "crowd" => {
            let pool = subject.start(options.batch, false).await?;
            let result = crowd::measure(&pool, options.idle_connections, options.blocks).await?;
            figures.add_crowd(&result);
        }
        // SRI's has no stats service to tell.
        "stats" if matches!(subject, Subject::Sri(_)) => {}
        "stats" => {
            // Many short rounds tell more than a few long ones.
            let shares = load.shares.min(SHARES_A_ROUND) / load.batch * load.batch;
            let load = Load { shares, ..load };
            let told = told::measure(subject, load, options.rounds.max(1)).await?;
            figures.told = Some(told);
        }
        other => return Err(format!("there is no measurement {other}").into()),
    }
    Ok(())
}
