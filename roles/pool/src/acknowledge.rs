//! From accepted to acknowledged: a share is acknowledged when it is durable, not before.

use std::{collections::VecDeque, fmt, sync::Arc};

use stratum_core::mining_sv2::SubmitSharesSuccess;
use work::Difficulty;

/// Who a channel's work is booked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The part of the user identity before the first dot.
    pub account: Arc<str>,
    /// What follows it; empty if nothing does.
    pub worker: Arc<str>,
}

impl Owner {
    pub(crate) fn new(identity: &str) -> Self {
        let (account, worker) = identity.split_once('.').unwrap_or((identity, ""));
        Self {
            account: account.into(),
            worker: worker.into(),
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
/// It holds the shares of channels that have been closed meanwhile, too: what was accepted is acknowledged to the last.
#[derive(Debug, Default)]
pub(crate) struct Acknowledgements {
    turn: Vec<Accepted>,
    waiting: VecDeque<(u64, Vec<Accepted>)>,
}

impl Acknowledgements {
    /// Notes a share. `slot` is where the channel's entry of this turn was last; it is told where it is now.
    pub(crate) fn accept(
        &mut self,
        slot: &mut usize,
        channel_id: u32,
        sequence_number: u32,
        work: u128,
    ) {
        match self.turn.get_mut(*slot) {
            Some(entry) if entry.channel_id == channel_id => {
                entry.count += 1;
                entry.work = entry.work.saturating_add(work);
                entry.last_sequence_number = sequence_number;
            }
            _ => {
                *slot = self.turn.len();
                self.turn.push(Accepted {
                    channel_id,
                    count: 1,
                    work,
                    last_sequence_number: sequence_number,
                });
            }
        }
    }

    /// The channels that had shares in this turn.
    pub(crate) fn channels_of_turn(&self) -> Vec<u32> {
        self.turn.iter().map(|entry| entry.channel_id).collect()
    }

    /// Ends the turn: what was accepted in it waits under this number, and is to be booked.
    pub(crate) fn end_turn(&mut self, number: u64) -> Option<&[Accepted]> {
        if self.turn.is_empty() {
            return None;
        }
        self.waiting
            .push_back((number, std::mem::take(&mut self.turn)));
        self.waiting.back().map(|(_, turn)| turn.as_slice())
    }

    /// All turns up to this number are durable: what there is to acknowledge, an entry for each channel.
    pub(crate) fn durable(&mut self, number: u64) -> Vec<Accepted> {
        let mut done: Vec<Accepted> = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|(turn, _)| *turn <= number)
        {
            for entry in self.waiting.pop_front().into_iter().flat_map(|turn| turn.1) {
                // Turns are few and channels in them too; one message for each channel is worth the search.
                match done
                    .iter_mut()
                    .find(|earlier| earlier.channel_id == entry.channel_id)
                {
                    Some(earlier) => {
                        earlier.count += entry.count;
                        earlier.work = earlier.work.saturating_add(entry.work);
                        earlier.last_sequence_number = entry.last_sequence_number;
                    }
                    None => done.push(entry),
                }
            }
        }
        done
    }
}

impl Accepted {
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
            assert!(acknowledgements.end_turn(number.into()).is_some());
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
        assert_eq!(acknowledge(3), [(65, 2, 1, 0), (64, 3, 1, 1)]);
        assert_eq!(acknowledge(3), []);
        assert!(acknowledgements.waiting.is_empty());
    }
}
