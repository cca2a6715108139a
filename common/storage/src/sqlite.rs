//! SQLite: a file with WAL, each transaction one visit to a blocking thread.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use diesel::{
    Connection as _, QueryResult, SqliteConnection,
    connection::SimpleConnection,
    result::{DatabaseErrorKind, Error as DatabaseError},
    sqlite::Sqlite as Backend,
};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_migrations::EmbeddedMigrations;

use crate::{
    Error, Url,
    migrations::{self, Failed},
};

/// Full synchronisation, so that a commit survives the loss of power; a second for other processes that write.
const SETTINGS: &str =
    "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";

/// An open file.
pub struct Sqlite {
    connection: SyncConnectionWrapper<SqliteConnection>,
    file: File,
}

impl Sqlite {
    /// Opens the file; `create` makes it where it is not, with its folder.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub async fn open(path: &str, create: bool) -> Result<Self, Error> {
        let place = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&place, create)).await;
        let opened = opened.unwrap_or_else(|error| Err(error.to_string()));
        let (connection, file) = opened.map_err(|problem| Error::Open {
            url: Url::Sqlite(path.to_owned()).shown(),
            problem,
        })?;
        Ok(Self {
            connection: SyncConnectionWrapper::new(connection),
            file,
        })
    }

    /// Brings the tables up to date.
    ///
    /// # Errors
    /// [`Error::Newer`], [`Error::Open`]
    pub async fn migrate(mut self, known: EmbeddedMigrations) -> Result<Self, Error> {
        let migrated = self
            .connection
            .spawn_blocking(|connection| Ok(migrations::run::<Backend>(connection, known)))
            .await;
        migrated
            .unwrap_or_else(|error| Err(Failed::Other(error.to_string())))
            .map_err(|failed| failed.at(&Url::Sqlite(self.file.path.display().to_string())))?;
        Ok(self)
    }

    /// Runs statements that read.
    ///
    /// # Errors
    /// The database's.
    pub async fn read<T, F>(&mut self, work: F) -> QueryResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    {
        self.connection.spawn_blocking(work).await
    }

    /// Runs statements in one transaction. It takes the write lock at the start, so that none fails half-way because of
    /// another process.
    ///
    /// # Errors
    /// The database's, and one where the file is no longer at its path.
    pub async fn write<T, F>(&mut self, work: F) -> QueryResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    {
        let file = self.file.clone();
        let write = move |connection: &mut SqliteConnection| {
            connection.immediate_transaction(|connection| {
                file.check()?;
                work(connection)
            })
        };
        self.connection.spawn_blocking(write).await
    }
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
            "{path} has been deleted or replaced; put it back, or restart this service for a new one"
        );
        Err(DatabaseError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand,
            Box::new(problem),
        ))
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
