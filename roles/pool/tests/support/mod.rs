//! A whole pool on the embedded chain, and clients that talk to it through real sockets.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; a failed test should stop where it fails"
)]

use std::{net::SocketAddr, time::Duration};

use pool::{Config, Pool, StatusHandle};
use service::http::Address;
use stratum_core::{
    binary_sv2::Seq064K,
    extensions_sv2::RequestExtensions,
    mining_sv2::{OpenExtendedMiningChannel, SubmitSharesExtended, SubmitSharesStandard},
    parsers_sv2::{Extensions, ExtensionsNegotiation, Mining, MiningOwned},
};
use sv2_connection::{
    AuthorityPublicKey, AuthoritySecretKey, Connection, Error, FrameBuffer, Options, connect,
    mining_setup, setup,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// When the pool has read nothing for so long, it does not read.
const STUCK: Duration = Duration::from_secs(1);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) key: AuthorityPublicKey,
    pub(crate) status: StatusHandle,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<Result<(), pool::Error>>,
    _data: TempDir,
}

pub(crate) fn config(data: &TempDir) -> Config {
    Config {
        listen_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_address: Address::loopback(0),
        authority_secret_key: Some(AuthoritySecretKey::generate()),
        data_dir: data.path().to_owned(),
        payout: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080".to_owned(),
        minimum_difficulty: 1e-10,
        setup_timeout_seconds: 3,
        // Clients of the tests do not leave when they are asked to.
        drain_seconds: 0,
        ..Config::default()
    }
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = config(&data);
        change(&mut config);
        let pool = Pool::bind(config).await.unwrap();
        let stop = CancellationToken::new();
        Self {
            address: pool.local_addr(),
            http: pool.http_addr().unwrap(),
            key: pool.authority_public_key(),
            status: pool.status(),
            task: tokio::spawn(pool.run(stop.clone())),
            stop,
            _data: data,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    pub(crate) async fn call(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn connection(&self) -> Connection {
        connect(self.call().await, Some(self.key), Options::default())
            .await
            .unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_on(self.call().await).await.unwrap()
    }

    /// Shakes hands and sets up on a connection that is there.
    pub(crate) async fn client_on(&self, stream: TcpStream) -> Result<Client, Error> {
        let mut connection = connect(stream, Some(self.key), Options::default()).await?;
        let request = mining_setup(0, "127.0.0.1", self.address.port(), "test").unwrap();
        setup(&mut connection, request, PATIENCE).await?;
        Ok(Client { connection })
    }

    /// What `/readyz` says.
    pub(crate) async fn is_ready(&self) -> Result<(), String> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/readyz", self.http);
        let answer = client.get(url).send().await.unwrap();
        if answer.status().is_success() {
            return Ok(());
        }
        Err(answer.text().await.unwrap())
    }

    /// What Prometheus is shown.
    pub(crate) async fn metrics(&self) -> String {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/metrics", self.http);
        client.get(url).send().await.unwrap().text().await.unwrap()
    }
}

pub(crate) struct Client {
    pub(crate) connection: Connection,
}

impl Client {
    pub(crate) async fn send(&mut self, message: Mining<'_>) {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        self.connection.writer.write(&mut frames).await.unwrap();
    }

    /// Sends a frame of which nothing has to be right.
    pub(crate) async fn send_raw(
        &mut self,
        extension: u16,
        channel_bit: bool,
        message_type: u8,
        payload: &[u8],
    ) {
        let mut frames = FrameBuffer::new();
        let fill = |space: &mut [u8]| {
            space.copy_from_slice(payload);
            Ok::<_, stratum_core::binary_sv2::Error>(())
        };
        frames
            .push_with(extension, channel_bit, message_type, payload.len(), fill)
            .unwrap();
        // The pool may have hung up already, with good reason.
        let _ = self.connection.writer.write(&mut frames).await;
    }

    /// Sends so many shares for a channel that does not exist, each of which gets an answer.
    pub(crate) async fn send_bad_shares(&mut self, numbers: std::ops::Range<u32>) {
        let mut frames = FrameBuffer::new();
        for number in numbers {
            frames.push(bad_share(number)).unwrap();
        }
        self.connection.writer.write(&mut frames).await.unwrap();
    }

    /// Asks and does not read the answers, until the pool reads no more questions.
    pub(crate) async fn ask_until_stuck(&mut self) {
        // Each gets an answer of its own size.
        let question = RequestExtensions {
            request_id: 1,
            requested_extensions: Seq064K::new((0x4000..0x4700).collect()).unwrap(),
        };
        let asking = async {
            loop {
                let mut frames = FrameBuffer::new();
                for _ in 0..100 {
                    let question = ExtensionsNegotiation::RequestExtensions(question.clone());
                    frames
                        .push(Extensions::ExtensionsNegotiation(question))
                        .unwrap();
                }
                let written = self.connection.writer.write(&mut frames);
                if !matches!(timeout(STUCK, written).await, Ok(Ok(()))) {
                    break;
                }
            }
        };
        timeout(PATIENCE, asking).await.unwrap();
    }

    /// Reads until the pool hangs up.
    pub(crate) async fn until_hung_up(&mut self) {
        let reading = async {
            while self
                .connection
                .reader
                .read::<Error>(|_| Ok(()))
                .await
                .is_ok()
            {}
        };
        timeout(PATIENCE, reading).await.unwrap();
    }

    /// Reads until a message is what is looked for.
    pub(crate) async fn until<T>(&mut self, mut look: impl FnMut(&MiningOwned) -> Option<T>) -> T {
        let mut found = None;
        let search = async {
            while found.is_none() {
                self.connection
                    .reader
                    .read::<Error>(|frame| {
                        let message = frame.mining()?.into_owned();
                        found = found.take().or_else(|| look(&message));
                        Ok(())
                    })
                    .await
                    .unwrap();
            }
        };
        timeout(PATIENCE, search).await.unwrap();
        found.unwrap()
    }

    /// Opens a channel and gives its number and the job to work on, with its version and time.
    pub(crate) async fn open(&mut self) -> (u32, u32, u32, u32) {
        let max_target = [0xff; 32];
        self.send(Mining::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: 1,
                user_identity: "test.1".try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&max_target).into(),
                min_extranonce_size: 8,
            },
        ))
        .await;
        let (mut channel, mut version) = (0, 0);
        self.until(|message| match message {
            MiningOwned::OpenExtendedMiningChannelSuccess(m) => {
                channel = m.channel_id;
                None
            }
            MiningOwned::NewExtendedMiningJob(m) => {
                version = m.version;
                None
            }
            MiningOwned::SetNewPrevHash(m) => Some((channel, m.job_id, version, m.min_ntime)),
            _ => None,
        })
        .await
    }

    /// Submits until a share is acknowledged; gives how many were refused before.
    pub(crate) async fn mine_one(&mut self, job: (u32, u32, u32, u32), first_nonce: u32) -> u32 {
        let (channel_id, job_id, version, ntime) = job;
        for nonce in first_nonce.. {
            self.send(Mining::SubmitSharesExtended(SubmitSharesExtended {
                channel_id,
                sequence_number: nonce,
                job_id,
                nonce,
                ntime,
                version,
                extranonce: [0u8; 8][..].try_into().unwrap(),
            }))
            .await;
            let accepted = self
                .until(|message| match message {
                    MiningOwned::SubmitSharesSuccess(_) => Some(true),
                    MiningOwned::SubmitSharesError(_) => Some(false),
                    _ => None,
                })
                .await;
            if accepted {
                return nonce - first_nonce;
            }
        }
        unreachable!("some share is good enough")
    }
}

/// A share for a channel that does not exist.
pub(crate) fn bad_share(number: u32) -> Mining<'static> {
    Mining::SubmitSharesStandard(SubmitSharesStandard {
        channel_id: u32::MAX,
        sequence_number: number,
        job_id: 1,
        nonce: number,
        ntime: 0,
        version: 0,
    })
}

/// Waits for the pool to hang up; whether by a reset or an end does not matter.
pub(crate) async fn hung_up(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
}

/// Waits until the pool says so; it has no other way to tell what it did not answer.
pub(crate) async fn eventually(pool: &Running, mut holds: impl FnMut(&pool::Status) -> bool) {
    let wait = async {
        let mut looks = interval(Duration::from_millis(10));
        while !holds(&pool.status.snapshot()) {
            looks.tick().await;
        }
    };
    if timeout(PATIENCE, wait).await.is_err() {
        panic!("it never came: {:#?}", pool.status.snapshot());
    }
}
