//! What SQLite is asked.

use std::sync::Arc;

use diesel::{
    QueryDsl as _, QueryResult, RunQueryDsl, SqliteConnection,
    result::Error as DatabaseError,
    sql_query,
    sql_types::{BigInt, Text},
};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::Sqlite;

use super::{
    BlockRow, Blocks, ChangedBlock, Committed, FoundBlock, RawRow, RolledUp, Server, Value,
    WorkRow, blocks, sql,
};
use crate::{
    batch::{Batch, BlockChange, to_columns},
    block::shown,
    report::Minutes,
};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// One statement for a whole batch: the rows come as one JSON text.
const INSERT_WORK: &str = "INSERT INTO work_minutes \
     (minute, account, worker, solo, server_id, shares, work_high, work_low) \
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, $1, value ->> 4, value ->> 5, value ->> 6 \
     FROM json_each($2) WHERE true";

pub(crate) struct Connection(pub(super) Sqlite);

impl Connection {
    pub(super) async fn has_tables(&mut self) -> bool {
        self.0
            .read(|connection| sql_query(sql::ANY_SERVER).load::<Value>(connection))
            .await
            .is_ok()
    }

    pub(super) async fn count_start(&mut self, server_id: i64) -> QueryResult<i64> {
        self.0
            .write(move |connection| {
                let boot = sql_query(sql::COUNT_START).bind::<BigInt, _>(server_id);
                Ok(boot.get_result::<Value>(connection)?.value)
            })
            .await
    }

    pub(super) async fn commit(
        &mut self,
        server: Server,
        batch: Arc<Batch>,
    ) -> QueryResult<Committed> {
        self.0
            .write(move |connection| commit(connection, server, &batch))
            .await
    }

    pub(super) async fn roll_up(&mut self, server: Server, before: i64) -> QueryResult<RolledUp> {
        self.0
            .write(move |connection| {
                let held = sql_query(sql::HOLD_SERVER)
                    .bind::<BigInt, _>(server.id)
                    .bind::<BigInt, _>(server.boot)
                    .execute(connection)?;
                if held == 0 {
                    return Ok(RolledUp::TakenOver);
                }
                let oldest = sql_query(sql::OLDEST_MINUTE)
                    .bind::<BigInt, _>(before)
                    .bind::<BigInt, _>(server.id)
                    .load::<Value>(connection)?;
                let [Value { value: minute }, ..] = oldest.as_slice() else {
                    return Ok(RolledUp::Nothing);
                };
                for statement in [sql::ADD_HOUR, sql::DROP_MINUTE] {
                    sql_query(statement)
                        .bind::<BigInt, _>(minute)
                        .bind::<BigInt, _>(server.id)
                        .execute(connection)?;
                }
                Ok(RolledUp::Minute)
            })
            .await
    }

    pub(super) async fn work(&mut self, window: Minutes) -> QueryResult<Vec<WorkRow>> {
        self.0
            .read(move |connection| {
                sql_query(sql::WORK)
                    .bind::<BigInt, _>(window.first)
                    .bind::<BigInt, _>(window.end)
                    .bind::<BigInt, _>(window.first_hour())
                    .bind::<BigInt, _>(window.end_hour())
                    .load(connection)
            })
            .await
    }

    pub(super) async fn raw_block(&mut self, hash: String) -> QueryResult<Vec<RawRow>> {
        self.0
            .read(move |connection| {
                sql_query(sql::RAW_BLOCK)
                    .bind::<Text, _>(hash)
                    .load(connection)
            })
            .await
    }

    pub(super) async fn blocks(&mut self, wanted: Blocks) -> QueryResult<Vec<BlockRow>> {
        self.0
            .read(move |connection| {
                let (statement, first, second) = wanted.statement();
                sql_query(statement)
                    .bind::<BigInt, _>(first)
                    .bind::<BigInt, _>(second)
                    .load(connection)
            })
            .await
    }
}

fn commit(
    connection: &mut SqliteConnection,
    server: Server,
    batch: &Batch,
) -> QueryResult<Committed> {
    let taken = sql_query(sql::TAKE_BATCH)
        .bind::<BigInt, _>(batch.number)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(server.boot)
        .execute(connection)?;
    if taken == 0 {
        let there = sql_query(sql::BATCH_IS_THERE)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(server.boot)
            .bind::<BigInt, _>(batch.number)
            .get_result::<Value>(connection)?;
        return Ok(Committed::from_count(there.value));
    }
    if !batch.work.is_empty() {
        sql_query(format!("{INSERT_WORK}{}", sql::ADD_WORK))
            .bind::<BigInt, _>(server.id)
            .bind::<Text, _>(rows_as_json(batch)?)
            .execute(connection)?;
    }
    for change in &batch.blocks {
        write_block(connection, server, change)?;
    }
    Ok(Committed::Yes)
}

fn rows_as_json(batch: &Batch) -> QueryResult<String> {
    let rows: Vec<_> = batch
        .work
        .iter()
        .map(|(key, sum)| {
            let (high, low) = to_columns(sum.work);
            let (account, worker) = (&*key.account, &*key.worker);
            (key.minute, account, worker, key.solo, sum.shares, high, low)
        })
        .collect();
    serde_json::to_string(&rows).map_err(|error| DatabaseError::SerializationError(Box::new(error)))
}

fn write_block(
    connection: &mut SqliteConnection,
    server: Server,
    change: &BlockChange,
) -> QueryResult<usize> {
    match change {
        BlockChange::Found(block) => diesel::insert_into(blocks::table)
            .values(FoundBlock::new(server, block))
            .on_conflict_do_nothing()
            .execute(connection),
        BlockChange::State { hash, state, at_ms } => {
            diesel::update(blocks::table.find(shown(hash)))
                .set(ChangedBlock::new(state, *at_ms))
                .execute(connection)
        }
    }
}
