//! The same test on both databases.

use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use tempfile::TempDir;

use crate::Postgres;

/// A database of a test's own. It is there when somebody opens it.
#[derive(Debug)]
pub enum Database {
    /// A file in a folder of its own.
    Sqlite(TempDir),
    /// A server of its own.
    Postgres(Postgres),
}

/// Nobody else writes while it is held.
#[allow(missing_debug_implementations, reason = "connections have none")]
pub enum Lock {
    /// On the whole file.
    Sqlite(SqliteConnection),
    /// On a table.
    Postgres(Box<AsyncPgConnection>),
}

impl Database {
    /// A file that is not there yet.
    ///
    /// # Panics
    /// If there can be no temporary folder.
    #[must_use]
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("temporary folder"))
    }

    /// An empty database, see [`Postgres::start`].
    #[must_use]
    pub fn postgres() -> Option<Self> {
        Postgres::start().map(Self::Postgres)
    }

    /// What to put into `storage.url`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite:{}", file(folder)),
            Self::Postgres(server) => server.url(),
        }
    }

    /// Keeps others from writing; on PostgreSQL only those who need this table.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn lock(&self, table: &str) -> Lock {
        match self {
            Self::Sqlite(folder) => Lock::Sqlite(on_sqlite(
                folder,
                "PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE",
            )),
            Self::Postgres(server) => {
                let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
                Lock::Postgres(Box::new(on_postgres(server, &lock).await))
            }
        }
    }

    /// Runs statements that both databases understand.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn execute(&self, statements: &str) {
        match self {
            Self::Sqlite(folder) => {
                on_sqlite(folder, &format!("PRAGMA busy_timeout = 5000; {statements}"));
            }
            Self::Postgres(server) => {
                on_postgres(server, statements).await;
            }
        }
    }

    /// These bytes, as they stand in a statement.
    #[must_use]
    pub fn literal(&self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sqlite(_) => format!("X'{hex}'"),
            Self::Postgres(_) => format!("'\\x{hex}'"),
        }
    }
}

fn file(folder: &TempDir) -> String {
    folder.path().join("test.sqlite").display().to_string()
}

fn on_sqlite(folder: &TempDir, statements: &str) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(&file(folder)).expect("the file");
    connection.batch_execute(statements).expect("statements");
    connection
}

async fn on_postgres(server: &Postgres, statements: &str) -> AsyncPgConnection {
    let connection = AsyncPgConnection::establish(&server.url()).await;
    let mut connection = connection.expect("the server");
    connection
        .batch_execute(statements)
        .await
        .expect("statements");
    connection
}

/// Makes two tests of each function: one on SQLite, one on PostgreSQL where it is installed. A function has one argument:
/// a [`Database`].
#[macro_export]
macro_rules! on_both {
    ($(async fn $name:ident($database:ident) $body:block)+) => {
        $(async fn $name($database: $crate::Database) $body)+

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::Database::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(database) = $crate::Database::postgres() {
                    super::$name(database).await;
                }
            })+
        }
    };
}
