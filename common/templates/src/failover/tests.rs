//! Sources that the test plays: their templates, what they say to blocks, and the time.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    Body, Error, RpcConfig, SourceConfig, Templates,
    rpc::{
        self,
        fake::{FakeNode, Reply},
    },
    running::Sink,
    testing,
};

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A source whose board the test writes, and whose blocks go to this node.
fn source(url: &str) -> Running {
    let config = RpcConfig {
        url: url.to_owned(),
        submit_seconds: 1,
        ..RpcConfig::default()
    };
    let submitter = rpc::submitter(&config).unwrap();
    Running {
        board: Arc::new(Board::new("bitcoin-rpc", url.to_owned(), 120 * SECOND)),
        sink: Sink::Rpc(Arc::new(submitter)),
    }
}

/// Sources on regtest that nobody serves, and what is made of them.
fn several(count: usize) -> (Vec<Arc<Board>>, Templates) {
    let sources: Vec<Running> = (1..=count)
        .map(|port| source(&format!("http://127.0.0.1:{port}")))
        .collect();
    for source in &sources {
        source.board.set_network(Network::Regtest);
    }
    let boards = sources.iter().map(|source| Arc::clone(&source.board));
    (boards.collect(), failover(sources))
}

fn failover(sources: Vec<Running>) -> Templates {
    let config = FailoverConfig::default();
    let shutdown = CancellationToken::new();
    Templates(crate::Inner::Several(Failover::start(
        sources, &config, shutdown,
    )))
}

/// A template whose maker can be told by its value.
fn made_by(maker: u64, id: u64, height: u32) -> Template {
    let mut template = testing::template(id, height);
    template.coinbase.value_remaining = maker;
    template
}

fn maker(templates: &Templates) -> Option<u64> {
    let newest = templates.subscribe().borrow().clone();
    newest.map(|template| template.coinbase.value_remaining)
}

fn in_use(templates: &Templates) -> Option<usize> {
    let sources = templates.status().sources;
    sources.iter().position(|source| source.in_use)
}

