//! What PostgreSQL is asked.

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::Postgres;

use super::{Batch, Hours, Step, UsageRow, Value, Writing, column, sql, work_columns};
use crate::billing::meter::{Key, Rows, Usage};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

pub(super) async fn has_tables(database: &mut Postgres) -> QueryResult<bool> {
    let tables = sql_query("SELECT COUNT(to_regclass('usage_hours')) AS value");
    let value = tables.get_result::<Value>(database.connection()).await?;
    Ok(value.value > Some(0))
}

pub(super) async fn last_hour(database: &mut Postgres) -> QueryResult<Option<i64>> {
    let last = sql_query(sql::LAST_HOUR);
    Ok(last.get_result::<Value>(database.connection()).await?.value)
}

pub(super) async fn commit(
    database: &mut Postgres,
    writing: Writing,
    batch: &Batch,
) -> QueryResult<()> {
    database
        .connection()
        .transaction(async |connection| write(connection, writing, batch).await)
        .await
}

pub(super) async fn usage(
    database: &mut Postgres,
    window: Hours,
    step: Step,
) -> QueryResult<Vec<UsageRow>> {
    sql_query(sql::USAGE)
        .bind::<BigInt, _>(window.first)
        .bind::<BigInt, _>(window.end)
        .bind::<BigInt, _>(step.hours())
        .load(database.connection())
        .await
}

async fn write(
    connection: &mut AsyncPgConnection,
    writing: Writing,
    batch: &Batch,
) -> QueryResult<()> {
    let taken = sql_query(sql::TAKE_BATCH)
        .bind::<BigInt, _>(writing.writer)
        .bind::<BigInt, _>(writing.relay_id)
        .bind::<BigInt, _>(batch.number)
        .execute(connection)
        .await?;
    if taken == 0 {
        return Ok(());
    }
    let mut refused = Rows::new();
    for (key, usage) in &batch.rows {
        if !batch.is_row_by_row() {
            let added = add(connection, writing, key, usage).await;
            added.inspect_err(|_| batch.go_row_by_row())?;
            continue;
        }
        // A savepoint, so that the others are not lost with it.
        let added = connection
            .transaction(async |connection| add(connection, writing, key, usage).await)
            .await;
        if let Err(error) = added {
            tracing::debug!(client = key.1, %error, "a row of the books is refused");
            refused.insert(key.clone(), *usage);
        }
    }
    batch.set_refused(refused);
    Ok(())
}

async fn add(
    connection: &mut AsyncPgConnection,
    writing: Writing,
    (hour, client): &Key,
    usage: &Usage,
) -> QueryResult<()> {
    let (work_high, work_low) = work_columns(usage.work);
    sql_query(sql::ADD_USAGE)
        .bind::<BigInt, _>(hour)
        // Its text cannot hold a zero byte.
        .bind::<Text, _>(client.replace('\0', "\u{fffd}"))
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
        .await
        .map(drop)
}
