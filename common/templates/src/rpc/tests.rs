//! The source against a node that misbehaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::fake::{FakeNode, Reply};
use crate::{Error, Fate, FateError, RpcConfig, SourceConfig, Submission, Templates, testing};

const PATIENCE: Duration = Duration::from_secs(20);
const COMMITMENT: &str =
    "6a24aa21a9ede2f61c3f71d1defd3fa999dfa36953755c690689799962b48bebd836974e8cf9";

fn chain_info(chain: &str) -> Reply {
    Reply::Result(json!({"chain": chain, "initialblockdownload": false}))
}

fn template(tip: u64) -> Value {
    json!({
        "capabilities": ["proposal"], "version": 0x2000_0000, "rules": ["csv", "!segwit", "taproot"],
        "previousblockhash": format!("{tip:064x}"), "transactions": [], "coinbasevalue": 5_000_000_000u64,
        "longpollid": format!("{tip:064x}1"), "mintime": 1_700_000_001, "curtime": 1_700_000_100,
        "bits": "207fffff", "height": 101 + tip, "default_witness_commitment": COMMITMENT,
    })
}

fn is_long_poll(params: &Value) -> bool {
    params[0].get("longpollid").is_some()
}

/// Answers as a good node whose tip never moves.
fn steady(method: &str, params: &Value) -> Reply {
    match method {
        "getblockchaininfo" => chain_info("regtest"),
        "getblocktemplate" if is_long_poll(params) => Reply::Silence,
        "getblocktemplate" => Reply::Result(template(1)),
        _ => Reply::Error(-32601, "Method not found"),
    }
}

fn start(node: &FakeNode) -> Templates {
    start_with(node, |_| {})
}

fn start_with(node: &FakeNode, change: impl FnOnce(&mut RpcConfig)) -> Templates {
    let mut config = RpcConfig {
        url: node.url.clone(),
        submit_seconds: 1,
        ..RpcConfig::default()
    };
    change(&mut config);
    crate::start(SourceConfig::BitcoinRpc(config), CancellationToken::new()).unwrap()
}

