//! Two pools, one translator, and miners that never notice which of them they work for.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
};

use e2e::{
    PATIENCE, Role, embedded, pool_config, start_miner, start_pool, start_translator, until,
};
use sv2_connection::AuthorityPublicKey;
use tempfile::TempDir;
use translator::{Shares, Upstream};

const HASHRATE: f64 = 200_000.0;

type PoolRole = Role<pool::StatusHandle>;
type TranslatorRole = Role<translator::StatusHandle>;

/// A pool that can be started again as the same.
struct House {
    config: pool::Config,
    key: AuthorityPublicKey,
    pool: PoolRole,
    /// Of earlier lives.
    counted: u64,
    _data: TempDir,
}

impl House {
    async fn new(server_id: u16) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = pool_config(embedded(), &data);
        config.server_id = server_id;
        let (pool, key) = start_pool(config.clone()).await;
        config.listen_address = pool.address;
        Self {
            config,
            key,
            pool,
            counted: 0,
            _data: data,
        }
    }

    fn upstream(&self) -> Upstream {
        Upstream {
            address: self.pool.address.to_string(),
            authority_public_key: Some(self.key),
        }
    }

    fn counted(&self) -> u64 {
        self.counted + self.pool.status.snapshot().shares_accepted
    }

    fn kill(&mut self) {
        self.pool.kill();
    }

    async fn start_again(&mut self) {
        self.counted = self.counted();
        (self.pool, _) = start_pool(self.config.clone()).await;
    }

    async fn takes(&self, shares: u64) {
        let goal = self.pool.status.snapshot().shares_accepted + shares;
        until("the pool takes shares", || {
            (self.pool.status.snapshot().shares_accepted >= goal).then_some(())
        })
        .await;
    }
}

async fn translator_for(first: &House, second: &House, aggregate: bool) -> TranslatorRole {
    let next = second.upstream();
    start_translator(first.pool.address, first.key, |config| {
        config.upstreams.push(next);
        config.upstream_connections = 2;
        config.failback_after_seconds = 1;
        config.aggregate = aggregate;
    })
    .await
}

async fn follows(translator: &TranslatorRole, index: usize) {
    until("all connections are to this pool", || {
        let upstreams = translator.status.snapshot().upstreams;
        let others =
            upstreams.iter().map(|pool| pool.connected).sum::<usize>() - upstreams[index].connected;
        (upstreams[index].followed && upstreams[index].connected == 2 && others == 0).then_some(())
    })
    .await;
}

fn sum(shares: &std::collections::BTreeMap<&'static str, u64>) -> u64 {
    shares.values().sum()
}

