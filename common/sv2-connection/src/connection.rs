//! The socket side: the Noise handshake, and reading and writing of frames.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    ops::ControlFlow,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use stratum_core::noise_sv2::{
    self, ELLSWIFT_ENCODING_SIZE, INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE, Initiator,
    NoiseEngine, Responder,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use crate::{Authority, AuthorityPublicKey, Error, Frame, FrameBuffer, Opener, Sealer};

/// How far a client's clock may be behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// How much is read at once.
const READ_SIZE: usize = 64 * 1024;

/// What a peer has to take within the time for writing, or all that there is if that is less: about 1 kB/s as a rule.
const LEAST_PROGRESS: usize = 16 * 1024;

thread_local! {
    // Bytes are read into, and sealed in, a buffer of the worker thread, so that an idle connection holds none.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static WRITE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Time for the whole Noise handshake.
    pub handshake_timeout: Duration,
    /// Time in which the peer has to take 16 KiB of what is written to it, or the rest.
    pub write_timeout: Duration,
    /// The largest payload that is accepted, in bytes.
    pub largest_frame: usize,
    /// How long the certificate that a server signs for a connection is valid.
    pub certificate_validity: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(15),
            largest_frame: 1 << 20,
            certificate_validity: Duration::from_secs(3600),
        }
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    /// The direction from the peer.
    pub reader: Reader,
    /// The direction to the peer.
    pub writer: Writer,
}

/// The direction from the peer.
#[derive(Debug)]
pub struct Reader {
    stream: OwnedReadHalf,
    opener: Opener,
    /// The beginning of a frame that is not all there; no memory otherwise.
    unfinished: Vec<u8>,
    /// The caller stopped before the end of what was read, so that whole frames may be in `unfinished`.
    stopped: bool,
}

/// The direction to the peer.
#[derive(Debug)]
pub struct Writer {
    stream: OwnedWriteHalf,
    sealer: Sealer,
    timeout: Duration,
}

/// Takes the server's part of the handshake.
pub async fn accept(
    stream: TcpStream,
    authority: &Authority,
    options: Options,
) -> Result<Connection, Error> {
    bounded(options, accept_unbounded(stream, authority, options, None)).await
}

/// As [`accept`], but computes only as many handshakes at a time as the gate lets through. Clients that stall do not
/// count, and the time that a client waits does.
pub async fn accept_at(
    gate: &Gate,
    stream: TcpStream,
    authority: &Authority,
    options: Options,
) -> Result<Connection, Error> {
    let handshake = accept_unbounded(stream, authority, options, Some(gate));
    bounded(options, handshake).await
}

/// Takes the client's part of the handshake; without a key, whoever answers is trusted.
pub async fn connect(
    stream: TcpStream,
    authority: Option<AuthorityPublicKey>,
    options: Options,
) -> Result<Connection, Error> {
    bounded(options, connect_unbounded(stream, authority, options)).await
}

/// How many handshakes a server computes at a time.
///
/// A handshake costs the server a signature and a key agreement, and the client nothing: without a gate, a flood of them
/// takes every thread, and those who mine wait behind it.
#[derive(Debug)]
pub struct Gate {
    places: Semaphore,
    waited: AtomicU64,
}

impl Gate {
    /// Lets so many through at a time; at least one.
    #[must_use]
    pub fn new(at_a_time: usize) -> Self {
        let places = at_a_time.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Semaphore::new(places),
            waited: AtomicU64::new(0),
        }
    }

    /// Handshakes that had to wait for others, since the start.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.waited.load(Ordering::Relaxed)
    }

    /// Waits for a place and holds it as long as what is returned lives.
    pub async fn pass(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        self.waited.fetch_add(1, Ordering::Relaxed);
        // It is never closed.
        self.places.acquire().await.ok()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(1)
    }
}

async fn bounded(
    options: Options,
    handshake: impl Future<Output = Result<Connection, Error>>,
) -> Result<Connection, Error> {
    timeout(options.handshake_timeout, handshake)
        .await
        .unwrap_or(Err(Error::HandshakeTimeout))
}

