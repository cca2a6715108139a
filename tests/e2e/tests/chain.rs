//! From a miner's nonce to the tip of a real node.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use bitcoin::{Address, Block, Network, consensus::encode::deserialize_hex};
use e2e::{PATIENCE, PAYOUT, pool_config, start_miner, start_pool, start_translator, until};
use node::{Chain, Node};
use serde_json::json;
use templates::{RpcConfig, SourceConfig};
use tokio::time::{interval, timeout};

const WALLET: &str = "payer";

/// A block that pays the pool, carries its tag and holds this transaction; looks through the node's best chain.
async fn pools_block(node: &Node, script: &bitcoin::ScriptBuf, transaction: &str) -> Option<Block> {
    let mut hash = node.tip().await;
    for _ in 0..200 {
        let hex = node.call("getblock", json!([hash, 0])).await;
        let block: Block = deserialize_hex(hex.as_str()?).ok()?;
        let pays = block.txdata[0].output[0].script_pubkey == *script;
        let has = block
            .txdata
            .iter()
            .any(|tx| tx.compute_txid().to_string() == transaction);
        if pays && has {
            return Some(block);
        }
        if !pays {
            return None;
        }
        hash = block.header.prev_blockhash.to_string();
    }
    None
}

async fn a_miners_block_becomes_the_tip(chain: Chain, payout: &str, hashrate: f64) {
    let payouts = Payouts {
        pool: payout,
        user: "alice.one",
        paid: payout,
    };
    a_block_becomes_the_tip(chain, payouts, hashrate).await;
}

/// Who mines, and what blocks pay.
struct Payouts<'a> {
    pool: &'a str,
    user: &'a str,
    paid: &'a str,
}

async fn a_block_becomes_the_tip(chain: Chain, payouts: Payouts<'_>, hashrate: f64) {
    let Some(node) = Node::start(chain).await else {
        return;
    };
    node.fund_wallet(WALLET).await;
    let payment = node.pay(WALLET).await;
    let height = node.height().await;

    let data = tempfile::tempdir().unwrap();
    let source = SourceConfig::BitcoinRpc(RpcConfig {
        url: node.url(),
        refresh_interval_seconds: 1,
        ..RpcConfig::default()
    });
    let mut config = pool_config(source, &data);
    config.payout = payouts.pool.to_owned();
    config.accounts.solo = true;
    let (pool, key) = start_pool(config).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let miner = start_miner(translator.address, payouts.user, hashrate);

    let network = Network::from_core_arg(match chain {
        Chain::Regtest => "regtest",
        _ => "signet",
    });
    let address: Address<_> = payouts.paid.parse().unwrap();
    let script = address
        .require_network(network.unwrap())
        .unwrap()
        .script_pubkey();
    let search = async {
        let mut ticks = interval(std::time::Duration::from_millis(100));
        loop {
            ticks.tick().await;
            if let Some(block) = pools_block(&node, &script, &payment).await {
                return block;
            }
        }
    };
    let block = timeout(PATIENCE, search).await.unwrap_or_else(|_| {
        panic!(
            "no block: {:#?} {:#?}",
            pool.status.snapshot(),
            miner.status.snapshot()
        )
    });
    assert!(node.height().await > height);
    let coinbase = &block.txdata[0];
    let script_sig = coinbase.input[0].script_sig.as_bytes();
    let tag = b"hashpool-e2e";
    assert!(script_sig.windows(tag.len()).any(|part| part == tag));
    assert_eq!(coinbase.input[0].witness.len(), 1);

    let status = until("the pool knows of its block", || {
        let status = pool.status.snapshot();
        (status.blocks_accepted > 0).then_some(status)
    })
    .await;
    assert!(status.last_block.is_some());
    let shares = translator.status.snapshot().shares;
    assert!(shares.add_up(), "{shares:?}");
}

#[tokio::test]
async fn a_miners_block_becomes_the_tip_of_a_regtest_node() {
    a_miners_block_becomes_the_tip(Chain::Regtest, PAYOUT, 100_000.0).await;
}

#[tokio::test]
async fn a_miners_block_becomes_the_tip_of_a_signet_node() {
    let payout = "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx";
    a_miners_block_becomes_the_tip(Chain::Signet, payout, 0.0).await;
}

/// An SV1 miner needs nothing but its user name.
#[tokio::test]
async fn a_solo_miners_block_pays_its_own_address() {
    let payouts = Payouts {
        pool: PAYOUT,
        user: "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn.rig.1",
        paid: "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn",
    };
    a_block_becomes_the_tip(Chain::Regtest, payouts, 100_000.0).await;
}

#[tokio::test]
async fn a_node_that_goes_away_and_returns_is_mined_on_again() {
    let Some(mut node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let source = SourceConfig::BitcoinRpc(RpcConfig {
        url: node.url(),
        refresh_interval_seconds: 1,
        ..RpcConfig::default()
    });
    let (pool, key) = start_pool(pool_config(source, &data)).await;
    let translator = start_translator(pool.address, key, |_| {}).await;
    let miner = start_miner(translator.address, "alice.one", 100_000.0);
    let blocks = |goal| {
        let pool = &pool;
        until("blocks are accepted", move || {
            (pool.status.snapshot().blocks_accepted >= goal).then_some(())
        })
    };
    blocks(2).await;
    node.stop().await;
    node.resume().await.unwrap();
    let goal = pool.status.snapshot().blocks_accepted + 3;
    blocks(goal).await;
    assert_eq!(miner.status.snapshot().connects, 1);
    assert!(node.height().await >= 3);
}
