//! The two databases behind one set of operations.

mod postgres;
mod sqlite;

use std::sync::Arc;

use diesel::{
    AsChangeset, Insertable, QueryableByName,
    result::Error as DatabaseError,
    sql_types::{BigInt, Binary, Bool, Nullable, Text},
};
use storage::{Postgres, Sqlite, Url};

use crate::{Block, BlockState, batch::Batch, block::shown, report::Minutes};

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

    /// Moves this server's oldest minute before `before` into its hour. Like a commit it begins with a write to the
    /// server's row, which keeps others out, and shows that there can be writes.
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

    pub(crate) async fn work(&mut self, window: Minutes) -> Result<Vec<WorkRow>, DatabaseError> {
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

/// Which blocks to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blocks {
    /// Those of a server whose fate is open, the oldest first; with orphans and rejected ones that became so since
    /// then.
    Open { server_id: i64, ended_since_ms: i64 },
    /// This many of all that were found since then.
    Newest { since_ms: i64, count: i64 },
}

/// Work of a worker, summed by the database. The lower column is summed in two halves, which cannot overflow.
#[derive(Debug, QueryableByName)]
pub(crate) struct WorkRow {
    #[diesel(sql_type = Text)]
    pub account: String,
    #[diesel(sql_type = Text)]
    pub worker: String,
    #[diesel(sql_type = Bool)]
    pub solo: bool,
    #[diesel(sql_type = BigInt)]
    pub shares: i64,
    #[diesel(sql_type = BigInt)]
    pub high: i64,
    #[diesel(sql_type = BigInt)]
    pub low_upper: i64,
    #[diesel(sql_type = BigInt)]
    pub low_lower: i64,
}

/// A block as it stands in the table.
#[derive(Debug, QueryableByName)]
pub(crate) struct BlockRow {
    #[diesel(sql_type = Text)]
    pub hash: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub height: Option<i64>,
    #[diesel(sql_type = Text)]
    pub account: String,
    #[diesel(sql_type = Text)]
    pub worker: String,
    #[diesel(sql_type = Bool)]
    pub solo: bool,
    #[diesel(sql_type = BigInt)]
    pub reward_sats: i64,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub confirmations: i64,
    #[diesel(sql_type = BigInt)]
    pub found_ms: i64,
}

diesel::table! {
    blocks (hash) {
        hash -> Text,
        height -> Nullable<BigInt>,
        server_id -> BigInt,
        account -> Text,
        worker -> Text,
        solo -> Bool,
        reward_sats -> BigInt,
        state -> Text,
        reason -> Nullable<Text>,
        confirmations -> BigInt,
        found_ms -> BigInt,
        changed_ms -> BigInt,
        raw -> Nullable<Binary>,
    }
}

/// A block as it is found.
#[derive(Insertable)]
#[diesel(table_name = blocks)]
struct FoundBlock<'a> {
    hash: String,
    height: Option<i64>,
    server_id: i64,
    account: &'a str,
    worker: &'a str,
    solo: bool,
    reward_sats: i64,
    state: &'static str,
    reason: Option<&'a str>,
    confirmations: i64,
    found_ms: i64,
    changed_ms: i64,
    raw: Option<&'a [u8]>,
}

impl<'a> FoundBlock<'a> {
    fn new(server: Server, block: &'a Block) -> Self {
        Self {
            hash: shown(&block.hash),
            height: block.height.map(i64::from),
            server_id: server.id,
            account: &block.account,
            worker: &block.worker,
            solo: block.solo,
            reward_sats: block.reward_sats.cast_signed(),
            state: block.state.name(),
            reason: block.state.reason(),
            confirmations: block.state.confirmations(),
            found_ms: block.found_ms,
            changed_ms: block.found_ms,
            raw: block.raw.as_deref(),
        }
    }
}

/// What has become of a block. What it consists of is kept until it is buried; `None` leaves it as it is.
#[derive(AsChangeset)]
#[diesel(table_name = blocks)]
struct ChangedBlock<'a> {
    state: &'static str,
    reason: Option<Option<&'a str>>,
    confirmations: i64,
    changed_ms: i64,
    raw: Option<Option<&'a [u8]>>,
}

impl<'a> ChangedBlock<'a> {
    fn new(state: &'a BlockState, at_ms: i64) -> Self {
        Self {
            state: state.name(),
            reason: Some(state.reason()),
            confirmations: state.confirmations(),
            changed_ms: at_ms,
            raw: matches!(state, BlockState::Confirmed(_)).then_some(None),
        }
    }
}

/// What a block consists of.
#[derive(Debug, QueryableByName)]
pub(crate) struct RawRow {
    #[diesel(sql_type = Nullable<Binary>)]
    pub raw: Option<Vec<u8>>,
}

