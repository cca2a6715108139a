//! A whole template provider on the embedded chain, and good and bad clients through real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bitcoin::{
    OutPoint, ScriptBuf, Transaction, TxIn, Txid, absolute::LockTime,
    consensus::encode::serialize_hex, hashes::Hash, transaction,
};
use serde_json::json;
use service::http::Address;
use stratum_core::{
    parsers_sv2::TemplateDistribution,
    template_distribution_sv2::{CoinbaseOutputConstraints, RequestTransactionData},
};
use sv2_connection::{
    AuthorityPublicKey, AuthoritySecretKey, Connection, Error, FrameBuffer, MalformedMessage,
    Options, connect, setup, template_setup,
};
use template_provider::{Config, Status, StatusHandle, TemplateProvider};
use templates::{EmbeddedConfig, RpcConfig, SourceConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// No message of the template distribution has this type.
const NO_MESSAGE: u8 = 0xf7;
const SUBMIT_SOLUTION: u8 = 0x76;

struct Provider {
    address: SocketAddr,
    http: SocketAddr,
    key: AuthorityPublicKey,
    status: StatusHandle,
    stop: tokio_util::sync::DropGuard,
    task: JoinHandle<Result<(), template_provider::Error>>,
}

impl Provider {
    async fn start() -> Self {
        let embedded = EmbeddedConfig {
            refresh_interval_seconds: 1,
            ..EmbeddedConfig::default()
        };
        Self::start_with(SourceConfig::Embedded(embedded)).await
    }

    async fn start_with(source: SourceConfig) -> Self {
        Self::start_patient(source, 1).await
    }

    /// One that gives its clients so much time to read.
    async fn start_patient(source: SourceConfig, write_timeout_seconds: u32) -> Self {
        let config = Config {
            listen_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http_address: Address::loopback(0),
            authority_secret_key: Some(AuthoritySecretKey::generate()),
            setup_timeout_seconds: 1,
            write_timeout_seconds,
            template: source.into(),
            ..Config::default()
        };
        let provider = TemplateProvider::bind(config).await.unwrap();
        let stop = CancellationToken::new();
        Self {
            address: provider.local_addr(),
            http: provider.http_addr().unwrap(),
            key: provider.authority_public_key(),
            status: provider.status(),
            stop: stop.clone().drop_guard(),
            task: tokio::spawn(provider.run(stop)),
        }
    }

    async fn stop(self) {
        drop(self.stop);
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    async fn secured(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connection = connect(stream, Some(self.key), Options::default()).await;
        Client(connection.unwrap())
    }

    async fn client(&self) -> Client {
        let mut client = self.secured().await;
        client.set_up().await;
        client
    }

    /// Waits until the status is as the test wants it.
    async fn eventually(&self, wanted: impl Fn(&Status) -> bool) {
        let wait = async {
            while !wanted(&self.status.snapshot()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("it does not come to that: {:?}", self.status.snapshot());
        }
    }

    async fn counts(&self, reason: &str) {
        self.eventually(|status| status.disconnects.get(reason) == Some(&1))
            .await;
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.http);
        client.get(url).send().await.unwrap()
    }
}

struct Client(Connection);

impl Client {
    async fn set_up(&mut self) {
        let request = template_setup("localhost", 8442, "test").unwrap();
        setup(&mut self.0, request, PATIENCE).await.unwrap();
        let mut frames = FrameBuffer::new();
        let constraints = CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: 100,
            coinbase_output_max_additional_sigops: 0,
        };
        frames
            .push(TemplateDistribution::CoinbaseOutputConstraints(constraints))
            .unwrap();
        self.0.writer.write(&mut frames).await.unwrap();
    }

    /// A frame of this type whose payload is noise.
    async fn send_noise(&mut self, message_type: u8, size: usize) {
        let mut frames = FrameBuffer::new();
        let fill = |payload: &mut [u8]| {
            payload.fill(0xa5);
            Ok::<(), MalformedMessage>(())
        };
        frames
            .push_with(0, false, message_type, size, fill)
            .unwrap();
        self.0.writer.write(&mut frames).await.unwrap();
    }

    /// Waits for a template.
    async fn hears_a_template(&mut self) {
        let mut heard = false;
        while !heard {
            let read = self.0.reader.read::<Error>(|frame| {
                heard |= matches!(
                    frame.template_distribution(),
                    Ok(TemplateDistribution::NewTemplate(_))
                );
                Ok(())
            });
            timeout(PATIENCE, read).await.unwrap().unwrap();
        }
    }

    async fn is_hung_up_on(&mut self) {
        let wait = async { while self.0.reader.read::<Error>(|_| Ok(())).await.is_ok() {} };
        timeout(PATIENCE, wait).await.unwrap();
    }
}

#[tokio::test]
async fn operators_see_the_same_counts_everywhere() {
    let provider = Provider::start().await;
    let mut client = provider.client().await;
    client.hears_a_template().await;
    provider.eventually(|status| status.tips_sent == 1).await;
    assert_eq!(provider.get("/healthz").await.status(), 200);
    assert_eq!(provider.get("/readyz").await.status(), 200);
    let status: serde_json::Value = provider.get("/status").await.json().await.unwrap();
    assert_eq!(status["connections"], 1);
    assert_eq!(status["templates"]["sources"][0]["in_use"], true);
    let metrics = provider.get("/metrics").await.text().await.unwrap();
    for line in [
        "hashpool_template_provider_connections 1",
        "hashpool_template_provider_tips_sent_total 1",
        "hashpool_template_provider_template_fresh 1",
        "hashpool_template_provider_template_source 1",
        "hashpool_template_provider_blocks_total{outcome=\"accepted\"} 0",
        "hashpool_template_provider_refused_connections_total{reason=\"per-address\"} 0",
    ] {
        assert!(
            metrics.lines().any(|have| have == line),
            "{line} is not in\n{metrics}"
        );
    }
}

#[tokio::test]
async fn a_client_that_stalls_is_cut_off() {
    let provider = Provider::start().await;
    let mut silent = TcpStream::connect(provider.address).await.unwrap();
    let mut nothing = Vec::new();
    let read = timeout(PATIENCE, silent.read_to_end(&mut nothing)).await;
    assert_eq!(read.unwrap().unwrap(), 0);
    provider.counts("handshake").await;

    provider.secured().await.is_hung_up_on().await;
    provider.counts("setup-timeout").await;
}

#[tokio::test]
async fn what_is_no_message_ends_its_connection_and_no_other() {
    let provider = Provider::start().await;
    let mut honest = provider.client().await;

    let mut raw = TcpStream::connect(provider.address).await.unwrap();
    raw.write_all(&[0xff; 512]).await.unwrap();
    // A reset is an answer too.
    let _ = timeout(PATIENCE, raw.read_to_end(&mut Vec::new())).await;
    provider.counts("bad-frame").await;

    let cases = [
        (SUBMIT_SOLUTION, 3, "malformed-message"),
        (NO_MESSAGE, 40, "malformed-message"),
        (SUBMIT_SOLUTION, 70_000, "bad-frame"),
    ];
    let mut expected = BTreeMap::from([("bad-frame", 1)]);
    for (message_type, size, reason) in cases {
        let mut bad = provider.client().await;
        bad.send_noise(message_type, size).await;
        bad.is_hung_up_on().await;
        *expected.entry(reason).or_insert(0) += 1;
        provider
            .eventually(|status| status.disconnects.get(reason) == expected.get(reason))
            .await;
    }
    honest.hears_a_template().await;
    provider.eventually(|status| status.connections == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    let node = node_with_a_large_template().await;
    let source = SourceConfig::BitcoinRpc(RpcConfig {
        url: format!("http://{node}"),
        refresh_interval_seconds: 1,
        ..RpcConfig::default()
    });
    let provider = Provider::start_with(source).await;
    let mut honest = provider.client().await;
    honest.hears_a_template().await;
    let mut deaf = provider.client().await;
    deaf.hears_a_template().await;
    // Each is answered with all transactions, until the answers do not fit anywhere any more.
    let mut requests = FrameBuffer::new();
    for _ in 0..50 {
        let request = RequestTransactionData { template_id: 1 };
        requests
            .push(TemplateDistribution::RequestTransactionData(request))
            .unwrap();
    }
    deaf.0.writer.write(&mut requests).await.unwrap();
    provider.counts("slow-reader").await;
    honest.hears_a_template().await;
    provider.eventually(|status| status.connections == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_shutdown() {
    let node = node_with_a_large_template().await;
    let source = SourceConfig::BitcoinRpc(RpcConfig {
        url: format!("http://{node}"),
        ..RpcConfig::default()
    });
    // Far more than the test has patience for.
    let provider = Provider::start_patient(source, 600).await;
    let mut deaf = provider.client().await;
    deaf.hears_a_template().await;
    // It is stuck in an answer when it has read no more questions for a while.
    loop {
        let mut requests = FrameBuffer::new();
        for _ in 0..10_000 {
            let request = RequestTransactionData { template_id: 1 };
            requests
                .push(TemplateDistribution::RequestTransactionData(request))
                .unwrap();
        }
        let written = timeout(Duration::from_secs(1), deaf.0.writer.write(&mut requests));
        match written.await {
            Ok(written) => written.unwrap(),
            Err(_) => break,
        }
    }
    let status = provider.status.clone();
    provider.stop().await;
    let status = status.snapshot();
    assert_eq!(status.connections, 0);
    assert!(status.disconnects.is_empty(), "{status:?}");
}

/// A node that knows one template, with a transaction of a megabyte.
async fn node_with_a_large_template() -> SocketAddr {
    let large = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([1; 32]), 0),
            script_sig: ScriptBuf::from_bytes(vec![0; 900_000]),
            ..TxIn::default()
        }],
        output: Vec::new(),
    };
    let id = large.compute_txid().to_string();
    let template = json!({
        "version": 0x2000_0000, "previousblockhash": "11".repeat(32), "coinbasevalue": 5_000_000_000_u64,
        "longpollid": "x", "mintime": 1_700_000_001, "curtime": 1_700_000_100, "bits": "207fffff", "height": 100,
        "transactions": [{"data": serialize_hex(&large), "txid": id, "hash": id, "fee": 0, "sigops": 0}],
    });
    let answer = move |request: &str| {
        let result = match request.contains("getblockchaininfo") {
            true => json!({"chain": "regtest"}),
            false => template.clone(),
        };
        let body = json!({"result": result, "error": null}).to_string();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let answer = Arc::new(answer);
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let mut read = 0;
                while let Ok(size @ 1..) = stream.read(&mut request[read..]).await {
                    read += size;
                    let text = String::from_utf8_lossy(&request[..read]);
                    // The end of a request's JSON.
                    if !text.ends_with("]}") {
                        continue;
                    }
                    if text.contains("longpollid") {
                        return std::future::pending().await;
                    }
                    let answer = answer(&text);
                    read = 0;
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}
