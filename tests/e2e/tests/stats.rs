//! What a stats service shows is what the pool has in its ledger.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::collections::BTreeMap;

use e2e::{
    embedded, pool_config, start_miner, start_pool, start_pool_stats, start_translator, until,
};
use ledger::{Minutes, Reader, StorageConfig};
use stats::receiver::View;
use stats::state::{Link, SenderKey};
use tempfile::TempDir;

/// Accepted shares and work by account and worker.
type Totals = BTreeMap<(String, String), (u64, u128)>;

fn pool() -> SenderKey {
    SenderKey {
        role: "pool".to_owned(),
        name: "main".to_owned(),
    }
}

/// Those of all workers that ever had a share, and whether they add up to the pool's own.
fn shown(view: &View) -> Option<(Totals, bool)> {
    view.read(|board, _| {
        let sender = board.state().sender(&pool())?;
        let workers = sender.workers().iter().map(|(key, worker)| {
            let counters = worker.totals().counters;
            let name = (key.account.clone(), key.worker.clone());
            (name, (counters.accepted, counters.work.0))
        });
        let workers: Totals = workers.filter(|(_, (shares, _))| *shares > 0).collect();
        let sums = workers.values().fold((0, 0), |(shares, work), worker| {
            (shares + worker.0, work + worker.1)
        });
        let own = sender.totals().counters;
        Some((workers, sums == (own.accepted, own.work.0)))
    })
}

async fn booked(data: &TempDir) -> Totals {
    let config = StorageConfig {
        url: format!("sqlite:{}", data.path().join("ledger.sqlite").display()),
        ..StorageConfig::default()
    };
    let mut reader = Reader::open(&config).await.unwrap();
    let work = reader.work(Minutes::ALL).await.unwrap();
    let rows = work.into_iter();
    rows.map(|row| ((row.account, row.worker), (row.shares, row.work)))
        .collect()
}

/// A service that crashes and is away for a while, and a miner that leaves meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_totals_of_a_stats_service_are_those_of_the_ledger() {
    let (data, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut service = start_pool_stats(&kept, None).await;
    let address = service.address;
    let mut config = pool_config(embedded(), &data);
    config.stats.address = address.to_string();
    config.stats.name = "main".to_owned();
    config.stats.interval_ms = 100;
    let (role, key) = start_pool(config).await;
    let translator = start_translator(role.address, key, |_| {}).await;
    let mut alice = start_miner(translator.address, "alice.rig", 20_000.0);
    let mut bob = start_miner(translator.address, "bob.rig", 20_000.0);
    let accepted = |view: &View, account: &str| {
        let shown = shown(view).map(|(totals, _)| totals).unwrap_or_default();
        let name = (account.to_owned(), "rig".to_owned());
        shown.get(&name).map_or(0, |(shares, _)| *shares)
    };
    until("both are shown with shares", || {
        let all = ["alice", "bob"].map(|account| accepted(&service.status, account));
        all.iter().all(|shares| *shares >= 3).then_some(())
    })
    .await;

    service.kill();
    alice.kill();
    let before = bob.status.snapshot().accepted;
    until("bob has more shares", || {
        (bob.status.snapshot().accepted >= before + 10).then_some(())
    })
    .await;
    let service = start_pool_stats(&kept, Some(address)).await;
    until("what was missed is shown", || {
        (accepted(&service.status, "bob") >= before + 10).then_some(())
    })
    .await;
    bob.kill();
    let mut last = None;
    until("service and ledger are one", || {
        last = shown(&service.status);
        let booked = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(booked(&data))
        });
        let same = last
            .as_ref()
            .is_some_and(|(totals, adds_up)| *adds_up && *totals == booked);
        (same && booked.len() == 2).then_some(())
    })
    .await;
    let link = service.status.read(|board, now| {
        let sender = board.state().sender(&pool());
        sender.map(|sender| sender.link(now))
    });
    assert_eq!(link, Some(Link::Up));
}
