//! What a stats service promises, through real sockets and on both databases.
#![cfg(all(feature = "service", feature = "sender"))]
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests need the rest")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use stats::{
    board::{Board, Of},
    receiver::{Error, Expected, Receiver},
    sender::{self, Source},
    series::{Period, Window},
    state::{Link, PeerName, Sender, WorkerKey},
};
use stats_events::{Event, FromSender, FromService, PeerEnd, RefusalCode};
use support::{
    Client, Database, Service, config, counters, hello, key, on_both, peer, peer_connected,
    service, worker,
};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

on_both! {
    async fn what_is_acknowledged_survives_a_crash(database) {
        let one = Service::start(&database).await;
        let (mut client, last) = Client::connect(one.address, &hello("a", "1")).await;
        assert_eq!(last, 0);
        client.tell(1, peer_connected(7)).await;
        client.tell(2, service(10)).await;
        client.tell(3, peer(7, 10)).await;
        client.tell(4, worker(7, "rig", 10)).await;
        client.acked(4).await;
        one.kill();

        let two = Service::start(&database).await;
        assert_eq!(two.link("a"), Some(Link::Down));
        assert_eq!(two.accepted("a"), 10);
        let rig = WorkerKey { account: "alice".into(), worker: "rig".into() };
        let shown = two.sender("a", |sender, _| sender.workers()[&rig].totals().counters);
        assert_eq!(shown, Some(counters(10)));
        // The sender goes on where it was, and its counters are not counted twice.
        let (mut client, last) = Client::connect(two.address, &hello("a", "1")).await;
        assert_eq!(last, 4);
        client.tell(5, service(12)).await;
        client.tell(6, worker(7, "rig", 12)).await;
        client.acked(6).await;
        assert_eq!(two.accepted("a"), 12);
        let shown = two.sender("a", |sender, _| sender.workers()[&rig].totals().counters);
        assert_eq!(shown, Some(counters(12)));
        two.stop().await;
    }

    async fn what_is_told_twice_or_late_changes_nothing(database) {
        let one = Service::start(&database).await;
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        client.tell(5, service(10)).await;
        client.tell(5, service(11)).await;
        client.tell(4, service(12)).await;
        client.tell(6, service(9)).await;
        client.acked(6).await;
        assert_eq!(one.accepted("a"), 10);
        one.stop().await;
    }

    async fn totals_go_on_over_restarts_of_the_sender_and_the_session_begins_anew(database) {
        let one = Service::start(&database).await;
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        client.tell(1, service(10)).await;
        client.acked(1).await;
        drop(client);
        one.until_link("a", Link::Down).await;
        let (mut client, last) = Client::connect(one.address, &hello("a", "2")).await;
        assert_eq!(last, 0);
        client.tell(1, service(3)).await;
        client.acked(1).await;
        assert_eq!(one.accepted("a"), 13);
        let session = one.sender("a", |sender, _| sender.instance.service.counters.accepted);
        assert_eq!(session, Some(3));
        one.stop().await;
    }

    async fn a_link_that_is_cut_in_a_frame_costs_nothing_that_was_acknowledged(database) {
        let one = Service::start(&database).await;
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        client.tell(1, service(10)).await;
        client.acked(1).await;
        client.stream.write_all(&[0, 0, 1, 0, 0x82]).await.unwrap();
        client.stream.shutdown().await.unwrap();
        one.until_link("a", Link::Down).await;
        let (mut client, last) = Client::connect(one.address, &hello("a", "1")).await;
        assert_eq!(last, 1);
        client.tell(2, service(11)).await;
        client.acked(2).await;
        assert_eq!(one.accepted("a"), 11);
        one.stop().await;
    }

    async fn a_sender_that_comes_again_before_its_old_connection_ends_is_up(database) {
        let one = Service::start(&database).await;
        let (mut old, _) = Client::connect(one.address, &hello("a", "1")).await;
        let (mut new, _) = Client::connect(one.address, &hello("a", "1")).await;
        assert_eq!(old.hear().await, None);
        drop(old);
        new.tell(1, service(1)).await;
        new.acked(1).await;
        assert_eq!(one.link("a"), Some(Link::Up));
        one.stop().await;
    }

    async fn a_database_that_is_away_holds_senders_up_and_costs_nothing(database) {
        let mut config = config(&database);
        config.queue = 1;
        let one = Service::run(config).await;
        let mut beats = hello("a", "1");
        beats.heartbeat_ms = 100;
        let (mut client, _) = Client::connect(one.address, &beats).await;
        client.tell(1, service(1)).await;
        client.acked(1).await;
        assert_eq!(one.get("/readyz").await.0, 200);
        let lock = database.lock("starts").await;
        let mut told = 1;
        let start = std::time::Instant::now();
        while one.get("/readyz").await.0 != 503 {
            assert!(start.elapsed() < support::PATIENCE, "ready in spite of the lock");
            told += 1;
            client.tell(told, service(told)).await;
        }
        // Nobody reads it for more than three heartbeats, and it is there all the same.
        for _ in 0..100 {
            told += 1;
            client.tell(told, service(told)).await;
        }
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(700) {
            assert_eq!(one.link("a"), Some(Link::Up));
            one.get("/healthz").await;
        }
        // Nothing is acknowledged that is not stored.
        assert!(client.has_heard_all());
        assert_eq!(Client::refused(one.address, &hello("b", "1")).await, RefusalCode::Unavailable);
        drop(lock);
        client.acked(told).await;
        assert_eq!(one.accepted("a"), told);
        one.until_ready(200).await;
        one.stop().await;
    }

    async fn a_second_service_on_one_database_ends_the_first_and_knows_all_that_it_acknowledged(database) {
        let one = Service::start(&database).await;
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        let telling = tokio::spawn(async move {
            let mut acked = 0;
            while client.try_tell(acked + 1, service(acked + 1)).await {
                match client.hear().await {
                    Some(FromService::Ack { sequence }) => acked = sequence,
                    _ => break,
                }
            }
            acked
        });
        let two = Service::start(&database).await;
        assert!(matches!(one.ended().await, Err(Error::TakenOver)));
        let acked = telling.await.unwrap();
        let (mut client, last) = Client::connect(two.address, &hello("a", "1")).await;
        assert!(last >= acked, "{last} {acked}");
        client.tell(last + 1, service(last + 1)).await;
        client.acked(last + 1).await;
        assert_eq!(two.accepted("a"), last + 1);
        two.stop().await;
    }

    async fn a_store_of_a_newer_version_is_refused(database) {
        Service::start(&database).await.stop().await;
        database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000000')").await;
        let error = Receiver::bind(config(&database)).await.err().unwrap().to_string();
        assert!(error.contains("20990101000000"), "{error}");
    }

    async fn a_ledgers_database_is_refused_and_left_alone(database) {
        let config = ledger::StorageConfig { url: database.url(), ..ledger::StorageConfig::default() };
        let ledger = ledger::Ledger::open(&config, 1).await.unwrap();
        assert!(Receiver::bind(support::config(&database)).await.is_err());
        ledger.close(support::PATIENCE).await.unwrap();
        ledger::Ledger::open(&config, 1).await.unwrap().close(support::PATIENCE).await.unwrap();
    }

    async fn samples_and_names_of_any_kind_are_stored_and_found_again(database) {
        let one = Service::start(&database).await;
        let odd = "o'b\"r\u{0}ién\\ <script>\u{1f980}";
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        client.tell(1, peer_connected(7)).await;
        client.tell(2, worker(7, odd, 1_000_000)).await;
        client.acked(2).await;
        let rig = WorkerKey { account: "alice".into(), worker: odd.into() };
        let work = f64::from(1_000_000) * 4_294_967_296.0;
        let sum = |one: &Service| one.view.read(|board, _| {
            let samples = board.recent(&key("a"), Of::Worker(&rig), Period::TenMinutes);
            samples.iter().map(|sample| sample.hashes).sum::<f64>()
        });
        assert!((sum(&one) / work - 1.0).abs() < 1e-9, "{}", sum(&one));
        one.stop().await;

        let two = Service::start(&database).await;
        assert!((sum(&two) / work - 1.0).abs() < 1e-9, "{}", sum(&two));
        let number = two.view.read(|board, _| board.series_number(&key("a"), Of::Worker(&rig))).unwrap();
        let stored = two.view.history().samples(&[number], Period::Minute, 0, u64::MAX).await.unwrap();
        let stored: f64 = stored.iter().map(|sample| sample.hashes).sum();
        assert!((stored / work - 1.0).abs() < 1e-9, "{stored}");
        let hashrate = two.view.read(|board, now| board.hashrate(now, &key("a"), Of::Worker(&rig), Window::Hour));
        assert!(hashrate.is_some_and(|hashrate| hashrate > 0.0), "{hashrate:?}");
        two.stop().await;
    }

    async fn a_peer_that_reconnects_goes_on(database) {
        let one = Service::start(&database).await;
        let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
        client.tell(1, peer_connected(1)).await;
        client.tell(2, peer(1, 5)).await;
        let end = PeerEnd { peer: 1, disconnected_at_ms: 1_700_000_200_000, counters: counters(6), ..PeerEnd::default() };
        client.tell(3, Event::PeerDisconnected(end)).await;
        client.tell(4, peer_connected(2)).await;
        client.tell(5, peer(2, 4)).await;
        client.acked(5).await;
        let name = PeerName { protocol: "sv1".into(), host: "192.0.2.1".into(), device: "rig/1".into() };
        let totals = one.sender("a", |sender, _| sender.peer_totals(&name)).unwrap();
        assert_eq!((totals.counters.accepted, totals.sessions), (10, 2));
        one.stop().await;
    }
}