async fn accept_unbounded(
    mut stream: TcpStream,
    authority: &Authority,
    options: Options,
    gate: Option<&Gate>,
) -> Result<Connection, Error> {
    stream.set_nodelay(true)?;
    let mut first = [0; ELLSWIFT_ENCODING_SIZE];
    read_exact(&mut stream, &mut first).await?;
    let passed = match gate {
        Some(gate) => gate.pass().await,
        None => None,
    };
    let mut responder = Responder::from_authority_kp(
        &authority.public().to_bytes(),
        authority.secret_bytes(),
        options.certificate_validity + CLOCK_TOLERANCE,
    )
    .map_err(|_| Error::Handshake)?;
    // A client whose clock is behind has to find it valid too.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(CLOCK_TOLERANCE);
    let valid_from = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    let (answer, engine) = responder
        .step_1_with_now_rng(first, valid_from, &mut rand::thread_rng())
        .map_err(|_| Error::Handshake)?;
    drop(passed);
    stream.write_all(&answer).await?;
    Ok(Connection::new(stream, engine, options))
}

async fn connect_unbounded(
    mut stream: TcpStream,
    authority: Option<AuthorityPublicKey>,
    options: Options,
) -> Result<Connection, Error> {
    stream.set_nodelay(true)?;
    let mut initiator = match authority {
        Some(key) => Initiator::from_raw_k(key.to_bytes()),
        None => Initiator::without_pk(),
    }
    .map_err(|_| Error::Handshake)?;
    let first = initiator.step_0().map_err(|_| Error::Handshake)?;
    stream.write_all(&first).await?;
    let mut answer = [0; INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE];
    read_exact(&mut stream, &mut answer).await?;
    let engine = initiator.step_2(answer).map_err(|error| match error {
        noise_sv2::Error::InvalidCertificate(_) => Error::Certificate,
        _ => Error::Handshake,
    })?;
    Ok(Connection::new(stream, engine, options))
}

async fn read_exact(stream: &mut TcpStream, bytes: &mut [u8]) -> Result<(), Error> {
    match stream.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Closed),
        Err(error) => Err(error.into()),
    }
}

impl Connection {
    fn new(stream: TcpStream, engine: NoiseEngine, options: Options) -> Self {
        let (encryptor, decryptor) = engine.into_split();
        let (read_half, write_half) = stream.into_split();
        Self {
            reader: Reader {
                stream: read_half,
                opener: Opener::new(decryptor, options.largest_frame),
                unfinished: Vec::new(),
                stopped: false,
            },
            writer: Writer {
                stream: write_half,
                sealer: Sealer::new(encryptor),
                timeout: options.write_timeout,
            },
        }
    }
}

impl Reader {
    /// The socket's half and the opener, for a caller that reads in its own way. What was read of an unfinished frame is
    /// lost.
    pub fn into_parts(self) -> (OwnedReadHalf, Opener) {
        (self.stream, self.opener)
    }

    /// Waits for bytes, reads once, and hands every whole frame to `on_frame`, in order.
    ///
    /// It may return without a frame. It can be dropped while it waits: nothing is lost. After an error the connection
    /// is of no more use.
    pub async fn read<E: From<Error>>(
        &mut self,
        mut on_frame: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_until(|frame| on_frame(frame).map(ControlFlow::Continue))
            .await
    }

