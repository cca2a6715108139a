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

/// The medians of all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    pub(crate) rounds: usize,
    pub(crate) without: Cost,
    pub(crate) attentive: Cost,
    pub(crate) deaf: Cost,
}

/// What shares cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_per_share_us: f64,
    pub(crate) shares_per_second: f64,
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
    }
    let [without, attentive, deaf] = costs.map(median);
    Ok(Told {
        rounds,
        without,
        attentive,
        deaf,
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
    Ok(Cost {
        cpu_per_share_us: result.processor_time.as_secs_f64() * 1e6 / accepted,
        shares_per_second: accepted / result.wall.as_secs_f64(),
    })
}

fn median(mut costs: Vec<Cost>) -> Cost {
    let mut middle = |value: fn(&Cost) -> f64| {
        costs.sort_by(|a, b| value(a).total_cmp(&value(b)));
        value(&costs[costs.len() / 2])
    };
    Cost {
        cpu_per_share_us: middle(|cost| cost.cpu_per_share_us),
        shares_per_second: middle(|cost| cost.shares_per_second),
    }
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
