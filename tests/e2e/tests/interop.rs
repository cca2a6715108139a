//! SRI's translator and pool with ours, by real sockets and real shares: `make interop`.
//!
//! SRI's programs take long to build, so these tests run only where they are asked for.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed test should stop where it fails, and show what it saw"
)]

use std::{
    ffi::OsString,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use e2e::{
    PAYOUT, Role, pool_config, provider_config, start_miner, start_pool, start_provider,
    start_translator, until,
};
use sv2_connection::{Authority, AuthorityPublicKey, AuthoritySecretKey};
use tempfile::TempDir;
use templates::{EmbeddedConfig, SourceConfig};
use translator::Shares;

/// Of each miner, in H/s.
const HASHRATE: f64 = 400_000.0;

/// What translators say of a miner first, so that the pool has to change the difficulty.
const STATED_HASHRATE: f64 = HASHRATE / 10.0;

/// Shares that are enough to see difficulties settle.
const SHARES: u64 = 150;

/// A chain on which no block is found in a test's time, so that no share can be stale.
fn without_blocks() -> SourceConfig {
    embedded(1 << 40)
}

fn embedded(block_hashes: u64) -> SourceConfig {
    SourceConfig::Embedded(EmbeddedConfig {
        block_interval_seconds: 5,
        first_block_hashes: block_hashes,
        minimum_block_hashes: block_hashes.min(1 << 18),
        refresh_interval_seconds: 1,
    })
}

const CONFIG: &str = "config.toml";
const LOG: &str = "log";

/// One of SRI's programs; it ends with this value.
struct Sri {
    program: OsString,
    process: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Sri {
    /// Runs the program that this variable names, with the configuration that is made for its address.
    fn start(variable: &str, config: impl FnOnce(SocketAddr) -> String) -> Self {
        let program = std::env::var_os(variable)
            .unwrap_or_else(|| panic!("{variable} is not set: run this by make interop"));
        // It cannot say which port it got, so it is given one that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIG), config(address)).unwrap();
        Self {
            process: run(&program, folder.path()),
            program,
            address,
            folder,
        }
    }

    /// Kills it and starts it anew, at the same address.
    fn restart(&mut self) {
        self.kill();
        self.process = run(&self.program, self.folder.path());
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default()
    }
}

impl Drop for Sri {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("it said:\n{}", self.said());
        }
    }
}

fn run(program: &OsString, folder: &Path) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(LOG))
        .unwrap();
    Command::new(program)
        .arg("--config")
        .arg(folder.join(CONFIG))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn sri_translator(pool: SocketAddr, key: AuthorityPublicKey, aggregate: bool) -> Sri {
    Sri::start("HASHPOOL_SRI_TRANSLATOR", |address| {
        format!(
            r#"downstream_address = "{}"
downstream_port = {}
max_supported_version = 2
min_supported_version = 2
downstream_extranonce2_size = 4
aggregate_channels = {aggregate}
supported_extensions = [0x0002]

[downstream_difficulty_config]
min_individual_miner_hashrate = {STATED_HASHRATE:?}
shares_per_minute = 600.0
enable_vardiff = true
job_keepalive_interval_secs = 60

[[upstreams]]
address = "{}"
port = {}
authority_pubkey = "{key}"
user_identity = "alice"
"#,
            address.ip(),
            address.port(),
            pool.ip(),
            pool.port(),
        )
    })
}

fn sri_pool(provider: SocketAddr, provider_key: AuthorityPublicKey) -> (Sri, AuthorityPublicKey) {
    let secret = AuthoritySecretKey::generate();
    let key = Authority::new(secret.clone()).unwrap().public();
    let pool = Sri::start("HASHPOOL_SRI_POOL", |address| {
        format!(
            r#"listen_address = "{address}"
authority_public_key = "{key}"
authority_secret_key = "{}"
cert_validity_sec = 3600
coinbase_reward_script = "addr({PAYOUT})"
pool_signature = "interop"
shares_per_minute = 600.0
share_batch_size = 1
server_id = 1

[template_provider_type.Sv2Tp]
address = "{provider}"
public_key = "{provider_key}"
"#,
            secret.reveal(),
        )
    });
    (pool, key)
}

async fn accepted(miner: &Role<miner::StatusHandle>, shares: u64) {
    until("the miner's shares are accepted", || {
        let status = miner.status.snapshot();
        assert_eq!(status.rejected.total(), 0, "{status:?}");
        (status.accepted >= shares).then_some(())
    })
    .await;
}

async fn sri_translator_mines(aggregate: bool) {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(without_blocks(), &data)).await;
    let translator = sri_translator(pool.address, key, aggregate);
    let miners =
        ["alice.one", "alice.two"].map(|user| start_miner(translator.address, user, HASHRATE));
    for miner in &miners {
        accepted(miner, SHARES).await;
    }
    // What the translator tells a miner is its own judgement; what counts is the pool's.
    let status = until("the pool has as many", || {
        let status = pool.status.snapshot();
        (status.shares_accepted >= SHARES).then_some(status)
    })
    .await;
    assert_eq!(
        status.shares_rejected.values().sum::<u64>(),
        0,
        "{status:?}"
    );
    assert_eq!(status.channels, if aggregate { 1 } else { 2 }, "{status:?}");
}

#[tokio::test]
#[ignore = "needs SRI's translator: make interop"]
async fn sris_translator_mines_through_our_pool_with_a_channel_for_each_miner() {
    sri_translator_mines(false).await;
}

#[tokio::test]
#[ignore = "needs SRI's translator: make interop"]
async fn sris_translator_mines_through_our_pool_with_one_channel_for_all_miners() {
    sri_translator_mines(true).await;
}

