//! What has happened in a role and was not told yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use stats_events::Event;

/// A bounded queue of what happens once. What there is no room for is dropped and counted: the sums in the role's own
/// state hold it all the same, and the sender notices that a peer has gone.
#[derive(Debug)]
pub struct Happened {
    queue: Mutex<Queue>,
    capacity: usize,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// What belongs together is told together.
    bundles: VecDeque<Vec<Event>>,
    events: usize,
}

impl Happened {
    /// With room for so many events.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            queue: Mutex::default(),
            capacity,
            dropped: AtomicU64::new(0),
        }
    }

    /// Something has happened that the sums know of: a block, or a peer that did work. It has a place as long as there is
    /// room at all.
    pub fn push(&self, bundle: Vec<Event>) {
        self.push_within(bundle, self.capacity);
    }

    /// Something has happened that a stranger can have happen as often as they like, such as to come and to go. It may
    /// take half of the room.
    pub fn push_idle(&self, bundle: Vec<Event>) {
        self.push_within(bundle, self.capacity / 2);
    }

    /// Takes the oldest, about so many events.
    pub fn take(&self, most: usize) -> Vec<Event> {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(bundle) = queue.bundles.pop_front()
        {
            queue.events -= bundle.len();
            taken.extend(bundle);
        }
        taken
    }

    /// Events for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn push_within(&self, bundle: Vec<Event>, room: usize) {
        let size = bundle.len();
        let mut queue = self.lock();
        if queue.events + size > room {
            let size = u64::try_from(size).unwrap_or(u64::MAX);
            self.dropped.fetch_add(size, Ordering::Relaxed);
            return;
        }
        queue.events += size;
        queue.bundles.push_back(bundle);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // It is whole whenever the lock is free.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_no_work_leaves_room_for_what_did() {
        let happened = Happened::new(4);
        for _ in 0..9 {
            happened.push_idle(vec![Event::Unknown]);
        }
        assert_eq!(happened.dropped(), 7);
        happened.push(vec![Event::Unknown; 2]);
        happened.push(vec![Event::Unknown]);
        assert_eq!(happened.dropped(), 8);
        assert_eq!(happened.take(3).len(), 4, "a bundle stays together");
        assert!(happened.take(usize::MAX).is_empty());
    }
}
