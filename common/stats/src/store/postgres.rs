//! What PostgreSQL is asked. Rows come as one array for each column.

use diesel::{
    QueryResult, sql_query,
    sql_types::{Array, BigInt, Double, Text},
};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use storage::Postgres;

use super::{Batch, Committed, DocumentRow, Old, SampleRow, SeriesRow, Value, sql};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

const DOCUMENTS: &str =
    "INSERT INTO documents (role, name, key, body) SELECT * FROM UNNEST($1, $2, $3, $4)";

const DELETE_DOCUMENTS: &str = "DELETE FROM documents WHERE (role, name, key) IN \
     (SELECT * FROM UNNEST($1, $2, $3))";

const SERIES: &str =
    "INSERT INTO series (series, role, name, subject) SELECT * FROM UNNEST($1, $2, $3, $4)";

const SAMPLES: &str =
    "INSERT INTO samples (series, seconds, start_ms, hashes) SELECT * FROM UNNEST($1, $2, $3, $4)";

const READ_SAMPLES: &str = "SELECT series, seconds, start_ms, hashes FROM samples \
     WHERE series = ANY($1) AND seconds = $2 AND start_ms >= $3 AND start_ms < $4 ORDER BY series, start_ms";

const DELETE_SAMPLES: &str =
    "DELETE FROM samples WHERE series = ANY($1) AND seconds = $2 AND start_ms < $3";

/// Of series that are to go.
const DELETE_SERIES: [&str; 2] = [
    "DELETE FROM samples WHERE series = ANY($1)",
    "DELETE FROM series WHERE series = ANY($1)",
];

pub(super) async fn count_start(database: &mut Postgres) -> QueryResult<i64> {
    let boot = sql_query(sql::COUNT_START);
    let boot = boot.get_result::<Value>(database.connection()).await?;
    Ok(boot.value)
}

pub(super) async fn documents(database: &mut Postgres) -> QueryResult<Vec<DocumentRow>> {
    sql_query(sql::DOCUMENTS).load(database.connection()).await
}

pub(super) async fn series(database: &mut Postgres) -> QueryResult<Vec<SeriesRow>> {
    sql_query(sql::SERIES).load(database.connection()).await
}

pub(super) async fn samples(
    database: &mut Postgres,
    series: Vec<i64>,
    seconds: i64,
    from_ms: i64,
    to_ms: i64,
) -> QueryResult<Vec<SampleRow>> {
    sql_query(READ_SAMPLES)
        .bind::<Array<BigInt>, _>(series)
        .bind::<BigInt, _>(seconds)
        .bind::<BigInt, _>(from_ms)
        .bind::<BigInt, _>(to_ms)
        .load(database.connection())
        .await
}

pub(super) async fn commit(
    database: &mut Postgres,
    boot: i64,
    batch: &Batch,
) -> QueryResult<Committed> {
    database
        .connection()
        .transaction(async |connection| {
            if !hold(connection, boot).await? {
                return Ok(Committed::TakenOver);
            }
            put_documents(connection, &batch.documents).await?;
            delete_documents(connection, &batch.gone).await?;
            put_series(connection, &batch.series).await?;
            put_samples(connection, &batch.samples).await?;
            Ok(Committed::Yes)
        })
        .await
}

pub(super) async fn clean(database: &mut Postgres, boot: i64, old: &Old) -> QueryResult<Committed> {
    database
        .connection()
        .transaction(async |connection| {
            if !hold(connection, boot).await? {
                return Ok(Committed::TakenOver);
            }
            for (seconds, before_ms) in &old.before_ms {
                sql_query(DELETE_SAMPLES)
                    .bind::<Array<BigInt>, _>(&old.series)
                    .bind::<BigInt, _>(seconds)
                    .bind::<BigInt, _>(before_ms)
                    .execute(connection)
                    .await?;
            }
            for statement in DELETE_SERIES {
                if !old.gone.is_empty() {
                    sql_query(statement)
                        .bind::<Array<BigInt>, _>(&old.gone)
                        .execute(connection)
                        .await?;
                }
            }
            Ok(Committed::Yes)
        })
        .await
}

async fn hold(connection: &mut AsyncPgConnection, boot: i64) -> QueryResult<bool> {
    let held = sql_query(sql::HOLD).bind::<BigInt, _>(boot);
    Ok(held.execute(connection).await? > 0)
}

async fn put_documents(
    connection: &mut AsyncPgConnection,
    rows: &[DocumentRow],
) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(format!("{DOCUMENTS}{}", sql::PUT_DOCUMENTS))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.role))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.name))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.key))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.body))
        .execute(connection)
        .await
        .map(drop)
}

async fn delete_documents(
    connection: &mut AsyncPgConnection,
    rows: &[(String, String, String)],
) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(DELETE_DOCUMENTS)
        .bind::<Array<Text>, _>(column(rows, |(role, _, _)| &**role))
        .bind::<Array<Text>, _>(column(rows, |(_, name, _)| &**name))
        .bind::<Array<Text>, _>(column(rows, |(_, _, key)| &**key))
        .execute(connection)
        .await
        .map(drop)
}

async fn put_series(connection: &mut AsyncPgConnection, rows: &[SeriesRow]) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(format!("{SERIES}{}", sql::PUT_SERIES))
        .bind::<Array<BigInt>, _>(column(rows, |row| row.series))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.role))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.name))
        .bind::<Array<Text>, _>(column(rows, |row| &*row.subject))
        .execute(connection)
        .await
        .map(drop)
}

async fn put_samples(connection: &mut AsyncPgConnection, rows: &[SampleRow]) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(format!("{SAMPLES}{}", sql::PUT_SAMPLES))
        .bind::<Array<BigInt>, _>(column(rows, |row| row.series))
        .bind::<Array<BigInt>, _>(column(rows, |row| row.seconds))
        .bind::<Array<BigInt>, _>(column(rows, |row| row.start_ms))
        .bind::<Array<Double>, _>(column(rows, |row| row.hashes))
        .execute(connection)
        .await
        .map(drop)
}

fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
