//! The journal: a commit appends its batch as one row, and a fold makes sums of many rows.
//!
//! A row of the journal counts until the transaction that adds it to the sums deletes it: whoever reads work reads both.

use std::collections::BTreeMap;

use crc::{CRC_32_ISCSI, Crc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Binary},
};
use storage::MOST_WORK;

/// The encoding that is written, and the only one that is read.
const VERSION: u8 = 1;

/// Finds damage that would read as other work than was done.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The version and the checksum of all that follows.
const HEADER_SIZE: usize = 1 + size_of::<u32>();

/// Sums of one fold, after which it takes no further batch: its transaction must not hold up commits.
const MOST_SUMS: usize = 4000;

/// The key of a sum; the order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key<'a> {
    pub minute: i64,
    pub account: &'a str,
    pub worker: &'a str,
    pub solo: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub shares: u64,
    pub work: u128,
}

impl Sum {
    pub(crate) fn add(&mut self, other: Self) {
        self.shares = self.shares.saturating_add(other.shares);
        self.work = self.work.saturating_add(other.work);
    }
}

/// Which of a server's batches: the start, and the number within it.
pub(crate) type Place = (i64, i64);

/// What a batch books, as it stands in its row: a version, a checksum, then the bookings one after the other. Numbers are
/// in LEB128, names behind their length.
#[derive(Debug, Clone)]
pub(crate) struct Deltas(Vec<u8>);

impl Default for Deltas {
    fn default() -> Self {
        Self(vec![VERSION, 0, 0, 0, 0])
    }
}

impl Deltas {
    pub(crate) fn push(&mut self, key: Key<'_>, sum: Sum) {
        self.number(key.minute.unsigned_abs().into());
        self.0.push(key.solo.into());
        self.name(key.account);
        self.name(key.worker);
        self.number(sum.shares.min(i64::MAX.unsigned_abs()).into());
        self.number(sum.work.min(MOST_WORK));
    }

    /// Nothing more comes.
    pub(crate) fn seal(&mut self) {
        if let Some((header, bookings)) = self.0.split_at_mut_checked(HEADER_SIZE) {
            let checksum = CHECKSUM.checksum(bookings);
            header[1..].copy_from_slice(&checksum.to_le_bytes());
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn name(&mut self, name: &str) {
        self.number(name.len() as u128);
        self.0.extend_from_slice(name.as_bytes());
    }

    fn number(&mut self, mut number: u128) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.0.push(low & 0x7f);
            }
            self.0.push(low | 0x80);
        }
    }
}

/// A batch as it stands in the journal.
#[derive(Debug, QueryableByName)]
pub(crate) struct Row {
    #[diesel(sql_type = BigInt)]
    pub server_id: i64,
    #[diesel(sql_type = BigInt)]
    pub boot: i64,
    #[diesel(sql_type = BigInt)]
    pub batch: i64,
    #[diesel(sql_type = Binary)]
    pub work: Vec<u8>,
}

/// A batch in the journal that cannot be read. It stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "batch {batch} of start {boot} of server {server_id} cannot be read in the ledger's journal: {problem}"
)]
pub struct Unreadable {
    /// The server that wrote it.
    pub server_id: i64,
    /// Which of its starts.
    pub boot: i64,
    /// Which of that start's batches.
    pub batch: i64,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Unreadable {
    pub(crate) fn place(&self) -> Place {
        (self.boot, self.batch)
    }
}

impl Row {
    /// All that the batch books, or nothing of it.
    pub(crate) fn deltas(&self) -> Result<Vec<(Key<'_>, Sum)>, Unreadable> {
        let unreadable = |problem| Unreadable {
            server_id: self.server_id,
            boot: self.boot,
            batch: self.batch,
            problem,
        };
        let mut rest = match self.work.split_first_chunk::<HEADER_SIZE>() {
            Some(([VERSION, checksum @ ..], rest))
                if CHECKSUM.checksum(rest).to_le_bytes() == *checksum =>
            {
                Reading(rest)
            }
            _ => {
                return Err(unreadable(match self.work.first() {
                    Some(&VERSION) | None => "it is damaged",
                    Some(_) => "a newer version wrote it; use that one",
                }));
            }
        };
        let mut deltas = Vec::new();
        while !rest.0.is_empty() {
            let delta = rest.delta().ok_or_else(|| unreadable("it is damaged"))?;
            deltas.push(delta);
        }
        Ok(deltas)
    }
}

/// What is left to read of a row; `None` is damage.
struct Reading<'a>(&'a [u8]);

impl<'a> Reading<'a> {
    fn delta(&mut self) -> Option<(Key<'a>, Sum)> {
        let minute = self.number()?.try_into().ok()?;
        let solo = match self.number()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let (account, worker) = (self.name()?, self.name()?);
        let shares = self.number()?.try_into().ok()?;
        let work = self.number().filter(|work| *work <= MOST_WORK)?;
        let key = Key {
            minute,
            account,
            worker,
            solo,
        };
        Some((key, Sum { shares, work }))
    }

    fn name(&mut self) -> Option<&'a str> {
        let length = self.number()?.try_into().ok()?;
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(name).ok()
    }

    fn number(&mut self) -> Option<u128> {
        let mut number = 0;
        for shift in (0..u128::BITS).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u128::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

/// What one transaction moves from the journal to the sums.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fold<'a> {
    /// What is added to them, in the order of their keys, so that several servers never wait for each other in a circle.
    pub sums: BTreeMap<Key<'a>, Sum>,
    /// Start and number of the last batch that is in it.
    pub last: Option<Place>,
    /// Why the batch after that is not in it, where that is no lack of room.
    pub unreadable: Option<Unreadable>,
}

