//! A real miner against a scripted Stratum V1 server on loopback.

// Helpers of a test file are tests too, which the lint cannot see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, time::Duration};

use bitcoin::{
    Amount, CompactTarget, OutPoint, ScriptBuf, Sequence, Target, Transaction, TxIn, TxMerkleNode,
    TxOut, Txid, Witness, absolute,
    block::{Header, Version},
    consensus::encode,
    hashes::Hash as _,
    merkle_tree, transaction,
};
use miner::{Config, Miner, StatusHandle};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

const EXTRANONCE1: &str = "a1b2c3d4";
const EXTRANONCE2_SIZE: usize = 4;
const VERSION: u32 = 0x2000_0000;
const MASK: u32 = 0x1fff_e000;
const NTIME: u32 = 1_700_000_000;
const NBITS: u32 = 0x1d00_ffff;

/// The difficulties of the tests: a share in 2^16 and in 2^20 hashes, and one that every hash meets.
const EASY: f64 = 1.0 / 65_536.0;
const HARD: f64 = 1.0 / 4_096.0;
const NONE: f64 = 1e-12;

/// A miner in its own task, and the server that it is to reach.
struct Stage {
    listener: TcpListener,
    status: StatusHandle,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), miner::Error>>,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config {
            address: listener.local_addr().unwrap().to_string(),
            user: "alice.rig".to_owned(),
            threads: 1,
            reconnect_first_seconds: 0.01,
            reconnect_longest_seconds: 0.05,
            ..Config::default()
        };
        change(&mut config);
        let miner = Miner::new(config).unwrap();
        let shutdown = CancellationToken::new();
        Self {
            listener,
            status: miner.status(),
            running: tokio::spawn(miner.run(shutdown.clone())),
            shutdown,
        }
    }

    async fn accept(&self) -> Server {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("no connection from the miner")
            .unwrap();
        let (reader, writer) = stream.into_split();
        Server {
            lines: BufReader::new(reader).lines(),
            writer,
            pings: 0,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.running).await;
        ended.expect("the miner does not stop").unwrap().unwrap();
    }
}

/// The server's end of one connection.
struct Server {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    pings: u64,
}

impl Server {
    async fn hear(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line())
            .await
            .expect("nothing from the miner");
        serde_json::from_str(&line.unwrap().expect("the miner closed the connection")).unwrap()
    }

    async fn hear_method(&mut self, method: &str) -> Value {
        loop {
            let message = self.hear().await;
            if message["method"] == method {
                return message;
            }
        }
    }

    async fn send(&mut self, message: &Value) {
        self.send_bytes(format!("{message}\n").as_bytes()).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        self.send(&json!({"id": request["id"], "result": result, "error": null}))
            .await;
    }

    async fn reject(&mut self, request: &Value, code: i64) {
        self.send(&json!({"id": request["id"], "result": null, "error": [code, "no", null]}))
            .await;
    }

    /// Takes a miner through set-up and gives it the difficulty of its first job.
    async fn welcome(&mut self, difficulty: f64) {
        let configure = self.hear_method("mining.configure").await;
        let mask = format!("{MASK:08x}");
        let granted = json!({"version-rolling": true, "version-rolling.mask": mask});
        self.answer(&configure, granted).await;
        let subscribe = self.hear_method("mining.subscribe").await;
        self.answer(&subscribe, json!([[], EXTRANONCE1, EXTRANONCE2_SIZE]))
            .await;
        let authorize = self.hear_method("mining.authorize").await;
        assert_eq!(authorize["params"][0], "alice.rig");
        self.answer(&authorize, json!(true)).await;
        self.set_difficulty(difficulty).await;
    }

    async fn set_difficulty(&mut self, difficulty: f64) {
        self.send(&json!({"id": null, "method": "mining.set_difficulty", "params": [difficulty]}))
            .await;
    }

    async fn notify(&mut self, job_id: &str) {
        self.send(&Job::new(job_id).notify()).await;
    }

    /// Waits until the miner has handled all that was sent. Gives back the submits that came meanwhile.
    async fn settle(&mut self) -> Vec<Value> {
        self.pings += 1;
        let id = format!("ping {}", self.pings);
        self.send(&json!({"id": id, "method": "client.get_version", "params": []}))
            .await;
        let mut submits = Vec::new();
        loop {
            let message = self.hear().await;
            if message["id"] == id.as_str() {
                return submits;
            }
            submits.push(message);
        }
    }
}