#[tokio::test]
#[ignore = "needs SRI's pool: make interop"]
async fn sris_pool_works_on_our_templates_and_our_translator_mines_through_it() {
    let (provider, provider_key) = start_provider(provider_config(without_blocks())).await;
    let (pool, key) = sri_pool(provider.address, provider_key);
    let translator = start_translator(pool.address, key, |config| {
        config.nominal_hashrate = HASHRATE;
    })
    .await;
    let miner = start_miner(translator.address, "alice.one", HASHRATE);
    accepted(&miner, SHARES).await;
    let shares = until("the pool has acknowledged as many", || {
        let shares = translator.status.snapshot().shares;
        (shares.accepted >= SHARES).then_some(shares)
    })
    .await;
    assert_eq!(shares.rejected.values().sum::<u64>(), 0, "{shares:?}");
    assert_eq!(shares.lost.values().sum::<u64>(), 0, "{shares:?}");
    assert_eq!(provider.status.snapshot().solutions_refused, 0);
}

/// SRI's pool looks at difficulties once a minute.
#[tokio::test]
#[ignore = "needs SRI's pool: make interop"]
async fn our_miners_follow_when_sris_pool_changes_their_difficulty() {
    let (provider, provider_key) = start_provider(provider_config(without_blocks())).await;
    let (pool, key) = sri_pool(provider.address, provider_key);
    let translator = start_translator(pool.address, key, |config| {
        config.nominal_hashrate = STATED_HASHRATE;
    })
    .await;
    let miner = start_miner(translator.address, "alice.one", HASHRATE);
    accepted(&miner, 1).await;
    let first = miner.status.snapshot();
    until("the difficulty rises", || {
        (miner.status.snapshot().difficulty > first.difficulty).then_some(())
    })
    .await;
    accepted(&miner, miner.status.snapshot().accepted + SHARES).await;
    let shares = translator.status.snapshot().shares;
    assert_eq!(shares.rejected.values().sum::<u64>(), 0, "{shares:?}");
}

#[tokio::test]
#[ignore = "needs SRI's pool: make interop"]
async fn blocks_that_sris_pool_finds_reach_the_chain_behind_our_template_provider() {
    let (provider, provider_key) = start_provider(provider_config(embedded(1 << 20))).await;
    let (pool, key) = sri_pool(provider.address, provider_key);
    let translator = start_translator(pool.address, key, |config| {
        config.nominal_hashrate = HASHRATE;
    })
    .await;
    let _miner = start_miner(translator.address, "alice.one", HASHRATE);
    until("blocks are accepted", || {
        let status = provider.status.snapshot();
        assert_eq!(status.solutions_refused, 0, "{status:?}");
        (status.templates.blocks_accepted >= 2).then_some(())
    })
    .await;
}

/// Miners stay through a restart of the pool, and every share that they submitted is accounted for.
async fn our_translator_mines_on(aggregate: bool) {
    let (provider, provider_key) = start_provider(provider_config(without_blocks())).await;
    let (mut pool, key) = sri_pool(provider.address, provider_key);
    let translator = start_translator(pool.address, key, |config| {
        config.nominal_hashrate = HASHRATE;
        config.aggregate = aggregate;
        config.shares_per_minute = 600.0;
    })
    .await;
    let miners = ["alice.one", "alice.two", "bob.three"]
        .map(|user| start_miner(translator.address, user, HASHRATE));
    let more_shares = async || {
        let before = miners.each_ref().map(|miner| miner.status.snapshot());
        until("each miner has more shares", || {
            let mut miners = miners.iter().zip(&before);
            miners
                .all(|(miner, before)| miner.status.snapshot().accepted >= before.accepted + 30)
                .then_some(())
        })
        .await;
    };
    more_shares().await;
    let before = translator.status.snapshot().shares;
    assert!(before.add_up() && before.lost.is_empty(), "{before:?}");
    assert!(before.rejected.is_empty(), "{before:?}");
    let acknowledged = |shares: &Shares| shares.accepted - shares.kept;

    pool.restart();
    until("the pool acknowledges shares again", || {
        let shares = translator.status.snapshot().shares;
        (acknowledged(&shares) >= acknowledged(&before) + 60).then_some(())
    })
    .await;
    more_shares().await;
    miners.iter().for_each(Role::stop);
    let shares = until("the miners have left", || {
        let status = translator.status.snapshot();
        (status.connected == 0).then_some(status.shares)
    })
    .await;
    assert!(shares.add_up() && shares.in_flight == 0, "{shares:?}");
    let mined = miners.each_ref().map(|miner| miner.status.snapshot());
    let submitted: u64 = mined.iter().map(|miner| miner.submitted).sum();
    assert_eq!(shares.submitted, submitted, "{mined:?}");
    for miner in &mined {
        assert_eq!((miner.connects, miner.malformed_lines), (1, 0), "{miner:?}");
    }
    // Nothing but the restart itself costs a share.
    let of_the_restart =
        |reason: &&str| ["upstream-gone", "upstream-disconnected"].contains(reason);
    let mut reasons = shares.rejected.keys().chain(shares.lost.keys());
    assert!(reasons.all(of_the_restart), "{shares:?}");
}

#[tokio::test]
#[ignore = "needs SRI's pool: make interop"]
async fn our_translator_mines_on_through_a_restart_of_sris_pool_with_a_channel_for_each_miner() {
    our_translator_mines_on(false).await;
}

#[tokio::test]
#[ignore = "needs SRI's pool: make interop"]
async fn our_translator_mines_on_through_a_restart_of_sris_pool_with_shared_channels() {
    our_translator_mines_on(true).await;
}