async fn on_sqlite() -> (Database, Service) {
    let database = Database::sqlite();
    let service = Service::start(&database).await;
    (database, service)
}

#[tokio::test]
async fn a_silent_sender_is_stale_and_then_down_and_was_seen_last() {
    let (_database, one) = on_sqlite().await;
    let mut beats = hello("a", "1");
    beats.heartbeat_ms = 100;
    let (mut client, _) = Client::connect(one.address, &beats).await;
    assert_eq!(one.link("a"), Some(Link::Up));
    one.until_link("a", Link::Stale).await;
    client.say(&FromSender::Heartbeat { at_ms: 1 }).await;
    one.until_link("a", Link::Up).await;
    let heard = one.view.now().unix_ms;
    one.until_link("a", Link::Down).await;
    let seen = one
        .sender("a", |sender, _| sender.instance.last_seen_ms)
        .unwrap();
    assert!(seen > 0 && seen <= heard, "{seen} {heard}");
    assert_eq!(client.hear().await, None);
    one.stop().await;
}

#[tokio::test]
async fn a_senders_clock_that_steps_makes_nobody_stale_and_no_sum_wrong() {
    let (_database, one) = on_sqlite().await;
    let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
    // Told late, then years ahead, then from before its own start.
    for (number, at_ms) in [(1, 1_700_000_100_000), (2, 1_900_000_000_000), (3, 1_000)] {
        client.at_ms = at_ms;
        client.tell(number, service(10 * number)).await;
    }
    client.acked(3).await;
    assert_eq!(one.accepted("a"), 30);
    assert_eq!(one.link("a"), Some(Link::Up));
    let work = one.view.read(|board, _| {
        let samples = board.recent(&key("a"), Of::Sender, Period::Minute);
        samples.iter().map(|sample| sample.hashes).sum::<f64>()
    });
    let all = 30.0 * 2f64.powi(32);
    assert!(work > 0.0 && work <= all * 1.000_001, "{work} of {all}");
    one.stop().await;
}

