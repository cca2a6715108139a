//! One connection: a `hello` in time, then frames to the writer, and its acknowledgements back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use service::listener::Accepted;
use stats_events::{
    FrameReader, FromSender, FromService, Hello, Numbered, RefusalCode, decode, encode,
};
use storage::Health;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::config::Secret;
use super::metrics::Counters;
use super::order::{Order, Peer, Progress};
use super::problem;
use super::tls::Door;
use crate::state::{Refusal, heartbeat};

/// What is read at once.
const READ: usize = 16 * 1024;

/// Bytes of a `hello`. Whoever has not said who they are gets no more memory.
const MAX_HELLO: usize = 8 * 1024;

/// Heartbeats after which a silent sender is hung up on; by then it has long been shown as stale.
const SILENCE: u32 = 6;

/// Time for a sender that is refused to take the answer, and how much of what it has said meanwhile is read for that.
const FAREWELL: Duration = Duration::from_secs(2);
const MAX_DRAIN: u64 = 64 * 1024;

/// What all connections have in common.
pub(super) struct Shared {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) counters: Arc<Counters>,
    pub(super) token: Secret,
    pub(super) roles: Vec<String>,
    pub(super) network: Option<String>,
    pub(super) hello_timeout: Duration,
    pub(super) write_timeout: Duration,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Frame(#[from] stats_events::Error),
    #[error("something else than a hello came first")]
    NoHello,
    #[error("a hello has at most {MAX_HELLO} bytes")]
    LongHello,
    #[error("a second hello")]
    SecondHello,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("does not read what it is told")]
    NotReading,
    #[error("another connection has taken its place")]
    Replaced,
    #[error("hung up")]
    HungUp,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("this service stops")]
    Stopped,
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    accepted: Accepted,
    door: Option<Arc<Door>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let Accepted {
        stream,
        peer,
        permit,
        ..
    } = accepted;
    let _permit = permit;
    let deadline = Instant::now() + shared.hello_timeout;
    let first = async {
        // Whoever says nothing is given no memory.
        stream.readable().await?;
        Ok::<_, io::Error>(stream)
    };
    let stream = tokio::select! {
        first = timeout_at(deadline, first) => match first {
            Ok(Ok(stream)) => stream,
            _ => return debug!(%peer, "no hello came"),
        },
        () = stop.cancelled() => return,
    };
    let conversation = async {
        match door {
            None => converse(stream, peer, deadline, &shared).await,
            Some(door) => {
                let handshake = Box::pin(door.handshake(stream));
                match timeout_at(deadline, handshake).await {
                    Ok(Ok(stream)) => converse(stream, peer, deadline, &shared).await,
                    Ok(Err(error)) => End::Io(error),
                    Err(_) => End::Silent(shared.hello_timeout),
                }
            }
        }
    };
    let end = tokio::select! {
        end = Box::pin(conversation) => end,
        () = stop.cancelled() => End::Stopped,
    };
    debug!(%peer, %end, "connection ended");
}

/// From the `hello` to the end. What is sent is dropped with the future, and so is the sender's place.
async fn converse<S>(stream: S, address: SocketAddr, hello_until: Instant, shared: &Shared) -> End
where
    S: AsyncRead + AsyncWrite,
{
    let (reading, mut writing) = split(stream);
    let mut reader = Reader {
        half: reading,
        frames: FrameReader::default(),
        buffer: vec![0; READ],
    };
    let introduced = match timeout_at(hello_until, reader.hello()).await {
        Err(_) => return End::Silent(shared.hello_timeout),
        Ok(Ok(hello)) => introduce(hello, shared).await,
        Ok(Err(end)) => Err(end),
    };
    let (peer, patience) = match introduced {
        Ok(introduced) => introduced,
        Err(end) => {
            shared.counters.refused.fetch_add(1, Relaxed);
            info!(%address, %end, "sender is not let in");
            refuse(&end, reader.half, &mut writing).await;
            return end;
        }
    };
    shared.counters.welcomed.fetch_add(1, Relaxed);
    info!(%address, sender = %peer.session.key, "sender connected");
    let place = Place {
        orders: shared.orders.clone(),
        peer: Some(Arc::clone(&peer)),
    };
    let end = tokio::select! {
        end = listen(&mut reader, &peer, patience, shared) => end,
        end = acknowledge(&mut writing, &peer, shared.write_timeout) => end,
    };
    if let End::Frame(_) | End::SecondHello = end {
        shared.counters.broken.fetch_add(1, Relaxed);
        warn!(%address, sender = %peer.session.key, %end, "sender is disconnected");
        refuse(&end, reader.half, &mut writing).await;
    }
    place.leave().await;
    end
}

/// Checks what can be checked here, and has the writer let the sender in.
async fn introduce(hello: Hello, shared: &Shared) -> Result<(Arc<Peer>, Duration), End> {
    let refusal = |code, reason: &str| {
        Err(End::Refused(Refusal {
            code,
            reason: reason.to_owned(),
        }))
    };
    if !shared.token.is_known(hello.token.as_deref()) {
        return refusal(RefusalCode::WrongToken, "the token is not this service's");
    }
    if hello.version <= stats_events::VERSION {
        if !shared.roles.contains(&hello.role) {
            let reason = format!("this service is for {}", shared.roles.join(", "));
            return refusal(RefusalCode::NotServed, &reason);
        }
        if let (Some(ours), Some(theirs)) = (&shared.network, &hello.network)
            && ours != theirs
        {
            let reason = format!("this service is for {ours}");
            return refusal(RefusalCode::NotServed, &reason);
        }
    }
    let patience = heartbeat(&hello) * SILENCE;
    let (answer, answered) = oneshot::channel();
    let hello = Box::new(hello);
    let mut health = shared.health.clone();
    let unavailable = health.wait_for(|health| *health != Health::Writable);
    let let_in = async {
        let order = Order::Hello { hello, answer };
        shared.orders.send(order).await.map_err(|_| End::Stopped)?;
        let answer = answered.await.map_err(|_| End::Stopped)?;
        answer.map_err(End::Refused)
    };
    tokio::select! {
        biased;
        health = unavailable => {
            let reason = health.ok().and_then(|health| problem(&health)).unwrap_or_default();
            refusal(RefusalCode::Unavailable, &reason)
        }
        peer = let_in => Ok((peer?, patience)),
    }
}

