//! Who found a share, where miners share a channel: extensions 0x0001 and 0x0002 between our translator and our pool.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{collections::BTreeMap, time::Duration};

use e2e::{PATIENCE, embedded, pool_config, start_miner, start_pool, start_translator};
use ledger::{Minutes, Reader, StorageConfig};
use tokio::time::{sleep, timeout};

const HASHRATE: f64 = 150_000.0;

/// Shares by account and worker, when each of so many has some.
async fn booked(storage: &StorageConfig, workers: usize) -> BTreeMap<(String, String), u64> {
    let looking = async {
        let mut reader = Reader::open(storage).await.unwrap();
        loop {
            let work = reader.work(Minutes::ALL).await.unwrap();
            let booked: BTreeMap<_, _> = work
                .into_iter()
                .map(|work| ((work.account, work.worker), work.shares))
                .collect();
            if booked.len() >= workers {
                return booked;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap()
}

#[tokio::test]
async fn workers_that_share_a_channel_are_told_apart_by_the_pool() {
    let data = tempfile::tempdir().unwrap();
    let config = pool_config(embedded(), &data);
    let storage = config.storage();
    let (pool, key) = start_pool(config).await;
    let translator = start_translator(pool.address, key, |config| config.aggregate = true).await;
    let names = ["alice.one", "alice.two", "bob.one"];
    let miners = names.map(|name| start_miner(translator.address, name, HASHRATE));
    let booked = booked(&storage, names.len()).await;
    let seen: Vec<String> = booked
        .keys()
        .map(|(account, worker)| format!("{account}.{worker}"))
        .collect();
    assert_eq!(seen, names, "{booked:?}");
    let status = pool.status.snapshot();
    assert_eq!(status.channels, 2, "one for each account: {status:?}");
    drop(miners);
}
