//! What the databases themselves are held to.

use database::on_both;

use super::*;
use crate::{
    Entry, Error, Ledger, Reader, StorageConfig,
    journal::{Key, Sum},
    report::{Minutes, add_up},
};

/// Longer than anything takes here.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(20);

fn batch(number: i64, rows: &[(i64, u64, u128)]) -> Arc<Batch> {
    let mut batch = Batch::new(number);
    for (minute, shares, work) in rows {
        let key = Key {
            minute: *minute,
            account: "alice",
            worker: "rig",
            solo: false,
        };
        let (shares, work) = (*shares, *work);
        batch.work.push(key, Sum { shares, work });
    }
    Arc::new(batch)
}

fn place(url: &str) -> Url {
    Url::parse(url, None).unwrap()
}

#[test]
fn both_databases_have_the_same_tables() {
    let sqlite = [
        include_str!("../../migrations/sqlite/2026-11-21-000000_work_and_blocks/up.sql"),
        include_str!("../../migrations/sqlite/2026-11-21-000001_journal/up.sql"),
    ];
    let postgres = [
        include_str!("../../migrations/postgres/2026-11-21-000000_work_and_blocks/up.sql"),
        include_str!("../../migrations/postgres/2026-11-21-000001_journal/up.sql"),
    ];
    let as_postgres = sqlite.map(|tables| {
        tables
            .replace(") WITHOUT ROWID;", ");")
            .replace("BLOB", "BYTEA")
    });
    assert_eq!(as_postgres, postgres);
}

async fn total(connection: &mut Connection, window: Minutes) -> (u64, u128) {
    let (rows, journal) = connection.work(window).await.unwrap();
    let work = add_up(&rows, &journal, window).unwrap();
    work.iter().fold((0, 0), |(shares, work), row| {
        (shares + row.shares, work + row.work)
    })
}

/// Batches in the journal, of all servers.
async fn in_journal(connection: &mut Connection) -> usize {
    connection.work(Minutes::ALL).await.unwrap().1.len()
}

