//! What it costs to tell a stats service what happens: the same load with and without one, in turns.

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;
use stats_events::{FrameReader, FromSender, FromService, decode, encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use bench_pool::{Result, subject::Subject};

use crate::throughput::{self, Load};

/// A service that is told, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    None,
    /// Reads and acknowledges all.
    Attentive,
    /// Welcomes the pool, and reads nothing after that.
    Deaf,
}

/// What was found in all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    pub(crate) rounds: usize,
    /// Medians.
    pub(crate) without: Cost,
    pub(crate) attentive: Compared,
    pub(crate) deaf: Compared,
}

/// What shares cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_per_share_us: f64,
    pub(crate) shares_per_second: f64,
    /// Of the processor time, what the thread used that tells the service.
    pub(crate) telling_percent: f64,
}

/// What shares cost with a service, and beside the run of the same round without one.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    /// Medians.
    pub(crate) cost: Cost,
    pub(crate) more_cpu_percent: Interval,
    pub(crate) fewer_shares_percent: Interval,
}

/// The median of all rounds, and what the true one is in with 95 %; nothing of that where there are fewer than six rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) within: Option<(f64, f64)>,
}

pub(crate) async fn measure(subject: &Subject, load: Load, rounds: usize) -> Result<Told> {
    let services = [Service::None, Service::Attentive, Service::Deaf];
    let mut costs = [const { Vec::new() }; 3];
    for round in 0..rounds {
        // Each has every place in the order, because a machine has moods.
        for place in 0..services.len() {
            let at = (place + round) % services.len();
            costs[at].push(cost(subject, load, services[at]).await?);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let [without, attentive, deaf] = costs;
    Ok(Told {
        rounds,
        attentive: Compared::new(&attentive, &without),
        deaf: Compared::new(&deaf, &without),
        without: Cost::median(&without),
    })
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
async fn cost(subject: &Subject, load: Load, service: Service) -> Result<Cost> {
    let (address, task) = match service {
        Service::None => (None, None),
        service => {
            let (address, task) = serve(service).await?;
            (Some(address), Some(task))
        }
    };
    let pool = subject.start_telling(load.batch, false, address).await?;
    let result = throughput::measure(&pool, load).await?;
    if let Some(task) = task {
        task.abort();
    }
    let accepted = result.accepted as f64;
    let processor_time = result.processor_time.as_secs_f64();
    Ok(Cost {
        cpu_per_share_us: processor_time * 1e6 / accepted,
        shares_per_second: accepted / result.wall.as_secs_f64(),
        telling_percent: result.telling.as_secs_f64() / processor_time * 100.0,
    })
}

impl Cost {
    fn median(costs: &[Self]) -> Self {
        let middle = |value: fn(&Self) -> f64| {
            let values = costs.iter().map(value).collect();
            Interval::of(values).median
        };
        Self {
            cpu_per_share_us: middle(|cost| cost.cpu_per_share_us),
            shares_per_second: middle(|cost| cost.shares_per_second),
            telling_percent: middle(|cost| cost.telling_percent),
        }
    }
}

impl Compared {
    /// Round by round, so that what a machine does for a while is in both.
    fn new(with: &[Cost], without: &[Cost]) -> Self {
        let pairs = || with.iter().zip(without);
        let more_cpu = |(with, without): (&Cost, &Cost)| {
            (with.cpu_per_share_us / without.cpu_per_share_us - 1.0) * 100.0
        };
        let fewer_shares = |(with, without): (&Cost, &Cost)| {
            (1.0 - with.shares_per_second / without.shares_per_second) * 100.0
        };
        Self {
            cost: Cost::median(with),
            more_cpu_percent: Interval::of(pairs().map(more_cpu).collect()),
            fewer_shares_percent: Interval::of(pairs().map(fewer_shares).collect()),
        }
    }
}

impl Interval {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let left_out = left_out(count);
        Self {
            median: (values[(count - 1) / 2] + values[count / 2]) / 2.0,
            within: left_out.map(|out| (values[out], values[count - 1 - out])),
        }
    }
}

/// How many of so many values can be left out at each end, so that the median is between the rest with 95 %: each value is
/// above it or below it like a coin, whatever the values' distribution is.
fn left_out(count: usize) -> Option<usize> {
    // The chance that exactly `out` of them are below the median, and that so many or fewer are.
    let mut chance = 0.5f64.powi(i32::try_from(count).ok()?);
    let (mut sum, mut out) = (0.0, None);
    for below in 0..count {
        sum += chance;
        if sum > 0.025 {
            break;
        }
        out = Some(below);
        #[allow(clippy::cast_precision_loss, reason = "a few rounds")]
        let (left, next) = ((count - below) as f64, (below + 1) as f64);
        chance *= left / next;
    }
    out
}

async fn serve(service: Service) -> Result<(SocketAddr, AbortHandle)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Err(error) = listen(stream, service).await {
                    eprintln!("the stats service has ended: {error}");
                }
            });
        }
    });
    Ok((address, task.abort_handle()))
}

async fn listen(mut stream: TcpStream, service: Service) -> Result<()> {
    let (mut frames, mut bytes) = (FrameReader::default(), vec![0; 1 << 16]);
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        frames.push(&bytes[..read]);
        let (mut out, mut last) = (Vec::new(), None);
        while let Some(frame) = frames.next_frame()? {
            match decode(frame)? {
                FromSender::Hello(hello) => encode(
                    &FromService::Welcome {
                        version: hello.version,
                        last_sequence: 0,
                    },
                    &mut out,
                )?,
                FromSender::Event(event) => last = Some(event.sequence),
                FromSender::Heartbeat { .. } | FromSender::Unknown => {}
            }
        }
        if let Some(sequence) = last {
            encode(&FromService::Ack { sequence }, &mut out)?;
        }
        stream.write_all(&out).await?;
        if service == Service::Deaf {
            // The connection stays.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of the sign test have the same.
    #[test]
    fn an_interval_leaves_out_as_many_as_the_binomial_distribution_allows() {
        let tabled = [
            (5, None),
            (6, Some(0)),
            (9, Some(1)),
            (12, Some(2)),
            (20, Some(5)),
        ];
        for (count, out) in tabled {
            assert_eq!(left_out(count), out, "{count}");
        }
        let interval = Interval::of((1..=9).rev().map(f64::from).collect());
        assert_eq!(interval.median, 5.0);
        assert_eq!(interval.within, Some((2.0, 8.0)));
        assert_eq!(Interval::of(vec![1.0, 4.0]).median, 2.5);
    }
}
