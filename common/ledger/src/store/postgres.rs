//! What PostgreSQL is asked.

use std::collections::BTreeMap;

use diesel::{
    QueryDsl as _, QueryResult, sql_query,
    sql_types::{Array, BigInt, Bool, Text},
};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::{Postgres, to_columns};

use super::{
    Blocks, Committed, Folded, RolledUp, Server,
    rows::{BlockRow, ChangedBlock, FoundBlock, RawRow, Value, WorkRow, blocks},
    sql,
};
use crate::{
    batch::{Batch, BlockChange},
    block::shown,
    journal::{Fold, Key, Place, Row, Sum},
    report::Minutes,
};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

const INSERT_WORK: &str = "INSERT INTO work_minutes \
     (server_id, minute, account, worker, solo, shares, work_high, work_low) \
     SELECT $1, * FROM UNNEST($2, $3, $4, $5, $6, $7, $8)";

pub(crate) struct Connection(pub(super) Postgres);

impl Connection {
    pub(super) async fn has_tables(&mut self) -> bool {
        sql_query(sql::HAS_TABLES)
            .load::<Value>(self.0.connection())
            .await
            .is_ok()
    }

    pub(super) async fn count_start(&mut self, server_id: i64) -> QueryResult<i64> {
        let boot = sql_query(sql::COUNT_START).bind::<BigInt, _>(server_id);
        Ok(boot.get_result::<Value>(self.0.connection()).await?.value)
    }

    pub(super) async fn commit(&mut self, server: Server, batch: &Batch) -> QueryResult<Committed> {
        let connection = self.0.connection();
        if batch.blocks.is_empty() {
            // What changes something is one statement, and so one transaction and one answer to wait for.
            return Ok(append(connection, server, batch).await?.into());
        }
        connection
            .transaction(async |connection| {
                let appended = append(connection, server, batch).await?;
                if appended == Appended::Now {
                    for change in &batch.blocks {
                        write_block(connection, server, change).await?;
                    }
                }
                Ok(appended.into())
            })
            .await
    }

    pub(super) async fn is_last_start(&mut self, server: Server) -> QueryResult<bool> {
        hold(self.0.connection(), server).await
    }

    pub(super) async fn fold(&mut self, server: Server, after: Place) -> QueryResult<Folded> {
        self.0
            .connection()
            .transaction(async |connection| fold(connection, server, after).await)
            .await
    }

    pub(super) async fn roll_up(&mut self, server: Server, before: i64) -> QueryResult<RolledUp> {
        self.0
            .connection()
            .transaction(async |connection| {
                wait_for_no_lock(connection).await?;
                if !hold(connection, server).await? {
                    return Ok(RolledUp::TakenOver);
                }
                let oldest = sql_query(sql::OLDEST_MINUTE)
                    .bind::<BigInt, _>(before)
                    .bind::<BigInt, _>(server.id)
                    .load::<Value>(connection)
                    .await?;
                let [Value { value: minute }, ..] = oldest.as_slice() else {
                    return Ok(RolledUp::Nothing);
                };
                for statement in [sql::ADD_HOUR, sql::DROP_MINUTE] {
                    sql_query(statement)
                        .bind::<BigInt, _>(minute)
                        .bind::<BigInt, _>(server.id)
                        .execute(connection)
                        .await?;
                }
                Ok(RolledUp::Minute)
            })
            .await
    }

    pub(super) async fn work(&mut self, window: Minutes) -> QueryResult<(Vec<WorkRow>, Vec<Row>)> {
        // Both of one moment.
        self.0
            .connection()
            .build_transaction()
            .repeatable_read()
            .read_only()
            .run(async |connection| {
                let work = sql_query(sql::WORK)
                    .bind::<BigInt, _>(window.first)
                    .bind::<BigInt, _>(window.end)
                    .bind::<BigInt, _>(window.first_hour())
                    .bind::<BigInt, _>(window.end_hour())
                    .load(connection)
                    .await?;
                Ok((work, sql_query(sql::JOURNAL).load(connection).await?))
            })
            .await
    }

    pub(super) async fn raw_block(&mut self, hash: String) -> QueryResult<Vec<RawRow>> {
        sql_query(sql::RAW_BLOCK)
            .bind::<Text, _>(hash)
            .load(self.0.connection())
            .await
    }

