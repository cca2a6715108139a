//! Statements that both databases understand. Parameters are numbered in the order in which they first appear, which is
//! how SQLite counts them.

use diesel::{
    QueryResult, RunQueryDsl,
    backend::Backend,
    pg::Pg,
    query_builder::{AstPass, QueryFragment, QueryId},
    serialize::ToSql,
    sql_types::{BigInt, Binary, HasSqlType},
    sqlite::Sqlite,
};

use super::Server;

/// Appends a batch to the journal. Changes no row if the batch is or was there, or if this is not the server's last
/// start.
///
/// It has a type, because that is how diesel knows a statement that it has prepared: `sql_query` is prepared each time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Append<'a> {
    pub server: Server,
    pub batch: i64,
    pub work: &'a [u8],
}

impl QueryId for Append<'_> {
    type QueryId = Append<'static>;
}

impl<Connection> RunQueryDsl<Connection> for Append<'_> {}

impl<DB> QueryFragment<DB> for Append<'_>
where
    DB: Backend + HoldsServer + HasSqlType<BigInt> + HasSqlType<Binary>,
    i64: ToSql<BigInt, DB>,
    [u8]: ToSql<Binary, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("INSERT INTO journal (server_id, boot, batch, work) SELECT server_id, boot, ");
        out.push_bind_param::<BigInt, _>(&self.batch)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, [u8]>(self.work)?;
        out.push_sql(" FROM servers WHERE server_id = ");
        out.push_bind_param::<BigInt, _>(&self.server.id)?;
        out.push_sql(" AND boot = ");
        out.push_bind_param::<BigInt, _>(&self.server.boot)?;
        out.push_sql(" AND batch < ");
        out.push_bind_param::<BigInt, _>(&self.batch)?;
        out.push_sql(DB::HOLD);
        out.push_sql(" ON CONFLICT DO NOTHING");
        Ok(())
    }
}

/// How a statement that reads the server's row keeps other writers of this server out until the end of the transaction.
pub(super) trait HoldsServer {
    const HOLD: &'static str;
}

impl HoldsServer for Sqlite {
    /// The transaction has begun with the lock on the whole database.
    const HOLD: &'static str = "";
}

impl HoldsServer for Pg {
    const HOLD: &'static str = " FOR UPDATE";
}

/// Asks for what the present version of the tables has.
pub(super) const HAS_TABLES: &str = "SELECT server_id AS value FROM journal LIMIT 1";

pub(super) const COUNT_START: &str = "INSERT INTO servers (server_id, boot, batch) VALUES ($1, 1, 0) \
     ON CONFLICT (server_id) DO UPDATE SET boot = servers.boot + 1, batch = 0 RETURNING boot AS value";

/// Whether the batch is in the journal, or was.
pub(super) const BATCH_IS_THERE: &str = "SELECT COUNT(*) AS value FROM servers WHERE server_id = $1 AND boot = $2 \
     AND (batch >= $3 OR EXISTS (SELECT 1 FROM journal WHERE server_id = $1 AND boot = $2 AND batch = $3))";

/// A server's oldest batches behind a place: as many as five seconds bring, by default.
pub(super) const OLDEST_BATCHES: &str = "SELECT server_id, boot, batch, work FROM journal WHERE server_id = $1 \
     AND (boot, batch) > ($2, $3) ORDER BY boot, batch LIMIT 1024";

/// Batches that [`OLDEST_BATCHES`] gives at most.
pub(super) const OLDEST_BATCHES_LIMIT: usize = 1024;

/// Drops the batches behind one place and up to another.
pub(super) const DROP_BATCHES: &str = "DELETE FROM journal WHERE server_id = $1 \
     AND (boot, batch) > ($2, $3) AND (boot, batch) <= ($4, $5)";

/// Notes the last batch of the present start that is no longer in the journal; none of an earlier start.
pub(super) const NOTE_BATCH: &str =
    "UPDATE servers SET batch = $1 WHERE server_id = $2 AND boot = $3";

pub(super) const JOURNAL: &str =
    "SELECT server_id, boot, batch, work FROM journal ORDER BY server_id, boot, batch";

pub(super) const ADD_WORK: &str = " ON CONFLICT (minute, account, worker, solo, server_id) DO UPDATE SET \
     shares = work_minutes.shares + excluded.shares, \
     work_high = work_minutes.work_high + excluded.work_high, \
     work_low = work_minutes.work_low + excluded.work_low";

/// Keeps other writers of this server out until the end of the transaction; changes no row if this is not the server's
/// last start.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite numbers parameters as they appear, whatever their names say.
    #[test]
    fn parameters_are_numbered_in_the_order_in_which_they_appear() {
        for statement in [
            HAS_TABLES,
            COUNT_START,
            BATCH_IS_THERE,
            OLDEST_BATCHES,
            DROP_BATCHES,
            NOTE_BATCH,
            JOURNAL,
            ADD_WORK,
            HOLD_SERVER,
            OLDEST_MINUTE,
            ADD_HOUR,
            DROP_MINUTE,
            WORK,
            OPEN_BLOCKS,
            NEWEST_BLOCKS,
            RAW_BLOCK,
        ] {
            let mut known = 0;
            for parameter in statement.split('$').skip(1) {
                let digits = parameter.find(|letter: char| !letter.is_ascii_digit());
                let number: usize = parameter[..digits.unwrap_or(parameter.len())]
                    .parse()
                    .unwrap();
                assert!(number <= known + 1, "{statement}");
                known = known.max(number);
            }
        }
    }
}
