//! Channels that many miners share: those of one account, with the same easiest target, on one upstream connection.
//!
//! To a miner it looks as if it had the channel to itself. What the upstream says to the channel goes to the mailboxes of
//! all; shares get the channel's own sequence numbers when they are written, and their answers find the way back by them.
//! Miners do not get in each other's way, because the extranonce1 of each is its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use work::{Hashrate, Target};

use super::Mailbox;
use super::allowance::{Account, Allowance};
use crate::job::Work;
use crate::session::{ChannelEvent, OpenChannel, RejectReason, Unanswered};

/// A sum of hashrates that has moved by less than so much of it is not worth telling.
const WORTH_TELLING: f64 = 0.05;

/// All shared channels of an upstream connection. Locked when a miner comes and once a second, never for a share.
#[derive(Debug, Default)]
pub(crate) struct SharedChannels {
    channels: Mutex<HashMap<Key, Arc<SharedChannel>>>,
    allowance: Arc<Allowance>,
}

/// Miners with the same key share a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    user_identity: Box<str>,
    max_target: [u8; 32],
}

/// What became of a miner that wants a channel.
#[derive(Debug)]
pub(crate) enum Joined {
    /// It shares one that is open or asked for.
    Existing(Arc<Mailbox>),
    /// It is the first: the channel has to be asked for.
    First(Arc<Mailbox>, Arc<SharedChannel>),
}

/// The upstream is to be told that a channel's miners do more or less than before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Update {
    pub(crate) channel_id: u32,
    pub(crate) hashrate: Hashrate,
    pub(crate) max_target: Target,
}

impl SharedChannels {
    /// None yet, on a connection with this allowance.
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        Self {
            channels: Mutex::default(),
            allowance,
        }
    }

    /// Has a miner share a channel.
    pub(crate) fn join(&self, wanted: &OpenChannel) -> Joined {
        let key = Key {
            user_identity: wanted.user_identity.clone(),
            max_target: wanted.max_target.to_le_bytes(),
        };
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(&key)
            && let Some(mailbox) = SharedChannel::enter(channel, wanted.hashrate, self.account())
        {
            return Joined::Existing(mailbox);
        }
        let channel = Arc::new(SharedChannel::new(wanted));
        channels.insert(key, Arc::clone(&channel));
        // Nobody else knows it yet, so that it cannot have ended.
        let mailbox =
            SharedChannel::enter(&channel, wanted.hashrate, self.account()).unwrap_or_default();
        Joined::First(mailbox, channel)
    }

    fn account(&self) -> Account {
        Account::new(Arc::clone(&self.allowance))
    }

    /// What the upstream is to be told now. To be asked at most once a second.
    pub(crate) fn updates(&self) -> Vec<Update> {
        let mut channels = lock(&self.channels);
        channels.retain(|_, channel| !channel.has_ended());
        channels
            .values()
            .filter_map(|channel| channel.update())
            .collect()
    }
}

/// One channel and who shares it.
#[derive(Debug)]
pub(crate) struct SharedChannel {
    max_target: Target,
    now: Mutex<Now>,
    /// Locked by the tasks that write and read the upstream connection, and by nobody else.
    shares: Mutex<Shares>,
}

#[derive(Debug)]
struct Now {
    stage: Stage,
    /// The newest, for miners that come later.
    work: Option<Work>,
    last_member: u64,
    members: HashMap<u64, Member>,
    told: Hashrate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Open {
        channel_id: u32,
        extranonce_size: u16,
    },
    /// Refused, closed, or left by all.
    Ended,
}

#[derive(Debug)]
struct Member {
    mailbox: Weak<Mailbox>,
    hashrate: Hashrate,
}

/// A miner's place in a shared channel.
#[derive(Debug)]
pub(crate) struct Membership {
    id: u64,
    channel: Arc<SharedChannel>,
}

#[derive(Debug, Default)]
struct Shares {
    sequence_number: u32,
    /// There are no more than miners may have in flight.
    in_flight: Unanswered<InFlight>,
}

/// A share that was written.
#[derive(Debug)]
struct InFlight {
    /// Dead if nobody waits for the answer any more. A strong one would keep the channel, and that this.
    mailbox: Weak<Mailbox>,
    /// The miner's own number of it.
    its_number: u32,
}

impl SharedChannel {
    fn new(wanted: &OpenChannel) -> Self {
        Self {
            max_target: wanted.max_target,
            now: Mutex::new(Now {
                stage: Stage::Opening,
                work: None,
                last_member: 0,
                members: HashMap::new(),
                told: wanted.hashrate,
            }),
            shares: Mutex::default(),
        }
    }

    /// A mailbox for another miner; none if the channel has ended.
    fn enter(channel: &Arc<Self>, hashrate: Hashrate, account: Account) -> Option<Arc<Mailbox>> {
        let mut now = lock(&channel.now);
        if now.stage == Stage::Ended {
            return None;
        }
        now.last_member += 1;
        let id = now.last_member;
        let mailbox = Arc::new(Mailbox::of(
            Membership {
                id,
                channel: Arc::clone(channel),
            },
            account,
        ));
        if let Some(opened) = now.stage.opened() {
            mailbox.opening(opened);
        }
        if let Some(work) = &now.work {
            mailbox.work(work.clone());
        }
        now.members.insert(
            id,
            Member {
                mailbox: Arc::downgrade(&mailbox),
                hashrate,
            },
        );
        Some(mailbox)
    }