#[tokio::test]
async fn of_two_senders_with_one_name_the_second_is_refused() {
    let (_database, one) = on_sqlite().await;
    let (mut first, _) = Client::connect(one.address, &hello("a", "1")).await;
    let code = Client::refused(one.address, &hello("a", "2")).await;
    assert_eq!(code, RefusalCode::NameInUse);
    first.tell(1, service(1)).await;
    first.acked(1).await;
    Client::connect(one.address, &hello("b", "2")).await;
    one.stop().await;
}

#[tokio::test]
async fn who_may_not_be_served_is_told_why() {
    let database = Database::sqlite();
    let mut config = config(&database);
    config.token = Some("open sesame".into());
    config.network = Some("regtest".into());
    let one = Service::run(config).await;
    let mut with = hello("a", "1");
    let mut codes = Vec::new();
    for token in [None, Some("open sesam"), Some("Open sesame"), Some("")] {
        with.token = token.map(str::to_owned);
        codes.push(Client::refused(one.address, &with).await);
    }
    assert_eq!(codes, [RefusalCode::WrongToken; 4]);
    with.token = Some("open sesame".into());
    let refused = |change: fn(&mut stats_events::Hello)| {
        let mut other = with.clone();
        change(&mut other);
        async move { Client::refused(one.address, &other).await }
    };
    assert_eq!(
        refused(|h| h.role = "mint".into()).await,
        RefusalCode::NotServed
    );
    assert_eq!(
        refused(|h| h.network = Some("mainnet".into())).await,
        RefusalCode::NotServed
    );
    assert_eq!(refused(|h| h.version = 9).await, RefusalCode::VersionTooNew);
    assert_eq!(
        refused(|h| h.name = String::new()).await,
        RefusalCode::BadHello
    );
    Client::connect(one.address, &with).await;
    one.stop().await;
}

