//! A pool that takes its templates from a template provider, and mines on them.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use e2e::{
    PAYOUT, Role, embedded, pool_config, provider_config, start_miner, start_pool, start_provider,
    start_translator, templates_from, until,
};
use node::{Chain, Node};
use sv2_connection::{Authority, AuthoritySecretKey};
use templates::{RpcConfig, SourceConfig};
use translator::Upstream;

async fn blocks(pool: &Role<pool::StatusHandle>, goal: u64) {
    until("blocks become the tip", || {
        (pool.status.snapshot().blocks_accepted >= goal).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_miners_blocks_reach_the_chain_behind_a_template_provider_that_restarts() {
    let data = tempfile::tempdir().unwrap();
    let mut settings = provider_config(embedded());
    let (mut provider, key) = start_provider(settings.clone()).await;
    settings.listen_address = provider.address;
    let source = templates_from(provider.address, key);
    let (pool, pool_key) = start_pool(pool_config(source, &data)).await;
    let translator = start_translator(pool.address, pool_key, |_| {}).await;
    let miner = start_miner(translator.address, "alice.one", 400_000.0);
    blocks(&pool, 2).await;

    let sent = provider.status.snapshot();
    assert_eq!(sent.connections, 1, "{sent:?}");
    assert!(sent.tips_sent >= 3, "{sent:?}");
    assert_eq!(sent.solutions_refused, 0, "{sent:?}");
    assert!(sent.templates.blocks_accepted >= 2, "{sent:?}");
    assert_eq!(pool.status.snapshot().templates.source, "sv2");

    // The chain is the provider's own, and begins anew.
    provider.kill();
    until("the pool knows", || {
        pool.status.snapshot().templates.error.map(drop)
    })
    .await;
    let goal = pool.status.snapshot().blocks_accepted + 2;
    let (provider, _) = start_provider(settings).await;
    blocks(&pool, goal).await;
    assert!(provider.status.snapshot().templates.blocks_accepted >= 2);
    assert_eq!(pool.status.snapshot().templates.error, None);
    assert_eq!(miner.status.snapshot().connects, 1);
}

#[tokio::test]
async fn a_miner_keeps_its_last_job_for_a_while_without_templates_and_then_works_for_the_next_pool()
{
    let data = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (mut provider, provider_key) = start_provider(provider_config(embedded())).await;
    let mut source = templates_from(provider.address, provider_key);
    if let SourceConfig::Sv2(source) = &mut source {
        source.stale_after_seconds = 1;
    }
    let mut config = pool_config(source, &data[0]);
    config.stale_work_seconds = 5;
    let (first, first_key) = start_pool(config).await;
    let (second, second_key) = start_pool(pool_config(embedded(), &data[1])).await;
    let translator = start_translator(first.address, first_key, |config| {
        config.upstreams.push(Upstream {
            address: second.address.to_string(),
            authority_public_key: Some(second_key),
        });
    })
    .await;
    let miner = start_miner(translator.address, "alice.one", 400_000.0);
    until("shares for the first pool", || {
        (first.status.snapshot().shares_accepted > 0).then_some(())
    })
    .await;

    provider.kill();
    let accepted = until("the template to be stale", || {
        let status = first.status.snapshot();
        (!status.templates.fresh).then_some(status.shares_accepted)
    })
    .await;
    until("a share on the last job", || {
        (first.status.snapshot().shares_accepted > accepted).then_some(())
    })
    .await;
    until("shares for the second pool", || {
        (second.status.snapshot().shares_accepted > 0).then_some(())
    })
    .await;
    until("everybody to have left the first pool", || {
        (first.status.snapshot().connections == 0).then_some(())
    })
    .await;
    assert_eq!(miner.status.snapshot().connects, 1);
}

#[tokio::test]
async fn a_miners_block_reaches_a_real_node_through_a_template_provider() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let source = SourceConfig::BitcoinRpc(RpcConfig {
        url: node.url(),
        refresh_interval_seconds: 1,
        ..RpcConfig::default()
    });
    let (provider, key) = start_provider(provider_config(source)).await;
    let data = tempfile::tempdir().unwrap();
    let mut config = pool_config(templates_from(provider.address, key), &data);
    config.payout = PAYOUT.to_owned();
    let (pool, pool_key) = start_pool(config).await;
    let translator = start_translator(pool.address, pool_key, |_| {}).await;
    let _miner = start_miner(translator.address, "alice.one", 1000.0);
    blocks(&pool, 1).await;
    assert!(node.height().await >= 1);
}

#[tokio::test]
async fn a_provider_with_another_key_is_not_believed() {
    let (provider, _) = start_provider(provider_config(embedded())).await;
    let other = Authority::new(AuthoritySecretKey::generate()).unwrap();
    let data = tempfile::tempdir().unwrap();
    let source = templates_from(provider.address, other.public());
    let (pool, _) = start_pool(pool_config(source, &data)).await;
    let error = until("the pool says so", || {
        pool.status.snapshot().templates.error
    })
    .await;
    assert!(error.contains("authority_public_key"), "{error}");
    let status = pool.status.snapshot().templates;
    assert!(!status.fresh && status.template_id.is_none(), "{status:?}");
    assert_eq!(provider.status.snapshot().templates_sent, 0);
}

#[tokio::test]
async fn garbage_costs_only_the_connection_that_brings_it() {
    let (provider, key) = start_provider(provider_config(embedded())).await;
    let data = tempfile::tempdir().unwrap();
    let source = templates_from(provider.address, key);
    let (pool, pool_key) = start_pool(pool_config(source, &data)).await;
    let translator = start_translator(pool.address, pool_key, |_| {}).await;
    let _miner = start_miner(translator.address, "alice.one", 400_000.0);
    let address = provider.address;
    let abuse = tokio::task::spawn_blocking(move || {
        for seed in 1..20 {
            garbage(address, seed);
        }
    });
    abuse.await.unwrap();
    until("all of it is counted", || {
        let status = provider.status.snapshot();
        (status.connections_total >= 20 && status.connections == 1).then_some(())
    })
    .await;
    blocks(&pool, pool.status.snapshot().blocks_accepted + 1).await;
}

/// Writes until the other side has enough; then reads what it has to say.
fn garbage(address: SocketAddr, seed: u32) {
    let bytes: Vec<u8> = (0..10_000u32)
        .map(|at| at.wrapping_mul(seed).to_le_bytes()[1])
        .collect();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // Resets are an answer too.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
}
