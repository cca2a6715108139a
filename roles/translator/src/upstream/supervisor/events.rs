//! What the supervisor makes of the news: of a dial, of a connection, of a probe.

use std::time::Duration;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Event, MOST_HOPS, Purpose, Supervisor};
use crate::upstream::connection::{Asked, Established, Leash};
use crate::upstream::roster::GOOD_LIFETIME;
use crate::upstream::slot::{Dialling, Own, Redirect, Slot};
use crate::upstream::{Upstream, UpstreamError};

impl Supervisor {
    /// A task has ended.
    pub(super) fn handle(&mut self, ended: Result<(Id, Event), JoinError>) {
        let (task, event) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            Err(error) => return self.panicked(error.id()),
        };
        match event {
            // Otherwise it was given up at its last moment.
            Event::Dialled(attempt, result) if self.has_dialled(attempt.slot, task) => match result
            {
                Ok(established) => self.connected(attempt, *established),
                Err(error) => self.not_connected(&attempt, &error),
            },
            Event::Dialled(..) | Event::Stopped => {}
            Event::Ended {
                slot,
                pool,
                link_id,
                lived,
                end,
            } => {
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
            Event::Probed { pool, result } => {
                if self
                    .probing
                    .take_if(|(probe, _)| probe.id() == task)
                    .is_some()
                {
                    self.probed(pool, result);
                }
            }
        }
    }

    /// Whether this was the dial for the slot, or the one to a pool that may be followed.
    fn has_dialled(&mut self, slot: Option<usize>, task: Id) -> bool {
        match slot {
            Some(slot) => {
                let dialling = &mut self.slots[slot].dialling;
                dialling
                    .take_if(|dialling| dialling.task.id() == task)
                    .is_some()
            }
            None => self
                .finding
                .take_if(|finding| finding.id() == task)
                .is_some(),
        }
    }

    fn connected(&mut self, attempt: Attempt, established: Established) {
        let Attempt {
            slot,
            pool,
            place,
            purpose,
            hops,
        } = attempt;
        if purpose != Purpose::Follow && self.following.is_some_and(|followed| followed != pool) {
            // Meanwhile there was a move.
            return;
        }
        tracing::info!(upstream = %place.address, "connected to the upstream");
        self.settle_for(pool);
        let index = slot.unwrap_or_else(|| self.place_for(pool));
        let moved = {
            let mut roster = self.roster();
            roster.connected(pool);
            roster.follow(pool)
        };
        if moved {
            for slot in &mut self.slots {
                // They failed with another.
                slot.start_anew();
            }
            tracing::info!(upstream = %place.address, "from now on the miners work for this upstream");
        }
        self.employ(index, established, (pool, place, hops));
    }

    /// Runs a connection for the slot, in place of the one that it has.
    fn employ(
        &mut self,
        index: usize,
        established: Established,
        (pool, place, hops): (usize, Upstream, u32),
    ) {
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
        slot.give_up_dialling();
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

    /// From now on this pool is followed, and nothing is done any more to come to another.
    fn settle_for(&mut self, pool: usize) {
        if self.following.replace(pool).is_none()
            && let Some(finding) = self.finding.take()
        {
            finding.abort();
        }
        for slot in &mut self.slots {
            if slot
                .dialling
                .as_ref()
                .is_some_and(|dialling| dialling.pool != pool)
            {
                slot.give_up_dialling();
            }
        }
        if let Some((probe, _)) = self.probing.take_if(|(_, probed)| *probed >= pool) {
            probe.abort();
        }
    }

    /// The slot for the first connection to this pool, or for one more.
    fn place_for(&self, pool: usize) -> usize {
        let rank = |slot: &Slot| (slot.good(pool).is_some(), !slot.is_idle());
        (0..self.slots.len())
            .min_by_key(|index| rank(&self.slots[*index]))
            .unwrap_or(0)
    }

    fn not_connected(&mut self, attempt: &Attempt, error: &UpstreamError) {
        let news = self.roster().failed(attempt.pool, Instant::now(), error);
        let upstream = &attempt.place.address;
        if news {
            tracing::warn!(%upstream, %error, "cannot connect to the upstream");
        } else {
            tracing::debug!(%upstream, %error, "still cannot connect to the upstream");
        }
        if let Some(slot) = attempt.slot {
            self.slot_failed(slot);
        }
    }

    fn lost(&mut self, slot: usize, pool: usize, lived: Duration, error: &UpstreamError) {
        let address = &self.plan.upstreams[pool].address;
        tracing::warn!(upstream = %address, reason = %error, "lost the upstream; miners stay connected");
        self.roster().lost(pool, Instant::now(), lived, error);
        if matches!(error, UpstreamError::Refusing(_)) {
            self.leave(pool);
        }
        if lived < GOOD_LIFETIME {
            return self.slot_failed(slot);
        }
        let slot = &mut self.slots[slot];
        slot.failures = 0;
        slot.retry_at = Instant::now() + self.plan.waits.after(1);
    }

    /// No connection to this pool is worth to be kept when there is one to another.
    fn leave(&mut self, pool: usize) {
        let owned = self.slots.iter_mut().filter_map(|slot| slot.own.as_mut());
        for own in owned.filter(|own| own.pool == pool) {
            own.leaving = true;
        }
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
        if better && self.finding.is_none() {
            tracing::info!(upstream = %upstream.address, "an earlier upstream is back; miners return to it");
            self.dial_as_configured(None, pool, Purpose::Follow);
        }
    }

    pub(super) fn asked(&mut self, asked: Asked) {
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
        self.probing.take_if(|(probe, _)| probe.id() == task);
        self.finding.take_if(|finding| finding.id() == task);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let this = |dialling: &mut Dialling| dialling.task.id() == task;
            if slot.dialling.take_if(this).is_some() {
                self.slot_failed(index);
            } else if let Some(own) = slot.own.take_if(|own| own.task == task) {
                let lived = own.since.elapsed();
                self.lost(index, own.pool, lived, &UpstreamError::Panicked);
            }
        }
    }
}
