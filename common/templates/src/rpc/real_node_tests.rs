//! The source against a real node: its chain takes what is made here.

use std::{sync::Arc, time::Duration};

use bitcoin::{BlockHash, hashes::Hash};
use node::{Chain, Node};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, FailoverConfig, Fate, Room, RpcConfig, SourceConfig, Submission, Template, Templates,
    testing,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(node: &Node) -> Templates {
    start_with(node, RpcConfig::default())
}

fn start_with(node: &Node, config: RpcConfig) -> Templates {
    let config = RpcConfig {
        url: node.url(),
        ..config
    };
    crate::start(SourceConfig::BitcoinRpc(config), CancellationToken::new()).unwrap()
}

/// The first template, from now on, that is as the test wants it.
async fn template(templates: &Templates, wanted: impl Fn(&Template) -> bool) -> Arc<Template> {
    let mut newest = templates.subscribe();
    let wait = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| wanted(newest)));
    match timeout(PATIENCE, wait).await {
        Ok(found) => found.unwrap().clone().unwrap(),
        Err(_) => panic!("no such template; the source says {:?}", templates.status()),
    }
}

/// Solves the template, and sees its block become the node's tip and the next template build on it.
async fn mine(node: &Node, templates: &Templates, template: &Arc<Template>) -> String {
    let solution = testing::solve(template, |_| {});
    let hash = testing::hash(&solution);
    assert_eq!(templates.submit(solution).await, Submission::Accepted);
    let printed = BlockHash::from_byte_array(hash).to_string();
    assert_eq!(node.tip().await, printed);
    self::template(templates, |template| template.prev_hash == hash).await;
    printed
}

#[tokio::test]
async fn a_regtest_node_takes_our_block_with_a_payment_from_its_mempool() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let templates = start(&node);
    timeout(PATIENCE, templates.ready())
        .await
        .expect("a template in time")
        .unwrap();

    // Heights below 17 are pushed in another way, and a node's new tip is seen by the long poll alone.
    node.call("createwallet", json!(["miner"])).await;
    for height in 1..=18 {
        let next = template(&templates, |template| template.height() == Some(height)).await;
        mine(&node, &templates, &next).await;
    }
    let address = node.new_address("miner").await;
    node.call("generatetoaddress", json!([101, address])).await;
    template(&templates, |template| template.height() == Some(120)).await;

    // A node takes some seconds to show a payment in its template, and more to end a long poll for it.
    let eager = RpcConfig {
        refresh_interval_seconds: 1,
        ..RpcConfig::default()
    };
    let templates = start_with(&node, eager);
    let payment = node.pay("miner").await;
    let with_payment = template(&templates, |template| {
        template.body.transaction_count() == Some(1)
    })
    .await;
    assert_eq!(with_payment.merkle_path.len(), 1);
    let block = mine(&node, &templates, &with_payment).await;
    let block = node.call("getblock", json!([block])).await;
    assert!(
        block["tx"].as_array().unwrap().contains(&json!(payment)),
        "{block}"
    );

    let stale = testing::solve(&with_payment, |solution| solution.ntime += 1);
    let answer = templates.submit(stale).await;
    assert_eq!(answer, Submission::Unknown("inconclusive".to_owned()));
    let greedy = template(&templates, |template| template.height() == Some(121)).await;
    let greedy = testing::solve(&greedy, |solution| {
        let mut coinbase: bitcoin::Transaction =
            bitcoin::consensus::deserialize(&solution.coinbase).unwrap();
        coinbase.output[0].value += bitcoin::Amount::ONE_SAT;
        solution.coinbase = bitcoin::consensus::serialize(&coinbase);
    });
    assert_eq!(
        templates.submit(greedy).await,
        Submission::Rejected("bad-cb-amount".to_owned())
    );
}

