//! Chooses the pool that all miners work for, and keeps the connections to it.
//!
//! One task decides; dialling, probing and each connection are tasks that tell it how they end. Every slot has a connection
//! of its own to the pool that is followed; a slot that gets none uses that of another. Where a connection is replaced, the
//! new one is published before the old one is given up.
//!
//! A pool is followed as long as a connection to it can be used, or it has asked for a new one. What is being dialled
//! holds up no decision: a dial that hangs must not keep miners from a pool that works.

mod events;

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{Asked, Established};
use super::dial::dial;
use super::probe::probe;
use super::slot::{Dialling, Redirect, Slot};
use super::{Link, Plan, Roster, Upstream, UpstreamError};

/// How often in a row a pool may send a new connection elsewhere.
const MOST_HOPS: u32 = 4;

/// What miners see of the connections.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// Miners are spread over them.
    pub(crate) links: Vec<watch::Sender<Option<Link>>>,
    /// Whether there is any.
    pub(crate) available: watch::Sender<bool>,
}

impl Published {
    /// Places for so many connections, of which there are none yet.
    pub(crate) fn new(connections: usize) -> Self {
        let links = std::iter::repeat_with(|| watch::Sender::new(None));
        Self {
            links: links.take(connections).collect(),
            available: watch::Sender::new(false),
        }
    }
}

/// Keeps connections until `shutdown`, and publishes them.
pub(crate) async fn supervise(
    plan: Arc<Plan>,
    roster: Arc<Mutex<Roster>>,
    Published { links, available }: Published,
    shutdown: CancellationToken,
) {
    let (asking, asked) = mpsc::channel(links.len().max(1));
    let slots = links.into_iter().map(Slot::new).collect();
    let supervisor = Supervisor {
        plan,
        roster,
        slots,
        available,
        following: None,
        finding: None,
        probing: None,
        asking,
        tasks: JoinSet::new(),
        shutdown,
    };
    supervisor.run(asked).await;
}

struct Supervisor {
    plan: Arc<Plan>,
    roster: Arc<Mutex<Roster>>,
    slots: Vec<Slot>,
    available: watch::Sender<bool>,
    /// The pool that slots are to be connected to. `None` while one has to be found.
    following: Option<usize>,
    /// The dial to a pool that may be followed; it takes no slot before it succeeds.
    finding: Option<AbortHandle>,
    /// And which pool.
    probing: Option<(AbortHandle, usize)>,
    asking: mpsc::Sender<Asked>,
    tasks: JoinSet<Event>,
    shutdown: CancellationToken,
}

/// What a connection is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To find the pool to follow, or to go back to a better one.
    Follow,
    /// To have one more connection to the pool that is followed.
    Fill,
    /// The pool has asked for it.
    Redirect,
}

/// An attempt to connect.
struct Attempt {
    /// Unless it is to be found when there is a connection.
    slot: Option<usize>,
    pool: usize,
    place: Upstream,
    purpose: Purpose,
    hops: u32,
}

/// How a task ended.
enum Event {
    Dialled(Attempt, Result<Box<Established>, UpstreamError>),
    Ended {
        slot: usize,
        pool: usize,
        link_id: u64,
        lived: Duration,
        end: Result<(), UpstreamError>,
    },
    Probed {
        pool: usize,
        result: Result<(), UpstreamError>,
    },
    Stopped,
}