/// A block of two transactions, and what a submit makes of it, with nothing but the `bitcoin` crate.
struct Job {
    id: String,
    coinb1: Vec<u8>,
    coinb2: Vec<u8>,
    other: Txid,
    prev_hash: [u8; 32],
}

impl Job {
    fn new(id: &str) -> Self {
        // Eight bytes of extranonce at the end of the input's script.
        let mut script = vec![0x03, 1, 2, 3, 0x08];
        script.extend_from_slice(&[0xee; 8]);
        let coinbase = Transaction {
            version: transaction::Version::ONE,
            lock_time: absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig: ScriptBuf::from_bytes(script),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(5_000_000_000),
                script_pubkey: ScriptBuf::from_bytes(id.as_bytes().to_vec()),
            }],
        };
        let bytes = encode::serialize(&coinbase);
        let at = bytes
            .windows(8)
            .position(|window| window == [0xee; 8])
            .unwrap();
        Self {
            id: id.to_owned(),
            coinb1: bytes[..at].to_vec(),
            coinb2: bytes[at + 8..].to_vec(),
            other: Txid::from_byte_array(counting_from(0)),
            prev_hash: counting_from(0x80),
        }
    }

    fn notify(&self) -> Value {
        // Stratum V1 swaps the bytes of each word of the previous hash.
        let prev_hash: Vec<u8> = self
            .prev_hash
            .chunks(4)
            .flat_map(|word| word.iter().rev().copied())
            .collect();
        json!({"id": null, "method": "mining.notify", "params": [
            self.id,
            hex::encode(prev_hash),
            hex::encode(&self.coinb1),
            hex::encode(&self.coinb2),
            [hex::encode(self.other.as_byte_array())],
            format!("{VERSION:08x}"),
            format!("{NBITS:08x}"),
            format!("{NTIME:08x}"),
            true,
        ]})
    }

    /// The header that a submit speaks of.
    fn header(submit: &Value) -> Header {
        let text = |index: usize| submit["params"][index].as_str().unwrap();
        let word = |index: usize| u32::from_str_radix(text(index), 16).unwrap();
        let job = Self::new(text(1));
        let extranonce2 = hex::decode(text(2)).unwrap();
        assert_eq!(extranonce2.len(), EXTRANONCE2_SIZE);
        let extranonce1 = hex::decode(EXTRANONCE1).unwrap();
        let coinbase = [job.coinb1, extranonce1, extranonce2, job.coinb2].concat();
        let coinbase: Transaction = encode::deserialize(&coinbase).unwrap();
        let ids = [coinbase.compute_txid(), job.other].map(|id| id.to_raw_hash());
        let root = merkle_tree::calculate_root(ids.into_iter()).unwrap();
        assert_eq!(word(3), NTIME, "ntime is kept as given");
        assert_eq!(word(5) & !MASK, 0, "only bits of the mask are rolled");
        Header {
            version: Version::from_consensus(((VERSION & !MASK) | word(5)).cast_signed()),
            prev_blockhash: bitcoin::BlockHash::from_byte_array(job.prev_hash),
            merkle_root: TxMerkleNode::from_raw_hash(root),
            time: word(3),
            bits: CompactTarget::from_consensus(NBITS),
            nonce: word(4),
        }
    }
}

