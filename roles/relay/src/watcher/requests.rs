//! What a miner has asked and the pool has not answered.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use stratum_v1::Id;

use super::Kind;

/// Requests of one connection that are followed at a time. A farm's proxy may have thousands of shares under way.
const MOST_REQUESTS: usize = 4_096;

/// What has not been answered for so long will not be, and makes room for what is new.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// Room that is kept while nothing is asked.
const ROOM: usize = 4;

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The requests of one connection, in their order.
#[derive(Debug, Default)]
pub(super) struct Requests(VecDeque<(Key, Answered)>);

/// What was asked.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Submit {
        /// What the share is worth.
        work: u128,
    },
    Authorize {
        /// For whom, if that is to be known.
        user: Option<Box<str>>,
    },
    Else(Kind),
}

/// A request that was answered.
#[derive(Debug, PartialEq)]
pub(super) struct Answered {
    pub(super) asked: Asked,
    pub(super) at: Instant,
}

/// An id; text by a hash that nobody can make collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Number(u64),
    Text(u64),
}

impl Key {
    fn of(id: Id<'_>) -> Self {
        id.number()
            .map_or_else(|| Self::Text(KEYS.hash_one(id.json())), Self::Number)
    }
}

impl Requests {
    /// Whether the request is followed: not if there are too many.
    pub(super) fn ask(&mut self, id: Id<'_>, asked: Asked, now: Instant) -> bool {
        if self.0.len() >= MOST_REQUESTS {
            let oldest = self.0.front().map(|(_, oldest)| oldest.at);
            if oldest.is_none_or(|at| now.saturating_duration_since(at) < FORGOTTEN_AFTER) {
                return false;
            }
            self.0.pop_front();
        }
        self.0.push_back((Key::of(id), Answered { asked, at: now }));
        true
    }

    /// The request of this id; of several the first, because pools answer in order.
    pub(super) fn answer(&mut self, id: Id<'_>) -> Option<Answered> {
        let key = Key::of(id);
        let place = self.0.iter().position(|(asked, _)| *asked == key)?;
        let (_, answered) = self.0.remove(place)?;
        if self.0.is_empty() && self.0.capacity() > ROOM {
            self.0 = VecDeque::new();
        }
        Some(answered)
    }
}
