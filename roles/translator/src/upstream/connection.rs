//! One living upstream connection: the task that reads, the task that writes, and their end.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use stratum_core::mining_sv2::{
    CloseChannel, OpenExtendedMiningChannel, SubmitSharesExtended, UpdateChannel,
};
use stratum_core::parsers_sv2::Mining;
use sv2_connection::{Connection, FrameBuffer, MalformedMessage, Reader, Writer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use work::Hashrate;

use super::router::{Router, UpstreamError};
use super::{Link, Outgoing, Registry};
use crate::session::Request;

/// How long an upstream may answer no request for a channel, before miners are better off with another connection.
const OWING_PATIENCE: Duration = Duration::from_secs(60);
const OWING_CHECK: Duration = Duration::from_secs(5);

/// Requests that are sealed and written together.
const BATCH: usize = 256;

/// A connection that is set up, before its tasks run.
pub(super) struct Established {
    reader: Reader,
    writer: Writer,
    router: Router,
    outgoing: mpsc::Receiver<Outgoing>,
    link: Link,
}

impl Established {
    pub(super) fn new(
        connection: Connection,
        id: u64,
        queue: usize,
        job_ids: Arc<AtomicU64>,
    ) -> Self {
        let registry = Arc::new(Registry::default());
        let (sender, outgoing) = mpsc::channel(queue);
        Self {
            reader: connection.reader,
            writer: connection.writer,
            router: Router::new(Arc::clone(&registry), job_ids),
            outgoing,
            link: Link {
                id,
                queue: sender,
                registry,
            },
        }
    }

    pub(super) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Reads and writes until the connection ends.
    pub(super) async fn run(self, shutdown: &CancellationToken) -> Result<(), UpstreamError> {
        let Self {
            mut reader,
            writer,
            mut router,
            outgoing,
            link,
        } = self;
        let mut writing = tokio::spawn(write(writer, outgoing));
        let reading = read(&mut reader, &mut router, &link.queue);
        let end = tokio::select! {
            end = reading => end,
            error = until_owing(&link.registry) => Err(error),
            // A panic in the task is the only other way; it ends this connection alone.
            end = &mut writing => end.unwrap_or(Ok(())),
            () = shutdown.cancelled() => Ok(()),
        };
        writing.abort();
        end
    }
}

async fn read(
    reader: &mut Reader,
    router: &mut Router,
    queue: &mpsc::Sender<Outgoing>,
) -> Result<(), UpstreamError> {
    loop {
        reader.read(|frame| router.handle(frame)).await?;
        // If the queue is full now, there is another time.
        while let Some(channel_id) = router.unwanted().pop() {
            let close = Outgoing {
                request_id: 0,
                request: Request::Close { channel_id },
            };
            if queue.try_send(close).is_err() {
                router.unwanted().push(channel_id);
                break;
            }
        }
    }
}

/// Comes back when the upstream has not answered for too long.
async fn until_owing(registry: &Registry) -> UpstreamError {
    loop {
        tokio::time::sleep(OWING_CHECK).await;
        let owing = registry.owing_for(Instant::now());
        if owing >= OWING_PATIENCE {
            return UpstreamError::Owing(owing);
        }
        if owing >= OWING_PATIENCE / 4 {
            tracing::warn!(
                seconds = owing.as_secs(),
                "the upstream answers no request for a channel"
            );
        }
    }
}

async fn write(
    mut writer: Writer,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), UpstreamError> {
    let mut frames = FrameBuffer::new();
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, BATCH).await > 0 {
        for request in batch.drain(..) {
            encode(&request, &mut frames)?;
        }
        writer.write(&mut frames).await?;
    }
    Ok(())
}

fn encode(outgoing: &Outgoing, frames: &mut FrameBuffer) -> Result<(), MalformedMessage> {
    match &outgoing.request {
        Request::Submit(share) => frames.push(Mining::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: share.channel_id,
            sequence_number: share.sequence_number,
            job_id: share.job_id,
            nonce: share.nonce,
            ntime: share.ntime,
            version: share.version,
            extranonce: (&*share.extranonce).try_into()?,
        })),
        Request::Open(open) => frames.push(Mining::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: outgoing.request_id,
                user_identity: (&*open.user_identity).try_into()?,
                nominal_hash_rate: single_precision(open.hashrate),
                max_target: (&open.max_target.to_le_bytes()).into(),
                min_extranonce_size: open.min_extranonce_size,
            },
        )),
        Request::Update {
            channel_id,
            hashrate,
            max_target,
        } => frames.push(Mining::UpdateChannel(UpdateChannel {
            channel_id: *channel_id,
            nominal_hash_rate: single_precision(*hashrate),
            maximum_target: (&max_target.to_le_bytes()).into(),
        })),
        Request::Close { channel_id } => frames.push(Mining::CloseChannel(CloseChannel {
            channel_id: *channel_id,
            reason_code: "miner-disconnected".try_into()?,
        })),
    }
}

/// The protocol has 32 bits for a hashrate. Finite stays finite.
#[allow(clippy::cast_possible_truncation)]
fn single_precision(hashrate: Hashrate) -> f32 {
    hashrate.value().min(f32::MAX.into()) as f32
}
