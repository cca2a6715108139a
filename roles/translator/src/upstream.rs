//! The SV2 side: connections to pools, and what comes from them on its way to the miners.
//!
//! Each connection has one task that reads and one that seals and writes. Nothing here waits for a miner: what a miner
//! has not taken yet is replaced by what is newer, or counted.

mod allowance;
mod complaints;
mod connection;
mod dial;
mod encode;
mod error;
mod mailbox;
mod probe;
mod roster;
mod router;
mod shared;
mod slot;
mod supervisor;
mod vitals;
#[cfg(test)]
mod wire;

pub(crate) use complaints::Complaints;
pub use dial::Upstream;
pub(crate) use error::UpstreamError;
pub(crate) use mailbox::{Letters, Mailbox};
pub use roster::UpstreamHealth;
pub(crate) use roster::{Roster, Standing, Waits};
pub(crate) use supervisor::{Published, supervise};
pub(crate) use vitals::{BATCH_OF_ANSWERS, Patience};
#[cfg(test)]
pub(crate) use wire::Wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use work::{Hashrate, Target};

use crate::job::Work;
use crate::session::{ChannelEvent, OpenChannel, RejectReason, Request};
pub(crate) use allowance::Account;
use allowance::Allowance;
#[cfg(test)]
pub(crate) use allowance::{EACH, ENOUGH};
use dial::Silence;
use shared::{Joined, Membership, SharedChannel, SharedChannels};
use vitals::Acceptance;

/// How connections are made; the same for all of them.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are tried.
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) queue: usize,
    /// Miners of one account share a channel.
    pub(crate) aggregate: bool,
    /// By the pool's place in the order.
    pub(crate) records: Vec<Record>,
    pub(crate) waits: Waits,
    /// For each step of connecting.
    pub(crate) connect_patience: Duration,
    pub(crate) patience: Patience,
    /// What a pool is told that is tried.
    pub(crate) nominal_hashrate: Hashrate,
    pub(crate) last_identity: LastIdentity,
    pub(crate) complaints: Complaints,
    /// Numbers for jobs, process-wide.
    pub(crate) job_ids: Arc<AtomicU64>,
    /// Numbers for connections.
    pub(crate) link_ids: AtomicU64,
}

/// What all connections to a pool have found out about it.
#[derive(Debug)]
pub(crate) struct Record {
    /// It has hung up on the question for extensions, or left it open.
    silence: Silence,
    acceptance: Arc<Acceptance>,
}

impl Record {
    /// Nothing yet.
    pub(crate) fn new(has_alternative: bool) -> Self {
        Self {
            silence: Silence::default(),
            acceptance: Acceptance::new(has_alternative),
        }
    }
}

/// The name of the channel that was opened last. Locked when one is, never for a share.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastIdentity(Arc<Mutex<Option<Box<str>>>>);

impl LastIdentity {
    /// With the name that is configured, if one is.
    pub(crate) fn new(identity: Option<&str>) -> Self {
        Self(Arc::new(Mutex::new(identity.map(Into::into))))
    }

    fn set(&self, identity: Box<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    fn read(&self) -> Option<Box<str>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a miner's task needs of a living upstream connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Tells one connection from the next.
    pub(crate) id: u64,
    /// Requests in order. When it is full, the miner is not read.
    pub(crate) queue: mpsc::Sender<Outgoing>,
    registry: Arc<Registry>,
    /// Shares can name their workers (extension 0x0002).
    worker_names: bool,
}

/// A request; the number names the answer to a [`Request::Open`] and means nothing for others.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request_id: u32,
    pub(crate) request: Request,
    /// Whose share it is, where the channel is shared.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
}

impl Outgoing {
    /// Whose share it is, and its place, where the channel is shared.
    fn membership(&self) -> Option<(&Arc<Mailbox>, &Membership)> {
        let mailbox = self.mailbox.as_ref()?;
        Some((mailbox, mailbox.membership()?))
    }
}

/// Where the answer to a request for a channel will come, and what is to be sent for it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) mailbox: Arc<Mailbox>,
    /// The number of the request to send; none where the miner shares a channel that is asked for or open already.
    pub(crate) request_id: Option<u32>,
}

impl Link {
    /// A place for the answer to a request that is about to be sent.
    pub(crate) fn place(&self, wanted: &OpenChannel) -> Place {
        let now = Instant::now();
        let Some(channels) = &self.registry.shared else {
            let mailbox = Arc::new(self.mailbox());
            let owner = Owner::Miner(Arc::downgrade(&mailbox));
            let request_id = self.registry.register(now, owner, wanted);
            return Place {
                mailbox,
                request_id: Some(request_id),
            };
        };
        match channels.join(wanted) {
            Joined::Existing(mailbox) => Place {
                mailbox,
                request_id: None,
            },
            Joined::First(mailbox, channel) => {
                let owner = Owner::Shared(channel);
                Place {
                    mailbox,
                    request_id: Some(self.registry.register(now, owner, wanted)),
                }
            }
        }
    }

    /// Has what is in the queue written now, and not when more has gathered.
    pub(crate) fn hurry(&self) {
        self.registry.hurry.notify_one();
    }

    /// A mailbox for a miner that has a channel to itself.
    pub(crate) fn mailbox(&self) -> Mailbox {
        Mailbox::new(Account::new(Arc::clone(&self.registry.allowance)))
    }

    /// Has a channel closed although the queue has no room now.
    pub(crate) fn close_later(&self, channel_id: u32) {
        self.registry.abandoned().push(channel_id);
    }

    /// A miner has waited long for answers to its shares. Said once for a connection.
    pub(crate) fn say_that_answers_are_missing(&self, shares: usize) {
        if !self.registry.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                shares,
                "the pool answers no shares and a miner has to wait; if the pool acknowledges in batches, \
                 max_in_flight_shares must be larger than one"
            );
        }
    }
}

