//! What PostgreSQL is asked.

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::Postgres;

use super::{Batch, Committed, Hours, Step, UsageRow, Value, Writing, column, sql};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

pub(in crate::billing) struct Connection(pub(super) Postgres);

impl Connection {
    pub(super) async fn has_tables(&mut self) -> bool {
        sql_query(sql::ANY_RELAY)
            .load::<Value>(self.0.connection())
            .await
            .is_ok()
    }

    pub(super) async fn count_start(&mut self, relay_id: i64) -> QueryResult<i64> {
        let boot = sql_query(sql::COUNT_START).bind::<BigInt, _>(relay_id);
        Ok(boot.get_result::<Value>(self.0.connection()).await?.value)
    }

    pub(super) async fn commit(
        &mut self,
        writing: Writing,
        batch: &Batch,
    ) -> QueryResult<Committed> {
        self.0
            .connection()
            .transaction(async |connection| commit(connection, writing, batch).await)
            .await
    }

    pub(super) async fn usage(&mut self, window: Hours, step: Step) -> QueryResult<Vec<UsageRow>> {
        sql_query(sql::USAGE)
            .bind::<BigInt, _>(window.first)
            .bind::<BigInt, _>(window.end)
            .bind::<BigInt, _>(step.hours())
            .load(self.0.connection())
            .await
    }
}

async fn commit(
    connection: &mut AsyncPgConnection,
    writing: Writing,
    batch: &Batch,
) -> QueryResult<Committed> {
    let taken = sql_query(sql::TAKE_BATCH)
        .bind::<BigInt, _>(batch.number)
        .bind::<BigInt, _>(writing.id)
        .bind::<BigInt, _>(writing.boot)
        .execute(connection)
        .await?;
    if taken == 0 {
        let there = sql_query(sql::BATCH_IS_THERE)
            .bind::<BigInt, _>(writing.id)
            .bind::<BigInt, _>(writing.boot)
            .bind::<BigInt, _>(batch.number)
            .get_result::<Value>(connection)
            .await?;
        return Ok(Committed::from_count(there.value));
    }
    for ((hour, client), usage) in &batch.rows {
        let (work_high, work_low) = storage::to_columns(usage.work);
        sql_query(sql::ADD_USAGE)
            .bind::<BigInt, _>(hour)
            // Its text cannot hold a zero byte.
            .bind::<Text, _>(client.replace('\0', "\u{fffd}"))
            .bind::<BigInt, _>(writing.id)
            .bind::<BigInt, _>(column(usage.bytes_sent))
            .bind::<BigInt, _>(column(usage.bytes_received))
            .bind::<BigInt, _>(column(usage.submits))
            .bind::<BigInt, _>(column(usage.accepted))
            .bind::<BigInt, _>(column(usage.rejected))
            .bind::<BigInt, _>(work_high)
            .bind::<BigInt, _>(work_low)
            .bind::<BigInt, _>(column(usage.connection_ms))
            .execute(connection)
            .await?;
    }
    Ok(Committed::Yes)
}
