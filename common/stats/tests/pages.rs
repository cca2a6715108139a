//! What pages and API promise, asked for through real sockets.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "other tests need the rest"
)]
mod support;

use std::time::Duration;

use serde_json::Value;
use stats::receiver::Config;
use stats::state::Link;
use stats::web::Kind;
use stats_events::{
    Block, BlockState, Endpoint, Event, Hello, Peer, PeerState, ServiceState, Template,
    UpstreamState, WorkerState,
};
use support::{Client, Database, Service, TestRole, config, counters, hello, peer, worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a worker may call itself.
const HOSTILE: &str = "<script>alert(1)</script>\"><img src=x onerror='alert(1)'>&amp;";

const POOL: [&str; 7] = [
    "/",
    "/peers",
    "/workers",
    "/accounts",
    "/blocks",
    "/services",
    "/api",
];
const PROXY: [&str; 6] = [
    "/",
    "/miners",
    "/upstreams",
    "/connect",
    "/services",
    "/api",
];

#[derive(Debug, Clone, Copy)]
struct ProxyRole;

impl stats::receiver::Role for ProxyRole {
    const NAME: &str = "proxy-test";
    const METRICS: &str = "proxy_test";
    const PORT: u16 = 0;
    const HTTP_PORT: u16 = 0;
    const ROLES: &[&str] = &["translator"];
    const PAGES: Kind = Kind::Proxy;
}

async fn pool() -> (Database, Service) {
    let database = Database::sqlite();
    let service = Service::start(&database).await;
    (database, service)
}

async fn proxy() -> (Database, Service) {
    let database = Database::sqlite();
    let mut config = Config::<ProxyRole>::default();
    config.storage = support::config(&database).storage;
    let service = Service::run(config).await;
    (database, service)
}

fn translator(name: &str) -> Hello {
    Hello {
        role: "translator".into(),
        ..hello(name, "1")
    }
}

/// A page that is there, whole.
async fn page(service: &Service, path: &str) -> String {
    let (status, body) = service.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    assert!(body.starts_with("<!doctype html>"), "{path}");
    assert!(body.trim_end().ends_with("</html>"), "{path}");
    body
}

async fn json(service: &Service, path: &str) -> Value {
    let (status, body) = service.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Status, head and body.
async fn ask(service: &Service, path: &str, header: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(service.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: pool.lan:8081\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

fn miner(peer: u64, agent: &str) -> Event {
    Event::PeerConnected(Peer {
        peer,
        connected_at_ms: 1_700_000_000_000,
        address: format!("192.0.2.{}:4000", peer % 250),
        protocol: "sv1".into(),
        user_agent: Some(agent.into()),
        ..Peer::default()
    })
}

fn block(hash: String, state: BlockState) -> Event {
    Event::Block(Block {
        hash,
        height: 870_000,
        found_at_ms: 1_700_000_000_000,
        account: "alice".into(),
        worker: HOSTILE.into(),
        reward: Some(312_500_000),
        state,
        confirmations: 3,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anything_is_known_every_page_says_so() {
    let (_database, service) = pool().await;
    for path in POOL {
        page(&service, path).await;
    }
    for asset in ["/style.css", "/script.js", "/icon.svg"] {
        assert_eq!(service.get(asset).await.0, 200, "{asset}");
    }
    assert!(page(&service, "/").await.contains("Waiting for a pool"));
    assert!(page(&service, "/").await.contains("No chart yet"));
    assert!(page(&service, "/workers").await.contains("No worker yet"));
    service.stop().await;
    let (_database, service) = proxy().await;
    for path in PROXY {
        page(&service, path).await;
    }
    let connect = page(&service, "/connect").await;
    assert!(connect.contains("not known yet where miners connect"));
    for path in [
        "/workers",
        "/nothing",
        "/miners/translator/a/1",
        "/api/v1/none",
    ] {
        assert_eq!(service.get(path).await.0, 404, "{path}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_of_senders_is_text_wherever_it_is_shown() {
    let (_database, service) = pool().await;
    let (mut client, _) = Client::connect(service.address, &hello(HOSTILE, "1")).await;
    let state = ServiceState {
        problems: vec![HOSTILE.into()],
        endpoints: vec![Endpoint {
            protocol: HOSTILE.into(),
            address: HOSTILE.into(),
            authority_public_key: None,
        }],
        counters: stats_events::Counters {
            rejected: [(HOSTILE.into(), 3)].into(),
            ..counters(7)
        },
        ..ServiceState::default()
    };
    let told = [
        Event::Service(state),
        miner(1, HOSTILE),
        peer(1, 5),
        worker(1, HOSTILE, 5),
        block(HOSTILE.into(), BlockState::Found),
        block("ab".repeat(32), BlockState::Confirmed),
        Event::Template(Template {
            height: 870_001,
            previous_block: HOSTILE.into(),
            received_at_ms: 1_700_000_000_000,
            source: HOSTILE.into(),
            ..Template::default()
        }),
    ];
    for (sequence, event) in (1..).zip(told) {
        client.tell(sequence, event).await;
    }
    client.acked(7).await;
    let sender = "pool/%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%3E%3Cimg%20src%3Dx%20onerror%3D'alert(1)'%3E%26amp%3B";
    let one = format!("/peers/{sender}/1");
    let found = "/workers?q=%3Cscript%3E";
    for path in POOL.iter().copied().chain([&*one, found]) {
        let page = page(&service, path).await;
        for evil in ["<script>alert", "<img", "onerror='"] {
            assert!(!page.contains(evil), "{path}: {page}");
        }
        let shown = path == "/api" || page.contains("&#60;script&#62;");
        assert!(shown, "{path}: {page}");
    }
    let workers = json(&service, "/api/v1/workers").await;
    assert_eq!(workers["rows"][0]["worker"], HOSTILE);
    let (_, head, _) = ask(&service, "/api/v1/workers", "").await;
    assert!(head.contains("content-type: application/json"));
    assert!(head.contains("x-content-type-options: nosniff"));
    assert!(head.contains("default-src 'none'"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_shown_with_its_channels() {
    let (_database, service) = pool().await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    let connected = Event::PeerConnected(Peer {
        peer: 1,
        connected_at_ms: 1_700_000_000_000,
        address: "192.0.2.1:4000".into(),
        protocol: "sv2-mining".into(),
        ..Peer::default()
    });
    client.tell(1, connected).await;
    let state = PeerState {
        peer: 1,
        channels: 2,
        counters: counters(12),
        ..PeerState::default()
    };
    client.tell(2, Event::Peer(state)).await;
    for (sequence, channel, name) in [(3, 8, "a"), (4, 8, HOSTILE), (5, 9, "a")] {
        let state = WorkerState {
            peer: 1,
            channel,
            account: "alice".into(),
            worker: name.into(),
            since_ms: 1_700_000_000_000,
            difficulty: Some(f64::from(channel)),
            counters: counters(4),
            ..WorkerState::default()
        };
        client.tell(sequence, Event::Worker(state)).await;
    }
    client.acked(5).await;
    let shown = json(&service, "/api/v1/peers/pool/main/1").await;
    let channels = shown["open_channels"].as_array().unwrap();
    assert_eq!(channels.len(), 2);
    assert_eq!(channels[0]["channel"], 8);
    assert_eq!(channels[0]["workers"].as_array().unwrap().len(), 2);
    assert_eq!(channels[0]["shares"]["accepted"], 8);
    assert_eq!(channels[1]["difficulty"], 9.0);
    assert!(channels[1]["hashrate"]["ten_minutes"].as_f64().unwrap() > 0.0);
    let shown = page(&service, "/peers/pool/main/1").await;
    assert!(shown.contains("<h2>Channels</h2>") && !shown.contains("<img"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_had_no_room_for_is_shown() {
    let (_database, service) = pool().await;
    let state = |dropped_events| {
        Event::Service(ServiceState {
            dropped_events,
            ..ServiceState::default()
        })
    };
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    client.tell(1, state(40_000)).await;
    client.acked(1).await;
    drop(client);
    service.until_link("main", Link::Down).await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "2")).await;
    client.tell(1, state(2)).await;
    client.acked(1).await;
    let services = json(&service, "/api/v1/services").await;
    assert_eq!(services[0]["dropped_events"], 40_002);
    let shown = page(&service, "/services").await;
    assert!(shown.contains("Events it had no room for"), "{shown}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_workers_are_found_sorted_and_turned_by_pages() {
    const WORKERS: u64 = 10_000;
    let (_database, service) = pool().await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    for number in 1..=WORKERS {
        let event = Event::Worker(WorkerState {
            peer: 1 + number % 50,
            account: format!("account{}", number % 10),
            worker: format!("rig{number:05}"),
            since_ms: 1_700_000_000_000,
            counters: counters(number),
            ..WorkerState::default()
        });
        client.tell(number, event).await;
    }
    client.acked(WORKERS).await;
    let workers = json(&service, "/api/v1/workers?sort=-accepted&page=2").await;
    assert_eq!(workers["total"], WORKERS);
    assert_eq!(workers["pages"], 100);
    assert_eq!(workers["rows"].as_array().unwrap().len(), 100);
    assert_eq!(workers["rows"][0]["worker"], "rig09900");
    let found = json(&service, "/api/v1/workers?q=RIG0123&sort=name").await;
    assert_eq!(found["total"], 10);
    assert_eq!(found["rows"][0]["worker"], "rig01230");
    let shown = page(&service, "/workers?q=rig0123&sort=-accepted").await;
    assert!(shown.contains("rig01239") && shown.contains("10 found"));
    let last = page(&service, "/workers?sort=name&page=100").await;
    assert!(last.contains("Page 100 of 100") && last.contains("account9"));
    let accounts = json(&service, "/api/v1/accounts?sort=-accepted").await;
    assert_eq!(accounts["total"], 10);
    // The sum of all whose number ends with 0, to 10,000.
    assert_eq!(accounts["rows"][0]["account"], "account0");
    assert_eq!(accounts["rows"][0]["shares"]["accepted"], 5_005_000);
    assert_eq!(accounts["rows"][0]["workers_active"], 1000);
    let found = page(&service, "/accounts?q=ACCOUNT7").await;
    assert!(
        found.contains("1 found") && found.contains("of 1,000"),
        "{found}"
    );
    assert_eq!(service.get("/api/v1/workers?sort=size").await.0, 400);
    assert_eq!(service.get("/api/v1/workers?page=0").await.0, 400);
    assert_eq!(service.get("/workers?page=x&sort=y").await.0, 200);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workers_of_an_account_are_those_that_its_row_adds_up() {
    let (_database, service) = pool().await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    for (sequence, account) in (1..).zip(["alice", "alice2", "malice", "Alice", "a.b&c"]) {
        let event = Event::Worker(WorkerState {
            peer: sequence,
            account: account.into(),
            worker: "rig".into(),
            counters: counters(sequence),
            ..WorkerState::default()
        });
        client.tell(sequence, event).await;
    }
    client.acked(5).await;
    assert!(
        page(&service, "/accounts")
            .await
            .contains("/workers?account=alice\"")
    );
    let found = json(&service, "/api/v1/workers?account=alice").await;
    assert_eq!(found["total"], 1);
    assert_eq!(found["rows"][0]["account"], "alice");
    let found = json(&service, "/api/v1/workers?account=a%2Eb%26c&q=RIG").await;
    assert_eq!(found["total"], 1);
    let shown = page(&service, "/workers?account=alice&sort=name").await;
    assert!(shown.contains("1 found of the account alice"), "{shown}");
    // It stays when the order is turned round.
    assert!(
        shown.contains("/workers?sort=-name&#38;account=alice"),
        "{shown}"
    );
    assert_eq!(json(&service, "/api/v1/workers?q=alice").await["total"], 4);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_has_gone_is_shown_as_down_with_what_was_seen_last() {
    let (_database, service) = pool().await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    client.tell(1, support::service(10)).await;
    client.tell(2, worker(1, "rig", 10)).await;
    client.acked(2).await;
    let services = json(&service, "/api/v1/services").await;
    assert_eq!(services[0]["status"], "ready");
    assert_eq!(services[0]["shares"]["accepted"], 10);
    drop(client);
    service.until_link("main", Link::Down).await;
    let shown = page(&service, "/").await;
    assert!(shown.contains("pool main is down; it was last heard"));
    assert!(shown.contains("<p class=\"alarm bad\"><span class=\"badge bad\">down</span>"));
    assert!(page(&service, "/workers").await.contains("class=\"old\""));
    assert_eq!(
        json(&service, "/api/v1/services").await[0]["status"],
        "down"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_shows_its_miners_its_upstreams_and_how_to_connect() {
    let (_database, service) = proxy().await;
    let (mut client, _) = Client::connect(service.address, &translator("main")).await;
    let endpoint = |protocol: &str, address: &str| Endpoint {
        protocol: protocol.into(),
        address: address.into(),
        authority_public_key: None,
    };
    let state = ServiceState {
        ready: true,
        endpoints: vec![
            endpoint("sv1", "0.0.0.0:34255"),
            endpoint("sv1-tls", "192.0.2.9:34256"),
        ],
        counters: counters(5),
        ..ServiceState::default()
    };
    client.tell(1, Event::Service(state)).await;
    client.tell(2, miner(1, "cgminer/4.12")).await;
    client.tell(3, peer(1, 5)).await;
    client.tell(4, worker(1, "rig", 5)).await;
    let upstream = UpstreamState {
        address: "pool.example:34254".into(),
        health: "failing".into(),
        last_error: Some("refused".into()),
        ..UpstreamState::default()
    };
    client.tell(5, Event::Upstream(upstream)).await;
    client.acked(5).await;
    let miners = page(&service, "/miners").await;
    assert!(miners.contains("alice.rig") && miners.contains("cgminer/4.12"));
    let one = page(&service, "/miners/translator/main/1").await;
    assert!(one.contains("alice.rig") && one.contains("192.0.2.1:4000"));
    let upstreams = page(&service, "/upstreams").await;
    assert!(upstreams.contains("failing") && upstreams.contains("refused"));
    let (_, _, connect) = ask(&service, "/connect", "").await;
    assert!(
        connect.contains("stratum+tcp://pool.lan:34255"),
        "{connect}"
    );
    assert!(connect.contains("stratum+ssl://192.0.2.9:34256"));
    assert!(connect.contains("role=\"img\" aria-label=\"QR code"));
    let peer = json(&service, "/api/v1/peers/translator/main/1").await;
    assert_eq!(peer["workers"][0], "alice.rig");
    assert_eq!(peer["lifetime"]["accepted"], 5);
    let none = json(&service, "/api/v1/hashrate?range=7d").await;
    assert_eq!(none["range"], "7d");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_of_the_document_is_answered() {
    let (_database, service) = pool().await;
    let document = json(&service, "/api/v1/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 10);
    for path in paths.keys() {
        let path = path
            .replace("{role}", "pool")
            .replace("{service}", "x")
            .replace("{id}", "1");
        let (status, body) = service.get(&path).await;
        assert_ne!(status, 500, "{path}");
        // What is not there is said in JSON; what is no path at all says something else.
        assert!(!body.contains("no such path"), "{path}: {body}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_anything_without_the_secret() {
    let database = Database::sqlite();
    let mut config = config(&database);
    config.web.token = Some("open sesame".into());
    let service = Service::run(config).await;
    for path in [
        "/",
        "/workers",
        "/api/v1/workers",
        "/events",
        "/style.css",
        "/nothing",
    ] {
        let (status, head, body) = ask(&service, path, "").await;
        assert_eq!(status, 401, "{path}");
        assert!(head.contains("www-authenticate: basic"), "{path}");
        assert!(!body.contains("html"), "{path}");
    }
    let bearer = "Authorization: Bearer open sesame\r\n";
    assert_eq!(ask(&service, "/", bearer).await.0, 200);
    let basic = "Authorization: Basic YW5uYTpvcGVuIHNlc2FtZQ==\r\n";
    assert_eq!(ask(&service, "/api/v1/overview", basic).await.0, 200);
    let wrong = "Authorization: Bearer open\r\n";
    assert_eq!(ask(&service, "/", wrong).await.0, 401);
    assert_eq!(service.get("/healthz").await.0, 200);
    service.stop().await;
}

#[test]
fn pages_for_other_machines_need_a_secret_or_a_word() {
    let mut config = Config::<TestRole> {
        http_address: "0.0.0.0:8081".parse().unwrap(),
        ..Config::default()
    };
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("web.token"), "{error}");
    config.web.open = true;
    config.validate().unwrap();
    config.web.open = false;
    config.web.token = Some("x".into());
    config.validate().unwrap();
    config.web.block_url = Some("javascript:{hash}".into());
    assert!(config.validate().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_told_when_something_has_changed() {
    let (_database, service) = pool().await;
    let mut stream = TcpStream::connect(service.http).await.unwrap();
    let request = "GET /events HTTP/1.1\r\nHost: test\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    client.tell(1, support::service(1)).await;
    let mut said = String::new();
    let told = async {
        while !said.contains("event: changed") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    timeout(Duration::from_secs(30), told).await.unwrap();
    assert!(said.contains("text/event-stream"), "{said}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_lead_to_an_explorer_where_there_is_one() {
    let (_database, service) = pool().await;
    let network = |network: &str| Hello {
        network: Some(network.into()),
        ..hello(network, "1")
    };
    for (name, digit) in [("mainnet", "a"), ("regtest", "b")] {
        let (mut client, _) = Client::connect(service.address, &network(name)).await;
        client
            .tell(1, block(digit.repeat(64), BlockState::Accepted))
            .await;
        client.acked(1).await;
    }
    let blocks = json(&service, "/api/v1/blocks").await;
    let url = |digit: &str| {
        let rows = blocks["rows"].as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["hash"] == digit.repeat(64));
        rows.next().unwrap()["url"].clone()
    };
    assert_eq!(
        url("a"),
        format!("https://mempool.space/block/{}", "a".repeat(64))
    );
    assert_eq!(url("b"), Value::Null);
    assert_eq!(blocks["total"], 2);
    service.stop().await;
}
