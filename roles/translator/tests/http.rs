//! What a running translator says over HTTP, against what really happened.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;
use support::{PoolHouse, Running, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use translator::Acknowledge;

#[tokio::test]
async fn readiness_follows_the_pool() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let (status, body) = get(&translator, "/readyz").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no pool is connected"), "{body}");
    assert_eq!(get(&translator, "/healthz").await.0, 200);
    let pool = house.accept().await;
    translator
        .until("the pool", |status| status.upstreams[0].connected == 1)
        .await;
    let (status, body) = get(&translator, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    drop(pool);
    translator
        .until("the loss", |status| status.upstreams[0].connected == 0)
        .await;
    assert_eq!(get(&translator, "/readyz").await.0, 503);
}

#[tokio::test]
async fn every_metric_agrees_with_the_status_and_with_what_happened() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |_| ()).await;
    let mut pool = house.accept().await;
    let mut gone = translator.miner().await;
    gone.log_in("gone").await;
    pool.open_channel(&[9]).await;
    gone.notify().await;
    drop(gone);
    pool.next().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    for nonce in [1, 2, 3] {
        assert_eq!(miner.submit("w", &job, nonce).await["result"], true);
        pool.share().await;
    }
    assert_eq!(miner.submit("w", &job, 3).await["error"][0], 22);
    assert_eq!(miner.submit("w", "ffff", 4).await["error"][0], 21);
    pool.acknowledge(channel, 2, 2).await;
    let before = translator
        .until("rest", |status| {
            status.shares.accepted == 2 && status.shares.submitted == 5 && status.connected == 1
        })
        .await;

    let metrics = scrape(&get(&translator, "/metrics").await.1);
    let (code, body) = get(&translator, "/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    let shares = &status["shares"];
    assert_eq!(
        shares["accepted_work"],
        before.shares.accepted_work.to_string()
    );
    for (name, value) in [
        ("stratum_active_connections", &status["connected"]),
        ("stratum_connections_total", &status["connections"]),
        ("stratum_bytes_sent_total", &status["traffic"]["bytes_sent"]),
        (
            "stratum_bytes_received_total",
            &status["traffic"]["bytes_received"],
        ),
        (
            "stratum_notifications_total",
            &status["traffic"]["notifications"],
        ),
        ("stratum_submits_total", &shares["submitted"]),
        ("stratum_accepted_shares_total", &shares["accepted"]),
        (
            "hashpool_translator_forwarded_shares_total",
            &shares["forwarded"],
        ),
        (
            "hashpool_translator_told_accepted_shares_total",
            &shares["told_accepted"],
        ),
        ("hashpool_translator_shares_in_flight", &shares["in_flight"]),
        (
            "stratum_current_difficulty",
            &status["miners"][0]["difficulty"],
        ),
        (
            "hashpool_translator_upstream_connects_total",
            &status["upstreams"][0]["connections"],
        ),
        (
            "hashpool_translator_disconnects_total{reason=\"closed\"}",
            &status["disconnected"]["closed"],
        ),
    ] {
        assert!(
            close(metrics[name], value.as_f64().unwrap()),
            "{name}: {metrics:#?} {status:#}"
        );
    }
    for (family, reasons) in [
        ("stratum_rejected_shares_total", &shares["rejected"]),
        ("hashpool_translator_lost_shares_total", &shares["lost"]),
    ] {
        let prefix = format!("{family}{{reason=");
        let in_metrics: f64 = sum(metrics
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(_, value)| *value));
        let reasons = reasons.as_object().unwrap();
        assert!(
            close(
                in_metrics,
                sum(reasons.values().map(|value| value.as_f64().unwrap()))
            ),
            "{family}"
        );
        for (reason, value) in reasons {
            assert!(
                close(
                    metrics[&format!("{prefix}\"{reason}\"}}")],
                    value.as_f64().unwrap()
                ),
                "{reason}"
            );
        }
    }
    // And with what this test did.
    for (name, value) in [
        ("stratum_connections_total", 2.0),
        ("stratum_submits_total", 5.0),
        ("stratum_accepted_shares_total", 2.0),
        ("stratum_rejected_shares_total{reason=\"duplicate\"}", 1.0),
        (
            "stratum_rejected_shares_total{reason=\"job-not-found\"}",
            1.0,
        ),
        ("hashpool_translator_shares_in_flight", 1.0),
        ("stratum_notifications_total", 2.0),
        ("stratum_connect_latency_seconds_count", 2.0),
        ("stratum_connection_duration_seconds_count", 1.0),
    ] {
        assert!(close(metrics[name], value), "{name}: {metrics:#?}");
    }
    for (method, requests) in [
        ("submit", 5.0),
        ("subscribe", 2.0),
        ("authorize", 2.0),
        ("configure", 0.0),
        ("other", 0.0),
    ] {
        let count = metrics[&latency("count", method)];
        assert!(close(count, requests), "{method}: {metrics:#?}");
    }
}

