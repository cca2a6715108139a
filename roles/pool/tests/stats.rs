//! What a stats service is told through a real socket: its totals are those in the pool's ledger.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

mod support;

use ledger::{Minutes, Reader, StorageConfig};
use stats::state::{Sender, WorkerKey};
use stats_service::Service;
use support::{Running, eventually};
use tempfile::TempDir;

/// A pool that tells the service, with a ledger that is there after it.
async fn start(service: &Service, data: &TempDir) -> Running {
    Running::start_with(|config| {
        data.path().clone_into(&mut config.data_dir);
        config.stats.address = service.address();
        config.stats.interval_ms = 100;
        config.stats.name = "test".to_owned();
    })
    .await
}

/// Shares and work of all that is booked.
async fn booked(data: &TempDir) -> (u64, u128) {
    let config = StorageConfig {
        url: format!("sqlite:{}", data.path().join("ledger.sqlite").display()),
        ..StorageConfig::default()
    };
    let mut reader = Reader::open(&config).await.unwrap();
    let work = reader.work(Minutes::ALL).await.unwrap();
    let add = |sum: (u64, u128), work: &ledger::Work| (sum.0 + work.shares, sum.1 + work.work);
    work.iter().fold((0, 0), add)
}

/// The same by the service's own sums, by those of all peers, and by those of all workers.
fn told(sender: &Sender) -> [(u64, u128); 3] {
    let sum = |all: &mut dyn Iterator<Item = stats_events::Counters>| {
        all.fold((0, 0), |sum, counters| {
            (sum.0 + counters.accepted, sum.1 + counters.work.0)
        })
    };
    let ended = sender.peer_totals.values();
    let ended = ended.map(|totals| totals.counters.clone());
    let present = sender.peers.values();
    let present = present.map(|peer| peer.state.counters.clone());
    [
        sum(&mut std::iter::once(sender.totals().counters)),
        sum(&mut ended.chain(present)),
        sum(&mut sender
            .workers()
            .values()
            .map(|worker| worker.totals().counters)),
    ]
}

#[tokio::test]
async fn totals_are_those_in_the_ledger_after_cuts_and_restarts() {
    let (service, data) = (Service::start().await, tempfile::tempdir().unwrap());
    let mut refused = 0;
    for start_of_pool in 0..2 {
        let pool = start(&service, &data).await;
        let mut leaving = pool.client().await;
        let job = leaving.open().await;
        for share in 0..3 {
            refused += leaving.mine_one(job, share << 20).await;
        }
        let mut staying = pool.client().await;
        let job = staying.open().await;
        refused += staying.mine_one(job, 1 << 24).await;
        service
            .until("both clients", |sender| {
                let channels = |peer: &stats::state::PeerSession| peer.state.channels;
                sender.peers.values().map(channels).eq([1, 1])
            })
            .await;
        // While nobody hears it, one of them goes and the other one works.
        service.cut_after(Some(400));
        service.cut();
        drop(leaving);
        refused += staying.mine_one(job, 2 << 24).await;
        eventually(&pool, |status| status.connections == 1).await;
        service.cut_after(None);
        if start_of_pool == 0 {
            service.restart();
        }
        drop(staying);
        eventually(&pool, |status| status.connections == 0).await;
        pool.stop().await;
        let booked = booked(&data).await;
        assert_eq!(booked.0, 5 * (start_of_pool + 1));
        service
            .until("what is booked", |sender| told(sender) == [booked; 3])
            .await;
    }
    service.see(|state| {
        let (_, sender) = state.senders().next().unwrap();
        let totals = sender.totals();
        assert_eq!(
            (totals.sessions, totals.counters.rejected()),
            (2, refused.into())
        );
        assert!(sender.peers.is_empty());
    });
}

#[tokio::test]
async fn a_pool_says_who_its_clients_are_and_what_they_work_on() {
    let (service, data) = (Service::start().await, tempfile::tempdir().unwrap());
    let pool = start(&service, &data).await;
    let mut client = pool.client().await;
    let job = client.open().await;
    client.mine_one(job, 0).await;
    service
        .until("the client and its worker", |sender| {
            let peer = sender.peers.values().next();
            let worker = WorkerKey {
                account: "test".to_owned(),
                worker: "1".to_owned(),
            };
            peer.is_some_and(|peer| {
                peer.peer.protocol == "sv2-mining"
                    && peer.peer.port == pool.address.port()
                    && peer.peer.vendor.is_some()
                    && peer.state.counters.accepted == 1
            }) && sender.workers().contains_key(&worker)
        })
        .await;
    service.see(|state| {
        let (_, sender) = state.senders().next().unwrap();
        let instance = &sender.instance;
        assert!(instance.service.ready, "{:?}", instance.service.problems);
        let key = instance.service.endpoints[0]
            .authority_public_key
            .as_deref();
        assert_eq!(key, Some(&*pool.key.to_string()));
        let template = instance.template.as_ref().unwrap();
        assert!(template.height > 0 && template.reward.is_some());
    });
    pool.stop().await;
}
