//! The two databases behind one set of operations.

mod postgres;
mod rows;
mod sqlite;
mod statements;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use diesel::result::Error as DatabaseError;
use storage::{Postgres, Sqlite, Url};

use self::statements as sql;
use crate::{
    batch::Batch,
    block::shown,
    journal::{Fold, Place, Row, Unreadable},
    report::Minutes,
};

pub(crate) use self::rows::{BlockRow, WorkRow};

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub id: i64,
    pub boot: i64,
}

/// The answer to a commit that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// The batch is in, now or since an earlier try.
    Yes,
    /// A later start of the same server writes.
    TakenOver,
}

/// What there was to fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Folded {
    /// Nothing.
    Nothing,
    /// The batches up to this place.
    UpTo {
        place: Place,
        /// There is more behind it.
        more: bool,
    },
    /// Nothing, because this is the oldest batch. It stays where it is, and others can be folded behind its place.
    Unreadable(Unreadable),
    /// A later start of the same server writes.
    TakenOver,
}

/// What there was to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RolledUp {
    /// A minute; there may be more.
    Minute,
    Nothing,
    /// A later start of the same server writes.
    TakenOver,
}

/// An open database.
pub(crate) enum Connection {
    Sqlite(sqlite::Connection),
    Postgres(Box<postgres::Connection>),
}

/// Opens a database that is there; `create` makes the file where it is not.
pub(crate) async fn connect(url: &Url, create: bool) -> Result<Connection, storage::Error> {
    Ok(match url {
        Url::Sqlite(path) => Sqlite::open(path, create).await?.into(),
        Url::Postgres { text, ca_file } => Postgres::open(text, ca_file.as_deref()).await?.into(),
    })
}

impl storage::Database for Connection {
    async fn reopen(url: &Url) -> Result<Self, storage::Error> {
        connect(url, false).await
    }
}

impl From<Sqlite> for Connection {
    fn from(database: Sqlite) -> Self {
        Self::Sqlite(sqlite::Connection(database))
    }
}

impl From<Postgres> for Connection {
    fn from(database: Postgres) -> Self {
        Self::Postgres(Box::new(postgres::Connection(database)))
    }
}

impl Connection {
    /// Brings the tables up to date; refuses those of a later version.
    pub(crate) async fn migrate(self) -> Result<Self, storage::Error> {
        Ok(match self {
            Self::Sqlite(connection) => connection.0.migrate(sqlite::MIGRATIONS).await?.into(),
            Self::Postgres(connection) => connection.0.migrate(postgres::MIGRATIONS).await?.into(),
        })
    }

    /// Whether there is a ledger in it.
    pub(crate) async fn has_tables(&mut self) -> bool {
        match self {
            Self::Sqlite(connection) => connection.has_tables().await,
            Self::Postgres(connection) => connection.has_tables().await,
        }
    }

    /// Counts a start of the server; gives its number.
    pub(crate) async fn count_start(&mut self, server_id: i64) -> Result<i64, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.count_start(server_id).await,
            Self::Postgres(connection) => connection.count_start(server_id).await,
        }
    }

    /// Writes the batch in one transaction, or finds that it is there.
    pub(crate) async fn commit(
        &mut self,
        server: Server,
        batch: Arc<Batch>,
    ) -> Result<Committed, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.commit(server, batch).await,
            Self::Postgres(connection) => connection.commit(server, &batch).await,
        }
    }

    /// Whether no later start of the server writes. It writes to the server's row, which shows that there can be writes.
    pub(crate) async fn is_last_start(&mut self, server: Server) -> Result<bool, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.is_last_start(server).await,
            Self::Postgres(connection) => connection.is_last_start(server).await,
        }
    }

    /// Adds this server's oldest batches in the journal behind a place, of this start and of earlier ones, to the sums, as
    /// many as make a short transaction.
    pub(crate) async fn fold(
        &mut self,
        server: Server,
        after: Place,
    ) -> Result<Folded, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.fold(server, after).await,
            Self::Postgres(connection) => connection.fold(server, after).await,
        }
    }

    /// Moves this server's oldest minute before `before` into its hour.
    pub(crate) async fn roll_up(
        &mut self,
        server: Server,
        before: i64,
    ) -> Result<RolledUp, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.roll_up(server, before).await,
            Self::Postgres(connection) => connection.roll_up(server, before).await,
        }
    }

    /// Work in the sums, and batches that are not in them, both of one moment.
    pub(crate) async fn work(
        &mut self,
        window: Minutes,
    ) -> Result<(Vec<WorkRow>, Vec<Row>), DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.work(window).await,
            Self::Postgres(connection) => connection.work(window).await,
        }
    }

    /// The whole block, where it is kept.
    pub(crate) async fn raw_block(
        &mut self,
        hash: &[u8; 32],
    ) -> Result<Option<Vec<u8>>, DatabaseError> {
        let rows = match self {
            Self::Sqlite(connection) => connection.raw_block(shown(hash)).await?,
            Self::Postgres(connection) => connection.raw_block(shown(hash)).await?,
        };
        Ok(rows.into_iter().next().and_then(|row| row.raw))
    }

    /// Blocks, without what they consist of.
    pub(crate) async fn blocks(&mut self, wanted: Blocks) -> Result<Vec<BlockRow>, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.blocks(wanted).await,
            Self::Postgres(connection) => connection.blocks(wanted).await,
        }
    }
}

impl Folded {
    /// Of what was made of these rows.
    fn new(fold: Fold<'_>, rows: &[Row]) -> Self {
        let is_all = rows.len() < sql::OLDEST_BATCHES_LIMIT
            && rows.last().map(|row| (row.boot, row.batch)) == fold.last;
        match (fold.last, fold.unreadable) {
            (Some(place), _) => Self::UpTo {
                place,
                more: !is_all,
            },
            (None, Some(unreadable)) => Self::Unreadable(unreadable),
            (None, None) => Self::Nothing,
        }
    }
}

/// Which blocks to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blocks {
    /// Those of a server whose fate is open, the oldest first; with orphans and rejected ones that became so since
    /// then.
    Open { server_id: i64, ended_since_ms: i64 },
    /// This many of all that were found since then.
    Newest { since_ms: i64, count: i64 },
}

impl Committed {
    /// Of the number of servers that have this batch.
    fn from_count(there: i64) -> Self {
        if there > 0 {
            Self::Yes
        } else {
            Self::TakenOver
        }
    }
}

impl Blocks {
    /// The statement and its two parameters.
    fn statement(self) -> (&'static str, i64, i64) {
        match self {
            Self::Open {
                server_id,
                ended_since_ms,
            } => (sql::OPEN_BLOCKS, server_id, ended_since_ms),
            Self::Newest { since_ms, count } => (sql::NEWEST_BLOCKS, since_ms, count),
        }
    }
}
