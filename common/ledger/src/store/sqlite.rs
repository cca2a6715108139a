//! SQLite: a file with WAL, each transaction one visit to a blocking thread.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use diesel::{
    Connection as _, QueryDsl as _, QueryResult, RunQueryDsl, SqliteConnection,
    connection::SimpleConnection,
    result::{DatabaseErrorKind, Error as DatabaseError},
    sql_query,
    sql_types::{BigInt, Text},
    sqlite::Sqlite,
};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

use super::{
    BlockRow, Blocks, ChangedBlock, Committed, FoundBlock, Migrating, RawRow, RolledUp, Server,
    Value, WorkRow, blocks, sql,
};
use crate::{
    batch::{Batch, BlockChange, to_columns},
    block::shown,
    report::Minutes,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Full synchronisation, so that a commit survives the loss of power; a second for other processes that write.
const SETTINGS: &str =
    "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";

/// One statement for a whole batch: the rows come as one JSON text.
const INSERT_WORK: &str = "INSERT INTO work_minutes \
     (minute, account, worker, solo, server_id, shares, work_high, work_low) \
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, $1, value ->> 4, value ->> 5, value ->> 6 \
     FROM json_each($2) WHERE true";

pub(crate) struct Connection {
    connection: SyncConnectionWrapper<SqliteConnection>,
    file: File,
}

/// The file that is open. SQLite goes on writing to one that has been deleted, and what it commits there is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    path: Arc<Path>,
    device: u64,
    inode: u64,
}

impl File {
    fn at(path: Arc<Path>) -> io::Result<Self> {
        let metadata = fs::metadata(&path)?;
        Ok(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Whether it is still the one at its path.
    fn check(&self) -> QueryResult<()> {
        if Self::at(Arc::clone(&self.path)).is_ok_and(|there| there == *self) {
            return Ok(());
        }
        let path = self.path.display();
        let problem = format!(
            "{path} has been deleted or replaced; put it back, or restart the pool for a new ledger"
        );
        Err(DatabaseError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand,
            Box::new(problem),
        ))
    }
}

impl Connection {
    pub(super) async fn open(path: &str, create: bool) -> Result<Self, String> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&path, create)).await;
        let (connection, file) = opened.map_err(|error| error.to_string())??;
        Ok(Self {
            connection: SyncConnectionWrapper::new(connection),
            file,
        })
    }

    pub(super) async fn migrate(mut self) -> Result<Self, Migrating> {
        let migrated = self
            .connection
            .spawn_blocking(|connection| {
                Ok(super::run_migrations::<Sqlite>(connection, MIGRATIONS))
            })
            .await;
        migrated.map_err(|error| Migrating::Failed(error.to_string()))??;
        Ok(self)
    }

    pub(super) async fn has_tables(&mut self) -> bool {
        self.connection
            .spawn_blocking(|connection| sql_query(sql::ANY_SERVER).load::<Value>(connection))
            .await
            .is_ok()
    }

    pub(super) async fn count_start(&mut self, server_id: i64) -> QueryResult<i64> {
        self.transaction(move |connection| {
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
        let file = self.file.clone();
        self.transaction(move |connection| {
            file.check()?;
            commit(connection, server, &batch)
        })
        .await
    }

    pub(super) async fn roll_up(&mut self, server: Server, before: i64) -> QueryResult<RolledUp> {
        let file = self.file.clone();
        self.transaction(move |connection| {
            file.check()?;
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
        self.connection
            .spawn_blocking(move |connection| {
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
        self.connection
            .spawn_blocking(move |connection| {
                sql_query(sql::RAW_BLOCK)
                    .bind::<Text, _>(hash)
                    .load(connection)
            })
            .await
    }

    pub(super) async fn blocks(&mut self, wanted: Blocks) -> QueryResult<Vec<BlockRow>> {
        self.connection
            .spawn_blocking(move |connection| {
                let (statement, first, second) = wanted.statement();
                sql_query(statement)
                    .bind::<BigInt, _>(first)
                    .bind::<BigInt, _>(second)
                    .load(connection)
            })
            .await
    }

    /// Takes the write lock at the start, so that no transaction fails half-way because of another process.
    async fn transaction<T, F>(&mut self, work: F) -> QueryResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    {
        self.connection
            .spawn_blocking(move |connection| connection.immediate_transaction(work))
            .await
    }
}

fn open(path: &str, create: bool) -> Result<(SqliteConnection, File), String> {
    if !create && !Path::new(path).exists() {
        return Err("the file is gone".to_owned());
    }
    if let Some(folder) = Path::new(path)
        .parent()
        .filter(|f| !f.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let mut connection = SqliteConnection::establish(path).map_err(|error| error.to_string())?;
    connection
        .batch_execute(SETTINGS)
        .map_err(|error| error.to_string())?;
    let file = File::at(Path::new(path).into()).map_err(|error| error.to_string())?;
    Ok((connection, file))
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
