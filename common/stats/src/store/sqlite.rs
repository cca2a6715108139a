//! What SQLite is asked. Rows come as one JSON text.

use std::sync::Arc;

use diesel::{
    QueryResult, RunQueryDsl, SqliteConnection,
    result::Error as DatabaseError,
    sql_query,
    sql_types::{BigInt, Text},
};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Serialize;
use storage::Sqlite;

use super::{Batch, Committed, DocumentRow, Old, SampleRow, SeriesRow, Value, sql};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

const DOCUMENTS: &str = "INSERT INTO documents (role, name, key, body) \
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE true";

const DELETE_DOCUMENTS: &str = "DELETE FROM documents WHERE (role, name, key) IN \
     (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1))";

const SERIES: &str = "INSERT INTO series (series, role, name, subject) \
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE true";

const SAMPLES: &str = "INSERT INTO samples (series, seconds, start_ms, hashes) \
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1) WHERE true";

const READ_SAMPLES: &str = "SELECT series, seconds, start_ms, hashes FROM samples \
     WHERE series IN (SELECT value FROM json_each($1)) AND seconds = $2 AND start_ms >= $3 AND start_ms < $4 \
     ORDER BY series, start_ms";

const DELETE_SAMPLES: &str = "DELETE FROM samples \
     WHERE series IN (SELECT value FROM json_each($1)) AND seconds = $2 AND start_ms < $3";

/// Of series that are to go.
const DELETE_SERIES: [&str; 2] = [
    "DELETE FROM samples WHERE series IN (SELECT value FROM json_each($1))",
    "DELETE FROM series WHERE series IN (SELECT value FROM json_each($1))",
];

pub(super) async fn count_start(database: &mut Sqlite) -> QueryResult<i64> {
    database
        .write(|connection| {
            let boot = sql_query(sql::COUNT_START).get_result::<Value>(connection)?;
            Ok(boot.value)
        })
        .await
}

pub(super) async fn documents(database: &mut Sqlite) -> QueryResult<Vec<DocumentRow>> {
    database
        .read(|connection| sql_query(sql::DOCUMENTS).load(connection))
        .await
}

pub(super) async fn series(database: &mut Sqlite) -> QueryResult<Vec<SeriesRow>> {
    database
        .read(|connection| sql_query(sql::SERIES).load(connection))
        .await
}

pub(super) async fn samples(
    database: &mut Sqlite,
    series: Vec<i64>,
    seconds: i64,
    from_ms: i64,
    to_ms: i64,
) -> QueryResult<Vec<SampleRow>> {
    let series = json(&series)?;
    database
        .read(move |connection| {
            sql_query(READ_SAMPLES)
                .bind::<Text, _>(series)
                .bind::<BigInt, _>(seconds)
                .bind::<BigInt, _>(from_ms)
                .bind::<BigInt, _>(to_ms)
                .load(connection)
        })
        .await
}

pub(super) async fn commit(
    database: &mut Sqlite,
    boot: i64,
    batch: Arc<Batch>,
) -> QueryResult<Committed> {
    database
        .write(move |connection| {
            if !hold(connection, boot)? {
                return Ok(Committed::TakenOver);
            }
            let documents = batch
                .documents
                .iter()
                .map(|row| (&row.role, &row.name, &row.key, &row.body));
            let series = batch
                .series
                .iter()
                .map(|row| (row.series, &row.role, &row.name, &row.subject));
            let samples = batch
                .samples
                .iter()
                .map(|row| (row.series, row.seconds, row.start_ms, row.hashes));
            let documents_put = format!("{DOCUMENTS}{}", sql::PUT_DOCUMENTS);
            put(connection, &documents_put, documents.collect())?;
            put(connection, DELETE_DOCUMENTS, batch.gone.iter().collect())?;
            let series_put = format!("{SERIES}{}", sql::PUT_SERIES);
            put(connection, &series_put, series.collect())?;
            let samples_put = format!("{SAMPLES}{}", sql::PUT_SAMPLES);
            put(connection, &samples_put, samples.collect())?;
            Ok(Committed::Yes)
        })
        .await
}

pub(super) async fn clean(
    database: &mut Sqlite,
    boot: i64,
    old: Arc<Old>,
) -> QueryResult<Committed> {
    database
        .write(move |connection| {
            if !hold(connection, boot)? {
                return Ok(Committed::TakenOver);
            }
            let series = json(&old.series)?;
            for (seconds, before_ms) in &old.before_ms {
                sql_query(DELETE_SAMPLES)
                    .bind::<Text, _>(&series)
                    .bind::<BigInt, _>(seconds)
                    .bind::<BigInt, _>(before_ms)
                    .execute(connection)?;
            }
            for statement in DELETE_SERIES {
                put(connection, statement, old.gone.iter().collect())?;
            }
            Ok(Committed::Yes)
        })
        .await
}

fn hold(connection: &mut SqliteConnection, boot: i64) -> QueryResult<bool> {
    let held = sql_query(sql::HOLD).bind::<BigInt, _>(boot);
    Ok(held.execute(connection)? > 0)
}

fn put<T: Serialize>(
    connection: &mut SqliteConnection,
    statement: &str,
    rows: Vec<T>,
) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(statement)
        .bind::<Text, _>(json(&rows)?)
        .execute(connection)
        .map(drop)
}

fn json(rows: &impl Serialize) -> QueryResult<String> {
    serde_json::to_string(rows).map_err(|error| DatabaseError::SerializationError(Box::new(error)))
}
