//! From counts that only grow to what is new of them, by hour.
//!
//! Pure: counts and the hour go in, rows to be added to the books come out.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a client used. "Sent" is towards the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes towards the pool.
    pub bytes_sent: u64,
    /// Bytes from the pool.
    pub bytes_received: u64,
    /// Shares submitted.
    pub submits: u64,
    /// Shares that the pool accepted.
    pub accepted: u64,
    /// Shares that the pool refused.
    pub rejected: u64,
    /// Work of the accepted shares: expected hashes, exact. As text in JSON, whose numbers hold no more than 64 bits.
    #[serde(serialize_with = "as_text")]
    pub work: u128,
    /// How long miners were connected, all together, in milliseconds.
    pub connection_ms: u64,
}

impl Usage {
    /// What came since `before`.
    fn since(&self, before: &Self) -> Self {
        Self {
            bytes_sent: self.bytes_sent.saturating_sub(before.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(before.bytes_received),
            submits: self.submits.saturating_sub(before.submits),
            accepted: self.accepted.saturating_sub(before.accepted),
            rejected: self.rejected.saturating_sub(before.rejected),
            work: self.work.saturating_sub(before.work),
            connection_ms: self.connection_ms.saturating_sub(before.connection_ms),
        }
    }

    fn add(&mut self, more: &Self) {
        self.bytes_sent += more.bytes_sent;
        self.bytes_received += more.bytes_received;
        self.submits += more.submits;
        self.accepted += more.accepted;
        self.rejected += more.rejected;
        // A pool can claim any difficulty.
        self.work = self.work.saturating_add(more.work);
        self.connection_ms += more.connection_ms;
    }
}

fn as_text<S: serde::Serializer>(work: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(work)
}

/// The hour since the Unix epoch, and the client; in the order of the table, so that several relays never wait for each
/// other in a circle.
pub(super) type Key = (i64, String);

/// What is to be added to the books.
pub(super) type Rows = BTreeMap<Key, Usage>;

/// Remembers what it was shown, and what of it nobody has taken yet.
#[derive(Debug)]
pub(super) struct Meter {
    /// That of the last look, or of the start.
    hour: i64,
    seen: BTreeMap<String, Usage>,
    /// As many rows as there are clients, for each hour that the database is away.
    waiting: Rows,
    /// What the database has refused, to be offered again after the next look.
    aside: Rows,
}

impl Meter {
    /// Nothing has been counted yet; it is this hour.
    pub(super) fn new(hour: i64) -> Self {
        Self {
            hour,
            seen: BTreeMap::new(),
            waiting: Rows::new(),
            aside: Rows::new(),
        }
    }

    /// What has been counted so far in all, and the hour that it is now. What is new belongs to the hour of the look before: a
    /// look at the full hour comes a moment after it.
    pub(super) fn read(&mut self, now: i64, totals: BTreeMap<String, Usage>) {
        let hour = std::mem::replace(&mut self.hour, now);
        for (key, usage) in std::mem::take(&mut self.aside) {
            self.waiting.entry(key).or_default().add(&usage);
        }
        for (client, now) in totals {
            let before = self.seen.entry(client.clone()).or_default();
            let new = now.since(before);
            *before = now;
            if new != Usage::default() {
                self.waiting.entry((hour, client)).or_default().add(&new);
            }
        }
    }

    /// What is to be written; from then on it is the caller's to keep until it is.
    pub(super) fn take(&mut self) -> Option<Rows> {
        (!self.waiting.is_empty()).then(|| std::mem::take(&mut self.waiting))
    }

    /// Takes back rows that the database refuses while it takes others.
    pub(super) fn set_aside(&mut self, rows: Rows) {
        for (key, usage) in rows {
            self.aside.entry(key).or_default().add(&usage);
        }
    }

    /// What is set aside now.
    pub(super) fn aside(&self) -> &Rows {
        &self.aside
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(bytes: u64, work: u128) -> Usage {
        Usage {
            bytes_sent: bytes,
            work,
            ..Usage::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_adds_up_to_what_was_counted(
            steps in prop::collection::vec((0i64..3, 0usize..3, 0u64..1000, any::<bool>()), 1..50),
        ) {
            let names = ["a", "b", "unknown"];
            let (mut meter, mut totals) = (Meter::new(0), BTreeMap::<String, Usage>::new());
            let mut taken = BTreeMap::<String, Usage>::new();
            // Of what is taken, every third batch is refused once.
            let mut batches = 0;
            let mut take = |meter: &mut Meter| {
                batches += 1;
                let rows = meter.take().unwrap_or_default();
                if batches % 3 == 0 {
                    return meter.set_aside(rows);
                }
                for ((_, client), new) in rows {
                    taken.entry(client).or_default().add(&new);
                }
            };
            let mut hour = 0;
            for (later, client, bytes, is_taken) in steps {
                hour += later;
                let count = totals.entry(names[client].to_owned()).or_default();
                count.add(&usage(bytes, u128::from(bytes) << 70));
                meter.read(hour, totals.clone());
                if is_taken {
                    take(&mut meter);
                }
            }
            for _ in 0..2 {
                meter.read(hour, totals.clone());
                take(&mut meter);
            }
            totals.retain(|_, total| *total != Usage::default());
            prop_assert_eq!(taken, totals);
        }
    }

    #[test]
    fn what_nobody_takes_stays_in_its_hour() {
        let mut meter = Meter::new(1);
        let client = |bytes| BTreeMap::from([("a".to_owned(), usage(bytes, 0))]);
        meter.read(1, client(5));
        meter.read(1, client(7));
        // The first look of an hour finds what came in the one before.
        meter.read(2, client(8));
        meter.read(2, client(8));
        meter.read(2, client(11));
        let rows = meter.take().unwrap();
        assert_eq!(
            rows,
            BTreeMap::from([
                ((1, "a".to_owned()), usage(8, 0)),
                ((2, "a".to_owned()), usage(3, 0)),
            ])
        );
        assert_eq!(meter.take(), None);
    }

    #[test]
    fn what_is_set_aside_is_offered_again_after_the_next_look() {
        let mut meter = Meter::new(1);
        let client = |bytes| BTreeMap::from([("a".to_owned(), usage(bytes, 0))]);
        meter.read(1, client(5));
        let rows = meter.take().unwrap();
        meter.set_aside(rows);
        assert_eq!(meter.aside().len(), 1);
        assert_eq!(meter.take(), None);
        meter.read(1, client(7));
        assert!(meter.aside().is_empty());
        let rows = BTreeMap::from([((1, "a".to_owned()), usage(7, 0))]);
        assert_eq!(meter.take(), Some(rows));
    }
}