#[tokio::test]
async fn a_node_takes_a_block_that_leaves_out_transactions_for_the_coinbases_sake() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    node.fund_wallet("miner").await;
    let first = node.pay("miner").await;
    let second = node.pay("miner").await;
    let templates = start(&node);
    let whole = template(&templates, |template| {
        template.body.transaction_count() == Some(2)
    })
    .await;
    let less = (0..1_000_000)
        .rev()
        .step_by(50)
        .filter_map(|output_bytes| {
            let room = Room {
                output_bytes,
                sigops: 0,
            };
            whole.with_room(room).ok()
        })
        .find(|less| less.body.transaction_count() == Some(1))
        .unwrap();
    assert!(less.coinbase.value_remaining < whole.coinbase.value_remaining);
    let block = mine(&node, &templates, &less).await;
    let block = node.call("getblock", json!([block])).await;
    let inside = block["tx"].as_array().unwrap();
    assert_eq!(inside.len(), 2, "{block}");
    assert!(inside.contains(&json!(first)) != inside.contains(&json!(second)));
}

#[tokio::test]
async fn a_signet_node_with_an_open_challenge_takes_our_block_with_a_payment_from_its_mempool() {
    let Some(node) = Node::start(Chain::Signet).await else {
        return;
    };
    node.fund_wallet("miner").await;
    let payment = node.pay("miner").await;
    let templates = start(&node);
    let first = timeout(PATIENCE, templates.ready())
        .await
        .expect("a template in time")
        .unwrap();
    assert_eq!(templates.network(), Some(bitcoin::Network::Signet));
    assert_eq!(first.body.transaction_count(), Some(1));
    let block = mine(&node, &templates, &first).await;
    let block = node.call("getblock", json!([block])).await;
    assert!(
        block["tx"].as_array().unwrap().contains(&json!(payment)),
        "{block}"
    );
    assert_eq!(node.height().await, 102);
}

#[tokio::test]
async fn a_signet_node_with_a_closed_challenge_is_refused() {
    let key = "5121031fe5d7e8ef95c3e0a8a2d0f8d0d2c50cf1ae1d5d3f0d3a4b27ce0c3b51fbd9a551ae";
    let Some(node) = Node::start(Chain::SignedSignet(key)).await else {
        return;
    };
    let templates = start(&node);
    let error = timeout(PATIENCE, templates.ready())
        .await
        .expect("an error in time")
        .unwrap_err();
    assert!(
        matches!(error, Error::Unsupported(ref reason) if reason.contains("challenge 51")),
        "{error}"
    );
}

#[tokio::test]
async fn a_blocks_fate_follows_the_nodes_chain_through_a_reorganisation() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let templates = start(&node);
    let first = template(&templates, |template| template.height() == Some(1)).await;
    let solution = testing::solve(&first, |_| {});
    let (hash, block) = (solution.hash().unwrap(), solution.block().unwrap());
    let in_chain = |confirmations| Ok(Fate::InChain { confirmations });

    assert_eq!(templates.fate(hash, 1).await, Ok(Fate::Missing));
    for _ in 0..2 {
        let answer = templates.submit_block(block.clone()).await;
        assert_eq!(answer, Submission::Accepted);
        assert_eq!(templates.fate(hash, 1).await, in_chain(1));
    }
    let second = template(&templates, |template| template.height() == Some(2)).await;
    mine(&node, &templates, &second).await;
    assert_eq!(templates.fate(hash, 1).await, in_chain(2));
    assert_eq!(templates.fate([7; 32], 2).await, Ok(Fate::Orphaned));

    let printed = json!([BlockHash::from_byte_array(hash).to_string()]);
    node.call("invalidateblock", printed.clone()).await;
    assert_eq!(templates.fate(hash, 1).await, Ok(Fate::Orphaned));
    let again = template(&templates, |template| template.height() == Some(1)).await;
    let other = testing::solve(&again, |solution| solution.ntime += 1);
    assert_eq!(templates.submit(other.clone()).await, Submission::Accepted);
    assert_eq!(templates.fate(hash, 1).await, Ok(Fate::Orphaned));

    // The branch that was left has more blocks, so it wins once it may.
    node.call("reconsiderblock", printed).await;
    assert_eq!(templates.fate(hash, 1).await, in_chain(2));
    let other = templates.fate(other.hash().unwrap(), 1).await;
    assert_eq!(other, Ok(Fate::Orphaned));
}

