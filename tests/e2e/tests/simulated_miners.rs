//! Simulated miners against the translator, the pool and the embedded chain.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::net::SocketAddr;

use e2e::{Role, embedded, pool_config, start_pool, start_translator, until};
use miner::simulate::{Kind, Options, Rate, Report, Simulation};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Farm {
    report: Box<dyn Fn() -> Report + Send>,
    running: JoinHandle<Report>,
    stop: CancellationToken,
}

fn start_farm(server: SocketAddr, options: Options) -> Farm {
    let config = miner::Config {
        address: server.to_string(),
        user: "farm.sim".to_owned(),
        reconnect_first_seconds: 0.05,
        reconnect_longest_seconds: 1.0,
        ..miner::Config::default()
    };
    let simulation = Simulation::new(config, options).unwrap();
    let report = Box::new(simulation.watch());
    let stop = CancellationToken::new();
    Farm {
        report,
        running: tokio::spawn(simulation.run(stop.clone())),
        stop,
    }
}

async fn counted(translator: &Role<translator::StatusHandle>) -> translator::Shares {
    until("all have left, and nothing is in flight", || {
        let snapshot = translator.status.snapshot();
        (snapshot.connected == 0 && snapshot.shares.in_flight == 0).then_some(snapshot.shares)
    })
    .await
}

#[tokio::test]
async fn what_simulated_miners_count_is_what_the_translator_counts() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let translator = start_translator(pool.address, key, |config| {
        config.max_malformed_lines = 10_000;
    })
    .await;
    let farm = start_farm(
        translator.address,
        Options {
            miners: 30,
            rate: Rate::per_second(2.0).unwrap(),
            quality: "low=0.1,stale=0.1,duplicate=0.1,malformed=0.1"
                .parse()
                .unwrap(),
            ..Options::default()
        },
    );
    until("each kind of share was sent", || {
        let report = (farm.report)();
        let enough = |kind: Kind| report.of(kind).submitted >= 10;
        let all = [
            Kind::Good,
            Kind::Low,
            Kind::Stale,
            Kind::Duplicate,
            Kind::Malformed,
        ];
        all.into_iter().all(enough).then_some(())
    })
    .await;
    farm.stop.cancel();
    let report = farm.running.await.unwrap();
    let shares = counted(&translator).await;

    assert_eq!(report.connects, 30);
    assert_eq!(report.disconnects, 0, "{report}");
    assert_eq!(report.unanswered(), 0, "{report}");
    assert_eq!(report.submitted(), shares.submitted);
    assert_eq!(report.accepted(), shares.told_accepted, "{shares:?}");
    let told = |reason: &str| shares.rejected.get(reason).copied().unwrap_or(0);
    // A share that was on its way when a block came: the miner was told at once, and the pool refuses it.
    let too_late = told("upstream-stale");
    assert_eq!(
        shares.accepted + too_late,
        shares.told_accepted,
        "{shares:?}"
    );
    assert_eq!(report.rejected.job_not_found, told("job-not-found"));
    assert_eq!(report.rejected.duplicate, told("duplicate"));
    assert_eq!(report.rejected.low_difficulty, told("low-difficulty"));
    let refused = shares.rejected.values().sum::<u64>() - too_late;
    assert_eq!(report.rejected(), refused, "{shares:?}");
    for bad in [Kind::Low, Kind::Stale, Kind::Duplicate, Kind::Malformed] {
        assert_eq!(report.of(bad).accepted, 0, "{bad:?}");
    }
    // A new block may come while a share is on its way.
    let found = report.of(Kind::Good);
    assert!(found.rejected * 5 < found.submitted, "{report}");
}
