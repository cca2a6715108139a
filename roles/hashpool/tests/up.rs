//! `hashpool up` as somebody who tries it out meets it.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use support::{FREE_PORTS, Miner, Up, get, hashpool, json, place, until};

#[test]
fn it_mines_blocks_out_of_the_box_and_stops_with_totals() {
    let data = tempfile::tempdir().unwrap();
    let mut up = Up::start(
        data.path(),
        &[&["--threads", "1"][..], &FREE_PORTS].concat(),
    );
    for role in ["pool-stats", "proxy-stats"] {
        let pages = place(&mut up, role);
        assert!(get(&pages, "/").starts_with("<!doctype html>"), "{role}");
    }
    for role in ["pool", "translator"] {
        up.wait_for(|line| line.contains("http://127.0.0.1:") && line.contains(role));
    }
    up.wait_for(|line| line.contains("point a miner at stratum+tcp://127.0.0.1:"));
    up.wait_for(|line| line.contains(" found: "));
    let status = up.wait_for(|line| line.contains("  shares ") && !line.contains("  shares 0 "));
    assert!(status.contains(" 0 lost"), "{status}");
    up.signal("INT");
    let (status, stderr) = up.ended();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let totals = up.seen.last().unwrap();
    assert!(totals.starts_with("stopped after "), "{totals}");
    assert!(!totals.contains(" 0 shares accepted"), "{totals}");
    assert!(!stderr.contains("ERROR"), "{stderr}");
}

/// Accepted shares and work by account and worker, as `hashpool ledger` prints them.
fn booked(data: &Path) -> Vec<(String, u64, String)> {
    let folder = format!("data_dir={}", data.join("pool").display());
    let printed = hashpool()
        .args(["ledger", "--set", &folder, "--format", "csv"])
        .output()
        .unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let columns = rows.headers().unwrap().clone();
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap();
    let (account, worker) = (column("account"), column("worker"));
    let (shares, work) = (column("shares"), column("work"));
    rows.records()
        .map(|row| {
            let row = row.unwrap();
            let name = format!("{}.{}", &row[account], &row[worker]);
            (name, row[shares].parse().unwrap(), row[work].to_owned())
        })
        .collect()
}

/// The same as a stats service has them.
fn shown(pages: &str, list: &str) -> Vec<(String, u64, String)> {
    let rows = json(pages, list)["rows"].as_array().unwrap().clone();
    let row = |row: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name = format!("{}.{}", text(&row["account"]), text(&row["worker"]));
        let shares = &row["shares"];
        (
            name,
            shares["accepted"].as_u64().unwrap(),
            text(&shares["work"]),
        )
    };
    rows.iter().map(row).collect()
}

