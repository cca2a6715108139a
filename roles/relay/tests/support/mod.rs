//! A pool that says what the test tells it to, and a miner that says what the test writes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::Duration;

use relay::billing::StorageConfig;
use relay::{Config, Handle, Pool, Relay};
use service::http::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A relay in this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), relay::Error>>,
}

/// A configuration with these pools, named a, b, and so on.
pub(crate) fn config(pools: &[SocketAddr]) -> Config {
    Config {
        listen_address: any_port(),
        http_address: Address::At(any_port()),
        pools: pools
            .iter()
            .zip("abcdefgh".chars())
            .map(|(address, name)| Pool {
                name: name.to_string(),
                address: address.to_string(),
                ..Pool::default()
            })
            .collect(),
        storage: StorageConfig {
            url: "off".to_owned(),
            ..StorageConfig::default()
        },
        ..Config::default()
    }
}

pub(crate) async fn start(config: Config) -> Running {
    run(Relay::bind(config).await.unwrap())
}

pub(crate) fn run(relay: Relay) -> Running {
    let (address, addresses) = (relay.local_addr(), relay.local_addrs().collect());
    let (http, handle) = (relay.http_addr().unwrap(), relay.handle());
    let stop = CancellationToken::new();
    let task = tokio::spawn(relay.run(stop.clone()));
    Running {
        address,
        addresses,
        http,
        handle,
        stop,
        task,
    }
}

/// A relay with its usual configuration, the listener of its pool, and the two ends of a connection through it.
pub(crate) async fn relayed() -> (Running, Pools, Peer, Peer) {
    let pools = Pools::new().await;
    let relay = start(config(&[pools.address()])).await;
    let miner = relay.connect().await;
    let pool = pools.accept().await;
    (relay, pools, miner, pool)
}

impl Running {
    /// Waits until no connection is left, of which one has ended for this reason.
    pub(crate) async fn ended_by(&self, reason: &str) {
        self.until("the end", |handle| handle.connections().is_empty())
            .await;
        let ended = format!("hashpool_relay_disconnects_total{{reason=\"{reason}\"}}");
        assert_eq!(self.metric(&ended).await, 1.0, "{reason}");
    }

    pub(crate) async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits until what the handle says is so.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut(&Handle) -> bool) {
        let looking = async {
            while !is_so(&self.handle) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, looking).await.is_err() {
            panic!("waited in vain for {what}: {:#?}", self.handle.snapshot());
        }
    }

    /// The answer to an HTTP request.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        in_time("an HTTP answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    }

    /// One value of the metrics, by its line without the value; 0 if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let metrics = self.get("/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Where a pool listens.
pub(crate) struct Pools(pub(crate) TcpListener);

impl Pools {
    pub(crate) async fn new() -> Self {
        Self(TcpListener::bind(any_port()).await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Peer {
        let accepted = in_time("the relay to connect", self.0.accept()).await;
        Peer::new(accepted.unwrap().0)
    }
}

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.stream.write_all(line.as_bytes()).await.unwrap();
    }

    /// The next line, without its end; none at the end.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).collect::<Vec<_>>();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let mut buffer = [0; 4096];
            let read = in_time("a line", self.stream.read(&mut buffer))
                .await
                .ok()?;
            if read == 0 {
                return None;
            }
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    /// Ends the connection as a crash does.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// What both sides say until a share is accepted.
pub(crate) async fn first_share(miner: &mut Peer, pool: &mut Peer, user: &str) {
    let authorize = format!(r#"{{"id":2,"method":"mining.authorize","params":["{user}","x"]}}"#);
    let submit = format!(
        r#"{{"id":3,"method":"mining.submit","params":["{user}","j","00000000","00000000","00000000"]}}"#
    );
    let job = format!(
        r#"{{"id":null,"method":"mining.notify","params":["j","{}","00","00",[],"20000000","1d00ffff","00000000",true]}}"#,
        "0".repeat(64)
    );
    for (from_miner, line) in [
        (
            true,
            r#"{"id":1,"method":"mining.subscribe","params":["test/1"]}"#,
        ),
        (false, r#"{"id":1,"result":[[],"00",4],"error":null}"#),
        (true, &*authorize),
        (false, r#"{"id":2,"result":true,"error":null}"#),
        (
            false,
            r#"{"id":null,"method":"mining.set_difficulty","params":[8]}"#,
        ),
        (false, &*job),
        (true, &*submit),
        (false, r#"{"id":3,"result":true,"error":null}"#),
    ] {
        let (from, to) = if from_miner {
            (&mut *miner, &mut *pool)
        } else {
            (&mut *pool, &mut *miner)
        };
        from.say(line).await;
        assert_eq!(to.hear().await.as_deref(), Some(line));
    }
}

/// Where connections are neither taken nor refused: nobody accepts, and the queue is full.
pub(crate) struct Hanging {
    pub(crate) address: SocketAddr,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl Hanging {
    pub(crate) async fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(any_port()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Longer than the loopback interface takes, and shorter than a SYN is sent again.
        let soon = Duration::from_millis(500);
        while let Ok(connected) = timeout(soon, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        Self {
            address,
            _queue: (listener, waiting),
        }
    }
}

/// The most memory that the process had so far, in kB.
pub(crate) fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.unwrap().trim().strip_suffix("kB").unwrap();
    line.trim().parse().unwrap()
}
