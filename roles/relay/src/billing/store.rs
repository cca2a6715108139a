//! What the books ask of a database, whichever of the two it is.

mod postgres;
mod sqlite;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{QueryResult, QueryableByName};
use storage::{Connection, Url};

use super::bill::{Hours, Step};
use super::meter::{Rows, Usage};

/// Who writes: a relay, and which of its starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing {
    pub(super) relay_id: i64,
    /// Of this start alone, so that no other relay is in its way, whatever its configuration says.
    pub(super) writer: i64,
}

impl Writing {
    /// Of a relay that starts.
    pub(super) fn draw(relay_id: u16) -> Self {
        Self {
            relay_id: relay_id.into(),
            writer: rand::random(),
        }
    }
}

/// One transaction, under a number that no other batch of this start has. It is committed whole, but for rows that the
/// database refuses while it takes others.
#[derive(Debug)]
pub(super) struct Batch {
    number: i64,
    rows: Rows,
    /// Whether a row was refused, so that each has to be tried by itself.
    row_by_row: AtomicBool,
    /// What was refused in the last try.
    refused: Mutex<Rows>,
}

impl Batch {
    pub(super) fn new(number: i64, rows: Rows) -> Self {
        Self {
            number,
            rows,
            row_by_row: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }

    /// Of a batch that is in: what of it is not. Where only an earlier try got through, that was the last one that wrote.
    pub(super) fn refused(&self) -> Rows {
        std::mem::take(&mut self.refused.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_refused(&self, rows: Rows) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn is_row_by_row(&self) -> bool {
        self.row_by_row.load(Ordering::Relaxed)
    }

    /// The next try is one row by row: it is not known whether the row or the database is at fault.
    fn go_row_by_row(&self) {
        self.row_by_row.store(true, Ordering::Relaxed);
    }
}

/// Opens a database whose tables are up to date, or brings them up to date; refuses those of a later version.
pub(super) async fn prepare(url: &Url) -> Result<Connection, storage::Error> {
    let connection = Connection::open(url, true).await?;
    connection
        .migrate(sqlite::MIGRATIONS, postgres::MIGRATIONS)
        .await
}

/// Whether a relay has written to it.
pub(super) async fn has_tables(connection: &mut Connection) -> QueryResult<bool> {
    match connection {
        Connection::Sqlite(database) => sqlite::has_tables(database).await,
        Connection::Postgres(database) => postgres::has_tables(database).await,
    }
}

/// The last hour that is there.
pub(super) async fn last_hour(connection: &mut Connection) -> QueryResult<Option<i64>> {
    match connection {
        Connection::Sqlite(database) => sqlite::last_hour(database).await,
        Connection::Postgres(database) => postgres::last_hour(database).await,
    }
}

/// Adds the batch in one transaction, or finds that it is there.
pub(super) async fn commit(
    connection: &mut Connection,
    writing: Writing,
    batch: Arc<Batch>,
) -> QueryResult<()> {
    match connection {
        Connection::Sqlite(database) => sqlite::commit(database, writing, batch).await,
        Connection::Postgres(database) => postgres::commit(database, writing, &batch).await,
    }
}

/// Sums of all relays.
pub(super) async fn usage(
    connection: &mut Connection,
    window: Hours,
    step: Step,
) -> QueryResult<Vec<UsageRow>> {
    match connection {
        Connection::Sqlite(database) => sqlite::usage(database, window, step).await,
        Connection::Postgres(database) => postgres::usage(database, window, step).await,
    }
}

/// Use by a client, summed by the database. Both columns of work, which a pool can drive up, are summed in two halves, which
/// cannot overflow. The others count what happened: a thousand rows of the most that fits into one have room.
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
    work_high_upper: i64,
    #[diesel(sql_type = BigInt)]
    work_high_lower: i64,
    #[diesel(sql_type = BigInt)]
    work_low_upper: i64,
    #[diesel(sql_type = BigInt)]
    work_low_lower: i64,
    #[diesel(sql_type = BigInt)]
    connection_ms: i64,
}

impl UsageRow {
    pub(super) fn usage(&self) -> Usage {
        // No column is negative; none of these sums reaches 2^125.
        let whole = |upper: i64, lower: i64| {
            (u128::from(upper.unsigned_abs()) << LOWER_BITS) + u128::from(lower.unsigned_abs())
        };
        let high = whole(self.work_high_upper, self.work_high_lower);
        Usage {
            bytes_sent: self.bytes_sent.unsigned_abs(),
            bytes_received: self.bytes_received.unsigned_abs(),
            submits: self.submits.unsigned_abs(),
            accepted: self.accepted.unsigned_abs(),
            rejected: self.rejected.unsigned_abs(),
            work: high * storage::from_columns(1, 0)
                + whole(self.work_low_upper, self.work_low_lower),
            connection_ms: self.connection_ms.unsigned_abs(),
        }
    }
}

/// Bits of the lower half of a sum of a column of work.
const LOWER_BITS: u32 = 20;

/// The most that a column of a row holds: more than a client can use in an hour. What a pool claims beyond it is cut off, so
/// that no sum can be more than the database can hold.
const MOST: i64 = (1 << 53) - 1;

/// A count as a column.
fn column(count: u64) -> i64 {
    i64::try_from(count).map_or(MOST, |count| count.min(MOST))
}

/// Work as its two columns.
fn work_columns(work: u128) -> (i64, i64) {
    let (high, low) = storage::to_columns(work);
    (high.min(MOST), low)
}

/// Statements that both databases understand. Parameters are numbered in the order in which they first appear, which is
/// how SQLite counts them.
mod sql {
    /// A column of a row that is there, and what comes to it, up to [`MOST`](super::MOST).
    macro_rules! add {
        ($column:literal) => {
            concat!(
                $column,
                " = CASE WHEN usage_hours.",
                $column,
                " + excluded.",
                $column,
                " > 9007199254740991 THEN 9007199254740991 ELSE usage_hours.",
                $column,
                " + excluded.",
                $column,
                " END"
            )
        };
    }

    /// Takes the batch's number; changes no row if that is taken. Makes the writer's row where there is none, as at its first
    /// batch, or in a database that was put back.
    pub(super) const TAKE_BATCH: &str = "INSERT INTO writers (writer, relay_id, batch) VALUES ($1, $2, $3) \
         ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch WHERE writers.batch < excluded.batch";

    pub(super) const LAST_HOUR: &str = "SELECT MAX(hour) AS value FROM usage_hours";

    pub(super) const ADD_USAGE: &str = concat!(
        "INSERT INTO usage_hours (hour, client, relay_id, bytes_sent, bytes_received, submits, \
         accepted, rejected, work_high, work_low, connection_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (hour, client, relay_id) DO UPDATE SET ",
        add!("bytes_sent"),
        ", ",
        add!("bytes_received"),
        ", ",
        add!("submits"),
        ", ",
        add!("accepted"),
        ", ",
        add!("rejected"),
        ", ",
        add!("work_high"),
        ", ",
        add!("work_low"),
        ", ",
        add!("connection_ms")
    );

    pub(super) const USAGE: &str = "SELECT MIN(hour) AS first_hour, client, \
         CAST(SUM(bytes_sent) AS BIGINT) AS bytes_sent, CAST(SUM(bytes_received) AS BIGINT) AS bytes_received, \
         CAST(SUM(submits) AS BIGINT) AS submits, CAST(SUM(accepted) AS BIGINT) AS accepted, \
         CAST(SUM(rejected) AS BIGINT) AS rejected, \
         CAST(SUM(work_high >> 20) AS BIGINT) AS work_high_upper, \
         CAST(SUM(work_high & 1048575) AS BIGINT) AS work_high_lower, \
         CAST(SUM(work_low >> 20) AS BIGINT) AS work_low_upper, \
         CAST(SUM(work_low & 1048575) AS BIGINT) AS work_low_lower, \
         CAST(SUM(connection_ms) AS BIGINT) AS connection_ms \
         FROM usage_hours WHERE hour >= $1 AND hour < $2 GROUP BY hour / $3, client ORDER BY 1, 2";
}

/// A number that a statement gives back, if there is one.
#[derive(Debug, QueryableByName)]
struct Value {
    #[diesel(sql_type = Nullable<BigInt>)]
    value: Option<i64>,
}

#[cfg(test)]
mod tests;
