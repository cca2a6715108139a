//! The whole stack for end-to-end tests: pool, translator and miners, over real sockets.
//!
//! The tests of this crate call it. Each role runs in a runtime of its own, so that one can be killed as a process is:
//! at whatever point its tasks have reached, without being asked.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "all of it runs in tests"
)]

pub mod client;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use miner::Miner;
use pool::Pool;
use relay::Relay;
use service::http::Address;
use stats::receiver::{Receiver, View};
use sv2_connection::{AuthorityPublicKey, AuthoritySecretKey};
use tempfile::TempDir;
use template_provider::TemplateProvider;
use templates::{EmbeddedConfig, SourceConfig, Sv2Config};
use tokio::{
    runtime::{Builder, Runtime},
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;
use translator::{Translator, Upstream};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Nobody has its key; it is for private chains.
pub const PAYOUT: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";

/// A role with a runtime of its own.
pub struct Role<Status> {
    /// Where it listens, if it does.
    pub address: SocketAddr,
    /// Its counters; they can be read after its end.
    pub status: Status,
    runtime: Option<Runtime>,
    stop: CancellationToken,
}

impl<Status> Role<Status> {
    fn new(runtime: Runtime, address: SocketAddr, status: Status, stop: CancellationToken) -> Self {
        Self {
            address,
            status,
            runtime: Some(runtime),
            stop,
        }
    }

    /// Ends it as SIGKILL ends a process: its tasks are dropped wherever they wait, and its sockets close.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not end on a thread of another one. When it has, its sockets are closed.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE));
            ended.join().expect("the role's tasks are dropped");
        }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl<Status> Drop for Role<Status> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pool's settings, to be changed by the test before it starts.
pub fn pool_config(template: SourceConfig, data: &TempDir) -> pool::Config {
    pool::Config {
        listen_address: any_port(),
        http_address: Address::At(any_port()),
        authority_secret_key: Some(AuthoritySecretKey::generate()),
        data_dir: data.path().to_owned(),
        payout: PAYOUT.to_owned(),
        pool_tag: "hashpool-e2e".to_owned(),
        // Many shares of a slow miner.
        shares_per_minute: 600.0,
        minimum_difficulty: 1e-6,
        template: template.into(),
        ..pool::Config::default()
    }
}

/// A chain whose blocks take a moment.
pub fn embedded() -> SourceConfig {
    SourceConfig::Embedded(EmbeddedConfig {
        block_interval_seconds: 5,
        first_block_hashes: 1 << 18,
        minimum_block_hashes: 1 << 18,
        refresh_interval_seconds: 1,
    })
}

/// Starts a pool.
pub async fn start_pool(config: pool::Config) -> (Role<pool::StatusHandle>, AuthorityPublicKey) {
    let stop = CancellationToken::new();
    let runtime = runtime();
    let token = stop.clone();
    let (address, status, key) = runtime
        .spawn(async move {
            let pool = Pool::bind(config).await.expect("the pool starts");
            let facts = (
                pool.local_addr(),
                pool.status(),
                pool.authority_public_key(),
            );
            tokio::spawn(pool.run(token));
            facts
        })
        .await
        .expect("the pool's task");
    (Role::new(runtime, address, status, stop), key)
}

/// A template provider's settings, to be changed by the test before it starts.
pub fn provider_config(template: SourceConfig) -> template_provider::Config {
    template_provider::Config {
        listen_address: any_port(),
        http_address: Address::At(any_port()),
        authority_secret_key: Some(AuthoritySecretKey::generate()),
        template: template.into(),
        ..template_provider::Config::default()
    }
}

/// Starts a template provider.
pub async fn start_provider(
    config: template_provider::Config,
) -> (Role<template_provider::StatusHandle>, AuthorityPublicKey) {
    let stop = CancellationToken::new();
    let runtime = runtime();
    let token = stop.clone();
    let (address, status, key) = runtime
        .spawn(async move {
            let provider = TemplateProvider::bind(config)
                .await
                .expect("the template provider starts");
            let facts = (
                provider.local_addr(),
                provider.status(),
                provider.authority_public_key(),
            );
            tokio::spawn(provider.run(token));
            facts
        })
        .await
        .expect("the template provider's task");
    (Role::new(runtime, address, status, stop), key)
}

/// Templates from this provider, on a private chain.
pub fn templates_from(provider: SocketAddr, key: AuthorityPublicKey) -> SourceConfig {
    SourceConfig::Sv2(Sv2Config {
        address: provider.to_string(),
        authority_public_key: Some(key),
        network: "regtest".to_owned(),
        ..Sv2Config::default()
    })
}

/// Starts a translator that works for this pool.
pub async fn start_translator(
    pool: SocketAddr,
    key: AuthorityPublicKey,
    change: impl FnOnce(&mut translator::Config),
) -> Role<translator::StatusHandle> {
    let mut config = translator::Config {
        listen_address: any_port(),
        http_address: service::http::Address::Off,
        upstreams: vec![Upstream {
            address: pool.to_string(),
            authority_public_key: Some(key),
        }],
        reconnect_first_ms: 50,
        reconnect_last_seconds: 1,
        // The miners of the tests are far slower than real ones.
        nominal_hashrate: 0.0,
        ..translator::Config::default()
    };
    change(&mut config);
    let stop = CancellationToken::new();
    let runtime = runtime();
    let token = stop.clone();
    let (address, status) = runtime
        .spawn(async move {
            let translator = Translator::bind(config)
                .await
                .expect("the translator starts");
            let facts = (translator.local_addr(), translator.status());
            tokio::spawn(translator.run(token));
            facts
        })
        .await
        .expect("the translator's task");
    Role::new(runtime, address, status, stop)
}

/// Starts a relay in front of this server.
pub async fn start_relay(
    server: SocketAddr,
    change: impl FnOnce(&mut relay::Config),
) -> Role<relay::Handle> {
    let mut config = relay::Config {
        listen_address: any_port(),
        http_address: Address::Off,
        pools: vec![relay::Pool {
            name: "server".to_owned(),
            address: server.to_string(),
            ..relay::Pool::default()
        }],
        ..relay::Config::default()
    };
    config.storage.url = "off".to_owned();
    change(&mut config);
    let stop = CancellationToken::new();
    let runtime = runtime();
    let token = stop.clone();
    let (address, handle) = runtime
        .spawn(async move {
            let relay = Relay::bind(config).await.expect("the relay starts");
            let facts = (relay.local_addr(), relay.handle());
            tokio::spawn(relay.run(token));
            facts
        })
        .await
        .expect("the relay's task");
    Role::new(runtime, address, handle, stop)
}

/// Starts a miner on one thread, at this many hashes a second.
pub fn start_miner(server: SocketAddr, user: &str, hashrate: f64) -> Role<miner::StatusHandle> {
    let miner = Miner::new(miner::Config {
        address: server.to_string(),
        user: user.to_owned(),
        threads: 1,
        hashrate_limit: hashrate,
        reconnect_first_seconds: 0.05,
        reconnect_longest_seconds: 1.0,
        ..miner::Config::default()
    })
    .expect("the miner starts");
    let stop = CancellationToken::new();
    let runtime = runtime();
    let status = miner.status();
    runtime.spawn(miner.run(stop.clone()));
    Role::new(runtime, server, status, stop)
}

/// A stats service's settings, to be changed by the test before it starts: it keeps everything in this folder, and nothing
/// that it is told waits long.
pub fn stats_config<R: stats::receiver::Role>(data: &TempDir) -> stats::receiver::Config<R> {
    let mut config = stats::receiver::Config::<R> {
        listen_address: any_port(),
        http_address: Address::Off,
        ..stats::receiver::Config::default()
    };
    let file = data.path().join(format!("{}.sqlite", R::NAME));
    config.storage.url = format!("sqlite:{}", file.display());
    config.storage.commit_interval_ms = 10;
    config
}

/// Starts a stats service.
pub async fn start_stats<R: stats::receiver::Role>(
    config: stats::receiver::Config<R>,
) -> Role<View> {
    let stop = CancellationToken::new();
    let runtime = runtime();
    let token = stop.clone();
    let (address, view) = runtime
        .spawn(async move {
            let service = Receiver::bind(config).await.expect("the service starts");
            let facts = (service.local_addr(), service.view());
            tokio::spawn(service.run(token));
            facts
        })
        .await
        .expect("the service's task");
    Role::new(runtime, address, view, stop)
}

/// Starts a pool's stats service.
pub async fn start_pool_stats(data: &TempDir, address: Option<SocketAddr>) -> Role<View> {
    let mut config = stats_config::<pool_stats::PoolStats>(data);
    config.listen_address = address.unwrap_or(config.listen_address);
    start_stats(config).await
}

/// Waits until this gives something, looking again and again, since what it looks at are counters.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        let mut ticks = interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    };
    match timeout(PATIENCE, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
