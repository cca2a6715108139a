//! Rows, as they are written and read.

use diesel::{
    AsChangeset, Insertable, QueryableByName,
    sql_types::{BigInt, Binary, Bool, Nullable, Text},
};

use super::Server;
use crate::{
    block::{Block, BlockState, shown},
    journal::Sum,
};

/// Bits of the lower half of a sum of the lower column.
const LOWER_BITS: u32 = 20;

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

impl WorkRow {
    /// Of the sums of its columns; none of them is negative.
    pub(crate) fn sum(&self) -> Sum {
        let column = |value: i64| u128::from(value.unsigned_abs());
        let low = (column(self.low_upper) << LOWER_BITS) + column(self.low_lower);
        Sum {
            shares: self.shares.unsigned_abs(),
            work: storage::from_columns(self.high, 0) + low,
        }
    }
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
pub(super) struct FoundBlock<'a> {
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
    pub(super) fn new(server: Server, block: &'a Block) -> Self {
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
pub(super) struct ChangedBlock<'a> {
    state: &'static str,
    reason: Option<Option<&'a str>>,
    confirmations: i64,
    changed_ms: i64,
    raw: Option<Option<&'a [u8]>>,
}

impl<'a> ChangedBlock<'a> {
    pub(super) fn new(state: &'a BlockState, at_ms: i64) -> Self {
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

/// A number that a statement gives back.
#[derive(Debug, QueryableByName)]
pub(super) struct Value {
    #[diesel(sql_type = BigInt)]
    pub value: i64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_hold_work_exactly(parts in prop::collection::vec(0..1_u128 << 90, 1..50)) {
            let mut row = WorkRow {
                account: String::new(),
                worker: String::new(),
                solo: false,
                shares: 0,
                high: 0,
                low_upper: 0,
                low_lower: 0,
            };
            for part in &parts {
                let (high, low) = storage::to_columns(*part);
                row.high += high;
                row.low_upper += low >> LOWER_BITS;
                row.low_lower += low & ((1 << LOWER_BITS) - 1);
            }
            prop_assert_eq!(row.sum().work, parts.iter().sum::<u128>());
        }
    }
}
