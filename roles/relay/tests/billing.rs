//! What a relay says of its clients' use, and of the books that it keeps of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use database::on_both;
use relay::clients::Client;
use relay::pattern::Pattern;
use relay::{Config, Pool};
use support::{Pools, config, first_share, start};

const DOCUMENT: &str = include_str!("../../../docs/billing.md");

/// Names of metrics in a text, as they are exported.
fn names(text: &str) -> BTreeSet<&str> {
    let word = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
    let words = text.split(word);
    words
        .filter(|word| word.starts_with("stratum_") || word.starts_with("hashpool_relay_"))
        .collect()
}

#[tokio::test]
async fn what_the_document_asks_prometheus_is_there() {
    let database = database::Database::sqlite();
    let mut config = config(&[Pools::new().await.address()]);
    config.storage.url = database.url();
    let relay = start(config).await;
    let metrics = relay.get("/metrics").await;
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<_> = types.filter_map(|line| line.split(' ').next()).collect();
    let asked = names(DOCUMENT);
    assert!(asked.len() >= 5, "{asked:?}");
    let missing: Vec<_> = asked.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Prometheus sees no growth in a series that begins with a value.
#[tokio::test]
async fn each_client_has_its_series_before_it_comes() {
    let pools = Pools::new().await;
    let client = |id: &str| Client {
        id: id.to_owned(),
        user_names: vec![Pattern::new("x")],
        ..Client::default()
    };
    let config = config(&[pools.address()]);
    let relay = start(Config {
        clients: vec![client("acme"), client("other")],
        pools: vec![
            config.pools[0].clone(),
            Pool {
                name: "b".to_owned(),
                address: "pool.invalid:3333".to_owned(),
                ..Pool::default()
            },
        ],
        ..config
    })
    .await;
    let metrics = relay.get("/metrics").await;
    for client in ["acme", "other", "unknown"] {
        for host in ["127.0.0.1", "pool.invalid"] {
            for name in ["stratum_bytes_sent_total", "stratum_accepted_shares_total"] {
                let series = format!("{name}{{client_id=\"{client}\",pool_host=\"{host}\"}} 0\n");
                assert!(metrics.contains(&series), "{series}{metrics}");
            }
        }
    }
}

on_both! {
    async fn while_use_cannot_be_billed_the_relay_is_not_ready_and_relays(database) {
        let pools = Pools::new().await;
        let mut config = config(&[pools.address()]);
        config.storage.url = database.url();
        config.storage.commit_interval_seconds = 1;
        let relay = start(config).await;
        assert!(relay.get("/readyz").await.starts_with("HTTP/1.1 200"));
        let lock = database.lock("usage_hours").await;
        let mut miner = relay.connect().await;
        let mut pool = pools.accept().await;
        let ready = async |status: &str| {
            support::in_time(status, async {
                loop {
                    let answer = relay.get("/readyz").await;
                    if answer.starts_with(status) {
                        break answer;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            })
            .await
        };
        let answer = ready("HTTP/1.1 503").await;
        assert!(answer.contains("billing: "), "{answer}");
        assert_eq!(relay.metric("hashpool_relay_billing_writable").await, 0.0);
        first_share(&mut miner, &mut pool, "anybody").await;
        drop(lock);
        ready("HTTP/1.1 200").await;
        assert_eq!(relay.metric("hashpool_relay_billing_writable").await, 1.0);
    }
}
