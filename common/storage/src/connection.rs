//! Either of the two databases.

use std::fmt;

use diesel_migrations::EmbeddedMigrations;

use crate::{Database, Error, Postgres, Sqlite, Url};

/// An open database. Whoever has statements of its own for each kind looks which it is.
pub enum Connection {
    /// A file.
    Sqlite(Sqlite),
    /// A server.
    Postgres(Box<Postgres>),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        })
    }
}

impl Connection {
    /// Opens it; `create` makes SQLite's file where it is not.
    ///
    /// # Errors
    /// [`Error::Open`]
    pub async fn open(url: &Url, create: bool) -> Result<Self, Error> {
        Ok(match url {
            Url::Sqlite(path) => Self::Sqlite(Sqlite::open(path, create).await?),
            Url::Postgres { text, ca_file } => {
                Self::Postgres(Box::new(Postgres::open(text, ca_file.as_deref()).await?))
            }
        })
    }

    /// Brings the tables up to date, with the migrations for its kind.
    ///
    /// # Errors
    /// [`Error::Newer`], [`Error::Open`]
    pub async fn migrate(
        self,
        sqlite: EmbeddedMigrations,
        postgres: EmbeddedMigrations,
    ) -> Result<Self, Error> {
        Ok(match self {
            Self::Sqlite(database) => Self::Sqlite(database.migrate(sqlite).await?),
            Self::Postgres(database) => Self::Postgres(Box::new(database.migrate(postgres).await?)),
        })
    }
}

impl Database for Connection {
    async fn reopen(url: &Url) -> Result<Self, Error> {
        Self::open(url, false).await
    }
}
