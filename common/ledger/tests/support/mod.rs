//! The same tests on both databases.

use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use tempfile::TempDir;

/// A database of a test's own.
pub(crate) enum Database {
    Sqlite(TempDir),
    Postgres(database::Postgres),
}

/// Nobody else writes while it is held.
pub(crate) enum Lock {
    Sqlite(#[allow(dead_code)] SqliteConnection),
    Postgres(#[allow(dead_code)] Box<AsyncPgConnection>),
}

impl Database {
    pub(crate) fn sqlite() -> Option<Self> {
        Some(Self::Sqlite(tempfile::tempdir().unwrap()))
    }

    pub(crate) fn postgres() -> Option<Self> {
        database::Postgres::start().map(Self::Postgres)
    }

    fn path(folder: &TempDir) -> String {
        folder.path().join("ledger.sqlite").display().to_string()
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite:{}", Self::path(folder)),
            Self::Postgres(server) => server.url(),
        }
    }

    pub(crate) async fn lock(&self) -> Lock {
        match self {
            Self::Sqlite(folder) => {
                let mut connection = SqliteConnection::establish(&Self::path(folder)).unwrap();
                connection
                    .batch_execute("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE")
                    .unwrap();
                Lock::Sqlite(connection)
            }
            Self::Postgres(server) => {
                let mut connection = AsyncPgConnection::establish(&server.url()).await.unwrap();
                let lock = "BEGIN; LOCK TABLE servers IN ACCESS EXCLUSIVE MODE";
                connection.batch_execute(lock).await.unwrap();
                Lock::Postgres(Box::new(connection))
            }
        }
    }

    pub(crate) async fn execute(&self, statement: &str) {
        match self {
            Self::Sqlite(folder) => {
                let mut connection = SqliteConnection::establish(&Self::path(folder)).unwrap();
                connection.batch_execute(statement).unwrap();
            }
            Self::Postgres(server) => {
                let mut connection = AsyncPgConnection::establish(&server.url()).await.unwrap();
                connection.batch_execute(statement).await.unwrap();
            }
        }
    }
}

/// Makes two tests of each function: one on SQLite, one on PostgreSQL where it is installed.
macro_rules! on_both {
    ($(async fn $name:ident($database:ident) $body:block)+) => {
        $(async fn $name($database: Database) $body)+

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(database) = super::Database::sqlite() {
                    super::$name(database).await;
                }
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(database) = super::Database::postgres() {
                    super::$name(database).await;
                }
            })+
        }
    };
}
pub(crate) use on_both;
