//! What a stats service is told through a real socket, held against what the relay counts.

#![allow(clippy::unwrap_used)]

mod support;

use stats::state::WorkerKey;
use stats_service::Service;
use support::{Pools, config, first_share, start};

#[tokio::test]
async fn a_stats_service_knows_each_miner_and_each_pool_and_keeps_what_a_miner_did() {
    let service = Service::start().await;
    let pools = Pools::new().await;
    let mut config = config(&[pools.address()]);
    config.stats.address = service.address();
    config.stats.interval_ms = 100;
    let relay = start(config).await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "account.rig.7").await;
    // The same again, which the pool refuses.
    let submit = r#"{"id":4,"method":"mining.submit","params":["account.rig.7","j","00000000","00000000","00000000"]}"#;
    miner.say(submit).await;
    assert_eq!(pool.hear().await.as_deref(), Some(submit));
    let refusal = r#"{"id":4,"result":null,"error":[22,"duplicate",null]}"#;
    pool.say(refusal).await;
    assert_eq!(miner.hear().await.as_deref(), Some(refusal));
    service
        .until("the miner's shares and the pool", |sender| {
            let miner = sender.peers.values().any(|peer| {
                let counters = &peer.state.counters;
                peer.peer.user_agent.as_deref() == Some("test/1")
                    && peer.state.difficulty == Some(8.0)
                    && (counters.submitted, counters.accepted) == (2, 1)
                    && counters.rejected.get("duplicate") == Some(&1)
                    && counters.last_share_ms.is_some()
            });
            let pool = sender
                .upstreams
                .values()
                .any(|upstream| (&*upstream.health, upstream.connections) == ("healthy", 1));
            miner && pool
        })
        .await;
    service.cut();
    drop((miner, pool));
    service
        .until("the miner to be gone", |sender| sender.peers.is_empty())
        .await;
    let counted = relay.handle.totals().remove("unknown").unwrap();
    let worker = WorkerKey {
        account: "account".to_owned(),
        worker: "rig.7".to_owned(),
    };
    service.see(|state| {
        let (key, sender) = state.senders().next().unwrap();
        assert_eq!(key.role, "relay");
        for totals in [sender.totals(), sender.workers()[&worker].totals()] {
            let counters = totals.counters;
            assert_eq!(counters.submitted, counted.submits);
            assert_eq!(counters.accepted, counted.accepted);
            assert_eq!(counters.work.0, counted.work);
            assert_eq!(counters.rejected(), counted.rejected());
        }
        assert!(sender.instance.service.ready);
        assert_eq!(sender.instance.service.endpoints[0].protocol, "sv1");
    });
}
