//! The SV2 side: connections to pools, and what comes from them on its way to the miners.
//!
//! Each connection has one task that reads and one that seals and writes. Nothing here waits for a miner: what a miner
//! has not taken yet is replaced by what is newer, or counted.

mod connection;
mod mailbox;
mod router;
mod supervisor;

pub(crate) use mailbox::{Letters, Mailbox};
pub use supervisor::Upstream;
pub(crate) use supervisor::{Plan, SlotState, supervise};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;

use crate::session::Request;

/// What a miner's task needs of a living upstream connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Tells one connection from the next.
    pub(crate) id: u64,
    /// Requests in order. When it is full, the miner is not read.
    pub(crate) queue: mpsc::Sender<Outgoing>,
    registry: Arc<Registry>,
}

/// A request; the number names the answer to a [`Request::Open`] and means nothing for others.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request_id: u32,
    pub(crate) request: Request,
}

impl Link {
    /// A place for the answer to a request that is about to be sent.
    pub(crate) fn register(&self, mailbox: &Arc<Mailbox>) -> u32 {
        self.registry.register(mailbox)
    }
}

/// Channels that are being opened. Locked when one is opened and when the answer comes, never for a share.
#[derive(Debug, Default)]
struct Registry(Mutex<Openings>);

#[derive(Debug, Default)]
struct Openings {
    last_request_id: u32,
    waiting: HashMap<u32, Weak<Mailbox>>,
}

impl Registry {
    fn register(&self, mailbox: &Arc<Mailbox>) -> u32 {
        let mut openings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        openings.last_request_id = openings.last_request_id.wrapping_add(1);
        let id = openings.last_request_id;
        openings.waiting.insert(id, Arc::downgrade(mailbox));
        id
    }

    /// Who asked, if it is still there.
    fn answer(&self, request_id: u32) -> Option<Arc<Mailbox>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .remove(&request_id)?
            .upgrade()
    }
}
