//! A service of a test's own, on both databases, and a sender that says what a test wants.

use std::{
    io::ErrorKind,
    marker::PhantomData,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use database::{Database, on_both};
use service::tls::Certificate;
use stats::{
    Now,
    board::Board,
    receiver::{Config, Error, Receiver, Role, View},
    state::{Link, Sender, SenderKey},
    web::Kind,
};
use stats_events::{
    Counters, Event, FrameReader, FromSender, FromService, Hello, Numbered, Peer, PeerState,
    RefusalCode, ServiceState, VERSION, Work, WorkerState, decode, encode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(crate) struct TestRole;

impl Role for TestRole {
    const NAME: &str = "test-stats";
    const METRICS: &str = "test_stats";
    const PORT: u16 = 0;
    const HTTP_PORT: u16 = 0;
    const ROLES: &[&str] = &["pool", "translator"];
    const PAGES: Kind = Kind::Pool;
}

/// A running service.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) view: View,
    pub(crate) certificate: Option<Arc<Certificate>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
    _threads: Threads,
}

/// Threads of its own, so that it can end as a process does: at once, with nothing more said or stored.
struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime must not end on a thread of another one. When it has, its sockets are closed.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE));
            ended.join().unwrap();
        }
    }
}

/// With commits that follow each other closely.
pub(crate) fn config(database: &Database) -> Config<TestRole> {
    let mut config = Config::<TestRole> {
        role: PhantomData,
        ..Config::default()
    };
    config.storage.url = database.url();
    config.storage.commit_interval_ms = 10;
    config
}

impl Service {
    pub(crate) async fn start(database: &Database) -> Self {
        Self::run(config(database)).await
    }

    pub(crate) async fn run<R: Role>(config: Config<R>) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bound = threads.spawn(Receiver::bind(config)).await;
        let receiver = bound.unwrap().unwrap();
        let stop = CancellationToken::new();
        Self {
            address: receiver.local_addr(),
            http: receiver.http_addr().unwrap(),
            view: receiver.view(),
            certificate: receiver.certificate(),
            running: threads.spawn(receiver.run(stop.clone())),
            stop,
            _threads: Threads(Some(threads)),
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    /// Waits for its own end.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        timeout(PATIENCE, self.running).await.unwrap().unwrap()
    }

    /// As a crash does.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Looks at a sender's part of the board.
    pub(crate) fn sender<T>(&self, name: &str, look: impl FnOnce(&Sender, Now) -> T) -> Option<T> {
        self.view
            .read(|board, now| Some(look(board.state().sender(&key(name))?, now)))
    }

    pub(crate) fn link(&self, name: &str) -> Option<Link> {
        self.sender(name, Sender::link)
    }

    pub(crate) fn accepted(&self, name: &str) -> u64 {
        let accepted = self.sender(name, |sender, _| sender.totals().counters.accepted);
        accepted.unwrap_or_default()
    }

