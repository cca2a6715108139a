//! Shares that were sent on a channel and have no answer, whatever the order in which answers come.

use std::collections::VecDeque;

/// Shares on their way, oldest first, each with what is kept of it.
#[derive(Debug)]
pub(crate) struct Unanswered<T> {
    /// By sequence number, which only grows.
    shares: VecDeque<(u32, T)>,
    /// The latest that was named as accepted.
    accepted_up_to: u32,
}

impl<T> Default for Unanswered<T> {
    fn default() -> Self {
        Self {
            shares: VecDeque::new(),
            accepted_up_to: 0,
        }
    }
}

impl<T> Unanswered<T> {
    pub(crate) fn len(&self) -> usize {
        self.shares.len()
    }

    /// A share was sent.
    pub(crate) fn push(&mut self, sequence_number: u32, share: T) {
        self.shares.push_back((sequence_number, share));
    }

    /// So many were accepted up to this number, which is that of one of them (SV2 5.3.14).
    ///
    /// Where that is fewer than wait, those in between are not named: the oldest are taken, so that the sums are right
    /// whichever they are.
    pub(crate) fn accepted(&mut self, last: u32, count: u64, mut take: impl FnMut(T)) {
        let mut due = self.up_to(last);
        if is_up_to(self.accepted_up_to, last) {
            self.accepted_up_to = last;
        }
        if (due as u64) < count {
            // Some of them were taken for others that had been sent later and were accepted before.
            due = self.up_to(self.accepted_up_to);
        }
        for left in (1..=count.min(due as u64)).rev() {
            let is_named = |(number, _): &(u32, T)| *number == last;
            let at = if left == 1 && self.shares.get(due - 1).is_some_and(is_named) {
                due - 1
            } else {
                0
            };
            self.shares
                .remove(at)
                .into_iter()
                .for_each(|(_, share)| take(share));
            due -= 1;
        }
    }

    /// The share of this number was refused; gives it.
    ///
    /// Where it was taken for accepted, because acceptance of later ones came before, there is another that has been named
    /// as neither, and that one is given.
    pub(crate) fn rejected(&mut self, sequence_number: u32) -> Option<T> {
        let before = |(number, _): &(u32, T)| {
            *number != sequence_number && is_up_to(*number, sequence_number)
        };
        let at = self.shares.partition_point(before);
        let is_there = |at: &(u32, T)| at.0 == sequence_number;
        let at = if self.shares.get(at).is_some_and(is_there) {
            at
        } else {
            let (oldest, _) = self.shares.front()?;
            let in_between = is_up_to(*oldest, self.accepted_up_to)
                && is_up_to(sequence_number, self.accepted_up_to);
            in_between.then_some(0)?
        };
        self.shares.remove(at).map(|(_, share)| share)
    }

    fn up_to(&self, last: u32) -> usize {
        self.shares
            .partition_point(|(number, _)| is_up_to(*number, last))
    }

    /// All that wait.
    pub(crate) fn into_shares(self) -> impl ExactSizeIterator<Item = T> {
        self.shares.into_iter().map(|(_, share)| share)
    }
}

/// Whether a sequence number is not after another, with both counting round.
pub(crate) fn is_up_to(sequence_number: u32, last: u32) -> bool {
    last.wrapping_sub(sequence_number) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(numbers: impl IntoIterator<Item = u32>) -> Unanswered<u32> {
        let mut unanswered = Unanswered::default();
        for number in numbers {
            unanswered.push(number, number);
        }
        unanswered
    }

    fn accepted(unanswered: &mut Unanswered<u32>, last: u32, count: u64) -> Vec<u32> {
        let mut taken = Vec::new();
        unanswered.accepted(last, count, |share| taken.push(share));
        taken
    }

    #[test]
    fn answers_in_order_take_the_shares_in_order() {
        let mut unanswered = sent(1..=5);
        assert_eq!(unanswered.rejected(2), Some(2));
        assert_eq!(accepted(&mut unanswered, 4, 3), [1, 3, 4]);
        assert_eq!(unanswered.rejected(2), None, "once more changes nothing");
        assert_eq!(accepted(&mut unanswered, 9, 9), [5]);
    }

    #[test]
    fn a_refusal_may_come_after_the_acceptance_of_later_shares() {
        let mut unanswered = sent(1..=4);
        assert_eq!(accepted(&mut unanswered, 3, 2), [1, 3]);
        assert_eq!(unanswered.rejected(2), Some(2));
        assert_eq!(unanswered.len(), 1);
        // Had it been the first, which was taken for accepted, the sums are right all the same.
        let mut unanswered = sent(1..=4);
        assert_eq!(accepted(&mut unanswered, 3, 2), [1, 3]);
        assert_eq!(unanswered.rejected(1), Some(2));
        assert_eq!(unanswered.rejected(1), None, "the fourth was not judged");
    }

    #[test]
    fn batches_may_be_accepted_in_any_order() {
        let mut unanswered = sent(1..=3);
        assert_eq!(accepted(&mut unanswered, 3, 1), [3]);
        assert_eq!(accepted(&mut unanswered, 2, 2), [1, 2]);
        let mut unanswered = sent(1..=5);
        assert_eq!(accepted(&mut unanswered, 5, 2), [1, 5]);
        assert_eq!(accepted(&mut unanswered, 3, 3), [2, 3, 4]);
    }

    #[test]
    fn numbers_may_count_round() {
        let mut unanswered = sent([u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(unanswered.rejected(0), Some(0));
        assert_eq!(accepted(&mut unanswered, 1, 3), [u32::MAX - 1, u32::MAX, 1]);
    }
}