#[tokio::test]
async fn what_is_no_frame_ends_its_connection_with_the_reason_and_no_other() {
    let (_database, one) = on_sqlite().await;
    let (mut good, _) = Client::connect(one.address, &hello("good", "1")).await;
    let bad: [(&[u8], RefusalCode); 6] = [
        (&[0, 0, 0, 0], RefusalCode::BadFrame),
        (&[0, 0x10, 0, 1], RefusalCode::BadFrame),
        (&[0xff; 8], RefusalCode::BadFrame),
        (&[0, 0, 0, 1, 0xc1], RefusalCode::BadFrame),
        (
            &[0, 0, 0, 5, 0xdf, 0xff, 0xff, 0xff, 0xff],
            RefusalCode::BadFrame,
        ),
        (b"GET / HTTP/1.1\r\n\r\n", RefusalCode::BadFrame),
    ];
    for (bytes, code) in bad {
        // Before the hello and after it.
        let mut client = Client::dial(one.address).await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.refusal().await, code, "{bytes:?}");
        let (mut client, _) = Client::connect(one.address, &hello("bad", "1")).await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.refusal().await, code, "{bytes:?}");
    }
    let mut client = Client::dial(one.address).await;
    client.tell(1, service(1)).await;
    assert_eq!(client.refusal().await, RefusalCode::BadHello);
    let mut client = Client::dial(one.address).await;
    client.stream.write_all(&[0, 0x0f, 0, 0]).await.unwrap();
    client.stream.write_all(&[0x81; 20_000]).await.unwrap();
    assert_eq!(client.refusal().await, RefusalCode::BadHello);
    let (mut client, _) = Client::connect(one.address, &hello("bad", "1")).await;
    client.say(&FromSender::Hello(hello("bad", "1"))).await;
    assert_eq!(client.refusal().await, RefusalCode::BadHello);
    good.tell(1, service(1)).await;
    good.acked(1).await;
    one.stop().await;
}

#[tokio::test]
async fn who_says_nothing_or_only_half_is_hung_up_on() {
    let database = Database::sqlite();
    let mut config = config(&database);
    config.hello_timeout_seconds = 1;
    config.limits.connections_per_address = 500;
    let one = Service::run(config).await;
    let mut silent = Vec::new();
    for number in 0..400 {
        let mut client = Client::dial(one.address).await;
        if number % 2 == 0 {
            client.stream.write_all(&[0, 0]).await.unwrap();
        }
        silent.push(client);
    }
    let (mut good, _) = Client::connect(one.address, &hello("good", "1")).await;
    good.tell(1, service(1)).await;
    good.acked(1).await;
    for client in &mut silent {
        assert_eq!(client.hear().await, None);
    }
    one.stop().await;
}

#[tokio::test]
async fn who_is_expected_and_never_came_is_down() {
    let database = Database::sqlite();
    let mut config = config(&database);
    config.expected = vec![Expected {
        role: "pool".into(),
        name: "main".into(),
    }];
    let one = Service::run(config).await;
    assert_eq!(one.link("main"), Some(Link::Down));
    let (_, status) = one.get("/status").await;
    assert!(status.contains("\"main\""), "{status}");
    let (_, metrics) = one.get("/metrics").await;
    assert!(
        metrics.contains("hashpool_test_stats_senders{link=\"down\"} 1"),
        "{metrics}"
    );
    one.stop().await;
}

