//! Limits that are changed while a listener runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::admission::{Addresses, Slots};
use super::{Error, Limits};

/// Changes the limits of a [`Listener`](super::Listener); cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) slots: Arc<Slots>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) per_second: watch::Sender<Option<u32>>,
}

impl Control {
    /// The limits that hold now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.slots.limit(),
            connections_per_address: self.addresses.limit.load(Ordering::Relaxed),
            new_connections_per_second: *self.per_second.borrow(),
        }
    }

    /// Has these limits hold for new connections. Those that are there stay, also where they are too many; one that the
    /// listener waits for at that moment may still come.
    ///
    /// # Errors
    /// As [`Limits::validate`]; nothing has changed then.
    pub fn set_limits(&self, limits: &Limits) -> Result<(), Error> {
        limits.validate()?;
        self.slots.set_limit(limits.connections);
        self.addresses
            .limit
            .store(limits.connections_per_address, Ordering::Relaxed);
        let wanted = limits.new_connections_per_second;
        self.per_second.send_if_modified(|per_second| {
            let changed = *per_second != wanted;
            *per_second = wanted;
            changed
        });
        Ok(())
    }
}
