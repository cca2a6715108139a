//! The two databases behind one set of operations.

mod postgres;
mod sqlite;

use std::fmt;
use std::sync::Arc;

use diesel::QueryableByName;
use diesel::result::Error as DatabaseError;
use diesel::sql_types::{BigInt, Text};
use storage::{Postgres, Sqlite, Url};

use super::bill::{Hours, Step};
use super::meter::{Rows, Usage};

/// Who writes: a relay, and which of its starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing {
    pub(super) id: i64,
    pub(super) boot: i64,
}

/// One transaction. It is committed whole, under a number that no other batch of this start has.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: i64,
    pub(super) rows: Rows,
}

/// The answer to a commit that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// The batch is in, now or since an earlier try.
    Yes,
    /// A later start of the same relay writes.
    TakenOver,
}

/// An open database.
pub(super) enum Connection {
    Sqlite(sqlite::Connection),
    Postgres(Box<postgres::Connection>),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        })
    }
}

/// Opens a database that is there; `create` makes the file where it is not.
pub(super) async fn connect(url: &Url, create: bool) -> Result<Connection, storage::Error> {
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
    pub(super) async fn migrate(self) -> Result<Self, storage::Error> {
        Ok(match self {
            Self::Sqlite(connection) => connection.0.migrate(sqlite::MIGRATIONS).await?.into(),
            Self::Postgres(connection) => connection.0.migrate(postgres::MIGRATIONS).await?.into(),
        })
    }

    /// Whether a relay has written to it.
    pub(super) async fn has_tables(&mut self) -> bool {
        match self {
            Self::Sqlite(connection) => connection.has_tables().await,
            Self::Postgres(connection) => connection.has_tables().await,
        }
    }

    /// Counts a start of the relay; gives its number.
    pub(super) async fn count_start(&mut self, relay_id: i64) -> Result<i64, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.count_start(relay_id).await,
            Self::Postgres(connection) => connection.count_start(relay_id).await,
        }
    }

    /// Adds the batch in one transaction, or finds that it is there.
    pub(super) async fn commit(
        &mut self,
        writing: Writing,
        batch: Arc<Batch>,
    ) -> Result<Committed, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.commit(writing, batch).await,
            Self::Postgres(connection) => connection.commit(writing, &batch).await,
        }
    }

    /// Sums of all relays.
    pub(super) async fn usage(
        &mut self,
        window: Hours,
        step: Step,
    ) -> Result<Vec<UsageRow>, DatabaseError> {
        match self {
            Self::Sqlite(connection) => connection.usage(window, step).await,
            Self::Postgres(connection) => connection.usage(window, step).await,
        }
    }
}

/// Use by a client, summed by the database. The lower column of work is summed in two halves, which cannot overflow.
#[derive(Debug, QueryableByName)]
pub(super) struct UsageRow {
    #[diesel(sql_type = BigInt)]
    pub(super) first_hour: i64,
    #[diesel(sql_type = Text)]
    pub(super) client: String,
    #[diesel(sql_type = BigInt)]
    bytes_sent: i64,
    #[diesel(sql_type = BigInt)]
    bytes_received: i64,
    #[diesel(sql_type = BigInt)]
    submits: i64,
    #[diesel(sql_type = BigInt)]
    accepted: i64,
    #[diesel(sql_type = BigInt)]
    rejected: i64,
    #[diesel(sql_type = BigInt)]
    work_high: i64,
    #[diesel(sql_type = BigInt)]
    work_low_upper: i64,
    #[diesel(sql_type = BigInt)]
    work_low_lower: i64,
    #[diesel(sql_type = BigInt)]
    connection_ms: i64,
}

impl UsageRow {
    pub(super) fn usage(&self) -> Usage {
        let low = (u128::from(self.work_low_upper.unsigned_abs()) << LOWER_BITS)
            + u128::from(self.work_low_lower.unsigned_abs());
        Usage {
            bytes_sent: self.bytes_sent.unsigned_abs(),
            bytes_received: self.bytes_received.unsigned_abs(),
            submits: self.submits.unsigned_abs(),
            accepted: self.accepted.unsigned_abs(),
            rejected: self.rejected.unsigned_abs(),
            work: storage::from_columns(self.work_high, 0) + low,
            connection_ms: self.connection_ms.unsigned_abs(),
        }
    }
}

/// Bits of the lower half of a sum of the lower column.
const LOWER_BITS: u32 = 20;

/// A count as a column; none grows beyond it.
fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Statements that both databases understand. Parameters are numbered in the order in which they first appear, which is
/// how SQLite counts them.
mod sql {
    pub(super) const ANY_RELAY: &str = "SELECT relay_id AS value FROM relays LIMIT 1";

    pub(super) const COUNT_START: &str = "INSERT INTO relays (relay_id, boot, batch) VALUES ($1, 1, 0) \
         ON CONFLICT (relay_id) DO UPDATE SET boot = relays.boot + 1, batch = 0 RETURNING boot AS value";

    /// Takes the batch's number; changes no row if it is taken, or if this is not the relay's last start.
    pub(super) const TAKE_BATCH: &str =
        "UPDATE relays SET batch = $1 WHERE relay_id = $2 AND boot = $3 AND batch < $1";

    pub(super) const BATCH_IS_THERE: &str =
        "SELECT COUNT(*) AS value FROM relays WHERE relay_id = $1 AND boot = $2 AND batch >= $3";

    pub(super) const ADD_USAGE: &str = "INSERT INTO usage_hours (hour, client, relay_id, bytes_sent, bytes_received, submits, \
         accepted, rejected, work_high, work_low, connection_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (hour, client, relay_id) DO UPDATE SET \
         bytes_sent = usage_hours.bytes_sent + excluded.bytes_sent, \
         bytes_received = usage_hours.bytes_received + excluded.bytes_received, \
         submits = usage_hours.submits + excluded.submits, \
         accepted = usage_hours.accepted + excluded.accepted, \
         rejected = usage_hours.rejected + excluded.rejected, \
         work_high = usage_hours.work_high + excluded.work_high, \
         work_low = usage_hours.work_low + excluded.work_low, \
         connection_ms = usage_hours.connection_ms + excluded.connection_ms";

    pub(super) const USAGE: &str = "SELECT MIN(hour) AS first_hour, client, \
         CAST(SUM(bytes_sent) AS BIGINT) AS bytes_sent, CAST(SUM(bytes_received) AS BIGINT) AS bytes_received, \
         CAST(SUM(submits) AS BIGINT) AS submits, CAST(SUM(accepted) AS BIGINT) AS accepted, \
         CAST(SUM(rejected) AS BIGINT) AS rejected, CAST(SUM(work_high) AS BIGINT) AS work_high, \
         CAST(SUM(work_low >> 20) AS BIGINT) AS work_low_upper, \
         CAST(SUM(work_low & 1048575) AS BIGINT) AS work_low_lower, \
         CAST(SUM(connection_ms) AS BIGINT) AS connection_ms \
         FROM usage_hours WHERE hour >= $1 AND hour < $2 GROUP BY hour / $3, client ORDER BY 1, 2";
}

/// A number that a statement gives back.
#[derive(Debug, QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

impl Committed {
    /// Of the number of relays that have this batch.
    fn from_count(there: i64) -> Self {
        if there > 0 {
            Self::Yes
        } else {
            Self::TakenOver
        }
    }
}

#[cfg(test)]
mod tests;