    /// As [`read`](Self::read), but ends where `on_frame` says so; the frames behind that one come with the next call.
    pub async fn read_until<E: From<Error>>(
        &mut self,
        mut on_frame: impl FnMut(Frame<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        if std::mem::take(&mut self.stopped) {
            return READ_BUFFER.with_borrow_mut(|buffer| self.open(buffer, 0, &mut on_frame));
        }
        poll_fn(|context| {
            READ_BUFFER.with_borrow_mut(|buffer| self.poll_read(context, buffer, &mut on_frame))
        })
        .await
    }

    /// Reads by polling: then a read that does not fill the buffer counts as having emptied the socket, which is not asked
    /// again before it has something.
    fn poll_read<E: From<Error>>(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        on_frame: &mut impl FnMut(Frame<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Poll<Result<(), E>> {
        let kept = self.unfinished.len();
        if buffer.len() < kept + READ_SIZE {
            buffer.resize(kept + READ_SIZE, 0);
        }
        let mut free = ReadBuf::new(&mut buffer[kept..kept + READ_SIZE]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut free)).map_err(Error::from)?;
        let size = free.filled().len();
        Poll::Ready(match size {
            0 => Err(Error::Closed.into()),
            _ => self.open(buffer, size, on_frame),
        })
    }

    /// Opens what was kept and, behind it in the buffer, what was read.
    fn open<E: From<Error>>(
        &mut self,
        buffer: &mut Vec<u8>,
        read: usize,
        on_frame: &mut impl FnMut(Frame<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let kept = self.unfinished.len();
        if buffer.len() < kept + read {
            buffer.resize(kept + read, 0);
        }
        buffer[..kept].copy_from_slice(&self.unfinished);
        let mut rest = &mut buffer[..kept + read];
        let result = loop {
            match self.opener.open(&mut rest) {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => match on_frame(frame) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => {
                        self.stopped = !rest.is_empty();
                        break Ok(());
                    }
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error.into()),
            }
        };
        if rest.is_empty() {
            self.unfinished = Vec::new();
        } else {
            self.unfinished.clear();
            self.unfinished.extend_from_slice(rest);
        }
        // A peer with large frames must not leave every worker thread a large buffer.
        if buffer.len() > 4 * READ_SIZE {
            *buffer = Vec::new();
        }
        result
    }
}

impl Writer {
    /// The socket's half and the sealer, for a caller that seals long before it writes.
    pub fn into_parts(self) -> (OwnedWriteHalf, Sealer) {
        (self.stream, self.sealer)
    }

    /// Seals all frames, writes them with as few calls as the socket allows, and clears the buffer.
    ///
    /// A peer that takes next to nothing in the configured time is given up. After an error, or if dropped before it is ready, the
    /// connection is of no more use.
    pub async fn write(&mut self, frames: &mut FrameBuffer) -> Result<(), Error> {
        if frames.is_empty() {
            return Ok(());
        }
        let unwritten = WRITE_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            self.sealer.seal(frames, buffer)?;
            frames.clear();
            let written = match self.stream.try_write(buffer) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(Error::from(error)),
            };
            let unwritten = buffer[written..].to_vec();
            if buffer.capacity() > 4 * READ_SIZE {
                *buffer = Vec::new();
            }
            Ok(unwritten)
        })?;
        // The time is for progress, because a slow link is no silent peer; but a byte now and then is none.
        for piece in unwritten.chunks(LEAST_PROGRESS) {
            let deadline = Instant::now() + self.timeout;
            timeout_at(deadline, self.stream.write_all(piece))
                .await
                .map_err(|_| Error::WriteTimeout)??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, sync::oneshot};

    use super::*;
    use crate::AuthoritySecretKey;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn neither_end_holds_small_messages_back() {
        let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
        let key = Some(authority.public());
        let (client, server) = sockets().await;
        let (client, server) = tokio::join!(
            connect(client, key, Options::default()),
            accept(server, &authority, Options::default())
        );
        for end in [client.unwrap(), server.unwrap()] {
            let stream: &TcpStream = end.writer.stream.as_ref();
            assert!(stream.nodelay().unwrap());
        }
    }

    #[tokio::test]
    async fn handshakes_wait_at_the_gate_and_not_for_clients_that_stall() {
        let gate = Gate::new(1);
        let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
        let options = Options::default();
        let key = Some(authority.public());
        let (_stalled, stalled_server) = sockets().await;
        let (client, server) = sockets().await;
        let (waits, waiting) = oneshot::channel();
        let holder = async {
            let held = gate.pass().await;
            waits.send(()).unwrap();
            while gate.waited() == 0 {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let honest = async {
            waiting.await.unwrap();
            tokio::join!(
                connect(client, key, options),
                accept_at(&gate, server, &authority, options),
            )
        };
        tokio::select! {
            _ = accept_at(&gate, stalled_server, &authority, options) => unreachable!(),
            ((), (client, server)) = async { tokio::join!(holder, honest) } => {
                client.unwrap();
                server.unwrap();
            }
        }
        assert_eq!(gate.waited(), 1);
    }

    #[tokio::test]
    async fn a_server_whose_clock_is_a_day_off_is_suspected_of_that() {
        const DAY: u64 = 24 * 3600;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        for server_time in [now - DAY, now + DAY] {
            let secret = AuthoritySecretKey::generate();
            let authority = Authority::new(secret).unwrap();
            let (client, mut server) = sockets().await;
            let answering = async {
                let mut first = [0; 64];
                server.read_exact(&mut first).await.unwrap();
                let mut responder = Responder::from_authority_kp(
                    &authority.public().to_bytes(),
                    authority.secret_bytes(),
                    Duration::from_secs(3600),
                )
                .unwrap();
                let valid_from = u32::try_from(server_time).unwrap();
                let (answer, _) = responder
                    .step_1_with_now_rng(first, valid_from, &mut rand::thread_rng())
                    .unwrap();
                server.write_all(&answer).await.unwrap();
            };
            let (client, ()) = tokio::join!(
                connect(client, Some(authority.public()), Options::default()),
                answering,
            );
            let error = client.unwrap_err();
            assert!(matches!(error, Error::Certificate), "{error}");
            assert!(error.to_string().contains("clocks"), "{error}");
        }
    }
}
