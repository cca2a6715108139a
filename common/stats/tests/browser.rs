//! The pages in a real browser, Chromium where it is installed: what they look like, whom they shut out, and what their script
//! does. The pictures are in `target/tmp/pages`, to be looked at.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "other tests need the rest"
)]
mod support;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use browser::{Browser, Look};
use stats::receiver::{Config, Expected, Role};
use stats::state::Link;
use stats::web::Kind;
use stats_events::{
    Block, BlockState, Counters, Endpoint, Event, Hello, Peer, PeerState, ServiceState, Template,
    UpstreamState, Work, WorkerState,
};
use support::{Client, Database, Service, counters, hello};
use tokio::task::block_in_place;

const POOL: [(&str, &str); 9] = [
    ("overview", "/"),
    ("overview-week", "/?range=7d"),
    ("peers", "/peers"),
    ("peer", "/peers/pool/main/2"),
    ("workers", "/workers"),
    ("accounts", "/accounts"),
    ("blocks", "/blocks"),
    ("services", "/services"),
    ("api", "/api"),
];

const PROXY: [(&str, &str); 7] = [
    ("overview", "/"),
    ("miners", "/miners"),
    ("miner", "/miners/translator/farm/2"),
    ("upstreams", "/upstreams"),
    ("connect", "/connect"),
    ("services", "/services"),
    ("api", "/api"),
];

#[derive(Debug, Clone, Copy)]
struct PoolRole;

impl Role for PoolRole {
    const NAME: &str = "pool-stats";
    const METRICS: &str = "pool_stats";
    const PORT: u16 = 0;
    const HTTP_PORT: u16 = 0;
    const ROLES: &[&str] = &["pool"];
    const PAGES: Kind = Kind::Pool;
}

#[derive(Debug, Clone, Copy)]
struct ProxyRole;

impl Role for ProxyRole {
    const NAME: &str = "proxy-stats";
    const METRICS: &str = "proxy_stats";
    const PORT: u16 = 0;
    const HTTP_PORT: u16 = 0;
    const ROLES: &[&str] = &["translator"];
    const PAGES: Kind = Kind::Proxy;
}

fn config<R: Role>(database: &Database) -> Config<R> {
    Config {
        storage: support::config(database).storage,
        ..Config::default()
    }
}