/// Channels that are being opened. Locked when one is opened and when the answer comes, never for a share.
#[derive(Debug, Default)]
struct Registry {
    openings: Mutex<Openings>,
    allowance: Arc<Allowance>,
    /// If miners share channels.
    shared: Option<SharedChannels>,
    last_identity: LastIdentity,
    complaints: Complaints,
    /// Channels to be closed when there is room for that.
    abandoned: Mutex<Vec<u32>>,
    /// Something in the queue should not wait.
    hurry: Notify,
    /// Whether missing answers to shares have been named in the log.
    said: AtomicBool,
}

#[derive(Debug, Default)]
struct Openings {
    last_request_id: u32,
    /// Kept until the upstream answers, also when the miner has left: an answer to nothing is the upstream's fault.
    waiting: HashMap<u32, Opening>,
    /// Since when the upstream has answered no request, while it owes an answer.
    owing_since: Option<Instant>,
}

/// A request for a channel.
#[derive(Debug)]
struct Opening {
    owner: Owner,
    user_identity: Box<str>,
    max_target: Target,
}

/// Whom a channel is for.
#[derive(Debug)]
enum Owner {
    /// One miner; dead if it has left.
    Miner(Weak<Mailbox>),
    /// All that share it.
    Shared(Arc<SharedChannel>),
}

impl Owner {
    fn is_present(&self) -> bool {
        match self {
            Self::Miner(mailbox) => mailbox.strong_count() > 0,
            Self::Shared(channel) => !channel.has_ended(),
        }
    }

    /// `false` if nobody wants it any more.
    fn opened(&self, channel_id: u32, extranonce_size: u16) -> bool {
        match self {
            Self::Miner(mailbox) => mailbox.upgrade().is_some_and(|mailbox| {
                mailbox.opening(ChannelEvent::Opened {
                    channel_id,
                    extranonce_size,
                })
            }),
            Self::Shared(channel) => channel.opened(channel_id, extranonce_size),
        }
    }

    fn refused(&self, code: &str) {
        match self {
            Self::Miner(mailbox) => {
                if let Some(mailbox) = mailbox.upgrade() {
                    mailbox.opening(ChannelEvent::Refused(code.to_owned()));
                }
            }
            Self::Shared(channel) => channel.refused(code),
        }
    }

    /// `false` if nobody wants it any more.
    fn work(&self, work: Work) -> bool {
        match self {
            Self::Miner(mailbox) => match mailbox.upgrade() {
                Some(mailbox) => mailbox.work(work),
                None => return false,
            },
            Self::Shared(channel) if channel.has_ended() => return false,
            Self::Shared(channel) => channel.work(&work),
        }
        true
    }

    fn accepted(&self, last: u32, count: u64) {
        match self {
            Self::Miner(mailbox) => {
                if let Some(mailbox) = mailbox.upgrade() {
                    mailbox.accepted(last, count);
                }
            }
            Self::Shared(channel) => channel.accepted(last, count),
        }
    }

    /// Has the miners look who have not for a while.
    fn remind(&self) {
        match self {
            Self::Miner(mailbox) => {
                if let Some(mailbox) = mailbox.upgrade() {
                    mailbox.remind();
                }
            }
            Self::Shared(channel) => channel.remind(),
        }
    }

    /// `false` if the upstream refuses shares that nobody can have sent.
    fn rejected(&self, sequence_number: u32, reason: RejectReason) -> bool {
        match self {
            Self::Miner(mailbox) => mailbox
                .upgrade()
                .is_none_or(|mailbox| mailbox.rejected(sequence_number, reason)),
            Self::Shared(channel) => channel.rejected(sequence_number, reason),
        }
    }

    /// The upstream has closed it. Nobody is its owner from then on.
    fn closed(&mut self, reason: &str) {
        match self {
            Self::Miner(mailbox) => {
                if let Some(mailbox) = std::mem::take(mailbox).upgrade() {
                    mailbox.closed(reason.to_owned());
                }
            }
            Self::Shared(channel) => channel.closed(reason),
        }
    }
}

impl Registry {
    /// For a connection of this plan.
    fn planned(plan: &Plan) -> Self {
        Self {
            last_identity: plan.last_identity.clone(),
            complaints: plan.complaints.clone(),
            ..Self::new(plan.aggregate)
        }
    }

    fn new(aggregate: bool) -> Self {
        let allowance = Arc::<Allowance>::default();
        Self {
            shared: aggregate.then(|| SharedChannels::new(Arc::clone(&allowance))),
            allowance,
            ..Self::default()
        }
    }

    fn register(&self, now: Instant, owner: Owner, wanted: &OpenChannel) -> u32 {
        let mut openings = self.lock();
        openings.last_request_id = openings.last_request_id.wrapping_add(1);
        let id = openings.last_request_id;
        let opening = Opening {
            owner,
            user_identity: wanted.user_identity.clone(),
            max_target: wanted.max_target,
        };
        openings.waiting.insert(id, opening);
        openings.owing_since.get_or_insert(now);
        id
    }

    /// What was asked; `None` if nothing was.
    fn answer(&self, now: Instant, request_id: u32) -> Option<Opening> {
        let mut openings = self.lock();
        let opening = openings.waiting.remove(&request_id)?;
        openings.owing_since = (!openings.waiting.is_empty()).then_some(now);
        Some(opening)
    }

    /// How long the upstream has left all requests for channels unanswered.
    fn owing_for(&self, now: Instant) -> Duration {
        self.lock()
            .owing_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// No more than there are open channels.
    fn abandoned(&self) -> MutexGuard<'_, Vec<u32>> {
        self.abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Openings> {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
