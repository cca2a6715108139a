//! A stats service of a test's own: the real state behind a real socket, with a disk that is a map.
//!
//! Tests of the sender and of the roles that send look into it, restart it, and have it cut its connections.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stats::Now;
use stats::state::{Document, Key, Outcome, Refusal, Sender, SenderKey, Session, State};
use stats_events::{FrameReader, FromSender, FromService, Hello, RefusalCode, decode, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that runs until it is dropped.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    token: Option<String>,
    hellos: AtomicU64,
}

#[derive(Default)]
struct Inner {
    state: State,
    stored: BTreeMap<(SenderKey, Key), Document>,
    /// Cancelled to cut the connections that there are.
    connections: CancellationToken,
    /// Of a connection's bytes, those after which it is cut.
    cut_after: Option<usize>,
}

impl Service {
    /// On a free port of this machine.
    pub async fn start() -> Self {
        Self::start_with(None, None).await
    }

    /// One that asks for a token, over TLS if there is a way to accept it.
    pub async fn start_with(tls: Option<TlsAcceptor>, token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            token: token.map(Into::into),
            hellos: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        let accepting = accept(listener, tls, Arc::clone(&shared), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Where it listens, as it stands in a role's configuration.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Looks at what it knows.
    pub fn see<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.lock().state)
    }

    /// Waits until what it knows of its only sender is so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Sender) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                let done = self.see(|state| state.senders().any(|(_, sender)| is_so(sender)));
                if done {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "waited in vain for {what}; it knows {:#?}",
                self.shared.lock().state
            );
        }
    }

    /// Times that a sender has introduced itself.
    pub fn hellos(&self) -> u64 {
        self.shared.hellos.load(Ordering::Relaxed)
    }

    /// Cuts its connections.
    pub fn cut(&self) {
        let mut inner = self.shared.lock();
        std::mem::take(&mut inner.connections).cancel();
    }

    /// Each connection from now on is cut after so many bytes, wherever a frame ends; `None` puts an end to that.
    pub fn cut_after(&self, bytes: Option<usize>) {
        self.shared.lock().cut_after = bytes;
    }

    /// Is killed and starts again, with what was on its disk.
    pub fn restart(&self) {
        let mut inner = self.shared.lock();
        std::mem::take(&mut inner.connections).cancel();
        let documents = inner.stored.clone().into_iter();
        let documents = documents.map(|((sender, key), document)| (sender, key, document));
        inner.state = State::restore(now(), documents);
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        let cut = shared.lock().connections.clone();
        let serving = async move {
            match tls {
                None => shared.serve(stream, cut).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        shared.serve(stream, cut).await;
                    }
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, cut: CancellationToken) {
        let mut session = None;
        cut.run_until_cancelled(self.converse(stream, &mut session))
            .await;
        if let Some(session) = session {
            self.lock().state.disconnected(now(), &session);
        }
    }

    /// Returns at the end of the connection, whatever it is.
    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        session: &mut Option<Session>,
    ) -> Option<()> {
        let (mut reader, mut bytes, mut total) = (FrameReader::default(), vec![0; 4096], 0);
        loop {
            let read = stream
                .read(&mut bytes)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            let most = self
                .lock()
                .cut_after
                .map_or(usize::MAX, |most| most - total);
            reader.push(&bytes[..read.min(most)]);
            total += read.min(most);
            let mut out = Vec::new();
            let mut last = None;
            while let Some(frame) = reader.next_frame().unwrap() {
                match decode(frame).unwrap() {
                    FromSender::Hello(hello) => {
                        encode(&self.greet(&hello, session), &mut out).unwrap();
                    }
                    FromSender::Event(event) => {
                        let outcome = self.lock().state.event(now(), session.as_ref()?, &event);
                        assert_ne!(outcome, Outcome::Skipped, "{event:?}");
                        last = Some(event.sequence);
                    }
                    FromSender::Heartbeat { .. } | FromSender::Unknown => {}
                }
            }
            if read >= most {
                return None;
            }
            if let Some(sequence) = last {
                self.lock().store();
                encode(&FromService::Ack { sequence }, &mut out).unwrap();
            }
            self.changed.send_modify(|count| *count += 1);
            stream.write_all(&out).await.ok()?;
            stream.flush().await.ok()?;
        }
    }

    fn greet(&self, hello: &Hello, session: &mut Option<Session>) -> FromService {
        self.hellos.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        if hello.token != self.token {
            return FromService::Refused {
                code: RefusalCode::WrongToken,
                reason: "it is another".to_owned(),
            };
        }
        // What it says is stored has to be.
        inner.store();
        match inner.state.hello(now(), hello) {
            Ok(let_in) => FromService::Welcome {
                version: hello.version,
                last_sequence: session.insert(let_in).last_sequence,
            },
            Err(Refusal { code, reason }) => FromService::Refused { code, reason },
        }
    }
}

impl Inner {
    fn store(&mut self) {
        for (sender, key, document) in self.state.take_changes() {
            match document {
                Some(document) => self.stored.insert((sender, key), document),
                None => self.stored.remove(&(sender, key)),
            };
        }
    }
}

fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now {
        instant: Instant::now(),
        unix_ms: u64::try_from(since.as_millis()).unwrap(),
    }
}
