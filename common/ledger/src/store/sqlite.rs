//! What SQLite is asked.

use std::sync::Arc;

use diesel::{
    Connection as _, QueryDsl as _, QueryResult, RunQueryDsl, SqliteConnection,
    query_builder::{AstPass, QueryFragment, QueryId},
    sql_query,
    sql_types::{BigInt, Bool, Text},
    sqlite::Sqlite as Backend,
};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::{Sqlite, to_columns};

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

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

const INSERT_WORK: &str = "INSERT INTO work_minutes \
     (minute, account, worker, solo, server_id, shares, work_high, work_low) VALUES (";

pub(crate) struct Connection(pub(super) Sqlite);

impl Connection {
    pub(super) async fn has_tables(&mut self) -> bool {
        self.0
            .read(|connection| sql_query(sql::HAS_TABLES).load::<Value>(connection))
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

    pub(super) async fn is_last_start(&mut self, server: Server) -> QueryResult<bool> {
        self.0
            .write(move |connection| hold(connection, server))
            .await
    }

    pub(super) async fn fold(&mut self, server: Server, after: Place) -> QueryResult<Folded> {
        self.0
            .write(move |connection| fold(connection, server, after))
            .await
    }

    pub(super) async fn roll_up(&mut self, server: Server, before: i64) -> QueryResult<RolledUp> {
        self.0
            .write(move |connection| {
                if !hold(connection, server)? {
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

    pub(super) async fn work(&mut self, window: Minutes) -> QueryResult<(Vec<WorkRow>, Vec<Row>)> {
        let both = move |connection: &mut SqliteConnection| {
            let work = sql_query(sql::WORK)
                .bind::<BigInt, _>(window.first)
                .bind::<BigInt, _>(window.end)
                .bind::<BigInt, _>(window.first_hour())
                .bind::<BigInt, _>(window.end_hour())
                .load(connection)?;
            Ok((work, sql_query(sql::JOURNAL).load(connection)?))
        };
        // A transaction reads one moment.
        self.0
            .read(move |connection| connection.transaction(both))
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
    let append = sql::Append {
        server,
        batch: batch.number,
        work: batch.work.as_bytes(),
    };
    if append.execute(connection)? == 0 {
        let there = sql_query(sql::BATCH_IS_THERE)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(server.boot)
            .bind::<BigInt, _>(batch.number)
            .get_result::<Value>(connection)?;
        return Ok(Committed::from_count(there.value));
    }
    for change in &batch.blocks {
        write_block(connection, server, change)?;
    }
    Ok(Committed::Yes)
}

/// Whether this is the server's last start; then nobody else writes for it until the end of the transaction.
fn hold(connection: &mut SqliteConnection, server: Server) -> QueryResult<bool> {
    let held = sql_query(sql::HOLD_SERVER)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(server.boot)
        .execute(connection)?;
    Ok(held > 0)
}

fn fold(connection: &mut SqliteConnection, server: Server, after: Place) -> QueryResult<Folded> {
    if !hold(connection, server)? {
        return Ok(Folded::TakenOver);
    }
    let rows: Vec<Row> = sql_query(sql::OLDEST_BATCHES)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(after.0)
        .bind::<BigInt, _>(after.1)
        .load(connection)?;
    let fold = Fold::of(&rows);
    if let Some((boot, batch)) = fold.last {
        for (key, sum) in &fold.sums {
            let add = AddWork::new(server, key, *sum);
            add.execute(connection)?;
        }
        sql_query(sql::DROP_BATCHES)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(after.0)
            .bind::<BigInt, _>(after.1)
            .bind::<BigInt, _>(boot)
            .bind::<BigInt, _>(batch)
            .execute(connection)?;
        sql_query(sql::NOTE_BATCH)
            .bind::<BigInt, _>(batch)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(boot)
            .execute(connection)?;
    }
    Ok(Folded::new(fold, &rows))
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

/// Adds to a worker's row. It has a type so that it stays prepared, as [`sql::Append`] does.
struct AddWork<'a> {
    server: Server,
    key: &'a Key<'a>,
    shares: i64,
    /// High and low.
    work: (i64, i64),
}

impl<'a> AddWork<'a> {
    fn new(server: Server, key: &'a Key<'a>, sum: Sum) -> Self {
        Self {
            server,
            key,
            shares: sum.shares.cast_signed(),
            work: to_columns(sum.work),
        }
    }
}

impl QueryId for AddWork<'_> {
    type QueryId = AddWork<'static>;
}

impl<Connection> RunQueryDsl<Connection> for AddWork<'_> {}

impl QueryFragment<Backend> for AddWork<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Backend>) -> QueryResult<()> {
        out.push_sql(INSERT_WORK);
        out.push_bind_param::<BigInt, _>(&self.key.minute)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.key.account)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.key.worker)?;
        out.push_sql(", ");
        out.push_bind_param::<Bool, _>(&self.key.solo)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.server.id)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.shares)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.work.0)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.work.1)?;
        out.push_sql(")");
        out.push_sql(sql::ADD_WORK);
        Ok(())
    }
}