#[tokio::test]
async fn the_wait_for_the_pool_is_in_the_time_of_a_submit_that_waits_for_it() {
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.acknowledge = Acknowledge::Upstream;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    let (channel, _) = pool.open_channel(&[1]).await;
    let job = miner.notify().await.job_id;
    miner.ask(r#"{"id":1,"method":"mining.ping"}"#).await;
    miner.ask(r#"{"id":3}"#).await;
    // All in one read, so that they have one time, but for those that wait.
    let submit = |nonce: u32| {
        format!(
            r#"{{"id":9,"method":"mining.submit","params":["w","{job}","0a0b0c0d","6553f101","{nonce:08x}"]}}"#
        )
    };
    let lines = [submit(1), submit(2), submit(1)].join("\n");
    let asked = Instant::now();
    let refused = miner.ask(&lines).await;
    assert_eq!(refused["error"][0], 22, "{refused}");
    pool.share().await;
    pool.share().await;
    let waited = asked.elapsed();
    pool.acknowledge(channel, 2, 2).await;
    for _ in 0..2 {
        assert_eq!(miner.read().await.unwrap()["result"], true);
    }
    let waited_at_most = asked.elapsed();
    let mut metrics = scrape(&get(&translator, "/metrics").await.1);
    // The answers are there before they are counted.
    while metrics[&latency("count", "submit")] < 3.0 {
        metrics = scrape(&get(&translator, "/metrics").await.1);
    }
    let sum = metrics[&latency("sum", "submit")];
    assert!(sum >= waited.as_secs_f64(), "{sum} {waited:?}");
    assert!(
        sum <= 3.0 * waited_at_most.as_secs_f64(),
        "{sum} {waited_at_most:?}"
    );
    assert!(
        close(metrics[&latency("count", "submit")], 3.0),
        "{metrics:#?}"
    );
    assert!(
        close(metrics[&latency("count", "other")], 2.0),
        "{metrics:#?}"
    );
}

fn latency(part: &str, method: &str) -> String {
    format!("stratum_request_response_seconds_{part}{{method=\"{method}\"}}")
}

#[tokio::test]
async fn what_became_of_each_pool_is_shown() {
    let (first, second) = (PoolHouse::new().await, PoolHouse::new().await);
    let spare = PoolHouse::new().await;
    let upstreams = vec![first.upstream(), second.upstream(), spare.upstream()];
    let translator = Running::start(upstreams, |config| config.failback_after_seconds = 0).await;
    drop(first.accept().await);
    let _pool = second.accept().await;
    translator
        .until("the second pool", |status| {
            status.upstreams[1].connected == 1
        })
        .await;
    let metrics = scrape(&get(&translator, "/metrics").await.1);
    let of = |family: &str, house: &PoolHouse, more: &str| {
        let address = house.upstream().address;
        let name = format!("hashpool_translator_upstream_{family}{{upstream=\"{address}\"{more}}}");
        *metrics
            .get(&name)
            .unwrap_or_else(|| panic!("{name}: {metrics:#?}"))
    };
    assert!(close(of("healthy", &first, ""), 0.0));
    assert!(close(of("healthy", &second, ""), 1.0));
    // Of one that nobody had to try, nothing is known.
    let unknown = format!("upstream_healthy{{upstream=\"{}", spare.upstream().address);
    assert!(metrics.keys().all(|name| !name.contains(&unknown)));
    assert!(close(of("connections", &first, ""), 0.0));
    assert!(close(of("connections", &second, ""), 1.0));
    let reason = ",reason=\"closed\"";
    assert!(close(of("failures_total", &first, reason), 1.0));
    assert!(close(
        metrics["hashpool_translator_upstream_moves_total"],
        1.0
    ));
    let (_, body) = get(&translator, "/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    let shown = &status["upstreams"][0];
    assert_eq!(shown["health"], "failing", "{status:#}");
    assert_eq!(shown["failures"]["closed"], 1, "{status:#}");
    assert!(shown["failing_since_ms"].is_u64(), "{status:#}");
}

/// Status code and body.
async fn get(translator: &Running, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(translator.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = in_time("an HTTP answer", exchange).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// Samples by name and labels. Every line has to be a comment or a sample of a family that was announced, and every
/// counter is named as one.
fn scrape(text: &str) -> BTreeMap<String, f64> {
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect(line);
            let bare = name.split('{').next().unwrap();
            let announced = ["", "_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| bare.strip_suffix(suffix))
                .any(|family| kinds.contains_key(family));
            assert!(announced, "{line}");
            let value: f64 = value.parse().expect(line);
            assert!(
                value.is_finite() && samples.insert(name.to_owned(), value).is_none(),
                "{line}"
            );
        }
    }
    samples
}

/// Not the sum of nothing that `f64` has, which is -0.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * left.abs().max(1.0)
}

#[tokio::test]
async fn a_miner_that_left_is_not_active_while_its_last_share_is_on_its_way() {
    let house = PoolHouse::new().await;
    let translator =
        Running::start(vec![house.upstream()], |config| config.linger_seconds = 600).await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("w").await;
    pool.open_channel(&[1; 4]).await;
    let job = miner.notify().await.job_id;
    assert_eq!(miner.submit("w", &job, 1).await["result"], true);
    pool.share().await;
    drop(miner);
    let gone = async {
        loop {
            let metrics = scrape(&get(&translator, "/metrics").await.1);
            if close(metrics["stratum_active_connections"], 0.0) {
                return metrics;
            }
        }
    };
    let metrics = in_time("the miner to be gone", gone).await;
    let ended = metrics["stratum_connection_duration_seconds_count"];
    assert!(close(ended, 1.0), "{ended}");
    assert_eq!(translator.status.snapshot().shares.in_flight, 1);
}
