//! The CPU miner mines for the pool over TLS, and knows whom it mines for.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use e2e::{embedded, pool_config, start_pool, until};
use miner::{Config, Miner, StatusHandle};
use service::http::Address;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use translator::{Translator, Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_mines_over_tls_for_whom_it_trusts() {
    let data = tempfile::tempdir().unwrap();
    let (pool, key) = start_pool(pool_config(embedded(), &data)).await;
    let (ours, theirs) = (certificate(), certificate());
    let mut config = translator::Config {
        listen_address: "127.0.0.1:0".parse().unwrap(),
        http_address: Address::Off,
        upstreams: vec![Upstream {
            address: pool.address.to_string(),
            authority_public_key: Some(key),
        }],
        nominal_hashrate: 0.0,
        ..translator::Config::default()
    };
    config.tls.listen_address = Address::At("127.0.0.1:0".parse().unwrap());
    config.tls.certificate_file = ours.path().join("cert.pem");
    config.tls.key_file = ours.path().join("key.pem");
    let translator = Translator::bind(config).await.unwrap();
    let port = translator.tls_addr().unwrap().port();
    let status = translator.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(translator.run(stop.clone()));

    let start = |change: &dyn Fn(&mut Config)| start_miner(port, &stop, change);
    let trusting = start(&|config| config.tls_ca_file = Some(file(ours.path())));
    let careless = start(&|config| config.tls_insecure = true);
    let mistaken = start(&|config| config.tls_ca_file = Some(file(theirs.path())));
    let strict = start(&|_| ());
    until("both have shares accepted", || {
        let accepted = |miner: &StatusHandle| miner.snapshot().accepted > 2;
        (accepted(&trusting) && accepted(&careless)).then_some(())
    })
    .await;
    for miner in [mistaken, strict] {
        until("it has tried twice", || {
            let status = miner.snapshot();
            assert_eq!((status.connects, status.accepted), (0, 0));
            (status.connect_failures > 1).then_some(())
        })
        .await;
    }
    until("the pool has acknowledged shares", || {
        (status.snapshot().shares.accepted > 4).then_some(())
    })
    .await;
    assert!(status.snapshot().disconnected["tls"] > 0);
    stop.cancel();
    running.await.unwrap().unwrap();
}

fn file(folder: &Path) -> std::path::PathBuf {
    folder.join("cert.pem")
}

fn certificate() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(folder.path().join("key.pem"), key).unwrap();
    folder
}

fn start_miner(port: u16, stop: &CancellationToken, change: &dyn Fn(&mut Config)) -> StatusHandle {
    let mut config = Config {
        address: format!("stratum+ssl://localhost:{port}"),
        threads: 1,
        hashrate_limit: 100_000.0,
        reconnect_first_seconds: 0.05,
        reconnect_longest_seconds: 1.0,
        ..Config::default()
    };
    change(&mut config);
    let miner = Miner::new(config).unwrap();
    let status = miner.status();
    tokio::spawn(miner.run(stop.clone()));
    status
}