/// Bits of the lower half of a sum of the lower column.
pub(crate) const LOWER_BITS: u32 = 20;

/// Statements that both databases understand. Parameters are numbered in the order in which they first appear, which is
/// how SQLite counts them.
mod sql {
    pub(super) const ANY_SERVER: &str = "SELECT server_id AS value FROM servers LIMIT 1";

    pub(super) const COUNT_START: &str = "INSERT INTO servers (server_id, boot, batch) VALUES ($1, 1, 0) \
         ON CONFLICT (server_id) DO UPDATE SET boot = servers.boot + 1, batch = 0 RETURNING boot AS value";

    /// Takes the batch's number; changes no row if it is taken, or if this is not the server's last start.
    pub(super) const TAKE_BATCH: &str =
        "UPDATE servers SET batch = $1 WHERE server_id = $2 AND boot = $3 AND batch < $1";

    pub(super) const BATCH_IS_THERE: &str =
        "SELECT COUNT(*) AS value FROM servers WHERE server_id = $1 AND boot = $2 AND batch >= $3";

    pub(super) const ADD_WORK: &str = " ON CONFLICT (minute, account, worker, solo, server_id) DO UPDATE SET \
         shares = work_minutes.shares + excluded.shares, \
         work_high = work_minutes.work_high + excluded.work_high, \
         work_low = work_minutes.work_low + excluded.work_low";

    /// Keeps other writers of this server out until the end of the transaction.
    pub(super) const HOLD_SERVER: &str =
        "UPDATE servers SET batch = batch WHERE server_id = $1 AND boot = $2";

    pub(super) const OLDEST_MINUTE: &str = "SELECT minute AS value FROM work_minutes WHERE minute < $1 AND server_id = $2 ORDER BY minute LIMIT 1";

    pub(super) const ADD_HOUR: &str = "INSERT INTO work_hours \
         (hour, account, worker, solo, server_id, shares, work_high, work_low) \
         SELECT minute / 60, account, worker, solo, server_id, shares, work_high, work_low FROM work_minutes \
         WHERE minute = $1 AND server_id = $2 \
         ON CONFLICT (hour, account, worker, solo, server_id) DO UPDATE SET \
         shares = work_hours.shares + excluded.shares, \
         work_high = work_hours.work_high + excluded.work_high, \
         work_low = work_hours.work_low + excluded.work_low";

    pub(super) const DROP_MINUTE: &str =
        "DELETE FROM work_minutes WHERE minute = $1 AND server_id = $2";

    pub(super) const WORK: &str = "SELECT account, worker, solo, CAST(SUM(shares) AS BIGINT) AS shares, \
         CAST(SUM(work_high) AS BIGINT) AS high, CAST(SUM(work_low >> 20) AS BIGINT) AS low_upper, \
         CAST(SUM(work_low & 1048575) AS BIGINT) AS low_lower FROM ( \
         SELECT account, worker, solo, shares, work_high, work_low FROM work_minutes WHERE minute >= $1 AND minute < $2 \
         UNION ALL \
         SELECT account, worker, solo, shares, work_high, work_low FROM work_hours WHERE hour >= $3 AND hour < $4 \
         ) AS work GROUP BY account, worker, solo";

    pub(super) const OPEN_BLOCKS: &str = "SELECT hash, height, account, worker, solo, reward_sats, state, reason, \
         confirmations, found_ms FROM blocks WHERE server_id = $1 AND (state IN ('submitted', 'accepted') \
         OR state IN ('orphaned', 'rejected') AND changed_ms >= $2) ORDER BY found_ms, hash LIMIT 10000";

    pub(super) const NEWEST_BLOCKS: &str = "SELECT hash, height, account, worker, solo, reward_sats, state, reason, \
         confirmations, found_ms FROM blocks WHERE found_ms >= $1 ORDER BY found_ms DESC, hash LIMIT $2";

    pub(super) const RAW_BLOCK: &str = "SELECT raw FROM blocks WHERE hash = $1";
}

