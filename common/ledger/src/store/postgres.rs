//! PostgreSQL.

use std::{error::Error as _, path::Path, sync::Arc, time::Duration};

use diesel::{
    QueryDsl as _, QueryResult,
    connection::SimpleConnection,
    pg::Pg,
    result::Error as DatabaseError,
    sql_query,
    sql_types::{Array, BigInt, Bool, Text},
};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
    async_connection_wrapper::AsyncConnectionWrapper,
};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;
use tokio_postgres::{NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    BlockRow, Blocks, ChangedBlock, Committed, FoundBlock, Migrating, RawRow, RolledUp, Server,
    Value, WorkRow, blocks, sql,
};
use crate::{
    batch::{Batch, BlockChange, to_columns},
    block::shown,
    report::Minutes,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// How long a server may take to let us in, or to acknowledge what was sent.
const ANSWER: Duration = Duration::from_secs(15);

/// A commit is on disk when it is answered, and a table that somebody has locked is waited for with an end.
const SETTINGS: &str = "SET synchronous_commit = on; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '60s';";

/// What migrations can run on.
type Blocking = AsyncConnectionWrapper<AsyncPgConnection>;

/// One server at a time brings tables up to date; the number is this ledger's own.
const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_lock(7521983764853059436)";
const UNLOCK_MIGRATIONS: &str = "SELECT pg_advisory_unlock(7521983764853059436)";

const INSERT_WORK: &str = "INSERT INTO work_minutes \
     (server_id, minute, account, worker, solo, shares, work_high, work_low) \
     SELECT $1, * FROM UNNEST($2, $3, $4, $5, $6, $7, $8)";

pub(crate) struct Connection(AsyncPgConnection);

impl Connection {
    pub(super) async fn open(url: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let mut connection = timeout(ANSWER, establish(url, ca_file))
            .await
            .unwrap_or_else(|_| Err("no answer".to_owned()))?;
        connection
            .batch_execute(SETTINGS)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self(connection))
    }

    /// On a blocking thread, because migrations are not asynchronous.
    pub(super) async fn migrate(self) -> Result<Self, Migrating> {
        let migrating = tokio::task::spawn_blocking(move || {
            let mut connection = Blocking::from(self.0);
            let failed = |error: DatabaseError| Migrating::Failed(error.to_string());
            // Where migrations fail, the lock ends with the connection.
            SimpleConnection::batch_execute(&mut connection, LOCK_MIGRATIONS).map_err(failed)?;
            super::run_migrations::<Pg>(&mut connection, MIGRATIONS)?;
            SimpleConnection::batch_execute(&mut connection, UNLOCK_MIGRATIONS).map_err(failed)?;
            Ok(Self(connection.into_inner()))
        });
        migrating
            .await
            .map_err(|error| Migrating::Failed(error.to_string()))?
    }

    pub(super) async fn has_tables(&mut self) -> bool {
        sql_query(sql::ANY_SERVER)
            .load::<Value>(&mut self.0)
            .await
            .is_ok()
    }

    pub(super) async fn count_start(&mut self, server_id: i64) -> QueryResult<i64> {
        let boot = sql_query(sql::COUNT_START).bind::<BigInt, _>(server_id);
        Ok(boot.get_result::<Value>(&mut self.0).await?.value)
    }

    pub(super) async fn commit(&mut self, server: Server, batch: &Batch) -> QueryResult<Committed> {
        self.0
            .transaction(async |connection| commit(connection, server, batch).await)
            .await
    }

    pub(super) async fn roll_up(&mut self, server: Server, before: i64) -> QueryResult<RolledUp> {
        self.0
            .transaction(async |connection| {
                let held = sql_query(sql::HOLD_SERVER)
                    .bind::<BigInt, _>(server.id)
                    .bind::<BigInt, _>(server.boot)
                    .execute(connection)
                    .await?;
                if held == 0 {
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

    pub(super) async fn work(&mut self, window: Minutes) -> QueryResult<Vec<WorkRow>> {
        sql_query(sql::WORK)
            .bind::<BigInt, _>(window.first)
            .bind::<BigInt, _>(window.end)
            .bind::<BigInt, _>(window.first_hour())
            .bind::<BigInt, _>(window.end_hour())
            .load(&mut self.0)
            .await
    }

    pub(super) async fn raw_block(&mut self, hash: String) -> QueryResult<Vec<RawRow>> {
        sql_query(sql::RAW_BLOCK)
            .bind::<Text, _>(hash)
            .load(&mut self.0)
            .await
    }

    pub(super) async fn blocks(&mut self, wanted: Blocks) -> QueryResult<Vec<BlockRow>> {
        let (statement, first, second) = wanted.statement();
        sql_query(statement)
            .bind::<BigInt, _>(first)
            .bind::<BigInt, _>(second)
            .load(&mut self.0)
            .await
    }
}

/// With TLS where the URL says `sslmode=require`.
async fn establish(url: &str, ca_file: Option<&Path>) -> Result<AsyncPgConnection, String> {
    let mut config: tokio_postgres::Config = url.parse().map_err(words)?;
    // So that a network that goes away without a word is noticed.
    config.tcp_user_timeout(ANSWER).keepalives_idle(ANSWER);
    let connected = if config.get_ssl_mode() == SslMode::Require {
        let (client, connection) = config.connect(tls(ca_file)?).await.map_err(words)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    } else {
        let (client, connection) = config.connect(NoTls).await.map_err(words)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    };
    connected.map_err(|error| error.to_string())
}

/// The server has to prove that it is who the URL says.
fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    let certificates = match ca_file {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(
            "there is no certificate that the server's could be checked with; set storage.ca_file"
                .to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// All that an error says; the reason stands in its source.
fn words(error: tokio_postgres::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn commit(
    connection: &mut AsyncPgConnection,
    server: Server,
    batch: &Batch,
) -> QueryResult<Committed> {
    let taken = sql_query(sql::TAKE_BATCH)
        .bind::<BigInt, _>(batch.number)
        .bind::<BigInt, _>(server.id)
        .bind::<BigInt, _>(server.boot)
        .execute(connection)
        .await?;
    if taken == 0 {
        let there = sql_query(sql::BATCH_IS_THERE)
            .bind::<BigInt, _>(server.id)
            .bind::<BigInt, _>(server.boot)
            .bind::<BigInt, _>(batch.number)
            .get_result::<Value>(connection)
            .await?;
        return Ok(Committed::from_count(there.value));
    }
    if !batch.work.is_empty() {
        add_work(connection, server, batch).await?;
    }
    for change in &batch.blocks {
        write_block(connection, server, change).await?;
    }
    Ok(Committed::Yes)
}

async fn add_work(
    connection: &mut AsyncPgConnection,
    server: Server,
    batch: &Batch,
) -> QueryResult<usize> {
    let rows = || batch.work.iter();
    let columns: Vec<_> = rows().map(|(_, sum)| to_columns(sum.work)).collect();
    sql_query(format!("{INSERT_WORK}{}", sql::ADD_WORK))
        .bind::<BigInt, _>(server.id)
        .bind::<Array<BigInt>, _>(rows().map(|(key, _)| key.minute).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows().map(|(key, _)| &*key.account).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows().map(|(key, _)| &*key.worker).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(rows().map(|(key, _)| key.solo).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(
            rows()
                .map(|(_, sum)| sum.shares.cast_signed())
                .collect::<Vec<_>>(),
        )
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
