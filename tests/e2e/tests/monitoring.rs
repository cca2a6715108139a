//! What is shipped for Prometheus: it is valid, its alerts fire when they should, and it names no metric that is not there.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use service::http::Address;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/prometheus")
}

/// Runs Prometheus' own checker; `false` if it is not installed. With `CI` set it has to be.
fn promtool(arguments: &[&str]) -> bool {
    let ran = Command::new("promtool")
        .args(arguments)
        .current_dir(folder())
        .output();
    let output = match ran {
        Ok(output) => output,
        Err(error) => {
            assert!(env::var_os("CI").is_none(), "promtool: {error}");
            eprintln!("skipped: promtool is not installed ({error})");
            return false;
        }
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
    true
}

#[test]
fn the_configuration_is_what_prometheus_takes() {
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    promtool(&["test", "rules", "tests/alerts_test.yml"]);
}

#[tokio::test]
async fn no_rule_looks_for_a_metric_that_nobody_has() {
    let (data, addresses) = (tempfile::tempdir().unwrap(), [free(), free(), free()]);
    let [of_pool, of_translator, of_provider] = addresses;
    let mut config = e2e::pool_config(e2e::embedded(), &data);
    config.http_address = Address::At(of_pool);
    let (pool, key) = e2e::start_pool(config).await;
    let translator = e2e::start_translator(pool.address, key, |config| {
        config.http_address = Address::At(of_translator);
    })
    .await;
    let mut config = e2e::provider_config(e2e::embedded());
    config.http_address = Address::At(of_provider);
    let _provider = e2e::start_provider(config).await;
    e2e::until("the pool to be followed", || {
        translator.status.is_ready().then_some(())
    })
    .await;

    let mut there = BTreeSet::new();
    for address in addresses {
        there.extend(exported(address));
    }
    let named = named();
    assert!(named.len() > 15, "{named:?}");
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {there:?}");
}

#[test]
fn dashboards_show_only_what_roles_export_or_rules_record() {
    let rules = fs::read_to_string(folder().join("rules/recording.yml")).unwrap();
    let recorded: BTreeSet<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    for file in DASHBOARDS {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.len() > 5);
        for target in panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap())
        {
            let expr = target["expr"].as_str().unwrap();
            let words = words(expr).filter(|word| word.contains(':'));
            for word in words {
                assert!(recorded.contains(word), "{word} in {file}");
            }
        }
    }
}

const DASHBOARDS: [&str; 2] = [
    "../grafana/dashboards/pool.json",
    "../grafana/dashboards/translator.json",
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| {
        !(character.is_ascii_alphanumeric() || character == '_' || character == ':')
    })
}

/// Names in rules and dashboards that are metrics of roles, and not made by rules.
fn named() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let files = ["rules/recording.yml", "rules/alerts.yml"];
    for file in files.iter().chain(&DASHBOARDS) {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let metrics = words(&text).filter(|word| {
            !word.contains(':') && (word.starts_with("hashpool_") || word.starts_with("stratum_"))
        });
        names.extend(metrics.map(|name| name.trim_end_matches("_bucket").to_owned()));
    }
    names
}

/// Names of what a role exports.
fn exported(address: SocketAddr) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let types = answer
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
