//! What the databases themselves are held to.

use database::on_both;

use super::*;
use crate::{
    Block, BlockState, Entry, Error, Ledger, Reader, StorageConfig,
    batch::BlockChange,
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
    batch.work.seal();
    Arc::new(batch)
}

const ALL: (i64, i64) = (0, 0);

/// Folds all that there is behind a place, and gives the last one.
async fn fold_all(connection: &mut Connection, server: Server) {
    let mut after = ALL;
    while let Folded::UpTo { place, .. } = connection.fold(server, after).await.unwrap() {
        after = place;
    }
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

async fn until_journal_has(batches: usize, connection: &mut Connection) {
    let folded = async {
        while in_journal(connection).await > batches {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(PATIENCE, folded).await.unwrap();
    assert_eq!(in_journal(connection).await, batches);
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
            fold_all(&mut connection, server(1, 1)).await;
            assert_eq!(total(&mut connection, Minutes::ALL).await, before);
        }
        fold_all(&mut connection, server(2, 1)).await;
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
            connection.fold(server(1, 1), ALL).await.unwrap(),
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
            let (one, other) = tokio::join!(first.fold(server, ALL), second.fold(server, ALL));
            let folded = [one.unwrap(), other.unwrap()];
            assert!(folded.contains(&Folded::Nothing), "{folded:?}");
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
        until_journal_has(300, &mut connection).await;
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
        until_journal_has(300, &mut connection).await;
        assert_eq!(total(&mut connection, Minutes::ALL).await, (601, 1201));
        // An orderly end leaves nothing to the next start.
        booking.book(2, Vec::new());
        booking.progress().await;
        drop(booking);
        ledger.close(PATIENCE).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 300);
    }

    async fn much_work_leaves_the_journal_piece_by_piece(database) {
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
        until_journal_has(0, &mut connection).await;
        assert_eq!(total(&mut connection, Minutes::ALL).await, (40_000, 40_000));
        drop(booking);
        ledger.close(PATIENCE).await.unwrap();
    }

    async fn a_batch_that_cannot_be_read_is_named_and_costs_no_other_work(database) {
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
            // A sum without it would be wrong, which does not keep the pool from going on.
            let mut reader = Reader::open(&config).await.unwrap();
            let error = reader.work(Minutes::ALL).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Journal(_)), "{text}");
            assert!(text.contains("batch 3 of start 1 of server 1") && text.contains(problem), "{text}");
            let ledger = Ledger::open(&config, 1).await.unwrap();
            // All others are folded, and it is still there to be mended.
            until_journal_has(1, &mut connection).await;
            ledger.close(PATIENCE).await.unwrap();
            database.execute("DELETE FROM journal WHERE batch = 3").await;
            assert_eq!(total(&mut connection, Minutes::ALL).await, (3, 6));
        }
    }

    async fn servers_that_share_a_ledger_fold_their_own(database) {
        let mut connection = connect(&place(&database.url()), true).await.unwrap().migrate().await.unwrap();
        // Ids, starts and batches that cannot be mistaken for each other.
        for _ in 0..3 {
            connection.count_start(4).await.unwrap();
        }
        for _ in 0..4 {
            connection.count_start(3).await.unwrap();
        }
        let (one, other) = (Server { id: 4, boot: 3 }, Server { id: 3, boot: 4 });
        for number in 1..=3 {
            connection.commit(one, batch(number, &[(60, 1, 1)])).await.unwrap();
        }
        fold_all(&mut connection, one).await;
        for number in 1..=5 {
            let committed = connection.commit(other, batch(number, &[(60, 10, 1)])).await.unwrap();
            assert_eq!(committed, Committed::Yes);
            assert_eq!(total(&mut connection, Minutes::ALL).await.0, 3 + 10 * number.unsigned_abs());
        }
        fold_all(&mut connection, other).await;
        // All of them come again, as when no answer had arrived.
        for (server, numbers) in [(one, 1..=3), (other, 1..=5)] {
            for number in numbers {
                let committed = connection.commit(server, batch(number, &[(60, 100, 1)])).await.unwrap();
                assert_eq!(committed, Committed::Yes);
            }
        }
        assert_eq!((total(&mut connection, Minutes::ALL).await.0, in_journal(&mut connection).await), (53, 0));
    }

    async fn a_start_that_was_taken_over_records_no_blocks(database) {
        let mut connection = connect(&place(&database.url()), true).await.unwrap().migrate().await.unwrap();
        let boot = connection.count_start(1).await.unwrap();
        connection.count_start(1).await.unwrap();
        let mut late = Batch::new(1);
        late.blocks.push(BlockChange::Found(Block {
            hash: [7; 32],
            height: Some(1),
            account: "alice".into(),
            worker: "rig".into(),
            solo: false,
            reward_sats: 1,
            state: BlockState::Submitted,
            found_ms: 1,
            raw: None,
        }));
        late.work.seal();
        let committed = connection.commit(Server { id: 1, boot }, Arc::new(late)).await.unwrap();
        assert_eq!(committed, Committed::TakenOver);
        let all = Blocks::Newest { since_ms: 0, count: 10 };
        assert_eq!(connection.blocks(all).await.unwrap().len(), 0);
    }

    async fn a_reader_sees_all_work_at_every_moment_of_a_fold(database) {
        let url = place(&database.url());
        let mut writer = connect(&url, true).await.unwrap().migrate().await.unwrap();
        let mut reader = connect(&url, false).await.unwrap();
        let boot = writer.count_start(1).await.unwrap();
        let server = Server { id: 1, boot };
        let mut number = 0;
        for round in 1..=10 {
            for _ in 0..20 {
                number += 1;
                let minutes: Vec<_> = (0..100).map(|minute| (minute, 1, 1)).collect();
                writer.commit(server, batch(number, &minutes)).await.unwrap();
            }
            let mut done = false;
            let folds = async {
                fold_all(&mut writer, server).await;
                while writer.roll_up(server, 50).await.unwrap() == RolledUp::Minute {}
            };
            tokio::pin!(folds);
            while !done {
                let read = async {
                    let (rows, journal) = reader.work(Minutes::ALL).await.unwrap();
                    let work = add_up(&rows, &journal, Minutes::ALL).unwrap();
                    assert_eq!(work[0].shares, round * 2000);
                };
                // The read is never given up, whatever the fold does in between.
                tokio::pin!(read);
                tokio::select! {
                    () = &mut folds => {
                        done = true;
                        read.await;
                    }
                    () = &mut read => {}
                }
            }
        }
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
        ledger.close(PATIENCE).await.unwrap();
        let mut connection = connect(&place(&config.url), false).await.unwrap();
        assert_eq!(in_journal(&mut connection).await, 1);
        database.execute("DELETE FROM journal WHERE boot = 0").await;
        assert_eq!(total(&mut connection, Minutes::ALL).await, (3, 6));
    }
}

#[tokio::test]
async fn a_table_that_is_locked_for_long_holds_up_no_commit() {
    let Some(database) = database::Database::postgres() else {
        return;
    };
    let config = StorageConfig {
        url: database.url(),
        ..StorageConfig::default()
    };
    let ledger = Ledger::open(&config, 1).await.unwrap();
    let health = ledger.health();
    let lock = database.lock("work_minutes").await;
    let mut booking = ledger.booking();
    let entry = Entry {
        account: "a".repeat(128).into(),
        worker: "rig".into(),
        solo: false,
        shares: 1,
        work: 1,
    };
    booking.book(1, vec![entry.clone(); 40_000]);
    for number in 2..=20 {
        booking.book(number, vec![entry.clone()]);
        while tokio::time::timeout(PATIENCE, booking.progress())
            .await
            .unwrap()
            < number
        {}
        assert_eq!(*health.borrow(), storage::Health::Writable);
    }
    drop(lock);
    drop(booking);
    ledger.close(PATIENCE).await.unwrap();
}
