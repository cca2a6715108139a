//! One connection that sends its next share when the last one is acknowledged.

use std::time::{Duration, Instant};

use sv2_connection::FrameBuffer;
use tokio::time::timeout;

use bench_pool::{
    Result,
    client::{Answer, Client},
    subject::Pool,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// When to stop, even if there are shares left.
const LONGEST: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Latency {
    /// Sorted; from before the write to behind the read of the acknowledgement.
    pub(crate) times: Vec<Duration>,
    /// Of the pool alone.
    pub(crate) processor_time: Duration,
}

pub(crate) async fn measure(pool: &Pool, shares: usize) -> Result<Latency> {
    let mut client = pool.connect().await?;
    let channel = client.open_channel().await?;
    let shares = channel.find_shares(shares);
    let mut frames = FrameBuffer::new();
    let mut times = Vec::new();
    let before = pool.process.processor_times()?;
    let start = Instant::now();
    for (number, share) in (0..).zip(shares) {
        channel.submit(share, number, &mut frames)?;
        let sent = Instant::now();
        client.writer.write(&mut frames).await?;
        timeout(PATIENCE, acknowledgement(&mut client))
            .await
            .map_err(|_| "a share is not acknowledged")??;
        times.push(sent.elapsed());
        if start.elapsed() > LONGEST {
            break;
        }
    }
    let processor_time = pool.process.processor_times()?.since(&before);
    times.sort_unstable();
    Ok(Latency {
        times,
        processor_time,
    })
}

async fn acknowledgement(client: &mut Client) -> Result<()> {
    let mut accepted = 0;
    let mut refused = None;
    while accepted == 0 {
        let read = client.reader.read(|frame| {
            match Answer::read(frame)? {
                Answer::Accepted(count) => accepted += count,
                Answer::Rejected(reason) => refused = Some(reason),
                Answer::Other => {}
            }
            Ok::<_, sv2_connection::Error>(())
        });
        read.await?;
        if let Some(reason) = refused {
            return Err(format!("a share was refused: {reason}").into());
        }
    }
    Ok(())
}