#[tokio::test]
async fn a_node_that_restarts_is_followed_again() {
    let Some(mut node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let templates = start(&node);
    let first = timeout(PATIENCE, templates.ready())
        .await
        .expect("a template in time")
        .unwrap();
    mine(&node, &templates, &first).await;
    let second = template(&templates, |template| template.height() == Some(2)).await;

    node.stop().await;
    // A block found while the node is away waits for it.
    let submitter = templates.clone();
    let solution = testing::solve(&second, |_| {});
    let submission = tokio::spawn(async move { submitter.submit(solution).await });
    node.resume().await.unwrap();
    assert_eq!(submission.await.unwrap(), Submission::Accepted);
    template(&templates, |template| template.height() == Some(3)).await;
    assert_eq!(node.height().await, 2);
    assert!(templates.health().fresh);
}

#[tokio::test]
async fn two_nodes_without_a_link_stay_on_one_chain_and_one_of_them_may_die() {
    let (Some(mut first), Some(second)) = (
        Node::start(Chain::Regtest).await,
        Node::start(Chain::Regtest).await,
    ) else {
        return;
    };
    let config = |node: &Node| {
        SourceConfig::BitcoinRpc(RpcConfig {
            url: node.url(),
            submit_seconds: 5,
            ..RpcConfig::default()
        })
    };
    let sources = vec![config(&first), config(&second)].into();
    let failover = FailoverConfig {
        after_seconds: 1,
        return_after_seconds: 1,
    };
    let templates = crate::start_all(&sources, &failover, CancellationToken::new()).unwrap();
    let in_use = |place: usize| templates.status().sources[place].in_use;

    let next = template(&templates, |template| template.height() == Some(1)).await;
    let one = testing::solve(&next, |_| {});
    assert_eq!(templates.submit(one.clone()).await, Submission::Accepted);
    // Nothing but our block connects the two.
    template(&templates, |template| template.height() == Some(2)).await;
    until(async || second.height().await == 1).await;
    assert_eq!(first.tip().await, second.tip().await);
    assert!(in_use(0));

    first.kill();
    until(async || in_use(1)).await;
    let next = template(&templates, |template| template.height() == Some(2)).await;
    let two = testing::solve(&next, |_| {});
    assert_eq!(templates.submit(two.clone()).await, Submission::Accepted);
    assert_eq!(second.height().await, 2);

    // It comes back without the newest blocks, and is no use before it has them.
    first.resume().await.unwrap();
    let behind =
        async || templates.status().sources[0].error.as_deref() == Some("behind what is mined on");
    until(behind).await;
    assert!(in_use(1));
    let fate = templates.fate(two.hash().unwrap(), 2).await;
    assert_eq!(fate, Ok(Fate::InChain { confirmations: 1 }));
    for block in [one, two] {
        let answer = templates.submit_block(block.block().unwrap()).await;
        assert_eq!(answer, Submission::Accepted);
    }
    until(async || in_use(0)).await;
    assert_eq!(first.tip().await, second.tip().await);
}

/// Waits until it is so.
async fn until(so: impl AsyncFn() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_the_cookie_is_taken() {
    let Some(node) = Node::start(Chain::Regtest).await else {
        return;
    };
    let config = RpcConfig {
        url: node.url().replace('@', "wrong@"),
        ..RpcConfig::default()
    };
    let templates =
        crate::start(SourceConfig::BitcoinRpc(config), CancellationToken::new()).unwrap();
    until(async || {
        let error = templates.health().error;
        error.is_some_and(|error| error.contains("credentials"))
    })
    .await;

    let folder = tempfile::tempdir().unwrap();
    let cookie = folder.path().join(".cookie");
    let url = node.url();
    let (user_and_password, _) = url.trim_start_matches("http://").split_once('@').unwrap();
    std::fs::write(&cookie, user_and_password).unwrap();
    let config = RpcConfig {
        url: node.url_without_user(),
        cookie_file: Some(cookie),
        ..RpcConfig::default()
    };
    let templates =
        crate::start(SourceConfig::BitcoinRpc(config), CancellationToken::new()).unwrap();
    timeout(PATIENCE, templates.ready())
        .await
        .expect("a template in time")
        .unwrap();
}
