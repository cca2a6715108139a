//! Measures the relay from outside, as a process of its own, and HAProxy and socat beside it in the same run:
//! `make bench-relay`.
//!
//! The miners' ends and the pool's ends are this process's, each kind on a thread of its own; what it costs to stand between
//! them is read from `/proc`. `docs/benchmarks.md` says what each figure means.

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

mod farm;
mod measure;
mod pool;
mod report;
mod socket;
mod subject;
mod usage;

use std::{path::PathBuf, time::Duration};

use bench_pool::Result;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use pool::Pool;
use report::Figures;
use subject::{Running, Subject};

/// Measures relays under load.
#[derive(Debug, Parser)]
struct Options {
    /// The binary `hashpool`; without it, ours is not measured
    #[arg(long, value_name = "FILE")]
    hashpool: Option<PathBuf>,
    /// The binary `haproxy`; without it, it is not measured
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// The binary `socat`; without it, it is not measured
    #[arg(long, value_name = "FILE")]
    socat: Option<PathBuf>,
    /// Only these: one, thousand, latency, submits, idle
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "one,thousand,latency,submits,idle"
    )]
    only: Vec<String>,
    /// Seconds for which bytes or submits are sent
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Connections that are not idle
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Submits that each of them sends a second
    #[arg(long, default_value_t = 5.0)]
    submits: f64,
    /// Submits whose answers are timed, one after the other
    #[arg(long, default_value_t = 5000)]
    round_trips: usize,
    /// Idle connections; fewer where file descriptors are short, and a hundredth of it for socat, which has a process for each
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    // They are started in folders of their own.
    let programs = [
        &mut options.hashpool,
        &mut options.haproxy,
        &mut options.socat,
    ];
    for file in programs.into_iter().flatten() {
        *file = std::path::absolute(&*file)?;
    }
    bound_by_files(&mut options)?;
    let all = Subject::all(&options.hashpool, &options.haproxy, &options.socat);
    let pool = Pool::start()?;
    let mut figures = Vec::new();
    for subject in all {
        figures.push(measure_all(&subject, &options, &pool));
    }
    println!("{}\n", report::table(&figures));
    println!("{}", serde_json::to_string_pretty(&figures)?);
    if figures.iter().any(|figures| !figures.failures.is_empty()) {
        return Err("not everything could be measured".into());
    }
    Ok(())
}

/// Here and in the processes that are started: each connection is two descriptors on both sides.
fn bound_by_files(options: &mut Options) -> Result<()> {
    let wanted = 2 * options.idle.max(options.connections) as u64 + SPARE_FILES;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Only some may raise it.
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, wanted.max(hard), wanted.max(hard)) {
        Ok(()) => wanted.max(hard),
        Err(_) => {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            hard
        }
    };
    let most = (limit.saturating_sub(SPARE_FILES) / 2) as usize;
    if most < options.connections {
        return Err(format!("{limit} file descriptors are too few (ulimit -Hn)").into());
    }
    if most < options.idle {
        eprintln!("{most} idle connections: {limit} file descriptors allow no more");
        options.idle = most;
    }
    Ok(())
}

/// Each measurement has a new process, so that none shows in the next one.
fn measure_all(subject: &Subject, options: &Options, pool: &Pool) -> Figures {
    let mut figures = Figures {
        subject: subject.name().to_owned(),
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
        if let Err(error) = measure_one(subject, name, options, pool, &mut figures) {
            eprintln!("{}: {name} cannot be measured: {error}", figures.version);
            figures.failures.push(format!("{name}: {error}"));
        }
        pool.forget();
    }
    figures
}

fn measure_one(
    subject: &Subject,
    name: &str,
    options: &Options,
    pool: &Pool,
    figures: &mut Figures,
) -> Result<()> {
    let mut running = subject.start(pool.address())?;
    let time = Duration::from_secs(options.seconds);
    let measured = match name {
        "one" => measure::stream(&mut running, pool, 1, time).map(|it| figures.one = Some(it)),
        "thousand" => measure::stream(&mut running, pool, options.connections, time)
            .map(|it| figures.many = Some(it)),
        "latency" => {
            measure::latency(&running, options.round_trips).map(|it| figures.latency = Some(it))
        }
        "submits" => measure::submits(&running, options.connections, options.submits, time)
            .map(|it| figures.submits = Some(it)),
        "idle" => measure::idle(&running, idle_connections(subject, options))
            .map(|it| figures.idle = Some(it)),
        other => return Err(format!("there is no measurement {other}").into()),
    };
    measured.map_err(|error| with_last_words(&running, &error))
}

fn idle_connections(subject: &Subject, options: &Options) -> usize {
    match subject {
        Subject::Socat(_) => options.idle.div_ceil(100),
        _ => options.idle,
    }
}

fn with_last_words(running: &Running, error: &bench_pool::Error) -> bench_pool::Error {
    match running.last_words() {
        Some(said) => format!("{error}; it said last:\n{said}").into(),
        None => error.to_string().into(),
    }
}

/// For everything but connections.
const SPARE_FILES: u64 = 200;