#[tokio::test(start_paused = true)]
async fn the_next_source_takes_over_and_the_first_one_comes_back() {
    let (boards, templates) = several(2);
    boards[0].publish(made_by(1, 7, 100));
    boards[1].publish(made_by(2, 7, 100));
    let first = templates.ready().await.unwrap();
    assert_eq!(maker(&templates), Some(1));

    boards[0].fail("gone".to_owned());
    sleep(13 * SECOND).await;
    assert_eq!(maker(&templates), Some(1));
    assert_eq!(templates.health().error.as_deref(), Some("gone"));
    sleep(4 * SECOND).await;
    assert_eq!((maker(&templates), in_use(&templates)), (Some(2), Some(1)));
    assert_eq!(templates.health().error, None);
    let status = templates.status();
    assert_eq!(status.sources[0].error.as_deref(), Some("gone"));
    assert_eq!(status.sources[1].address, "http://127.0.0.1:2");
    let second = templates.ready().await.unwrap();
    assert!(second.id > first.id);

    boards[0].publish(made_by(1, 8, 100));
    sleep(50 * SECOND).await;
    boards[1].publish(made_by(2, 8, 100));
    sleep(8 * SECOND).await;
    assert_eq!(maker(&templates), Some(2));
    sleep(4 * SECOND).await;
    assert_eq!((maker(&templates), in_use(&templates)), (Some(1), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn every_template_of_the_source_in_use_is_passed_on_and_no_other() {
    let (boards, templates) = several(2);
    boards[0].publish(made_by(1, 1, 100));
    templates.ready().await.unwrap();
    let mut newest = templates.subscribe();
    for id in 2..20 {
        boards[1].publish(made_by(2, id, 100));
        boards[0].publish(made_by(1, id, 100 + u32::try_from(id).unwrap()));
        newest.changed().await.unwrap();
        let template = newest.borrow_and_update().clone().unwrap();
        assert_eq!(template.height(), Some(100 + u32::try_from(id).unwrap()));
        assert_eq!(template.coinbase.value_remaining, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_behind_does_not_take_over() {
    let (boards, templates) = several(2);
    boards[0].publish(made_by(1, 1, 101));
    boards[1].publish(made_by(2, 1, 100));
    templates.ready().await.unwrap();
    sleep(SECOND).await;
    boards[0].fail("gone".to_owned());
    sleep(60 * SECOND).await;
    assert_eq!(maker(&templates), Some(1));
    let behind = templates.status().sources[1].error.clone().unwrap();
    assert!(behind.contains("behind"), "{behind}");
    boards[1].publish(made_by(2, 2, 101));
    sleep(SECOND).await;
    assert_eq!(maker(&templates), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_restarts_behind_another_takes_nobody_back() {
    let (boards, templates) = several(2);
    boards[0].publish(made_by(1, 1, 101));
    boards[1].publish(made_by(2, 1, 101));
    templates.ready().await.unwrap();
    boards[0].publish(made_by(1, 2, 99));
    sleep(5 * SECOND).await;
    let kept = templates.ready().await.unwrap();
    assert_eq!((kept.id, kept.height()), (1, Some(101)));
    boards[0].publish(made_by(1, 3, 101));
    sleep(SECOND).await;
    assert_eq!(templates.ready().await.unwrap().id, 2);
    assert_eq!((maker(&templates), in_use(&templates)), (Some(1), Some(0)));
}

#[tokio::test(start_paused = true)]
async fn time_does_not_go_back_with_another_clock() {
    let (boards, templates) = several(2);
    boards[0].publish(made_by(1, 1, 100));
    let first = templates.ready().await.unwrap();
    let mut behind = made_by(2, 1, 100);
    behind.ntime -= 50;
    boards[1].publish(behind);
    boards[0].fail("gone".to_owned());
    sleep(20 * SECOND).await;
    let second = templates.ready().await.unwrap();
    assert_eq!(second.coinbase.value_remaining, 2);
    assert_eq!(second.ntime, first.ntime);
}

#[tokio::test(start_paused = true)]
async fn a_source_on_another_chain_is_never_used_and_says_so() {
    let (boards, templates) = several(3);
    boards[1].set_network(Network::Signet);
    boards[1].publish(made_by(2, 1, 5000));
    boards[2].publish(made_by(3, 1, 100));
    sleep(60 * SECOND).await;
    assert_eq!(maker(&templates), Some(3));
    assert_eq!(templates.network(), Some(Network::Regtest));
    boards[2].fail("gone".to_owned());
    sleep(60 * SECOND).await;
    assert_eq!(in_use(&templates), Some(2));
    let problem = templates.status().sources[1].error.clone().unwrap();
    assert!(problem.contains("never used"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn only_where_no_source_can_mend_itself_is_it_over() {
    let (boards, templates) = several(2);
    boards[0].fail_for_good(Error::Unsupported("one".to_owned()));
    sleep(60 * SECOND).await;
    let ready = timeout(SECOND, templates.ready()).await;
    assert!(ready.is_err(), "{ready:?}");
    boards[1].fail("two".to_owned());
    let problems = templates.health().error.unwrap();
    assert!(
        problems.contains("127.0.0.1:1: ") && problems.contains("127.0.0.1:2: two"),
        "{problems}"
    );
    boards[1].fail_for_good(Error::Unsupported("two".to_owned()));
    let error = templates.ready().await.unwrap_err();
    assert_eq!(error, Error::Unsupported("one".to_owned()));
}

/// A node that takes, or refuses, every block and knows every header or none.
async fn node(takes: bool) -> FakeNode {
    FakeNode::start(move |method, _| match method {
        "submitblock" if takes => Reply::Result(json!(null)),
        "submitblock" => Reply::Result(json!("bad-cb-amount")),
        "getblockheader" if takes => Reply::Result(json!({"confirmations": 2})),
        "getblockheader" => Reply::Error(-5, "Block not found"),
        _ => Reply::Error(-8, "Block height out of range"),
    })
    .await
}

async fn in_front_of(nodes: &[&FakeNode]) -> (Vec<Arc<Board>>, Templates) {
    let sources: Vec<Running> = nodes.iter().map(|node| source(&node.url)).collect();
    let boards: Vec<_> = sources
        .iter()
        .map(|source| Arc::clone(&source.board))
        .collect();
    for board in &boards {
        board.set_network(Network::Regtest);
        board.publish(testing::template(5, 100));
    }
    (boards, failover(sources))
}

#[tokio::test]
async fn a_block_goes_to_all_and_one_that_takes_it_is_enough() {
    let mut nodes = [node(false).await, node(true).await];
    let (_, templates) = in_front_of(&[&nodes[0], &nodes[1]]).await;
    let template = templates.ready().await.unwrap();
    let solution = testing::solve(&template, |_| {});
    let expected = json!([hex::encode(solution.block().unwrap())]);
    let answer = templates.submit(solution.clone()).await;
    assert_eq!(answer, Submission::Accepted);
    for node in &mut nodes {
        let offered = timeout(PATIENCE, node.expect_call("submitblock")).await;
        assert_eq!(offered.expect("the block"), expected);
    }
    assert_eq!(templates.status().blocks_accepted, 1);

    // Also one whose template is long forgotten, and one from before a restart.
    let forgotten = Solution {
        template: Arc::new(Template {
            id: 4711,
            ..Template::clone(&template)
        }),
        ..solution.clone()
    };
    assert_eq!(templates.submit(forgotten).await, Submission::Accepted);
    let block = solution.block().unwrap();
    let answer = templates.submit_block(block).await;
    assert_eq!(answer, Submission::Accepted);

    let hash = solution.hash().unwrap();
    let confirmations = 2;
    assert_eq!(
        templates.fate(hash, 100).await,
        Ok(Fate::InChain { confirmations })
    );
}

#[tokio::test]
async fn the_end_waits_until_the_other_nodes_have_the_block_too() {
    let now = Arc::new(Notify::new());
    let later = Arc::clone(&now);
    let slow = FakeNode::start(move |method, _| match method {
        "submitblock" => Reply::Later(Arc::clone(&later), json!(null)),
        _ => Reply::Error(-5, "Block not found"),
    })
    .await;
    let quick = node(true).await;
    let (boards, templates) = in_front_of(&[&quick, &slow]).await;
    let template = templates.ready().await.unwrap();
    let solution = testing::solve(&template, |_| {});
    assert_eq!(templates.submit(solution).await, Submission::Accepted);
    let mut end = std::pin::pin!(templates.finish());
    let still_waits = timeout(Duration::ZERO, end.as_mut()).await.is_err();
    assert!(still_waits, "one has not answered");
    now.notify_one();
    timeout(PATIENCE, end).await.unwrap();
    assert_eq!(boards[1].status().blocks_accepted, 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_no_node_for_ever() {
    let (_, templates) = several(2);
    let crate::Inner::Several(failover) = &templates.0 else {
        unreachable!("there are two");
    };
    failover.offers.spawn(std::future::pending::<()>());
    let start = Instant::now();
    templates.finish().await;
    assert_eq!(start.elapsed().as_secs(), LAST_OFFERS.as_secs());
}

#[tokio::test]
async fn a_refusal_settles_nothing_while_another_node_is_away() {
    let refused = Submission::Rejected("bad-cb-amount".to_owned());
    let away = Submission::Unreachable("no answer in time".to_owned());
    for said in [[&refused, &away], [&away, &refused]] {
        let (answer, answers) = mpsc::channel(2);
        for submission in said {
            answer.send(submission.clone()).await.unwrap();
        }
        drop(answer);
        assert_eq!(best(answers).await, away);
    }
}

#[tokio::test]
async fn a_block_that_all_refuse_is_refused_and_one_that_nobody_can_have_is_not_lost_silently() {
    let nodes = [node(false).await, node(false).await];
    let (boards, templates) = in_front_of(&[&nodes[0], &nodes[1]]).await;
    let template = templates.ready().await.unwrap();
    let solution = testing::solve(&template, |_| {});
    assert_eq!(
        templates.submit(solution.clone()).await,
        Submission::Rejected("bad-cb-amount".to_owned())
    );
    let hash = solution.hash().unwrap();
    assert_eq!(templates.fate(hash, 100).await, Ok(Fate::Missing));
    let remote = Solution {
        template: Arc::new(Template {
            id: 4711,
            body: Body::Remote,
            ..Template::clone(&template)
        }),
        ..solution.clone()
    };
    let answer = templates.submit(remote).await;
    assert!(matches!(answer, Submission::Unreachable(_)), "{answer:?}");

    // Nobody is asked who is on another chain.
    boards[1].set_network(Network::Signet);
    let mut other = nodes.into_iter().nth(1).unwrap();
    while other.calls.try_recv().is_ok() {}
    templates.submit(solution).await;
    assert!(other.calls.try_recv().is_err());
}

#[tokio::test]
async fn two_nodes_serve_as_one() {
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let answer = |height: u32| {
        json!({
            "capabilities": [], "version": 0x2000_0000, "rules": ["csv", "!segwit"],
            "previousblockhash": format!("{height:064x}"), "transactions": [], "coinbasevalue": height,
            "longpollid": "x", "mintime": 1_700_000_001, "curtime": 1_700_000_100, "bits": "207fffff",
            "height": height,
        })
    };
    let serve = move |height: u32| {
        move |method: &str, params: &serde_json::Value| match method {
            "getblockchaininfo" => Reply::Result(json!({"chain": "regtest"})),
            _ if params[0].get("longpollid").is_some() => Reply::Silence,
            "getblocktemplate" => Reply::Result(answer(height)),
            _ => Reply::Result(json!(null)),
        }
    };
    let first = serve(100);
    let first = FakeNode::start(
        move |method, params| match is_away.load(Ordering::Relaxed) {
            true => Reply::Close,
            false => first(method, params),
        },
    )
    .await;
    let second = FakeNode::start(serve(101)).await;
    let config = |node: &FakeNode| {
        SourceConfig::BitcoinRpc(RpcConfig {
            url: node.url.clone(),
            ..RpcConfig::default()
        })
    };
    let sources = vec![config(&first), config(&second)].into();
    let failover = FailoverConfig {
        after_seconds: 1,
        return_after_seconds: 1,
    };
    let templates = crate::start_all(&sources, &failover, CancellationToken::new()).unwrap();
    // The first is behind, so it is left though it answers.
    let mut newest = templates.subscribe();
    let ahead = newest.wait_for(|newest| {
        newest
            .as_ref()
            .is_some_and(|newest| newest.height() == Some(101))
    });
    let template = timeout(PATIENCE, ahead).await.expect("in time").unwrap();
    let template = template.clone().unwrap();
    away.store(true, Ordering::Relaxed);
    let answer = templates.submit(testing::solve(&template, |_| {})).await;
    assert_eq!(answer, Submission::Accepted);
}