#[tokio::test]
async fn a_damaged_file_is_an_error_that_names_it() {
    let database = Database::sqlite();
    let path = database.url().replace("sqlite:", "");
    std::fs::write(
        &path,
        "this is no database, and was never one; ".repeat(200),
    )
    .unwrap();
    let error = Receiver::bind(config(&database))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("test.sqlite"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stalls_and_costs_nothing() {
    let (database, one) = on_sqlite().await;
    let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
    client.tell(1, service(1)).await;
    client.acked(1).await;
    // What a full disk says, without filling one.
    database
        .execute(
            "CREATE TRIGGER full BEFORE UPDATE ON documents \
             BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
        )
        .await;
    client.tell(2, service(2)).await;
    let body = one.until_ready(503).await;
    assert!(body.contains("disk is full"), "{body}");
    database.execute("DROP TRIGGER full").await;
    client.acked(2).await;
    one.stop().await;
}

#[tokio::test]
async fn where_others_can_connect_there_is_a_token() {
    let database = Database::sqlite();
    let mut config = config(&database);
    config.listen_address = "0.0.0.0:0".parse().unwrap();
    let error = Receiver::bind(config).await.err().unwrap().to_string();
    assert!(error.starts_with("token: "), "{error}");
}

/// A role that accepts shares.
struct Shares(AtomicU64);

impl Source for Shares {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        let accepted = self.0.load(Ordering::Relaxed);
        show(service(accepted));
        show(peer_connected(7));
        show(peer(7, accepted));
        show(worker(7, "rig", accepted));
    }

    fn happened(&self, _most: usize) -> Vec<Event> {
        Vec::new()
    }
}

/// Over TLS and with a token, and the service crashes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_our_sender_shows_is_what_our_service_knows() {
    let database = Database::sqlite();
    let folder = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let mut config = config(&database);
    config.tls.certificate_file = Some(certificate.clone());
    config.tls.key_file = Some(key);
    config.token = Some("open sesame".into());
    let one = Service::run(config.clone()).await;
    config.listen_address = one.address;

    let shares = Arc::new(Shares(AtomicU64::new(10)));
    let stop = CancellationToken::new();
    let telling = sender::Config {
        address: one.address.to_string(),
        name: "a".to_owned(),
        token: Some("open sesame".into()),
        tls: true,
        ca_file: Some(certificate),
        interval_ms: 100,
        ..sender::Config::default()
    };
    let source = Arc::clone(&shares) as Arc<dyn Source>;
    let running = sender::start(&telling, "pool", source, stop.clone());
    let running = running.unwrap().unwrap();
    let knows = |accepted| {
        move |board: &Board, _| {
            let sender = board.state().sender(&support::key("a"));
            let counters = |sender: &Sender| sender.totals().counters.accepted;
            sender.map(counters) == Some(accepted)
        }
    };
    one.until("10 shares", knows(10)).await;
    one.kill();
    shares.0.store(20, Ordering::Relaxed);
    let two = Service::run(config).await;
    two.until("20 shares", knows(20)).await;
    two.until_link("a", Link::Up).await;
    // The last ones are told when it stops.
    shares.0.store(21, Ordering::Relaxed);
    stop.cancel();
    running.ended().await;
    two.until("21 shares", knows(21)).await;
    two.until_link("a", Link::Down).await;
    let rig = WorkerKey {
        account: "alice".into(),
        worker: "rig".into(),
    };
    let told = two.sender("a", |sender, _| sender.workers()[&rig].totals());
    let told = told.unwrap();
    assert_eq!((told.counters.accepted, told.sessions), (21, 1));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_deleted_takes_no_more_events() {
    let (database, one) = on_sqlite().await;
    let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
    client.tell(1, service(1)).await;
    client.acked(1).await;
    let path = database.url().replace("sqlite:", "");
    std::fs::rename(&path, format!("{path}.old")).unwrap();
    client.tell(2, service(2)).await;
    one.until_ready(503).await;
    assert!(client.has_heard_all());
    // Put back, it goes on, and nothing is missing.
    std::fs::rename(format!("{path}.old"), &path).unwrap();
    client.acked(2).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_becomes_read_only_costs_nothing() {
    let Some(database) = Database::postgres() else {
        return;
    };
    let one = Service::start(&database).await;
    let (mut client, _) = Client::connect(one.address, &hello("a", "1")).await;
    client.tell(1, service(1)).await;
    client.acked(1).await;
    // Every session is another from now on, as after a switch to a replica.
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE usename = 'tester' AND pid <> pg_backend_pid()";
    let read_only = "ALTER ROLE tester SET default_transaction_read_only = on";
    database.execute(&format!("{read_only}; {others}")).await;
    client.tell(2, service(2)).await;
    let start = std::time::Instant::now();
    while !one.until_ready(503).await.contains("read-only") {
        assert!(start.elapsed() < support::PATIENCE, "never read-only");
    }
    assert!(client.has_heard_all());
    let again = "ALTER ROLE tester RESET default_transaction_read_only";
    database
        .execute(&format!("BEGIN READ WRITE; {again}; COMMIT; {others}"))
        .await;
    client.acked(2).await;
    one.stop().await;
}
