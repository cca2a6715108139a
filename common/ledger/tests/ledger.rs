//! What the ledger promises, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

use std::{path::Path, sync::Arc, time::Duration};

use database::{Database, on_both};
use ledger::{
    Block, BlockState, Entry, Error, Health, Ledger, Minutes, Opened, Reader, StorageConfig,
};

fn config(database: &Database) -> StorageConfig {
    StorageConfig {
        url: database.url(),
        ..StorageConfig::default()
    }
}

fn entry(account: &str, worker: &str, shares: u64, work: u128) -> Entry {
    Entry {
        account: account.into(),
        worker: worker.into(),
        solo: false,
        shares,
        work,
    }
}

/// Account, worker, shares and work of all there is.
async fn all_work(database: &Database) -> Vec<(String, String, u64, u128)> {
    let mut reader = Reader::open(&config(database)).await.unwrap();
    let work = reader.work(Minutes::ALL).await.unwrap();
    work.into_iter()
        .map(|row| (row.account, row.worker, row.shares, row.work))
        .collect()
}

async fn close(ledger: Ledger) {
    ledger.close(Duration::from_secs(30)).await.unwrap();
}

on_both! {
    async fn what_is_durable_is_there_whatever_happens_to_the_process(database) {
        let ledger = Ledger::open(&config(&database), 7).await.unwrap();
        let mut booking = ledger.booking();
        let large = (1_u128 << 90) + 1;
        booking.book(1, vec![entry("alice", "rig", 2, large), entry("bob", "", 1, 5)]);
        booking.book(2, vec![entry("alice", "rig", 1, large)]);
        let mut durable = 0;
        while durable < 2 {
            durable = booking.progress().await;
        }
        assert!(!booking.is_pending());
        // Not closed: the process ends here.
        let expected = [
            ("alice".to_owned(), "rig".to_owned(), 3, 2 * large),
            ("bob".to_owned(), String::new(), 1, 5),
        ];
        assert_eq!(all_work(&database).await, expected);
        drop(booking);
        close(ledger).await;
        assert_eq!(all_work(&database).await, expected);
    }

    async fn how_long_a_share_has_waited_is_counted_once_for_each(database) {
        let opened = Opened::open(&config(&database)).await.unwrap();
        let delays = opened.delays();
        let ledger = opened.start(1).await.unwrap();
        let mut booking = ledger.booking();
        let lock = database.lock("servers").await;
        booking.book(1, vec![entry("alice", "rig", 2, 1), entry("bob", "", 1, 5)]);
        booking.book(2, vec![entry("alice", "rig", 4, 1)]);
        assert_eq!(delays.borrow().count(), 0);
        drop(lock);
        while booking.progress().await < 2 {}
        assert_eq!(delays.borrow().count(), 7);
        drop(booking);
        close(ledger).await;
    }

    async fn every_start_has_a_number_of_its_own(database) {
        let mut boots = Vec::new();
        for server_id in [1, 1, 2, 1] {
            let ledger = Ledger::open(&config(&database), server_id).await.unwrap();
            boots.push(ledger.boot());
            close(ledger).await;
        }
        assert_eq!(boots, [1, 2, 1, 3]);
    }

    async fn a_second_process_with_the_same_id_takes_over_and_the_first_writes_no_more(database) {
        let first = Ledger::open(&config(&database), 1).await.unwrap();
        let second = Ledger::open(&config(&database), 1).await.unwrap();
        let other = Ledger::open(&config(&database), 2).await.unwrap();
        for (ledger, worker) in [(&second, "second"), (&other, "other")] {
            let mut booking = ledger.booking();
            booking.book(1, vec![entry("alice", worker, 1, 1)]);
            assert_eq!(booking.progress().await, 1);
        }
        let mut health = first.health();
        let mut booking = first.booking();
        booking.book(1, vec![entry("alice", "first", 1, 1)]);
        health.wait_for(|health| *health == Health::TakenOver).await.unwrap();
        let workers: Vec<_> = all_work(&database).await.into_iter().map(|row| row.1).collect();
        assert_eq!(workers, ["other", "second"]);
    }

    async fn a_stalled_database_blocks_and_loses_nothing(database) {
        let config = StorageConfig { queue: 1024, ..config(&database) };
        let ledger = Ledger::open(&config, 1).await.unwrap();
        let mut booking = ledger.booking();
        booking.book(1, vec![entry("alice", "rig", 1, 1)]);
        assert_eq!(booking.progress().await, 1);

        let lock = database.lock("servers").await;
        let mut health = ledger.health();
        let mut number = 1;
        // The first batch is on its way with whatever was there; then the queue fills, and no further.
        while !booking.is_blocked() {
            number += 1;
            assert!(number < 5000, "the queue has no end");
            booking.book(number, vec![entry("alice", "rig", 1, 1)]);
            tokio::task::yield_now().await;
        }
        health.wait_for(|health| matches!(health, Health::Stalled(_))).await.unwrap();
        assert!(booking.is_blocked() && booking.is_pending());

        drop(lock);
        while booking.progress().await < number {}
        assert!(!booking.is_blocked());
        health.wait_for(|health| *health == Health::Writable).await.unwrap();
        assert_eq!(all_work(&database).await, [("alice".to_owned(), "rig".to_owned(), number, number.into())]);
        drop(booking);
        close(ledger).await;
    }

    async fn closing_waits_for_what_is_booked_or_says_what_is_lost(database) {
        let ledger = Ledger::open(&config(&database), 1).await.unwrap();
        let mut booking = ledger.booking();
        for number in 1..=100 {
            booking.book(number, vec![entry("alice", "rig", 1, 1)]);
        }
        drop(booking);
        close(ledger).await;
        assert_eq!(all_work(&database).await[0].2, 100);

        let ledger = Ledger::open(&config(&database), 1).await.unwrap();
        let lock = database.lock("servers").await;
        let mut booking = ledger.booking();
        booking.book(1, vec![entry("alice", "rig", 1, 1), entry("bob", "rig", 1, 1)]);
        drop(booking);
        let unflushed = ledger.close(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(unflushed.entries, 2);
        drop(lock);
    }

    async fn blocks_keep_what_became_of_them(database) {
        let ledger = Ledger::open(&config(&database), 3).await.unwrap();
        let block = |first: u8, state| {
            let mut hash = [0; 32];
            hash[0] = first;
            Block {
                hash,
                height: Some(1000),
                account: "alice".into(),
                worker: "rig".into(),
                solo: true,
                reward_sats: 312_500_000,
                state,
                found_ms: 1_700_000_000_000 + i64::from(first),
                raw: Some(vec![1, 2, 3]),
            }
        };
        let found = block(1, BlockState::Submitted);
        for first in 1..=4 {
            ledger.record_block(block(first, BlockState::Submitted)).await;
        }
        // Again: nothing changes.
        ledger.record_block(block(1, BlockState::Submitted)).await;
        ledger.record_state(block(2, BlockState::Submitted).hash, BlockState::Accepted(1)).await;
        ledger.record_state(block(3, BlockState::Submitted).hash, BlockState::Rejected("high-hash".to_owned())).await;
        ledger.record_state(block(4, BlockState::Submitted).hash, BlockState::Accepted(1)).await;
        ledger.record_state(block(4, BlockState::Submitted).hash, BlockState::Orphaned).await;

        let mut reader = Reader::open(&config(&database)).await.unwrap();
        let open = reader.open_blocks(3, i64::MAX).await.unwrap();
        let known = |first, state| Block { raw: None, ..block(first, state) };
        assert_eq!(open, [known(1, BlockState::Submitted), known(2, BlockState::Accepted(1))]);
        assert_eq!(reader.raw_block(&found.hash).await.unwrap(), found.raw);
        assert_eq!(reader.open_blocks(4, 0).await.unwrap(), []);
        // What ended lately can come back.
        assert_eq!(reader.open_blocks(3, 0).await.unwrap().len(), 4);
        let buried = block(2, BlockState::Submitted).hash;
        ledger.record_state(buried, BlockState::Confirmed(100)).await;
        assert_eq!(reader.raw_block(&buried).await.unwrap(), None);
        let states: Vec<_> = reader.newest_blocks(0, 3).await.unwrap().into_iter().map(|block| block.state).collect();
        assert_eq!(states, [
            BlockState::Orphaned,
            BlockState::Rejected("high-hash".to_owned()),
            BlockState::Confirmed(100),
        ]);
        drop(reader);
        close(ledger).await;
    }

    async fn a_ledger_of_a_newer_version_is_refused_and_left_alone(database) {
        close(Ledger::open(&config(&database), 1).await.unwrap()).await;
        database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000000')").await;
        let error = Ledger::open(&config(&database), 1).await.unwrap_err();
        assert!(matches!(error, Error::Newer { .. }), "{error}");
        assert!(error.to_string().contains("20990101000000"), "{error}");
    }

    async fn names_are_stored_as_they_came(database) {
        let ledger = Ledger::open(&config(&database), 1).await.unwrap();
        let mut booking = ledger.booking();
        let odd = "o'b\"r\u{0}ién\\ \u{1f980}";
        booking.book(1, vec![entry(odd, "<b>&amp;", 1, 1)]);
        booking.progress().await;
        let work = all_work(&database).await;
        assert_eq!(work[0].0, odd.replace('\0', "\u{fffd}"));
        assert_eq!(work[0].1, "<b>&amp;");
        drop(booking);
        close(ledger).await;
    }

    async fn many_connections_and_servers_add_up(database) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut ledgers = Vec::new();
        for server_id in 1..=2 {
            let ledger = Arc::new(Ledger::open(&config(&database), server_id).await.unwrap());
            for connection in 0..10_u64 {
                let mut booking = ledger.booking();
                tasks.spawn(async move {
                    for number in 1..=50 {
                        let worker = format!("w{}", (connection + number) % 7);
                        booking.book(number, vec![entry("alice", &worker, 2, 3), entry("bob", &worker, 1, 1)]);
                        while booking.progress().await < number {}
                    }
                });
            }
            ledgers.push(ledger);
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        let work = all_work(&database).await;
        let total = |account: &str| work.iter().filter(|row| row.0 == account).map(|row| (row.2, row.3))
            .fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
        assert_eq!(total("alice"), (2000, 3000));
        assert_eq!(total("bob"), (1000, 1000));
        for ledger in ledgers {
            close(Arc::into_inner(ledger).unwrap()).await;
        }
    }
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let url = format!("sqlite:{}", path.display());
    let config = StorageConfig {
        url,
        ..StorageConfig::default()
    };
    let missing = Reader::open(&config).await.err().unwrap();
    assert!(matches!(missing, Error::Empty(_)), "{missing}");
    std::fs::write(
        &path,
        "this is no database, and was never one; ".repeat(200),
    )
    .unwrap();
    let error = Ledger::open(&config, 1).await.unwrap_err().to_string();
    assert!(error.contains("ledger.sqlite"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_deleted_takes_no_more_shares() {
    let database = Database::sqlite();
    let ledger = Ledger::open(&config(&database), 1).await.unwrap();
    let mut booking = ledger.booking();
    booking.book(1, vec![entry("alice", "rig", 1, 1)]);
    assert_eq!(booking.progress().await, 1);
    let path = database.url().replace("sqlite:", "");
    std::fs::rename(&path, format!("{path}.old")).unwrap();
    let mut health = ledger.health();
    booking.book(2, vec![entry("alice", "rig", 1, 1)]);
    let stalled = health
        .wait_for(|health| matches!(health, Health::Stalled(_)))
        .await
        .unwrap()
        .clone();
    assert!(booking.is_pending(), "{stalled:?}");
    // Put back, it goes on, and nothing is missing.
    std::fs::rename(format!("{path}.old"), &path).unwrap();
    assert_eq!(booking.progress().await, 2);
    assert_eq!(all_work(&database).await[0].2, 2);
    drop(booking);
    close(ledger).await;
}

#[tokio::test]
async fn a_ledger_over_tls_checks_who_the_server_is() {
    let folder = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &certificate).unwrap();
    let Some(server) = database::Postgres::start_with_tls(&certificate, &key) else {
        return;
    };
    let at = |host: &str, ca_file: Option<&Path>| StorageConfig {
        url: format!(
            "{}?sslmode=require",
            server.url().replace("127.0.0.1", host)
        ),
        ca_file: ca_file.map(Path::to_owned),
        ..StorageConfig::default()
    };
    let ledger = Ledger::open(&at("localhost", Some(&ca_file)), 1)
        .await
        .unwrap();
    let mut booking = ledger.booking();
    booking.book(1, vec![entry("alice", "rig", 1, 1)]);
    assert_eq!(booking.progress().await, 1);
    drop(booking);
    close(ledger).await;
    // Another name than the certificate's; and nobody who vouches for it.
    for config in [at("127.0.0.1", Some(&ca_file)), at("localhost", None)] {
        let error = Ledger::open(&config, 1).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let config = StorageConfig {
        url: "postgres://pool:hunter2@db.example/ledger".to_owned(),
        ..StorageConfig::default()
    };
    assert!(!config.shown().contains("hunter2"), "{}", config.shown());
    let toml = service::config::to_redacted_toml(&config).unwrap();
    assert!(!toml.contains("hunter2"), "{toml}");
}

#[test]
fn what_is_no_database_is_refused_by_its_key() {
    for url in [
        "postgres://host/db?user=pool&password=hunter2",
        "sqlite:file::memory:",
        "",
        "sqlite:",
        "sqlite::memory:",
        "mysql://host/db",
        "ledger.sqlite",
    ] {
        let config = StorageConfig {
            url: url.to_owned(),
            ..StorageConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("storage.url: "), "{url}: {error}");
    }
}
