//! A pool that says what the test tells it to, and a miner that says what the test writes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod line;
pub(crate) mod works;

use std::time::Duration;

use stratum_core::{
    binary_sv2::{Seq0255, Sv2Option},
    common_messages_sv2::{Reconnect, SetupConnectionSuccess},
    mining_sv2::{
        NewExtendedMiningJob, OpenExtendedMiningChannelSuccess, OpenMiningChannelError,
        SetNewPrevHash, SubmitSharesSuccess,
    },
    parsers_sv2::{CommonMessages, Mining},
};
use sv2_connection::{
    Authority, AuthorityPublicKey, AuthoritySecretKey, Connection, FrameBuffer, Options,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use translator::{Config, StatusHandle, Translator, Upstream};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The authority and the port of a pool that may be restarted.
pub(crate) struct PoolHouse {
    authority: Authority,
    listener: TcpListener,
}

impl PoolHouse {
    pub(crate) async fn new() -> Self {
        let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
        Self {
            authority,
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// The pool is away, and comes back by what this gives.
    pub(crate) fn close(self) -> impl AsyncFnOnce() -> Self {
        let (authority, address) = (self.authority, self.listener.local_addr().unwrap());
        drop(self.listener);
        async move || Self {
            authority,
            listener: TcpListener::bind(address).await.unwrap(),
        }
    }

    /// The same pool at another address.
    pub(crate) async fn annex(&self) -> Self {
        Self {
            authority: self.authority.clone(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream {
            address: self.listener.local_addr().unwrap().to_string(),
            authority_public_key: Some(self.key()),
        }
    }

    pub(crate) fn key(&self) -> AuthorityPublicKey {
        self.authority.public()
    }

    /// The next connection, set up.
    pub(crate) async fn accept(&self) -> Pool {
        let mut pool = self.accept_without_setup().await;
        assert!(matches!(pool.next().await, Some(Heard::Setup)));
        pool.push_setup_success();
        pool.flush().await;
        pool
    }

    /// The next connection, set up, however long that takes; none if it ends before.
    pub(crate) async fn accept_patiently(&self) -> Option<Pool> {
        let (stream, _) = self.listener.accept().await.unwrap();
        let options = Options::default();
        let connection = sv2_connection::accept(stream, &self.authority, options)
            .await
            .ok()?;
        let mut pool = Pool {
            connection,
            heard: Default::default(),
            frames: FrameBuffer::new(),
            next_channel: 1,
        };
        pool.next().await?;
        pool.push_setup_success();
        pool.connection.writer.write(&mut pool.frames).await.ok()?;
        Some(pool)
    }

    /// The next connection that completes the Noise handshake.
    pub(crate) async fn accept_without_setup(&self) -> Pool {
        loop {
            let (stream, _) = in_time("the translator to connect", self.listener.accept())
                .await
                .unwrap();
            if let Ok(connection) =
                sv2_connection::accept(stream, &self.authority, Options::default()).await
            {
                return Pool {
                    connection,
                    heard: Default::default(),
                    frames: FrameBuffer::new(),
                    next_channel: 1,
                };
            }
        }
    }
}

/// The pool's end of a connection.
pub(crate) struct Pool {
    pub(crate) connection: Connection,
    heard: std::collections::VecDeque<Heard>,
    pub(crate) frames: FrameBuffer,
    next_channel: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Setup,
    /// Which extensions are spoken.
    Extensions,
    Open {
        request_id: u32,
        user: String,
        min_extranonce_size: u16,
        hashrate: f32,
        max_target: [u8; 32],
    },
    Share(Share),
    Update {
        channel_id: u32,
        hashrate: f32,
        max_target: [u8; 32],
    },
    Close {
        channel_id: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Share {
    pub(crate) channel_id: u32,
    pub(crate) sequence_number: u32,
    pub(crate) job_id: u32,
    pub(crate) extranonce: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) ntime: u32,
    pub(crate) nonce: u32,
}

impl Pool {
    fn push_setup_success(&mut self) {
        let success = SetupConnectionSuccess {
            used_version: 2,
            flags: 0,
        };
        self.frames
            .push(CommonMessages::SetupConnectionSuccess(success))
            .unwrap();
    }

    /// What the translator says next; `None` when it hangs up.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        while self.heard.is_empty() {
            let heard = &mut self.heard;
            let read = self.connection.reader.read(|frame| {
                heard.push_back(match frame.message_type {
                    _ if frame.extension_type != 0 => Heard::Extensions,
                    0..0x10 => {
                        frame.common()?;
                        Heard::Setup
                    }
                    _ => match frame.mining()? {
                        Mining::OpenExtendedMiningChannel(open) => Heard::Open {
                            request_id: open.request_id,
                            user: open.user_identity.as_utf8_or_hex(),
                            min_extranonce_size: open.min_extranonce_size,
                            hashrate: open.nominal_hash_rate,
                            max_target: bytes(open.max_target.as_bytes()),
                        },
                        Mining::SubmitSharesExtended(share) => Heard::Share(Share {
                            channel_id: share.channel_id,
                            sequence_number: share.sequence_number,
                            job_id: share.job_id,
                            extranonce: share.extranonce.as_bytes().to_vec(),
                            version: share.version,
                            ntime: share.ntime,
                            nonce: share.nonce,
                        }),
                        Mining::UpdateChannel(update) => Heard::Update {
                            channel_id: update.channel_id,
                            hashrate: update.nominal_hash_rate,
                            max_target: bytes(update.maximum_target.as_bytes()),
                        },
                        Mining::CloseChannel(close) => Heard::Close {
                            channel_id: close.channel_id,
                        },
                        other => panic!("unexpected: {other}"),
                    },
                });
                Ok::<_, sv2_connection::Error>(())
            });
            if in_time("the translator to say something", read)
                .await
                .is_err()
            {
                return None;
            }
        }
        self.heard.pop_front()
    }

    /// To be heard again.
    pub(crate) fn unhear(&mut self, heard: Heard) {
        self.heard.push_front(heard);
    }

    /// The next share. When the translator tells of its miners' hashrate is up to the clock, so that is passed over.
    pub(crate) async fn share(&mut self) -> Share {
        loop {
            match self.next().await {
                Some(Heard::Share(share)) => return share,
                Some(Heard::Update { .. }) => {}
                other => panic!("a share was expected: {other:?}"),
            }
        }
    }

    /// Answers the next request for a channel, with work for it.
    pub(crate) async fn open_channel(&mut self, prefix: &[u8]) -> (u32, String) {
        let (channel_id, user) = self.open_channel_without_work(prefix).await;
        self.work(channel_id, 1, 9);
        self.flush().await;
        (channel_id, user)
    }

    /// Refuses the next request for a channel, and says who asked.
    pub(crate) async fn refuse_channel(&mut self) -> Option<String> {
        let Heard::Open {
            request_id, user, ..
        } = self.next().await?
        else {
            panic!("a channel was expected");
        };
        let refusal = OpenMiningChannelError {
            request_id,
            error_code: "max-channels".try_into().unwrap(),
        };
        self.frames
            .push(Mining::OpenMiningChannelError(refusal))
            .unwrap();
        self.flush().await;
        Some(user)
    }

    /// Asks the translator to come to another address; empty and zero are the same one.
    pub(crate) async fn reconnect(&mut self, host: &str, port: u16) {
        self.frames
            .push(CommonMessages::Reconnect(Reconnect {
                new_host: host.try_into().unwrap(),
                new_port: port,
            }))
            .unwrap();
        self.flush().await;
    }

    /// Answers the next request for a channel.
    pub(crate) async fn open_channel_without_work(&mut self, prefix: &[u8]) -> (u32, String) {
        let Some(Heard::Open {
            request_id,
            user,
            min_extranonce_size,
            ..
        }) = self.next().await
        else {
            panic!("a channel was expected");
        };
        let channel_id = self.next_channel;
        self.next_channel += 1;
        self.frames
            .push(Mining::OpenExtendedMiningChannelSuccess(
                OpenExtendedMiningChannelSuccess {
                    request_id,
                    channel_id,
                    target: (&[0xff; 32]).into(),
                    extranonce_size: min_extranonce_size,
                    extranonce_prefix: prefix.try_into().unwrap(),
                    group_channel_id: 1000,
                },
            ))
            .unwrap();
        self.flush().await;
        (channel_id, user)
    }

    /// A job and the block that makes it work, for a channel or a group.
    pub(crate) fn work(&mut self, channel_id: u32, job_id: u32, prev_hash: u8) {
        self.frames
            .push(Mining::NewExtendedMiningJob(NewExtendedMiningJob {
                channel_id,
                job_id,
                min_ntime: Sv2Option::new(None),
                version: 0x2000_0000,
                version_rolling_allowed: true,
                merkle_path: Seq0255::new(Vec::new()).unwrap(),
                coinbase_tx_prefix: (&[1, 0, 0, 0, 1][..]).try_into().unwrap(),
                coinbase_tx_suffix: (&[2][..]).try_into().unwrap(),
            }))
            .unwrap();
        self.frames
            .push(Mining::SetNewPrevHash(SetNewPrevHash {
                channel_id,
                job_id,
                prev_hash: (&[prev_hash; 32]).into(),
                min_ntime: 1_700_000_000,
                nbits: 0x207f_ffff,
            }))
            .unwrap();
    }

    pub(crate) async fn acknowledge(
        &mut self,
        channel_id: u32,
        last_sequence_number: u32,
        count: u32,
    ) {
        self.frames
            .push(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
                channel_id,
                last_sequence_number,
                new_submits_accepted_count: count,
                new_shares_sum: count.into(),
            }))
            .unwrap();
        self.flush().await;
    }

    pub(crate) async fn flush(&mut self) {
        in_time(
            "the translator to read",
            self.connection.writer.write(&mut self.frames),
        )
        .await
        .unwrap();
    }
}

fn bytes(target: &[u8]) -> [u8; 32] {
    target.try_into().unwrap()
}

/// A translator that runs until dropped.
pub(crate) struct Running {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) http: std::net::SocketAddr,
    pub(crate) tls: Option<std::net::SocketAddr>,
    pub(crate) reloader: translator::Reloader,
    pub(crate) status: StatusHandle,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<Result<(), translator::Error>>,
}

impl Running {
    pub(crate) async fn start(upstreams: Vec<Upstream>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen_address: "127.0.0.1:0".parse().unwrap(),
            http_address: "127.0.0.1:0".parse().unwrap(),
            upstreams,
            upstream_connections: 1,
            reconnect_first_ms: 10,
            reconnect_last_seconds: 1,
            nominal_hashrate: 0.0,
            ..Config::default()
        };
        change(&mut config);
        let translator = Translator::bind(config).await.unwrap();
        let (address, status) = (translator.local_addr(), translator.status());
        let http = translator.http_addr().unwrap();
        let (tls, reloader) = (translator.tls_addr(), translator.reloader());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(translator.run(shutdown.clone()));
        Self {
            address,
            http,
            tls,
            reloader,
            status,
            shutdown,
            task,
        }
    }

    pub(crate) async fn miner(&self) -> Miner {
        Miner::over(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits until the status is as it should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&translator::Snapshot) -> bool,
    ) -> translator::Snapshot {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let snapshot = self.status.snapshot();
            assert!(snapshot.shares.add_up(), "{:?}", snapshot.shares);
            if holds(&snapshot) {
                return snapshot;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited in vain for {what}: {snapshot:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An SV1 miner.
pub(crate) struct Miner {
    lines: tokio::io::Lines<BufReader<Box<dyn AsyncRead + Send + Unpin>>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) difficulty: Option<f64>,
}

/// What a miner learns from a `mining.notify`.
#[derive(Debug, Clone)]
pub(crate) struct Notify {
    pub(crate) job_id: String,
    pub(crate) coinb1: String,
    pub(crate) clean: bool,
}

impl Miner {
    /// A miner at the end of any connection.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(reader);
        Self {
            lines: BufReader::new(reader).lines(),
            writer: Box::new(writer),
            difficulty: None,
        }
    }

    pub(crate) async fn write(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
        self.writer.flush().await.unwrap();
    }

    pub(crate) async fn write_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Writes the same line for ever and reads nothing, until the translator hangs up.
    pub(crate) async fn flood(mut self, line: &'static str) {
        let lines = format!("{line}\n").repeat(100);
        while self.writer.write_all(lines.as_bytes()).await.is_ok() {}
    }

    /// The next line; `None` when the translator hangs up.
    pub(crate) async fn read(&mut self) -> Option<serde_json::Value> {
        let line = in_time("a line", self.lines.next_line()).await.ok()??;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
    }

    /// The translator has nothing more to say, and the connection ends without an error.
    pub(crate) async fn is_let_go(&mut self) -> bool {
        matches!(in_time("the end", self.lines.next_line()).await, Ok(None))
    }

    /// Sends a line and reads its answer.
    pub(crate) async fn ask(&mut self, line: &str) -> serde_json::Value {
        self.write(line).await;
        self.read().await.expect("the translator hung up")
    }

    pub(crate) async fn log_in(&mut self, user: &str) {
        self.ask(r#"{"id":1,"method":"mining.subscribe","params":["test/1"]}"#)
            .await;
        let answer = self
            .ask(&format!(
                r#"{{"id":2,"method":"mining.authorize","params":["{user}","x"]}}"#
            ))
            .await;
        assert_eq!(answer["result"], true, "{answer}");
    }

    /// The next job; difficulty on the way is noted.
    pub(crate) async fn notify(&mut self) -> Notify {
        loop {
            let line = self.read().await.expect("the translator hung up");
            match line["method"].as_str() {
                Some("mining.set_difficulty") => self.difficulty = line["params"][0].as_f64(),
                Some("mining.notify") => {
                    let text = |index: usize| line["params"][index].as_str().unwrap().to_owned();
                    let clean = line["params"][8].as_bool().unwrap();
                    return Notify {
                        job_id: text(0),
                        coinb1: text(2),
                        clean,
                    };
                }
                _ => panic!("unexpected: {line}"),
            }
        }
    }

    pub(crate) async fn submit(
        &mut self,
        user: &str,
        job_id: &str,
        nonce: u32,
    ) -> serde_json::Value {
        let line = format!(
            r#"{{"id":9,"method":"mining.submit","params":["{user}","{job_id}","0a0b0c0d","6553f101","{nonce:08x}"]}}"#
        );
        self.ask(&line).await
    }
}