on_both! {
    async fn a_batch_counts_once_and_rolling_up_changes_no_sum(database) {
        let url = place(&database.url());
        let connection = connect(&url, true).await.unwrap();
        let mut connection = connection.migrate().await.unwrap();
        let server = |id, boot| Server { id, boot };
        assert_eq!(connection.count_start(1).await.unwrap(), 1);
        assert_eq!(connection.count_start(2).await.unwrap(), 1);
        let first = batch(
            1,
            &[
                (60, 1, (1 << 40) + 1),
                (61, 2, (1 << 40) - 1),
                (119, 4, 7),
                (120, 8, 0),
            ],
        );
        for _ in 0..3 {
            let committed = connection.commit(server(1, 1), Arc::clone(&first)).await;
            assert_eq!(committed.unwrap(), Committed::Yes);
        }
        let other = batch(1, &[(61, 16, 1)]);
        connection.commit(server(2, 1), other).await.unwrap();
        let before = total(&mut connection, Minutes::ALL).await;
        assert_eq!(before, (31, (2 << 40) + 8));

        // A batch that is in the journal or was there is in; the answer to the first commit, or to the fold, may be lost.
        for in_journal_then in [2, 1, 1] {
            assert_eq!(in_journal(&mut connection).await, in_journal_then);
            let committed = connection.commit(server(1, 1), Arc::clone(&first)).await;
            assert_eq!(committed.unwrap(), Committed::Yes);
            assert_eq!(connection.fold(server(1, 1)).await.unwrap(), Folded::All);
            assert_eq!(total(&mut connection, Minutes::ALL).await, before);
        }
        connection.fold(server(2, 1)).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 0);

        let mut moved = 0;
        while connection.roll_up(server(1, 1), 120).await.unwrap() == RolledUp::Minute {
            moved += 1;
            assert_eq!(total(&mut connection, Minutes::ALL).await, before);
        }
        assert_eq!(moved, 3);
        // Hours count where they begin, and another server's minutes are its own to move.
        let hour = Minutes::of_ms(&(3_600_000..7_200_000));
        assert_eq!(total(&mut connection, hour).await.0, 23);
        let half = Minutes::of_ms(&(3_660_000..7_200_000));
        assert_eq!(total(&mut connection, half).await.0, 16);

        assert_eq!(connection.count_start(1).await.unwrap(), 2);
        let late = batch(2, &[(60, 32, 0)]);
        let committed = connection.commit(server(1, 1), late).await.unwrap();
        assert_eq!(committed, Committed::TakenOver);
        assert_eq!(
            connection.fold(server(1, 1)).await.unwrap(),
            Folded::TakenOver
        );
        let rolled_up = connection.roll_up(server(1, 1), 200).await.unwrap();
        assert_eq!(rolled_up, RolledUp::TakenOver);
        assert_eq!(total(&mut connection, Minutes::ALL).await, before);
    }

    async fn two_at_once_fold_and_move_work_once(database) {
        let url = place(&database.url());
        let first = connect(&url, true).await.unwrap();
        let mut first = first.migrate().await.unwrap();
        let mut second = connect(&url, false).await.unwrap();
        let boot = first.count_start(1).await.unwrap();
        let server = Server { id: 1, boot };
        for number in 1..=20 {
            let minutes = batch(number, &[(number, 5, 5)]);
            first.commit(server, minutes).await.unwrap();
            let (one, other) = tokio::join!(first.fold(server), second.fold(server));
            assert_eq!([one.unwrap(), other.unwrap()], [Folded::All, Folded::All]);
            let (one, other) = tokio::join!(first.roll_up(server, 1000), second.roll_up(server, 1000));
            let moved = [one.unwrap(), other.unwrap()];
            assert!(moved.contains(&RolledUp::Nothing), "{moved:?}");
            let sum = total(&mut first, Minutes::ALL).await;
            assert_eq!(sum.0, 5 * number.unsigned_abs());
        }
    }

    async fn a_journal_is_folded_by_the_next_start_and_counts_before_and_after(database) {
        let config = StorageConfig { url: database.url(), ..StorageConfig::default() };
        let url = place(&config.url);
        let mut connection = connect(&url, true).await.unwrap().migrate().await.unwrap();
        // Two pools that are killed when they have committed; the second never starts again.
        for id in [1, 2] {
            let boot = connection.count_start(id).await.unwrap();
            for number in 1..=300 {
                let committed = connection.commit(Server { id, boot }, batch(number, &[(60, 1, 2)])).await;
                assert_eq!(committed.unwrap(), Committed::Yes);
            }
        }
        let mut reader = Reader::open(&config).await.unwrap();
        let work = reader.work(Minutes::ALL).await.unwrap();
        assert_eq!((work[0].shares, work[0].work), (600, 1200));
        let ledger = Ledger::open(&config, 1).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 300);
        assert_eq!(reader.work(Minutes::ALL).await.unwrap(), work);
        let hour_after = Minutes::of_ms(&(7_200_000..10_800_000));
        assert_eq!(reader.work(hour_after).await.unwrap(), []);

        // Nothing but time brings what is committed out of the journal.
        let mut booking = ledger.booking();
        booking.book(1, vec![Entry {
            account: "alice".into(),
            worker: "rig".into(),
            solo: false,
            shares: 1,
            work: 1,
        }]);
        assert_eq!(booking.progress().await, 1);
        let folded = async {
            while in_journal(&mut connection).await > 300 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(PATIENCE, folded).await.unwrap();
        assert_eq!(total(&mut connection, Minutes::ALL).await, (601, 1201));
        // An orderly end leaves nothing to the next start.
        booking.book(2, Vec::new());
        booking.progress().await;
        drop(booking);
        ledger.close(PATIENCE).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 300);
    }

    async fn much_work_leaves_the_journal_at_once(database) {
        let config = StorageConfig {
            url: database.url(),
            ..StorageConfig::default()
        };
        let ledger = Ledger::open(&config, 1).await.unwrap();
        let mut connection = connect(&place(&config.url), false).await.unwrap();
        let entry = Entry {
            account: "a".repeat(128).into(),
            worker: "rig".into(),
            solo: false,
            shares: 1,
            work: 1,
        };
        let mut booking = ledger.booking();
        booking.book(1, vec![entry; 40_000]);
        assert_eq!(booking.progress().await, 1);
        let begun = std::time::Instant::now();
        while in_journal(&mut connection).await > 0 {
            assert!(begun.elapsed() < std::time::Duration::from_secs(9), "it waits for its time");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        assert_eq!(total(&mut connection, Minutes::ALL).await, (40_000, 40_000));
        drop(booking);
        ledger.close(PATIENCE).await.unwrap();
    }

    async fn a_batch_that_cannot_be_read_is_named_and_costs_no_work(database) {
        let config = StorageConfig { url: database.url(), ..StorageConfig::default() };
        let mut connection = connect(&place(&config.url), true).await.unwrap().migrate().await.unwrap();
        let boot = connection.count_start(1).await.unwrap();
        let server = Server { id: 1, boot };
        for number in [1, 2, 4] {
            connection.commit(server, batch(number, &[(60, 1, 2)])).await.unwrap();
        }
        for (bytes, problem) in [(&[2, 0][..], "newer version"), (&[1, 60], "damaged"), (&[], "damaged")] {
            let row = database.literal(bytes);
            database.execute(&format!("INSERT INTO journal VALUES (1, {boot}, 3, {row})")).await;
            let start = Ledger::open(&config, 1).await.unwrap_err();
            let mut reader = Reader::open(&config).await.unwrap();
            let read = reader.work(Minutes::ALL).await.unwrap_err();
            for error in [start, read] {
                let text = error.to_string();
                assert!(matches!(error, Error::Journal(_)), "{text}");
                assert!(text.contains("batch 3 of start 1 of server 1") && text.contains(problem), "{text}");
            }
            // Another server minds its own.
            Ledger::open(&config, 2).await.unwrap().close(PATIENCE).await.unwrap();
            // What came before it is folded, what comes after it stays, and it is still there to be mended.
            assert_eq!(in_journal(&mut connection).await, 2);
            database.execute("DELETE FROM journal WHERE batch = 3").await;
            assert_eq!(total(&mut connection, Minutes::ALL).await, (3, 6));
        }
        Ledger::open(&config, 1).await.unwrap().close(PATIENCE).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 0);
        assert_eq!(total(&mut connection, Minutes::ALL).await, (3, 6));
    }

    async fn a_batch_that_cannot_be_read_stops_no_commit(database) {
        let config = StorageConfig { url: database.url(), ..StorageConfig::default() };
        let ledger = Ledger::open(&config, 1).await.unwrap();
        let row = database.literal(&[9]);
        database.execute(&format!("INSERT INTO journal VALUES (1, 0, 1, {row})")).await;
        let mut booking = ledger.booking();
        for number in 1..=3 {
            booking.book(number, vec![Entry {
                account: "alice".into(),
                worker: "rig".into(),
                solo: false,
                shares: 1,
                work: 2,
            }]);
            assert_eq!(booking.progress().await, number);
        }
        drop(booking);
        // It tries to fold, and ends all the same.
        ledger.close(PATIENCE).await.unwrap();
        let mut connection = connect(&place(&config.url), false).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 4);
        database.execute("DELETE FROM journal WHERE boot = 0").await;
        assert_eq!(total(&mut connection, Minutes::ALL).await, (3, 6));
    }
}
