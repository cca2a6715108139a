//! What is shipped for Prometheus: it is valid, its alerts fire when they should, and it names no metric that is not there.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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

#[test]
fn what_clients_of_the_relay_used_is_recorded_over_a_restart() {
    promtool(&["test", "rules", "tests/billing_test.yml"]);
}

/// An alert that no test has fire may never fire.
#[test]
fn every_alert_has_a_test_in_which_it_fires() {
    let rules = fs::read_to_string(folder().join("rules/alerts.yml")).unwrap();
    let tests = fs::read_to_string(folder().join("tests/alerts_test.yml")).unwrap();
    let lines: Vec<_> = tests.lines().map(str::trim).collect();
    let fires = |alert: &str| {
        let named = format!("alertname: {alert}");
        let mut pairs = lines.windows(2);
        pairs.any(|pair| pair[0] == named && pair[1] == "exp_alerts:")
    };
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let untested: Vec<_> = alerts.into_iter().filter(|alert| !fires(alert)).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

/// Roles that mine, and stats services that they tell of it, until it is stopped.
struct Stack {
    /// Where each job's metrics are.
    metrics: BTreeMap<&'static str, SocketAddr>,
    _data: tempfile::TempDir,
    _roles: Vec<Box<dyn std::any::Any>>,
}

impl Stack {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let metrics = JOBS.map(|job| (job, free()));
        let at = |wanted: &str| {
            let (_, address) = metrics.iter().find(|(job, _)| *job == wanted).unwrap();
            Address::At(*address)
        };
        let mut config = e2e::stats_config::<pool_stats::PoolStats>(&data);
        (config.http_address, config.metrics.workers) = (at("pool-stats"), 10);
        let pool_stats = e2e::start_stats(config).await;
        let mut config = e2e::stats_config::<proxy_stats::ProxyStats>(&data);
        (config.http_address, config.metrics.workers) = (at("proxy-stats"), 10);
        let proxy_stats = e2e::start_stats(config).await;
        let mut config = e2e::pool_config(e2e::embedded(), &data);
        config.http_address = at("pool");
        config.stats.address = pool_stats.address.to_string();
        config.stats.interval_ms = 100;
        let (pool, key) = e2e::start_pool(config).await;
        let translator = e2e::start_translator(pool.address, key, |config| {
            config.http_address = at("translator");
            config.stats.address = proxy_stats.address.to_string();
            config.stats.interval_ms = 100;
        })
        .await;
        let relay = e2e::start_relay(translator.address, |config| {
            config.http_address = at("relay");
            config.storage.url = format!("sqlite:{}", data.path().join("relay.sqlite").display());
        })
        .await;
        let miner = e2e::start_miner(relay.address, "alice.rig", 20_000.0);
        let mut config = e2e::provider_config(e2e::embedded());
        config.http_address = at("template-provider");
        let (provider, _) = e2e::start_provider(config).await;
        e2e::until("the miner has a share", || {
            (miner.status.snapshot().accepted > 0).then_some(())
        })
        .await;
        // Ends of connections are counted when there are some.
        for address in [pool.address, translator.address] {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.write_all(&[0; 1024]).unwrap();
        }
        Self {
            metrics: metrics.into(),
            _data: data,
            _roles: vec![
                Box::new((miner, relay, translator)),
                Box::new((pool, provider)),
                Box::new((pool_stats, proxy_stats)),
            ],
        }
    }
}

/// As they are named in `prometheus.yml`.
const JOBS: [&str; 6] = [
    "pool",
    "translator",
    "relay",
    "template-provider",
    "pool-stats",
    "proxy-stats",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rule_looks_for_a_metric_that_nobody_has() {
    let stack = Stack::start().await;
    let named = named();
    assert!(named.len() > 15, "{named:?}");
    e2e::until("every metric that is named is there", || {
        let there: BTreeSet<_> = stack.metrics.values().copied().flat_map(exported).collect();
        let missing: Vec<_> = named.difference(&there).collect();
        eprintln!("missing: {missing:?}");
        missing.is_empty().then_some(())
    })
    .await;
}

/// Asks what a dashboard asks, of a real Prometheus that scrapes a stack with our own rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_a_dashboard_has_an_answer() {
    let stack = Stack::start().await;
    let Some(prometheus) = Prometheus::start(&stack.metrics) else {
        return;
    };
    let mut waiting = queries();
    assert!(waiting.len() > 20, "{waiting:?}");
    e2e::until("every query has an answer", || {
        waiting.retain(|query| prometheus.ask(query).is_empty());
        eprintln!("without an answer: {waiting:?}");
        waiting.is_empty().then_some(())
    })
    .await;
}

/// What the panels show, but for what is there only when something goes wrong.
fn queries() -> Vec<String> {
    let mut queries = Vec::new();
    for file in DASHBOARDS {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        for target in panels.flat_map(|panel| panel["targets"].as_array().unwrap()) {
            let query = target["expr"].as_str().unwrap().to_owned();
            // Who asks for what exceeds something may find nothing.
            queries.push(query.trim_end_matches(" > 0").to_owned());
        }
    }
    queries.retain(|query| !query.contains("lost_shares_total[5m]"));
    queries
}

/// A server of a test's own.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Nothing if it is not installed. With `CI` set it has to be.
    fn start(jobs: &BTreeMap<&str, SocketAddr>) -> Option<Self> {
        let (place, address) = (tempfile::tempdir().unwrap(), free());
        let mut config = fs::read_to_string(folder().join("prometheus.yml")).unwrap();
        for (job, metrics) in jobs {
            let (before, after) = config.split_once(&format!("job_name: {job}\n")).unwrap();
            let (target, rest) = after.split_once(']').unwrap();
            let (keys, _) = target.split_once('[').unwrap();
            config = format!("{before}job_name: {job}\n{keys}[\"{metrics}\"]{rest}");
        }
        fs::create_dir(place.path().join("rules")).unwrap();
        let write = |file: &str, text: String| {
            let text = text.replace("interval: 15s", "interval: 1s");
            fs::write(place.path().join(file), text).unwrap();
        };
        write("prometheus.yml", config);
        for file in ["rules/recording.yml", "rules/alerts.yml"] {
            write(file, fs::read_to_string(folder().join(file)).unwrap());
        }
        let started = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(process) => Some(Self {
                process,
                address,
                _folder: place,
            }),
            Err(error) => {
                assert!(env::var_os("CI").is_none(), "prometheus: {error}");
                eprintln!("skipped: prometheus is not installed ({error})");
                None
            }
        }
    }

    /// The series of an answer; none before it listens.
    fn ask(&self, query: &str) -> Vec<serde_json::Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let Some(answer) = get(self.address, &format!("/api/v1/query?query={encoded}")) else {
            return Vec::new();
        };
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let Ok(answer) = serde_json::from_str::<serde_json::Value>(body) else {
            return Vec::new();
        };
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        let series = answer["data"]["result"].as_array();
        series.cloned().unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
    let answer = get(address, "/metrics").unwrap();
    let types = answer
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// A whole answer over HTTP; nothing where nobody listens.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