fn folder(set: &str) -> PathBuf {
    browser::folder(env!("CARGO_TARGET_TMPDIR"), set)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn translator() -> Hello {
    Hello {
        role: "translator".into(),
        ..hello("farm", "1")
    }
}

fn endpoint(protocol: &str, address: &str, key: Option<&str>) -> Endpoint {
    Endpoint {
        protocol: protocol.into(),
        address: address.into(),
        authority_public_key: key.map(str::to_owned),
    }
}

/// Thirty machines of a farm, some of them with trouble, and one whose name is an attack.
fn machines(kind: Kind, now_ms: u64) -> Vec<Event> {
    const AGENTS: [&str; 4] = [
        "bmminer/2.0.0/Antminer S21/73",
        "cgminer/4.12.0",
        "bitaxe/BM1370/v2.9.0",
        "whatsminer/v1.1",
    ];
    const VENDORS: [&str; 4] = [
        "hashpool hashpool-translator/0.1.0",
        "hashpool hashpool-translator/0.1.0",
        "SRI Translator Proxy",
        "Braiins bosminer",
    ];
    const ACCOUNTS: [&str; 3] = [
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        "alice",
        "farm-north",
    ];
    let mut events = Vec::new();
    for number in 1..=30_u64 {
        let counters = Counters {
            submitted: 4103 * number,
            accepted: 4100 * number,
            rejected: [
                ("job-not-found".to_owned(), 2),
                ("duplicate-share".to_owned(), 1),
            ]
            .into(),
            lost: [("outcome-unknown".to_owned(), number % 3)].into(),
            work: Work(u128::from(number) * 3600 * 111_000_000_000_000),
            last_share_ms: Some(now_ms - 700 * number),
        };
        let difficulty = Some(65_536.0 * f64::from(u32::try_from(number).unwrap()));
        events.push(Event::PeerConnected(Peer {
            peer: number,
            connected_at_ms: now_ms - 3_600_000 * number,
            address: format!("192.0.2.{number}:40{number:02}"),
            port: 34_255,
            protocol: if kind == Kind::Pool {
                "sv2-mining"
            } else {
                "sv1"
            }
            .into(),
            user_agent: (kind == Kind::Proxy)
                .then(|| AGENTS[usize::try_from(number % 4).unwrap()].into()),
            vendor: (kind == Kind::Pool)
                .then(|| VENDORS[usize::try_from(number % 4).unwrap()].into()),
            ..Peer::default()
        }));
        events.push(Event::Peer(PeerState {
            peer: number,
            channels: u32::from(kind == Kind::Pool) * 3,
            difficulty,
            counters: counters.clone(),
        }));
        events.push(Event::Worker(WorkerState {
            peer: number,
            account: ACCOUNTS[usize::try_from(number % 3).unwrap()].into(),
            worker: match number {
                7 => "<img src=x onerror=\"document.title='broken'\">".into(),
                number => format!("rack{}-{number:02}", number % 4),
            },
            since_ms: now_ms - 3_600_000 * number,
            difficulty,
            counters,
            ..WorkerState::default()
        }));
    }
    events
}

fn of_the_pool(now_ms: u64) -> Vec<Event> {
    let mut events = vec![Event::Template(Template {
        height: 871_234,
        previous_block: format!(
            "{}1a2b3c4d5e6f708192a3b4c5d6e7f809{}",
            "0".repeat(20),
            "a".repeat(12)
        ),
        received_at_ms: now_ms - 12_000,
        tip_at_ms: now_ms - 260_000,
        nbits: 0x1702_5105,
        transactions: Some(3211),
        reward: Some(318_204_512),
        source: "bitcoin-rpc http://127.0.0.1:8332".into(),
    })];
    let states = [
        BlockState::Confirmed,
        BlockState::Orphaned,
        BlockState::Accepted,
        BlockState::Refused,
        BlockState::Found,
        BlockState::Unknown,
    ];
    for (number, state) in (1..).zip(states) {
        events.push(Event::Block(Block {
            hash: format!("{}{number}{}", "0".repeat(19), "b7".repeat(22)),
            height: 871_000 + number,
            found_at_ms: now_ms - 86_400_000 / number,
            account: "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4".into(),
            worker: format!("rack1-{number:02}"),
            reward: Some(312_500_000 + 1_234_567 * number),
            state,
            confirmations: if state == BlockState::Confirmed {
                142
            } else {
                0
            },
        }));
    }
    events
}

fn of_the_proxy(now_ms: u64) -> Vec<Event> {
    let upstream = |order, address: &str, health: &str, last_error: Option<&str>| {
        Event::Upstream(UpstreamState {
            order,
            address: address.into(),
            health: health.into(),
            connections: u32::from(health == "healthy") * 2,
            last_error: last_error.map(str::to_owned),
            since_ms: Some(now_ms - 7_200_000),
        })
    };
    let refused = "cannot connect to pool-b.example:34254: Connection refused (os error 111)";
    vec![
        upstream(0, "pool-a.example:34254", "healthy", None),
        upstream(1, "pool-b.example:34254", "failing", Some(refused)),
        upstream(2, "pool-c.example:34254", "never-tried", None),
    ]
}

fn service_state(kind: Kind) -> Event {
    let key = "9auqWEzQDVyd2oe1JVGFLMLHZtCo2FFqZwtKA5gd9xbuEu7PH72";
    let endpoints = match kind {
        Kind::Pool => vec![endpoint("sv2-mining", "0.0.0.0:34254", Some(key))],
        Kind::Proxy => vec![
            endpoint("sv1", "0.0.0.0:34255", None),
            endpoint("sv1-tls", "192.0.2.9:34256", None),
        ],
    };
    Event::Service(ServiceState {
        ready: true,
        endpoints,
        counters: Counters {
            submitted: 1_908_045,
            accepted: 1_907_950,
            rejected: [
                ("job-not-found".to_owned(), 60),
                ("duplicate-share".to_owned(), 30),
            ]
            .into(),
            lost: [("outcome-unknown".to_owned(), 5)].into(),
            work: Work(30 * 86_400 * 30 * 111_000_000_000_000),
            last_share_ms: Some(now_ms() - 700),
        },
        ..ServiceState::default()
    })
}

async fn tell(client: &mut Client, events: Vec<Event>) {
    client.at_ms = now_ms();
    let mut last = 0;
    for (number, event) in (1..).zip(events) {
        client.tell(number, event).await;
        last = number;
    }
    client.acked(last).await;
}

/// A month of everybody's work, as if the service had been there to see it.
async fn backfill(database: &Database) {
    for (seconds, count) in [(60, 60), (600, 143), (3600, 720)] {
        let end = now_ms() / 1000 / seconds * seconds * 1000;
        let statement = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT OR REPLACE INTO samples
             SELECT series, {seconds}, {end} - {seconds} * 1000 * i,
                    {seconds} * 1e12 * (90 + (i * i * 31 + i * 17 + series) % 23 + 20.0 * (i % 48) / 48)
                        * CASE WHEN subject LIKE '_sender_' THEN 30 ELSE 1 END
             FROM n, series"
        );
        database.execute(&statement).await;
    }
}

