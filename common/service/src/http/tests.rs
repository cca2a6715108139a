use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const FREE: Address = Address::loopback(0);

/// A server that runs until it is dropped.
struct Running {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    shares: Arc<AtomicU64>,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Running {
    fn start() -> Self {
        let (ready, shares) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let registry = Registry::new();
        let counted = Arc::clone(&shares);
        register(&registry, move |families| {
            let value = counted.load(Ordering::Relaxed);
            families.counter("hashpool_test_shares_total", "Shares.", value);
            let reasons = [("stale", value), ("dup\"licate", 1)];
            families.counters("hashpool_test_rejected_total", "Why.", "reason", reasons);
            families.counters("hashpool_test_none_total", "None.", "reason", []);
            families.gauge("hashpool_test_hashrate", "H/s.", 1.5e12);
            let mut waits = Histogram::new(&[0.1, 1.0]);
            for wait in [0.1, 0.5, 7.0] {
                waits.observe(wait);
            }
            families.histogram("hashpool_test_wait_seconds", "Waits.", &waits);
        })
        .unwrap();
        let (is_ready, counted) = (Arc::clone(&ready), Arc::clone(&shares));
        let endpoints = Endpoints::new(
            move || {
                if is_ready.load(Ordering::Relaxed) {
                    Ok(())
                } else {
                    Err(vec!["no template for 90 s".to_owned()])
                }
            },
            move || json!({ "shares": counted.load(Ordering::Relaxed) }),
            registry,
        );
        let server = Server::bind(FREE, endpoints).unwrap();
        let (address, shutdown) = (server.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(server.run(shutdown.clone()));
        Self {
            address,
            ready,
            shares,
            shutdown,
        }
    }

    /// What comes back for these bytes, until the server closes.
    async fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let writing = async {
            // The server may close before it has read everything.
            let _ = writer.write_all(request).await;
        };
        let (_, read) = tokio::join!(writing, reader.read_to_end(&mut answer));
        read.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.send(request.as_bytes()).await
    }
}

fn starts_with(answer: &str, status: &str) {
    let line = format!("HTTP/1.1 {status}");
    assert!(answer.starts_with(&line), "{answer}");
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn readiness_is_200_or_503_with_reasons() {
    let server = Running::start();
    starts_with(&server.get("/healthz").await, "200");
    let answer = server.get("/readyz").await;
    starts_with(&answer, "200");
    assert!(answer.contains("application/json"), "{answer}");
    server.ready.store(false, Ordering::Relaxed);
    let answer = server.get("/readyz").await;
    starts_with(&answer, "503");
    let told: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(
        told,
        json!({ "ready": false, "reasons": ["no template for 90 s"] })
    );
    starts_with(&server.get("/healthz").await, "200");
}

#[tokio::test]
async fn a_scrape_shows_the_counters_as_they_are_now() {
    let server = Running::start();
    server.shares.store(41, Ordering::Relaxed);
    server.get("/metrics").await;
    server.shares.store(42, Ordering::Relaxed);
    let answer = server.get("/metrics").await;
    starts_with(&answer, "200");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    for line in [
        "# TYPE hashpool_test_shares_total counter",
        "hashpool_test_shares_total 42",
        "hashpool_test_rejected_total{reason=\"stale\"} 42",
        "hashpool_test_rejected_total{reason=\"dup\\\"licate\"} 1",
        "# TYPE hashpool_test_hashrate gauge",
        "hashpool_test_hashrate 1500000000000",
        "hashpool_test_wait_seconds_bucket{le=\"0.1\"} 1",
        "hashpool_test_wait_seconds_bucket{le=\"1\"} 2",
        "hashpool_test_wait_seconds_bucket{le=\"+Inf\"} 3",
        "hashpool_test_wait_seconds_sum 7.6",
        "hashpool_test_wait_seconds_count 3",
    ] {
        assert!(answer.lines().any(|seen| seen == line), "{line}: {answer}");
    }
    assert!(!answer.contains("hashpool_test_none_total"), "{answer}");
    let status = server.get("/status").await;
    assert_eq!(body(&status), "{\"shares\":42}\n");
}

#[tokio::test]
async fn hostile_input_is_answered_and_costs_only_its_connection() {
    let server = Running::start();
    for (request, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00 TLS\r\n\r\n".to_vec(), "400"),
        (
            b"{\"id\":1,\"method\":\"mining.subscribe\"}\n".to_vec(),
            "400",
        ),
        (
            b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "404",
        ),
        (
            b"GET /../metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "404",
        ),
        (
            b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "405",
        ),
        (
            [&b"GET /status HTTP/1.1\r\nX: "[..], &vec![b'x'; 64 * 1024]].concat(),
            "431",
        ),
        (
            [
                &b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"[..],
                &vec![0; 100_000],
            ]
            .concat(),
            "405",
        ),
    ] {
        starts_with(&server.send(&request).await, status);
    }
    starts_with(&server.get("/healthz").await, "200");
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_not_served() {
    let server = Running::start();
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let answer = server.send(request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_cut_off() {
    let server = Running::start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn an_answer_that_panics_is_an_error_500_and_nothing_more() {
    let endpoints = Endpoints::new(|| Ok(()), || panic!("on purpose"), Registry::new());
    let server = Server::bind(FREE, endpoints).unwrap();
    let address = server.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.run(shutdown.clone()));
    let client = Running {
        address,
        ready: Arc::default(),
        shares: Arc::default(),
        shutdown,
    };
    starts_with(&client.get("/status").await, "500");
    starts_with(&client.get("/readyz").await, "200");
    drop(client);
    running.await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_and_off_opens_none() {
    let quiet = || Endpoints::new(|| Ok(()), || json!({}), Registry::new());
    let first = Server::bind(FREE, quiet()).unwrap();
    let taken = first.local_addr().unwrap();
    let error = Server::bind(Address::At(taken), quiet()).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    let off = Server::bind(Address::Off, quiet()).unwrap();
    assert_eq!(off.local_addr(), None);
}

#[test]
fn an_address_is_a_socket_address_or_off() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Config {
        http_address: Address,
    }
    for text in ["127.0.0.1:9108", "off", "[::1]:80"] {
        let config = Config {
            http_address: text.parse().unwrap(),
        };
        let file = toml::to_string(&config).unwrap();
        assert_eq!(file.trim(), format!("http_address = \"{text}\""));
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), config);
    }
    let error = "localhost".parse::<Address>().unwrap_err();
    assert!(error.contains("localhost"), "{error}");
}

#[test]
fn a_metric_that_is_there_already_or_has_a_wrong_name_is_refused() {
    let registry = Registry::new();
    let with = |name: &'static str| {
        register(&registry, move |families| {
            families.counter(name, "Help.", 1)
        })
    };
    with("one_total").unwrap();
    assert!(with("one_total").is_err());
    assert!(with("one total").is_err());
    with("two_total").unwrap();
}

#[test]
fn what_stands_in_a_label_cannot_leave_it() {
    let registry = Registry::new();
    register(&registry, |families| {
        let hostile = "a\"} 1\nother{b=\"\\";
        families.counters_by("one_total", "Help.", ["a", "b"], [([hostile, "c"], 5)]);
    })
    .unwrap();
    let text = TextEncoder::new().encode_to_string(&registry.gather());
    let expected = r#"one_total{a="a\"} 1\nother{b=\"\\",b="c"} 5"#;
    assert!(text.as_ref().unwrap().contains(expected), "{text:?}");
}