/// A number that a statement gives back.
#[derive(Debug, QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    value: i64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{Key, Sum, from_columns},
        report::Minutes,
    };

    fn batch(number: i64, rows: &[(i64, u64, u128)]) -> Arc<Batch> {
        let mut batch = Batch::new(number);
        for (minute, shares, work) in rows {
            let key = Key {
                minute: *minute,
                account: "alice".into(),
                worker: "rig".into(),
                solo: false,
            };
            let (shares, work) = (*shares, *work);
            batch.work.insert(key, Sum { shares, work });
        }
        Arc::new(batch)
    }

    fn place(url: &str) -> Url {
        Url::parse(url, None).unwrap()
    }

    #[test]
    fn both_databases_have_the_same_tables() {
        let sqlite = include_str!("../migrations/sqlite/2026-11-21-000000_work_and_blocks/up.sql");
        let postgres =
            include_str!("../migrations/postgres/2026-11-21-000000_work_and_blocks/up.sql");
        let as_postgres = sqlite
            .replace(") WITHOUT ROWID;", ");")
            .replace("raw BLOB", "raw BYTEA");
        assert_eq!(as_postgres, postgres);
    }

    async fn total(connection: &mut Connection, window: Minutes) -> (i64, u128) {
        let rows = connection.work(window).await.unwrap();
        rows.iter().fold((0, 0), |(shares, work), row| {
            let low = (i128::from(row.low_upper) << LOWER_BITS) + i128::from(row.low_lower);
            let row_work = from_columns(row.high, 0) + low.unsigned_abs();
            (shares + row.shares, work + row_work)
        })
    }

    async fn a_batch_counts_once_and_rolling_up_changes_no_sum(url: &str) {
        let url = place(url);
        let connection = connect(&url, true).await.unwrap();
        let mut connection = connection.migrate().await.unwrap();
        let server = |id, boot| Server { id, boot };
        assert_eq!(connection.count_start(1).await.unwrap(), 1);
        assert_eq!(connection.count_start(2).await.unwrap(), 1);
        let first = batch(
            1,
            &[
                (60, 1, (1 << 40) + 1),
                (61, 2, (1 << 40) - 1),
                (119, 4, 7),
                (120, 8, 0),
            ],
        );
        for _ in 0..3 {
            let committed = connection.commit(server(1, 1), Arc::clone(&first)).await;
            assert_eq!(committed.unwrap(), Committed::Yes);
        }
        let other = batch(1, &[(61, 16, 1)]);
        connection.commit(server(2, 1), other).await.unwrap();
        let before = total(&mut connection, Minutes::ALL).await;
        assert_eq!(before, (31, (2 << 40) + 8));

        let mut moved = 0;
        while connection.roll_up(server(1, 1), 120).await.unwrap() == RolledUp::Minute {
            moved += 1;
            assert_eq!(total(&mut connection, Minutes::ALL).await, before);
        }
        assert_eq!(moved, 3);
        // Hours count where they begin, and another server's minutes are its own to move.
        let hour = Minutes::of_ms(&(3_600_000..7_200_000));
        assert_eq!(total(&mut connection, hour).await.0, 23);
        let half = Minutes::of_ms(&(3_660_000..7_200_000));
        assert_eq!(total(&mut connection, half).await.0, 16);

        assert_eq!(connection.count_start(1).await.unwrap(), 2);
        let late = batch(2, &[(60, 32, 0)]);
        let committed = connection.commit(server(1, 1), late).await.unwrap();
        assert_eq!(committed, Committed::TakenOver);
        let rolled_up = connection.roll_up(server(1, 1), 200).await.unwrap();
        assert_eq!(rolled_up, RolledUp::TakenOver);
        assert_eq!(total(&mut connection, Minutes::ALL).await, before);
    }

    /// As when the answer to one of them was lost, and it is tried again on another connection.
    async fn two_at_once_move_a_minute_once(url: &str) {
        let url = place(url);
        let first = connect(&url, true).await.unwrap();
        let mut first = first.migrate().await.unwrap();
        let mut second = connect(&url, false).await.unwrap();
        let boot = first.count_start(1).await.unwrap();
        let server = Server { id: 1, boot };
        for number in 1..=20 {
            let minutes = batch(number, &[(number, 5, 5)]);
            first.commit(server, minutes).await.unwrap();
            let (one, other) =
                tokio::join!(first.roll_up(server, 1000), second.roll_up(server, 1000));
            let moved = [one.unwrap(), other.unwrap()];
            assert!(moved.contains(&RolledUp::Nothing), "{moved:?}");
            let sum = total(&mut first, Minutes::ALL).await;
            assert_eq!(sum.0, 5 * number);
        }
    }

    #[tokio::test]
    async fn two_at_once_move_a_minute_once_on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        two_at_once_move_a_minute_once(&format!("sqlite:{}", path.display())).await;
    }

    #[tokio::test]
    async fn two_at_once_move_a_minute_once_on_postgres() {
        if let Some(server) = database::Postgres::start() {
            two_at_once_move_a_minute_once(&server.url()).await;
        }
    }

    #[tokio::test]
    async fn a_batch_counts_once_and_rolling_up_changes_no_sum_on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let url = format!("sqlite:{}", path.display());
        a_batch_counts_once_and_rolling_up_changes_no_sum(&url).await;
    }

    #[tokio::test]
    async fn a_batch_counts_once_and_rolling_up_changes_no_sum_on_postgres() {
        if let Some(server) = database::Postgres::start() {
            a_batch_counts_once_and_rolling_up_changes_no_sum(&server.url()).await;
        }
    }
}