/// Tells why, and waits a little for that to be read.
async fn refuse<S: AsyncRead + AsyncWrite>(
    end: &End,
    reading: ReadHalf<S>,
    writing: &mut WriteHalf<S>,
) {
    let (code, reason) = match end {
        End::Refused(Refusal { code, reason }) => (*code, reason.clone()),
        End::Frame(_) => (RefusalCode::BadFrame, end.to_string()),
        End::NoHello | End::LongHello | End::SecondHello => {
            (RefusalCode::BadHello, end.to_string())
        }
        _ => return,
    };
    let farewell = async {
        let mut bytes = Vec::new();
        if encode(&FromService::Refused { code, reason }, &mut bytes).is_err() {
            return;
        }
        if writing.write_all(&bytes).await.is_ok() && writing.shutdown().await.is_ok() {
            // With something unread the system would take back what it has not delivered.
            let mut rest = reading.take(MAX_DRAIN);
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// Passes on what the sender tells. While the writer has no room for it, nothing is read.
async fn listen<S: AsyncRead>(
    reader: &mut Reader<S>,
    peer: &Arc<Peer>,
    patience: Duration,
    shared: &Shared,
) -> End {
    let send = |order| async {
        let sent = shared.orders.send(order).await;
        sent.map_err(|_| End::Stopped)
    };
    let talk = async {
        loop {
            let told = reader.told()?;
            if !told.events.is_empty() {
                send(Order::Events(Arc::clone(peer), told.events)).await?;
            } else if told.heard {
                send(Order::Heartbeat(Arc::clone(peer))).await?;
            }
            let read = timeout(patience, reader.read()).await;
            read.map_err(|_| End::Silent(patience))??;
        }
    };
    let Err::<std::convert::Infallible, End>(end) = talk.await;
    end
}

/// Welcomes the sender, and acknowledges whenever the writer has stored something.
async fn acknowledge<S: AsyncWrite>(
    writing: &mut WriteHalf<S>,
    peer: &Peer,
    limit: Duration,
) -> End {
    let mut progress = peer.progress.subscribe();
    let mut bytes = Vec::new();
    let mut message = FromService::Welcome {
        version: stats_events::VERSION,
        last_sequence: peer.session.last_sequence,
    };
    loop {
        bytes.clear();
        if let Err(error) = encode(&message, &mut bytes) {
            return error.into();
        }
        match timeout(limit, writing.write_all(&bytes)).await {
            Err(_) => return End::NotReading,
            Ok(Err(error)) => return error.into(),
            Ok(Ok(())) => {}
        }
        if progress.changed().await.is_err() {
            return End::Stopped;
        }
        message = match *progress.borrow_and_update() {
            Progress::Stored(sequence) => FromService::Ack { sequence },
            Progress::Replaced => return End::Replaced,
        };
    }
}

/// Frames out of a stream.
struct Reader<S> {
    half: ReadHalf<S>,
    frames: FrameReader,
    buffer: Vec<u8>,
}

/// What one read brought.
#[derive(Default)]
struct Told {
    events: Vec<Numbered>,
    /// Anything at all.
    heard: bool,
}

impl<S: AsyncRead> Reader<S> {
    async fn read(&mut self) -> Result<(), End> {
        let count = self.half.read(&mut self.buffer).await?;
        if count == 0 {
            return Err(End::HungUp);
        }
        self.frames.push(&self.buffer[..count]);
        Ok(())
    }

    async fn hello(&mut self) -> Result<Hello, End> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return match decode(frame)? {
                    FromSender::Hello(hello) => Ok(hello),
                    _ => Err(End::NoHello),
                };
            }
            if self.frames.held() > MAX_HELLO {
                return Err(End::LongHello);
            }
            self.read().await?;
        }
    }

    /// Takes all whole frames.
    fn told(&mut self) -> Result<Told, End> {
        let mut told = Told::default();
        while let Some(frame) = self.frames.next_frame()? {
            told.heard = true;
            match decode(frame)? {
                FromSender::Event(event) => told.events.push(event),
                FromSender::Hello(_) => return Err(End::SecondHello),
                FromSender::Heartbeat { .. } | FromSender::Unknown => {}
            }
        }
        self.frames.shrink();
        Ok(told)
    }
}

/// A sender's place, given up however the connection ends.
struct Place {
    orders: mpsc::Sender<Order>,
    peer: Option<Arc<Peer>>,
}

impl Place {
    async fn leave(mut self) {
        if let Some(peer) = self.peer.take() {
            // Without a writer there is no place.
            let _ = self.orders.send(Order::Gone(peer)).await;
        }
    }
}

impl Drop for Place {
    /// The connection's task was told to stop, or came to a bad end.
    fn drop(&mut self) {
        if let Some(peer) = self.peer.take() {
            let orders = self.orders.clone();
            tokio::spawn(async move { orders.send(Order::Gone(peer)).await.ok() });
        }
    }
}
