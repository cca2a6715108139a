//! What a miner has asked and the pool has not answered.
//!
//! By this shares are billed, and the miner chooses ids, methods and how it writes them. So whatever a pool accepts is a
//! share's as long as there is one that it can be: nothing that a miner asks beside its shares hides one.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use stratum_v1::Id;

use super::Kind;

/// Shares of one connection that are followed at a time. A farm's proxy may have hundreds under way. Of those that had to make
/// room the number is kept.
const MOST_SHARES: usize = 1_024;

/// Other requests that are followed at a time.
const MOST_OTHERS: usize = 256;

/// Names that are kept of a miner that authorises many at once.
const MOST_NAMES: usize = 4;

/// What has not been answered for so long will not be.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// No share takes fewer bytes: `{"id":1,"method":"mining.submit","params":["","","","",""]}`, and some of that may be missing.
const SHORTEST_SHARE: usize = 40;

/// Room that is kept while nothing is asked.
const ROOM: usize = 4;

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The requests of one connection, in their order.
#[derive(Debug, Default)]
pub(super) struct Requests {
    shares: VecDeque<Request<u128>>,
    others: VecDeque<Request<Other>>,
    /// Shares that are not followed any more, and may still be accepted.
    forgotten: u64,
    /// Shares that lines may have held for the pool that could not be read.
    unread: u64,
}

/// What else was asked.
#[derive(Debug, PartialEq)]
pub(super) struct Other {
    pub(super) kind: Kind,
    /// Who is to be authorised, if that is to be known.
    pub(super) user: Option<Box<str>>,
}

#[derive(Debug)]
struct Request<T> {
    key: Key,
    at: Instant,
    asked: T,
}

/// What was answered.
#[derive(Debug, PartialEq)]
pub(super) enum Answered {
    Share {
        work: u128,
        at: Instant,
    },
    /// A share that is not followed; it was never counted if it could not be read.
    UnfollowedShare {
        was_read: bool,
    },
    Other {
        asked: Other,
        at: Instant,
    },
}

/// An id: as it is, if it is such that every pool repeats it as it was, or else a hash that nobody can make collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u64);

impl Key {
    /// Above all ids that are kept as they are.
    const HASHED: u64 = 1 << 63;

    fn of(id: Id<'_>) -> Self {
        let plain = id
            .number()
            .filter(|id| *id <= i32::MAX.unsigned_abs().into());
        Self(plain.unwrap_or_else(|| KEYS.hash_one(id.json()) | Self::HASHED))
    }

    /// Pools may write text, fractions and large numbers in another way, or answer with none.
    fn may_be_answered_otherwise(self) -> bool {
        self.0 & Self::HASHED != 0
    }
}

impl Requests {
    /// A share; whether none had to make room for it.
    pub(super) fn submit(&mut self, id: Id<'_>, work: u128, now: Instant) -> bool {
        self.forgotten += forget(&mut self.shares, now);
        let is_full = self.shares.len() >= MOST_SHARES;
        if is_full {
            self.shares.pop_front();
            self.forgotten += 1;
        }
        self.shares.push_back(Request {
            key: Key::of(id),
            at: now,
            asked: work,
        });
        !is_full
    }

    /// Something else; whether nothing had to make room for it.
    pub(super) fn ask(&mut self, id: Id<'_>, mut asked: Other, now: Instant) -> bool {
        forget(&mut self.others, now);
        let is_full = self.others.len() >= MOST_OTHERS;
        if is_full {
            self.others.pop_front();
        }
        let (key, mut names) = (Key::of(id), 0);
        for earlier in &mut self.others {
            if earlier.key == key {
                // The answer to either may be taken for the other's, and a name must be the one that the pool has accepted.
                (earlier.asked.user, asked.user) = (None, None);
            }
            names += usize::from(earlier.asked.user.is_some());
        }
        if names >= MOST_NAMES {
            asked.user = None;
        }
        self.others.push_back(Request {
            key,
            at: now,
            asked,
        });
        !is_full
    }

    /// When the oldest one was asked.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let share = self.shares.front().map(|share| share.at);
        let other = self.others.front().map(|other| other.at);
        share.into_iter().chain(other).min()
    }

    /// A line of so many bytes that could not be read, or one that was too long to be looked at. Pools that take one request
    /// after the other, with or without a line end between them, may find several shares in it.
    pub(super) fn unreadable(&mut self, bytes: Option<usize>) {
        let shares = bytes.map_or(u64::MAX, |bytes| (bytes / SHORTEST_SHARE) as u64 + 1);
        self.unread = self.unread.saturating_add(shares);
    }

    /// The request that was answered: the first of this id, because pools answer in order. Where a share has the same id as
    /// something else, it is the share that was accepted, and the other one that was refused.
    pub(super) fn answer(&mut self, id: Id<'_>, accepts: bool) -> Option<Answered> {
        let key = Key::of(id);
        let share = self.shares.iter().position(|share| share.key == key);
        let other = self.others.iter().position(|other| other.key == key);
        // What a pool cannot read it refuses without an id, too.
        let is_anybodys = id.is_absent() || id == Id::NULL;
        if let Some(at) = share
            && (accepts || other.is_none() && !is_anybodys)
        {
            return take(&mut self.shares, at).map(of_share);
        }
        let other = other.and_then(|at| take(&mut self.others, at));
        let is_clear = other
            .as_ref()
            .is_some_and(|other| other.asked.kind != Kind::Other);
        if accepts && !is_clear {
            let unfollowed = self.unfollowed(other.is_none());
            if unfollowed.is_some() {
                return unfollowed;
            }
        }
        other.map(|Request { asked, at, .. }| Answered::Other { asked, at })
    }

    /// A share that is not followed by this id.
    fn unfollowed(&mut self, nothing_has_the_id: bool) -> Option<Answered> {
        if self.forgotten > 0 {
            self.forgotten -= 1;
            return Some(Answered::UnfollowedShare { was_read: true });
        }
        if self.unread > 0 {
            self.unread -= 1;
            return Some(Answered::UnfollowedShare { was_read: false });
        }
        if !nothing_has_the_id {
            return None;
        }
        let mut shares = self.shares.iter();
        let at = shares.position(|share| share.key.may_be_answered_otherwise())?;
        take(&mut self.shares, at).map(of_share)
    }
}

fn of_share(Request { asked, at, .. }: Request<u128>) -> Answered {
    Answered::Share { work: asked, at }
}

/// Drops those that will not be answered any more, and says how many.
fn forget<T>(requests: &mut VecDeque<Request<T>>, now: Instant) -> u64 {
    let mut forgotten = 0;
    while let Some(oldest) = requests.front()
        && now.saturating_duration_since(oldest.at) >= FORGOTTEN_AFTER
    {
        requests.pop_front();
        forgotten += 1;
    }
    forgotten
}

fn take<T>(requests: &mut VecDeque<Request<T>>, at: usize) -> Option<Request<T>> {
    let taken = requests.remove(at);
    if requests.is_empty() && requests.capacity() > ROOM {
        *requests = VecDeque::new();
    }
    taken
}