/// A service that has seen a month go by.
async fn lively<R: Role>(database: &Database, hello: &Hello) -> (Service, Client) {
    let kind = R::PAGES;
    let now = now_ms();
    let hello = Hello {
        started_at_ms: now - 30 * 86_400_000,
        heartbeat_ms: 60_000,
        ..hello.clone()
    };
    let service = Service::run(config::<R>(database)).await;
    let (mut client, _) = Client::connect(service.address, &hello).await;
    let mut events = vec![service_state(kind)];
    events.extend(match kind {
        Kind::Pool => of_the_pool(now),
        Kind::Proxy => of_the_proxy(now),
    });
    events.extend(machines(kind, now));
    tell(&mut client, events).await;
    service.stop().await;
    backfill(database).await;
    let service = Service::run(config::<R>(database)).await;
    let (client, _) = Client::connect(service.address, &hello).await;
    (service, client)
}

/// Looks at a page on every screen; see [`Browser::inspect`].
fn inspect(
    browser: &mut Browser,
    service: &Service,
    folder: &Path,
    (name, path): (&str, &str),
) -> Vec<String> {
    browser.inspect(&format!("http://{}{path}", service.http), folder, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stumbles_over_the_pages_of_a_pool() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let (service, _client) = lively::<PoolRole>(&database, &hello("main", "1")).await;
    let folder = folder("pool");
    let wrong = POOL.map(|page| block_in_place(|| inspect(&mut browser, &service, &folder, page)));
    browser::nothing_wrong(&wrong.concat());
    assert_eq!(browser.complaints(), [""; 0]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stumbles_over_the_pages_of_a_proxy() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let (service, _client) = lively::<ProxyRole>(&database, &translator()).await;
    let folder = folder("proxy");
    let wrong = PROXY.map(|page| block_in_place(|| inspect(&mut browser, &service, &folder, page)));
    browser::nothing_wrong(&wrong.concat());
    assert_eq!(browser.complaints(), [""; 0]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stumbles_over_pages_with_nothing_on_them() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let mut wrong = Vec::new();
    let database = Database::sqlite();
    let service = Service::run(config::<PoolRole>(&database)).await;
    for page in [
        ("overview", "/"),
        ("peers", "/peers"),
        ("workers", "/workers"),
        ("blocks", "/blocks"),
        ("services", "/services"),
        ("nothing", "/nothing"),
        ("peer", "/peers/pool/main/9"),
    ] {
        wrong.extend(block_in_place(|| {
            inspect(&mut browser, &service, &folder("empty-pool"), page)
        }));
    }
    service.stop().await;
    let database = Database::sqlite();
    let service = Service::run(config::<ProxyRole>(&database)).await;
    for page in [
        ("overview", "/"),
        ("miners", "/miners"),
        ("upstreams", "/upstreams"),
        ("connect", "/connect"),
        ("miner", "/miners/translator/farm/9"),
    ] {
        wrong.extend(block_in_place(|| {
            inspect(&mut browser, &service, &folder("empty-proxy"), page)
        }));
    }
    browser::nothing_wrong(&wrong);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_is_seen_at_once_and_by_everybody() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let mut wrong = Vec::new();
    let database = Database::sqlite();
    let mut config = config::<PoolRole>(&database);
    config.expected = vec![Expected {
        role: "pool".into(),
        name: "second".into(),
    }];
    let service = Service::run(config).await;
    let quick = Hello {
        heartbeat_ms: 3000,
        ..hello("main", "1")
    };
    let (mut client, _) = Client::connect(service.address, &quick).await;
    let not_ready = Event::Service(ServiceState {
        ready: false,
        problems: vec!["the template source is away: connection refused".into()],
        counters: counters(7),
        ..ServiceState::default()
    });
    let mut events = vec![not_ready];
    events.extend(machines(Kind::Pool, now_ms()));
    tell(&mut client, events).await;
    service.until_link("main", Link::Stale).await;
    let url = format!("http://{}/", service.http);
    block_in_place(|| {
        browser.open(&url);
        let text = browser.text();
        assert!(
            text.contains("pool second is expected and has never connected"),
            "{text}"
        );
        assert!(
            text.contains("pool main is silent; it was last heard"),
            "{text}"
        );
        for page in [
            ("stale-overview", "/"),
            ("stale-workers", "/workers"),
            ("stale-services", "/services"),
        ] {
            wrong.extend(inspect(&mut browser, &service, &folder("trouble"), page));
        }
    });
    drop(client);
    service.until_link("main", Link::Down).await;
    block_in_place(|| {
        // By itself, on the page that is open.
        browser.open(&url);
        browser.until("document.body.innerText.includes('pool main is down; it was last heard')");
        for page in [("down-overview", "/"), ("down-services", "/services")] {
            wrong.extend(inspect(&mut browser, &service, &folder("trouble"), page));
        }
    });
    browser::nothing_wrong(&wrong);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_ten_thousand_workers_is_found_by_hand() {
    const WORKERS: u64 = 10_000;
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let service = Service::run(config::<PoolRole>(&database)).await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    let worker = |number| {
        Event::Worker(WorkerState {
            peer: 1 + number % 50,
            account: format!("account{}", number % 10),
            worker: format!("rig{number:05}"),
            since_ms: now_ms() - 60_000,
            counters: counters(number),
            ..WorkerState::default()
        })
    };
    tell(&mut client, (1..=WORKERS).map(worker).collect()).await;
    block_in_place(|| {
        browser.open(&format!("http://{}/workers", service.http));
        let first = "document.querySelector('tbody td')?.innerText.split('\\n')[0]";
        browser.value("[...document.querySelectorAll('th a')].find((a) => a.innerText === 'Accepted').click()");
        browser.until(&format!("{first} === 'rig10000'"));
        browser.value("document.querySelector('[rel=next]').click()");
        browser.until(&format!("{first} === 'rig09900'"));
        browser.value("document.querySelector('input[type=search]').focus()");
        browser.write("rig0123");
        browser.press("Enter");
        browser.until("document.querySelectorAll('tbody tr').length === 10");
        browser.until(&format!("{first} === 'rig01239'"));
        assert_eq!(
            browser.value("document.querySelector('input[type=search]').value"),
            "rig0123"
        );
        let wrong = inspect(
            &mut browser,
            &service,
            &folder("many"),
            ("workers", "/workers?sort=-accepted&page=2"),
        );
        browser::nothing_wrong(&wrong);
        // On a phone, too, the order can be changed.
        browser.look(Look::ALL[2]);
        browser.open(&format!("http://{}/workers", service.http));
        let sorts = browser.value(
            "[...document.querySelectorAll('th a')].filter((a) => a.checkVisibility()).length",
        );
        assert_eq!(sorts, 5);
    });
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_keeps_itself_up_to_date_without_a_reload() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let service = Service::run(config::<PoolRole>(&database)).await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    client.tell(1, support::service(1111)).await;
    client.acked(1).await;
    block_in_place(|| {
        browser.open(&format!("http://{}/", service.http));
        browser.until("document.body.innerText.includes('1,111')");
        // A page that is loaded again knows nothing of it.
        browser.value("window.untouched = true; document.querySelector('#live a').focus()");
    });
    client.tell(2, support::service(2222)).await;
    client.acked(2).await;
    block_in_place(|| {
        browser.until("document.body.innerText.includes('2,222')");
        assert_eq!(browser.value("window.untouched"), true);
        // Who is somewhere in the page stays there.
        assert_eq!(
            browser.value("document.activeElement.closest('#live') !== null"),
            true
        );
        assert_eq!(
            browser.value("document.getElementById('link').innerText"),
            "live"
        );
    });
    service.stop().await;
    block_in_place(|| {
        browser.until("document.getElementById('link').innerText === 'connection lost'");
        assert_eq!(browser.value("window.untouched"), true);
        assert!(browser.text().contains("2,222"));
        browser.picture(&folder("trouble").join("connection-lost.png"));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_the_readers_and_utc_without_a_script() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let (service, _client) = lively::<PoolRole>(&database, &hello("main", "1")).await;
    block_in_place(|| {
        let url = format!("http://{}/?range=1h", service.http);
        let as_of = "document.querySelector('.as-of time').innerText";
        let label = "document.querySelector('.foot text').textContent";
        let minutes = |text: &str| {
            let (hours, minutes) = text.split_once(':').unwrap();
            hours.parse::<u64>().unwrap() * 60 + minutes.parse::<u64>().unwrap()
        };
        browser.scripts(false);
        browser.open(&url);
        // Reading is no script of the page's.
        let utc = browser.value(label);
        let shown = browser.value(as_of);
        assert!(shown.as_str().unwrap().ends_with(" UTC"), "{shown}");
        browser.scripts(true);
        browser.open(&url);
        browser.until("document.getElementById('link').className === 'on'");
        let here = browser.value(label);
        let shown = browser.value(as_of);
        assert!(shown.as_str().unwrap().ends_with(" UTC+5:45"), "{shown}");
        let apart = minutes(here.as_str().unwrap()) + 1440 - minutes(utc.as_str().unwrap());
        // A minute may have ended between the two.
        assert!([345, 346].contains(&(apart % 1440)), "{utc} {here}");
        let block = browser.value("document.querySelector('td time').title");
        assert!(!block.as_str().unwrap().contains("UTC"), "{block}");
    });
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charts_values_are_told_by_pointer_and_by_keyboard() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let (service, _client) = lively::<ProxyRole>(&database, &translator()).await;
    block_in_place(|| {
        browser.open(&format!("http://{}/", service.http));
        let readout = "document.querySelector('.readout').textContent";
        let summary = browser.value(readout);
        assert!(
            summary
                .as_str()
                .unwrap()
                .starts_with("Hashrate over the last 24h"),
            "{summary}"
        );
        browser.point_at(".step:nth-of-type(100)");
        browser.until(&format!("/^[\\d.]+ PH\\/s · \\d{{4}}-/.test({readout})"));
        browser.picture(&folder("proxy").join("overview-pointed.png"));
        browser.point_at("h2");
        browser.until(&format!("{readout} === {summary}"));
        browser.value("document.querySelector('figure').focus()");
        browser.press("End");
        let last = browser.value(readout);
        browser.press("ArrowLeft");
        browser.until(&format!("{readout} !== {last} && {readout} !== {summary}"));
        browser.press("ArrowRight");
        browser.until(&format!("{readout} === {last}"));
        browser.press("Escape");
        browser.until(&format!("{readout} === {summary}"));
    });
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_no_motion_sees_none() {
    let Some(mut browser) = block_in_place(Browser::start) else {
        return;
    };
    let database = Database::sqlite();
    let service = Service::run(config::<PoolRole>(&database)).await;
    block_in_place(|| {
        browser.open(&format!("http://{}/", service.http));
        let moving = "[...document.querySelectorAll('*')].filter((element) => {
            const style = getComputedStyle(element);
            return style.transitionDuration !== '0s' || style.animationName !== 'none' || style.scrollBehavior === 'smooth';
        }).length";
        assert_ne!(browser.value(moving), 0);
        browser.media("prefers-reduced-motion", "reduce");
        assert_eq!(browser.value(moving), 0);
    });
    service.stop().await;
}
