//! What is committed together: bookings of all connections, folded.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    block::{Block, BlockState, now_ms},
    booking::{Bundle, Entry, Order, Receipt},
};

/// The bits of work in its lower column.
const LOW_BITS: u32 = 40;

/// More work than this in one row is impossible: at 2^80 hashes a second it would take longer than the universe has.
const MOST_WORK: u128 = (1 << 102) - 1;

/// Workers that are known by name in all accounts together, within an hour.
const NAMES_KNOWN: usize = 1_000_000;

/// The name that workers beyond the limit are booked under.
const OTHER: &str = "other";

/// Work as its two columns.
pub(crate) fn to_columns(work: u128) -> (i64, i64) {
    let work = work.min(MOST_WORK);
    let high = i64::try_from(work >> LOW_BITS).unwrap_or(i64::MAX);
    let low = i64::try_from(work & ((1 << LOW_BITS) - 1)).unwrap_or(i64::MAX);
    (high, low)
}

/// Work of its two columns; none of them is negative.
pub(crate) fn from_columns(high: i64, low: i64) -> u128 {
    (u128::from(high.unsigned_abs()) << LOW_BITS) + u128::from(low.unsigned_abs())
}

/// The key of a row; the order is that of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub minute: i64,
    pub account: Arc<str>,
    pub worker: Arc<str>,
    pub solo: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub shares: u64,
    pub work: u128,
}

/// What happened to a block.
#[derive(Debug, Clone)]
pub(crate) enum BlockChange {
    Found(Block),
    State {
        hash: [u8; 32],
        state: BlockState,
        at_ms: i64,
    },
}

/// One transaction. It is committed whole, under a number that no other batch of this start has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub number: i64,
    /// In key order, so that several servers never wait for each other in a circle.
    pub work: BTreeMap<Key, Sum>,
    pub blocks: Vec<BlockChange>,
}

/// Who waits for a batch.
#[derive(Default)]
pub(crate) struct Waiting {
    bundles: Vec<Bundle>,
    receipts: Vec<Receipt>,
}

impl Batch {
    pub(crate) fn new(number: i64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    /// Takes an order in.
    pub(crate) fn add(&mut self, order: Order, names: &mut Names, waiting: &mut Waiting) {
        match order {
            Order::Work(mut bundle) => {
                for entry in bundle.entries.drain(..) {
                    self.add_entry(bundle.minute, entry, names);
                }
                waiting.bundles.push(bundle);
            }
            Order::BlockFound(block, receipt) => {
                self.blocks.push(BlockChange::Found(block));
                waiting.receipts.push(receipt);
            }
            Order::BlockState(hash, state, receipt) => {
                let at_ms = now_ms();
                self.blocks.push(BlockChange::State { hash, state, at_ms });
                waiting.receipts.push(receipt);
            }
        }
    }

    fn add_entry(&mut self, minute: i64, entry: Entry, names: &mut Names) {
        let account = storable(entry.account);
        let worker = names.known(minute / 60, &account, storable(entry.worker));
        let key = Key {
            minute,
            account,
            worker,
            solo: entry.solo,
        };
        let sum = self.work.entry(key).or_default();
        sum.shares = sum.shares.saturating_add(entry.shares);
        sum.work = sum.work.saturating_add(entry.work);
    }
}

impl Waiting {
    /// The batch is durable.
    pub(crate) fn committed(self) {
        for bundle in &self.bundles {
            bundle.committed();
        }
        drop(self.receipts);
    }
}

/// PostgreSQL's text cannot hold a zero byte.
fn storable(name: Arc<str>) -> Arc<str> {
    if name.contains('\0') {
        name.replace('\0', "\u{fffd}").into()
    } else {
        name
    }
}

/// Which workers an account has had within the hour, so that no account can fill the ledger with names.
#[derive(Debug)]
pub(crate) struct Names {
    per_account: usize,
    hour: i64,
    count: usize,
    known: HashMap<Arc<str>, HashSet<Arc<str>>>,
    other: Arc<str>,
}

impl Names {
    pub(crate) fn new(per_account: usize) -> Self {
        Self {
            per_account,
            hour: i64::MIN,
            count: 0,
            known: HashMap::new(),
            other: OTHER.into(),
        }
    }

    /// The name that this worker is booked under.
    fn known(&mut self, hour: i64, account: &Arc<str>, worker: Arc<str>) -> Arc<str> {
        // A clock that is set back by more than an hour begins anew, too.
        if hour > self.hour || hour.saturating_add(1) < self.hour {
            *self = Self {
                hour,
                ..Self::new(self.per_account)
            };
        }
        let full = self.count >= NAMES_KNOWN;
        if let Some(workers) = self.known.get_mut(account) {
            if workers.contains(&worker) {
                return worker;
            }
            if full || workers.len() >= self.per_account {
                return Arc::clone(&self.other);
            }
            workers.insert(Arc::clone(&worker));
        } else {
            if full {
                return Arc::clone(&self.other);
            }
            let workers = HashSet::from([Arc::clone(&worker)]);
            self.known.insert(Arc::clone(account), workers);
        }
        self.count += 1;
        worker
    }
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

    #[test]
    fn workers_beyond_the_limit_are_booked_together_and_keep_their_work() {
        let mut names = Names::new(2);
        let mut batch = Batch::new(1);
        for (minute, worker) in [
            (60, "a"),
            (60, "b"),
            (60, "c"),
            (61, "d"),
            (61, "a"),
            (120, "d"),
        ] {
            let entry = Entry {
                account: "alice".into(),
                worker: worker.into(),
                solo: false,
                shares: 1,
                work: 10,
            };
            batch.add_entry(minute, entry, &mut names);
        }
        let rows: Vec<_> = batch
            .work
            .iter()
            .map(|(key, sum)| (key.minute, &*key.worker, sum.shares, sum.work))
            .collect();
        assert_eq!(
            rows,
            [
                (60, "a", 1, 10),
                (60, "b", 1, 10),
                (60, "other", 1, 10),
                (61, "a", 1, 10),
                (61, "other", 1, 10),
                (120, "d", 1, 10),
            ]
        );
    }
}