fn counting_from(first: u8) -> [u8; 32] {
    let mut bytes = [first; 32];
    bytes.iter_mut().zip(0..).for_each(|(byte, at)| *byte += at);
    bytes
}

/// Whether a header meets a difficulty of the tests. Difficulty 1 has `ffff` after eight zeros; each factor of 16 moves
/// that by one digit.
fn meets(header: &Header, difficulty: f64) -> bool {
    let at = match difficulty {
        EASY => 4,
        HARD => 5,
        other => unreachable!("{other}"),
    };
    let mut digits = vec![b'0'; 64];
    digits[at..at + 4].fill(b'f');
    let target: [u8; 32] = hex::decode(digits).unwrap().try_into().unwrap();
    Target::from_be_bytes(target).is_met_by(header.block_hash())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_share_meets_its_target_and_none_comes_twice() {
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server.notify("first").await;
    let mut hashes = HashSet::new();
    let mut versions = HashSet::new();
    for round in 0..40 {
        if round == 20 {
            // The same work again, as a pool sends it after a retarget: nothing may be found twice.
            server.notify("first").await;
        }
        let submit = server.hear_method("mining.submit").await;
        assert_eq!(submit["params"][0], "alice.rig");
        let header = Job::header(&submit);
        assert!(meets(&header, EASY), "{submit}");
        assert!(hashes.insert(header.block_hash()), "twice: {submit}");
        versions.insert(header.version);
        server.answer(&submit, json!(true)).await;
    }
    assert!(versions.len() > 1, "versions are rolled");
    let more = server.settle().await.len() as u64;
    let status = stage.status.snapshot();
    assert_eq!(status.accepted, 40);
    assert!(status.submitted >= 40 && status.submitted <= 40 + more + 64);
    assert_eq!(status.rejected.total(), 0);
    assert_eq!((status.connects, status.jobs), (1, 2));
    assert_eq!(status.difficulty, Some(EASY));
    assert!(status.mining);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_share_a_job_without_searching_twice() {
    let stage = Stage::new(|config| config.threads = 3).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server.notify("shared").await;
    let mut hashes = HashSet::new();
    while hashes.len() < 60 {
        let submit = server.hear_method("mining.submit").await;
        let header = Job::header(&submit);
        assert!(meets(&header, EASY), "{submit}");
        assert!(hashes.insert(header.block_hash()), "twice: {submit}");
        server.answer(&submit, json!(true)).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difficulty_is_in_force_from_the_next_notify() {
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server.notify("easy").await;
    server.set_difficulty(HARD).await;
    server.settle().await;
    // Shares of the old difficulty go on; fifteen of sixteen do not meet the new one.
    loop {
        let submit = server.hear_method("mining.submit").await;
        let header = Job::header(&submit);
        assert!(meets(&header, EASY), "{submit}");
        server.answer(&submit, json!(true)).await;
        if !meets(&header, HARD) {
            break;
        }
    }
    server.notify("hard").await;
    server.settle().await;
    for _ in 0..3 {
        let submit = server.hear_method("mining.submit").await;
        assert_eq!(submit["params"][1], "hard", "old work was dropped");
        assert!(meets(&Job::header(&submit), HARD), "{submit}");
        server.answer(&submit, json!(true)).await;
    }
    assert_eq!(stage.status.snapshot().difficulty, Some(HARD));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_counted_by_reason() {
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server.notify("job").await;
    for code in [20, 21, 22, 23, 23, 24, 25, 99] {
        let submit = server.hear_method("mining.submit").await;
        server.reject(&submit, code).await;
    }
    server.settle().await;
    let rejected = stage.status.snapshot().rejected;
    assert_eq!((rejected.other, rejected.job_not_found), (2, 1));
    assert_eq!((rejected.duplicate, rejected.low_difficulty), (1, 2));
    assert_eq!((rejected.unauthorized, rejected.not_subscribed), (1, 1));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_miner_comes_back_after_the_server_went_away() {
    let stage = Stage::new(|_| {}).await;
    let mut hashes = HashSet::new();
    for _ in 0..3 {
        let mut server = stage.accept().await;
        server.welcome(EASY).await;
        server.notify("again").await;
        let submit = server.hear_method("mining.submit").await;
        let header = Job::header(&submit);
        assert!(meets(&header, EASY), "{submit}");
        // The same work on another connection is not searched from its beginning.
        assert!(hashes.insert(header.block_hash()), "twice: {submit}");
    }
    // The last connection is being closed; whatever follows, its share has no answer.
    drop(stage.accept().await);
    let mut server = stage.accept().await;
    server.settle().await;
    let status = stage.status.snapshot();
    assert_eq!((status.accepted, status.connects), (0, 5));
    assert!(status.unanswered >= 3);
    assert_eq!(status.unanswered, status.submitted);
    assert!(!status.mining);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let stage = Stage::new(|config| config.address = address.to_string()).await;
    // Each failed attempt is followed by another: wait for some of them.
    let failures = || stage.status.snapshot().connect_failures;
    timeout(PATIENCE, async {
        while failures() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the miner gave up");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_left() {
    let stage = Stage::new(|config| config.silence_timeout_seconds = 0.2).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    let _second = stage.accept().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_no_share_is_left() {
    let stage = Stage::new(|config| config.response_timeout_seconds = 0.5).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server.notify("job").await;
    server.hear_method("mining.submit").await;
    let _second = stage.accept().await;
    assert!(stage.status.snapshot().unanswered > 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_from_the_server_costs_nothing_and_an_endless_line_the_connection() {
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server
        .send_bytes(b"\xff\xfe\n{}\n[]\nnull\n{\"id\":1e99,\"result\":true}\n\r\n\n{\"method\":\"mining.notify\",\"params\":[]}\n")
        .await;
    server.notify("job").await;
    let submit = server.hear_method("mining.submit").await;
    assert!(meets(&Job::header(&submit), EASY), "{submit}");
    server.settle().await;
    assert!(stage.status.snapshot().malformed_lines >= 4);
    // The miner hangs up before it has read all of it.
    let _ = server.writer.write_all(&vec![b'x'; 1 << 20]).await;
    let _second = stage.accept().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_not_flooded() {
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(NONE).await;
    server.notify("every hash is a share").await;
    let first = server.hear_method("mining.submit").await;
    while stage.status.snapshot().submitted < 256 {
        server.settle().await;
    }
    assert!(server.settle().await.len() < 256);
    assert_eq!(server.settle().await.len(), 0, "more than is answered");
    // An answer makes room for one more.
    server.answer(&first, json!(true)).await;
    server.hear_method("mining.submit").await;
    assert_eq!(server.settle().await.len(), 0, "more than is answered");
    assert_eq!(stage.status.snapshot().submitted, 257);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_ask_to_reconnect_but_not_elsewhere() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let stage = Stage::new(|_| {}).await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    server
        .send(&json!({"id": null, "method": "client.reconnect", "params": ["127.0.0.1", port, 0]}))
        .await;
    let mut server = stage.accept().await;
    server.welcome(EASY).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_refused_is_tried_again_later() {
    let stage = Stage::new(|config| config.version_rolling = false).await;
    for _ in 0..2 {
        let mut server = stage.accept().await;
        let subscribe = server.hear().await;
        assert_eq!(subscribe["method"], "mining.subscribe", "no configure");
        server.answer(&subscribe, json!([[], "00", 8])).await;
        let authorize = server.hear_method("mining.authorize").await;
        server.reject(&authorize, 24).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_miner_still_finds_shares() {
    let stage = Stage::new(|config| config.hashrate_limit = 20_000.0).await;
    let mut server = stage.accept().await;
    // Every hash is a share, so one batch is enough.
    server.welcome(NONE).await;
    server.notify("job").await;
    server.hear_method("mining.submit").await;
    stage.stop().await;
}
