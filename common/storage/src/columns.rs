//! Work, which has 128 bits, in two columns of 64 whose sums stay exact.

/// The bits of work in its lower column.
const LOW_BITS: u32 = 40;

/// More work than this in one row is impossible: at 2^80 hashes a second it would take longer than the universe has.
pub const MOST_WORK: u128 = (1 << 102) - 1;

/// Work as its upper and lower column. Rows can be summed column by column, without carrying over.
#[must_use]
pub fn to_columns(work: u128) -> (i64, i64) {
    let work = work.min(MOST_WORK);
    let high = i64::try_from(work >> LOW_BITS).unwrap_or(i64::MAX);
    let low = i64::try_from(work & ((1 << LOW_BITS) - 1)).unwrap_or(i64::MAX);
    (high, low)
}

/// Work of its two columns, or of their sums; none of them is negative.
#[must_use]
pub fn from_columns(high: i64, low: i64) -> u128 {
    (u128::from(high.unsigned_abs()) << LOW_BITS) + u128::from(low.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn columns_hold_work_exactly(parts in prop::collection::vec(0..1_u128 << 90, 1..50)) {
            let (mut high, mut low) = (0, 0);
            for part in &parts {
                let columns = to_columns(*part);
                high += columns.0;
                low += columns.1;
            }
            prop_assert_eq!(from_columns(high, low), parts.iter().sum::<u128>());
        }
    }
}
