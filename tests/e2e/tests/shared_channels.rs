//! Twenty miners of two accounts on two channels: what the miners, the translator, the pool and its ledger have counted.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::collections::BTreeMap;

use e2e::{Role, embedded, pool_config, start_miner, start_pool, start_translator, until};
use ledger::{Minutes, Reader, StorageConfig};
use sv2_connection::AuthorityPublicKey;
use translator::{Acknowledge, Shares};

/// Of each miner, in H/s.
const HASHRATE: f64 = 15_000.0;

type Translator = Role<translator::StatusHandle>;
type Miners = Vec<Role<miner::StatusHandle>>;

fn names() -> Vec<String> {
    let of = |account: &'static str| (10..20).map(move |number| format!("{account}.rig{number}"));
    of("alice").chain(of("bob")).collect()
}

async fn translator_for(
    pool: std::net::SocketAddr,
    key: AuthorityPublicKey,
    acknowledge: Acknowledge,
) -> (Translator, Miners) {
    let translator = start_translator(pool, key, |config| {
        config.aggregate = true;
        config.acknowledge = acknowledge;
        config.shares_per_minute = 60.0;
        config.nominal_hashrate = HASHRATE;
    })
    .await;
    let miners = names()
        .iter()
        .map(|name| start_miner(translator.address, name, HASHRATE))
        .collect();
    (translator, miners)
}

/// All miners have so many more shares.
async fn more_shares(translator: &Translator, each: u64) {
    let acknowledged = || -> BTreeMap<u64, u64> {
        let miners = translator.status.snapshot().miners;
        let count = |shares: &Shares| shares.accepted - shares.kept;
        miners
            .iter()
            .map(|miner| (miner.id, count(&miner.shares)))
            .collect()
    };
    let before = acknowledged();
    until("each miner has more shares", || {
        let now = acknowledged();
        let more = |id: &u64, count: &u64| *count >= before.get(id).unwrap_or(&0) + each;
        let all = now.len() == names().len() && now.iter().all(|(id, count)| more(id, count));
        all.then_some(())
    })
    .await;
}

/// The miners leave, and what they leave behind agrees with what they have counted.
async fn leave(translator: &Translator, miners: &Miners) -> Shares {
    miners.iter().for_each(Role::stop);
    let shares = until("the miners have left", || {
        let status = translator.status.snapshot();
        (status.connected == 0).then_some(status.shares)
    })
    .await;
    assert!(shares.add_up() && shares.in_flight == 0, "{shares:?}");
    let mined: Vec<_> = miners.iter().map(|miner| miner.status.snapshot()).collect();
    for miner in &mined {
        assert_eq!((miner.connects, miner.malformed_lines), (1, 0), "{miner:?}");
    }
    let submitted: u64 = mined.iter().map(|miner| miner.submitted).sum();
    assert_eq!(shares.submitted, submitted, "{shares:?}");
    shares
}

/// Shares and work by worker.
async fn booked(storage: &StorageConfig) -> BTreeMap<String, (u64, u128)> {
    let mut booked: BTreeMap<String, (u64, u128)> = BTreeMap::new();
    let mut reader = Reader::open(storage).await.unwrap();
    for work in reader.work(Minutes::ALL).await.unwrap() {
        let worker = format!("{}.{}", work.account, work.worker);
        let (shares, sum) = booked.entry(worker).or_default();
        *shares += work.shares;
        *sum += work.work;
    }
    booked
}

#[tokio::test]
async fn counts_agree_from_the_miners_to_the_ledger() {
    let data = tempfile::tempdir().unwrap();
    let config = pool_config(embedded(), &data);
    let storage = config.storage();
    let (pool, key) = start_pool(config).await;
    let (translator, miners) = translator_for(pool.address, key, Acknowledge::Local).await;
    more_shares(&translator, 3).await;
    let status = pool.status.snapshot();
    assert_eq!(status.channels, 2, "one for each account: {status:?}");
    let shares = leave(&translator, &miners).await;
    assert!(shares.lost.is_empty(), "{shares:?}");

    let booked = booked(&storage).await;
    let workers: Vec<&String> = booked.keys().collect();
    assert_eq!(workers, names().iter().collect::<Vec<_>>());
    let (count, work) = booked.values().fold((0, 0), |(count, work), booked| {
        (count + booked.0, work + booked.1)
    });
    let pooled = pool.status.snapshot();
    assert_eq!(pooled.shares_accepted, count, "{booked:?}");
    assert_eq!(shares.accepted - shares.kept, count, "{shares:?}");
    assert_eq!(shares.upstream_work, work, "{shares:?}");
}

#[tokio::test]
async fn a_pool_that_is_killed_keeps_the_miners_of_shared_channels_and_owes_them_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut config = pool_config(embedded(), &data);
    let storage = config.storage();
    let (mut pool, key) = start_pool(config.clone()).await;
    config.listen_address = pool.address;
    let (translator, miners) = translator_for(pool.address, key, Acknowledge::Upstream).await;
    for _ in 0..2 {
        more_shares(&translator, 2).await;
        pool.kill();
        until("the translator knows", || {
            (!translator.status.is_ready()).then_some(())
        })
        .await;
        assert_eq!(translator.status.snapshot().shares.in_flight, 0);
        (pool, _) = start_pool(config.clone()).await;
    }
    more_shares(&translator, 2).await;
    let shares = leave(&translator, &miners).await;
    // What miners were told is what the pool had acknowledged, and that is on its disk.
    assert_eq!(shares.told_accepted, shares.accepted, "{shares:?}");
    let booked: u64 = booked(&storage).await.values().map(|booked| booked.0).sum();
    assert!(
        shares.accepted - shares.kept <= booked && booked <= shares.forwarded,
        "{booked} booked, {shares:?}"
    );
}
