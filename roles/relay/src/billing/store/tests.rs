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
    Arc::new(Batch::new(number, rows.collect::<BTreeMap<_, _>>()))
}

async fn sums(connection: &mut Connection, step: Step) -> Vec<(i64, String, u64, u128)> {
    let rows = usage(connection, WINDOW, step).await.unwrap();
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

async fn counts_once(url: &str) {
    let url = place(url);
    let mut connection = prepare(&url).await.unwrap();
    let writing = |relay_id, writer| Writing { relay_id, writer };
    assert_eq!(last_hour(&mut connection).await.unwrap(), None);

    let huge = (1_u128 << 90) + (1 << 40) - 1;
    let first = batch(
        1,
        &[(24, "a", 1, huge), (25, "a", 2, huge), (24, "=b", 4, 7)],
    );
    for _ in 0..3 {
        let committed = commit(&mut connection, writing(1, 1), Arc::clone(&first)).await;
        committed.unwrap();
    }
    let second = batch(2, &[(25, "a", 8, 1), (48, "a", 16, 1)]);
    commit(&mut connection, writing(1, 1), second)
        .await
        .unwrap();
    let other = batch(1, &[(24, "a", 32, 1)]);
    commit(&mut connection, writing(2, -2), other)
        .await
        .unwrap();

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

    assert_eq!(last_hour(&mut connection).await.unwrap(), Some(48));

    // Another start of the same relay has numbers of its own.
    let again = batch(1, &[(24, "a", 64, 1)]);
    commit(&mut connection, writing(1, 3), again).await.unwrap();
    let whole = [row(24, "=b", 4, 7), row(24, "a", 123, 2 * huge + 4)];
    assert_eq!(sums(&mut connection, Step::Whole).await, whole);
}

database::on_both! {
    async fn a_batch_counts_once_and_sums_are_exact(database) {
        counts_once(&database.url()).await;
    }

    async fn the_most_that_can_be_claimed_makes_no_bill_impossible(database) {
        let mut connection = prepare(&place(&database.url())).await.unwrap();
        let writing = Writing { relay_id: 1, writer: 1 };
        for number in 1..=5 {
            let hours = [24, 24 + number].map(|hour| {
                let usage = Usage {
                    bytes_sent: u64::MAX,
                    work: u128::MAX,
                    ..Usage::default()
                };
                ((hour, "liar".to_owned()), usage)
            });
            let honest = Usage {
                bytes_sent: 1,
                work: 1,
                ..Usage::default()
            };
            let honest = ((24, "honest".to_owned()), honest);
            let rows = hours.into_iter().chain([honest]).collect();
            let batch = Arc::new(Batch::new(number, rows));
            commit(&mut connection, writing, Arc::clone(&batch)).await.unwrap();
            assert!(batch.refused().is_empty());
        }
        let rows = usage(&mut connection, WINDOW, Step::Whole).await.unwrap();
        let bills: Vec<_> = rows.iter().map(|row| (&*row.client, row.usage())).collect();
        let [("honest", honest), ("liar", liar)] = &bills[..] else {
            panic!("{bills:?}");
        };
        assert_eq!((honest.bytes_sent, honest.work), (5, 5));
        assert_eq!(liar.bytes_sent, 6 * MOST.unsigned_abs());
        assert!(liar.work > 6 << 92);
    }
}

#[test]
fn both_databases_have_the_same_tables() {
    for (sqlite, postgres) in [
        (
            include_str!("../../../migrations/sqlite/2026-11-21-190000_usage/up.sql"),
            include_str!("../../../migrations/postgres/2026-11-21-190000_usage/up.sql"),
        ),
        (
            include_str!("../../../migrations/sqlite/2026-11-21-201500_writers/up.sql"),
            include_str!("../../../migrations/postgres/2026-11-21-201500_writers/up.sql"),
        ),
    ] {
        assert_eq!(sqlite.replace(") WITHOUT ROWID;", ");"), postgres);
    }
}
