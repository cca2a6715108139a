//! Measures a stats service from outside, as a process of its own: `make bench-stats`.
//!
//! One sender tells of many peers with a worker each, all of them anew once an interval, as a large pool does. The service's
//! cost is read from `/proc` and from its store. `docs/benchmarks.md` says what each figure means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures are what it is for"
)]

mod pages;
mod sender;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench_pool::{Result, process::Process};
use clap::Parser;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::sleep;

use sender::Sender;

/// Time for a service to open its ports.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Measures a stats service under load.
#[derive(Debug, Parser)]
struct Options {
    /// The binary `hashpool`
    #[arg(long, value_name = "FILE")]
    hashpool: PathBuf,
    /// Peers, each with one worker
    #[arg(long, default_value_t = 10_000)]
    workers: u64,
    /// Seconds in which each of them is told of once
    #[arg(long, default_value_t = 5)]
    interval: u64,
    /// Seconds to measure, after the first interval
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Pages to time, several times each
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "/,/peers,/workers,/workers?q=rig99,/metrics"
    )]
    pages: Vec<String>,
    /// Requests for each page
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// Where the service keeps everything; a file of its own if absent
    #[arg(long, value_name = "URL")]
    storage: Option<String>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    workers: u64,
    seconds: f64,
    /// Stored, and so acknowledged.
    events_per_second: f64,
    /// From telling to the acknowledgement.
    longest_acknowledgement_ms: f64,
    /// Of one processor core.
    cpu: f64,
    resident_mb: f64,
    /// Of its file, after everything was written there; none where it is not a file of the benchmark's own.
    bytes_on_disk: Option<u64>,
    pages: Vec<pages::Times>,
}

// One thread for the sender and the reader, so that the service has what is left of the machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    let mut service = Service::start(&options, folder.path())?;
    let measured = measure(&options, &mut service).await;
    if measured.is_err() {
        eprintln!("{}", service.process.last_words());
    }
    let figures = measured?;
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// A running service.
struct Service {
    process: Process,
    address: SocketAddr,
    http: SocketAddr,
    /// Its store, where that is a file of the benchmark's own.
    file: Option<PathBuf>,
}

impl Service {
    fn start(options: &Options, folder: &Path) -> Result<Self> {
        let [address, http] = free_addresses()?;
        let file = folder.join("stats.sqlite");
        let url = options.storage.clone();
        let file = url.is_none().then_some(file);
        let own = file
            .as_deref()
            .map(|file| format!("sqlite:{}", file.display()));
        let url = url.or(own).unwrap_or_default();
        let mut command = Command::new(&options.hashpool);
        command.arg("pool-stats");
        for set in [
            format!("listen_address={address}"),
            format!("http_address={http}"),
            format!("storage.url={url}"),
        ] {
            command.args(["--set", &set]);
        }
        let process = Process::start(&mut command, &folder.join("log"))?;
        Ok(Self {
            process,
            address,
            http,
            file,
        })
    }

    async fn connect(&mut self) -> Result<TcpStream> {
        let start = Instant::now();
        loop {
            match TcpStream::connect(self.address).await {
                Ok(stream) => return Ok(stream),
                Err(error) if self.process.has_ended() || start.elapsed() > START_TIMEOUT => {
                    return Err(format!("the service does not listen: {error}").into());
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

async fn measure(options: &Options, service: &mut Service) -> Result<Figures> {
    let stream = service.connect().await?;
    let mut sender = Sender::start(stream, options.workers, options.interval).await?;
    eprintln!("{} workers begin", options.workers);
    sender.rounds(1).await?;
    let (events, times) = (sender.stored(), service.process.processor_times()?);
    let start = Instant::now();
    eprintln!("measuring for {} s", options.seconds);
    sender
        .rounds(options.seconds.div_ceil(options.interval))
        .await?;
    let elapsed = start.elapsed().as_secs_f64();
    let used = service.process.processor_times()?.since(&times);
    let events = sender.stored() - events;
    let memory = service.process.memory()?.resident;
    let mut timed = Vec::new();
    for page in &options.pages {
        eprintln!("{page}");
        timed.push(pages::time(service.http, page, options.requests).await?);
    }
    let size = |file: &PathBuf| fs::metadata(file).map(|metadata| metadata.len());
    // Far from what a float cannot hold.
    #[allow(clippy::cast_precision_loss)]
    Ok(Figures {
        workers: options.workers,
        seconds: elapsed,
        events_per_second: events as f64 / elapsed,
        longest_acknowledgement_ms: sender.longest().as_secs_f64() * 1000.0,
        cpu: used.as_secs_f64() / elapsed,
        resident_mb: memory as f64 / 1e6,
        bytes_on_disk: service.file.as_ref().map(size).transpose()?,
        pages: timed,
    })
}

/// Two that are free now, and not the same.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let open = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (open()?, open()?);
    Ok([one.local_addr()?, other.local_addr()?])
}
