//! The pages in a real browser: headless Chromium, where it is installed, draws each of them wide and narrow, light and dark.
//! The pictures are in `target/tmp/pages`, to be looked at.
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
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stats_events::{Endpoint, Event, Peer, ServiceState, Template, UpstreamState, WorkerState};
use support::{Client, Database, Service, counters, hello, peer};
use tokio::task::spawn_blocking;

const PAGES: [&str; 7] = [
    "/",
    "/peers",
    "/peers/pool/main/2",
    "/workers",
    "/blocks",
    "/services",
    "/api",
];

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The first bytes of every PNG file.
const PNG: &[u8] = b"\x89PNG";

fn browser() -> Option<&'static str> {
    BROWSERS.into_iter().find(|name| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(Stdio::null());
        let status = version.stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    })
}

/// Draws a page, and gives what the browser has made of it.
fn draw(browser: &str, url: &str, picture: &Path, width: u32, dark: bool) -> Vec<u8> {
    let profile = tempfile::tempdir().unwrap();
    let status = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},1400"))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!dark)
        ))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{url}: {status}");
    std::fs::read(picture).unwrap()
}

async fn tell(client: &mut Client, now_ms: u64) {
    let mut sequence = 0;
    let mut events = vec![
        Event::Service(ServiceState {
            ready: true,
            endpoints: vec![Endpoint {
                protocol: "sv2-mining".into(),
                address: "0.0.0.0:34254".into(),
                authority_public_key: None,
            }],
            counters: counters(90_000),
            ..ServiceState::default()
        }),
        Event::Template(Template {
            height: 871_234,
            previous_block: "00".repeat(32),
            received_at_ms: now_ms,
            tip_at_ms: now_ms - 60_000,
            nbits: 0x1702_5105,
            ..Template::default()
        }),
        Event::Upstream(UpstreamState {
            address: "pool.example:34254".into(),
            health: "healthy".into(),
            ..UpstreamState::default()
        }),
    ];
    for number in 1..=30 {
        events.push(Event::PeerConnected(Peer {
            peer: number,
            connected_at_ms: now_ms - 3_600_000,
            address: format!("192.0.2.{number}:4000"),
            protocol: "sv2-mining".into(),
            vendor: Some("<script>document.title='broken'</script>".into()),
            ..Peer::default()
        }));
        events.push(peer(number, 1000 * number));
        events.push(Event::Worker(WorkerState {
            peer: number,
            account: "alice".into(),
            worker: format!("<img src=x onerror=\"document.title='broken'\">{number}"),
            since_ms: now_ms - 3_600_000,
            counters: counters(1000 * number),
            ..WorkerState::default()
        }));
    }
    for event in events {
        sequence += 1;
        client.tell(sequence, event).await;
    }
    client.acked(sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_draws_every_page() {
    let Some(browser) = browser() else {
        eprintln!("no Chromium here: the pages are not drawn");
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    let database = Database::sqlite().unwrap();
    let service = Service::start(&database).await;
    let (mut client, _) = Client::connect(service.address, &hello("main", "1")).await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    tell(&mut client, u64::try_from(now.as_millis()).unwrap()).await;
    for path in PAGES {
        for (width, dark) in [(1600, false), (1600, true), (360, false), (360, true)] {
            let name = path.trim_matches('/').replace('/', "-");
            let name = if name.is_empty() { "overview" } else { &name };
            let scheme = if dark { "dark" } else { "light" };
            let picture = folder.join(format!("{name}-{width}-{scheme}.png"));
            let url = format!("http://{}{path}", service.http);
            let drawn = spawn_blocking(move || draw(browser, &url, &picture, width, dark));
            let drawn = drawn.await.unwrap();
            assert!(
                drawn.starts_with(PNG) && drawn.len() > 5000,
                "{path} {width} {scheme}"
            );
        }
    }
    service.stop().await;
}
