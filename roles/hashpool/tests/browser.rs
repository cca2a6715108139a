//! The pages of both stats services in a real browser, Chromium where it is installed, with all of `hashpool up` behind them:
//! what somebody sees who tries it out. The pictures are in `target/tmp/pages/up`, to be looked at.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Instant;

use browser::{Browser, folder, nothing_wrong};
use support::{FREE_PORTS, Up, json, place, until};

/// Hashes per second of the miner.
const HASHRATE: f64 = 200_000.0;

/// No hashrate, or one that the work shown beside it can be. A machine that has no time for its miner makes both small; luck does
/// the same to both, and of luck alone there is no more than ten times what is tried.
fn no_nonsense(pages: &str, started: Instant) {
    let overview = json(pages, "/api/v1/overview");
    let seconds = started.elapsed().as_secs_f64();
    let work: f64 = overview["shares"]["work"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    for window in ["minute", "ten_minutes", "hour", "day"] {
        let Some(rate) = overview["hashrate"][window].as_f64() else {
            continue;
        };
        assert!(rate < HASHRATE * 10.0, "{window} of {pages}: {overview}");
        // A window that is shorter than all the time says nothing of the work before it.
        let is_all = window != "minute" || seconds < 60.0;
        let least = if is_all { work / seconds / 4.0 } else { 0.0 };
        assert!(
            rate >= least,
            "{window} of {pages}, {seconds} s: {overview}"
        );
    }
}

#[test]
fn the_pages_of_a_running_stack_show_its_miner_and_shut_nobody_out() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let miner = ["--threads", "1", "--hashrate", "200k"];
    // As it is by default: miners on other machines can connect.
    let open = ["--set", "translator.listen_address=0.0.0.0:0"];
    let arguments = [&miner[..], &FREE_PORTS, &open].concat();
    let started = Instant::now();
    let mut up = Up::start(data.path(), &arguments);
    let [pool, proxy] = ["pool-stats", "proxy-stats"].map(|role| place(&mut up, role));
    let url = up.wait_for(|line| line.contains("point a miner at "));
    let url = url.rsplit(' ').next().unwrap();

    // Somebody opens the first page before there is anything to see, and leaves it open.
    browser.open(&format!("http://{pool}/"));
    browser.value("window.untouched = true");
    until("a hashrate", || {
        no_nonsense(&pool, started);
        no_nonsense(&proxy, started);
        let blocks = json(&pool, "/api/v1/blocks")["total"].as_u64();
        let rate = json(&proxy, "/api/v1/overview")["hashrate"]["ten_minutes"].as_f64();
        (blocks > Some(0) && rate.is_some()).then_some(())
    });
    browser.until("/\\d kH\\/s/.test(document.querySelector('.big').innerText)");
    browser.until("document.body.innerText.includes('worker1')");
    assert_eq!(browser.value("window.untouched"), true);

    let peers = json(&pool, "/api/v1/peers");
    let peer = format!("/peers/pool/main/{}", peers["rows"][0]["id"]);
    let miners = json(&proxy, "/api/v1/peers");
    let miner = format!("/miners/translator/main/{}", miners["rows"][0]["id"]);
    let of_the_pool = [
        ("overview", "/"),
        ("peers", "/peers"),
        ("peer", &peer),
        ("workers", "/workers"),
        ("accounts", "/accounts"),
        ("blocks", "/blocks"),
        ("services", "/services"),
        ("api", "/api"),
    ];
    let of_the_proxy = [
        ("overview", "/"),
        ("miners", "/miners"),
        ("miner", &miner),
        ("upstreams", "/upstreams"),
        ("connect", "/connect"),
        ("services", "/services"),
        ("api", "/api"),
    ];
    let mut wrong = Vec::new();
    for (pages, set, all) in [
        (&pool, "pool", &of_the_pool[..]),
        (&proxy, "proxy", &of_the_proxy[..]),
    ] {
        let folder = folder(env!("CARGO_TARGET_TMPDIR"), &format!("up/{set}"));
        for (name, path) in all {
            wrong.extend(browser.inspect(&format!("http://{pages}{path}"), &folder, name));
        }
    }
    nothing_wrong(&wrong);
    assert_eq!(browser.complaints(), [""; 0]);

    for (path, shown) in [
        ("/miners", "hashpool-miner"),
        (&miner, "miner.worker1"),
        ("/upstreams", "healthy"),
        ("/connect", url),
    ] {
        browser.open(&format!("http://{proxy}{path}"));
        assert!(browser.text().contains(shown), "{path}: {}", browser.text());
    }
    browser.open(&format!("http://{proxy}/connect"));
    let code = browser.value("document.querySelector('.code').getAttribute('aria-label')");
    assert_eq!(code, format!("QR code of {url}"));
}
