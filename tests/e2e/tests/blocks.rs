//! What becomes of blocks after they were found, with a real node.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::time::Duration;

use e2e::{PATIENCE, PAYOUT, Role, client::Client, pool_config, start_pool, until};
use ledger::{Block, BlockState, Reader};
use node::{Chain, Node};
use serde_json::json;
use sv2_connection::AuthorityPublicKey;
use tempfile::TempDir;
use templates::{RpcConfig, SourceConfig};
use tokio::time::{interval, timeout};

/// A pool on a node, and where its ledger is.
struct Setting {
    config: pool::Config,
    pool: Role<pool::StatusHandle>,
    key: AuthorityPublicKey,
    _data: TempDir,
}

impl Setting {
    async fn start(node: &Node, confirmations: u32) -> Self {
        let data = tempfile::tempdir().unwrap();
        let source = SourceConfig::BitcoinRpc(RpcConfig {
            url: node.url(),
            refresh_interval_seconds: 1,
            ..RpcConfig::default()
        });
        let mut config = pool_config(source, &data);
        config.block_confirmations = confirmations;
        // Every hash is a share, so every second one is a block.
        config.minimum_difficulty = 1e-10;
        let (pool, key) = start_pool(config.clone()).await;
        Self {
            config,
            pool,
            key,
            _data: data,
        }
    }

    /// Submits one block; gives the ledger's word on it.
    async fn find_block(&self) -> Block {
        let mut client = Client::open(self.pool.address, self.key, "alice.rig")
            .await
            .unwrap();
        let block = client.channel.mine_block(0);
        client.submit(&[block]).await.unwrap();
        self.until("recorded", |_| true).await;
        self.blocks().await.remove(0)
    }

    async fn blocks(&self) -> Vec<Block> {
        let mut reader = Reader::open(&self.config.storage()).await.unwrap();
        reader.newest_blocks(0, 100).await.unwrap()
    }

    /// Waits until the ledger says so of the first block.
    async fn until(&self, what: &str, holds: impl Fn(&BlockState) -> bool) {
        let wait = async {
            let mut looks = interval(Duration::from_millis(20));
            while !self.blocks().await.iter().any(|block| holds(&block.state)) {
                looks.tick().await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("{what}: {:#?}", self.blocks().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_followed_until_it_is_buried() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let setting = Setting::start(&node, 3).await;
    let block = setting.find_block().await;
    assert_eq!((&*block.account, &*block.worker), ("alice", "rig"));
    assert_eq!(block.reward_sats, 50 * 100_000_000);
    setting
        .until("accepted", |state| *state == BlockState::Accepted(1))
        .await;
    assert_eq!(node.tip().await, block.shown_hash());
    node.call("generatetoaddress", json!([2, PAYOUT])).await;
    setting
        .until("confirmed", |state| *state == BlockState::Confirmed(3))
        .await;
    let status = until("the status counts it", || {
        let status = setting.pool.status.snapshot();
        (status.blocks_confirmed == 1).then_some(status)
    })
    .await;
    assert_eq!(status.blocks_orphaned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_block_is_marked_and_comes_back_with_its_chain() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let setting = Setting::start(&node, 100).await;
    let hash = setting.find_block().await.shown_hash();
    let accepted = |state: &BlockState| matches!(state, BlockState::Accepted(_));
    setting.until("accepted", accepted).await;
    node.call("invalidateblock", json!([hash])).await;
    let others = node.call("generatetoaddress", json!([2, PAYOUT])).await;
    setting
        .until("orphaned", |state| *state == BlockState::Orphaned)
        .await;
    node.call("invalidateblock", json!([others[0]])).await;
    node.call("reconsiderblock", json!([hash])).await;
    setting.until("accepted again", accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_the_node_did_not_get_is_offered_again_after_a_restart() {
    let Some(mut node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let mut setting = Setting::start(&node, 100).await;
    let client = Client::open(setting.pool.address, setting.key, "alice.rig");
    drop(client.await.unwrap());
    node.kill();
    let block = setting.find_block().await;
    assert_eq!(block.state, BlockState::Submitted);
    setting.pool.kill();
    node.resume().await.unwrap();
    assert_ne!(node.tip().await, block.shown_hash());
    let (pool, _) = start_pool(setting.config.clone()).await;
    setting.pool = pool;
    setting
        .until("accepted", |state| matches!(state, BlockState::Accepted(_)))
        .await;
    assert_eq!(node.tip().await, block.shown_hash());
}