/// An SV1 miner that takes work, finds nothing, and knows the least that one can: the methods that it is told.
fn listen(translator: SocketAddr) -> (TcpStream, JoinHandle<Vec<String>>) {
    let mut stream = TcpStream::connect(translator).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n\
                 {\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"alice.old\",\"x\"]}\n";
    stream.write_all(hello.as_bytes()).unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    let methods = std::thread::spawn(move || {
        let mut methods = Vec::new();
        for line in reader.lines().map_while(Result::ok) {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(method) = line["method"].as_str() {
                methods.push(method.to_owned());
            }
        }
        methods
    });
    (stream, methods)
}

async fn a_pool_dies_and_comes_back(aggregate: bool) {
    let (mut first, second) = (House::new(1).await, House::new(2).await);
    let translator = translator_for(&first, &second, aggregate).await;
    let miners =
        ["alice.one", "alice.two"].map(|name| start_miner(translator.address, name, HASHRATE));
    let (old_miner, methods) = listen(translator.address);
    first.takes(15).await;
    assert_eq!(second.counted(), 0, "nobody works for the second");

    first.kill();
    second.takes(15).await;
    follows(&translator, 1).await;
    let lost_by_the_kill = sum(&translator.status.snapshot().shares.lost);

    first.start_again().await;
    first.takes(15).await;
    follows(&translator, 0).await;

    for miner in &miners {
        let mined = miner.status.snapshot();
        assert_eq!((mined.connects, mined.malformed_lines), (1, 0), "{mined:?}");
        miner.stop();
    }
    let shares = until("all shares have their answers", || {
        let status = translator.status.snapshot();
        (status.connected == 1 && status.shares.in_flight == 0).then_some(status.shares)
    })
    .await;
    assert!(shares.add_up(), "{shares:?}");
    let mined = miners
        .each_ref()
        .map(|miner| miner.status.snapshot().submitted);
    assert_eq!(shares.submitted, mined.iter().sum::<u64>(), "{shares:?}");
    assert_eq!(sum(&shares.lost), lost_by_the_kill, "the return lost some");
    all_are_in_the_books(&shares, first.counted() + second.counted());
    let status = translator.status.snapshot();
    assert_eq!(status.upstream_moves, 2, "{status:?}");

    drop(translator);
    drop(old_miner);
    let methods = methods.join().unwrap();
    assert!(
        methods
            .iter()
            .filter(|method| *method == "mining.notify")
            .count()
            >= 3,
        "{methods:?}"
    );
    assert!(
        !methods
            .iter()
            .any(|method| method == "mining.set_extranonce"),
        "{methods:?}"
    );
}

/// What the pools acknowledged was counted, and nothing was counted that was not sent. What is kept here meets the miner's
/// difficulty and not its channel's.
fn all_are_in_the_books(shares: &Shares, counted: u64) {
    assert!(
        shares.accepted - shares.kept <= counted && counted <= shares.forwarded,
        "{counted} counted, {shares:?}"
    );
}

#[tokio::test]
async fn miners_go_to_the_next_pool_and_back_without_noticing() {
    a_pool_dies_and_comes_back(false).await;
}

#[tokio::test]
async fn miners_that_share_a_channel_go_to_the_next_pool_and_back_without_noticing() {
    a_pool_dies_and_comes_back(true).await;
}

#[tokio::test]
async fn a_pool_that_stops_as_it_should_costs_no_share() {
    let (first, second) = (House::new(1).await, House::new(2).await);
    let translator = translator_for(&first, &second, false).await;
    let miner = start_miner(translator.address, "alice.one", HASHRATE);
    first.takes(15).await;
    first.pool.stop();
    second.takes(15).await;
    follows(&translator, 1).await;
    miner.stop();
    let shares = until("all shares have their answers", || {
        let status = translator.status.snapshot();
        (status.connected == 0 && status.shares.in_flight == 0).then_some(status.shares)
    })
    .await;
    assert_eq!(miner.status.snapshot().connects, 1);
    assert_eq!(sum(&shares.lost), 0, "{shares:?}");
    assert_eq!(
        shares.accepted,
        first.counted() + second.counted(),
        "{shares:?}"
    );
}

#[tokio::test]
async fn whatever_happens_to_the_pools_every_share_is_accounted_for() {
    let (mut first, mut second) = (House::new(1).await, House::new(2).await);
    let translator = translator_for(&first, &second, false).await;
    let miners =
        ["alice.one", "bob.two"].map(|name| start_miner(translator.address, name, HASHRATE));
    first.takes(10).await;
    // The second dies while miners work for it and the first is being tried.
    first.kill();
    second.takes(10).await;
    first.start_again().await;
    second.kill();
    first.takes(10).await;
    // The first leaves as it should, and there is no other.
    first.pool.stop();
    until("there is no pool", || {
        (!translator.status.is_ready()).then_some(())
    })
    .await;
    first.kill();
    second.start_again().await;
    second.takes(10).await;
    // Both at once, and both back at once.
    first.start_again().await;
    first.kill();
    second.kill();
    tokio::join!(first.start_again(), second.start_again());
    until("one of them takes shares", || {
        let counted = |house: &House| house.pool.status.snapshot().shares_accepted;
        (counted(&first) + counted(&second) >= 20).then_some(())
    })
    .await;
    for miner in &miners {
        let mined = miner.status.snapshot();
        assert_eq!((mined.connects, mined.malformed_lines), (1, 0), "{mined:?}");
        miner.stop();
    }
    let shares = until("all shares have their answers", || {
        let status = translator.status.snapshot();
        (status.connected == 0 && status.shares.in_flight == 0).then_some(status.shares)
    })
    .await;
    assert!(shares.add_up(), "{shares:?}");
    let mined = miners
        .each_ref()
        .map(|miner| miner.status.snapshot().submitted);
    assert_eq!(shares.submitted, mined.iter().sum::<u64>(), "{shares:?}");
    all_are_in_the_books(&shares, first.counted() + second.counted());
}