impl<'a> Fold<'a> {
    /// Of one server's rows in their order: the first, and further ones while the transaction stays short.
    pub(crate) fn of(rows: &'a [Row]) -> Self {
        let mut fold = Self::default();
        for row in rows {
            if fold.sums.len() >= MOST_SUMS {
                break;
            }
            match row.deltas() {
                Ok(deltas) => {
                    for (key, sum) in deltas {
                        fold.sums.entry(key).or_default().add(sum);
                    }
                    fold.last = Some((row.boot, row.batch));
                }
                Err(unreadable) => {
                    fold.unreadable = Some(unreadable);
                    break;
                }
            }
        }
        fold
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(batch: i64, work: &Deltas) -> Row {
        let mut work = work.clone();
        work.seal();
        Row {
            server_id: 1,
            boot: 2,
            batch,
            work: work.0,
        }
    }

    fn key<'a>(minute: i64, worker: &'a str) -> Key<'a> {
        Key {
            minute,
            account: "alice",
            worker,
            solo: false,
        }
    }

    type Booking = (i64, bool, String, String, u64, u128);

    fn booking() -> impl Strategy<Value = Booking> {
        let number = prop_oneof![Just(0), Just(MOST_WORK), 0..=MOST_WORK, 0_u128..300];
        (
            0..i64::MAX,
            any::<bool>(),
            ".{0,40}",
            ".{0,200}",
            0..=i64::MAX.unsigned_abs(),
            number,
        )
    }

    fn written(bookings: &[Booking]) -> (Deltas, Vec<(Key<'_>, Sum)>) {
        let mut work = Deltas::default();
        let deltas: Vec<_> = bookings
            .iter()
            .map(|(minute, solo, account, worker, shares, work)| {
                let (minute, solo, shares, work) = (*minute, *solo, *shares, *work);
                let key = Key {
                    minute,
                    account,
                    worker,
                    solo,
                };
                (key, Sum { shares, work })
            })
            .collect();
        for (key, sum) in &deltas {
            work.push(*key, *sum);
        }
        (work, deltas)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bookings in prop::collection::vec(booking(), 0..20)) {
            let (work, deltas) = written(&bookings);
            let row = row(1, &work);
            prop_assert_eq!(row.deltas().unwrap(), deltas);
        }

        #[test]
        fn a_byte_that_was_altered_is_found(
            bookings in prop::collection::vec(booking(), 1..5),
            at: prop::sample::Index,
            by in 1..=u8::MAX,
        ) {
            let (work, _) = written(&bookings);
            let mut row = row(1, &work);
            let at = at.index(row.work.len());
            row.work[at] ^= by;
            prop_assert!(row.deltas().is_err());
        }

        #[test]
        fn any_bytes_read_as_bookings_or_as_damage(bytes: Vec<u8>) {
            let mut work = Deltas::default();
            work.0.extend(bytes);
            // It neither panics nor invents bookings out of nothing.
            if let Ok(deltas) = row(1, &work).deltas() {
                prop_assert!(deltas.len() <= work.0.len());
            }
        }
    }

    #[test]
    fn a_row_that_is_cut_off_is_damaged_and_nothing_of_it_counts() {
        let mut work = Deltas::default();
        let sum = Sum {
            shares: 1,
            work: 1 << 80,
        };
        work.push(key(1, "a"), sum);
        work.push(key(1, "b"), sum);
        for length in 0..work.0.len() {
            let mut row = row(7, &work);
            row.work.truncate(length);
            let unreadable = row.deltas().unwrap_err();
            assert_eq!(
                unreadable.to_string(),
                "batch 7 of start 2 of server 1 cannot be read in the ledger's journal: it is damaged"
            );
        }
    }

    #[test]
    fn a_number_has_128_bits_and_no_more() {
        let mut most = Deltas(Vec::new());
        most.number(u128::MAX);
        assert_eq!(Reading(&most.0).number(), Some(u128::MAX));
        let last = most.0.len() - 1;
        most.0[last] = 4;
        assert_eq!(Reading(&most.0).number(), None);
        assert_eq!(Reading(&[0x80; 30]).number(), None);
    }

    #[test]
    fn a_fold_adds_up_whole_batches_until_one_cannot_be_read() {
        let mut work = Deltas::default();
        let sum = |shares| Sum {
            shares,
            work: u128::from(shares) * 10,
        };
        work.push(key(2, "b"), sum(1));
        work.push(key(1, "a"), sum(2));
        work.push(key(2, "b"), sum(4));
        let newer = Deltas(vec![VERSION + 1, 0]);
        let rows = [row(1, &work), row(2, &work), row(3, &newer), row(4, &work)];
        let fold = Fold::of(&rows);
        assert_eq!(
            fold.sums,
            BTreeMap::from([(key(1, "a"), sum(4)), (key(2, "b"), sum(10))])
        );
        assert_eq!(fold.last, Some((2, 2)));
        let problem = fold.unreadable.unwrap().to_string();
        assert!(
            problem.contains("batch 3") && problem.contains("newer version"),
            "{problem}"
        );
        assert_eq!(Fold::of(&rows[2..]).last, None);
    }

    #[test]
    fn a_fold_is_no_longer_than_it_has_to_be() {
        let names: Vec<_> = (0..MOST_SUMS).map(|number| number.to_string()).collect();
        let mut work = Deltas::default();
        for name in &names {
            work.push(key(1, name), Sum { shares: 1, work: 1 });
        }
        let rows = [row(1, &work), row(2, &work)];
        let fold = Fold::of(&rows);
        assert_eq!((fold.sums.len(), fold.last), (MOST_SUMS, Some((2, 1))));
        assert_eq!(fold.unreadable, None);
    }
}