    /// The upstream has opened it; `false` if all who wanted it have left.
    pub(super) fn opened(&self, channel_id: u32, extranonce_size: u16) -> bool {
        let mut now = lock(&self.now);
        now.forget_the_departed();
        if now.stage != Stage::Opening || now.members.is_empty() {
            now.stage = Stage::Ended;
            return false;
        }
        now.stage = Stage::Open {
            channel_id,
            extranonce_size,
        };
        let stage = now.stage;
        now.each(|mailbox| {
            if let Some(opened) = stage.opened() {
                mailbox.opening(opened);
            }
        });
        true
    }

    pub(super) fn refused(&self, code: &str) {
        let mut now = lock(&self.now);
        now.stage = Stage::Ended;
        now.each(|mailbox| {
            mailbox.opening(ChannelEvent::Refused(code.to_owned()));
        });
    }

    pub(super) fn closed(&self, reason: &str) {
        let mut now = lock(&self.now);
        now.stage = Stage::Ended;
        now.each(|mailbox| mailbox.closed(reason.to_owned()));
    }

    pub(super) fn work(&self, work: &Work) {
        let mut now = lock(&self.now);
        now.work = Some(work.clone());
        now.each(|mailbox| mailbox.work(work.clone()));
    }

    /// Takes up a miner's share, and gives the number that the upstream is to know it by.
    pub(super) fn sent(&self, mailbox: &Arc<Mailbox>, its_number: u32) -> u32 {
        let mut shares = lock(&self.shares);
        shares.sequence_number = shares.sequence_number.wrapping_add(1);
        let sequence_number = shares.sequence_number;
        let in_flight = InFlight {
            mailbox: Arc::downgrade(mailbox),
            its_number,
        };
        shares.in_flight.push(sequence_number, in_flight);
        sequence_number
    }

    pub(super) fn accepted(&self, last: u32, count: u64) {
        lock(&self.shares).in_flight.accepted(last, count, |share| {
            if let Some(mailbox) = share.mailbox.upgrade() {
                mailbox.accepted(share.its_number, 1);
            }
        });
    }

    /// Has the miners look who have not for a while.
    pub(super) fn remind(&self) {
        lock(&self.now).each(Mailbox::remind);
    }

    /// `false` if the upstream refuses more shares than anybody sent.
    pub(super) fn rejected(&self, sequence_number: u32, reason: RejectReason) -> bool {
        lock(&self.shares)
            .in_flight
            .rejected(sequence_number)
            .and_then(|share| Some((share.mailbox.upgrade()?, share.its_number)))
            .is_none_or(|(mailbox, its_number)| mailbox.rejected(its_number, reason))
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.now).stage == Stage::Ended
    }

    fn update(&self) -> Option<Update> {
        let mut now = lock(&self.now);
        now.forget_the_departed();
        let Stage::Open { channel_id, .. } = now.stage else {
            return None;
        };
        if now.members.is_empty() {
            return None;
        }
        let sum = now
            .members
            .values()
            .map(|member| member.hashrate.value())
            .sum();
        let hashrate = Hashrate::new(sum).ok()?;
        if (sum - now.told.value()).abs() <= WORTH_TELLING * now.told.value() {
            return None;
        }
        now.told = hashrate;
        Some(Update {
            channel_id,
            hashrate,
            max_target: self.max_target,
        })
    }
}

impl Membership {
    pub(super) fn channel(&self) -> &SharedChannel {
        &self.channel
    }

    /// The miner does more or less than it said before.
    pub(crate) fn set_hashrate(&self, hashrate: Hashrate) {
        if let Some(member) = lock(&self.channel.now).members.get_mut(&self.id) {
            member.hashrate = hashrate;
        }
    }

    /// The miner leaves. Gives the channel's id if it was the last, and the channel is to be closed.
    pub(crate) fn leave(&self) -> Option<u32> {
        let mut now = lock(&self.channel.now);
        now.members.remove(&self.id);
        let Stage::Open { channel_id, .. } = now.stage else {
            return None;
        };
        now.members.is_empty().then(|| {
            now.stage = Stage::Ended;
            channel_id
        })
    }
}

impl Now {
    fn each(&mut self, mut tell: impl FnMut(&Mailbox)) {
        self.members
            .values()
            .filter_map(|member| member.mailbox.upgrade())
            .for_each(|mailbox| tell(&mailbox));
    }

    fn forget_the_departed(&mut self) {
        self.members
            .retain(|_, member| member.mailbox.strong_count() > 0);
    }
}

impl Stage {
    fn opened(self) -> Option<ChannelEvent> {
        match self {
            Self::Open {
                channel_id,
                extranonce_size,
            } => Some(ChannelEvent::Opened {
                channel_id,
                extranonce_size,
            }),
            Self::Opening | Self::Ended => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked left whole fields behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