/// Waits for health to say something with this text in it.
async fn wait_for_error(templates: &Templates, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = templates.health();
        if health
            .error
            .as_deref()
            .is_some_and(|error| error.contains(text))
        {
            return;
        }
        assert!(Instant::now() < deadline, "no {text:?} in {health:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ready(templates: &Templates) -> Arc<crate::Template> {
    timeout(PATIENCE, templates.ready())
        .await
        .expect("a template in time")
        .unwrap()
}

#[tokio::test]
async fn a_new_tip_is_published_at_once() {
    let tip = Arc::new(AtomicU64::new(1));
    let node_tip = Arc::clone(&tip);
    let mut node = FakeNode::start(move |method, params| match method {
        "getblocktemplate" if is_long_poll(params) => {
            let tip = node_tip.fetch_add(1, Ordering::Relaxed) + 1;
            if tip > 4 {
                Reply::Silence
            } else {
                Reply::Result(template(tip))
            }
        }
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let mut newest = templates.subscribe();
    let wait = newest.wait_for(|newest| {
        newest
            .as_ref()
            .is_some_and(|newest| newest.prev_hash[0] == 4)
    });
    let newest = timeout(PATIENCE, wait)
        .await
        .expect("the fourth tip")
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(newest.id, 4);
    assert_eq!(newest.height(), Some(105));
    assert_eq!(
        (newest.min_ntime, newest.ntime),
        (1_700_000_001, 1_700_000_100)
    );
    let params = node.expect_call("getblocktemplate").await;
    assert_eq!(params[0]["rules"], json!(["segwit"]));
}

#[tokio::test]
async fn a_late_answer_of_a_long_poll_brings_no_old_tip_back() {
    let tip = Arc::new(AtomicU64::new(1));
    let late = Arc::new(Notify::new());
    let (node_tip, node_late) = (Arc::clone(&tip), Arc::clone(&late));
    let mut node = FakeNode::start(move |method, params| match method {
        "getblocktemplate" if is_long_poll(params) => {
            Reply::Later(Arc::clone(&node_late), template(1))
        }
        "getblocktemplate" => Reply::Result(template(node_tip.load(Ordering::Relaxed))),
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    ready(&templates).await;
    while !is_long_poll(&node.expect_call("getblocktemplate").await) {}

    let mut newest = templates.subscribe();
    for (number, id) in [(2, 2), (3, 3)] {
        tip.store(number, Ordering::Relaxed);
        templates.refresh();
        let wait = newest.wait_for(|newest| {
            newest
                .as_ref()
                .is_some_and(|newest| u64::from(newest.prev_hash[0]) == number)
        });
        let newest = timeout(PATIENCE, wait)
            .await
            .expect("the tip")
            .unwrap()
            .clone()
            .unwrap();
        assert_eq!(newest.id, id, "another template came between");
        // The long poll that began on the first tip is answered only now.
        late.notify_waiters();
        while !is_long_poll(&node.expect_call("getblocktemplate").await) {}
    }
}

#[tokio::test]
async fn a_template_is_refreshed_while_the_long_poll_is_silent() {
    let node = FakeNode::start(steady).await;
    let templates = start_with(&node, |config| config.refresh_interval_seconds = 1);
    let mut newest = templates.subscribe();
    let wait = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.id == 2));
    timeout(PATIENCE, wait)
        .await
        .expect("a second template")
        .unwrap();
}

#[tokio::test]
async fn other_nbits_on_the_same_tip_are_another_template() {
    let calls = AtomicUsize::new(0);
    let node = FakeNode::start(move |method, params| match method {
        "getblocktemplate" if is_long_poll(params) => {
            let mut changed = template(1);
            changed["bits"] = json!("1d00ffff");
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                Reply::Result(changed)
            } else {
                Reply::Silence
            }
        }
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let mut newest = templates.subscribe();
    let wait = newest.wait_for(|newest| {
        newest
            .as_ref()
            .is_some_and(|newest| newest.nbits == 0x1d00_ffff)
    });
    let newest = timeout(PATIENCE, wait)
        .await
        .expect("the new target")
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!((newest.id, newest.prev_hash[0]), (2, 1));
}

#[tokio::test]
async fn nonsense_keeps_the_last_template_and_is_told() {
    let broken = Arc::new(AtomicUsize::new(0));
    type Make = fn() -> Reply;
    let cases: [(&str, Make); 12] = [
        ("nonsense", || Reply::Body(b"{\"result\": {".to_vec())),
        ("nonsense", || Reply::Body(b"[]".to_vec())),
        ("UTF-8", || Reply::Body(b"{\xff}".to_vec())),
        ("nonsense", || Reply::Body(Vec::new())),
        ("nonsense", || Reply::Result(json!(null))),
        ("nonsense", || Reply::Result(json!("a text"))),
        ("cannot be reached", || Reply::Truncated(1000)),
        ("cannot be reached", || Reply::Close),
        ("503", || {
            Reply::Http(
                "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            )
        }),
        ("credentials", || {
            Reply::Http("HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into())
        }),
        ("is in initial sync (-10)", || {
            Reply::Error(-10, "is in initial sync")
        }),
        ("over 67108864 bytes", || Reply::Endless),
    ];
    let case = Arc::clone(&broken);
    let node =
        FakeNode::start(
            move |method, params| match (method, case.load(Ordering::Relaxed)) {
                (_, 0) => match steady(method, params) {
                    // The long poll returns, so that the next call comes soon.
                    Reply::Silence => Reply::Close,
                    reply => reply,
                },
                ("getblocktemplate", number) => cases[number - 1].1(),
                _ => steady(method, params),
            },
        )
        .await;
    for (number, (text, _)) in cases.iter().enumerate() {
        broken.store(0, Ordering::Relaxed);
        let templates = start(&node);
        let first = ready(&templates).await;
        broken.store(number + 1, Ordering::Relaxed);
        wait_for_error(&templates, text).await;
        let kept = templates.subscribe().borrow().clone().unwrap();
        assert_eq!(kept.prev_hash, first.prev_hash);
        broken.store(0, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_node_that_comes_back_is_used_again() {
    let away = Arc::new(AtomicBool::new(true));
    let node_away = Arc::clone(&away);
    let node = FakeNode::start(move |method, params| {
        if node_away.load(Ordering::Relaxed) {
            Reply::Close
        } else {
            steady(method, params)
        }
    })
    .await;
    let templates = start(&node);
    wait_for_error(&templates, "cannot be reached").await;
    assert!(!templates.health().fresh);
    assert_eq!(templates.health().last_success, None);
    away.store(false, Ordering::Relaxed);
    ready(&templates).await;
    assert!(templates.health().fresh);
    assert_eq!(templates.health().error, None);
}

#[tokio::test]
async fn a_template_without_a_fresh_answer_goes_stale() {
    let away = Arc::new(AtomicBool::new(false));
    let node_away = Arc::clone(&away);
    let node = FakeNode::start(move |method, params| {
        if node_away.load(Ordering::Relaxed) {
            Reply::Close
        } else {
            steady(method, params)
        }
    })
    .await;
    let templates = start_with(&node, |config| {
        config.stale_after_seconds = 1;
        config.refresh_interval_seconds = 1;
    });
    ready(&templates).await;
    away.store(true, Ordering::Relaxed);
    wait_for_error(&templates, "cannot be reached").await;
    let deadline = Instant::now() + PATIENCE;
    while templates.health().fresh {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(templates.subscribe().borrow().is_some());
}

#[tokio::test]
async fn a_signet_that_wants_signatures_is_refused_with_the_reason() {
    let node = FakeNode::start(|method, params| match method {
        "getblockchaininfo" => chain_info("signet"),
        "getblocktemplate" => {
            assert_eq!(params[0]["rules"], json!(["segwit", "signet"]));
            let mut template = template(1);
            template["signet_challenge"] = json!("5121aa51ae");
            template["rules"] = json!(["csv", "!segwit", "!signet", "taproot"]);
            Reply::Result(template)
        }
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let error = timeout(PATIENCE, templates.ready())
        .await
        .expect("an error in time")
        .unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)));
    assert!(
        error
            .to_string()
            .contains("only signets with the challenge 51"),
        "{error}"
    );
}

#[tokio::test]
async fn the_cookie_is_read_again_when_the_node_writes_another() {
    let folder = tempfile::tempdir().unwrap();
    let cookie = folder.path().join(".cookie");
    let node = FakeNode::start(steady).await;
    let templates = start_with(&node, |config| config.cookie_file = Some(cookie.clone()));
    wait_for_error(&templates, "cookie file").await;
    std::fs::write(&cookie, "no colon").unwrap();
    wait_for_error(&templates, "holds no user:password").await;
    std::fs::write(&cookie, "__cookie__:abc\n").unwrap();
    ready(&templates).await;
}

/// Solves the fake node's template, and answers `submitblock` as given, one reply after the other.
async fn submit(replies: Vec<fn() -> Reply>, confirmations: i64) -> Submission {
    let attempt = AtomicUsize::new(0);
    let node = FakeNode::start(move |method, params| match method {
        "submitblock" => {
            let attempt = attempt.fetch_add(1, Ordering::Relaxed);
            replies[attempt.min(replies.len() - 1)]()
        }
        "getblockheader" => Reply::Result(json!({"confirmations": confirmations})),
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let template = ready(&templates).await;
    let submission = templates.submit(testing::solve(&template, |_| {})).await;
    let status = templates.status();
    let counts = [
        status.blocks_accepted,
        status.blocks_rejected,
        status.blocks_unknown,
        status.blocks_unreachable,
    ];
    assert_eq!(counts.iter().sum::<u64>(), 1);
    submission
}

#[tokio::test]
async fn the_nodes_word_on_a_block_is_final() {
    let word = |text: &'static str| Submission::Rejected(text.to_owned());
    assert_eq!(
        submit(vec![|| Reply::Result(json!(null))], 1).await,
        Submission::Accepted
    );
    assert_eq!(
        submit(vec![|| Reply::Result(json!("high-hash"))], 1).await,
        word("high-hash")
    );
    assert_eq!(
        submit(vec![|| Reply::Result(json!("inconclusive"))], 1).await,
        Submission::Accepted
    );
    assert_eq!(
        submit(vec![|| Reply::Result(json!("inconclusive"))], -1).await,
        Submission::Unknown("inconclusive".to_owned())
    );
    assert_eq!(
        submit(vec![|| Reply::Result(json!("duplicate-invalid"))], 1).await,
        word("duplicate-invalid")
    );
    let undecodable = submit(vec![|| Reply::Error(-22, "Block decode failed")], 1).await;
    assert_eq!(undecodable, word("Block decode failed (-22)"));
}

#[tokio::test]
async fn a_block_is_offered_until_the_node_answers() {
    let lost_then_duplicate = submit(
        vec![|| Reply::Close, || Reply::Result(json!("duplicate"))],
        1,
    )
    .await;
    assert_eq!(lost_then_duplicate, Submission::Accepted);
    let starting = submit(
        vec![|| Reply::Error(-28, "Loading"), || {
            Reply::Result(json!(null))
        }],
        1,
    )
    .await;
    assert_eq!(starting, Submission::Accepted);
    let behind = || Reply::Result(json!("prev-blk-not-found"));
    let catching_up = submit(vec![behind, || Reply::Result(json!(null))], 1).await;
    assert_eq!(catching_up, Submission::Accepted);
    let without_parent = submit(vec![behind], 1).await;
    assert_eq!(
        without_parent,
        Submission::Unreachable("prev-blk-not-found".to_owned())
    );
    let away = submit(vec![|| Reply::Close], 1).await;
    assert!(
        matches!(away, Submission::Unreachable(ref problem) if problem.contains("reached")),
        "{away:?}"
    );
}

#[tokio::test]
async fn a_block_arrives_even_if_its_submitter_goes_away() {
    let mut node = FakeNode::start(|method, params| match method {
        "submitblock" => Reply::Close,
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let template = ready(&templates).await;
    let solution = testing::solve(&template, |_| {});
    let caller = tokio::spawn(async move { templates.submit(solution).await });
    node.expect_call("submitblock").await;
    caller.abort();
    timeout(PATIENCE, node.expect_call("submitblock"))
        .await
        .expect("another attempt");
}

/// What the source says of a block when the node answers so to `getblockheader` and `getblockhash`.
async fn fate(header: fn() -> Reply, at_height: fn() -> Reply) -> Result<Fate, FateError> {
    let mut node = FakeNode::start(move |method, params| match method {
        "getblockheader" => header(),
        "getblockhash" => at_height(),
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let mut hash = [0; 32];
    hash[0] = 0xab;
    let fate = templates.fate(hash, 7).await;
    // A node prints hashes the other way round.
    let asked = node.expect_call("getblockheader").await;
    assert_eq!(asked, json!([format!("{:0>64}", "ab")]));
    fate
}

#[tokio::test]
async fn the_fate_of_a_block_is_what_the_nodes_chain_says() {
    let in_chain = || Reply::Result(json!({"confirmations": 3}));
    let beside = || Reply::Result(json!({"confirmations": -1}));
    let unknown = || Reply::Error(-5, "Block not found");
    let too_high = || Reply::Error(-8, "Block height out of range");
    let another = || Reply::Result(json!("00ff"));
    let nonsense = || Reply::Result(json!({"confirmations": "many"}));

    let confirmations = 3;
    assert_eq!(
        fate(in_chain, too_high).await,
        Ok(Fate::InChain { confirmations })
    );
    assert_eq!(fate(beside, too_high).await, Ok(Fate::Orphaned));
    assert_eq!(fate(unknown, another).await, Ok(Fate::Orphaned));
    assert_eq!(fate(unknown, too_high).await, Ok(Fate::Missing));
    for (header, at_height) in [
        (nonsense as fn() -> Reply, too_high as fn() -> Reply),
        (|| Reply::Error(-28, "Loading block index"), too_high),
        (|| Reply::Close, too_high),
        (unknown, || Reply::Close),
    ] {
        let fate = fate(header, at_height).await;
        assert!(matches!(fate, Err(FateError::Unreachable(_))), "{fate:?}");
    }
}

#[tokio::test]
async fn a_block_that_was_kept_is_offered_as_it_is() {
    let mut node = FakeNode::start(|method, params| match method {
        "submitblock" => Reply::Result(json!("duplicate")),
        _ => steady(method, params),
    })
    .await;
    let templates = start(&node);
    let template = ready(&templates).await;
    let block = testing::solve(&template, |_| {}).block().unwrap();
    let answer = templates.submit_block(block.clone()).await;
    assert_eq!(answer, Submission::Accepted);
    let offered = node.expect_call("submitblock").await;
    assert_eq!(offered, json!([hex::encode(&block)]));
    // What has no header is no block, and no node is asked about it.
    let answer = templates.submit_block(block.slice(..79)).await;
    assert!(matches!(answer, Submission::Rejected(_)), "{answer:?}");
}