impl Supervisor {
    async fn run(mut self, mut asked: mpsc::Receiver<Asked>) {
        loop {
            let next = self.arrange(Instant::now());
            let wait = async {
                match next {
                    Some(moment) => sleep_until(moment).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                // What a connection says comes before its end.
                Some(asked) = asked.recv() => self.asked(asked),
                Some(ended) = self.tasks.join_next_with_id() => self.handle(ended),
                () = wait => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Sets about everything that can be done now, and says when there will be more.
    fn arrange(&mut self, now: Instant) -> Option<Instant> {
        self.follow_redirects();
        if let Some(pool) = self.following
            && !self.slots.iter().any(|slot| slot.holds(pool))
        {
            self.following = None;
        }
        let next = match self.following {
            None => self.choose(now),
            Some(pool) => {
                let next = self.fill(pool, now);
                let probe = self.look_for_better(pool, now);
                next.into_iter().chain(probe).min()
            }
        };
        let borrow = self.publish(now);
        next.into_iter().chain(borrow).min()
    }

    fn follow_redirects(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].dialling.is_none()
                && let Some(redirect) = self.slots[slot].redirect.take()
            {
                let Redirect { pool, place, hops } = redirect;
                self.dial(Attempt {
                    slot: Some(slot),
                    pool,
                    place,
                    purpose: Purpose::Redirect,
                    hops,
                });
            }
        }
    }

    /// Tries pools one after the other, in their order.
    fn choose(&mut self, now: Instant) -> Option<Instant> {
        if self.finding.is_some() {
            return None;
        }
        let (next, next_at) = {
            let roster = self.roster();
            (roster.next(now), roster.next_at(usize::MAX))
        };
        let Some(pool) = next else {
            return next_at;
        };
        self.dial_as_configured(None, pool, Purpose::Follow);
        None
    }

    /// Has every slot connected to the pool that is followed.
    fn fill(&mut self, pool: usize, now: Instant) -> Option<Instant> {
        if !self.slots.iter().any(|slot| slot.good(pool).is_some()) {
            // Whether it is there at all is to be seen first.
            return None;
        }
        let mut next = None;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.good(pool).is_some() || !slot.is_idle() {
                continue;
            }
            if slot.retry_at <= now {
                self.dial_as_configured(Some(index), pool, Purpose::Fill);
            } else {
                next = next.into_iter().chain([slot.retry_at]).min();
            }
        }
        next
    }

    /// Probes the pools in front of the one that is followed.
    fn look_for_better(&mut self, followed: usize, now: Instant) -> Option<Instant> {
        if self.probing.is_some() || self.finding.is_some() || self.plan.waits.failback.is_zero() {
            return None;
        }
        let (better, next_at) = {
            let roster = self.roster();
            (roster.better(followed, now), roster.next_at(followed))
        };
        let Some((pool, good_for)) = better else {
            return next_at;
        };
        let (plan, shutdown) = (Arc::clone(&self.plan), self.shutdown.clone());
        let probing = async move {
            let probing = probe(&plan.records[pool], &plan.upstreams[pool], &plan, good_for);
            match shutdown.run_until_cancelled(probing).await {
                Some(result) => Event::Probed { pool, result },
                None => Event::Stopped,
            }
        };
        self.probing = Some((self.tasks.spawn(probing), pool));
        None
    }

    /// Gives each slot the best link that there is, and says when there may be a better one.
    fn publish(&mut self, now: Instant) -> Option<Instant> {
        let pool = self.following;
        let spare = pool.and_then(|pool| self.slots.iter().find_map(|slot| slot.good(pool)));
        let spare = spare.cloned();
        let mut next = None;
        for slot in &mut self.slots {
            let good = pool.is_some_and(|pool| slot.good(pool).is_some());
            let waits = slot.is_worth_waiting_for(now);
            slot.borrows = !good && !waits && spare.is_some();
            if slot.borrows {
                slot.publish(spare.as_ref());
                slot.retire();
            } else {
                slot.publish(slot.own.as_ref().map(|own| &own.link));
            }
            if waits && slot.own.is_none() {
                next = next.into_iter().chain(slot.patience_ends()).min();
            }
        }
        let available = self.slots.iter().any(|slot| slot.links.borrow().is_some());
        let changed = self.available.send_if_modified(|published| {
            let before = std::mem::replace(published, available);
            before != available
        });
        if changed {
            self.roster().set_available(available);
        }
        next
    }

    fn dial_as_configured(&mut self, slot: Option<usize>, pool: usize, purpose: Purpose) {
        self.dial(Attempt {
            slot,
            pool,
            place: self.plan.upstreams[pool].clone(),
            purpose,
            hops: 0,
        });
    }

    fn dial(&mut self, attempt: Attempt) {
        let (slot, pool) = (attempt.slot, attempt.pool);
        let redirected = attempt.purpose == Purpose::Redirect;
        let (plan, shutdown) = (Arc::clone(&self.plan), self.shutdown.clone());
        let dialling = async move {
            let dialling = dial(&plan.records[attempt.pool], &attempt.place, &plan);
            match shutdown.run_until_cancelled(dialling).await {
                Some(result) => Event::Dialled(attempt, result.map(Box::new)),
                None => Event::Stopped,
            }
        };
        let task = self.tasks.spawn(dialling);
        match slot {
            Some(slot) => {
                self.slots[slot].dialling = Some(Dialling {
                    task,
                    pool,
                    redirected,
                    since: Instant::now(),
                });
            }
            None => self.finding = Some(task),
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Whoever panicked left whole entries behind.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
