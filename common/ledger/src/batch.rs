//! What is committed together: bookings of all connections, folded.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    block::{Block, BlockState, now_ms},
    booking::{Bundle, Entry, Order, Receipt},
    journal::{Deltas, Key, Sum},
};

/// Workers that are known by name in all accounts together, within an hour.
const NAMES_KNOWN: usize = 1_000_000;

/// The name that workers beyond the limit are booked under.
const OTHER: &str = "other";

/// Bytes of a batch after which it takes no further order. Transactions stay short, however much has waited.
const FULL: usize = 64 * 1024;

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
    pub work: Deltas,
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
            Order::Work(bundle) => {
                for entry in &bundle.turn.entries {
                    self.add_entry(bundle.turn.minute, entry, names);
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

    /// Whether the next order has to wait for another batch.
    pub(crate) fn is_full(&self) -> bool {
        self.work.as_bytes().len() >= FULL
    }

    fn add_entry(&mut self, minute: i64, entry: &Entry, names: &mut Names) {
        let (account, worker) = (storable(&entry.account), storable(&entry.worker));
        let key = Key {
            minute,
            worker: names.known(minute / 60, &account, &worker),
            account: &account,
            solo: entry.solo,
        };
        let (shares, work) = (entry.shares, entry.work);
        self.work.push(key, Sum { shares, work });
    }
}

impl Waiting {
    /// How long each part has waited, and with how many shares.
    pub(crate) fn waited(&self) -> impl Iterator<Item = (Duration, u64)> {
        let now = Instant::now();
        self.bundles
            .iter()
            .map(move |bundle| bundle.turn.waited(now))
    }

    /// The batch is durable.
    pub(crate) fn committed(self) {
        for bundle in &self.bundles {
            bundle.committed();
        }
        drop(self.receipts);
    }
}

/// PostgreSQL's text cannot hold a zero byte.
fn storable(name: &str) -> Cow<'_, str> {
    if name.contains('\0') {
        name.replace('\0', "\u{fffd}").into()
    } else {
        name.into()
    }
}

/// Which workers an account has had within the hour, so that no account can fill the ledger with names.
#[derive(Debug)]
pub(crate) struct Names {
    per_account: usize,
    hour: i64,
    count: usize,
    known: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Names {
    pub(crate) fn new(per_account: usize) -> Self {
        Self {
            per_account,
            hour: i64::MIN,
            count: 0,
            known: HashMap::new(),
        }
    }

    /// The name that this worker is booked under.
    fn known<'a>(&mut self, hour: i64, account: &str, worker: &'a str) -> &'a str {
        // A clock that is set back by more than an hour begins anew, too.
        if hour > self.hour || hour.saturating_add(1) < self.hour {
            *self = Self {
                hour,
                ..Self::new(self.per_account)
            };
        }
        let full = self.count >= NAMES_KNOWN;
        if let Some(workers) = self.known.get_mut(account) {
            if workers.contains(worker) {
                return worker;
            }
            if full || workers.len() >= self.per_account {
                return OTHER;
            }
            workers.insert(worker.into());
        } else {
            if full {
                return OTHER;
            }
            let workers = HashSet::from([worker.into()]);
            self.known.insert(account.into(), workers);
        }
        self.count += 1;
        worker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Row;

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
            batch.add_entry(minute, &entry, &mut names);
        }
        batch.work.seal();
        let row = Row {
            server_id: 1,
            boot: 1,
            batch: 1,
            work: batch.work.as_bytes().to_vec(),
        };
        let rows: Vec<_> = row
            .deltas()
            .unwrap()
            .into_iter()
            .map(|(key, sum)| (key.minute, key.worker, sum.shares, sum.work))
            .collect();
        assert_eq!(
            rows,
            [
                (60, "a", 1, 10),
                (60, "b", 1, 10),
                (60, "other", 1, 10),
                (61, "other", 1, 10),
                (61, "a", 1, 10),
                (120, "d", 1, 10),
            ]
        );
    }
}