    /// Waits until the board shows it.
    pub(crate) async fn until(&self, what: &str, shown: impl Fn(&Board, Now) -> bool) {
        let start = Instant::now();
        while !self.view.read(&shown) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn until_link(&self, name: &str, link: Link) {
        let shown = |board: &Board, now| {
            let sender = board.state().sender(&key(name));
            sender.is_some_and(|sender| sender.link(now) == link)
        };
        self.until(&format!("{name} is {link:?}"), shown).await;
    }

    /// Asks whether it is ready until it answers with this status; gives what it says then.
    pub(crate) async fn until_ready(&self, wanted: u16) -> String {
        let start = Instant::now();
        loop {
            let (status, body) = self.get("/readyz").await;
            if status == wanted {
                return body;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "never {wanted}: {status} {body}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks over HTTP; gives status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        read.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }
}

pub(crate) fn key(name: &str) -> SenderKey {
    SenderKey {
        role: "pool".into(),
        name: name.into(),
    }
}

pub(crate) fn hello(name: &str, instance: &str) -> Hello {
    Hello {
        version: VERSION,
        role: "pool".into(),
        name: name.into(),
        instance_id: instance.into(),
        started_at_ms: 1_700_000_000_000,
        software: "test".into(),
        network: Some("regtest".into()),
        heartbeat_ms: 5000,
        token: None,
    }
}

/// One connection to a service.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// Its clock, a millisecond more for each event.
    pub(crate) at_ms: u64,
    frames: FrameReader,
}

impl Client {
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            at_ms: 1_700_000_100_000,
            frames: FrameReader::default(),
        }
    }

    /// Connects and is let in; gives the last number that is stored, too.
    pub(crate) async fn connect(address: SocketAddr, hello: &Hello) -> (Self, u64) {
        let mut client = Self::dial(address).await;
        client.say(&FromSender::Hello(hello.clone())).await;
        match client.hear().await {
            Some(FromService::Welcome { last_sequence, .. }) => (client, last_sequence),
            other => panic!("not welcome: {other:?}"),
        }
    }

    /// Connects and is not let in.
    pub(crate) async fn refused(address: SocketAddr, hello: &Hello) -> RefusalCode {
        let mut client = Self::dial(address).await;
        client.say(&FromSender::Hello(hello.clone())).await;
        client.refusal().await
    }

    /// The next message is a refusal, and the connection ends after it.
    pub(crate) async fn refusal(&mut self) -> RefusalCode {
        let code = match self.hear().await {
            Some(FromService::Refused { code, .. }) => code,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(self.hear().await, None);
        code
    }

    pub(crate) async fn say(&mut self, message: &FromSender) {
        assert!(self.try_say(message).await, "the service hung up");
    }

    async fn try_say(&mut self, message: &FromSender) -> bool {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.is_ok()
    }

    pub(crate) async fn tell(&mut self, sequence: u64, event: Event) {
        let told = self.try_tell(sequence, event).await;
        assert!(told, "the service hung up");
    }

    /// Whether somebody is there to be told.
    pub(crate) async fn try_tell(&mut self, sequence: u64, event: Event) -> bool {
        let at_ms = self.at_ms + sequence;
        let numbered = Numbered {
            sequence,
            at_ms,
            event,
        };
        self.try_say(&FromSender::Event(numbered)).await
    }

    /// The next message; nothing at the end.
    pub(crate) async fn hear(&mut self) -> Option<FromService> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(decode(frame).unwrap());
            }
            let mut bytes = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
            match read.unwrap() {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.frames.push(&bytes[..count]),
            }
        }
    }

    /// Nothing has come that was not heard.
    pub(crate) fn has_heard_all(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0; 1]);
        let nothing = nothing.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        nothing && self.frames.held() == 0
    }

    /// Waits until everything up to a number is stored.
    pub(crate) async fn acked(&mut self, wanted: u64) {
        loop {
            match self.hear().await {
                Some(FromService::Ack { sequence }) if sequence >= wanted => return,
                Some(FromService::Ack { .. }) => {}
                other => panic!("not acknowledged: {other:?}"),
            }
        }
    }
}

pub(crate) fn counters(accepted: u64) -> Counters {
    Counters {
        submitted: accepted + 1,
        accepted,
        rejected: [("stale".to_owned(), 1)].into(),
        work: Work(u128::from(accepted) << 32),
        ..Counters::default()
    }
}

pub(crate) fn service(accepted: u64) -> Event {
    Event::Service(ServiceState {
        ready: true,
        counters: counters(accepted),
        ..ServiceState::default()
    })
}

pub(crate) fn peer_connected(peer: u64) -> Event {
    Event::PeerConnected(Peer {
        peer,
        connected_at_ms: 1_700_000_000_000,
        address: format!("192.0.2.1:{}", 1000 + peer),
        protocol: "sv1".into(),
        user_agent: Some("rig/1".into()),
        ..Peer::default()
    })
}

pub(crate) fn peer(peer: u64, accepted: u64) -> Event {
    Event::Peer(PeerState {
        peer,
        counters: counters(accepted),
        ..PeerState::default()
    })
}

pub(crate) fn worker(peer: u64, name: &str, accepted: u64) -> Event {
    Event::Worker(WorkerState {
        peer,
        account: "alice".into(),
        worker: name.into(),
        since_ms: 1_700_000_000_000,
        difficulty: Some(1.0),
        counters: counters(accepted),
        ..WorkerState::default()
    })
}
