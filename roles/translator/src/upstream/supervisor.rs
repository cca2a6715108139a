//! Chooses the pool that all miners work for, and keeps the connections to it.
//!
//! One task decides; dialling, probing and each connection are tasks that tell it how they end. Every slot has a connection
//! of its own to the pool that is followed; a slot that gets none uses that of another. Where a connection is replaced, the
//! new one is published before the old one is given up.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{Asked, Established, Leash};
use super::dial::dial;
use super::probe::probe;
use super::roster::GOOD_LIFETIME;
use super::slot::{Own, Redirect, Slot};
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
    probing: Option<Id>,
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
    slot: usize,
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
            && self
                .slots
                .iter()
                .all(|slot| slot.good(pool).is_none() && slot.is_idle())
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
        self.publish();
        next
    }

    fn follow_redirects(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].dialling.is_none()
                && let Some(redirect) = self.slots[slot].redirect.take()
            {
                let Redirect { pool, place, hops } = redirect;
                self.dial(Attempt {
                    slot,
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
        if !self.slots.iter().all(Slot::is_idle) {
            return None;
        }
        let (next, next_at) = {
            let roster = self.roster();
            (roster.next(now), roster.next_at(usize::MAX))
        };
        let Some(pool) = next else {
            return next_at;
        };
        self.dial_as_configured(0, pool, Purpose::Follow);
        None
    }

    /// Has every slot connected to the pool that is followed.
    fn fill(&mut self, pool: usize, now: Instant) -> Option<Instant> {
        let mut next = None;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.good(pool).is_some() || !slot.is_idle() {
                continue;
            }
            if slot.retry_at <= now {
                self.dial_as_configured(index, pool, Purpose::Fill);
            } else {
                next = next.into_iter().chain([slot.retry_at]).min();
            }
        }
        next
    }

    /// Probes the pools in front of the one that is followed.
    fn look_for_better(&mut self, followed: usize, now: Instant) -> Option<Instant> {
        if self.probing.is_some() || self.plan.waits.failback.is_zero() {
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
            let probing = probe(pool, &plan.upstreams[pool], &plan, good_for);
            match shutdown.run_until_cancelled(probing).await {
                Some(result) => Event::Probed { pool, result },
                None => Event::Stopped,
            }
        };
        self.probing = Some(self.tasks.spawn(probing).id());
        None
    }

    /// Gives each slot the best link that there is.
    fn publish(&mut self) {
        let pool = self.following;
        let spare = pool.and_then(|pool| self.slots.iter().find_map(|slot| slot.good(pool)));
        let spare = spare.cloned();
        for slot in &mut self.slots {
            let good = pool.is_some_and(|pool| slot.good(pool).is_some());
            // A slot that only has to connect anew waits for that: it is a matter of a moment.
            let borrows = !good && slot.failures > 0 && spare.is_some();
            if borrows {
                slot.publish(spare.as_ref());
                slot.retire();
            } else {
                slot.publish(slot.own.as_ref().map(|own| &own.link));
            }
        }
        let available = self.slots.iter().any(|slot| slot.links.borrow().is_some());
        self.available.send_if_modified(|published| {
            let before = std::mem::replace(published, available);
            before != available
        });
    }

    fn dial_as_configured(&mut self, slot: usize, pool: usize, purpose: Purpose) {
        self.dial(Attempt {
            slot,
            pool,
            place: self.plan.upstreams[pool].clone(),
            purpose,
            hops: 0,
        });
    }

    fn dial(&mut self, attempt: Attempt) {
        let slot = attempt.slot;
        let (plan, shutdown) = (Arc::clone(&self.plan), self.shutdown.clone());
        let dialling = async move {
            let dialling = dial(attempt.pool, &attempt.place, &plan);
            match shutdown.run_until_cancelled(dialling).await {
                Some(result) => Event::Dialled(attempt, result.map(Box::new)),
                None => Event::Stopped,
            }
        };
        self.slots[slot].dialling = Some(self.tasks.spawn(dialling).id());
    }

    fn handle(&mut self, ended: Result<(Id, Event), JoinError>) {
        match ended.map(|(_, event)| event) {
            Ok(Event::Dialled(attempt, result)) => {
                self.slots[attempt.slot].dialling = None;
                match result {
                    Ok(established) => self.connected(attempt, *established),
                    Err(error) => self.not_connected(&attempt, &error),
                }
            }
            Ok(Event::Ended {
                slot,
                pool,
                link_id,
                lived,
                end,
            }) => {
                let of_this = |own: &mut Own| own.link.id == link_id;
                let ended = self.slots[slot].own.take_if(of_this);
                // One that was to be left has not failed, though it may have ended sooner than we had another.
                if ended.is_some_and(|own| !own.leaving) {
                    let error = end
                        .err()
                        .unwrap_or_else(|| sv2_connection::Error::Closed.into());
                    self.lost(slot, pool, lived, &error);
                } else {
                    tracing::debug!(upstream = %self.plan.upstreams[pool].address, "a connection that was left has ended");
                    self.roster().left(pool);
                }
            }
            Ok(Event::Probed { pool, result }) => {
                self.probing = None;
                self.probed(pool, result);
            }
            Ok(Event::Stopped) => {}
            Err(error) => self.panicked(error.id()),
        }
    }

    fn connected(&mut self, attempt: Attempt, established: Established) {
        let Attempt {
            slot: index,
            pool,
            place,
            purpose,
            hops,
        } = attempt;
        if purpose != Purpose::Follow && self.following != Some(pool) {
            // Meanwhile there was a move.
            return;
        }
        tracing::info!(upstream = %place.address, "connected to the upstream");
        self.following = Some(pool);
        let moved = {
            let mut roster = self.roster();
            roster.connected(pool);
            roster.follow(pool)
        };
        if moved {
            tracing::info!(upstream = %place.address, "from now on the miners work for this upstream");
        }
        let link = established.link();
        let link_id = link.id;
        let retire = CancellationToken::new();
        let since = Instant::now();
        let leash = Leash {
            shutdown: self.shutdown.clone(),
            retire: retire.clone(),
            asked: self.asking.clone(),
        };
        let running = async move {
            let end = established.run(leash).await;
            Event::Ended {
                slot: index,
                pool,
                link_id,
                lived: since.elapsed(),
                end,
            }
        };
        let task = self.tasks.spawn(running).id();
        let slot = &mut self.slots[index];
        slot.failures = 0;
        slot.publish(Some(&link));
        slot.retire();
        slot.own = Some(Own {
            link,
            task,
            pool,
            place,
            since,
            leaving: false,
            hops,
            retire,
        });
    }

    fn not_connected(&mut self, attempt: &Attempt, error: &UpstreamError) {
        let news = self.roster().failed(attempt.pool, Instant::now(), error);
        let upstream = &attempt.place.address;
        if news {
            tracing::warn!(%upstream, %error, "cannot connect to the upstream");
        } else {
            tracing::debug!(%upstream, %error, "still cannot connect to the upstream");
        }
        self.slot_failed(attempt.slot);
    }

    fn lost(&mut self, slot: usize, pool: usize, lived: Duration, error: &UpstreamError) {
        let address = &self.plan.upstreams[pool].address;
        tracing::warn!(upstream = %address, reason = %error, "lost the upstream; miners stay connected");
        self.roster().lost(pool, Instant::now(), lived, error);
        if lived < GOOD_LIFETIME {
            return self.slot_failed(slot);
        }
        let slot = &mut self.slots[slot];
        slot.failures = 0;
        slot.retry_at = Instant::now() + self.plan.waits.after(1);
    }

    fn slot_failed(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        slot.failures = slot.failures.saturating_add(1);
        slot.retry_at = Instant::now() + self.plan.waits.after(slot.failures);
    }

    fn probed(&mut self, pool: usize, result: Result<(), UpstreamError>) {
        let upstream = &self.plan.upstreams[pool];
        if let Err(error) = result {
            tracing::debug!(upstream = %upstream.address, %error, "an earlier upstream is not back yet");
            self.roster().failed(pool, Instant::now(), &error);
            return;
        }
        self.roster().proved(pool);
        let better = self.following.is_some_and(|following| pool < following);
        let Some(slot) = self.slots.iter().position(Slot::is_idle) else {
            return;
        };
        if better {
            tracing::info!(upstream = %upstream.address, "an earlier upstream is back; miners return to it");
            self.dial_as_configured(slot, pool, Purpose::Follow);
        }
    }

    fn asked(&mut self, asked: Asked) {
        let of_this = |slot: &&mut Slot| {
            let own = slot.own.as_ref();
            own.is_some_and(|own| own.link.id == asked.link_id)
        };
        let Some(slot) = self.slots.iter_mut().find(of_this) else {
            return;
        };
        let Some(own) = &mut slot.own else {
            return;
        };
        own.leaving = true;
        let hops = if own.since.elapsed() < GOOD_LIFETIME {
            own.hops + 1
        } else {
            1
        };
        let place = own.place.redirected(&asked.new_host, asked.new_port);
        tracing::info!(upstream = %own.place.address, new = %place.address, "the upstream asks for a new connection");
        let pool = own.pool;
        if hops <= MOST_HOPS {
            slot.redirect = Some(Redirect { pool, place, hops });
            return;
        }
        slot.failures = slot.failures.saturating_add(1);
        slot.retry_at = Instant::now() + self.plan.waits.after(slot.failures);
        let error = UpstreamError::Reconnect;
        tracing::warn!(upstream = %self.plan.upstreams[pool].address, %error, "another upstream is looked for");
        self.roster().failed(pool, Instant::now(), &error);
    }

    /// Ours to mend; until then the connection counts as lost.
    fn panicked(&mut self, task: Id) {
        tracing::error!("a task of a connection to an upstream failed");
        if self.probing == Some(task) {
            self.probing = None;
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.dialling == Some(task) {
                slot.dialling = None;
                self.slot_failed(index);
            } else if let Some(own) = slot.own.take_if(|own| own.task == task) {
                let lived = own.since.elapsed();
                self.lost(index, own.pool, lived, &UpstreamError::Panicked);
            }
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Whoever panicked left whole entries behind.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