#[test]
fn its_pages_show_the_miner_its_blocks_and_what_the_ledger_holds() {
    let data = tempfile::tempdir().unwrap();
    let arguments = [&["--threads", "0"][..], &FREE_PORTS].concat();
    let mut up = Up::start(data.path(), &arguments);
    let places = ["translator", "pool-stats", "proxy-stats"].map(|role| place(&mut up, role));
    let [translator, pool, proxy] = &places;
    let miner = Miner::start(translator, "alice.rig");

    let block = until("a block in the API of pool-stats", || {
        let blocks = json(pool, "/api/v1/blocks");
        let block = blocks["rows"].as_array()?.last()?.clone();
        (block["state"] == "confirmed" || block["state"] == "accepted").then_some(block)
    });
    let hash = block["hash"].as_str().unwrap();
    assert_eq!(
        (&block["account"], &block["worker"]),
        (&"alice".into(), &"rig".into())
    );
    assert!(get(pool, "/blocks").contains(hash));
    assert!(get(pool, "/").contains("Latest blocks"));
    // Blocks are told as they happen, the rest at the next look.
    until("the miner on both pages", || {
        let miners = get(proxy, "/miners");
        let is_there = miners.contains("alice.rig") && miners.contains("hashpool-miner");
        (is_there && get(pool, "/workers").contains("alice")).then_some(())
    });
    for (pages, service) in [(pool, "pool_stats"), (proxy, "proxy_stats")] {
        let metrics = get(pages, "/metrics");
        let up = format!("hashpool_{service}_senders{{link=\"up\"}} 1");
        assert!(metrics.contains(&up), "{metrics}");
    }

    let metrics = get(pool, "/metrics");
    let of_blocks = |line: &&str| line.starts_with("hashpool_pool_blocks{");
    let counts = metrics.lines().filter(of_blocks);
    let blocks: u64 = counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(blocks > 0, "{metrics}");

    drop(miner);
    let ledger = until("the same in the ledger and on both pages", || {
        let ledger = booked(data.path());
        let workers = shown(pool, "/api/v1/workers");
        let accepted: u64 = ledger.iter().map(|(_, shares, _)| shares).sum();
        let of_proxy = json(proxy, "/api/v1/overview")["shares"]["accepted"].as_u64();
        let same = workers == ledger && of_proxy == Some(accepted);
        (same && accepted > 0).then_some(ledger)
    });
    assert_eq!(ledger[0].0, "alice.rig");
    let overview = json(pool, "/api/v1/overview");
    assert_eq!(overview["shares"]["accepted"], ledger[0].1);
    assert_eq!(overview["shares"]["work"], *ledger[0].2);

    up.signal("INT");
    let (status, stderr) = up.ended();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("ERROR"), "{stderr}");
}

#[test]
fn a_taken_port_of_a_stats_service_is_replaced_and_two_stacks_run_beside_each_other() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // What was needed for a second stack before there were stats services: their usual ports are left to it.
    let arguments = [&["--threads", "0"][..], &FREE_PORTS[..8]].concat();
    let mut stacks = folders
        .each_ref()
        .map(|folder| Up::start(folder.path(), &arguments));
    let pages = stacks.each_mut().map(|up| place(up, "pool-stats"));
    assert_ne!(pages[0], pages[1]);
    for pages in &pages {
        until("the stack's own pool, and no other", || {
            let services = json(pages, "/api/v1/services");
            let services = services.as_array()?;
            (services.len() == 1 && services[0]["status"] == "ready").then_some(())
        });
    }
}

#[test]
fn a_second_stack_on_the_same_data_is_refused_and_costs_the_first_nothing() {
    let data = tempfile::tempdir().unwrap();
    let arguments = [&["--threads", "0"][..], &FREE_PORTS].concat();
    let mut first = Up::start(data.path(), &arguments);
    let pages = place(&mut first, "pool-stats");
    let (status, stderr) = Up::start(data.path(), &arguments).ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--data"), "{stderr}");
    get(&pages, "/healthz");
    first.signal("INT");
    let (status, stderr) = first.ended();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn a_port_in_use_ends_it_with_the_port_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let set = format!("translator.listen_address={address}");
    let arguments = [
        "--set",
        "pool.listen_address=127.0.0.1:0",
        "--set",
        "pool.http_address=off",
        "--set",
        &set,
    ];
    let (status, stderr) = Up::start(data.path(), &arguments).ended();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in [address.as_str(), "--set translator.listen_address="] {
        assert!(stderr.contains(part), "{part} not in {stderr}");
    }
}

#[test]
fn a_key_of_no_role_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (status, stderr) = Up::start(data.path(), &["--set", "listen_address=127.0.0.1:1"]).ended();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("pool.listen_address"), "{stderr}");
}

#[test]
fn a_node_that_is_no_url_is_refused_without_printing_it() {
    let data = tempfile::tempdir().unwrap();
    let (status, stderr) = Up::start(data.path(), &["--node", "me:hunter2@host"]).ended();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--node") && !stderr.contains("hunter2"),
        "{stderr}"
    );
}
