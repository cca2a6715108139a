//! What is dear to find out, found out once for all who look at it within a while: who comes before whom in a list, and sums.
//!
//! Of a hundred thousand workers, to find the first hundred costs tens of milliseconds. The order is kept for so long that no
//! more than a twentieth of a core goes into it, however many look: a list of a few is always of now.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Sort;
use crate::Now;
use crate::board::Board;
use crate::receiver::View;

/// What was found out is kept for so many times as long as it took to find out.
const WORTH: u32 = 20;

/// The longest that it is kept.
const LONGEST: Duration = Duration::from_secs(2);

/// What a row is sorted by.
#[derive(Debug)]
pub(crate) enum By {
    Number(f64),
    Text(String),
}

impl By {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// Rows with what they are sorted by, in no order.
pub(crate) type Unsorted<Id> = Vec<(By, Id)>;

/// The orders of one list.
#[derive(Debug)]
pub(crate) struct Ranking<Id>([Shared<Arc<[Id]>>; Sort::ALL.len()]);

impl<Id> Default for Ranking<Id> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Shared::default()))
    }
}

impl<Id: Ord> Ranking<Id> {
    /// The smallest first. The writer waits while rows are copied, and not while they are sorted; may block.
    pub(crate) fn get(
        &self,
        view: &View,
        sort: Sort,
        copy: impl FnOnce(&Board, Now) -> Unsorted<Id>,
    ) -> Arc<[Id]> {
        self.0[sort as usize].get(|| sorted(view.read(copy)))
    }
}

/// One thing that is shared by all who want it within a while.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<Option<Kept<T>>>);

#[derive(Debug)]
struct Kept<T> {
    value: T,
    until: Instant,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Shared<T> {
    /// What is kept, or a new one; may block.
    pub(crate) fn get(&self, make: impl FnOnce() -> T) -> T {
        // Whoever comes meanwhile waits, and has the same.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        if let Some(kept) = &*kept
            && kept.until > start
        {
            return kept.value.clone();
        }
        let value = make();
        *kept = Some(Kept::new(value.clone(), start, Instant::now()));
        value
    }
}

impl<T> Kept<T> {
    fn new(value: T, start: Instant, end: Instant) -> Self {
        Self {
            value,
            until: end + ((end - start) * WORTH).min(LONGEST),
        }
    }
}

/// The smallest first, and each time the same where several are as large.
fn sorted<Id: Ord>(mut rows: Unsorted<Id>) -> Arc<[Id]> {
    rows.sort_unstable_by(|(one, id), (other, other_id)| {
        one.compare(other).then_with(|| id.cmp(other_id))
    });
    rows.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn those_that_are_alike_have_an_order_too() {
        let rows = [(2.0, 5), (1.0, 9), (2.0, 4), (f64::NAN, 1), (-1.0, 3)];
        let rows = rows.map(|(number, id)| (By::Number(number), id));
        assert_eq!(*sorted(rows.into()), [3, 9, 4, 5, 1]);
    }

    #[test]
    fn the_order_of_a_few_is_kept_for_no_time_and_no_order_for_long() {
        let start = Instant::now();
        let kept = |ms| {
            let end = start + Duration::from_millis(ms);
            Kept::new((), start, end).until - end
        };
        assert_eq!(kept(0), Duration::ZERO);
        assert_eq!(kept(10), Duration::from_millis(200));
        assert_eq!(kept(60_000), LONGEST);
    }

    #[test]
    fn what_is_kept_is_shared_and_what_is_old_is_found_out_anew() {
        let shared = Shared(Mutex::new(Some(Kept {
            value: 1,
            until: Instant::now() + Duration::from_secs(3600),
        })));
        assert_eq!(shared.get(|| 2), 1);
        shared.0.lock().unwrap().as_mut().unwrap().until = Instant::now();
        assert_eq!(shared.get(|| 3), 3);
    }
}
