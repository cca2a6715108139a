//! What a stats service is told through a real socket, held against what the translator counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use stats::state::{PeerName, WorkerKey};
use stats_service::Service;
use support::{PoolHouse, Running};

#[tokio::test]
async fn a_stats_service_knows_each_miner_and_goes_on_after_cuts_and_goodbyes() {
    let service = Service::start().await;
    let house = PoolHouse::new().await;
    let translator = Running::start(vec![house.upstream()], |config| {
        config.stats.address = service.address();
        config.stats.interval_ms = 100;
    })
    .await;
    let mut pool = house.accept().await;
    let mut miner = translator.miner().await;
    miner.log_in("account.rig.7").await;
    let (channel, _) = pool.open_channel(&[1; 4]).await;
    let notify = miner.notify().await;
    for (nonce, sequence_number) in [(1, 1), (2, 2)] {
        miner.submit("account.rig.7", &notify.job_id, nonce).await;
        pool.share().await;
        pool.acknowledge(channel, sequence_number, 1).await;
    }
    // The same again is refused here.
    miner.submit("account.rig.7", &notify.job_id, 2).await;
    service
        .until("the miner's shares", |sender| {
            let peer = sender.peers.values().next();
            peer.is_some_and(|peer| {
                let counters = &peer.state.counters;
                peer.peer.user_agent.as_deref() == Some("test/1")
                    && peer.state.difficulty.is_some()
                    && (counters.submitted, counters.accepted) == (3, 2)
                    && counters.rejected.get("duplicate") == Some(&1)
                    && counters.last_share_ms.is_some()
            })
        })
        .await;
    service.cut();
    drop(miner);
    let worker = WorkerKey {
        account: "account".to_owned(),
        worker: "rig.7".to_owned(),
    };
    let name = PeerName {
        protocol: "sv1".to_owned(),
        host: "127.0.0.1".to_owned(),
        device: "test/1".to_owned(),
    };
    service
        .until("the miner to be gone", |sender| {
            sender.peers.is_empty()
                && sender.upstreams.values().next().is_some_and(|upstream| {
                    (&*upstream.health, upstream.connections > 0) == ("healthy", true)
                })
        })
        .await;
    let counted = translator
        .until("the miner to be gone", |status| status.connected == 0)
        .await
        .shares;
    service.see(|state| {
        let (_, sender) = state.senders().next().unwrap();
        for totals in [
            sender.totals(),
            sender.workers()[&worker].totals(),
            sender.peer_totals(&name),
        ] {
            let counters = totals.counters;
            assert_eq!(counters.submitted, counted.submitted);
            assert_eq!(counters.accepted, counted.accepted);
            assert_eq!(counters.work.0, counted.accepted_work);
            assert_eq!(counters.rejected(), 1);
        }
        assert!(sender.instance.service.ready);
        let endpoint = &sender.instance.service.endpoints[0];
        assert_eq!(endpoint.protocol, "sv1");
    });
}
