//! From accepted to acknowledged: a share is acknowledged when it is durable, not before.

use std::{collections::VecDeque, fmt, sync::Arc};

use ledger::Entry;
use stratum_core::mining_sv2::SubmitSharesSuccess;
use work::Difficulty;

/// Who work is booked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The part of the user identity before the first dot.
    pub account: Arc<str>,
    /// What follows it; empty if nothing does.
    pub worker: Arc<str>,
    /// The account is paid by the coinbase of its own blocks, and has no part in those of the pool.
    pub solo: bool,
}

impl Owner {
    pub(crate) fn new(identity: &str) -> Self {
        let (account, worker) = identity.split_once('.').unwrap_or((identity, ""));
        Self {
            account: account.into(),
            worker: worker.into(),
            solo: false,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.account)?;
        match &*self.worker {
            "" => Ok(()),
            worker => write!(f, ".{worker}"),
        }
    }
}

/// An owner's booking before its first share.
fn nothing(owner: &Owner) -> Entry {
    Entry {
        account: Arc::clone(&owner.account),
        worker: Arc::clone(&owner.worker),
        solo: owner.solo,
        shares: 0,
        work: 0,
    }
}

/// Whether the booking is this owner's. The names are the very same, so no text is compared.
fn is_of(entry: &Entry, owner: &Owner) -> bool {
    Arc::ptr_eq(&entry.account, &owner.account)
        && Arc::ptr_eq(&entry.worker, &owner.worker)
        && entry.solo == owner.solo
}

/// The shares of one channel that were accepted in one turn.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub channel_id: u32,
    pub count: u32,
    work: u128,
    last_sequence_number: u32,
}

/// The accepted shares of a connection, turn by turn, until they are durable.
///
/// A turn has two views: what its channels are to be told, and what the ledger is to book. It holds the shares of
/// channels that have been closed meanwhile, too: what was accepted is booked and acknowledged to the last.
#[derive(Debug, Default)]
pub(crate) struct Acknowledgements {
    turn: Vec<Accepted>,
    bookings: Vec<Entry>,
    waiting: VecDeque<(u64, Vec<Accepted>)>,
}

impl Acknowledgements {
    /// Notes a share that is to be acknowledged. `slot` is where the channel's entry of this turn was last; it is told
    /// where it is now.
    pub(crate) fn accept(
        &mut self,
        slot: &mut usize,
        channel_id: u32,
        sequence_number: u32,
        work: u128,
    ) {
        let entry = entry(
            &mut self.turn,
            slot,
            |entry| entry.channel_id == channel_id,
            || Accepted::none(channel_id),
        );
        entry.count += 1;
        entry.work = entry.work.saturating_add(work);
        entry.last_sequence_number = sequence_number;
    }

    /// Notes whose share it is. `slot` is as above, for the owner's booking.
    pub(crate) fn book(&mut self, slot: &mut usize, owner: &Owner, work: u128) {
        let booking = entry(
            &mut self.bookings,
            slot,
            |booking| is_of(booking, owner),
            || nothing(owner),
        );
        booking.shares += 1;
        booking.work = booking.work.saturating_add(work);
    }

    /// The channels that had shares in this turn.
    pub(crate) fn channels_of_turn(&self) -> Vec<u32> {
        self.turn.iter().map(|entry| entry.channel_id).collect()
    }

    /// Ends the turn: what was accepted in it waits under this number, and these are its bookings.
    pub(crate) fn end_turn(&mut self, number: u64) -> Vec<Entry> {
        if !self.turn.is_empty() {
            self.waiting
                .push_back((number, std::mem::take(&mut self.turn)));
        }
        std::mem::take(&mut self.bookings)
    }

    /// The last turn that is not known to be durable.
    pub(crate) fn newest_waiting(&self) -> Option<u64> {
        self.waiting.back().map(|(number, _)| *number)
    }

    /// All turns up to this number are durable: what there is to acknowledge, an entry for each channel.
    pub(crate) fn durable(&mut self, number: u64) -> Vec<Accepted> {
        let turns = self.waiting.partition_point(|(turn, _)| *turn <= number);
        let mut done: Vec<Accepted> = self
            .waiting
            .drain(..turns)
            .flat_map(|(_, turn)| turn)
            .collect();
        if turns > 1 {
            // The sort leaves a channel's turns in their order. After a stall there are very many of both.
            done.sort_by_key(|entry| entry.channel_id);
            done.dedup_by(|later, entry| {
                let same = later.channel_id == entry.channel_id;
                if same {
                    entry.add(later);
                }
                same
            });
        }
        done
    }
}

/// The entry at `slot` if it is the right one, else a new one, where `slot` is from now on.
fn entry<'a, T>(
    entries: &'a mut Vec<T>,
    slot: &mut usize,
    is_right: impl Fn(&T) -> bool,
    new: impl FnOnce() -> T,
) -> &'a mut T {
    if !entries.get(*slot).is_some_and(is_right) {
        *slot = entries.len();
        entries.push(new());
    }
    &mut entries[*slot]
}

impl Accepted {
    fn none(channel_id: u32) -> Self {
        Self {
            channel_id,
            count: 0,
            work: 0,
            last_sequence_number: 0,
        }
    }

