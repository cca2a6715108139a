//! Shares as fast as the pool takes them. They are found and sealed beforehand, so that the client costs next to nothing.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use sv2_connection::{FrameBuffer, Reader, Sealer};
use tokio::{io::AsyncWriteExt, net::tcp::OwnedWriteHalf, sync::Notify, time::timeout};

use bench_pool::{
    Result,
    client::{Answer, Channel, Client, Share},
    subject::Pool,
};

/// How long a pool may say nothing while shares wait for it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The name of the pool's thread that tells a stats service.
const TELLING: &str = "stats";

/// The load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// On each connection. So many that none has more shares on one tip than SRI's pool remembers for a channel.
    pub(crate) channels: usize,
    /// On each channel.
    pub(crate) shares: usize,
    /// Shares of one channel that are written at once.
    pub(crate) batch: usize,
    /// Shares on a connection that may wait for their answer.
    pub(crate) window: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Throughput {
    pub(crate) accepted: u64,
    pub(crate) rejected: BTreeMap<String, u64>,
    pub(crate) wall: Duration,
    /// Of the pool alone.
    pub(crate) processor_time: Duration,
    /// Of that, what the thread used that tells a stats service.
    pub(crate) telling: Duration,
}

/// A connection with all its shares sealed, batch by batch.
struct Loaded {
    reader: Reader,
    socket: OwnedWriteHalf,
    sealed: Vec<u8>,
    batches: usize,
    load: Load,
}

pub(crate) async fn measure(pool: &Pool, load: Load) -> Result<Throughput> {
    let mut opened = Vec::new();
    for _ in 0..load.connections {
        let mut client = pool.connect().await?;
        let mut channels = Vec::new();
        for _ in 0..load.channels {
            channels.push(client.open_channel().await?);
        }
        opened.push((client, channels));
    }
    let loaded = prepare(opened, load)?;
    let before = pool.process.processor_times()?;
    let start = Instant::now();
    let running: Vec<_> = loaded
        .into_iter()
        .map(|one| tokio::spawn(one.run()))
        .collect();
    let mut result = Throughput {
        accepted: 0,
        rejected: BTreeMap::new(),
        wall: Duration::ZERO,
        processor_time: Duration::ZERO,
        telling: Duration::ZERO,
    };
    for one in running {
        let (accepted, rejected) = one.await??;
        result.accepted += accepted;
        for (reason, count) in rejected {
            *result.rejected.entry(reason).or_default() += count;
        }
    }
    result.wall = start.elapsed();
    let after = pool.process.processor_times()?;
    result.processor_time = after.since(&before);
    result.telling = after.since_of(&before, TELLING);
    Ok(result)
}

fn prepare(opened: Vec<(Client, Vec<Channel>)>, load: Load) -> Result<Vec<Loaded>> {
    thread::scope(|scope| {
        let threads: Vec<_> = opened
            .into_iter()
            .map(|(client, channels)| scope.spawn(move || Loaded::new(client, &channels, load)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| "a thread that hashes has failed")?
            })
            .collect()
    })
}

impl Loaded {
    fn new(client: Client, channels: &[Channel], load: Load) -> Result<Self> {
        let (socket, mut sealer) = client.writer.into_parts();
        let shares: Vec<_> = channels
            .iter()
            .map(|channel| (channel, channel.find_shares(load.shares)))
            .collect();
        let mut sealed = Vec::new();
        let mut batches = 0;
        for start in (0..load.shares).step_by(load.batch) {
            for (channel, shares) in &shares {
                let batch = &shares[start..load.shares.min(start + load.batch)];
                seal(channel, start, batch, &mut sealer, &mut sealed)?;
                batches += 1;
            }
        }
        Ok(Self {
            reader: client.reader,
            socket,
            sealed,
            batches,
            load,
        })
    }

    /// Writes all, batch by batch, and counts the answers.
    async fn run(self) -> Result<(u64, BTreeMap<String, u64>)> {
        let Self {
            mut reader,
            mut socket,
            sealed,
            batches,
            load,
        } = self;
        let batch = load.batch as u64;
        let total = batch * batches as u64;
        let answered = AtomicU64::new(0);
        let progress = Notify::new();
        let writing = async {
            // All frames have the same size.
            for (at, bytes) in sealed.chunks(sealed.len() / batches).enumerate() {
                while (at as u64 + 1) * batch > answered.load(Relaxed) + load.window {
                    progress.notified().await;
                }
                socket.write_all(bytes).await?;
            }
            Ok::<_, bench_pool::Error>(())
        };
        let reading = async {
            let mut accepted = 0;
            let mut rejected = BTreeMap::<String, u64>::new();
            while answered.load(Relaxed) < total {
                let read = reader.read(|frame| {
                    match Answer::read(frame)? {
                        Answer::Accepted(count) => accepted += u64::from(count),
                        Answer::Rejected(reason) => *rejected.entry(reason).or_default() += 1,
                        Answer::Other => {}
                    }
                    Ok::<_, sv2_connection::Error>(())
                });
                timeout(PATIENCE, read).await.map_err(|_| {
                    format!(
                        "no answer to {} of {total} shares",
                        total - answered.load(Relaxed)
                    )
                })??;
                answered.store(accepted + rejected.values().sum::<u64>(), Relaxed);
                progress.notify_one();
            }
            Ok((accepted, rejected))
        };
        let ((), counts) = tokio::try_join!(writing, reading)?;
        Ok(counts)
    }
}

fn seal(
    channel: &Channel,
    start: usize,
    batch: &[Share],
    sealer: &mut Sealer,
    sealed: &mut Vec<u8>,
) -> Result<()> {
    let mut frames = FrameBuffer::new();
    for (at, share) in batch.iter().enumerate() {
        let sequence_number = u32::try_from(start + at)?;
        channel.submit(*share, sequence_number, &mut frames)?;
    }
    sealer.seal(&frames, sealed)?;
    Ok(())
}
