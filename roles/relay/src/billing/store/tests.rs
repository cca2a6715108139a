//! Both databases, held to the same.

use std::collections::BTreeMap;

use super::*;

const WINDOW: Hours = Hours {
    first: 0,
    end: 1000,
};

fn place(url: &str) -> Url {
    Url::parse(url, None).unwrap()
}

fn batch(number: i64, rows: &[(i64, &str, u64, u128)]) -> Arc<Batch> {
    let rows = rows.iter().map(|(hour, client, count, work)| {
        let usage = Usage {
            bytes_sent: *count,
            bytes_received: 2 * count,
            submits: 3 * count,
            accepted: 4 * count,
            rejected: 5 * count,
            work: *work,
            connection_ms: 6 * count,
        };
        ((*hour, (*client).to_owned()), usage)
    });
    Arc::new(Batch {
        number,
        rows: rows.collect::<BTreeMap<_, _>>(),
    })
}

async fn sums(connection: &mut Connection, step: Step) -> Vec<(i64, String, u64, u128)> {
    let rows = connection.usage(WINDOW, step).await.unwrap();
    rows.iter()
        .map(|row| {
            let usage = row.usage();
            assert_eq!(usage.bytes_received, 2 * usage.bytes_sent);
            assert_eq!(usage.submits, 3 * usage.bytes_sent);
            assert_eq!(usage.accepted, 4 * usage.bytes_sent);
            assert_eq!(usage.rejected, 5 * usage.bytes_sent);
            assert_eq!(usage.connection_ms, 6 * usage.bytes_sent);
            (
                row.first_hour,
                row.client.clone(),
                usage.bytes_sent,
                usage.work,
            )
        })
        .collect()
}

async fn a_batch_counts_once_and_sums_are_exact(url: &str) {
    let url = place(url);
    let connection = connect(&url, true).await.unwrap();
    let mut connection = connection.migrate().await.unwrap();
    let writing = |id, boot| Writing { id, boot };
    assert_eq!(connection.count_start(1).await.unwrap(), 1);
    assert_eq!(connection.count_start(2).await.unwrap(), 1);

    let huge = (1_u128 << 90) + (1 << 40) - 1;
    let first = batch(
        1,
        &[(24, "a", 1, huge), (25, "a", 2, huge), (24, "=b", 4, 7)],
    );
    for _ in 0..3 {
        let committed = connection.commit(writing(1, 1), Arc::clone(&first)).await;
        assert_eq!(committed.unwrap(), Committed::Yes);
    }
    let second = batch(2, &[(25, "a", 8, 1), (48, "a", 16, 1)]);
    connection.commit(writing(1, 1), second).await.unwrap();
    let other = batch(1, &[(24, "a", 32, 1)]);
    connection.commit(writing(2, 1), other).await.unwrap();

    let row = |hour, client: &str, count, work| (hour, client.to_owned(), count, work);
    assert_eq!(
        sums(&mut connection, Step::Hour).await,
        [
            row(24, "=b", 4, 7),
            row(24, "a", 33, huge + 1),
            row(25, "a", 10, huge + 1),
            row(48, "a", 16, 1),
        ]
    );
    assert_eq!(
        sums(&mut connection, Step::Day).await,
        [
            row(24, "=b", 4, 7),
            row(24, "a", 43, 2 * huge + 2),
            row(48, "a", 16, 1),
        ]
    );
    let whole = [row(24, "=b", 4, 7), row(24, "a", 59, 2 * huge + 3)];
    assert_eq!(sums(&mut connection, Step::Whole).await, whole);

    // The same relay has been started again: the earlier start can write no more.
    assert_eq!(connection.count_start(1).await.unwrap(), 2);
    let late = batch(3, &[(24, "a", 64, 1)]);
    let committed = connection.commit(writing(1, 1), late).await.unwrap();
    assert_eq!(committed, Committed::TakenOver);
    assert_eq!(sums(&mut connection, Step::Whole).await, whole);
}

#[tokio::test]
async fn a_batch_counts_once_and_sums_are_exact_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sqlite");
    a_batch_counts_once_and_sums_are_exact(&format!("sqlite:{}", path.display())).await;
}

#[tokio::test]
async fn a_batch_counts_once_and_sums_are_exact_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        a_batch_counts_once_and_sums_are_exact(&server.url()).await;
    }
}

#[test]
fn both_databases_have_the_same_tables() {
    let sqlite = include_str!("../../../migrations/sqlite/2026-11-21-190000_usage/up.sql");
    let postgres = include_str!("../../../migrations/postgres/2026-11-21-190000_usage/up.sql");
    assert_eq!(sqlite.replace(") WITHOUT ROWID;", ");"), postgres);
}