    pub(super) async fn blocks(&mut self, wanted: Blocks) -> QueryResult<Vec<BlockRow>> {
        let (statement, first, second) = wanted.statement();
        sql_query(statement)
            .bind::<BigInt, _>(first)
            .bind::<BigInt, _>(second)
            .load(self.0.connection())
            .await
    }
}

async fn append(
    connection: &mut AsyncPgConnection,
    server: Server,
    batch: &Batch,
) -> QueryResult<Appended> {
    let append = sql::Append {
        server,
        batch: batch.number,
        work: batch.work.as_bytes(),
    };
    if append.execute(connection).await? > 0 {
        return Ok(Appended::Now);
    }
    let there = sql_query(sql::BATCH_IS_THERE)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(server.boot)
        .bind::<BigInt, _>(batch.number)
        .get_result::<Value>(connection)
        .await?;
    Ok(Appended::Not(Committed::from_count(there.value)))
}

/// What became of a batch's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appended {
    /// It is in the journal since this transaction, and its blocks are to follow.
    Now,
    /// There was nothing to be done, or nothing that may be done.
    Not(Committed),
}

impl From<Appended> for Committed {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Now => Self::Yes,
            Appended::Not(committed) => committed,
        }
    }
}

/// A table that somebody else has locked for long must not hold up commits, which come after this on the connection.
async fn wait_for_no_lock(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    sql_query("SET LOCAL lock_timeout = '100ms'")
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether this is the server's last start; then nobody else writes for it until the end of the transaction.
async fn hold(connection: &mut AsyncPgConnection, server: Server) -> QueryResult<bool> {
    let held = sql_query(sql::HOLD_SERVER)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(server.boot)
        .execute(connection)
        .await?;
    Ok(held > 0)
}

async fn fold(
    connection: &mut AsyncPgConnection,
    server: Server,
    after: Place,
) -> QueryResult<Folded> {
    wait_for_no_lock(connection).await?;
    if !hold(connection, server).await? {
        return Ok(Folded::TakenOver);
    }
    let rows: Vec<Row> = sql_query(sql::OLDEST_BATCHES)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(after.0)
        .bind::<BigInt, _>(after.1)
        .load(connection)
        .await?;
    let fold = Fold::of(&rows);
    if let Some((boot, batch)) = fold.last {
        add_work(connection, server, &fold.sums).await?;
        sql_query(sql::DROP_BATCHES)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(after.0)
            .bind::<BigInt, _>(after.1)
            .bind::<BigInt, _>(boot)
            .bind::<BigInt, _>(batch)
            .execute(connection)
            .await?;
        sql_query(sql::NOTE_BATCH)
            .bind::<BigInt, _>(batch)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(boot)
            .execute(connection)
            .await?;
    }
    Ok(Folded::new(fold, &rows))
}

async fn add_work(
    connection: &mut AsyncPgConnection,
    server: Server,
    sums: &BTreeMap<Key<'_>, Sum>,
) -> QueryResult<usize> {
    let rows = || sums.iter();
    let columns: Vec<_> = rows().map(|(_, sum)| to_columns(sum.work)).collect();
    let shares = rows().map(|(_, sum)| sum.shares.cast_signed());
    sql_query(format!("{INSERT_WORK}{}", sql::ADD_WORK))
        .bind::<BigInt, _>(server.id)
        .bind::<Array<BigInt>, _>(rows().map(|(key, _)| key.minute).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows().map(|(key, _)| key.account).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows().map(|(key, _)| key.worker).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(rows().map(|(key, _)| key.solo).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(shares.collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(columns.iter().map(|(high, _)| *high).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(columns.iter().map(|(_, low)| *low).collect::<Vec<_>>())
        .execute(connection)
        .await
}

async fn write_block(
    connection: &mut AsyncPgConnection,
    server: Server,
    change: &BlockChange,
) -> QueryResult<usize> {
    match change {
        BlockChange::Found(block) => {
            diesel::insert_into(blocks::table)
                .values(FoundBlock::new(server, block))
                .on_conflict_do_nothing()
                .execute(connection)
                .await
        }
        BlockChange::State { hash, state, at_ms } => {
            diesel::update(blocks::table.find(shown(hash)))
                .set(ChangedBlock::new(state, *at_ms))
                .execute(connection)
                .await
        }
    }
}
