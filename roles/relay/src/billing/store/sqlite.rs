//! What SQLite is asked.

use std::sync::Arc;

use diesel::sql_types::{BigInt, Text};
use diesel::{Connection as _, QueryResult, RunQueryDsl, SqliteConnection, sql_query};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::Sqlite;

use super::{Batch, Hours, Step, UsageRow, Value, Writing, column, sql, work_columns};
use crate::billing::meter::{Key, Rows, Usage};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

pub(super) async fn has_tables(database: &mut Sqlite) -> QueryResult<bool> {
    let tables = "SELECT COUNT(*) AS value FROM sqlite_master WHERE name = 'usage_hours'";
    Ok(value(database, tables).await? > Some(0))
}

pub(super) async fn last_hour(database: &mut Sqlite) -> QueryResult<Option<i64>> {
    value(database, sql::LAST_HOUR).await
}

async fn value(database: &mut Sqlite, query: &'static str) -> QueryResult<Option<i64>> {
    database
        .read(move |connection| Ok(sql_query(query).get_result::<Value>(connection)?.value))
        .await
}

pub(super) async fn commit(
    database: &mut Sqlite,
    writing: Writing,
    batch: Arc<Batch>,
) -> QueryResult<()> {
    database
        .write(move |connection| write(connection, writing, &batch))
        .await
}

pub(super) async fn usage(
    database: &mut Sqlite,
    window: Hours,
    step: Step,
) -> QueryResult<Vec<UsageRow>> {
    database
        .read(move |connection| {
            sql_query(sql::USAGE)
                .bind::<BigInt, _>(window.first)
                .bind::<BigInt, _>(window.end)
                .bind::<BigInt, _>(step.hours())
                .load(connection)
        })
        .await
}

fn write(connection: &mut SqliteConnection, writing: Writing, batch: &Batch) -> QueryResult<()> {
    let taken = sql_query(sql::TAKE_BATCH)
        .bind::<BigInt, _>(writing.writer)
        .bind::<BigInt, _>(writing.relay_id)
        .bind::<BigInt, _>(batch.number)
        .execute(connection)?;
    if taken == 0 {
        return Ok(());
    }
    let mut refused = Rows::new();
    for (key, usage) in &batch.rows {
        if !batch.is_row_by_row() {
            let added = add(connection, writing, key, usage);
            added.inspect_err(|_| batch.go_row_by_row())?;
            continue;
        }
        // A savepoint, so that the others are not lost with it.
        let added = connection.transaction(|connection| add(connection, writing, key, usage));
        if let Err(error) = added {
            tracing::debug!(client = key.1, %error, "a row of the books is refused");
            refused.insert(key.clone(), *usage);
        }
    }
    batch.set_refused(refused);
    Ok(())
}

fn add(
    connection: &mut SqliteConnection,
    writing: Writing,
    (hour, client): &Key,
    usage: &Usage,
) -> QueryResult<()> {
    let (work_high, work_low) = work_columns(usage.work);
    sql_query(sql::ADD_USAGE)
        .bind::<BigInt, _>(hour)
        .bind::<Text, _>(client)
        .bind::<BigInt, _>(writing.relay_id)
        .bind::<BigInt, _>(column(usage.bytes_sent))
        .bind::<BigInt, _>(column(usage.bytes_received))
        .bind::<BigInt, _>(column(usage.submits))
        .bind::<BigInt, _>(column(usage.accepted))
        .bind::<BigInt, _>(column(usage.rejected))
        .bind::<BigInt, _>(work_high)
        .bind::<BigInt, _>(work_low)
        .bind::<BigInt, _>(column(usage.connection_ms))
        .execute(connection)
        .map(drop)
}
