//! Which connections are let in: so many in all, and so many of one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::counters::{Counters, count};
use super::{Limits, ProxyProtocol};

/// Places for connections.
#[derive(Debug)]
pub(super) struct Slots {
    free: Semaphore,
    /// Places that there should be, and those beyond that are given back to nobody when they become free.
    wanted: Mutex<Wanted>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Wanted {
    limit: usize,
    surplus: usize,
}

impl Slots {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let slots = Self {
            free: Semaphore::new(0),
            wanted: Mutex::new(Wanted {
                limit: 0,
                surplus: 0,
            }),
            counters: Arc::default(),
        };
        slots.set_limit(limits.connections);
        Arc::new(slots)
    }

    /// Has so many connections at a time. Where there are more, none of them ends for it; and one that is waited for at
    /// that moment still comes.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let mut wanted = self.wanted();
        if limit > wanted.limit {
            let more = limit - wanted.limit;
            let kept = more.min(wanted.surplus);
            wanted.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            let fewer = wanted.limit - limit;
            wanted.surplus += fewer - self.free.forget_permits(fewer);
        }
        wanted.limit = limit;
        let shown = u64::try_from(limit).unwrap_or(u64::MAX);
        self.counters.limit.store(shown, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> usize {
        self.wanted().limit
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // Two numbers that fit each other whenever the lock is free.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Waits for a place. It is nobody's until it is [taken](Self::take).
    pub(super) async fn vacancy(&self) -> SemaphorePermit<'_> {
        if let Ok(vacancy) = self.free.try_acquire() {
            return vacancy;
        }
        count(&self.counters.waited_for_slot);
        match self.free.acquire().await {
            Ok(vacancy) => vacancy,
            // The semaphore lives as long as `self` and is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    pub(super) fn take(self: &Arc<Self>, vacancy: SemaphorePermit<'_>) -> Slot {
        vacancy.forget();
        count(&self.counters.open);
        Slot(Arc::clone(self))
    }
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Ordering::Relaxed);
        let mut wanted = self.0.wanted();
        if wanted.surplus > 0 {
            wanted.surplus -= 1;
        } else {
            self.0.free.add_permits(1);
        }
    }
}

/// One connection's share of the limits; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    pub(super) _slot: Slot,
    pub(super) place: Place,
}

/// Which address a connection counts for.
#[derive(Debug)]
pub(super) enum Place {
    Taken(#[allow(dead_code)] TakenPlace),
    /// The load balancer has not said yet.
    Unknown(Arc<Door>),
    /// The load balancer's own.
    Free,
}

/// What a connection needs to find its place later.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) proxy: Arc<ProxyProtocol>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) counters: Arc<Counters>,
}

/// How many connections each address has. Bounded by the limit of connections: an address without one has no entry.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) limit: AtomicUsize,
    pub(super) present: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    pub(super) fn enter(this: &Arc<Self>, address: IpAddr) -> Option<TakenPlace> {
        let key = network(address);
        let mut present = this.lock();
        let connections = present.entry(key).or_default();
        if *connections >= this.limit.load(Ordering::Relaxed) {
            return None;
        }
        *connections += 1;
        drop(present);
        Some(TakenPlace {
            key,
            addresses: Arc::clone(this),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // The map is whole whenever the lock is free: no code that can panic runs between two changes.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct TakenPlace {
    key: IpAddr,
    addresses: Arc<Addresses>,
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let mut present = self.addresses.lock();
        if let Some(connections) = present.get_mut(&self.key) {
            *connections -= 1;
            if *connections == 0 {
                present.remove(&self.key);
            }
        }
    }
}

/// What counts as one address. A home or a server gets a whole IPv6 /64, so that single addresses would limit nobody.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}