    /// What the channel had accepted after this.
    fn add(&mut self, later: &Self) {
        self.count += later.count;
        self.work = self.work.saturating_add(later.work);
        self.last_sequence_number = later.last_sequence_number;
    }

    /// The message that acknowledges it. The protocol counts in difficulty: work of less than one stays in `remainder`
    /// for the next time.
    pub(crate) fn success(&self, remainder: &mut u128) -> SubmitSharesSuccess {
        let difficulty_one = Difficulty::ONE.target().work();
        let work = self.work.saturating_add(*remainder);
        *remainder = work % difficulty_one;
        SubmitSharesSuccess {
            channel_id: self.channel_id,
            last_sequence_number: self.last_sequence_number,
            new_submits_accepted_count: self.count,
            new_shares_sum: u64::try_from(work / difficulty_one).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_an_account_and_a_worker() {
        let owner = Owner::new("alice.rig.7");
        assert_eq!((&*owner.account, &*owner.worker), ("alice", "rig.7"));
        let owner = Owner::new("alice");
        assert_eq!((&*owner.account, &*owner.worker), ("alice", ""));
    }

    #[test]
    fn a_turn_books_each_owners_shares_once_and_in_one_entry() {
        let mut acknowledgements = Acknowledgements::default();
        let mut owners = ["alice.a", "alice.b", "alice.a"].map(|name| (Owner::new(name), 0));
        for (at, work) in [(0, 5), (1, 7), (0, 11), (2, 13), (1, 17)] {
            let (owner, slot) = &mut owners[at];
            acknowledgements.book(slot, owner, work);
        }
        let booked = |bookings: Vec<Entry>| -> Vec<_> {
            let plain = |b: &Entry| {
                (
                    b.account.to_string(),
                    b.worker.to_string(),
                    b.shares,
                    b.work,
                )
            };
            bookings.iter().map(plain).collect()
        };
        let entry =
            |worker: &str, shares, work| ("alice".to_owned(), worker.to_owned(), shares, work);
        // Two channels of one worker are two entries: names are not compared.
        let expected = [entry("a", 2, 16), entry("b", 2, 24), entry("a", 1, 13)];
        assert_eq!(booked(acknowledgements.end_turn(1)), expected);
        let (owner, slot) = &mut owners[1];
        acknowledgements.book(slot, owner, 19);
        assert_eq!(booked(acknowledgements.end_turn(2)), [entry("b", 1, 19)]);
        assert_eq!(booked(acknowledgements.end_turn(3)), []);
    }

    #[test]
    fn only_what_is_durable_is_acknowledged_and_no_work_is_lost_by_rounding() {
        let mut acknowledgements = Acknowledgements::default();
        let mut slots = [0, 0];
        let half = Difficulty::ONE.target().work() / 2;
        for (number, shares) in [(1, [2, 1]), (2, [0, 1]), (3, [1, 0])] {
            for (at, count) in shares.into_iter().enumerate() {
                let channel = 64 + u32::try_from(at).unwrap();
                for _ in 0..count {
                    acknowledgements.accept(&mut slots[at], channel, number, half);
                }
            }
            acknowledgements.end_turn(number.into());
        }
        let mut remainders = [0, 0];
        let mut acknowledge = |number| {
            let done = acknowledgements.durable(number);
            let summary = done.iter().map(|entry| {
                let message = entry.success(&mut remainders[entry.channel_id as usize - 64]);
                let count = message.new_submits_accepted_count;
                (
                    message.channel_id,
                    message.last_sequence_number,
                    count,
                    message.new_shares_sum,
                )
            });
            summary.collect::<Vec<_>>()
        };
        assert_eq!(acknowledge(0), []);
        // Two halves of an odd number are less than the whole.
        assert_eq!(acknowledge(1), [(64, 1, 2, 0), (65, 1, 1, 0)]);
        assert_eq!(acknowledge(3), [(64, 3, 1, 1), (65, 2, 1, 0)]);
        assert_eq!(acknowledge(3), []);
        assert!(acknowledgements.waiting.is_empty());
    }

    #[test]
    fn a_stall_of_many_turns_is_acknowledged_once_for_each_channel() {
        const CHANNELS: u32 = 10_000;
        const TURNS: u32 = 20;
        let mut acknowledgements = Acknowledgements::default();
        let mut slots = vec![0; CHANNELS as usize];
        for turn in 0..TURNS {
            // In another order each time.
            for at in 0..CHANNELS {
                let channel = (at * 7 + turn) % CHANNELS;
                let slot = &mut slots[channel as usize];
                acknowledgements.accept(slot, channel, turn, 1);
            }
            acknowledgements.end_turn(turn.into());
        }
        let mut done = acknowledgements.durable(TURNS.into());
        done.sort_by_key(|entry| entry.channel_id);
        assert_eq!(done.len(), CHANNELS as usize);
        for (entry, channel_id) in done.iter().zip(0..) {
            assert_eq!(entry.channel_id, channel_id);
            assert_eq!((entry.count, entry.work), (TURNS, TURNS.into()));
            assert_eq!(entry.last_sequence_number, TURNS - 1);
        }
    }
}
